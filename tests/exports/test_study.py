"""A whole study goes out and comes in: planes, a tilt, a mosaic, and several vendors' habits."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from segone_napari.cli import main
from segone_napari.data import formats
from segone_napari.data.dicom.study import open_study, read_series
from segone_napari.exports import registry
from segone_napari.exports.content import Content, Segment
from segone_napari.exports.dicom_series import files_of
from segone_napari.exports.reading import read_segments
from segone_napari.volume import Volume
from tests import scanner

from .cases import world_points

SERIES = ("T1 axial", "T2 sagittal", "FLAIR coronal", "T1 enhanced", "CT-like tilt", "dynamic")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One patient's study as a CD: each series as another vendor writes it."""
    folder = tmp_path_factory.mktemp("cd")
    uid = generate_uid()

    def made(name: str, volume: Volume, change: Callable[[Dataset, int], None]) -> list[Dataset]:
        return scanner.images(volume, description=name, study_uid=uid, change=change)

    def siemens(data: Dataset, k: int) -> None:
        data.Manufacturer, data.InstanceNumber = "SIEMENS", k + 1

    def ge(data: Dataset, k: int) -> None:  # numbered from the other end, signed pixels
        data.Manufacturer, data.InstanceNumber = "GE MEDICAL SYSTEMS", 100 - k
        data.SpacingBetweenSlices = data.SliceThickness

    def philips(data: Dataset, k: int) -> None:  # rescaled, numbers in the order of excitation
        data.Manufacturer, data.InstanceNumber = "Philips Medical Systems", (7 * k) % 41
        data.RescaleSlope, data.RescaleIntercept = "1.2218", "-12"

    def tilted(data: Dataset, k: int) -> None:
        axes = np.array(data.ImageOrientationPatient, dtype=float)
        scanner.move(data, k * 2.5 * np.tan(np.deg2rad(12)) * axes[3:])

    scanner.save(made("T1 axial", scanner.head("LPS", 9.0), siemens), folder / "A", "{:08}".format)
    ge_images = made("T2 sagittal", scanner.head("PIR", 4.0), ge)
    scanner.save(ge_images, folder / "B", "i{0:06}.MRDC.{0}".format)
    scanner.save(
        made("FLAIR coronal", scanner.head("LIP"), philips), folder / "C", "IM_{:04}".format
    )
    enhanced = scanner.enhanced(scanner.head("RAI", 15.0))
    enhanced.SeriesDescription, enhanced.StudyInstanceUID = "T1 enhanced", uid
    scanner.save([enhanced], folder / "D")
    scanner.save(made("CT-like tilt", scanner.head("LPS"), tilted), folder / "E")
    scanner.save(_dynamic(uid), folder / "F")
    return folder


def _dynamic(uid: str) -> list[Dataset]:
    series, frame = generate_uid(), generate_uid()
    made = []
    for time in (1, 2):

        def at(data: Dataset, k: int, time: int = time) -> None:
            data.SeriesInstanceUID, data.FrameOfReferenceUID = series, frame
            data.AcquisitionNumber = data.TemporalPositionIdentifier = time

        made += scanner.images(
            scanner.head("RPI", 20.0), description="dynamic", study_uid=uid, change=at
        )
    return made


def outlined(image: Volume) -> Segment:
    """The bright half of an image in front of a plane, so that no flip leaves it as it is."""
    index = np.indices(image.grid.shape)
    middle = (np.array(image.grid.shape) * (0.6, 0.4, 0.7)).astype(int)
    mask = (index < middle[:, None, None, None]).all(axis=0) & (image.data > image.data.mean())
    assert mask.sum() > 20
    return Segment("left thalamus", (0, 118, 14), image.with_data(mask.astype(np.uint8)))


@pytest.mark.parametrize("name", SERIES)
def test_masks_of_every_series_come_back_to_their_place(
    study: Path, tmp_path: Path, name: str
) -> None:
    opened = open_study(study)
    assert sorted(one.name for one in opened.series) == sorted(SERIES)
    (series,) = [one for one in opened.series if one.name == name]
    volume = 1 if name == "dynamic" else 0
    image = read_series(opened, series, volume)
    one = outlined(image)
    files = files_of(study, series.key, volume)
    content = Content((one,), image=image, image_files=files)
    for target in ("out.dcm", "out.seg.nrrd", "labels.nii.gz", "map.mgz"):
        registry.write(content, tmp_path / target)
        (came,) = read_segments(tmp_path / target, grid=image.grid)
        np.testing.assert_array_equal(came.mask.data, one.mask.data)
        (came,) = read_segments(tmp_path / target)
        np.testing.assert_allclose(world_points(came.mask), world_points(one.mask), atol=2e-3)
    stored = pydicom.dcmread(tmp_path / "out.dcm")
    sources = [pydicom.dcmread(file) for file in files]
    assert stored.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    (referenced,) = stored.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series.uid
    named = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert named <= {source.SOPInstanceUID for source in sources}  # of this volume, no other


def test_the_command_exports_to_the_series_and_volume_that_are_named(
    study: Path, tmp_path: Path
) -> None:
    opened = open_study(study)
    (series,) = [one for one in opened.series if one.name == "dynamic"]
    formats.write(outlined(read_series(opened, series, 1)).mask, tmp_path / "mask.nii.gz")
    options = ["--image", str(study), "--series", str(series.number), "--volume", "1"]
    out = tmp_path / "seg.dcm"
    assert main(["export", str(tmp_path / "mask.nii.gz"), *options, "-o", str(out)]) == 0
    (referenced,) = pydicom.dcmread(out).ReferencedSeriesSequence
    of_volume = {pydicom.dcmread(file).SOPInstanceUID for file in series.files(1)}
    named = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert named <= of_volume
    assert main(["export", str(out), *options, "-o", str(tmp_path / "back.nii.gz")]) == 0
    before, after = (nib.load(tmp_path / f"{n}.nii.gz") for n in ("mask", "back"))
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))


def test_a_mosaic_is_a_source_too(tmp_path: Path) -> None:
    """Siemens stores all slices of a volume side by side: masks keep their slices, in its frame."""
    folder = tmp_path / "mosaic"
    folder.mkdir()
    data = Path(nib.__file__).parent / "nicom" / "tests" / "data"
    for name in ("siemens_dwi_0", "siemens_dwi_1000"):
        (folder / name).write_bytes(gzip.decompress((data / f"{name}.dcm.gz").read_bytes()))
        image = pydicom.dcmread(folder / name)
        noise = np.random.default_rng(0).integers(1, 999, len(image.PixelData) // 2)
        image.PixelData = noise.astype("<u2").tobytes()
        image.save_as(folder / name)
    volume = formats.read(folder, volume=1)
    mask = np.zeros(volume.grid.shape, dtype=np.uint8)
    mask[40:60, 50:80, 10:14], mask[40, 50, 10] = 1, 0
    one = Segment("left thalamus", (0, 118, 14), volume.with_data(mask))
    (file,) = files_of(folder, volume=1)
    registry.write(Content((one,), image_files=(file,)), tmp_path / "out.dcm")
    (came,) = read_segments(tmp_path / "out.dcm", grid=volume.grid)
    np.testing.assert_array_equal(came.mask.data, mask)
    stored, source = pydicom.dcmread(tmp_path / "out.dcm"), pydicom.dcmread(file)
    assert stored.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert stored.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
