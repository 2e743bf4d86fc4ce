"""What the manifest names: napari's reader, writer and sample data.

Nothing is loaded until a file is really to be read: asking for a reader costs a look at its name,
or at the first bytes of a file that has none of our endings. Knows nothing of Qt but whether there
is a window to ask a person in.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segone_napari.data.dicom.study import Study
    from segone_napari.volume import Volume

LayerTuple = tuple[Any, dict[str, Any], str]

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh", ".hdr", ".img", ".nrrd", ".nhdr")

# What napari takes for "read, and there is nothing to show": a person cancelled.
_NOTHING: list[Any] = [(None,)]
# The table by which a folder says that it holds masks (`segone_napari.exports.label_map`).
_MASKS_TABLE = "masks.tsv"
# How long after the last of several files that were dropped together the next one comes.
_SAME_DROP_S = 3.0
# How long a notification waits before it looks for the window again.
_MOMENT_MS = 200
# Series that were opened: (folder, UID) to the file that was named, and when. See `_is_repeated`.
_opened: dict[tuple[str, str], tuple[Path, float]] = {}
# How many files of a folder are looked at to find out whether it holds DICOM.
_FILES_TRIED = 1000


def get_reader(path: str | Sequence[str]) -> Callable[..., list[LayerTuple]] | None:
    """A function that reads these files as layers, or None if they are of another kind.

    In a window napari asks only the reader that a person chose, or the only one there is. To refuse
    would be an error without words, so the reader says itself what is wrong with the files.
    """
    paths = [path] if isinstance(path, str) else path
    is_taken = all(_is_ours(Path(one)) for one in paths) or _window() is not None
    return read_layers if is_taken else None


def read_layers(path: str | Sequence[str]) -> list[LayerTuple]:
    """Read each file or folder as an Image layer that knows how it lies in the patient.

    Segmentations (``.seg.nrrd``, DICOM-SEG, label maps with their table, masks) become one Labels
    layer a structure, over the image on screen that they belong to. Where there is a choice of
    series or volumes, or a file doesn't say how it lies, a dialog asks. Of the slices of a series
    that come together the first stands for all.

    Raises
    ------
    BadInput
        As `segone_napari.data.formats.read`; napari shows the words as a notification. (While the
        command `napari` starts an error would end it: then it is shown as soon as there is a
        window.)
    """
    from napari.utils.notifications import show_error

    from segone_napari.runtime import SegOneError

    paths = [path] if isinstance(path, str) else path
    try:
        groups = [_layers(Path(one)) for one in paths if not _is_repeated(Path(one))]
    except SegOneError as error:
        window = _window()
        if window is None or window.isVisible():
            raise
        _tell(show_error, str(error))
        return _NOTHING
    return [layer for layers in groups for layer in layers] or _NOTHING


@dataclass(frozen=True, eq=False)
class Opened:
    """An image, and which of several it is.

    Attributes
    ----------
    image : the volume.
    series, volume_index : what was chosen, to open the same again; None where there was no choice.
    """

    image: Volume
    series: str | None = None
    volume_index: int | None = None

    def layer_data(self, path: Path) -> LayerTuple:
        """What napari makes an Image layer of."""
        from segone_napari.gui.layers import image_layer_data

        data, arguments, kind = image_layer_data(self.image, str(path))
        arguments["metadata"] |= {"series": self.series, "volume_index": self.volume_index}
        return data, arguments, kind


def open_image(
    path: Path, *, series: int | str | None = None, volume: int | None = None
) -> Opened | None:
    """Read an image, asking a person for what isn't said, if there is a window to ask in.

    Returns
    -------
    The image, or None if the person cancelled.

    Raises
    ------
    BadInput
        As `segone_napari.data.formats.read`.
    """
    from segone_napari.data import formats

    if formats.is_dicom(path):
        return _open_dicom(path, series, volume)
    if series is not None or _window() is None:
        return Opened(formats.read(path, series=series, volume=volume), None, volume)
    return _open_file(path, volume)


def _is_ours(path: Path) -> bool:
    if path.is_dir():
        return (path / _MASKS_TABLE).is_file() or _holds_dicom(path)
    if path.name.lower().endswith(SUFFIXES):
        return True
    from segone_napari.data.dicom.signature import is_dicom

    return is_dicom(path)


def _holds_dicom(folder: Path) -> bool:
    from segone_napari.data.dicom.signature import is_dicom

    has_directory = any((folder / name).is_file() for name in ("DICOMDIR", "dicomdir"))
    return has_directory or any(is_dicom(file) for file in islice(_files(folder), _FILES_TRIED))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _is_repeated(path: Path) -> bool:
    """Whether a DICOM file belongs to a series that was opened, or cancelled, a moment ago.

    napari hands files that are dropped together over one by one, and each stands for its series.
    The very same file again is a person who wants it again.
    """
    if path.is_dir() or path.name.lower().endswith(SUFFIXES):
        return False
    from segone_napari.data.dicom.headers import read_header

    header = read_header(path)
    if header is None or header.problem or not header.series_uid:
        return False
    key, now = (str(path.parent), header.series_uid), time.monotonic()
    first, at = _opened.get(key, (path, now))
    is_repeated = first != path and now - at < _SAME_DROP_S
    _opened[key] = (first if is_repeated else path, now)
    return is_repeated


def _open_dicom(path: Path, which: int | str | None, volume: int | None) -> Opened | None:
    from napari.utils import progress

    from segone_napari.data.dicom.study import open_study, read_series

    with progress(total=0, desc=f"listing {path.name}") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        study = open_study(path, progress=show)
    window = _window()
    if which is not None or window is None or not _is_open(study, volume):
        series = study.choose(which)
        return Opened(read_series(study, series, volume), series.key, volume)
    from segone_napari.gui.chooser import choose

    choice = choose(window, path.name, study=study)
    if choice is None or choice.series is None:
        return None
    index = choice.volume if volume is None else volume
    return Opened(read_series(study, choice.series, index), choice.series.key, index)


def _is_open(study: Study, volume: int | None) -> bool:
    """Whether there is anything to choose."""
    if len(study.series) == 1:
        return volume is None and study.series[0].volumes > 1
    return len(study.series) > 1


def _open_file(path: Path, volume: int | None) -> Opened | None:
    """Read a file of another kind, and ask for the volume and for the orientation."""
    from segone_napari.data import formats
    from segone_napari.data.choices import ManyVolumes
    from segone_napari.gui.chooser import choose

    count = 1
    try:
        image = formats.read(path, volume=volume)
    except ManyVolumes as many:
        if volume is not None:
            raise
        count = many.count
        image = formats.read(path, volume=0)
    orientation = "" if formats.says_orientation(image) else image.grid.orientation
    if count == 1 and not orientation:
        return Opened(image, None, volume)
    choice = choose(_window(), path.name, volumes=count, orientation=orientation)
    if choice is None:
        return None
    if choice.volume:
        image = formats.read(path, volume=choice.volume)
    if choice.directions:
        image = formats.oriented(image, choice.directions)
    return Opened(image, None, choice.volume if count > 1 else volume)


def _window() -> Any:
    """The window of the viewer at hand, None where nobody could answer in it.

    It isn't shown yet while the command `napari` opens the files that it was given.
    """
    if "napari" not in sys.modules:
        return None
    import napari

    viewer = napari.current_viewer()
    window = getattr(getattr(viewer, "window", None), "_qt_window", None)
    is_there = window is not None and (window.isVisible() or _is_napari_command())
    return window if is_there else None


def _is_napari_command() -> bool:
    """Whether a person started the program `napari`, rather than a script that hides its viewer."""
    started_as = getattr(sys.modules.get("__main__"), "__spec__", None)  # `python -m napari`
    return "napari.__main__" in (getattr(started_as, "name", ""), *sys.modules)


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


def _layers(path: Path) -> list[LayerTuple]:
    from segone_napari.exports.label_map import is_mask
    from segone_napari.exports.reading import is_segmentation

    if is_segmentation(path):
        return _segments(path)
    if (words := _why_no_image(path)) and _window() is not None:
        # An error would keep napari from opening the files that were dropped with this one.
        _warn(f"a file is no image but a {words}, and was not opened")  # names may hold a person's
        return []
    opened = open_image(path)
    _remember_time(path)
    if opened is None:
        return []
    if not path.is_dir() and path.name.lower().endswith(SUFFIXES) and is_mask(opened.image.data):
        return _segments(path)
    if opened.image.warnings:
        _warn("\n".join(opened.image.warnings))
    return [opened.layer_data(path)]


def _segments(path: Path) -> list[LayerTuple]:
    """Read masks as Labels layers over the image on screen that they fit, with their record."""
    import napari
    from napari.layers import Image

    from segone_napari.exports import provenance
    from segone_napari.exports.content import Content
    from segone_napari.exports.reading import read_segments
    from segone_napari.gui import incoming

    segments = tuple(read_segments(path))
    record = provenance.beside(path)
    if record.is_file():
        segments = provenance.remembered(Content(segments), record).segments
    viewer = napari.current_viewer()
    shown = list(reversed(viewer.layers)) if viewer is not None else []
    images = [layer for layer in shown if isinstance(layer, Image)]
    if viewer is not None and (active := viewer.layers.selection.active) is not None:
        # of several that it fits, the image that is worked on
        at_work = active.unique_id, active.metadata.get("segone_image")
        images.sort(key=lambda image: image.unique_id not in at_work)
    return [incoming.layer_data(segment, path, images) for segment in segments]


def _why_no_image(path: Path) -> str:
    """What a DICOM file is that has no image in it; empty for an image, or another kind of file."""
    if path.is_dir() or path.name.lower().endswith(SUFFIXES):
        return ""
    from segone_napari.data.dicom.headers import read_header

    header = read_header(path)
    is_image = header is None or header.problem in ("", "directory", "damaged file")
    return "" if header is None or is_image else header.problem


def _remember_time(path: Path) -> None:
    """Reading may have taken long, and a person may have thought about the choice."""
    for key, (first, _) in tuple(_opened.items()):
        if first == path:
            _opened[key] = (first, time.monotonic())


def _warn(words: str) -> None:
    from napari.utils.notifications import show_warning

    _tell(show_warning, words)


def _tell(show: Callable[[str], None], words: str) -> None:
    """Show a notification, as soon as there is a window to show it in: napari drops it before."""
    window = _window()
    if window is None or window.isVisible():
        show(words)
        return
    from qtpy.QtCore import QTimer

    QTimer.singleShot(_MOMENT_MS, lambda: _tell(show, words))


def _layer(path: Path) -> LayerTuple:
    from segone_napari.data import formats
    from segone_napari.gui.layers import image_layer_data

    return image_layer_data(formats.read(path), str(path))
