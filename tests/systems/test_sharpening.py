"""Sharpening by brightness, on a phantom: a ball of one tissue in a block of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from segone_napari.runtime import Cancelled
from segone_napari.systems import sharpening
from segone_napari.systems.sharpening import Dense, SparseClasses, sharpen

NAMES = (
    "background",
    "left thalamus",
    "left cerebral white matter",
    "left lateral ventricle",
    "left inferior lateral ventricle",
    "tumour",
    "white matter lesions",
)
SPACING = (1.0, 1.0, 1.0)


def phantom() -> tuple[NDArray[np.int64], list[NDArray[np.float16]]]:
    """Class of every voxel, and probabilities as they come from coarse pixels."""
    x, y, z = np.indices((40, 44, 36)) - np.array([20, 22, 18])[:, None, None, None]
    truth = np.zeros((40, 44, 36), dtype=np.int64)
    truth[4:36, 4:40, 4:32] = 2
    truth[x * x + y * y + z * z < 64] = 1
    blurred = [
        ndimage.gaussian_filter((truth == c).astype(np.float32), 2.5) for c in range(len(NAMES))
    ]
    return truth, [part.astype(np.float16) for part in blurred]


def answering(parts: list[NDArray[np.float16]]) -> Callable[[int], Dense]:
    """Return what `sharpen` asks: a class's box and its probability there."""

    def probability(index: int) -> Dense:
        filled = np.argwhere(parts[index] > 0.01)
        if not len(filled):
            return (slice(0, 0),) * 3, np.zeros((0, 0, 0), np.float16)
        i, j, k = (
            slice(int(a), int(b) + 1) for a, b in zip(filled.min(0), filled.max(0), strict=True)
        )
        return (i, j, k), parts[index][i, j, k]

    return probability


def scan(truth: NDArray[np.int64], brightness: list[float], seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(0, 0.04, truth.shape)
    return torch.from_numpy((np.array(brightness)[truth] + noise).clip(0).astype(np.float32))


def mask(sharp: SparseClasses, index: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    box, values = sharp.probability([index])
    out = np.zeros(shape, dtype=bool)
    out[box] = values > 0.5
    return out


def dice(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


@pytest.mark.parametrize("brightness", [[0.1, 0.5, 0.9], [0.9, 0.7, 0.3], [0.0, 300.0, 800.0]])
def test_edges_follow_the_brightness_of_any_contrast(brightness: list[float]) -> None:
    truth, parts = phantom()
    noise = max(brightness)
    image = scan(truth, [b / noise for b in brightness] + [0.0] * 4) * noise
    sharp = sharpen(image, SPACING, NAMES, answering(parts))
    for index in (1, 2):
        before = dice(parts[index] > 0.5, truth == index)
        assert dice(mask(sharp, index, truth.shape), truth == index) > max(0.97, before)


def test_a_bias_field_is_taken_out() -> None:
    truth, parts = phantom()
    slope = torch.linspace(0.6, 1.4, 44)[:, None]
    image = scan(truth, [0.1, 0.6, 0.9, 0, 0, 0, 0]) * slope
    sharp = sharpen(image, SPACING, NAMES, answering(parts))
    assert dice(mask(sharp, 1, truth.shape), truth == 1) > 0.95


def test_equal_brightness_leaves_the_network_s_word() -> None:
    truth, parts = phantom()
    sharp = sharpen(scan(truth, [0.5] * 7), SPACING, NAMES, answering(parts))
    assert dice(mask(sharp, 1, truth.shape), parts[1] > 0.5) > 0.97


def test_a_thin_structure_has_the_look_of_its_larger_neighbour() -> None:
    truth, parts = phantom()
    truth[8:14, 8:14, 8:28] = 3
    truth[26:27, 10:20, 10:20] = 4
    image = scan(truth, [0.1, 0.6, 0.9, 0.2, 0.2, 0, 0])
    parts = [
        ndimage.gaussian_filter((truth == c).astype(np.float32), 1.2).astype(np.float16)
        for c in range(len(NAMES))
    ]
    sharp = sharpen(image, SPACING, NAMES, answering(parts))
    assert dice(parts[4] > 0.5, truth == 4) < 0.5 < dice(mask(sharp, 4, truth.shape), truth == 4)


def with_lesion(chance: float) -> tuple[NDArray[np.int64], list[NDArray[np.float16]]]:
    """The phantom with a lesion, and a second place that the network takes for one as well."""
    truth, parts = phantom()
    for place in (slice(28, 32), slice(7, 11)):
        parts[6][place, 10:14, 10:14] = chance
        parts[2][place, 10:14, 10:14] = 1 - chance
    truth[28:32, 10:14, 10:14] = 6
    return truth, parts


@pytest.mark.parametrize("lesion", [0.7, 1.1])
@pytest.mark.parametrize("chance", [0.45, 0.7])
def test_a_lesion_is_what_looks_unlike_white_matter(lesion: float, chance: float) -> None:
    truth, parts = with_lesion(chance)
    sharp = sharpen(scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, lesion]), SPACING, NAMES, answering(parts))
    assert dice(mask(sharp, 6, truth.shape), truth == 6) > 0.85


@pytest.mark.parametrize(
    ("grey", "lesion", "is_found"),
    [(0.6, 0.7, True), (0.6, 1.1, False), (1.2, 1.1, True), (1.2, 0.7, False), (0.9, 1.1, True)],
)
def test_a_lesion_differs_from_white_matter_as_grey_matter_does(
    grey: float, lesion: float, is_found: bool
) -> None:
    truth, parts = with_lesion(0.7)
    cortex = truth == 1  # the ball, which counts as cortex here
    names = ("background", "left cerebral cortex", *NAMES[2:])
    image = scan(truth, [0.1, grey, 0.9, 0, 0, 0, lesion])
    sharp = sharpen(image, SPACING, names, answering(parts))
    assert sharp.is_clear(6) == is_found
    assert (mask(sharp, 6, truth.shape)[truth == 6].mean() > 0.9) == is_found
    assert not mask(sharp, 6, truth.shape)[cortex].any()


def test_of_several_lesions_only_those_count_that_are_clearly_unlike_white_matter() -> None:
    truth, parts = with_lesion(0.95)
    image = scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, 0.5])
    image[7:11, 10:14, 10:14] -= 0.08  # two standard deviations
    sharp = sharpen(image, SPACING, NAMES, answering(parts))
    assert sharp.is_clear(6)
    assert dice(mask(sharp, 6, truth.shape), truth == 6) > 0.95
    assert mask(sharp, 2, truth.shape)[7:11, 10:14, 10:14].mean() < 0.1
    box, brain = sharp.probability([2, 6])
    i, j, k = (slice(s.start, s.stop) for s in box)
    whole = np.zeros(truth.shape)
    whole[i, j, k] = brain
    assert whole[7:11, 10:14, 10:14].min() > 0.95, "a part of something larger counts entirely"


def test_what_is_rather_no_lesion_counts_beside_a_clear_one_only() -> None:
    truth, parts = with_lesion(0.95)
    image = scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, 0.5])
    image[7:11, 10:14, 10:14] -= 0.08  # two standard deviations
    beside = (slice(32, 33), slice(10, 14), slice(10, 14))
    alone = (slice(14, 15), slice(30, 34), slice(10, 14))
    for place in (beside, alone):
        parts[6][place], parts[2][place] = 0.3, 0.7
        image[place] -= 0.1
    sharp = sharpen(image, SPACING, NAMES, answering(parts))
    box, values = sharp.probability([6])
    full = np.zeros(truth.shape)
    full[box] = values
    assert full[7:11, 10:14, 10:14].max() < sharpening.UNCLEAR + 1e-3
    assert 0.5 > full[beside].mean() > 1.5 * full[alone].mean() > 0


@pytest.mark.parametrize(("lesion", "is_clear"), [(0.5, True), (1.3, True), (0.82, False)])
def test_where_no_lesion_is_clear_what_was_seen_stays_and_is_called_unclear(
    lesion: float, is_clear: bool
) -> None:
    truth, parts = with_lesion(0.97)
    for part, chance in ((parts[6], 0.0), (parts[2], 1.0)):
        part[7:11, 10:14, 10:14] = chance
    sharp = sharpen(scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, lesion]), SPACING, NAMES, answering(parts))
    assert sharp.is_clear(6) == is_clear
    assert mask(sharp, 6, truth.shape)[truth == 6].any()


def test_tumours_keep_the_network_s_word() -> None:
    truth, parts = phantom()
    parts[5][28:32, 10:14, 10:14] = 0.75
    parts[2] = np.where(parts[5] > 0, parts[2] * np.float16(0.25), parts[2])
    sharp = sharpen(scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, 0]), SPACING, NAMES, answering(parts))
    box, values = sharp.probability([5])
    assert [(s.start, s.stop) for s in box] == [(28, 32), (10, 14), (10, 14)]
    np.testing.assert_array_equal(values, np.float16(0.75))
    total_box, total = sharp.probability([1, 2, 5])
    assert total.max() <= 1
    assert total_box != box


def test_a_few_planes_at_a_time_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, parts = phantom()
    truth[28:34, 28:34, 20:26] = 6  # lesions, of which it is also said how clear they are
    parts[6][28:34, 28:34, 20:26] = 0.5
    parts[5][4:9, 4:9, 4:9] = 0.6  # a tumour, which leaves less room for the others
    image = scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, 0.3])
    bias = torch.linspace(0.7, 1.3, truth.shape[0])[:, None, None]
    at_once = sharpen(image * bias, SPACING, NAMES, answering(parts))
    monkeypatch.setattr(sharpening, "AT_ONCE", 3 * truth.shape[1] * truth.shape[2])
    in_pieces = sharpen(image * bias, SPACING, NAMES, answering(parts))
    assert at_once.box == in_pieces.box
    assert at_once.parts.keys() == in_pieces.parts.keys() == {1, 2, 5, 6}
    assert at_once.is_clear(6)
    assert torch.equal(at_once.unclear[6], in_pieces.unclear[6])
    for index, part in at_once.parts.items():
        other = in_pieces.parts[index]
        assert torch.equal(part.voxels, other.voxels)
        torch.testing.assert_close(part.values, other.values)


@pytest.mark.parametrize("slices", [8, 14, 24, 36])
def test_voxels_that_looks_are_estimated_on_lie_in_all_slices(
    slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, parts = phantom()
    first = 18 - slices // 2
    asked: list[tuple[torch.Tensor, tuple[int, ...]]] = []
    cells = sharpening._cells

    def seen(voxels: torch.Tensor, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> Any:
        asked.append((voxels, shape))
        return cells(voxels, shape, spacing)

    monkeypatch.setattr(sharpening, "_cells", seen)
    monkeypatch.setattr(sharpening, "LOOKED_AT", 4000)
    of_slices = np.s_[:, :, first : first + slices]
    thin = [np.ascontiguousarray(part[of_slices]) for part in parts]
    image = scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, 0])[of_slices]
    sharpen(image, SPACING, NAMES, answering(thin))
    ((voxels, shape),) = asked
    counts = torch.bincount(voxels % shape[2], minlength=shape[2])
    assert counts.min() > 0.5 * counts.float().mean()


@pytest.mark.parametrize("place", [9, 10, 11])
def test_a_class_of_one_voxel_may_be_missed_where_looks_are_estimated(place: int) -> None:
    truth, parts = phantom()
    speck = np.zeros(truth.shape, np.float16)
    speck[20, 22, place] = 0.1
    names = (*NAMES, "brainstem")
    sharp = sharpen(scan(truth, [0.1, 0.5, 0.9]), SPACING, names, answering([*parts, speck]))
    assert sharp.probability([7])[1].shape == (1, 1, 1)


def test_nothing_seen_is_nothing() -> None:
    empty = [np.zeros((8, 8, 8), np.float16)] * len(NAMES)
    sharp = sharpen(torch.ones(8, 8, 8), SPACING, NAMES, answering(empty))
    assert sharp.probability([1, 2])[1].size == 0


def test_an_image_of_zeros_does_no_harm() -> None:
    truth, parts = phantom()
    sharp = sharpen(torch.zeros(truth.shape), SPACING, NAMES, answering(parts))
    assert np.isfinite(sharp.probability([1])[1].astype(np.float32)).all()


def test_sharpening_says_how_far_it_is_and_can_be_cancelled_at_each_step() -> None:
    truth, parts = phantom()
    image = scan(truth, [0.1, 0.5, 0.9, 0, 0, 0, 0])
    calls: list[tuple[int, int]] = []
    sharpen(image, SPACING, NAMES, answering(parts), progress=lambda *call: calls.append(call))
    done, totals = [call[0] for call in calls], {call[1] for call in calls}
    assert done == sorted(done)
    assert {done[-1]} == totals
    for step in {*done}:

        def cancel(now: int, total: int, step: int = step) -> None:
            if now == step:
                raise Cancelled

        with pytest.raises(Cancelled):
            sharpen(image, SPACING, NAMES, answering(parts), progress=cancel)
