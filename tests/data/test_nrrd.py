"""NRRD images in: written by SimpleITK and by hand, and read at the same place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from segone_napari.data import formats
from segone_napari.data.choices import ManyVolumes
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume

SHAPE = (7, 8, 9)
DATA = np.random.default_rng(0).integers(-200, 900, SHAPE).astype(np.int16)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.3, -0.2) @ np.diag([-0.9, 1.1, 2.5]), (12.0, -20.0, -15.0)
)


def save_with_simpleitk(path: Path, volume: Volume, *, compress: bool) -> Path:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(volume.data.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, path, compress)
    return path


def write(path: Path, fields: str, data: np.ndarray = DATA) -> Path:
    """Write a header of these fields, and the voxels as they are."""
    sizes = " ".join(str(size) for size in data.shape)
    head = (
        f"NRRD0005\ntype: int16\ndimension: {data.ndim}\nsizes: {sizes}\n"
        f"endian: little\nencoding: raw\n{fields}\n\n"
    )
    path.write_bytes(head.encode() + data.astype("<i2").tobytes(order="F"))
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["scan.nrrd", "scan.nhdr", "labels.seg.nrrd"])
def test_image_of_simpleitk_is_read_at_the_same_place(
    tmp_path: Path, name: str, compress: bool
) -> None:
    volume = Volume.from_affine(DATA, OBLIQUE)
    found = formats.read(save_with_simpleitk(tmp_path / name, volume, compress=compress))
    np.testing.assert_array_equal(found.data, DATA)
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-6)
    assert found.data.dtype == np.int16
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("space", "factors"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LPS", (-1, -1, 1)),
    ],
)
def test_every_space_is_turned_to_ras(tmp_path: Path, space: str, factors: tuple[int, ...]) -> None:
    fields = f"space: {space}\nspace directions: (2,0,0) (0,0,3) (0,4,0)\nspace origin: (10,20,30)"
    found = formats.read(write(tmp_path / "scan.nrrd", fields))
    expected = np.array([[2, 0, 0, 10], [0, 0, 4, 20], [0, 3, 0, 30], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(found.affine, np.diag([*factors, 1]) @ expected)


def test_micrometres_become_mm_and_it_is_said(tmp_path: Path) -> None:
    fields = (
        "space: RAS\nspace directions: (2000,0,0) (0,2000,0) (0,0,2000)\n"
        'space origin: (0,0,0)\nspace units: "um" "um" "um"'
    )
    found = formats.read(write(tmp_path / "scan.nrrd", fields))
    assert found.grid.spacing == (2.0, 2.0, 2.0)
    assert "measured in um" in found.warnings[0]


@pytest.mark.parametrize("axis", [0, 3])
def test_volumes_along_either_end_are_chosen_from(tmp_path: Path, axis: int) -> None:
    data = np.stack([DATA, DATA + 1, DATA + 2], axis=axis)
    rows = ["(2,0,0)", "(0,2,0)", "(0,0,2)"]
    rows.insert(axis, "none")
    fields = f"space: RAS\nspace directions: {' '.join(rows)}\nspace origin: (0,0,0)"
    path = write(tmp_path / "scan.nrrd", fields, data)
    with pytest.raises(ManyVolumes, match="--volume N, N from 0 to 2"):
        formats.read(path)
    np.testing.assert_array_equal(formats.read(path, volume=2).data, DATA + 2)


def test_image_without_a_space_is_read_and_its_side_is_said_to_be_unknown(tmp_path: Path) -> None:
    found = formats.read(write(tmp_path / "scan.nrrd", "spacings: 2 3 4"))
    assert found.grid.spacing == (2.0, 3.0, 4.0)
    assert not formats.says_orientation(found)
    assert "left and right can't be known" in found.warnings[0]


@pytest.mark.parametrize("directions", ["LPS", "PSR", "IAL"])
def test_a_person_can_say_how_the_axes_lie(tmp_path: Path, directions: str) -> None:
    found = formats.read(write(tmp_path / "scan.nrrd", "spacings: 2 3 4"))
    turned = formats.oriented(found, directions)
    assert turned.grid.orientation == directions
    assert turned.grid.spacing == (2.0, 3.0, 4.0)
    assert formats.says_orientation(turned)
    centre = (np.array(SHAPE) - 1) / 2
    np.testing.assert_allclose(
        nib.affines.apply_affine(turned.affine, centre),
        nib.affines.apply_affine(found.affine, centre),
    )
    np.testing.assert_array_equal(turned.data, DATA)


def test_what_else_a_file_says_stays_when_a_person_says_how_it_lies(tmp_path: Path) -> None:
    data = DATA.astype(np.float32)
    data[0, 0, 0] = np.nan
    image = nib.Nifti1Image(data, None)
    nib.save(image, tmp_path / "scan.nii")
    found = formats.read(tmp_path / "scan.nii")
    assert len(found.warnings) == 2
    first, last = formats.oriented(found, "LPS").warnings
    assert "NaN" in first
    assert last.endswith("LPS was chosen")


@pytest.mark.parametrize("encoding", ["bzip2", "gzip"])
def test_mask_that_shrinks_to_almost_nothing_is_read(tmp_path: Path, encoding: str) -> None:
    mask = np.zeros((200, 200, 200), np.uint8)
    mask[90:110, 90:110, 90:110] = 1
    header = {"spacings": [1, 1, 1], "encoding": encoding}
    nrrd.write(str(tmp_path / "mask.nrrd"), mask, header)
    np.testing.assert_array_equal(formats.read(tmp_path / "mask.nrrd").data, mask)


def cut(path: Path) -> Path:
    save_with_simpleitk(path, Volume.from_affine(DATA, OBLIQUE), compress=True)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def lonely(path: Path) -> Path:
    path = path.with_suffix(".nhdr")
    save_with_simpleitk(path, Volume.from_affine(DATA, OBLIQUE), compress=False)
    path.with_suffix(".raw").unlink()
    return path


def text(path: Path) -> Path:
    path.write_text("not an image at all")
    return path


def greedy(path: Path) -> Path:
    content = write(path, "spacings: 1 1 1").read_bytes()
    path.write_bytes(content.replace(b"sizes: 7 8 9", b"sizes: 900 800 900"))
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut": (cut, "truncated or corrupt"),
    "without its voxels": (lonely, "needs the file with its voxels beside it"),
    "text": (text, "not an NRRD image"),
    "huge claim": (greedy, "the header claims 648000000 voxels"),
    "flat": (lambda path: write(path, "", DATA[:, :, :1]), "a 2-D image (7×8×1)"),
    "colours": (
        lambda path: write(path, "kinds: RGB-color domain domain domain", DATA[:3][..., None]),
        "RGB colours",
    ),
    "singular": (
        lambda path: write(
            path, "space: RAS\nspace directions: (1,0,0) (1,0,0) (0,0,1)\nspace origin: (0,0,0)"
        ),
        "does not say where its voxels lie",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_file_is_explained_in_one_line(tmp_path: Path, kind: str) -> None:
    make, words = BAD[kind]
    path = make(tmp_path / "scan.nrrd")
    with pytest.raises(BadInput) as caught:
        formats.read(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("space", ["space dimension: 4", "space: left-posterior-superior-time"])
def test_volumes_in_time_with_a_direction_of_time_are_read(tmp_path: Path, space: str) -> None:
    rows = "(2,0,0,0) (0,3,0,0) (0,0,4,0) (0,0,0,1.5)"
    fields = f"{space}\nspace directions: {rows}\nspace origin: (10,20,30,0)"
    data = np.stack([DATA, 2 * DATA], axis=3)
    path = write(tmp_path / "time.nrrd", fields, data)
    with pytest.raises(ManyVolumes):
        formats.read(path)
    volume = formats.read(path, volume=1)
    np.testing.assert_array_equal(volume.data, 2 * DATA)
    np.testing.assert_allclose(volume.grid.spacing, (2, 3, 4))


def test_volumes_in_time_of_itk_are_read(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(DATA.T)
    image.SetSpacing((1.0, 2.0, 3.0))
    sitk.WriteImage(sitk.JoinSeries([image, 2 * image]), tmp_path / "time.nrrd")
    volume = formats.read(tmp_path / "time.nrrd", volume=1)
    np.testing.assert_array_equal(volume.data, 2 * DATA)
    np.testing.assert_allclose(volume.grid.spacing, (1, 2, 3))
