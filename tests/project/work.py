"""Random work on a case, and everything that can be compared about it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segone_napari import editing
from segone_napari.project import EditHistory, Row, RowLocked

Facts = dict[str, Any]


def facts(history: EditHistory) -> Facts:
    """Everything that a person would miss, as JSON values."""
    return {
        "rows": [str(row) for row in history.rows],
        "masks": {str(n): _digest(mask) for n, mask in sorted(history.masks.items())},
        "prompts": list(history.prompts),
        "notes": dict(history.notes),
        "undo": history.undo_count,
        "redo": history.redo_count,
        "words": [history.undo_words, history.redo_words],
    }


def whole_past_and_future(history: EditHistory) -> list[Facts]:
    """The facts after each undo to the very beginning, and after each redo to the end."""
    redo_count = history.redo_count
    seen = []
    while history.undo() is not None:
        seen.append(facts(history))
    while history.redo() is not None:
        seen.append(facts(history))
    for _ in range(redo_count):
        history.undo()
    return seen


def do_something(history: EditHistory, rng: np.random.Generator) -> str:
    """Do one thing that a person may do, which writes one record at most; return what."""
    what = str(rng.choice(list(_ACTIONS), p=_SHARES))
    rows = [row for row in history.rows if row.state != "accepted"]
    if not rows and what in ("stroke", "repair", "interpolate", "result", "remove"):
        what = "add"
    _ACTIONS[what](history, rng, rows[rng.integers(len(rows))] if rows else None)
    return what


def paint(
    mask: NDArray[np.uint8], rng: np.random.Generator
) -> list[tuple[tuple[NDArray[np.int64], ...], NDArray[np.uint8], int]]:
    """Paint a stroke of a few overlapping blobs, and tell it as napari does."""
    axis, value = int(rng.integers(3)), int(rng.integers(3))
    atoms = []
    for _ in range(rng.integers(1, 4)):
        low = [int(rng.integers(0, size)) for size in mask.shape]
        box = [slice(n, n + int(rng.integers(1, 4))) for n in low]
        box[axis] = slice(low[axis], low[axis] + 1)
        indices = tuple(part.ravel() for part in np.mgrid[tuple(box)])
        inside = np.all([part < n for part, n in zip(indices, mask.shape, strict=True)], axis=0)
        indices = tuple(part[inside] for part in indices)
        atoms.append((indices, mask[indices].copy(), value))
        mask[indices] = value
    return atoms


def blob(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    return (rng.random(shape) < rng.choice([0.0, 0.1, 0.6])).astype(np.uint8)


def _add(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    new = [
        (
            Row(f"prompt {rng.integers(99)}", "left thalamus", "left", confidence=0.5),
            blob(history.shape, rng),
        )
        for _ in range(rng.integers(1, 3))
    ]
    history.put(new)


def _result(history: EditHistory, rng: np.random.Generator, row: Row) -> None:
    better = replace(row, confidence=float(rng.random()))
    history.put([(better, blob(history.masks[row.id].shape, rng))])


def _stroke(history: EditHistory, rng: np.random.Generator, row: Row) -> None:
    history.record(row.id, paint(history.masks[row.id], rng))


def _repair(history: EditHistory, rng: np.random.Generator, row: Row) -> None:
    history.edit(row.id, editing.keep_largest_part(history.masks[row.id]), kind="repair")


def _interpolate(history: EditHistory, rng: np.random.Generator, row: Row) -> None:
    between = editing.fill_holes(history.masks[row.id], axis=1)
    history.edit(row.id, between, kind="interpolation")


def _sam2(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    if row is None:
        return
    mask = history.masks[row.id]
    box = (slice(2, 3), slice(1, 6), slice(0, mask.shape[2]))
    history.edit(row.id, blob(mask[box].shape, rng), kind="sam2", box=box)


def _confirm(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    if row is not None:
        axis = int(rng.integers(3))
        history.confirm(row.id, axis, int(rng.integers(history.shape[axis])))


def _remove(history: EditHistory, rng: np.random.Generator, row: Row) -> None:
    history.remove(row.id)


def _set_state(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    for candidate in history.rows[-1:]:
        state = "draft" if candidate.state == "accepted" else "accepted"
        history.set_row(replace(candidate, state=state))


def _touch_locked(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    for locked in [row for row in history.rows if row.state == "accepted"][:1]:
        before = history.masks[locked.id].copy()
        try:
            history.record(locked.id, paint(history.masks[locked.id], rng))
        except RowLocked:
            assert np.array_equal(history.masks[locked.id], before)
        else:
            raise AssertionError("an accepted row was painted on")


def _undo(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    history.undo()


def _redo(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    history.redo()


def _say(history: EditHistory, rng: np.random.Generator, row: Row | None) -> None:
    if rng.random() < 0.5:
        history.add_prompt(f"Hippocampus links ; ≥ {rng.integers(99)}")
    else:
        history.note("slice", [int(rng.integers(9)), 2])


_ACTIONS: dict[str, Any] = {
    "add": _add,
    "result": _result,
    "stroke": _stroke,
    "repair": _repair,
    "interpolate": _interpolate,
    "sam2": _sam2,
    "confirm": _confirm,
    "remove": _remove,
    "state": _set_state,
    "touch": _touch_locked,
    "undo": _undo,
    "redo": _redo,
    "say": _say,
}
_SHARES = [0.05, 0.05, 0.26, 0.04, 0.04, 0.07, 0.04, 0.03, 0.04, 0.04, 0.17, 0.11, 0.06]


def _digest(mask: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(mask).tobytes()).hexdigest()
