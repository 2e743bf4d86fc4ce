"""Outlining the slices between corrected ones, on grids of any order and direction."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from segone_napari.runtime import BadInput
from segone_napari.systems.following import follow
from segone_napari.volume import Volume

SHAPE = (48, 56, 30)
AXIS, GIVEN = 2, (5, 14, 24)
NOTHING = np.zeros(SHAPE, dtype=np.uint8)


def bent_body() -> NDArray[np.bool_]:
    """A body that moves, grows and shrinks from slice to slice."""
    x, y, z = np.indices(SHAPE).astype(float)
    course = 22 + 8 * np.sin(z / 7), 28 + 9 * np.cos(z / 9)
    return np.asarray(
        (np.hypot(x - course[0], y - course[1]) < 6 + 3 * np.sin(z / 5)) & (z > 3) & (z < 26)
    )


def image_of(body: NDArray[np.bool_], affine: NDArray[np.float64] | None = None) -> Volume:
    noise = np.random.default_rng(0).normal(0, 6, SHAPE)
    affine = np.eye(4) if affine is None else affine
    return Volume.from_affine((40 + 30 * body + noise).astype(np.float32), affine, "block")


def only(body: NDArray[np.bool_], slices: tuple[int, ...]) -> NDArray[np.uint8]:
    kept = np.zeros(SHAPE, dtype=np.uint8)
    kept[:, :, list(slices)] = body[:, :, list(slices)]
    return kept


def dice(a: NDArray[np.integer], b: NDArray[np.bool_]) -> float:
    return float(2 * ((a > 0) & b).sum() / ((a > 0).sum() + b.sum()))


def between(mask: NDArray) -> NDArray:
    return mask[:, :, [n for n in range(GIVEN[0], GIVEN[-1]) if n not in GIVEN]]


OBLIQUE = nib.affines.from_matvec(
    np.array([[0.0, 0.94, 0.34], [-1.0, 0.0, 0.0], [0.0, -0.34, 0.94]]) @ np.diag([0.9, 0.9, 1.2]),
    [12.0, -30.0, 7.0],
)
FLIPPED = nib.affines.from_matvec(np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]]), [3.0, 4.0, 5.0])


@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED, OBLIQUE], ids=["RAS", "flipped", "oblique"])
def test_what_was_drawn_by_hand_is_followed_in_the_image(affine):
    body = bent_body()
    result = follow(image_of(body, affine), only(body, GIVEN), NOTHING, GIVEN, AXIS)
    assert dice(between(result), between(body)) > 0.85
    assert np.array_equal(result[:, :, list(GIVEN)], body[:, :, list(GIVEN)])
    assert result.dtype == np.uint8


def test_the_models_answer_counts_where_it_was_right():
    # the image shows nothing at all: what lies between is known from the answer alone
    body = bent_body()
    blank = image_of(np.zeros(SHAPE, dtype=bool))
    answered = body.astype(np.uint8)
    with_answer = follow(blank, answered, answered, GIVEN, AXIS)
    without = follow(blank, only(body, GIVEN), NOTHING, GIVEN, AXIS)
    assert dice(between(with_answer), between(body)) > 0.9
    assert dice(between(with_answer), between(body)) > dice(between(without), between(body))


def test_what_was_added_on_both_sides_is_added_between_and_what_was_removed_is_not_there():
    body = bent_body()
    answer = body.astype(np.uint8)
    corrected = answer.copy()
    corrected[40:44, 4:9, [14, 18]] = 1
    both = body[:, :, 14] & body[:, :, 18]
    hole = ndimage.binary_erosion(both, iterations=2)
    assert hole.any()
    corrected[:, :, [14, 18]] *= ~hole[..., None]
    result = follow(image_of(body), corrected, answer, (14, 18), AXIS)
    assert result[40:44, 4:9, 15:18].all()
    assert not result[hole][:, 15:18].any()


def test_what_lies_beyond_the_ends_stays_and_an_empty_slice_ends_an_object():
    body = bent_body()
    corrected = body.astype(np.uint8)
    corrected[:, :, 20:] = 0
    corrected[0, 0, 29] = corrected[0, 0, 0] = 1
    result = follow(image_of(body), corrected, corrected, (5, 12, 22), AXIS)
    assert result[0, 0, 29] == result[0, 0, 0] == 1
    assert np.array_equal(result[:, :, :6], corrected[:, :, :6])
    assert np.array_equal(result[:, :, 22:], corrected[:, :, 22:])


def test_between_slices_that_show_nothing_there_is_nothing():
    body = bent_body().astype(np.uint8)
    wrong = body.copy()
    wrong[:, :, [5, 24]] = 0
    result = follow(image_of(body > 0), wrong, body, (5, 24), AXIS)
    assert not result[:, :, 5:25].any()
    assert result[:, :, 4].any()


@pytest.mark.parametrize("slices", [[], [3], [3, 3], [-1, 3], [2, 30]])
def test_it_says_which_slices_it_needs(slices):
    body = bent_body()
    with pytest.raises(BadInput, match="slices"):
        follow(image_of(body), body, NOTHING, slices, AXIS)
