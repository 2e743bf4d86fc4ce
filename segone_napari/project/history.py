"""Edits of one image's rows: done, undone and done again, and written to the case's journal."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segone_napari.project.case import Case, OpenCase
from segone_napari.project.deltas import (
    Mask,
    Painted,
    Shape,
    delta_between,
    delta_from_nothing,
    delta_of_painted,
)
from segone_napari.project.journal import NotSaved, why_not_saved
from segone_napari.project.records import NO_VOXELS, Edit, Part, RecordKind, Work
from segone_napari.project.values import BY_HAND, Change, Kind, Row, RowLocked
from segone_napari.runtime import BadInput
from segone_napari.volume import EMPTY_BOX, Box, bounding_box, joined

Atom = tuple[Sequence[NDArray[Any]], Any, Any]
"""A painted piece, as napari's ``paint`` event gives it: the indices along i, j and k, the values
before, and the value or values after."""

WORDS: Mapping[Kind, str] = {
    "brush": "brush on",
    "sam2": "SAM2 on",
    "confirmed": "slice of",
    "spread": "spreading of",
    "repair": "repair of",
    "interpolation": "interpolation of",
    "result": "new result for",
    "row": "change of",
}


class EditHistory:
    """Rows and masks of one image, with every edit and the way back.

    The package's own words say how to use it. Every method may be called from any thread.

    Parameters
    ----------
    shape : (i, j, k) of the image's grid. The work is in memory only; `open` keeps it on disk.
    """

    def __init__(self, shape: Shape) -> None:
        self._work = Work(shape)
        self._case: OpenCase | None = None
        self._lock = threading.RLock()
        self._disk_lock = threading.Lock()  # held while waiting for the disk; never inside _lock
        self._unwritten: list[tuple[RecordKind, bytes]] = []
        self._on_problem: Callable[[NotSaved], None] = _raise
        self._sync_at_once = False
        self._needs_sync = False
        self.problem: NotSaved | None = None
        self.saved_at: float | None = None
        self.warnings: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        case: Case,
        *,
        on_problem: Callable[[NotSaved], None] | None = None,
        sync_at_once: bool = False,
    ) -> EditHistory:
        """Go on with a case as it was left, or begin it.

        Nothing is written before the first edit. `warnings` then has a sentence for whatever
        could not be restored.

        Parameters
        ----------
        on_problem : called once when edits can't be saved, in the thread of that edit or `sync`;
            without it the error is raised, once, after the edit has been done.
        sync_at_once : wait for the disk in every edit, instead of in `sync`.

        Raises
        ------
        BadInput
            If another window or program has the case open, or a later version wrote it.
        """
        history = cls(case.image.grid.shape)
        opened = OpenCase(case)
        try:
            history._work, history.warnings = opened.restore()
        except BadInput:
            opened.close(is_saved=False)
            raise
        history._case = opened
        history._on_problem = on_problem or _raise
        history._sync_at_once = sync_at_once
        return history

    # What there is -------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """(i, j, k) of every mask."""
        return self._work.shape

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows in the order in which they are shown."""
        return tuple(self._work.rows)

    @property
    def masks(self) -> Mapping[int, Mask]:
        """By row, its mask: uint8 (i, j, k). Change it through this class only."""
        return MappingProxyType(self._work.masks)

    @property
    def prompts(self) -> tuple[str, ...]:
        """What was typed, the oldest first."""
        return tuple(self._work.prompts)

    @property
    def notes(self) -> Mapping[str, Any]:
        """What `note` has kept."""
        return MappingProxyType(self._work.notes)

    @property
    def undo_count(self) -> int:
        """How many edits can be undone."""
        return len(self._work.done)

    @property
    def redo_count(self) -> int:
        """How many edits can be done again."""
        return len(self._work.undone)

    @property
    def undo_words(self) -> str:
        """What would be undone, such as "brush on left hippocampus"; empty if nothing."""
        return _words_of_last(self._work.done)

    @property
    def redo_words(self) -> str:
        """What would be done again; empty if nothing."""
        return _words_of_last(self._work.undone)

    @property
    def is_saved(self) -> bool:
        """Whether every edit is in the journal, so that it survives the death of the program."""
        return self._case is not None and not self._unwritten and self.problem is None

    def row(self, row_id: int) -> Row:
        """The row of this id.

        Raises
        ------
        BadInput
            If there is none.
        """
        row = self._work.row(row_id)
        if row is None:
            raise BadInput(f"there is no row {row_id} any more; choose one that is in the list")
        return row

    def edits(self, row_id: int) -> tuple[Edit, ...]:
        """The edits that made a row what it is, the oldest first: for a record of its origin."""
        return tuple(self.newest_edits(row_id))[::-1]

    def newest_edits(self, row_id: int) -> Iterator[Edit]:
        """The same edits, the newest first; each is read only when it is asked for."""
        with self._lock:
            done = tuple(self._work.done)
        for content in reversed(done):
            edit = Edit.from_bytes(content)
            if any(part.row_id == row_id for part in edit.parts):
                yield edit

    def corrected_slices(
        self, row_id: int, axis: int, kinds: Collection[Kind] = BY_HAND
    ) -> tuple[int, ...]:
        """The slices along array axis `axis` that a person painted or confirmed since the result.

        Strokes that lie in slices along another axis don't count, although they cross many.

        Parameters
        ----------
        kinds : the kinds of edits that count.
        """
        return tuple(sorted(self.corrected_by_axis(row_id, axis, kinds).get(axis, ())))

    def corrected_by_axis(
        self, row_id: int, first_axis: int, kinds: Collection[Kind] = BY_HAND
    ) -> dict[int, set[int]]:
        """By array axis, the slices that a person painted or confirmed since the row's last result.

        A stroke lies across the axis along which it is thinnest. Where that is several axes, such
        as of a straight line, it is taken as the other strokes are, else across `first_axis`.
        """
        strokes = [
            [set(np.unique(along).tolist()) for along in self._lines_of(kind, part)]
            for kind, part in self._parts_since_result(row_id, kinds)
        ]
        thinnest = [
            [axis for axis in range(3) if len(stroke[axis]) == min(map(len, stroke))]
            for stroke in strokes
        ]
        votes = [axes[0] for axes in thinnest if len(axes) == 1] or [first_axis]
        usual = max(sorted(set(votes)), key=votes.count)
        out: dict[int, set[int]] = {}
        for stroke, axes in zip(strokes, thinnest, strict=True):
            axis = next((one for one in (usual, first_axis) if one in axes), axes[0])
            out.setdefault(axis, set()).update(stroke[axis])
        return out

    def last_result(self, row_id: int) -> Mask:
        """A row's mask (i, j, k) as its last result was, a copy; empty where it had none."""
        with self._lock:
            mask = self._work.masks[row_id].copy()
            for edit in self.newest_edits(row_id):
                if edit.kind == "result":
                    return mask
                next(part for part in edit.parts if part.row_id == row_id).delta().take_back(mask)
        return np.zeros_like(mask)

    def _parts_since_result(
        self, row_id: int, kinds: Collection[Kind]
    ) -> Iterator[tuple[Kind, Part]]:
        for edit in self.newest_edits(row_id):
            if edit.kind == "result":
                return
            if edit.kind in kinds:
                yield edit.kind, next(part for part in edit.parts if part.row_id == row_id)

    def _lines_of(self, kind: Kind, part: Part) -> tuple[NDArray[np.intp], ...]:
        """The indices along each axis of what was changed, or of a confirmed slice."""
        if kind == "confirmed":
            return tuple(np.arange(side.start, side.stop) for side in part.box)
        return np.unravel_index(part.delta().indices(), self._work.shape)

    # Edits ---------------------------------------------------------------------------------

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Let nobody else edit meanwhile: to decide on an edit and do it as one."""
        with self._lock:
            yield

    def put(
        self, entries: Sequence[tuple[Row, Mask]], *, kind: Kind = "result", words: str = ""
    ) -> Change:
        """Add rows (those with id 0), or give rows new masks and facts, as one edit.

        A new row's array becomes its mask, without a copy if it is writable uint8; an old row's
        mask is changed in place.

        Parameters
        ----------
        entries : rows with their masks, uint8 (i, j, k).

        Raises
        ------
        RowLocked
            If one of them is accepted; then none is changed.
        BadInput
            If a mask has another shape, or a row isn't there.
        """
        with self._lock:
            self._refuse_locked([row.id for row, _ in entries if row.id])
            changes = [(row, self._as_mask(mask)) for row, mask in entries]
            new_id, position = self._work.next_id, len(self._work.rows)
            parts: list[Part] = []
            there: dict[int, Mask] = {}
            for row, mask in changes:
                if row.id:
                    box = self._box_of_both(row.id, mask)
                    parts.append(self._part_of(row, mask[box], box))
                    continue
                row = replace(row, id=new_id + len(there))
                parts.append(self._new_part(row, mask, position + len(there)))
                there[row.id] = mask if mask.flags.writeable else mask.copy()
            for row, mask in changes:
                if row.id:
                    there[row.id] = self._work.masks[row.id]
                    box = self._box_of_both(row.id, mask)
                    there[row.id][box] = mask[box]
            names = ", ".join(row.name for row, _ in entries)
            return self._do(kind, words or f"{WORDS[kind]} {names}", parts, there)

    def record(
        self, row_id: int, atoms: Sequence[Atom], *, kind: Kind = "brush", words: str = ""
    ) -> Change | None:
        """Keep what has been painted on a row's mask already; None if nothing changed.

        Raises
        ------
        RowLocked
            If the row is accepted; the voxels have been put back.
        """
        with self._lock:
            shape = self._work.shape
            row, mask = self.row(row_id), self._work.masks[row_id]
            delta = delta_of_painted([_as_painted(atom) for atom in atoms], shape)
            if row.state == "accepted":
                delta.take_back(mask)
                what = f"{kind} on {row.name}"
                raise _locked([row], Change(kind, what, {row_id: delta.box(shape)}))
            if not len(delta):
                return None
            part = Part(row, row, self._position(row_id), delta.box(shape), delta.to_bytes())
            return self._do(kind, words or f"{WORDS[kind]} {row.name}", [part])

    def edit(
        self,
        row_id: int,
        values: Mask,
        *,
        kind: Kind,
        box: Box | None = None,
        words: str = "",
    ) -> Change | None:
        """Give a row's mask new voxels, in place; None if they are the same.

        Parameters
        ----------
        values : uint8 or bool, of the shape of `box`, or of the whole mask without one.

        Raises
        ------
        RowLocked
            If the row is accepted.
        BadInput
            If the row isn't there, or the shapes don't fit.
        """
        with self._lock:
            row = self.row(row_id)
            self._refuse_locked([row_id])
            mask = self._work.masks[row_id]
            values = _as_uint8(values, (mask if box is None else mask[box]).shape, row.name)
            if box is None:
                box = self._box_of_both(row_id, values)
                values = values[box]
            part = self._part_of(row, values, box)
            if part.box == EMPTY_BOX:
                return None
            mask[box] = values
            return self._do(kind, words or f"{WORDS[kind]} {row.name}", [part], {row_id: mask})

    def confirm(self, row_id: int, axis: int, index: int) -> Change | None:
        """Keep that slice `index` along array axis `axis` is right; None if that is known.

        Raises
        ------
        RowLocked
            If the row is accepted.
        BadInput
            If the row or the slice isn't there.
        """
        with self._lock:
            row, shape = self.row(row_id), self._work.shape
            self._refuse_locked([row_id])
            if not 0 <= index < shape[axis]:
                raise BadInput(f"there is no slice {index} along axis {axis} of {shape}")
            if index in self.corrected_slices(row_id, axis):
                return None
            sides = [slice(0, n) for n in shape]
            sides[axis] = slice(index, index + 1)
            box = (sides[0], sides[1], sides[2])
            part = Part(row, row, self._position(row_id), box, NO_VOXELS)
            return self._do("confirmed", f"{WORDS['confirmed']} {row.name} is right", [part])

    def set_row(self, row: Row, *, words: str = "") -> Change | None:
        """Change facts of a row: accept it, make it a draft again, rename it, colour it.

        Raises
        ------
        BadInput
            If the row isn't there.
        """
        with self._lock:
            old = self.row(row.id)
            if old == row:
                return None
            if old.state != row.state:
                words = words or f"{row.name}: {old.state} to {row.state}"
            part = Part(old, row, self._position(row.id), EMPTY_BOX, NO_VOXELS)
            return self._do("row", words or f"{WORDS['row']} {row.name}", [part])

    def remove(self, row_id: int) -> Change:
        """Take a row away; `undo` brings it back, in a new array.

        Raises
        ------
        RowLocked
            If the row is accepted.
        BadInput
            If the row isn't there.
        """
        with self._lock:
            row = self.row(row_id)
            self._refuse_locked([row_id])
            delta = delta_from_nothing(self._work.masks[row_id], self._work.extents[row_id])
            box = delta.box(self._work.shape)
            position = self._position(row_id)
            part = Part(row, None, position, box, delta.reversed().to_bytes())
            return self._do("row", f"removal of {row.name}", [part])

    def undo(self) -> Change | None:
        """Take the last edit back; None if there is none."""
        with self._lock:
            if not self._work.done:
                return None
            change = self._work.undo()
            self._write(RecordKind.UNDO, b"")
            return change

    def redo(self) -> Change | None:
        """Do the edit again that was undone last; None if there is none."""
        with self._lock:
            if not self._work.undone:
                return None
            change = self._work.redo()
            self._write(RecordKind.REDO, b"")
            return change

    def add_prompt(self, text: str) -> None:
        """Keep what was typed."""
        with self._lock:
            self._work.prompts.append(text)
            self._write(RecordKind.PROMPT, text.encode("utf-8"))

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON value, such as the slice on screen; it takes the place of the former one."""
        content = json.dumps({key: value}).encode("utf-8")
        with self._lock:
            self._work.notes.update(json.loads(content))
            self._write(RecordKind.NOTE, content)

    # Saving --------------------------------------------------------------------------------

    def sync(self) -> bool:
        """Bring everything to the disk, and try again what could not be written before.

        Waits for the disk without holding up edits in other threads. Returns `is_saved`.
        """
        with self._disk_lock:
            with self._lock:
                if self._case is None:
                    return False
                self._write_unwritten()
                is_needed, self._needs_sync = self._needs_sync, False
                snapshot_end = self._case.snapshot_due() if not self._unwritten else None
            return self._save_to_disk(self._case, snapshot_end, is_needed)

    def close(self) -> bool:
        """Save everything and let the case go; returns whether all was saved."""
        is_saved = False
        try:
            is_saved = self.sync()
        finally:
            with self._disk_lock, self._lock:
                if self._case is not None:
                    self._case.close(is_saved=is_saved)
                self._case = None
        return is_saved

    def __enter__(self) -> EditHistory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Inside --------------------------------------------------------------------------------

    def _do(
        self,
        kind: Kind,
        words: str,
        parts: Sequence[Part],
        there: Mapping[int, Mask] | None = None,
    ) -> Change:
        edit = Edit(kind, words, time.time(), tuple(parts)).to_bytes()
        change = self._work.do(edit, there)
        self._write(RecordKind.EDIT, edit)
        return change

    def _new_part(self, row: Row, mask: Mask, position: int) -> Part:
        delta = delta_from_nothing(mask, bounding_box(mask))
        return Part(None, row, position, delta.box(self._work.shape), delta.to_bytes())

    def _part_of(self, row: Row, values: Mask, box: Box) -> Part:
        """What turns a row that is there into `row` with these voxels in `box`."""
        delta = delta_between(self._work.masks[row.id], values, box)
        changed = delta.box(self._work.shape)
        old = self.row(row.id)
        return Part(old, row, self._position(row.id), changed, delta.to_bytes())

    def _as_mask(self, mask: NDArray[Any]) -> Mask:
        return _as_uint8(mask, self._work.shape, "a row")

    def _box_of_both(self, row_id: int, values: Mask) -> Box:
        """A box outside of which neither the row's mask nor its new voxels have anything."""
        return joined(self._work.extents[row_id], bounding_box(values))

    def _position(self, row_id: int) -> int:
        return next(n for n, row in enumerate(self._work.rows) if row.id == row_id)

    def _refuse_locked(self, row_ids: Sequence[int]) -> None:
        locked = [row for row in map(self.row, row_ids) if row.state == "accepted"]
        if locked:
            raise _locked(locked, Change("row", "nothing"))

    def _write(self, kind: RecordKind, content: bytes) -> None:
        if self._case is None:
            return
        self._unwritten.append((kind, content))
        self._write_unwritten()
        if self._sync_at_once:
            self._needs_sync = False
            self._save_to_disk(self._case, self._case.snapshot_due(), is_needed=True)

    def _write_unwritten(self) -> None:
        assert self._case is not None
        while self._unwritten:
            try:
                self._case.append(*self._unwritten[0])
            except OSError as error:
                self._tell(why_not_saved(self._case.folder, error))
                return
            except NotSaved as error:
                self._tell(error)
                return
            del self._unwritten[0]
            self._needs_sync = True

    def _save_to_disk(self, case: OpenCase, snapshot_end: int | None, is_needed: bool) -> bool:
        if self._unwritten:
            return False
        try:
            if is_needed:
                case.sync()
            if snapshot_end is not None:
                case.write_snapshot(snapshot_end)
        except OSError as error:
            self._needs_sync = True
            self._tell(why_not_saved(case.folder, error))
            return False
        self.problem = None
        if is_needed:
            self.saved_at = time.time()
        return True

    def _tell(self, problem: NotSaved) -> None:
        is_known = self.problem is not None
        self.problem = problem
        if not is_known:
            self._on_problem(problem)


def _raise(problem: NotSaved) -> None:
    raise problem


def _words_of_last(edits: Sequence[bytes]) -> str:
    return Edit.from_bytes(edits[-1]).words if edits else ""


def _as_uint8(values: NDArray[Any], shape: tuple[int, ...], name: str) -> Mask:
    if values.shape != shape:
        raise BadInput(
            f"voxels of shape {values.shape} came for {shape} of {name}; "
            "a mask must have the image's own grid"
        )
    return values.astype(np.uint8, copy=False)


def _locked(rows: Sequence[Row], change: Change) -> RowLocked:
    names = ", ".join(f"'{row.name}'" for row in rows)
    return RowLocked(
        f"{names} is accepted and so can't be changed; make it a draft again first", change
    )


def _as_painted(atom: Atom) -> Painted:
    """An atom whose values have the shape of its indices."""
    where, before, after = atom
    indices = [np.ravel(np.asarray(axis, dtype=np.int64)) for axis in where]
    old, new = (
        np.broadcast_to(np.asarray(values, dtype=np.uint8).ravel(), indices[0].shape)
        for values in (before, after)
    )
    return indices, old, new
