"""Repairs of masks, against shapes whose right answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import measure, morphology

from segone_napari.editing import fill_holes, keep_largest_part, smooth

SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0), (3.0, 0.7, 1.0)]


def ball(
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
    radius_mm: float,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.uint8]:
    grid = np.indices(shape, dtype=float)
    mm = [(grid[n] - centre[n]) * spacing[n] for n in range(3)]
    return (sum(axis**2 for axis in mm) <= radius_mm**2).astype(np.uint8)


def dice(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def test_largest_part_is_kept_and_the_mask_given_is_not_changed() -> None:
    large, small = ball((30, 20, 20), (8, 9, 9), 5), ball((30, 20, 20), (22, 9, 9), 3)
    mask = large | small
    before = mask.copy()
    assert np.array_equal(keep_largest_part(mask), large)
    assert np.array_equal(keep_largest_part(mask, parts=2), mask)
    assert np.array_equal(mask, before)


def test_parts_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1, 1, 1] = mask[2, 2, 2] = mask[3, 3, 3] = mask[5, 0, 0] = 1
    assert keep_largest_part(mask).sum() == 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_are_filled_in_3d_and_slice_by_slice(axis: int) -> None:
    whole = ball((21, 21, 21), (10, 10, 10), 9)
    hollow = whole.copy()
    hollow[10, 10, 10] = 0
    assert np.array_equal(fill_holes(hollow), whole)
    # A tunnel along the axis is open in 3-D, and closed in every slice along that axis alone.
    tunnel = np.moveaxis(whole.copy(), axis, 0)
    tunnel[:, 10, 10] = 0
    tunnel = np.moveaxis(tunnel, 0, axis)
    assert np.array_equal(fill_holes(tunnel), tunnel)
    inner = tuple(np.s_[2:-2] if n == axis else np.s_[:] for n in range(3))
    assert np.array_equal(fill_holes(tunnel, axis=axis)[inner], whole[inner])
    assert np.array_equal(fill_holes(tunnel, axis=(axis + 1) % 3), tunnel)


def test_filling_agrees_with_another_library() -> None:
    noise = np.random.default_rng(0).random((14, 15, 16)) < 0.7
    # Holes of any size are small objects of the background that don't touch the border.
    framed = np.pad(noise, 1)
    labels = measure.label(~framed, connectivity=1)
    expected = (framed | (labels != labels[0, 0, 0]))[1:-1, 1:-1, 1:-1]
    assert expected.sum() > noise.sum()
    assert np.array_equal(fill_holes(noise), expected)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_smoothing_rounds_a_ragged_ball_and_keeps_its_volume(
    spacing: tuple[float, float, float],
) -> None:
    shape = tuple(int(24 / mm) for mm in spacing)
    truth = ball(shape, tuple((n - 1) / 2 for n in shape), 8, spacing)
    surface = morphology.dilation(truth) != morphology.erosion(truth)
    ragged = truth ^ (surface & (np.random.default_rng(1).random(shape) < 0.25))
    result = smooth(ragged, spacing, sigma_mm=1.5)
    assert result.sum() == ragged.sum()
    assert dice(result, truth) > dice(ragged, truth)
    assert dice(result, truth) > 0.93


def test_smoothing_one_axis_leaves_other_slices_alone() -> None:
    mask = np.zeros((5, 16, 16), np.uint8)
    mask[2, 4:12, 4:12] = 1
    result = smooth(mask, (1.0, 1.0, 1.0), sigma_mm=3.0, axis=0)
    assert not result[[0, 1, 3, 4]].any()
    assert result[2].sum() == mask[2].sum()
    corners = result[2, [4, 4, 11, 11], [4, 11, 4, 11]]
    assert not corners.any()


def test_nothing_comes_of_an_empty_mask() -> None:
    empty = np.zeros((4, 5, 6), np.uint8)
    for result in (
        keep_largest_part(empty),
        fill_holes(empty),
        fill_holes(empty, axis=1),
        smooth(empty, (1.0, 1.0, 1.0)),
        smooth(empty, (1.0, 1.0, 1.0), axis=2),
    ):
        assert result.shape == empty.shape
        assert not result.any()
