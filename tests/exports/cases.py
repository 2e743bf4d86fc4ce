"""Masks on awkward grids, and a DICOM series made of them, for tests of what goes out."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from segone_napari.exports.content import Content, Segment
from segone_napari.volume import Volume

SHAPE = (14, 16, 12)


def rotated(degrees: float, spacing: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    turn = nib.quaternions.angle_axis2mat(np.deg2rad(degrees), axis)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = (-40.5, 12.25, 7.0)
    return affine


AFFINES = {
    "canonical": np.diag([1.0, 1.0, 1.0, 1.0]),
    "flipped": np.array([[-1, 0, 0, 90], [0, 0, 1, -126], [0, -1, 0, 72], [0, 0, 0, 1.0]]),
    "anisotropic": np.diag([0.9, 0.9, 3.0, 1.0]),
    "oblique": rotated(25, (0.8, 1.1, 4.0)),
    "oblique and flipped": rotated(25, (0.8, 1.1, 4.0)) @ np.diag([-1.0, 1.0, -1.0, 1.0]),
}


def content(affine: np.ndarray | None = None, **options: object) -> Content:
    """Two structures that don't overlap, a third over both of them, and an empty one."""
    affine = AFFINES["oblique"] if affine is None else affine
    image = np.random.default_rng(0).normal(100.0, 10.0, SHAPE).astype(np.float32)
    return Content(
        segments=(
            segment("left hippocampus", (220, 216, 20), np.s_[2:6, 3:9, 2:7], affine),
            segment("right amygdala", (103, 255, 255), np.s_[8:12, 4:8, 5:9], affine),
            segment("white matter lesions", (10, 20, 30), np.s_[4:9, 5:7, 4:6], affine),
            segment("third ventricle", (204, 182, 142), np.s_[0:0, 0:0, 0:0], affine),
        ),
        image=Volume.from_affine(image, affine, "scan"),
        **options,  # type: ignore[arg-type]
    )


def segment(
    name: str, colour: tuple[int, int, int], where: tuple[slice, slice, slice], affine: np.ndarray
) -> Segment:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[where] = 1
    # A corner off, so that no flip or turn leaves the mask as it is.
    if mask.any():
        mask[where][0, 0, 0] = 0
        mask[where][-1, 0, 0] = 0
        mask[where][0, 1, 0] = 0
    return Segment(name, colour, Volume.from_affine(mask, affine, name), prompt=name)


def world_points(volume: Volume) -> np.ndarray:
    """The world points (n, 3) in mm of all voxels inside a mask, in a fixed order."""
    points = nib.affines.apply_affine(volume.affine, np.argwhere(volume.data))
    return points[np.lexsort(np.round(points, 2).T)]


def save_series(folder: Path, volume: Volume, **attributes: object) -> list[Path]:
    """Write a volume as a series of single MR slices along k, in a shuffled order."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    order = np.random.default_rng(1).permutation(volume.data.shape[2])
    for number, k in enumerate(order.tolist()):
        slice_ = Dataset()
        slice_.SOPClassUID = MRImageStorage
        slice_.SOPInstanceUID = generate_uid()
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID = study, series
        slice_.FrameOfReferenceUID = frame
        slice_.PatientName, slice_.PatientID = "Doe^Jane", "secret-7"
        slice_.PatientBirthDate, slice_.PatientSex = "19500101", "F"
        slice_.PatientAge, slice_.PatientWeight = "075Y", 61.0
        slice_.InstitutionName = "Saint Elsewhere"
        slice_.InstitutionalDepartmentName = "Neuro"
        slice_.AccessionNumber, slice_.StudyID = "ACC-99", "study-5"
        slice_.StudyDate, slice_.StudyTime = "20250102", "101112"
        slice_.StudyDescription = "Follow-up of Jane"
        slice_.ReferringPhysicianName = "House^Gregory"
        slice_.OperatorsName, slice_.StationName = "Nurse^Joy", "MR-3"
        slice_.Manufacturer, slice_.ManufacturerModelName = "Scanner Works", "S1"
        slice_.Modality, slice_.SeriesNumber, slice_.InstanceNumber = "MR", 4, number + 1
        slice_.SeriesDescription = "T1 of Jane"
        slice_.ScanningSequence, slice_.SequenceVariant, slice_.ScanOptions = "GR", "SP", ""
        slice_.MRAcquisitionType, slice_.EchoTime, slice_.EchoTrainLength = "3D", 3.0, 1
        slice_.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        # A DICOM row runs along i (its columns count up), a column along j.
        slice_.ImageOrientationPatient = [
            *(lps[:3, 0] / spacing[0]).round(10).tolist(),
            *(lps[:3, 1] / spacing[1]).round(10).tolist(),
        ]
        slice_.ImagePositionPatient = (lps @ [0, 0, k, 1])[:3].round(8).tolist()
        slice_.PixelSpacing = [spacing[1].round(10), spacing[0].round(10)]
        slice_.SliceThickness = spacing[2].round(10)
        slice_.Rows, slice_.Columns = volume.data.shape[1], volume.data.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.PixelRepresentation = 1
        slice_.PixelData = volume.data[:, :, k].T.astype("<i2").tobytes()
        for name, value in attributes.items():
            setattr(slice_, name, value)
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.file_meta.MediaStorageSOPClassUID = MRImageStorage
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        file = folder / f"IM{number:04d}"
        pydicom.dcmwrite(file, slice_, enforce_file_format=True)
        files.append(file)
    return files
