"""Segmentations of any kind come in again, as named masks to go on correcting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segone_napari.data import formats
from segone_napari.exports import label_map
from segone_napari.exports.content import Segment
from segone_napari.exports.dicom_series import placement
from segone_napari.runtime import BadInput
from segone_napari.volume import Grid, Volume

NRRD_ENDINGS = (".nrrd", ".nhdr")


def read_segments(
    path: str | Path, *, grid: Grid | None = None, table: Path | None = None
) -> list[Segment]:
    """Read a label map, a mask, a folder of masks, a ``.seg.nrrd`` file or a DICOM Segmentation.

    Parameters
    ----------
    grid : where the masks are wanted, such as the grid of the image that they belong to. Without
        it they lie on the grid of their own file.
    table : names and colours of a label map, where they are not in ``OUT.tsv`` beside it.

    Returns
    -------
    One `Segment` a structure: its `name`, its `colour`, and its `mask` (uint8, 0 and 1).

    Raises
    ------
    BadInput
        If the file can't be read, is of another kind, or its voxels are not those of `grid`.
    """
    path = Path(path).expanduser()
    segments = _read(path, table)
    return segments if grid is None else [place(segment, grid) for segment in segments]


def is_segmentation(path: Path) -> bool:
    """Whether a file or folder says that it is a segmentation, and not an image.

    A label map says so by the table beside it or by its name (``..._dseg.nii.gz``, ``aseg.mgz``), a
    folder of masks by its table, the other kinds by what is inside.
    """
    name = path.name.lower()
    if path.is_dir():
        return (path / label_map.MASKS_TABLE).is_file()
    if name.endswith(NRRD_ENDINGS):
        from segone_napari.exports import seg_nrrd

        return name.endswith(seg_nrrd.ENDING) or seg_nrrd.is_segmentation(path)
    if name.endswith(formats.READABLE):
        return label_map.is_label_map(path)
    from segone_napari.exports import dicom_seg

    return dicom_seg.is_segmentation(path)


def place(segment: Segment, grid: Grid) -> Segment:
    """Move a segment to another grid that has the same voxels: no interpolation, nothing lost.

    Raises
    ------
    BadInput
        If the voxels don't coincide, or a part of the segment lies outside of the grid.
    """
    if segment.grid.is_same_as(grid):
        return segment
    turn = placement(segment.grid, grid)
    if turn is None:
        raise BadInput(
            f"the mask of {segment.name} lies on another grid of voxels than the image; "
            "open the image that it was made on"
        )
    mask = Volume(_moved(segment.mask.data, turn, grid), grid, segment.name)
    if np.count_nonzero(mask.data) != np.count_nonzero(segment.mask.data):
        raise BadInput(
            f"a part of {segment.name} lies outside of the image; "
            "open the image that it was made on"
        )
    probability = segment.probability and Volume(
        _moved(segment.probability.data, turn, grid), grid, segment.name
    )
    return replace(segment, mask=mask, probability=probability)


def _read(path: Path, table: Path | None) -> list[Segment]:
    name = path.name.lower()
    if path.is_dir():
        return label_map.read_masks(path)
    if not path.exists():
        raise BadInput(f"no such file or folder: {path}; check the path")
    if name.endswith(NRRD_ENDINGS):
        from segone_napari.exports import seg_nrrd

        if name.endswith(seg_nrrd.ENDING) or seg_nrrd.is_segmentation(path):
            return seg_nrrd.read(path)
    if name.endswith(formats.READABLE):
        return label_map.read_label_map(path, table=table)
    from segone_napari.exports import dicom_seg

    if dicom_seg.is_segmentation(path):
        return dicom_seg.read(path)
    raise BadInput(
        f"{path} is not a segmentation that can be read; use a label map or masks "
        f"({', '.join(formats.READABLE)}), a .seg.nrrd file or a DICOM segmentation"
    )


def _moved(data: NDArray[np.generic], turn: NDArray[np.float64], grid: Grid) -> NDArray[np.generic]:
    """Copy the voxels that are not zero to where `turn`, (4, 4), puts them in `grid`."""
    moved = np.zeros(grid.shape, dtype=data.dtype)
    where = np.argwhere(data)
    there = np.rint(where @ turn[:3, :3].T + turn[:3, 3]).astype(np.int64)
    is_inside = ((there >= 0) & (there < np.array(grid.shape))).all(axis=1)
    moved[tuple(there[is_inside].T)] = data[tuple(where[is_inside].T)]
    return moved


def pick(segments: Sequence[Segment], wanted: Sequence[str]) -> list[Segment]:
    """Pick all segments with these names, in the order in which they are wanted.

    Raises
    ------
    BadInput
        If there is no segment of that name.
    """
    picked: list[Segment] = []
    for name in wanted:
        named = [segment for segment in segments if segment.name.lower() == name.lower()]
        if not named:
            known = ", ".join(segment.name for segment in segments)
            raise BadInput(f"there is no structure {name!r} among the masks; there are {known}")
        picked += named
    return picked
