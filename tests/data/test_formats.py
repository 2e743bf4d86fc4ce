"""Files to volumes and back, and every way in which a file can be unusable."""

import errno
import gzip
import logging
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from segone_napari.data.formats import check_output, read, write, write_atomically
from segone_napari.runtime import BadInput, silenced
from segone_napari.volume import Grid, Volume

SHAPE = (9, 10, 11)


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
}


def numbers(dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def header_of(path: Path) -> bytearray:
    return bytearray(path.read_bytes())


# --- what is read and written -----------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", AFFINES)
def test_simpleitk_finds_written_voxels_at_the_same_place(
    tmp_path: Path, kind: str, ending: str
) -> None:
    volume = Volume.from_affine(numbers(), AFFINES[kind])
    image = sitk.ReadImage(write(volume, tmp_path / f"mask{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.data)
    for index in [(0, 0, 0), (8, 0, 0), (0, 9, 0), (0, 0, 10), (3, 7, 5)]:
        left, back, up = image.TransformIndexToPhysicalPoint(index)
        expected = nib.affines.apply_affine(volume.affine, index)
        np.testing.assert_allclose((-left, -back, up), expected, atol=1e-3)


@pytest.mark.parametrize("kind", AFFINES)
def test_volume_written_by_simpleitk_is_read_at_the_same_place(tmp_path: Path, kind: str) -> None:
    affine = AFFINES[kind]
    image = sitk.GetImageFromArray(numbers().T)
    to_lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    spacing = np.linalg.norm(to_lps, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps / spacing).flatten().tolist())
    image.SetOrigin((np.diag([-1.0, -1.0, 1.0]) @ affine[:3, 3]).tolist())
    sitk.WriteImage(image, tmp_path / "scan.nii.gz")
    volume = read(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.data, numbers())
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert volume.warnings == ()
    assert volume.name == "scan.nii.gz"


@pytest.mark.parametrize("ending", [".mgz", ".mgh"])
@pytest.mark.parametrize("kind", AFFINES)
def test_mgh_header_holds_the_affine(tmp_path: Path, kind: str, ending: str) -> None:
    volume = Volume.from_affine(numbers("uint8"), AFFINES[kind])
    path = write(volume, tmp_path / f"mask{ending}")
    content = path.read_bytes()
    if ending == ".mgz":
        content = gzip.decompress(content)
    # The format itself: sizes, type and "good" flag, spacing, directions, centre, then voxels.
    version, *sizes, _frames, _kind, _dof = struct.unpack(">7i", content[:28])
    (is_good,) = struct.unpack(">h", content[28:30])
    values = struct.unpack(">15f", content[30:90])
    linear = np.array(values[3:12]).reshape(3, 3).T * np.array(values[:3])
    centre = nib.affines.apply_affine(volume.affine, np.array(SHAPE) / 2)
    assert (version, tuple(sizes), is_good) == (1, SHAPE, 1)
    np.testing.assert_allclose(linear, volume.affine[:3, :3], atol=1e-4)
    np.testing.assert_allclose(values[12:], centre, atol=1e-3)
    voxels = np.frombuffer(content[284 : 284 + volume.data.size], dtype=np.uint8)
    np.testing.assert_array_equal(voxels.reshape(SHAPE, order="F"), volume.data)
    np.testing.assert_allclose(read(path).affine, volume.affine, atol=1e-3)


@pytest.mark.parametrize("kind", AFFINES)
@pytest.mark.parametrize("codes", [(1, 1), (4, 1), (2, 0), (0, 1), (0, 3)])
def test_sform_and_qform_codes_and_affine_survive(
    tmp_path: Path, kind: str, codes: tuple[int, int]
) -> None:
    image = nib.Nifti1Image(numbers(), AFFINES[kind])
    image.set_sform(AFFINES[kind], codes[0])
    image.set_qform(AFFINES[kind], codes[1])
    nib.save(image, tmp_path / "in.nii.gz")
    write(read(tmp_path / "in.nii.gz"), tmp_path / "out.nii.gz")
    header = nib.load(tmp_path / "out.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == codes
    np.testing.assert_allclose(header.get_best_affine(), AFFINES[kind], atol=1e-4)
    np.testing.assert_allclose(header.get_sform(), AFFINES[kind], atol=1e-4)
    np.testing.assert_allclose(header.get_qform(), AFFINES[kind], atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"


def test_sheared_affine_is_written_as_sform_even_without_its_code(tmp_path: Path) -> None:
    affine = np.array([[1, 0.2, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    grid = Grid(SHAPE, affine, sform_code=0, qform_code=1)
    path = write(Volume(numbers(), grid), tmp_path / "mask.nii")
    np.testing.assert_allclose(nib.load(path).affine, affine, atol=1e-5)


def test_file_without_codes_warns_about_left_and_right_and_keeps_its_place(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers(), None)
    image.header.set_zooms((0.9, 0.9, 3.0))
    nib.save(image, tmp_path / "in.nii")
    volume = read(tmp_path / "in.nii")
    assert any("left and right" in warning for warning in volume.warnings)
    written = nib.load(write(volume, tmp_path / "out.nii"))
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (0, 0)
    np.testing.assert_allclose(written.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(written.header.get_sform(), volume.affine, atol=1e-4)


def test_analyze_pair_is_read_with_a_warning_about_left_and_right(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(numbers(), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "old.img")
    volume = read(tmp_path / "old.img")
    np.testing.assert_array_equal(volume.data, numbers())
    assert any("left and right" in warning for warning in volume.warnings)


def test_mgh_without_geometry_warns_about_left_and_right(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(numbers(), np.eye(4)), tmp_path / "in.mgh")
    content = header_of(tmp_path / "in.mgh")
    content[28:30] = struct.pack(">h", 0)
    (tmp_path / "in.mgh").write_bytes(content)
    assert any("left and right" in warning for warning in read(tmp_path / "in.mgh").warnings)


def test_disagreeing_sform_and_qform_are_reported(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers(), np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.set_qform(rotated(0, (1, 1, 1)), 1)
    nib.save(image, tmp_path / "in.nii")
    volume = read(tmp_path / "in.nii")
    np.testing.assert_allclose(volume.affine, np.eye(4))
    assert any("disagree" in warning for warning in volume.warnings)


def test_singular_sform_gives_way_to_a_good_qform_with_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "in.nii", numbers(), AFFINES["oblique"])
    content = header_of(path)
    content[252:256] = struct.pack("<2h", 1, 1)
    content[280:328] = struct.pack("<12f", *([0.0] * 12))
    path.write_bytes(content)
    volume = read(path)
    np.testing.assert_allclose(volume.affine, AFFINES["oblique"], atol=1e-4)
    assert any("qform" in warning for warning in volume.warnings)


def test_metres_become_millimetres_with_a_warning(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers(), np.diag([0.001, 0.001, 0.002, 1.0]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "in.nii")
    volume = read(tmp_path / "in.nii")
    np.testing.assert_allclose(volume.grid.spacing, (1, 1, 2), rtol=1e-5)
    assert any("meter" in warning for warning in volume.warnings)


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "uint16", "int32", "float32"])
def test_unscaled_voxels_keep_their_dtype_in_native_byte_order(tmp_path: Path, dtype: str) -> None:
    image = nib.Nifti1Image(numbers(dtype), np.eye(4))
    if dtype.startswith(">"):
        image = nib.Nifti1Image(numbers(dtype), np.eye(4), nib.Nifti1Header(endianness=">"))
    image.set_data_dtype(np.dtype(dtype).newbyteorder("="))
    nib.save(image, tmp_path / "in.nii.gz")
    volume = read(tmp_path / "in.nii.gz")
    assert volume.data.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.data.dtype.isnative
    np.testing.assert_array_equal(volume.data, numbers())


def test_scale_factor_of_the_file_is_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "in.nii", numbers())
    content = header_of(path)
    content[112:120] = struct.pack("<2f", 0.5, 10.0)
    path.write_bytes(content)
    volume = read(path)
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data, numbers() * 0.5 + 10)


@pytest.mark.parametrize(
    ("dtype", "written"),
    [
        ("bool", "uint8"),
        ("uint8", "uint8"),
        ("int8", "int16"),
        ("int16", "int16"),
        ("uint16", "uint16"),
        ("int64", "int32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float32"),
    ],
)
def test_dtype_is_written_as_one_that_every_reader_knows(
    tmp_path: Path, dtype: str, written: str
) -> None:
    data = numbers().clip(0, 1 if dtype == "bool" else 100).astype(dtype)
    path = write(Volume.from_affine(data, np.eye(4)), tmp_path / "out.nii.gz")
    assert nib.load(path).get_data_dtype() == written
    stored = sitk.GetArrayFromImage(sitk.ReadImage(path)).T
    np.testing.assert_array_equal(stored, data.astype(written))


def test_single_volume_of_a_4d_file_is_taken_as_3d(tmp_path: Path) -> None:
    volume = read(save(tmp_path / "in.nii.gz", numbers()[..., None]))
    np.testing.assert_array_equal(volume.data, numbers())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_chosen_volume_of_a_4d_file_is_read(tmp_path: Path, ending: str) -> None:
    series = np.stack([numbers(), numbers() + 1, numbers() + 2], axis=-1)
    volume = read(save(tmp_path / f"in{ending}", series), volume=2)
    np.testing.assert_array_equal(volume.data, numbers() + 2)


def test_voxels_too_large_for_a_body_are_refused_and_tiny_ones_are_doubted(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    for mm in (500.0, 0.01):
        nib.save(nib.Nifti1Image(voxels, np.diag([mm, mm, mm, 1])), tmp_path / f"{mm}.nii")
    with pytest.raises(BadInput, match=r"500 × 500 × 500 mm; correct the spacing"):
        read(tmp_path / "500.0.nii")
    (doubt,) = (one for one in read(tmp_path / "0.01.nii").warnings if "small" in one)
    assert "0.08 × 0.09 × 0.1 mm small" in doubt


def test_non_finite_voxels_become_background_with_a_warning(tmp_path: Path) -> None:
    data = numbers("float32") - 50
    data[0, 0, :3] = (np.nan, np.inf, -np.inf)
    volume = read(save(tmp_path / "in.nii", data))
    assert np.all(np.isfinite(volume.data))
    np.testing.assert_array_equal(volume.data[0, 0, :3], volume.data.min())
    assert any("3 voxels" in warning for warning in volume.warnings)


def test_equal_volumes_give_equal_files(tmp_path: Path) -> None:
    volume = Volume.from_affine(numbers(), np.eye(4))
    first, second = (
        write(volume, tmp_path / name).read_bytes() for name in ("a.nii.gz", "b.nii.gz")
    )
    assert first == second


# --- what can't be read -----------------------------------------------------------------------


def _empty(folder: Path) -> Path:
    (folder / "scan.nii.gz").write_bytes(b"")
    return folder / "scan.nii.gz"


def _text(folder: Path) -> Path:
    (folder / "scan.nii").write_text("This is no image at all. " * 100)
    return folder / "scan.nii"


def _picture(folder: Path) -> Path:
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n")
    return folder / "photo.png"


def _truncated(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz", numbers())
    path.write_bytes(path.read_bytes()[:-200])
    return path


def _truncated_in_the_header(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz", numbers())
    path.write_bytes(path.read_bytes()[:40])
    return path


def _truncated_uncompressed(folder: Path) -> Path:
    path = save(folder / "scan.nii", numbers())
    path.write_bytes(path.read_bytes()[:-200])
    return path


def _truncated_mgz(folder: Path) -> Path:
    nib.save(nib.MGHImage(numbers(), np.eye(4)), folder / "scan.mgz")
    (folder / "scan.mgz").write_bytes((folder / "scan.mgz").read_bytes()[:-300])
    return folder / "scan.mgz"


def _corrupt(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz", numbers())
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    path.write_bytes(content)
    return path


def _wrong_checksum(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz", numbers())
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    return path


def _not_compressed(folder: Path) -> Path:
    path = save(folder / "scan.nii", numbers())
    return path.rename(folder / "scan.nii.gz")


def _compressed(folder: Path) -> Path:
    path = save(folder / "scan.nii.gz", numbers())
    return path.rename(folder / "scan.nii")


def _rgb(folder: Path) -> Path:
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return save(folder / "scan.nii", colours)


def _singular(folder: Path) -> Path:
    path = save(folder / "scan.nii", numbers())
    content = header_of(path)
    content[252:256] = struct.pack("<2h", 0, 1)
    content[280:328] = struct.pack("<12f", 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0)
    path.write_bytes(content)
    return path


def _not_finite(folder: Path) -> Path:
    path = save(folder / "scan.nii", numbers())
    content = header_of(path)
    content[252:256] = struct.pack("<2h", 0, 1)
    content[280:328] = struct.pack("<12f", *([float("nan")] * 12))
    path.write_bytes(content)
    return path


def _bad_quaternion(folder: Path) -> Path:
    path = save(folder / "scan.nii", numbers())
    content = header_of(path)
    content[252:256] = struct.pack("<2h", 1, 0)
    content[256:268] = struct.pack("<3f", 5.0, float("nan"), 5.0)
    path.write_bytes(content)
    return path


def _claims_too_much(folder: Path, *, is_compressed: bool) -> Path:
    header = nib.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header["dim"] = [3, 100_000, 100_000, 100_000, 1, 1, 1, 1]
    header["vox_offset"] = 544
    header["magic"] = b"n+2\0\r\n\x1a\n"
    content = header.binaryblock + bytes(10_000)
    path = folder / ("scan.nii.gz" if is_compressed else "scan.nii")
    path.write_bytes(gzip.compress(content) if is_compressed else content)
    return path


def _claims_too_much_mgz(folder: Path) -> Path:
    header = struct.pack(">7ih", 1, 100_000, 100_000, 100_000, 1, 0, 0, 1)
    values = struct.pack(">15f", 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    path = folder / "scan.mgz"
    path.write_bytes(gzip.compress((header + values).ljust(284, b"\0") + bytes(1000)))
    return path


def _claims_a_lot(folder: Path) -> Path:
    path = save(folder / "scan.nii", numbers("uint8"))
    content = header_of(path)
    content[42:48] = struct.pack("<3h", 900, 900, 900)
    (folder / "scan.nii.gz").write_bytes(gzip.compress(bytes(content)))
    return folder / "scan.nii.gz"


def _other_header(folder: Path, words: str, opened: str = "cube.hdr") -> Path:
    (folder / "cube.hdr").write_text(words)
    (folder / "cube.img").write_bytes(bytes(4000))
    return folder / opened


def _half_a_pair(folder: Path, lost: str) -> Path:
    nib.save(nib.Nifti1Pair(numbers(), np.eye(4)), folder / "scan.img")
    (folder / f"scan{lost}").unlink()
    return folder / ("scan.img" if lost == ".hdr" else "scan.hdr")


BAD: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "missing": (lambda folder: folder / "none.nii", ("no such file", "none.nii")),
    "folder": (lambda folder: folder, ("is a folder",)),
    "folder with an image's name": (
        lambda folder: (folder / "x.nii").mkdir() or folder / "x.nii",
        ("is a folder",),
    ),
    "empty": (_empty, ("0 bytes", "again")),
    "text": (_text, ("not an image",)),
    "picture": (_picture, ("not an image", ".nii.gz")),
    "truncated": (_truncated, ("truncated or corrupt", "again")),
    "truncated in the header": (_truncated_in_the_header, ("truncated", "again")),
    "truncated .nii": (_truncated_uncompressed, ("truncated", "again")),
    "truncated .mgz": (_truncated_mgz, ("truncated", "again")),
    "corrupt": (_corrupt, ("truncated or corrupt",)),
    "wrong checksum": (_wrong_checksum, ("truncated or corrupt",)),
    "not compressed": (_not_compressed, ("not compressed",)),
    "compressed": (_compressed, ("rename it .nii.gz",)),
    "2-D": (lambda folder: save(folder / "a.nii", numbers()[..., 0]), ("2-D", "9×10")),
    "one slice": (lambda folder: save(folder / "a.nii", numbers()[..., :1]), ("2-D",)),
    "4-D": (
        lambda folder: save(folder / "a.nii.gz", np.stack([numbers()] * 5, -1)),
        ("4-D", "5 volumes", "--volume N", "0 to 4"),
    ),
    "5-D": (
        lambda folder: save(folder / "a.nii", np.zeros((8, 8, 8, 1, 3), np.float32)),
        ("5 dimensions",),
    ),
    "RGB": (_rgb, ("RGB", "grey")),
    "complex": (
        lambda folder: save(folder / "a.nii", numbers("complex64")),
        ("complex", "magnitude"),
    ),
    "all zero": (
        lambda folder: save(folder / "a.nii.gz", np.zeros(SHAPE, np.uint8)),
        ("every voxel is 0",),
    ),
    "constant": (
        lambda folder: save(folder / "a.nii", np.full(SHAPE, 7, np.int16)),
        ("every voxel is 7",),
    ),
    "only NaN": (
        lambda folder: save(folder / "a.nii", np.full(SHAPE, np.nan, np.float32)),
        ("finite",),
    ),
    "singular affine": (_singular, ("affine is singular", "convert")),
    "affine of NaN": (_not_finite, ("not finite", "convert")),
    "impossible quaternion": (_bad_quaternion, ("affine", "convert")),
    "huge claim": (
        lambda folder: _claims_too_much(folder, is_compressed=False),
        ("claims 100000×100000×100000 voxels",),
    ),
    "huge claim, compressed": (
        lambda folder: _claims_too_much(folder, is_compressed=True),
        ("claims 100000×100000×100000 voxels",),
    ),
    "huge claim, .mgz": (_claims_too_much_mgz, ("claims 100000×100000×100000",)),
    "ENVI header": (
        lambda folder: _other_header(folder, "ENVI\nsamples = 10\nlines = 10\nbands = 10\n"),
        ("cube.hdr is an ENVI header", "convert"),
    ),
    "image of an ENVI header": (
        lambda folder: _other_header(folder, "ENVI\nsamples = 10\n", "cube.img"),
        ("cube.hdr is an ENVI header", "convert"),
    ),
    "Radiance picture": (
        lambda folder: _other_header(folder, "#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n"),
        ("is a picture (Radiance HDR)",),
    ),
    "header of an unknown program": (
        lambda folder: _other_header(folder, "width 10 height 10"),
        ("not one of NIfTI or Analyze", "convert"),
    ),
    ".img without .hdr": (lambda folder: _half_a_pair(folder, ".hdr"), ("other half", "copy both")),
    ".hdr without .img": (lambda folder: _half_a_pair(folder, ".img"), ("other half", "copy both")),
    "claim beyond any compression": (_claims_a_lot, ("claims 900×900×900",)),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_file_is_explained_in_one_line(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, words = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(BadInput) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("volume", [-1, 3])
def test_volume_that_is_not_there_is_refused(tmp_path: Path, volume: int) -> None:
    path = save(tmp_path / "a.nii", np.stack([numbers()] * 3, -1))
    with pytest.raises(BadInput, match=r"no volume .* 0 to 2"):
        read(path, volume=volume)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_file_without_permission_is_explained(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", numbers())
    path.chmod(0)
    with pytest.raises(BadInput, match="permission"):
        read(path)


# --- what can't be written --------------------------------------------------------------------


def test_existing_file_is_kept_without_force_and_replaced_with_it(tmp_path: Path) -> None:
    path = save(tmp_path / "out.nii.gz", numbers())
    before = path.read_bytes()
    other = Volume.from_affine(numbers() + 1, np.eye(4))
    with pytest.raises(BadInput, match="--force"):
        write(other, path)
    assert path.read_bytes() == before
    write(other, path, force=True)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), numbers() + 1)
    assert os.listdir(tmp_path) == ["out.nii.gz"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.png", "ending"),
        ("nowhere/out.nii", "does not exist"),
        ("taken.nii", "is a folder"),
        ("x" * 300 + ".nii", "can't be written"),
    ],
)
def test_impossible_output_is_explained(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "taken.nii").mkdir()
    with pytest.raises(BadInput, match=words):
        write(Volume.from_affine(numbers(), np.eye(4)), tmp_path / name, force=True)
    assert os.listdir(tmp_path) == ["taken.nii"]


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs a folder nobody can write to")
def test_folder_that_refuses_files_is_explained() -> None:
    with pytest.raises(BadInput, match="can't be written"):
        write(Volume.from_affine(numbers(), np.eye(4)), "/proc/sys/out.nii")


def test_full_disk_is_explained_and_leaves_the_former_file(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("former")

    def fill(stream: BinaryIO) -> None:
        stream.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BadInput, match="disk is full"):
        write_atomically(tmp_path / "table.csv", fill, force=True)
    assert (tmp_path / "table.csv").read_text() == "former"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(stream: BinaryIO) -> None:
        stream.write(b"half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "table.csv", interrupt)
    assert os.listdir(tmp_path) == []


def test_output_can_be_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "there.nii").write_bytes(b"")
    assert check_output(tmp_path / "new.nii") == tmp_path / "new.nii"
    with pytest.raises(BadInput, match="--force"):
        check_output(tmp_path / "there.nii")
    assert check_output(tmp_path / "there.nii", force=True) == tmp_path / "there.nii"


def test_nibabel_prints_nothing_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = save(tmp_path / "odd.nii", numbers())
    content = header_of(path)
    content[70:72] = struct.pack("<h", 999)  # a type of voxels that there isn't
    path.write_bytes(content)
    with pytest.raises(BadInput):
        read(path)
    assert capfd.readouterr().err == ""


def test_nibabel_may_speak_again_after_two_have_read_at_once() -> None:
    logger = nib.imageglobals.logger
    before, is_inside, may_end = logger.level, threading.Event(), threading.Event()

    def read_too() -> None:
        with silenced(logger.name):
            is_inside.set()
            may_end.wait(5)

    other = threading.Thread(target=read_too)
    with silenced(logger.name):
        other.start()
        is_inside.wait(0.2)
        assert not logger.isEnabledFor(logging.CRITICAL)
    assert is_inside.wait(5)
    assert not logger.isEnabledFor(logging.CRITICAL)
    may_end.set()
    other.join()
    assert (logger.level, logger.disabled) == (before, False)
