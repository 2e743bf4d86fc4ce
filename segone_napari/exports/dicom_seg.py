"""DICOM Segmentation: masks, or probabilities, tied to the series that they were made on.

highdicom writes and reads the objects; what is ours is where the voxels go, the codes, and that
no more of the patient gets in than the standard requires. Array axes become DICOM's here: a frame
is a slice, and it is stored as rows and columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes

from segone_napari import __version__
from segone_napari.exports.content import (
    BY_HAND,
    NOT_FOR_DIAGNOSIS,
    Colour,
    Content,
    Segment,
    known_colour,
)
from segone_napari.exports.dicom_series import IDENTITY, grid_of, placement, read_series
from segone_napari.exports.terminology import Code, as_label, coding_of
from segone_napari.runtime import BadInput, silenced
from segone_napari.volume import Affine, Grid, Volume

ENDING = ".dcm"

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SERIES_NUMBER = 900
_UNKNOWN = "not recorded"
# By these of `Segment.edited_with` a person alone says where the structure is.
_WITHOUT_ALGORITHM = {"brush", "confirmed"}
# DICOM counts slice, row, column where a volume's array counts column, row, slice.
_ORDER = np.eye(4)[[2, 1, 0, 3]]
_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


def write_masks(content: Content, path: Path) -> None:
    """Write the masks as a binary DICOM Segmentation.

    Raises
    ------
    BadInput
        If the image's files are no DICOM series, or the masks are sheared.
    """
    segments = content.segments
    _write(content, path, [s.inside.astype(np.uint8) for s in segments], segments, "BINARY")


def write_probabilities(content: Content, path: Path) -> None:
    """Write the probabilities as a fractional DICOM Segmentation, in steps of 1/255.

    Raises
    ------
    BadInput
        As `write_masks`, and if no segment has a probability.
    """
    segments = [s for s in content.segments if s.probability is not None]
    values = [
        np.asarray(s.probability.data, dtype=np.float32).clip(0.0, 1.0)
        for s in segments
        if s.probability is not None
    ]
    if not segments:
        raise BadInput(
            "these masks have no probabilities; write them by 'segone segment --probabilities', "
            "or export the masks as dicom-seg"
        )
    _write(content, path, values, segments, "FRACTIONAL")


def _write(
    content: Content,
    path: Path,
    values: Sequence[NDArray[np.generic]],
    segments: Sequence[Segment],
    kind: str,
) -> None:
    headers = read_series(content.image_files, content.grid)
    if content.deidentify:
        for header in headers:
            _blank_identity(header)
    volume = _place(_stacked(values), content.grid, headers)
    with _quiet(), _told_of_headers():
        made = hd.seg.Segmentation(
            source_images=headers,
            pixel_array=volume,
            segmentation_type=kind,
            segment_descriptions=_descriptions(content, segments),
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="segone-napari",
            manufacturer_model_name="SegOne",
            software_versions=__version__,
            device_serial_number=_UNKNOWN,
            series_description="SegOne: research only, not for diagnosis",
            content_label="SEGONE",
            content_description=NOT_FOR_DIAGNOSIS,
            specific_character_set="ISO_IR 192",  # names of structures may have any letters
        )
    if content.deidentify:
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = "Patient and study attributes emptied; UIDs kept"
    made.save_as(path, enforce_file_format=True)


@contextmanager
def _told_of_headers() -> Iterator[None]:
    """Say it in words where the series' headers lack what is taken over from them."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(
            "the headers of the series lack what a DICOM segmentation takes over from them "
            f"({_first_line(error)}); export as .seg.nrrd or .nii.gz instead"
        ) from error


def _stacked(values: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Put masks that don't overlap into one array (i, j, k) of labels, others into (i, j, k, n)."""
    if values[0].dtype != np.uint8 or len(values) > 255:
        return np.stack(values, axis=-1)
    labels = np.zeros_like(values[0])
    for label, mask in enumerate(values, start=1):
        inside = mask != 0
        if labels[inside].any():
            return np.stack(values, axis=-1)
        labels[inside] = label
    return labels


def _place(values: NDArray[np.generic], grid: Grid, headers: Sequence[Dataset]) -> hd.Volume:
    """Bring (i, j, k, ...) to (slice, row, column, ...), on the series' own pixels if it can.

    Masks that were resampled or turned by other than right angles keep their own grid, in the
    same frame of reference.
    """
    series = grid_of(headers)
    turn = None if series is None else placement(grid, series)
    if series is not None and turn is not None:
        values, affine = _turned(values, turn, series)
    else:
        affine = grid.affine
    try:
        return hd.Volume(
            np.transpose(values, (2, 1, 0, *range(3, values.ndim))),
            affine=_LPS @ affine @ _ORDER,
            coordinate_system="PATIENT",
            frame_of_reference_uid=headers[0].FrameOfReferenceUID,
            channels=(
                {"SegmentNumber": list(range(1, values.shape[3] + 1))} if values.ndim > 3 else None
            ),
        )
    except ValueError as error:
        raise BadInput(
            "the masks' axes are not at right angles (a tilted gantry), which is not written as "
            "DICOM; export them as .seg.nrrd"
        ) from error


def _turned(
    values: NDArray[np.generic], turn: Affine, series: Grid
) -> tuple[NDArray[np.generic], Affine]:
    """Turn the array so that its axes run as the series' columns, rows and slices do."""
    axes = [int(np.flatnonzero(row)[0]) for row in turn[:3, :3]]
    turned = np.transpose(values, (*axes, *range(3, values.ndim)))
    matrix = turn.copy()
    for axis in range(3):
        if turn[axis, axes[axis]] < 0:
            turned = np.flip(turned, axis)
            matrix[axis, 3] -= turned.shape[axis] - 1
    shift = np.eye(4)
    shift[:3, 3] = matrix[:3, 3]
    return turned, series.affine @ shift


def _descriptions(content: Content, segments: Sequence[Segment]) -> list[hd.seg.SegmentDescription]:
    return [_description(content, segment, n) for n, segment in enumerate(segments, start=1)]


def _description(content: Content, segment: Segment, number: int) -> hd.seg.SegmentDescription:
    coding = coding_of(segment.name)
    system = segment.system or content.system
    kind = _kind(system, segment)
    tools = ", ".join(segment.edited_with) if system == BY_HAND else ""
    algorithm = hd.AlgorithmIdentificationSequence(
        name=tools or system or _UNKNOWN,
        family=codes.DCM.ArtificialIntelligence,
        version=f"{__version__} {segment.checkpoint or content.checkpoint}".strip()[:64],
        source="segone-napari",
    )
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=as_label(segment.name),
        segmented_property_category=_concept(coding.category),
        segmented_property_type=_concept(coding.type),
        algorithm_type=kind,
        algorithm_identification=None if kind == "MANUAL" else algorithm,
        tracking_uid=hd.UID(),
        tracking_id=f"{number} {segment.name}"[:64],
        anatomic_regions=None if coding.region is None else [_concept(coding.region)],
        display_color=_to_lab(segment.colour),
    )
    description.SegmentDescription = NOT_FOR_DIAGNOSIS
    if coding.side is not None:
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = [_concept(coding.side)]
    return description


def _kind(system: str, segment: Segment) -> str:
    """How a segment came about, as DICOM calls it."""
    is_by_hand = system == BY_HAND and segment.is_edited is not None
    if is_by_hand and set(segment.edited_with) <= _WITHOUT_ALGORITHM:
        return "MANUAL"
    return "AUTOMATIC" if system and segment.is_edited is False else "SEMIAUTOMATIC"


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _blank_identity(header: Dataset) -> None:
    for keyword in IDENTITY:
        setattr(header, keyword, "")


def _to_lab(colour: Colour) -> CIELabColor:
    return CIELabColor.from_rgb(*colour)


# --- reading ------------------------------------------------------------------------------------


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM Segmentation."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError):
        return False
    return str(header.get("SOPClassUID", "")) in _SOP_CLASSES


def read(path: Path) -> list[Segment]:
    """Read each segment of a DICOM Segmentation as a mask, axes (column, row, slice).

    Slices without a voxel of any segment at either end may not be stored; the masks' grid then
    has fewer slices than the series. A fractional segment is taken where it is above one half,
    and its values come along as the probability.

    Raises
    ------
    BadInput
        If the file is no DICOM Segmentation, or its frames are not the slices of one volume.
    """
    if not is_segmentation(path):
        raise BadInput(f"{path} is not a DICOM segmentation; name a SEG object or a label map")
    try:
        with _quiet():
            stored = hd.seg.segread(path)
            volume = stored.get_volume(combine_segments=False, rescale_fractional=True)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"{path} can't be read as masks on one grid of slices ({_first_line(error)}); "
            "export it as NIfTI where it was made"
        ) from error
    affine = _LPS @ volume.affine @ _ORDER
    return [
        _segment(stored, number, np.transpose(volume.array[..., n], (2, 1, 0)), affine)
        for n, number in enumerate(stored.segment_numbers)
    ]


def _segment(
    stored: hd.seg.Segmentation, number: int, values: NDArray[np.generic], affine: Affine
) -> Segment:
    description = stored.get_segment_description(number)
    name = str(description.segment_label)
    lab = description.get("RecommendedDisplayCIELabValue")
    colour = known_colour(name, number - 1)
    if lab is not None:
        red, green, blue = CIELabColor.from_dicom_value([int(v) for v in lab]).to_rgb()
        colour = (round(red), round(green), round(blue))
    is_fractional = stored.SegmentationType == "FRACTIONAL"
    mask = Volume.from_affine((np.asarray(values) > 0.5).astype(np.uint8), affine, name)
    probability = mask.with_data(np.asarray(values, dtype=np.float32)) if is_fractional else None
    return Segment(name, colour, mask, probability=probability)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence highdicom's remarks on the source's headers: nobody here can mend those."""
    with silenced("highdicom"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
