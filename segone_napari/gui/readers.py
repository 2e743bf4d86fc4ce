"""What the manifest names: napari's reader, writer and sample data. Knows nothing of Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LayerTuple = tuple[Any, dict[str, Any], str]

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")


def get_reader(path: str | Sequence[str]) -> Callable[..., list[LayerTuple]] | None:
    """A function that reads these files as layers, or None if they are of another kind."""
    paths = [path] if isinstance(path, str) else path
    if not all(str(one).lower().endswith(SUFFIXES) for one in paths):
        return None
    return read_layers


def read_layers(path: str | Sequence[str]) -> list[LayerTuple]:
    """Read each file as an Image layer that knows how it lies in the patient.

    Raises
    ------
    BadInput
        As `segone_napari.data.formats.read`; napari shows the words as a notification.
    """
    paths = [path] if isinstance(path, str) else path
    return [_layer(Path(one)) for one in paths]


def write_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an Image or Labels layer on its volume's own grid, with its affine and codes.

    Raises
    ------
    BadInput
        If the layer doesn't say how it lies in the patient, or the file can't be written.
    """
    from segone_napari.data import formats
    from segone_napari.gui.layers import volume_from_attributes

    # napari's own dialog has asked before it overwrites a file.
    return [str(formats.write(volume_from_attributes(data, attributes), path, force=True))]


def open_t1() -> list[LayerTuple]:
    """The bundled T1."""
    return _sample("t1")


def open_flair() -> list[LayerTuple]:
    """The bundled thick-slice FLAIR."""
    return _sample("flair")


def _sample(key: str) -> list[LayerTuple]:
    from segone_napari.data.samples import SAMPLES

    return [_layer(SAMPLES[key].image_path)]


def _layer(path: Path) -> LayerTuple:
    from segone_napari.data import formats
    from segone_napari.gui.layers import image_layer_data

    return image_layer_data(formats.read(path), str(path))
