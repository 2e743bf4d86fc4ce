"""One slice's mask carried to its neighbours: how far, how well, and where it ends."""

import numpy as np
import pytest

from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.models.spreading import REACH_MM, spread
from segone_napari.models.teacher import Proposal, Teacher
from segone_napari.runtime import BadInput

MM = (1.0, 1.0, 1.0)
HIPPOCAMPUS, THALAMUS, PUTAMEN = 17, 10, 51


class Copies:
    """A teacher that is always sure, and says of every slice what it is told about the last."""

    quality = 0.9

    def set_slice(self, image, spacing=(1.0, 1.0)):
        pass

    def predict(self, box=None, points=None, labels=None, mask=None):
        return Proposal(np.asarray(mask, dtype=np.float32), self.quality)


@pytest.fixture
def bar():
    """A bright bar of 8 mm across 30 slices, in noise; it ends behind slice 17."""
    image = np.random.default_rng(0).normal(100, 5, (30, 40, 40)).astype(np.float32)
    image[5:18, 16:24, 16:24] += 80
    return image


def of_bar(image) -> np.ndarray:
    mask = np.zeros(image.shape[1:], bool)
    mask[16:24, 16:24] = True
    return mask


def test_spreading_reaches_a_few_millimetres_and_says_so(bar) -> None:
    result = spread(Copies(), bar, 0, 11, of_bar(bar), MM)
    assert (result.first, len(result.masks)) == (11 - REACH_MM, 2 * REACH_MM + 1)
    assert "5 mm" in result.before
    assert "5 mm" in result.after
    for mask in result.masks:
        assert (mask != of_bar(bar)).mean() < 0.005


def test_spreading_goes_to_the_next_slice_at_least(bar) -> None:
    result = spread(Copies(), bar, 0, 11, of_bar(bar), (6.5, 1.0, 1.0))
    assert (result.first, len(result.masks)) == (10, 3)


def test_spreading_ends_with_the_structure_though_the_teacher_is_sure(bar) -> None:
    result = spread(Copies(), bar, 0, 15, of_bar(bar), MM)
    assert result.first + len(result.masks) == 18
    assert "mm" not in result.after


def test_spreading_ends_where_the_teacher_is_no_longer_sure(bar) -> None:
    teacher = Copies()
    teacher.quality = 0.2
    result = spread(teacher, bar, 0, 11, of_bar(bar), MM)
    assert len(result.masks) == 1
    assert "sure" in result.after


def test_spreading_ends_before_slices_that_are_settled(bar) -> None:
    result = spread(Copies(), bar, 0, 11, of_bar(bar), MM, settled={9, 12})
    assert (result.first, len(result.masks)) == (10, 2)
    assert "you corrected" in result.before


def test_nothing_can_not_be_spread(bar) -> None:
    with pytest.raises(BadInput, match="nothing to spread"):
        spread(Copies(), bar, 0, 11, np.zeros(bar.shape[1:]), MM)


@pytest.mark.parametrize("label", [HIPPOCAMPUS, THALAMUS, PUTAMEN])
def test_bundled_teacher_spreads_on_a_real_scan_without_leaking(label) -> None:
    sample = SAMPLES["t1"]
    image = formats.read(sample.image_path)
    truth = formats.read(sample.image_path.with_name("aparc.a2009s+aseg.mgz")).data == label
    axis = 1
    start = int(truth.sum(axis=(0, 2)).argmax())
    known = truth[:, start]
    result = spread(Teacher.load(device="cpu"), image.data, axis, start, known, image.grid.spacing)
    there = np.moveaxis(truth, axis, 0)[result.first : result.first + len(result.masks)]
    assert len(result.masks) > 3
    assert there.any(axis=(1, 2)).all()
    dice = 2 * (there & (result.masks != 0)).sum() / (there.sum() + result.masks.sum())
    assert dice > 0.8
