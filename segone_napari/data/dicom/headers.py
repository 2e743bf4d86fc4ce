"""What the header of a DICOM file says: which series it belongs to, and where each plane lies.

Reads headers only, and of those only what comes before the pixels: a study of thousands of files
is listed in seconds. The patient's name and number are compared and forgotten, never kept;
`read_patient` alone hands the number on, to be hashed.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from segone_napari.data.dicom.signature import starts_as_dicom

Numbers = tuple[float, ...]
Values = Mapping[str, Any]
"""Values of the header by their keywords; those that it doesn't have are not in it."""

# Nothing that sorts slices comes after this group, but vendors' private headers of 100 kB do.
_LAST_GROUP = 0x0028
# fmt: off
_WANTED = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "AcquisitionTime",
    "Modality", "SeriesDescription", "ComplexImageComponent", "PatientName", "PatientID",
    "ScanningSequence", "SliceThickness", "RepetitionTime", "EchoTime", "InversionTime",
    "EchoNumbers", "SpacingBetweenSlices", "ProtocolName", "TriggerTime", "DiffusionBValue",
    "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID",
    "TemporalPositionIdentifier", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "PixelRepresentation",
)
# What may stand in a description as it stands in its own place, and is not to be passed on.
_PERSONAL = ("PatientID", "PatientBirthDate", "AccessionNumber", "InstitutionName")
# fmt: on
_PATIENT = ("PatientID", "IssuerOfPatientID")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MOSAIC_COUNT = Tag(0x0019, 0x100A)

# What a file is that has no image to outline, by a word in the name of its kind.
_KINDS = (
    ("Encapsulated", "document"),
    (" SR", "report"),
    ("Waveform", "waveform"),
    ("Segmentation", "segmentation"),
    ("RT ", "radiotherapy object"),
    ("Presentation State", "presentation state"),
    ("Key Object", "report"),
    ("Spectroscopy", "spectrum"),
    ("Raw Data", "raw data file"),
)
_UNREADABLE = (
    AttributeError,
    EOFError,
    IndexError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Plane:
    """One slice of one volume: which frame of which file, and where it lies.

    Attributes
    ----------
    path, frame : where its pixels are; the frame (of a mosaic: the tile) is counted from 0.
    instance : the scanner's own number of it.
    size : (rows, columns).
    position : (3,) LPS mm, the centre of the first pixel.
    orientation : (6,) directions along a row (as columns grow) and along a column.
    pixel_spacing : mm (between rows, between columns).
    echo : number and time in ms of the echo.
    component : what was kept of the complex signal ("M", "P" ...), as the image type says.
    times : what may tell apart several images at one place, the likeliest first.
    is_tile : whether it is part of a mosaic, of which each file is one volume.
    """

    path: Path = field(repr=False)  # scanners write patients' names into file names
    frame: int
    instance: int
    size: tuple[int, int]
    position: Numbers
    orientation: Numbers
    pixel_spacing: Numbers
    echo: tuple[int, float] = (0, 0.0)
    component: str = ""
    times: tuple[float | None, ...] = ()
    is_tile: bool = False


@dataclass(frozen=True)
class Header:
    """What a file says of itself and of its series.

    Attributes
    ----------
    path : the file.
    patient : a fingerprint that tells two patients apart and says nothing else.
    study_uid : of its study.
    series_uid, series_number, description, modality : of its series.
    instance_uid : its own, the same in every copy of the file.
    image_type, sequence, times_ms : how it was made; the times are (repetition, echo, inversion).
    spacing_between : mm between slices, as the header claims; 0 where it doesn't.
    problem : why there is no plane in it, a noun such as "report"; empty if there are planes.
    planes : its slices.
    remarks : sentences on what is unusual about the file.
    """

    path: Path = field(repr=False)  # scanners write patients' names into file names
    patient: str = ""
    study_uid: str = ""
    series_uid: str = ""
    instance_uid: str = ""
    series_number: int = 0
    description: str = ""
    modality: str = ""
    image_type: tuple[str, ...] = ()
    sequence: str = ""
    times_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spacing_between: float = 0.0
    problem: str = ""
    planes: tuple[Plane, ...] = ()
    remarks: tuple[str, ...] = ()


def read_header(path: Path) -> Header | None:
    """Read what a file says of itself, or return None if it isn't DICOM."""
    try:
        # pydicom warns of every value that bends a rule; what matters is said in our own words.
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")
            if not starts_as_dicom(stream):
                return None
            stream.seek(0)
            data = read_partial(
                stream, _is_past_geometry, force=True, specific_tags=_tags(_WANTED + _PERSONAL)
            )
            return _header(path, stream, _values(data))
    except _UNREADABLE:
        return Header(path, problem="damaged file")


def read_patient(path: Path) -> str:
    """The patient's number with who issued it; empty where the file doesn't say.

    It identifies a person: hash it, and keep nothing else of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dcmread(path, stop_before_pixels=True, specific_tags=list(_PATIENT))
        number, issuer = (str(data.get(keyword) or "").strip() for keyword in _PATIENT)
    except _UNREADABLE:
        return ""
    return f"{number}\n{issuer}" if number else ""


def _is_past_geometry(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 > _LAST_GROUP


@cache
def _tags(keywords: tuple[str, ...]) -> list[BaseTag | int]:
    # Plain numbers: pydicom compares them with every element's, and its own tags take long to.
    return [int(Tag(keyword)) for keyword in keywords]


@cache
def _keywords() -> dict[int, str]:
    return {int(Tag(keyword)): keyword for keyword in _WANTED + _PERSONAL}


def _values(data: Dataset) -> Values:
    """Decode each element once: looking it up by its keyword takes pydicom as long as reading."""
    tags = {int(tag): tag for tag in data.keys()}  # noqa: SIM118  (a data set gives elements)
    values = {word: data[tags[n]].value for n, word in _keywords().items() if n in tags}
    # A DICOMDIR says what it is in front of the data only.
    return {"SOPClassUID": data.file_meta.get("MediaStorageSOPClassUID", ""), **values}


def _header(path: Path, stream: BinaryIO, data: Values) -> Header:
    facts = _facts(path, data)
    problem = _why_no_image(data)
    if problem:
        return Header(**facts, problem=problem)
    planes = _planes(path, stream, data)
    remarks = []
    if "PixelRepresentation" not in data:
        remarks.append("the header doesn't say whether pixels are signed: taken as unsigned")
    return Header(
        **facts,
        planes=planes,
        problem="" if planes else "picture without a place in the patient",
        remarks=tuple(remarks),
    )


def _facts(path: Path, data: Values) -> dict[str, Any]:
    name = str(data.get("PatientName", ""))
    personal = [str(data.get(key, "")) for key in _PERSONAL]
    description = str(data.get("SeriesDescription", "") or data.get("ProtocolName", "") or "")
    return {
        "path": path,
        "patient": _fingerprint(str(data.get("PatientID", "") or name)),
        "study_uid": str(data.get("StudyInstanceUID", "")),
        "series_uid": str(data.get("SeriesInstanceUID", "")),
        "instance_uid": str(data.get("SOPInstanceUID", "")),
        "series_number": _integer(data.get("SeriesNumber")),
        "description": _without_patient(description, name, personal),
        "modality": str(data.get("Modality", "")),
        "image_type": tuple(str(word) for word in listed(data.get("ImageType"))),
        "sequence": " ".join(str(word) for word in listed(data.get("ScanningSequence"))),
        "times_ms": tuple(
            number(data.get(key)) for key in ("RepetitionTime", "EchoTime", "InversionTime")
        ),
        "spacing_between": number(data.get("SpacingBetweenSlices")),
    }


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()[:12]


def _without_patient(description: str, name: str, personal: Sequence[str]) -> str:
    """Return a description on one line, without words of the patient's name and personal values.

    Parameters
    ----------
    name : of the patient.
    personal : what is left out as a whole, such as the accession number.
    """
    plain = _on_one_line(description)
    # Initials would take letters out of everything; in other scripts two signs are a name.
    words = re.findall(r"\w{3,}|[^\W\x00-\x7f]{2,}", name)
    values = [value for value in map(_on_one_line, personal) if len(value) > 2]
    for word in sorted([*words, *values], key=len, reverse=True):
        plain = re.sub(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", "", plain, flags=re.IGNORECASE)
    return _on_one_line(plain)[:64]


def _on_one_line(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s.,;:+*/()\[\]-]", " ", text).split())


def _why_no_image(data: Values) -> str:
    """Name what the file is, if it isn't an image of one grey value a pixel."""
    kind = _kind(str(data["SOPClassUID"]))
    if "Directory" in kind:
        return "directory"
    for word, name in _KINDS:
        if word in kind:
            return name
    if not data.get("Rows") or not data.get("Columns"):
        return "file without an image"
    colours = str(data.get("PhotometricInterpretation", "MONOCHROME2"))
    if _integer(data.get("SamplesPerPixel"), 1) > 1 or not colours.startswith("MONOCHROME"):
        return "colour picture"
    return ""


@cache
def _kind(uid: str) -> str:
    """Return the standard's name of a kind of object."""
    return UID(uid).name


def _planes(path: Path, stream: BinaryIO, data: Values) -> tuple[Plane, ...]:
    if _integer(data.get("NumberOfFrames"), 1) > 1 or "Enhanced" in _kind(str(data["SOPClassUID"])):
        stream.seek(0)
        groups = read_partial(stream, _is_past_groups, force=True, specific_tags=_tags(_GROUPS))
        return tuple(_frames(path, data, groups))
    if "MOSAIC" in listed(data.get("ImageType")):
        stream.seek(0)
        return tuple(_tiles(path, data, read_partial(stream, _is_past_private, force=True)))
    where = _where(data, data, data)
    if where is None:
        return ()
    instance, size = _identity(data)
    echo, component, times = _marks(data)
    return (Plane(path, 0, instance, size, *where, echo, component, times),)


def _is_past_groups(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group > 0x5200


def _is_past_private(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group > 0x0029


def _identity(data: Values) -> tuple[int, tuple[int, int]]:
    return _integer(data.get("InstanceNumber")), (int(data["Rows"]), int(data["Columns"]))


def _where(
    position: Values | Dataset, orientation: Values | Dataset, measures: Values | Dataset
) -> tuple[Numbers, Numbers, Numbers] | None:
    """Return position, orientation and pixel spacing, None if one is missing or senseless."""
    found = (
        _numbers(position.get("ImagePositionPatient")),
        _numbers(orientation.get("ImageOrientationPatient")),
        _numbers(measures.get("PixelSpacing")),
    )
    if tuple(len(values) for values in found) != (3, 6, 2) or min(found[2]) <= 0:
        return None
    row, column = np.array(found[1][:3]), np.array(found[1][3:])
    is_square = abs(row @ column) < 1e-2 and abs(np.linalg.norm(row) - 1) < 1e-2
    return found if is_square and abs(np.linalg.norm(column) - 1) < 1e-2 else None


def _marks(data: Values) -> tuple[tuple[int, float], str, tuple[float | None, ...]]:
    """Return echo, component and times of a classic image."""
    words = [str(word) for word in listed(data.get("ImageType"))[2:]]
    component = " ".join([*words, str(data.get("ComplexImageComponent", ""))]).strip()
    keys = (
        "TemporalPositionIdentifier",
        "DiffusionBValue",
        "AcquisitionNumber",
        "TriggerTime",
        "AcquisitionTime",
    )
    times = tuple(None if data.get(key) in (None, "") else number(data.get(key)) for key in keys)
    echo = (_integer(data.get("EchoNumbers")), round(number(data.get("EchoTime")), 2))
    return echo, component, times


# --- enhanced multi-frame -----------------------------------------------------------------------


def _frames(path: Path, data: Values, groups: Dataset) -> Iterator[Plane]:
    """Give the frames that say where they lie, each by its own functional groups or the shared."""
    shared = listed(groups.get("SharedFunctionalGroupsSequence"))
    common = shared[0] if shared else Dataset()
    for index, own in enumerate(listed(groups.get("PerFrameFunctionalGroupsSequence"))):
        position = group("PlanePositionSequence", own, common)
        orientation = group("PlaneOrientationSequence", own, common)
        where = _where(position, orientation, group("PixelMeasuresSequence", own, common))
        if where is not None:
            size = int(data["Rows"]), int(data["Columns"])
            yield Plane(path, index, index + 1, size, *where, *_frame_marks(own, common))


def _frame_marks(
    own: Dataset, common: Dataset
) -> tuple[tuple[int, float], str, tuple[float | None, ...]]:
    content = group("FrameContentSequence", own, common)
    kind = group("MRImageFrameTypeSequence", own, common)
    diffusion = group("MRDiffusionSequence", own, common)
    echo = round(number(group("MREchoSequence", own, common).get("EffectiveEchoTime")), 2)
    words = [str(word) for word in listed(kind.get("FrameType"))[2:]]
    component = " ".join([*words, str(kind.get("ComplexImageComponent", ""))]).strip()
    times = (
        content.get("TemporalPositionIndex"),
        diffusion.get("DiffusionBValue"),
        content.get("FrameAcquisitionNumber"),
    )
    return (0, echo), component, tuple(None if t is None else float(t) for t in times)


def group(name: str, own: Dataset, common: Dataset) -> Dataset:
    """Return the item of a functional group, from the frame itself or from what all share."""
    items = listed(own.get(name)) or listed(common.get(name))
    return items[0] if items else Dataset()


# --- Siemens mosaic -----------------------------------------------------------------------------


def _tiles(path: Path, data: Values, private: Dataset) -> Iterator[Plane]:
    """Give the slices that a mosaic shows side by side, as if each had been stored alone."""
    count, normal = _mosaic_facts(private)
    where = _where(data, data, data)
    if where is None or count < 1:
        return
    across = int(np.ceil(np.sqrt(count)))
    rows, columns = int(data["Rows"]) // across, int(data["Columns"]) // across
    corner = _first_tile_position(data, where, across)
    gap = number(data.get("SpacingBetweenSlices")) or number(data.get("SliceThickness"))
    instance, _ = _identity(data)
    echo, component, times = _marks(data)
    for tile in range(count):
        position = tuple(float(value) for value in corner + tile * gap * normal)
        size = (rows, columns)
        _, orientation, spacing = where
        yield Plane(
            path, tile, instance, size, position, orientation, spacing, echo, component, times, True
        )


def _mosaic_facts(private: Dataset) -> tuple[int, NDArray[np.float64]]:
    """Return how many slices a mosaic holds, and the direction (LPS) from one to the next."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its own DICOM readers experimental
        from nibabel.nicom import csareader
    csa = csareader.get_csa_header(private) or {"tags": {}}
    normal = csareader.get_slice_normal(csa) if csa["tags"] else None
    count = csareader.get_n_mosaic(csa) if csa["tags"] else None
    if normal is None:
        orientation = _numbers(private.get("ImageOrientationPatient"))
        if len(orientation) != 6:
            return 0, np.zeros(3)
        normal = np.cross(orientation[:3], orientation[3:])
    counted = private.get(_MOSAIC_COUNT)
    return int(count or (_integer(counted.value) if counted is not None else 0)), np.array(normal)


def _first_tile_position(
    data: Values, where: tuple[Numbers, Numbers, Numbers], across: int
) -> NDArray[np.float64]:
    """Return where the first tile's first pixel lies.

    The header gives the corner of one huge slice with the mosaic's number of pixels, whose centre
    is the true slice's centre. The mosaic is `across` tiles wide and high.
    """
    position, orientation, (row_gap, column_gap) = (np.array(values) for values in where)
    right = orientation[:3] * column_gap * int(data["Columns"]) * (1 - 1 / across) / 2
    down = orientation[3:] * row_gap * int(data["Rows"]) * (1 - 1 / across) / 2
    corner: NDArray[np.float64] = position + right + down
    return corner


# --- values -------------------------------------------------------------------------------------


def listed(value: Any) -> Sequence[Any]:
    """Return a value of any multiplicity as a list."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _numbers(value: Any) -> Numbers:
    try:
        found = tuple(float(one) for one in listed(value))
    except (TypeError, ValueError):
        return ()
    return found if all(np.isfinite(found)) else ()


def number(value: Any, default: float = 0.0) -> float:
    """Return the first number of a value, `default` where there is none."""
    found = _numbers(value)
    return found[0] if found else default


def _integer(value: Any, default: int = 0) -> int:
    return int(number(value, default))
