"""What the records of a case's journal mean, and the rows and masks that they lead to.

Knows nothing of files. What a record does is the same code for a living edit and for one that is
read again at the next start, so what is restored can't differ from what was there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from segone_napari.project.deltas import (
    Delta,
    Mask,
    Shape,
    delta_from_nothing,
    no_delta,
)
from segone_napari.project.values import Change, Kind, Row
from segone_napari.volume import EMPTY_BOX, Box, joined


class RecordKind(IntEnum):
    """The kinds of records. Their numbers are in files: never change one."""

    STATE = 1
    EDIT = 2
    UNDO = 3
    REDO = 4
    PROMPT = 5
    NOTE = 6


NO_VOXELS = no_delta().to_bytes()
"""The changed voxels of an edit that changes none, packed."""


@dataclass(frozen=True, eq=False)
class Part:
    """What an edit does to one row.

    Attributes
    ----------
    before, after : the row's facts; None where the edit brings the row or takes it away.
    position : the row's place in the list.
    box : where its voxels change, or the slice that was confirmed.
    packed : the changed voxels, a `Delta` as bytes.
    """

    before: Row | None
    after: Row | None
    position: int
    box: Box
    packed: bytes

    @property
    def row_id(self) -> int:
        """The row that it is about."""
        row = self.before or self.after
        assert row is not None
        return row.id

    def delta(self) -> Delta:
        """Unpack the changed voxels."""
        return Delta.from_bytes(self.packed)


@dataclass(frozen=True, eq=False)
class Edit:
    """One step that can be undone; it may change several rows.

    Attributes
    ----------
    kind : what made it.
    words : what to call it ("brush on left hippocampus").
    time : seconds since 1970.
    parts : one for each row.
    """

    kind: Kind
    words: str
    time: float
    parts: tuple[Part, ...]

    def to_bytes(self) -> bytes:
        """Pack it; `from_bytes` undoes it."""
        header = {
            "kind": self.kind,
            "words": self.words,
            "time": self.time,
            "parts": [_part_as_json(part) for part in self.parts],
        }
        return packed(header, [part.packed for part in self.parts])

    @classmethod
    def from_bytes(cls, content: bytes) -> Edit:
        """Unpack what `to_bytes` made."""
        header, blobs = unpacked(content)
        parts = tuple(
            _part_from_json(values, blob)
            for values, blob in zip(header["parts"], blobs, strict=True)
        )
        return cls(header["kind"], header["words"], header["time"], parts)


@dataclass(eq=False)
class Work:
    """Everything there is to know of a case at one moment.

    Attributes
    ----------
    shape : (i, j, k) of every mask.
    rows : in the order in which they are shown.
    masks : uint8 (i, j, k) by row.
    extents : by row, a box outside of which its mask is empty.
    prompts : what was typed, the oldest first.
    notes : what else a window wants to find again, as JSON values.
    done, undone : edits that can be undone and done again, the last one first to go. They are
        kept packed: there may be thousands, and only the last one is ever needed.
    next_id : the id of the next new row.
    """

    shape: Shape
    rows: list[Row] = field(default_factory=list)
    masks: dict[int, Mask] = field(default_factory=dict)
    extents: dict[int, Box] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    done: list[bytes] = field(default_factory=list)
    undone: list[bytes] = field(default_factory=list)
    next_id: int = 1

    def row(self, row_id: int) -> Row | None:
        """The row of this id, if it is there."""
        return next((row for row in self.rows if row.id == row_id), None)

    def read(self, kind: int, content: bytes) -> None:
        """Do what a record says."""
        if kind == RecordKind.STATE:
            self.set_state(content)
        elif kind == RecordKind.EDIT:
            self.do(content)
        elif kind == RecordKind.UNDO:
            self.undo()
        elif kind == RecordKind.REDO:
            self.redo()
        elif kind == RecordKind.PROMPT:
            self.prompts.append(content.decode("utf-8"))
        elif kind == RecordKind.NOTE:
            self.notes.update(json.loads(content))
        else:
            raise ValueError(f"a record of the unknown kind {kind}")

    def read_steps_only(self, kind: int, content: bytes) -> None:
        """Follow which edits can be undone, without touching rows, masks, prompts or notes."""
        if kind == RecordKind.STATE:
            self.done, self.undone = [], []
        elif kind == RecordKind.EDIT:
            self.done.append(content)
            self.undone.clear()
        elif kind == RecordKind.UNDO:
            self.undone.append(self.done.pop())
        elif kind == RecordKind.REDO:
            self.done.append(self.undone.pop())

    def do(self, content: bytes, there: Mapping[int, Mask] | None = None) -> Change:
        """Do a new edit; what was undone before it can't be done again.

        Parameters
        ----------
        content : the edit, packed.
        there : by row, masks that already have the new voxels; a new row takes over its array.
        """
        change = self._apply(content, is_forward=True, there=there or {})
        self.done.append(content)
        self.undone.clear()
        return change

    def undo(self) -> Change:
        """Take the last edit back."""
        change = self._apply(self.done[-1], is_forward=False, there={})
        self.undone.append(self.done.pop())
        return change

    def redo(self) -> Change:
        """Do the edit again that was taken back last."""
        change = self._apply(self.undone[-1], is_forward=True, there={})
        self.done.append(self.undone.pop())
        return change

    def state(self, **more: Any) -> bytes:
        """Rows, masks, prompts and notes, but no undo history, as bytes.

        Parameters
        ----------
        more : further JSON values for the header.
        """
        header = {
            "shape": list(self.shape),
            "rows": [row.as_json() for row in self.rows],
            "extents": [_box_as_json(self.extents[row.id]) for row in self.rows],
            "prompts": self.prompts,
            "notes": self.notes,
            "next_id": self.next_id,
            **more,
        }
        masks = [(self.masks[row.id], self.extents[row.id]) for row in self.rows]
        deltas = [delta_from_nothing(mask, extent) for mask, extent in masks]
        return packed(header, [delta.to_bytes() for delta in deltas])

    def set_state(self, content: bytes) -> None:
        """Take over what `state` gave; no edit can be undone after that."""
        header, blobs = unpacked(content)
        if tuple(header["shape"]) != self.shape:
            raise ValueError(f"a state of shape {header['shape']} for a grid of {self.shape}")
        self.rows = [Row.from_json(values) for values in header["rows"]]
        self.masks, self.extents = {}, {}
        for row, box, blob in zip(self.rows, header["extents"], blobs, strict=True):
            self.masks[row.id] = np.zeros(self.shape, dtype=np.uint8)
            Delta.from_bytes(blob).do(self.masks[row.id])
            self.extents[row.id] = _box_from_json(box)
        self.prompts, self.notes = list(header["prompts"]), dict(header["notes"])
        self.next_id = int(header["next_id"])
        self.done, self.undone = [], []

    def _apply(self, content: bytes, *, is_forward: bool, there: Mapping[int, Mask]) -> Change:
        edit = Edit.from_bytes(content)
        there_before = {row.id for row in self.rows}
        # Backwards in turn: rows go back to the places that they had in the list.
        for part in edit.parts if is_forward else reversed(edit.parts):
            self._apply_part(part, is_forward, there)
        there_now = {row.id for row in self.rows}
        return Change(
            edit.kind,
            edit.words,
            {part.row_id: part.box for part in edit.parts},
            tuple(sorted(there_now - there_before)),
            tuple(sorted(there_before - there_now)),
        )

    def _apply_part(self, part: Part, is_forward: bool, there: Mapping[int, Mask]) -> None:
        row_id = part.row_id
        old, new = (part.before, part.after) if is_forward else (part.after, part.before)
        if old is None:
            assert new is not None
            self.rows.insert(part.position, new)
            mask = there.get(row_id)
            self.masks[row_id] = np.zeros(self.shape, np.uint8) if mask is None else mask
            self.next_id = max(self.next_id, row_id + 1)
        if new is None:
            del self.rows[self._index(row_id)], self.masks[row_id], self.extents[row_id]
            return
        self.rows[self._index(row_id)] = new
        if row_id not in there:
            delta = part.delta()
            (delta.do if is_forward else delta.take_back)(self.masks[row_id])
        if part.packed != NO_VOXELS:
            self.extents[row_id] = joined(self.extents.get(row_id, EMPTY_BOX), part.box)
        else:
            self.extents.setdefault(row_id, EMPTY_BOX)

    def _index(self, row_id: int) -> int:
        return next(n for n, row in enumerate(self.rows) if row.id == row_id)


_LENGTH = struct.Struct("<Q")


def packed(header: Mapping[str, Any], blobs: Sequence[bytes]) -> bytes:
    """Join JSON values and pieces of bytes."""
    text = json.dumps({**header, "lengths": [len(blob) for blob in blobs]}).encode("utf-8")
    return b"".join([_LENGTH.pack(len(text)), text, *blobs])


def unpacked(content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Separate what `packed` joined."""
    (length,) = _LENGTH.unpack_from(content)
    at = _LENGTH.size + length
    header = json.loads(content[_LENGTH.size : at])
    blobs = []
    for size in header.pop("lengths"):
        blobs.append(content[at : at + size])
        at += size
    return header, blobs


def _part_as_json(part: Part) -> dict[str, Any]:
    return {
        "before": None if part.before is None else part.before.as_json(),
        "after": None if part.after is None else part.after.as_json(),
        "position": part.position,
        "box": _box_as_json(part.box),
    }


def _part_from_json(values: Mapping[str, Any], blob: bytes) -> Part:
    before, after = values["before"], values["after"]
    return Part(
        None if before is None else Row.from_json(before),
        None if after is None else Row.from_json(after),
        values["position"],
        _box_from_json(values["box"]),
        blob,
    )


def _box_as_json(box: Box) -> list[list[int]]:
    return [[part.start, part.stop] for part in box]


def _box_from_json(values: Sequence[Sequence[int]]) -> Box:
    i, j, k = (slice(int(start), int(stop)) for start, stop in values)
    return i, j, k
