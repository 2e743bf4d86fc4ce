"""Undo, redo, locks: what a person sees of an `EditHistory`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from segone_napari.project import Change, EditHistory, Row, RowLocked
from segone_napari.runtime import BadInput
from segone_napari.volume import Box
from tests.project.work import blob, do_something, facts, paint, whole_past_and_future

SHAPE = (7, 8, 9)
THALAMUS = Row("thal", "left thalamus", "left", confidence=0.8)


def history_with_row(mask: NDArray[np.uint8] | None = None) -> tuple[EditHistory, int]:
    history = EditHistory(SHAPE)
    change = history.put([(THALAMUS, np.zeros(SHAPE, np.uint8) if mask is None else mask)])
    return history, change.added[0]


@pytest.mark.parametrize("seed", range(6))
def test_random_work_is_undone_and_redone_as_a_list_of_copies_would(seed: int) -> None:
    rng = np.random.default_rng(seed)
    history = EditHistory(SHAPE)
    copies = [_copy(history)]  # the naive model: a copy of everything after every edit
    at = 0
    for _ in range(60):
        undo_before, redo_before = history.undo_count, history.redo_count
        what = do_something(history, rng)
        if what in ("undo", "redo"):
            at += history.undo_count - undo_before
        elif (history.undo_count, history.redo_count) != (undo_before, redo_before):
            copies[at + 1 :] = [_copy(history)]
            at += 1
        _assert_same(history, copies[at])
        assert (history.undo_count, history.redo_count) == (at, len(copies) - 1 - at)
    assert len(copies) > 10
    while history.undo():
        at -= 1
        _assert_same(history, copies[at])
    assert at == 0
    while history.redo():
        at += 1
        _assert_same(history, copies[at])
    assert at == len(copies) - 1


@pytest.mark.parametrize("seed", range(3))
def test_a_change_names_all_voxels_that_must_be_drawn_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    history, row_id = history_with_row(blob(SHAPE, rng))
    mask = history.masks[row_id]
    for step in (
        lambda: history.record(row_id, paint(mask, rng)),
        lambda: history.edit(row_id, blob(SHAPE, rng), kind="result"),
        lambda: history.edit(row_id, blob((1, 4, 4), rng), kind="sam2", box=np.s_[3:4, 2:6, 2:6]),
        history.undo,
        history.undo,
        history.redo,
    ):
        before = mask.copy()
        change = step()
        assert history.masks[row_id] is mask
        differs = np.argwhere(before != mask)
        box: Box = change.boxes[row_id] if change else np.s_[0:0, 0:0, 0:0]
        if len(differs):
            assert [part.start for part in box] == differs.min(axis=0).tolist()
            assert [part.stop for part in box] == (differs.max(axis=0) + 1).tolist()


def test_a_flipped_view_of_a_layer_is_edited_in_place() -> None:
    layer = np.zeros((9, 7, 8), np.uint8)  # as napari shows it
    mask = layer.transpose(1, 2, 0)[::-1, :, ::-1]  # as the volume has it
    history, row_id = history_with_row(mask)
    values = np.zeros(SHAPE, np.uint8)
    values[1, 2:5, 3:6] = 1
    history.edit(row_id, values, kind="repair")
    assert layer.sum() == 9
    assert layer[9 - 1 - 4, 7 - 1 - 1, 3] == 1
    rng = np.random.default_rng(0)
    history.record(row_id, paint(mask, rng))
    history.undo()
    assert np.array_equal(mask, values)
    history.undo()
    assert not layer.any()


def test_a_voxel_painted_twice_goes_back_to_what_it_was_first() -> None:
    history, row_id = history_with_row()
    mask = history.masks[row_id]
    here = tuple(np.array([n]) for n in (1, 2, 3))
    atoms = [(here, 0, 2), (here, 2, 1)]
    mask[here] = 1
    history.record(row_id, atoms)
    history.undo()
    assert mask[1, 2, 3] == 0
    history.redo()
    assert mask[1, 2, 3] == 1


def test_what_changes_nothing_is_no_edit() -> None:
    history, row_id = history_with_row()
    nowhere = tuple(np.zeros(0, int) for _ in range(3))
    here = tuple(np.array([n]) for n in (1, 2, 3))
    assert history.record(row_id, []) is None
    assert history.record(row_id, [(nowhere, np.zeros(0), 1)]) is None
    assert history.record(row_id, [(here, 0, 1), (here, 1, 0)]) is None
    assert history.edit(row_id, np.zeros(SHAPE, np.uint8), kind="repair") is None
    assert history.set_row(history.row(row_id)) is None
    assert history.undo_count == 1
    history.undo()
    assert history.undo() is None
    assert history.undo_words == ""


def test_an_accepted_row_refuses_every_edit_in_words() -> None:
    rng = np.random.default_rng(1)
    history, row_id = history_with_row(blob(SHAPE, rng))
    other = history.put([(replace(THALAMUS, name="brainstem"), blob(SHAPE, rng))]).added[0]
    history.set_row(replace(history.row(row_id), state="accepted"))
    before = facts(history)
    whole = np.ones(SHAPE, np.uint8)
    for attempt in (
        lambda: history.record(row_id, paint(history.masks[row_id], rng)),
        lambda: history.edit(row_id, whole, kind="interpolation"),
        lambda: history.remove(row_id),
        lambda: history.put([(history.row(other), whole), (history.row(row_id), whole)]),
    ):
        with pytest.raises(RowLocked, match="'left thalamus' is accepted"):
            attempt()
        assert facts(history) == before
    assert history.undo_words == "left thalamus: draft to accepted"
    history.undo()
    assert history.edit(row_id, whole, kind="repair") is not None


def test_a_refused_stroke_says_where_to_draw_again() -> None:
    history, row_id = history_with_row()
    history.set_row(replace(history.row(row_id), state="accepted"))
    mask = history.masks[row_id]
    here = (np.array([2, 2]), np.array([3, 4]), np.array([5, 5]))
    mask[here] = 1
    with pytest.raises(RowLocked) as refused:
        history.record(row_id, [(here, np.array([0, 0]), 1)])
    assert not mask.any()
    assert refused.value.change.boxes == {row_id: np.s_[2:3, 3:5, 5:6]}


def test_several_results_are_one_step_and_rows_keep_their_places() -> None:
    rng = np.random.default_rng(2)
    history = EditHistory(SHAPE)
    rows = [replace(THALAMUS, name=name) for name in ("a", "b", "c")]
    change = history.put([(row, blob(SHAPE, rng)) for row in rows])
    assert [row.name for row in history.rows] == ["a", "b", "c"]
    assert change.added == tuple(row.id for row in history.rows)
    before = facts(history)
    history.remove(change.added[1])
    assert [row.name for row in history.rows] == ["a", "c"]
    undone = history.undo()
    assert isinstance(undone, Change)
    assert undone.added == (change.added[1],)
    assert facts(history)["rows"] == before["rows"]
    assert facts(history)["masks"] == before["masks"]
    assert history.undo().removed == change.added
    assert not history.rows


def test_ids_are_not_given_twice() -> None:
    history, first = history_with_row()
    history.remove(first)
    second = history.put([(THALAMUS, np.zeros(SHAPE, np.uint8))]).added[0]
    assert second != first
    history.undo()
    history.undo()
    assert [row.id for row in history.rows] == [first]


def test_corrected_slices_are_those_painted_since_the_last_result() -> None:
    history, row_id = history_with_row()
    assert history.corrected_slices(row_id, 2) == ()
    _dot(history, row_id, (1, 2, 3))
    _dot(history, row_id, (1, 4, 6))
    assert history.corrected_slices(row_id, 2) == (3, 6)
    assert history.corrected_slices(row_id, 0) == (1,)
    between = np.maximum(history.masks[row_id], 0)
    between[1, 3, 4] = 1
    history.edit(row_id, between, kind="interpolation")
    assert history.corrected_slices(row_id, 2) == (3, 6)
    history.undo()
    history.undo()
    assert history.corrected_slices(row_id, 2) == (3,)
    history.put([(history.row(row_id), np.ones(SHAPE, np.uint8))])
    assert history.corrected_slices(row_id, 2) == ()
    assert [edit.kind for edit in history.edits(row_id)] == ["result", "brush", "result"]


def test_last_result_is_the_mask_before_what_a_person_did_since() -> None:
    first = np.zeros(SHAPE, np.uint8)
    first[1:3, 2:4, 3] = 1
    history, row_id = history_with_row(first.copy())
    _dot(history, row_id, (1, 2, 3))
    history.confirm(row_id, 2, 4)
    history.edit(row_id, np.zeros(SHAPE, np.uint8), kind="repair")
    assert np.array_equal(history.last_result(row_id), first)
    assert not history.masks[row_id].any()  # nothing was changed
    history.put([(history.row(row_id), np.ones(SHAPE, np.uint8))])
    assert history.last_result(row_id).all()


def test_a_stroke_counts_for_the_slices_that_it_lies_in_only() -> None:
    history, row_id = history_with_row()
    i, k = (np.ravel(index) for index in np.mgrid[1:5, 1:6])
    _paint(history, row_id, (i, np.full_like(i, 3), k))
    assert history.corrected_slices(row_id, 1) == (3,)
    assert history.corrected_slices(row_id, 2) == ()
    assert history.confirm(row_id, 2, 4) is not None
    assert history.corrected_by_axis(row_id, 2) == {1: {3}, 2: {4}}


def test_a_straight_stroke_is_taken_as_the_other_strokes_are() -> None:
    history, row_id = history_with_row()
    line = np.arange(1, 5)
    _paint(history, row_id, (line, np.full_like(line, 2), np.full_like(line, 3)))
    assert history.corrected_by_axis(row_id, 1) == {1: {2}}
    assert history.corrected_by_axis(row_id, 2) == {2: {3}}
    i, j = (np.ravel(index) for index in np.mgrid[1:5, 1:5])
    _paint(history, row_id, (i, j, np.full_like(i, 5)))
    assert history.corrected_by_axis(row_id, 1) == {2: {3, 5}}
    assert history.corrected_slices(row_id, 1) == ()


def test_confirmed_slices_count_as_corrected_along_their_axis_only() -> None:
    history, row_id = history_with_row()
    before = history.masks[row_id].copy()
    change = history.confirm(row_id, 2, 5)
    assert change is not None
    assert change.boxes[row_id] == (slice(0, SHAPE[0]), slice(0, SHAPE[1]), slice(5, 6))
    assert history.corrected_slices(row_id, 2) == (5,)
    assert history.corrected_slices(row_id, 0) == history.corrected_slices(row_id, 1) == ()
    assert history.corrected_slices(row_id, 2, ["brush"]) == ()
    np.testing.assert_array_equal(history.masks[row_id], before)
    assert history.confirm(row_id, 2, 5) is None  # known
    history.undo()
    assert history.corrected_slices(row_id, 2) == ()
    history.redo()
    assert history.corrected_slices(row_id, 2) == (5,)
    with pytest.raises(BadInput, match="no slice"):
        history.confirm(row_id, 2, SHAPE[2])
    history.set_row(replace(history.row(row_id), state="accepted"))
    with pytest.raises(RowLocked):
        history.confirm(row_id, 2, 6)


def test_masks_on_another_grid_and_rows_that_are_gone_are_refused() -> None:
    history, row_id = history_with_row()
    small = np.zeros((2, 2, 2), np.uint8)
    with pytest.raises(BadInput, match="grid"):
        history.edit(row_id, small, kind="repair")
    with pytest.raises(BadInput, match="grid"):
        history.put([(THALAMUS, small)])
    history.undo()
    for attempt in (
        lambda: history.record(row_id, []),
        lambda: history.remove(row_id),
        lambda: history.set_row(replace(THALAMUS, id=row_id)),
    ):
        with pytest.raises(BadInput, match="no row"):
            attempt()


def test_work_in_memory_is_never_called_saved() -> None:
    history, _ = history_with_row()
    assert not history.is_saved
    assert not history.sync()
    assert len(whole_past_and_future(history)) == 2
    assert not history.close()


def _dot(history: EditHistory, row_id: int, where: tuple[int, int, int]) -> None:
    i, j, k = (np.array([n]) for n in where)
    _paint(history, row_id, (i, j, k))


def _paint(history: EditHistory, row_id: int, voxels: tuple[NDArray[np.intp], ...]) -> None:
    before = history.masks[row_id][voxels]
    history.masks[row_id][voxels] = 1
    history.record(row_id, [(voxels, before, 1)])


def _copy(history: EditHistory) -> tuple[tuple[Row, ...], dict[int, NDArray[np.uint8]]]:
    return history.rows, {n: mask.copy() for n, mask in history.masks.items()}


def _assert_same(
    history: EditHistory, copy: tuple[tuple[Row, ...], dict[int, NDArray[np.uint8]]]
) -> None:
    rows, masks = copy
    assert history.rows == rows
    assert history.masks.keys() == masks.keys()
    for row_id, mask in masks.items():
        assert np.array_equal(history.masks[row_id], mask)
