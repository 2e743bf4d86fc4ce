"""What napari's *Save Selected Layers…* calls for Labels layers: every format that goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from segone_napari.exports.content import Colour, Content, Segment

LayerData = tuple[Any, dict[str, Any], str]


def write_layers(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write Labels layers, and what is measured in the Image layer among them, in one file.

    The ending of `path` says the format.

    Raises
    ------
    BadInput
        If a layer doesn't say how it lies in the patient, the layers lie on different grids, or
        the file can't be written; napari shows the words as a notification.
    """
    from segone_napari.exports import registry

    # napari's own dialog has asked before it overwrites a file, and "Save" means this file alone.
    files = registry.write(content_of(layers), path, force=True, record=False)
    return [str(file) for file in files]


def content_of(layers: Sequence[LayerData]) -> Content:
    """Take the masks out of Labels layers, and the intensities out of the Image layer with them.

    Raises
    ------
    BadInput
        As `write_layers`.
    """
    from segone_napari.exports.content import Content
    from segone_napari.gui.layers import volume_from_attributes

    segments: list[Segment] = []
    image = None
    paths: dict[Path, None] = {}
    for data, attributes, kind in layers:
        if kind == "labels":
            segments += _segments(np.asarray(data), attributes)
        else:
            image = volume_from_attributes(data, attributes)
        paths |= dict.fromkeys(_files_of_image(attributes.get("metadata", {})))
    return Content(tuple(segments), image=image, image_files=tuple(paths))


def _files_of_image(metadata: Mapping[str, Any]) -> tuple[Path, ...]:
    """Name the files of the image that a layer is, or was made on."""
    from segone_napari.exports.dicom_series import files_of

    if not metadata.get("path"):
        return ()
    return files_of(Path(metadata["path"]), metadata.get("series"), metadata.get("volume_index"))


def _segments(data: np.ndarray[Any, Any], attributes: Mapping[str, Any]) -> list[Segment]:
    """Take our own answer as one structure, and each label of another layer as one."""
    from segone_napari.exports.content import Segment
    from segone_napari.gui.layers import volume_from_attributes

    labels = volume_from_attributes(data, attributes)
    answer = attributes.get("metadata", {}).get("segone_name")
    values = [int(value) for value in np.unique(labels.data) if value > 0]
    if answer or len(values) < 2:
        mask = labels.with_data((labels.data > 0).astype(np.uint8))
        name = str(answer or labels.name)
        return [Segment(name, _colour(attributes, values[0] if values else 1, name), mask)]
    return [
        Segment(
            f"{labels.name} {value}",
            _colour(attributes, value, labels.name),
            labels.with_data((labels.data == value).astype(np.uint8)),
        )
        for value in values
    ]


def _colour(attributes: Mapping[str, Any], value: int, name: str) -> Colour:
    """Give the colour in which the layer shows a label."""
    from segone_napari.exports.content import known_colour

    colormap = attributes.get("colormap")
    if colormap is None:
        return known_colour(name, value - 1)
    red, green, blue = (round(255 * float(part)) for part in np.ravel(colormap.map(value))[:3])
    return red, green, blue
