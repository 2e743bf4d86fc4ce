"""Writes DICOM series as scanners do, from a small volume that the test knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from segone_napari.data.samples import SAMPLES
from segone_napari.volume import Volume

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
PATIENT = "Doe^Johanna"
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Change = Callable[[Dataset, int], None]


def head(axes: str = "LPS", degrees: float = 0.0) -> Volume:
    """A part of the bundled T1, coarser and stored along other axes, turned if wanted."""
    sample = nib.load(SAMPLES["t1"].image_path)
    data = np.asarray(sample.dataobj)[40:152:8, 40:184:8, 30:150:10].astype(np.int16)
    affine = np.diag([2.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = (-14.0, -18.0, -15.0)
    stored = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    image = stored.as_reoriented(turn)
    rotation = nib.quaternions.angle_axis2mat(np.deg2rad(degrees), np.array([3.0, 2.0, 1.0]))
    return Volume.from_affine(
        np.asarray(image.dataobj), nib.affines.from_matvec(rotation) @ image.affine
    )


def images(
    volume: Volume,
    *,
    description: str = "t1_mprage",
    number: int = 3,
    patient: str = PATIENT,
    study_uid: str = "",
    change: Change | None = None,
) -> list[Dataset]:
    """One classic MR image a slice of array axis k, in the order of that axis."""
    series_uid, frame_uid = generate_uid(), generate_uid()
    study_uid = study_uid or generate_uid()
    made = []
    for k in range(volume.data.shape[2]):
        data = _image(volume, k)
        data.PatientName, data.PatientID = patient, patient
        data.StudyInstanceUID, data.SeriesInstanceUID = study_uid, series_uid
        data.FrameOfReferenceUID = frame_uid
        data.SeriesDescription, data.SeriesNumber = description, number
        if change is not None:
            change(data, k)
        made.append(data)
    return made


def _image(volume: Volume, k: int) -> Dataset:
    data = _empty(MR_IMAGE)
    lps = _TO_LPS @ volume.affine
    spacing = nib.affines.voxel_sizes(lps)
    data.Modality, data.Manufacturer = "MR", "SIEMENS"
    data.PatientBirthDate = "19600102"
    data.StudyDate, data.StudyTime = "20200304", "112233"
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    data.InstanceNumber, data.AcquisitionNumber = k + 1, 1
    data.RepetitionTime, data.EchoTime, data.EchoNumbers = "2000", "3", "1"
    data.InversionTime, data.MRAcquisitionType = "900", "3D"
    data.SliceThickness = str(round(spacing[2], 4))
    data.PixelSpacing = [_text(spacing[1]), _text(spacing[0])]
    data.ImageOrientationPatient = [
        *(_text(value) for value in lps[:3, 0] / spacing[0]),
        *(_text(value) for value in lps[:3, 1] / spacing[1]),
    ]
    place(data, nib.affines.apply_affine(lps, (0, 0, k)))
    set_pixels(data, volume.data[:, :, k].T)
    return data


def place(data: Dataset, position: Sequence[float]) -> None:
    """Say where a slice's first pixel lies (LPS mm)."""
    data.ImagePositionPatient = [_text(value) for value in position]


def move(data: Dataset, offset_mm: Sequence[float]) -> None:
    """Move a slice (LPS mm)."""
    place(data, np.array(data.ImagePositionPatient, dtype=float) + np.array(offset_mm))


def normal(data: Dataset) -> np.ndarray:
    """The direction (LPS) across a slice."""
    axes = np.array(data.ImageOrientationPatient, dtype=float)
    return np.cross(axes[:3], axes[3:])


def set_pixels(data: Dataset, pixels: np.ndarray) -> None:
    """Store (rows, columns) or (frames, rows, columns) of 16 bits."""
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = np.ascontiguousarray(pixels).astype("<i2").tobytes()


def _empty(sop_class: str) -> Dataset:
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = sop_class, generate_uid()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return data


def _text(value: float) -> str:
    return f"{value:.10f}"[:16]


def save(
    made: Sequence[Dataset], folder: Path, name: Callable[[int], str] = "IM{:04}".format
) -> Path:
    """Write images under names made of their number, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, data in enumerate(made):
        path = folder / name(n)
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
    return folder


def enhanced(volume: Volume, volumes: int = 1) -> Dataset:
    """One multi-frame MR image, its frames out of order; of `volumes` points in time."""
    classic = images(volume)
    data = _empty(ENHANCED_MR_IMAGE)
    for keyword in (
        *("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
        *("FrameOfReferenceUID", "SeriesDescription", "SeriesNumber", "ImageType", "StudyDate"),
    ):
        setattr(data, keyword, classic[0].get(keyword))
    data.Manufacturer, data.InstanceNumber = "Philips Medical Systems", 1
    order = [(time, k) for k in reversed(range(len(classic))) for time in range(volumes)]
    data.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = [
        _item(
            PixelSpacing=classic[0].PixelSpacing,
            SliceThickness=classic[0].SliceThickness,
            SpacingBetweenSlices=classic[0].SliceThickness,
        )
    ]
    shared.PlaneOrientationSequence = [
        _item(ImageOrientationPatient=classic[0].ImageOrientationPatient)
    ]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [_frame(classic[k], k, time) for time, k in order]
    pixels = np.stack([volume.data[:, :, k].T + time for time, k in order])
    set_pixels(data, pixels)
    return data


def _frame(image: Dataset, k: int, time: int) -> Dataset:
    content = _item(
        FrameAcquisitionNumber=time + 1,
        TemporalPositionIndex=time + 1,
        StackID="1",
        InStackPositionNumber=k + 1,
        DimensionIndexValues=[1, k + 1, time + 1],
    )
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=image.ImagePositionPatient)],
        PixelValueTransformationSequence=[
            _item(RescaleIntercept="-10", RescaleSlope="0.5", RescaleType="US")
        ],
    )


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
