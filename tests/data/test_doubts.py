"""An image that can be read and yet can't be an MRI is doubted, however it comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from segone_napari.cli import main
from segone_napari.data import formats
from segone_napari.data.doubts import doubts_about_values
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume
from tests.exports.cases import save_series
from tests.fakes import head

SHAPE = (40, 36, 20)


def noise(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(100.0, 10.0, SHAPE).astype(np.float32)


def mask() -> NDArray[np.uint8]:
    return (noise() > 100).astype(np.uint8)


def speckled() -> NDArray[np.float32]:
    """Something smooth with a few voxels that outshine it."""
    data = ndimage.gaussian_filter(noise(), 2.0)
    data[::9, ::9, ::9] = 1e6
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (mask(), "only 2 different values; is it a mask or a label map?"),
        (noise(), "looks like pure noise"),
        (noise().round().astype(np.int16), "looks like pure noise"),
        (speckled(), ""),
        (ndimage.gaussian_filter(noise(), 1.0) + noise(1) / 20, ""),
        (head().data, ""),
    ],
)
def test_values_that_no_mri_has_are_doubted(data: NDArray[np.generic], words: str) -> None:
    said = doubts_about_values(data)
    assert len(said) == bool(words)
    assert words in " ".join(said)


@pytest.mark.parametrize("kind", ["file", "series"])
def test_a_mask_that_was_opened_as_an_image_is_doubted(tmp_path: Path, kind: str) -> None:
    volume = Volume.from_affine(mask(), np.diag([1.0, 1.0, 2.0, 1.0]))
    path = tmp_path / ("mask.nii.gz" if kind == "file" else "series")
    if kind == "file":
        formats.write(volume, path)
        assert formats.read(path, may_be_empty=True).warnings == ()  # where a mask is wanted
    else:
        save_series(path, volume)
    assert [one for one in formats.read(path).warnings if "only 2 different values" in one]


def test_series_of_an_impossible_size_is_refused_and_a_tiny_one_is_doubted(tmp_path: Path) -> None:
    data = (head().data[:16, :16, :12]).astype(np.int16)
    for mm in (400.0, 0.05):
        affine = np.diag([mm, mm, min(mm, 4.0), 1.0])
        save_series(tmp_path / f"{mm}", Volume.from_affine(data, affine))
    with pytest.raises(BadInput, match=r"400 × 400 × 4 mm; correct the spacing"):
        formats.read(tmp_path / "400.0")
    (doubt,) = (one for one in formats.read(tmp_path / "0.05").warnings if "small" in one)
    assert "0.8 × 0.8 × 0.6 mm small" in doubt


def test_command_doubts_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = formats.write(Volume.from_affine(mask(), np.eye(4)), tmp_path / "mask.nii.gz")
    main(["segment", str(path), "-p", "liver"])
    assert "segone: warning: this image has only 2 different" in capsys.readouterr().err
