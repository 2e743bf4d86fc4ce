"""The headers of the DICOM series that masks belong to, cut down to what may be passed on.

Knows nothing of pixels: reading images is `segone_napari.data`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import DS

from segone_napari.data import formats
from segone_napari.runtime import BadInput
from segone_napari.volume import Affine, Grid

# What the standard requires of a derived object to say of the person and the study (type 1 and 2
# of the Patient and General Study modules): everything else stays behind.
IDENTITY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
_KEPT = (
    *IDENTITY,
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_KEPT_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# How far apart in mm two grids may place a voxel and still be the same: headers are rounded.
_SAME_MM = 0.05
# How much directions and spacings of slices that belong together may differ.
_SAME_DIRECTION = 1e-3


def files_of(
    path: Path, series: int | str | None = None, volume: int | None = None
) -> tuple[Path, ...]:
    """Name the files of the volume that was chosen in a DICOM folder; of anything else, itself.

    Of several series with none chosen, `read_series` finds the one that fits the masks.

    Raises
    ------
    BadInput
        As `segone_napari.data.dicom.study.open_study`, and if there is no such series or volume.
    """
    if not formats.is_dicom(path) or (series is None and volume is None):
        return (path,)
    from segone_napari.data.choices import choose_volume
    from segone_napari.data.dicom.study import open_study

    chosen = open_study(path).choose(series)
    index = 0 if volume is None else choose_volume(chosen.name, chosen.volumes, volume)
    return tuple(dict.fromkeys(chosen.files(index)))


def read_series(paths: Iterable[Path], grid: Grid | None = None) -> list[Dataset]:
    """Read the headers of one series, ordered by position along its slices.

    Parameters
    ----------
    paths : files, or folders that are searched with all of theirs. One file of a single slice
        stands for its series in the same folder.
    grid : of several series, or parts of one that lie otherwise, the one that has these voxels is
        taken.

    Raises
    ------
    BadInput
        If there is no series of slices, or several and none or more than one fits the grid.
    """
    paths, uid = [Path(path) for path in paths], ""
    if len(paths) == 1 and paths[0].is_file():
        one = _read_header(paths[0])
        if one is not None and not _is_multi_frame(one):
            paths, uid = [paths[0].parent], str(one.SeriesInstanceUID)
    by_instance: dict[str, Dataset] = {}  # a file that was copied twice counts once
    for file in _files(paths):
        header = _read_header(file)
        if header is not None and uid in ("", header.SeriesInstanceUID):
            by_instance.setdefault(str(header.SOPInstanceUID), header)
    series: list[list[Dataset]] = []
    for header in by_instance.values():
        same = next((headers for headers in series if _is_one_of(header, headers)), None)
        if same is None:
            series.append([header])
        else:
            same.append(header)
    named = ", ".join(str(path) for path in paths[:1]) or "nothing"
    if not series:
        raise BadInput(
            f"{named} holds no DICOM images with a position in the patient; "
            "name the folder of the series that the masks were made on"
        )
    # Slices that lie alone are localizers and pictures, not what masks were made on.
    stacks = [headers for headers in series if len(headers) > 1 or _is_multi_frame(headers[0])]
    found = [_in_order(headers) for headers in stacks or series]
    if len(found) > 1:
        found = [headers for headers in found if grid is not None and _fits(headers, grid)]
    if len(found) != 1:
        which = "none" if not found else "more than one"
        raise BadInput(
            f"{named} holds {len(series)} series, and {which} of them has the masks' voxels; "
            "name the folder of the right one alone, or say which with --series or --volume"
        )
    _check_frame_of_reference(found[0], named)
    _fill_thickness(found[0])
    return found[0]


def grid_of(headers: Sequence[Dataset]) -> Grid | None:
    """Give where a series' pixels (column, row, slice) lie.

    None where slices are not regular, or an image is a mosaic of all slices of a volume.
    """
    if _is_mosaic(headers[0]):
        return None
    row, column, spacing, positions, shape = _geometry(headers)
    steps = np.diff(positions, axis=0)
    if len(steps) and not np.allclose(steps, steps.mean(axis=0), atol=_SAME_MM):
        return None
    step = steps.mean(axis=0) if len(steps) else np.cross(row, column) * _thickness(headers)
    lps = np.eye(4)
    lps[:3, 0] = row * spacing[1]
    lps[:3, 1] = column * spacing[0]
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    return Grid((shape[1], shape[0], len(positions)), _LPS @ lps)


def placement(mask: Grid, series: Grid) -> Affine | None:
    """Give how the mask's voxels are the series' pixels: a turn by right angles and a shift.

    Returns
    -------
    (4, 4) of whole numbers, mask voxel to (column, row, slice); None where voxels don't coincide.
    """
    exact = np.linalg.inv(series.affine) @ mask.affine
    whole = np.rint(exact)
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = corners * (np.array(mask.shape) - 1)
    apart = nib.affines.apply_affine(series.affine @ whole, corners) - nib.affines.apply_affine(
        mask.affine, corners
    )
    turns = np.abs(whole[:3, :3])
    is_turn = (turns.sum(axis=0) == 1).all() and (turns.sum(axis=1) == 1).all()
    return whole if is_turn and np.abs(apart).max() < _SAME_MM else None


def _is_mosaic(header: Dataset) -> bool:
    return "MOSAIC" in (header.get("ImageType") or ())


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise BadInput(f"no such file or folder: {path}; check the path")
    return files


def _read_header(file: Path) -> Dataset | None:
    """Read what may be passed on of one file; None if it is not an image with a position."""
    try:
        full = pydicom.dcmread(file, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError):
        return None
    is_named = "SeriesInstanceUID" in full and "SOPInstanceUID" in full
    if not is_named or full.get("Modality") == "SEG" or not _is_placed(full):
        return None
    header = Dataset()
    for keyword in _KEPT:
        if keyword in full:
            header[keyword] = full[keyword]
    for keyword in IDENTITY:  # an anonymised file may lack what the standard wants to be there
        if keyword not in header:
            setattr(header, keyword, "")
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if keyword in full:
            setattr(header, keyword, [_bare_group(group) for group in full[keyword].value])
    header.file_meta = full.file_meta
    return header


def _is_placed(header: Dataset) -> bool:
    """Whether a header says where all of its pixels lie; a picture of a report doesn't."""
    try:
        row, column, spacing, positions, _ = _geometry([header])
    except (AttributeError, IndexError, TypeError, ValueError):
        return False
    return bool(np.isfinite([*row, *column, *spacing, *positions.ravel()]).all())


def _is_multi_frame(header: Dataset) -> bool:
    return "PerFrameFunctionalGroupsSequence" in header


def _is_one_of(header: Dataset, others: Sequence[Dataset]) -> bool:
    """Whether a slice goes with these of its series: a localizer among them lies otherwise."""
    other = others[0]
    if header.SeriesInstanceUID != other.SeriesInstanceUID:
        return False
    if _is_multi_frame(header) or _is_multi_frame(other):
        return False
    row, column, spacing, _, shape = _geometry([header])
    other_row, other_column, other_spacing, _, other_shape = _geometry([other])
    return shape == other_shape and np.allclose(
        [*row, *column, *spacing],
        [*other_row, *other_column, *other_spacing],
        rtol=0,
        atol=_SAME_DIRECTION,
    )


def _bare_group(group: Dataset) -> Dataset:
    bare = Dataset()
    for keyword in _KEPT_GROUPS:
        if keyword in group:
            bare[keyword] = group[keyword]
    return bare


def _in_order(headers: list[Dataset]) -> list[Dataset]:
    if len(headers) == 1:
        return headers
    normal = np.cross(*_axes(headers[0]))
    return sorted(headers, key=lambda h: float(np.dot(normal, h.ImagePositionPatient)))


def _fits(headers: Sequence[Dataset], grid: Grid) -> bool:
    series = grid_of(headers)
    return series is not None and placement(grid, series) is not None


def _check_frame_of_reference(headers: Sequence[Dataset], named: str) -> None:
    if not headers[0].get("FrameOfReferenceUID"):
        raise BadInput(
            f"the series in {named} has no frame of reference, so nothing can be tied to it; "
            "export as .seg.nrrd or .nii.gz instead"
        )


def _fill_thickness(headers: Sequence[Dataset]) -> None:
    """Where slices don't say how thick they are, which they needn't, take their distance."""
    positions = _geometry(headers)[3]
    apart = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step = float(np.median(apart)) if len(apart) else _thickness(headers)
    for header in headers:
        for measures in _all_measures(header):
            if not measures.get("SliceThickness"):
                measures.SliceThickness = DS(step, auto_format=True)


def _geometry(
    headers: Sequence[Dataset],
) -> tuple[
    NDArray[np.float64], NDArray[np.float64], list[float], NDArray[np.float64], tuple[int, int]
]:
    """Row and column direction, spacing of rows and columns, positions in order, size."""
    first = headers[0]
    row, column = _axes(first)
    if "PerFrameFunctionalGroupsSequence" in first:
        positions = np.array(
            [
                group.PlanePositionSequence[0].ImagePositionPatient
                for group in first.PerFrameFunctionalGroupsSequence
            ],
            dtype=np.float64,
        )
    else:
        positions = np.array([h.ImagePositionPatient for h in headers], dtype=np.float64)
    # Several volumes, such as echoes, share positions: each position counts once.
    along = np.round(positions @ np.cross(row, column), 3)
    positions = positions[np.unique(along, return_index=True)[1]]
    spacing = [float(s) for s in _measures(first).PixelSpacing]
    return row, column, spacing, positions, (int(first.Rows), int(first.Columns))


def _axes(header: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    source = header
    for group in _groups(header):
        if "PlaneOrientationSequence" in group:
            source = group.PlaneOrientationSequence[0]
            break
    axes = np.asarray(source.ImageOrientationPatient, dtype=np.float64)
    return axes[:3], axes[3:]


def _measures(header: Dataset) -> Dataset:
    return _all_measures(header)[0]


def _all_measures(header: Dataset) -> list[Dataset]:
    """What says how large pixels are: of all frames, of each, or the header of a single slice."""
    groups = [group for group in _groups(header) if "PixelMeasuresSequence" in group]
    return [group.PixelMeasuresSequence[0] for group in groups] or [header]


def _groups(header: Dataset) -> list[Dataset]:
    shared = list(header.get("SharedFunctionalGroupsSequence", []))
    return shared + list(header.get("PerFrameFunctionalGroupsSequence", []))


def _thickness(headers: Sequence[Dataset]) -> float:
    measures = _measures(headers[0])
    return float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0)
