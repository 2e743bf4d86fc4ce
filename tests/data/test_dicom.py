"""DICOM in: geometry, the choice of series, and every way in which a folder can be odd."""

from __future__ import annotations

import copy
import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from segone_napari.data import formats
from segone_napari.data.choices import ManySeries, ManyVolumes
from segone_napari.data.dicom.study import open_study, read_series
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume
from tests import scanner

NIBABEL_FILES = Path(nib.__file__).parent / "nicom" / "tests" / "data"


def canonical(volume: Volume) -> nib.Nifti1Image:
    image = nib.Nifti1Image(volume.data.astype(np.float32), volume.affine)
    return nib.as_closest_canonical(image)


def assert_same(found: Volume, expected: Volume, *, within_mm: float = 1e-3) -> None:
    """The same voxels at the same places, in whatever order they are stored."""
    ours, theirs = canonical(found), canonical(expected)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=within_mm)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())


def dcm2niix(folder: Path, *options: str) -> list[Volume]:
    """What dcm2niix makes of a folder: a volume for every point in time of every file."""
    converter = pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    out = folder.parent / f"{folder.name} converted"
    out.mkdir()
    # Without merging and with the plain slope and intercept of the standard.
    command = [converter.bin, "-p", "n", "-m", "n", *options, "-f", "%s_%e_%d", "-o", out, folder]
    subprocess.run(command, check=True, capture_output=True)
    made = []
    for path in sorted(out.glob("*.nii")):
        image = nib.load(path)
        data = np.asarray(image.dataobj)
        data = data if data.ndim == 4 else data[..., np.newaxis]
        made += [Volume.from_affine(data[..., n], image.affine) for n in range(data.shape[3])]
    return made


# --- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 21.0])
@pytest.mark.parametrize("axes", ["LPS", "PIR", "LIP", "RAI", "PSL"])
def test_voxels_and_places_are_those_of_the_scan_and_of_dcm2niix(
    tmp_path: Path, axes: str, degrees: float
) -> None:
    volume = scanner.head(axes, degrees)
    made = scanner.images(volume)
    # Names and numbers tell nothing of where a slice lies.
    order = np.random.default_rng(0).permutation(len(made))
    for number, n in enumerate(order, start=1):
        made[n].InstanceNumber = number
    folder = scanner.save([made[n] for n in order], tmp_path / "series")
    found = formats.read(folder)
    assert_same(found, volume)
    assert found.warnings == ()
    assert found.data.dtype == np.int16
    (converted,) = dcm2niix(folder)
    assert_same(found, converted)


def test_a_file_stands_for_its_whole_series_and_only_for_it(tmp_path: Path) -> None:
    volume = scanner.head()
    folder = scanner.save(scanner.images(volume), tmp_path, "{:08}".format)
    scanner.save(scanner.images(scanner.head("PIR"), number=4), tmp_path, "other{:04}.dcm".format)
    assert_same(formats.read(folder / "00000005"), volume)


@pytest.mark.parametrize("ending", [".img", ".hdr"])
def test_a_slice_may_be_called_as_half_a_pair_is(tmp_path: Path, ending: str) -> None:
    volume = scanner.head()
    folder = scanner.save(scanner.images(volume), tmp_path, f"s{{:03}}{ending}".format)
    assert_same(formats.read(folder / f"s005{ending}"), volume)


def test_leaning_slices_are_set_upright(tmp_path: Path) -> None:
    """A gantry tilted by 15 degrees: what the voxels show stays where it is in the world."""
    flat = scanner.head()
    lean = np.tan(np.deg2rad(15))

    def tilt(data: Dataset, k: int) -> None:
        axes = np.array(data.ImageOrientationPatient, dtype=float)
        offset = k * flat.grid.spacing[2] * lean * axes[3:]
        scanner.move(data, offset)
        corner = np.array(data.ImagePositionPatient, dtype=float)
        rows, columns = np.indices((data.Rows, data.Columns))
        spacing = [float(size) for size in data.PixelSpacing]
        here = (
            corner
            + columns[..., np.newaxis] * axes[:3] * spacing[1]
            + rows[..., np.newaxis] * axes[3:] * spacing[0]
        )
        scanner.set_pixels(data, np.rint(brightness(here)).astype(np.int16))

    folder = scanner.save(scanner.images(flat, change=tilt), tmp_path / "series")
    found = formats.read(folder)
    assert any("15.0° (gantry tilt)" in words for words in found.warnings)
    axes = found.affine[:3, :3] / found.grid.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    index = np.argwhere(found.data > found.data.min())
    places = nib.affines.apply_affine(found.affine, index) * (-1, -1, 1)
    shown = found.data[tuple(index.T)]
    # The edge that was moved in is a mean with the background.
    is_inside = np.abs(shown - brightness(places)) < 2
    assert is_inside.mean() > 0.9
    assert found.data.shape[1] > flat.data.shape[1]


def brightness(points: np.ndarray) -> np.ndarray:
    """A brightness that is linear in the world (LPS), so that interpolation is exact."""
    return 500 + points @ np.array([3.0, -2.0, 4.0])


@pytest.mark.parametrize("axes", ["LPS", "PIR"])
def test_missing_slices_are_made_up_between_their_neighbours_and_said(
    tmp_path: Path, axes: str
) -> None:
    volume = scanner.head(axes)
    made = scanner.images(volume)
    del made[4], made[7]  # slices 4 and 8
    folder = scanner.save(made, tmp_path / "series")
    found = formats.read(folder)
    assert found.warnings == (
        "2 slices are missing (after slice 4, 7); they were interpolated from the neighbours",
    )
    expected = volume.data.astype(np.float64).copy()
    for k in (4, 8):
        expected[:, :, k] = np.rint((expected[:, :, k - 1] + expected[:, :, k + 1]) / 2)
    assert_same(found, Volume.from_affine(expected, volume.affine))
    # dcm2niix leaves the gaps, and beside that makes them up too.
    evened = [one for one in dcm2niix(folder) if one.data.shape[2] == len(made) + 2]
    for one in evened:
        np.testing.assert_allclose(canonical(found).affine, canonical(one).affine, atol=1e-3)
        np.testing.assert_allclose(
            canonical(found).get_fdata(), canonical(one).get_fdata(), atol=1.0
        )
    assert len(evened) == 1


def test_doubled_slices_count_once_and_are_said(tmp_path: Path) -> None:
    volume = scanner.head()
    made = scanner.images(volume)
    again = copy.deepcopy(made[3])
    again.InstanceNumber, again.SOPInstanceUID = 99, generate_uid()
    again.file_meta.MediaStorageSOPInstanceUID = again.SOPInstanceUID
    scanner.set_pixels(again, np.zeros((again.Rows, again.Columns), np.int16))
    found = formats.read(scanner.save([again, *made], tmp_path))
    assert_same(found, volume)
    assert "1 slice (4) lies at the same place as another; the first of each is used" in (
        found.warnings
    )


def test_a_file_that_was_copied_twice_counts_once(tmp_path: Path) -> None:
    volume = scanner.head()
    made = scanner.images(volume)
    found = formats.read(scanner.save([*made, made[0], made[5]], tmp_path))
    assert_same(found, volume)
    assert found.warnings == ()


def test_uneven_slices_are_brought_to_even_ones_and_said(tmp_path: Path) -> None:
    def shift(data: Dataset, k: int) -> None:
        scanner.move(data, (0.0, 0.0, 0.9 if k % 3 == 1 else 0.0))
        z = float(data.ImagePositionPatient[2])
        scanner.set_pixels(data, np.full((data.Rows, data.Columns), round(100 * z), np.int16))

    found = formats.read(scanner.save(scanner.images(scanner.head(), change=shift), tmp_path))
    assert "slices lie 1.60 to 3.40 mm apart" in found.warnings[0]
    z = nib.affines.apply_affine(found.affine, [(0, 0, k) for k in range(found.data.shape[2])])
    np.testing.assert_allclose(found.data[5, 5], 100 * z[:, 2], atol=1)


def test_every_second_slice_missing_is_suspected(tmp_path: Path) -> None:
    def claim(data: Dataset, k: int) -> None:
        data.SpacingBetweenSlices = "2.5"

    made = scanner.images(scanner.head(), change=claim)[::2]
    (words,) = formats.read(scanner.save(made, tmp_path)).warnings
    assert "5.00 mm apart but the header says 2.50 mm" in words


# --- more than one volume -------------------------------------------------------------------------


def test_points_in_time_are_volumes_to_choose_from(tmp_path: Path) -> None:
    volume = scanner.head("LPS", 10.0)
    made = []
    uid = generate_uid()
    for time in range(3):

        def at(data: Dataset, k: int, time: int = time) -> None:
            data.SeriesInstanceUID = uid
            data.InstanceNumber = 1 + 100 * time + k
            data.TemporalPositionIdentifier = time + 1
            data.AcquisitionNumber = time + 1
            scanner.set_pixels(data, data.pixel_array + 1000 * time)

        made += scanner.images(volume, study_uid="1.2.3", change=at)
    for data in made:
        data.FrameOfReferenceUID = "1.2.4"
    folder = scanner.save(made[::-1], tmp_path / "series")
    with pytest.raises(ManyVolumes, match=r"3 volumes; choose one with --volume N, N from 0 to 2"):
        formats.read(folder)
    with pytest.raises(BadInput, match=r"no volume 3 .* use 0 to 2"):
        formats.read(folder, volume=3)
    converted = dcm2niix(folder)
    for time in range(3):
        found = formats.read(folder, volume=time)
        assert_same(found, volume.with_data(volume.data + 1000 * time))
        assert_same(found, converted[time])


def test_echoes_and_phase_of_one_series_are_parts_to_choose_from(tmp_path: Path) -> None:
    volume = scanner.head()
    made, uid = [], generate_uid()
    for n, (echo, kind) in enumerate([(1, "M"), (2, "M"), (2, "P")]):

        def mark(data: Dataset, k: int, n: int = n, echo: int = echo, kind: str = kind) -> None:
            data.SeriesInstanceUID = uid
            data.EchoNumbers, data.EchoTime = str(echo), str(10 * echo)
            data.ImageType = ["ORIGINAL", "PRIMARY", kind, "ND"]
            data.InstanceNumber = 100 * n + k + 1
            scanner.set_pixels(data, data.pixel_array + 1000 * n)

        made += scanner.images(volume, study_uid="1.2.3", change=mark)
    folder = scanner.save(made, tmp_path / "series")
    study, converted = open_study(folder), dcm2niix(folder)
    assert [series.name for series in study.series] == [
        "t1_mprage, echo 1 of 10 ms",
        "t1_mprage, echo 2 of 20 ms, magnitude",
        "t1_mprage, echo 2 of 20 ms, phase",
    ]
    for n, series in enumerate(study.series):
        found = read_series(study, series)
        assert_same(found, volume.with_data(volume.data + 1000 * n))
        assert_same(found, converted[n])
        assert "divided into 3 parts" in found.warnings[0]
    with pytest.raises(ManySeries, match="has 3 parts; choose one with --series N"):
        study.choose(uid)
    assert [study.choose(series.key).name for series in study.series] == [
        series.name for series in study.series
    ]


def test_a_volume_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    volume = scanner.head()
    made, uid = [], generate_uid()
    for time in range(3):

        def at(data: Dataset, k: int, time: int = time) -> None:
            data.SeriesInstanceUID, data.AcquisitionNumber = uid, time + 1
            data.InstanceNumber = 100 * time + k + 1

        made += scanner.images(volume, study_uid="1.2.3", change=at)
    study = open_study(scanner.save(made[:-4], tmp_path))
    (series,) = study.series
    assert series.volumes == 2
    assert "2 complete volumes are used" in read_series(study, series, 1).warnings[0]


def test_enhanced_multi_frame_is_read_with_its_own_rescaling(tmp_path: Path) -> None:
    volume = scanner.head("PIR", 12.0)
    folder = scanner.save([scanner.enhanced(volume, volumes=2)], tmp_path / "series")
    converted = dcm2niix(folder)
    for time in range(2):
        found = formats.read(folder, volume=time)
        expected = 0.5 * (volume.data.astype(np.float32) + time) - 10
        assert_same(found, volume.with_data(expected))
        assert_same(found, converted[time])


@pytest.mark.parametrize("kind", ["mosaic", "philips"])
def test_nibabels_scans_lie_where_dcm2niix_puts_them(tmp_path: Path, kind: str) -> None:
    """A Siemens mosaic of two volumes, and a Philips enhanced file, with pixels filled in."""
    names = {"mosaic": ["siemens_dwi_0", "siemens_dwi_1000"], "philips": ["philips_mprage"]}[kind]
    folder = tmp_path / "series"
    folder.mkdir()
    for name in names:
        path = folder / name
        path.write_bytes(gzip.decompress((NIBABEL_FILES / f"{name}.dcm.gz").read_bytes()))
        data = pydicom.dcmread(path)
        noise = np.random.default_rng(len(name)).integers(1, 999, len(data.PixelData) // 2)
        data.PixelData = noise.astype("<u2").tobytes()
        data.save_as(path)
    converted = dcm2niix(folder)
    assert len(converted) == len(names)
    for n, expected in enumerate(converted):
        found = formats.read(folder, volume=n)
        assert canonical(found).shape == canonical(expected).shape
        np.testing.assert_allclose(canonical(found).affine, canonical(expected).affine, atol=1e-3)
        np.testing.assert_allclose(
            canonical(found).get_fdata(), canonical(expected).get_fdata(), rtol=1e-4
        )


# --- pixels ---------------------------------------------------------------------------------------


def test_signed_and_rescaled_pixels_have_their_values(tmp_path: Path) -> None:
    volume = scanner.head()
    signed = volume.with_data(volume.data - 300)

    def rescale(data: Dataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = str(1 + k), "-7.5"

    folder = scanner.save(scanner.images(signed), tmp_path / "signed")
    found = formats.read(folder)
    assert_same(found, signed)
    (converted,) = dcm2niix(folder)
    assert_same(found, converted)
    made = scanner.images(signed, change=rescale)
    found = formats.read(scanner.save(made, tmp_path / "rescaled"))
    expected = signed.data * (1.0 + np.arange(signed.data.shape[2])) - 7.5
    assert found.data.dtype == np.float32
    assert_same(found, volume.with_data(expected))


def test_twelve_signed_bits_keep_their_sign(tmp_path: Path) -> None:
    """The four upper bits hold something else, as an overlay of long ago."""
    volume = scanner.head()
    data = (np.arange(volume.data.size) % 4000 - 2000).astype(np.int16).reshape(volume.data.shape)

    def pack(image: Dataset, k: int) -> None:
        image.BitsStored, image.HighBit = 12, 11
        image.PixelData = (data[:, :, k].T.astype("<u2") & 0x0FFF | 0x3000).astype("<u2").tobytes()

    folder = scanner.save(scanner.images(volume, change=pack), tmp_path / "series")
    found = formats.read(folder)
    assert_same(found, volume.with_data(data))
    (converted,) = dcm2niix(folder)
    assert_same(found, converted)


SYNTAXES = {
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}


@pytest.mark.parametrize("kind", SYNTAXES)
def test_compressed_series_has_the_same_voxels(tmp_path: Path, kind: str) -> None:
    head = scanner.head()
    # JPEG 2000 halves an image five times.
    data = np.kron(head.data, np.ones((4, 4, 1), np.int16))
    volume = Volume.from_affine(data, head.affine)
    made = scanner.images(volume)
    for data in made:
        data.compress(SYNTAXES[kind], generate_instance_uid=False)
    folder = scanner.save(made, tmp_path / "series")
    found = formats.read(folder)
    assert_same(found, volume)
    (converted,) = dcm2niix(folder)
    assert_same(found, converted)


def test_jpeg_lossless_series_has_the_same_voxels(tmp_path: Path) -> None:
    """The commonest coding of archives."""
    gdcm = pytest.importorskip("gdcm", reason="the extra 'dicom' is not installed")
    volume = scanner.head()
    plain = scanner.save(scanner.images(volume), tmp_path / "plain")
    folder = tmp_path / "series"
    folder.mkdir()
    for path in sorted(plain.iterdir()):
        reader, change, writer = (
            gdcm.ImageReader(),
            gdcm.ImageChangeTransferSyntax(),
            gdcm.ImageWriter(),
        )
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(folder / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    syntax = pydicom.dcmread(folder / "IM0000").file_meta.TransferSyntaxUID
    assert syntax == JPEGLosslessSV1
    found = formats.read(folder)
    assert_same(found, volume)
    (converted,) = dcm2niix(folder)
    assert_same(found, converted)


def test_big_endian_series_has_the_same_voxels(tmp_path: Path) -> None:
    volume = scanner.head()
    made = scanner.images(volume)
    for n, data in enumerate(made):
        data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        data.save_as(tmp_path / str(n), implicit_vr=False, little_endian=False)
    assert_same(formats.read(tmp_path), volume)


def test_deflated_series_has_the_same_voxels(tmp_path: Path) -> None:
    made = scanner.images(scanner.head())
    for data in made:
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert_same(formats.read(scanner.save(made, tmp_path)), scanner.head())


def test_another_modality_is_opened_and_said(tmp_path: Path) -> None:
    def make_ct(data: Dataset, k: int) -> None:
        data.Modality = "CT"

    found = formats.read(scanner.save(scanner.images(scanner.head(), change=make_ct), tmp_path))
    assert found.warnings == ("this series is CT, not MR; results may be wrong",)


def test_missing_decoder_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    made = scanner.images(scanner.head())
    for data in made:
        data.compress(JPEGLSLossless, generate_instance_uid=False)
    folder = scanner.save(made, tmp_path)
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    words = r"compressed as 'JPEG-LS Lossless.*pip install 'segone-napari\[dicom\]'"
    with pytest.raises(BadInput, match=words):
        formats.read(folder)


def test_pixels_without_a_sign_are_taken_as_unsigned_and_it_is_said(tmp_path: Path) -> None:
    def forget(data: Dataset, k: int) -> None:
        del data.PixelRepresentation

    found = formats.read(scanner.save(scanner.images(scanner.head(), change=forget), tmp_path))
    assert_same(found, scanner.head())
    assert "doesn't say whether pixels are signed: taken as unsigned" in found.warnings[0]


# --- a study --------------------------------------------------------------------------------------


def localizer(study_uid: str) -> list[Dataset]:
    """Three single slices, one in each plane."""
    made = []
    for axes in ("LPS", "LIP", "PIR"):
        made.append(
            scanner.images(
                scanner.head(axes), description="localizer", number=1, study_uid=study_uid
            )[5]
        )
        made[-1].SeriesInstanceUID = made[0].SeriesInstanceUID
    return made


def other(name: str) -> Dataset:
    return pydicom.dcmread(get_testdata_file(name))


def study_folder(folder: Path) -> Path:
    """A CD: sub-folders, no endings, a DICOMDIR, a viewer's files, and five kinds of series."""
    uid = generate_uid()

    def sequence(description: str, number: int, axes: str = "LPS") -> list[Dataset]:
        return scanner.images(
            scanner.head(axes), description=description, number=number, study_uid=uid
        )

    for n, made in enumerate(
        [
            localizer(uid),
            sequence("DIFFUSION ADC t2", 2),
            sequence("FLAIR tra Doe", 3),
            sequence("AX T2 TSE", 4),
            sequence("T1 sag", 5, "PIR"),
            [other("reportsi.dcm")],
            [other("SC_rgb_rle.dcm")],
        ]
    ):
        scanner.save(made, folder / "DICOM" / f"SE{n:06}", "{:08X}".format)
    (folder / "DICOMDIR").write_bytes(Path(get_testdata_file("DICOMDIR")).read_bytes())
    (folder / "autorun.inf").write_text("[autorun]")
    (folder / "VIEWER").mkdir()
    (folder / "VIEWER" / "viewer.exe").write_bytes(b"MZ" + bytes(300))
    return folder


@pytest.mark.parametrize("opened", ["", "DICOMDIR"])
def test_a_cd_lists_its_series_with_t1_and_flair_first(tmp_path: Path, opened: str) -> None:
    study = open_study(study_folder(tmp_path / "cd") / opened)
    assert [(s.number, s.name, s.kind) for s in study.series] == [
        (1, "T1 sag", "T1"),
        (2, "FLAIR tra", "FLAIR"),
        (3, "AX T2 TSE", "T2"),
        (4, "DIFFUSION ADC t2", "other"),
    ]
    first = study.series[0]
    columns, rows, slices = first.stack.shape
    assert (first.matrix, first.slices, first.plane) == (f"{columns}×{rows}", slices, "sagittal")
    assert first.spacing == "×".join(f"{size:g}" for size in first.grid.spacing)
    assert set(study.not_listed) == {
        "1 report",
        "1 colour picture",
        "'localizer': a localizer, single slices in different planes (axial and coronal and "
        "sagittal)",
    }
    assert study.remarks == ()


def test_a_series_is_chosen_by_number_or_uid(tmp_path: Path) -> None:
    folder = study_folder(tmp_path / "cd")
    uid = open_study(folder).series[1].uid
    assert formats.read(folder, series="2").name == "FLAIR tra"
    assert formats.read(folder, series=uid).name == "FLAIR tra"
    with pytest.raises(ManySeries, match=r"holds 4 series; choose one with --series N, N from 1"):
        formats.read(folder)
    with pytest.raises(BadInput, match="there is no series 9 in"):
        formats.read(folder, series="9")


def test_two_patients_in_one_folder_are_kept_apart_and_said(tmp_path: Path) -> None:
    for patient in ("Doe^Johanna", "Roe^Richard"):
        made = scanner.images(scanner.head(), patient=patient, study_uid="1.2.3")
        for data in made:
            data.SeriesInstanceUID = "1.2.4"
        scanner.save(made, tmp_path, f"{patient[:3]}{{:03}}".format)
    study = open_study(tmp_path)
    assert [series.patient for series in study.series] == [1, 2]
    found = read_series(study, study.series[1])
    assert_same(found, scanner.head())
    assert "images of 2 patients" in found.warnings[0]


@pytest.mark.parametrize("patient", ["Doe^Johanna", "MÜLLER^Jörg", "Yamada^Tarou=山田^太郎"])
def test_the_patients_name_is_taken_out_of_a_description(tmp_path: Path, patient: str) -> None:
    words = patient.replace("^", " ").replace("=", " ")

    def name(data: Dataset, k: int) -> None:
        data.SpecificCharacterSet = ["ISO_IR 192"]

    made = scanner.images(
        scanner.head(), description=f"t1 {words} sag", patient=patient, change=name
    )
    (series,) = open_study(scanner.save(made, tmp_path)).series
    assert series.name == "t1 sag"


def test_numbers_and_the_institution_are_taken_out_of_a_description(tmp_path: Path) -> None:
    def tell(data: Dataset, k: int) -> None:
        data.PatientID, data.PatientBirthDate = "secret-7", "19500101"
        data.AccessionNumber, data.InstitutionName = "ACC-99", "St. Elsewhere's (North)"

    words = "t1 ACC-99_mprage SECRET-7 19500101 St. Elsewhere's (North) 3d"
    made = scanner.images(scanner.head(), description=words, change=tell)
    (series,) = open_study(scanner.save(made, tmp_path)).series
    assert series.name == "t1 _mprage 3d"


def test_nothing_of_the_patient_is_in_a_listing_or_a_message(tmp_path: Path) -> None:
    folder = study_folder(tmp_path / "cd")
    for n, data in enumerate(scanner.images(scanner.head(), description="MPRAGE JOHANNA_DOE")):
        data.save_as(folder / f"DOE_JOHANNA.MR.{n:04}.IMA", enforce_file_format=True)
    victim = folder / "DOE_JOHANNA.MR.0003.IMA"
    victim.write_bytes(victim.read_bytes()[:-300])
    study = open_study(folder)
    said = [*study.not_listed, *study.remarks]
    for series in study.series:
        said += [series.name, *read_series(study, series).warnings]
    assert any("truncated" in words for words in said)
    assert not [words for words in said if "doe" in words.lower() or "johanna" in words.lower()]
    assert "JOHANNA" not in repr(study).upper()


# --- what can't be used ---------------------------------------------------------------------------


def test_a_truncated_slice_is_replaced_and_said(tmp_path: Path) -> None:
    volume = scanner.head()
    folder = scanner.save(scanner.images(volume), tmp_path)
    victim = folder / "IM0006"
    victim.write_bytes(victim.read_bytes()[:-100])
    found = formats.read(folder)
    assert "the pixels of slice 7 are truncated or damaged and were left out" in found.warnings
    assert any(words.startswith("1 slice is missing (after slice 6)") for words in found.warnings)
    kept = np.arange(volume.data.shape[2]) != 6
    np.testing.assert_array_equal(found.data[:, :, kept], volume.data[:, :, kept])


def write_text(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing here")


def write_one(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "one").write_bytes(Path(get_testdata_file(name)).read_bytes())

    return write


def write_pdf(folder: Path) -> None:
    (data,) = scanner.images(scanner.head())[:1]
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    del data.Rows, data.Columns, data.PixelData
    scanner.save([data], folder)


def write_changed(change: scanner.Change) -> Callable[[Path], None]:
    return lambda folder: scanner.save(scanner.images(scanner.head(), change=change), folder)  # type: ignore[return-value]


def write_private_syntax(folder: Path) -> None:
    for n, data in enumerate(scanner.images(scanner.head())):
        data.file_meta.TransferSyntaxUID = "1.2.840.113619.5.2.99"
        data.save_as(folder / str(n), implicit_vr=False, little_endian=True)


def write_wrong_syntax(folder: Path) -> None:
    """Uncompressed pixels that the header calls JPEG."""
    for n, data in enumerate(scanner.images(scanner.head())):
        path = folder / str(n)
        data.save_as(path, enforce_file_format=True)
        right, wrong = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"
        path.write_bytes(path.read_bytes().replace(right, wrong, 1))


def write_cut(folder: Path) -> None:
    scanner.save(scanner.images(scanner.head()), folder)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-400])


def scatter(data: Dataset, k: int) -> None:
    scanner.move(data, (0.0, 0.0, 40.0 * k**2))


def step_aside(data: Dataset, k: int) -> None:
    scanner.move(data, (30.0 * (k % 2), 0.0, 0.0))


def unplace(data: Dataset, k: int) -> None:
    del data.ImagePositionPatient


def blank(data: Dataset, k: int) -> None:
    data.PixelData = bytes(len(data.PixelData))


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "empty": (lambda folder: None, ("folder without DICOM images", "choose")),
    "no images": (write_text, ("folder without DICOM images", "choose")),
    "report": (write_one("reportsi.dcm"), ("1 report", "choose")),
    "pdf": (write_pdf, ("1 document", "choose")),
    "colours": (write_one("SC_rgb_rle.dcm"), ("1 colour picture", "choose")),
    "single slice": (write_one("MR_small.dcm"), ("it has a single slice", "choose")),
    "localizer": (
        lambda folder: scanner.save(localizer("1.2.3"), folder),
        ("a localizer, single slices in different planes (axial and coronal and sagittal)",),
    ),
    "segmentation": (write_one("liver_1frame.dcm"), ("1 segmentation",)),
    "far apart": (write_changed(scatter), ("mm apart, which is no volume",)),
    "side by side": (write_changed(step_aside), ("don't lie over one another",)),
    "without a place": (write_changed(unplace), ("pictures without a place in the patient",)),
    "one value": (write_changed(blank), ("shows nothing: every voxel is 0",)),
    "cut": (write_cut, ("of 12 slices are truncated or damaged", "again")),
    "private syntax": (write_private_syntax, ("private coding", "export them again")),
    "wrong syntax": (write_wrong_syntax, ("truncated or damaged", "again")),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_folder_is_explained_in_one_line(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, words = BAD[kind]
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    with pytest.raises(BadInput) as caught:
        formats.read(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "Doe" not in message
    for word in words:
        assert word in message
    assert capfd.readouterr().err == ""


def test_a_damaged_header_does_not_hide_the_series(tmp_path: Path) -> None:
    folder = scanner.save(scanner.images(scanner.head()), tmp_path)
    (folder / "broken").write_bytes((folder / "IM0000").read_bytes()[:700])
    found = formats.read(folder)
    assert_same(found, scanner.head())


def test_a_damaged_file_is_not_answered_with_its_neighbours(tmp_path: Path) -> None:
    folder = scanner.save(scanner.images(scanner.head()), tmp_path)
    (folder / "broken").write_bytes((folder / "IM0000").read_bytes()[:300])
    with pytest.raises(BadInput, match=r"broken is no DICOM image, or truncated; .* again"):
        formats.read(folder / "broken")


def test_series_without_a_known_coding_is_read_if_it_is_plain(tmp_path: Path) -> None:
    for n, data in enumerate(scanner.images(scanner.head())):
        path = tmp_path / str(n)
        data.save_as(path, enforce_file_format=True)
        # Without the preamble and the meta group, as programs wrote before 1993.
        content = path.read_bytes()
        path.write_bytes(content[content.index(b"\x08\x00\x08\x00CS") :])
    assert_same(formats.read(tmp_path), scanner.head())


def test_a_file_of_another_kind_loads_no_dicom_library(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(scanner.head().data, np.eye(4)), tmp_path / "scan.nii")
    code = (
        "import sys; from segone_napari.data import formats; "
        f"formats.read({str(tmp_path / 'scan.nii')!r}); "
        "print({'segone_napari.data.dicom.study', 'nrrd'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
