"""What a person said of one structure counts for all that shares voxels with it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from segone_napari.cli import print_results
from segone_napari.session import table_rows
from segone_napari.systems import registry
from segone_napari.systems.base import Result, Told
from segone_napari.systems.taught import OWN_OUTLINE, TaughtHead, TaughtSystem
from tests.tiny import LEFT, RIGHT, SHAPE, head, one_thread

BOTH = "hippocampus"
ABSENT = Told(np.zeros(SHAPE, np.uint8), np.ones(SHAPE, bool))


@pytest.fixture(scope="module")
def system(checkpoints: dict[str, Path]) -> TaughtSystem:
    made = registry.create("segone", checkpoint=checkpoints["segone"], device="cpu")
    assert isinstance(made, TaughtSystem)
    return made


@pytest.fixture(scope="module")
def seen(system: TaughtSystem) -> TaughtHead:
    with one_thread():
        return system.encode(head())


def masks(system: TaughtSystem, seen: TaughtHead, **told: Told) -> dict[str, np.ndarray]:
    system.tell(seen.image, {name.replace("_", " "): one for name, one in told.items()})
    return {r.prompt: r.mask.data > 0 for r in system.segment(seen, (LEFT, RIGHT, BOTH))}


def test_a_side_that_is_not_there_is_not_part_of_the_pair(system, seen):
    before = masks(system, seen)
    after = masks(system, seen, left_hippocampus=ABSENT)
    assert before[LEFT].any()
    assert not after[LEFT].any()
    np.testing.assert_array_equal(after[RIGHT], before[RIGHT])
    np.testing.assert_array_equal(after[BOTH], before[BOTH] & ~before[LEFT])


def test_a_pair_that_is_not_there_has_no_sides(system, seen):
    assert not any(mask.any() for mask in masks(system, seen, hippocampus=ABSENT).values())
    assert system.preview(seen.image, [LEFT], 2, SHAPE[2] // 2) == []


def test_what_was_drawn_of_a_side_belongs_to_the_pair(system, seen):
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[12:15, 30:33, 10] = 1
    known = np.zeros(SHAPE, bool)
    known[:, :, 10] = True
    before = masks(system, seen)
    after = masks(system, seen, left_hippocampus=Told(drawn, known))
    np.testing.assert_array_equal(after[LEFT][:, :, 10], drawn[:, :, 10] > 0)
    expected = (before[BOTH] & ~before[LEFT]) | (drawn > 0)
    np.testing.assert_array_equal(after[BOTH][:, :, 10], expected[:, :, 10])
    np.testing.assert_array_equal(after[BOTH][:, :, 11:], before[BOTH][:, :, 11:])


def test_a_mask_that_a_person_drew_alone_has_no_confidence_of_the_model(system, seen):
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[12:18, 28:33, 10:12] = 1
    known = np.ones(SHAPE, bool)
    system.tell(seen.image, {LEFT: Told(drawn, known)})
    (left, both) = system.segment(seen, (LEFT, BOTH))
    np.testing.assert_array_equal(left.mask.data, drawn)
    assert left.found
    assert left.confidence is None
    assert left.warnings == (OWN_OUTLINE,)
    assert "–" in printed([left])
    assert table_rows([left])[0]["confidence"] is None
    # What the model adds to has its confidence.
    assert both.confidence is not None
    assert OWN_OUTLINE not in both.warnings


def printed(results: list[Result]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_results(results)
    return out.getvalue()


def test_a_side_ends_where_the_pair_was_drawn_to_end(system, seen):
    before = masks(system, seen)
    middle = int(np.argwhere(before[LEFT])[:, 2].mean())
    drawn = before[BOTH].astype(np.uint8)
    drawn[:, :24] = 0
    known = np.zeros(SHAPE, bool)
    known[:, :, middle] = True
    after = masks(system, seen, hippocampus=Told(drawn, known))
    assert before[LEFT][:, :24, middle].any()
    for side in (LEFT, RIGHT):
        assert not after[side][:, :24, middle].any()
        np.testing.assert_array_equal(after[side][:, 24:], before[side][:, 24:])
