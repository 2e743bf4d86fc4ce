"""What made each row's mask and what a person changed since, for what goes out.

Reads the history of an image, and what the file said that a row was opened from; touches no widget
and no layer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from segone_napari.exports.content import BY_HAND, Segment
from segone_napari.project import EditHistory, Row
from segone_napari.project.records import Edit
from segone_napari.volume import Grid, Volume

SYSTEM = "segone"
"""What answers in the window."""

OPENED = "opened"
"""With this begin the words of an edit that brings a row from a file; also the note that keeps, by
row, what the files said."""


@dataclass(frozen=True)
class Origin:
    """What is known of how a mask was made; each field as in `Segment`."""

    system: str = ""
    is_edited: bool | None = None
    edited_with: tuple[str, ...] = ()
    made_at: str = ""
    edited_at: str = ""

    @classmethod
    def of(cls, segment: Segment) -> Origin:
        """Take what a segment says."""
        return cls(
            segment.system,
            segment.is_edited,
            segment.edited_with,
            segment.made_at,
            segment.edited_at,
        )


def keep(history: EditHistory, row_id: int, origin: Origin) -> None:
    """Keep what the file said that a row was opened from."""
    history.note(OPENED, {**history.notes.get(OPENED, {}), str(row_id): asdict(origin)})


def segment_of(history: EditHistory, row: Row, grid: Grid) -> Segment:
    """Take a row as it is now; its mask is copied."""
    mask = Volume((history.masks[row.id] != 0).astype(np.uint8), grid, row.name)
    origin = _origin(history, row)
    return Segment(
        row.name,
        row.colour,
        mask,
        prompt=row.prompt,
        confidence=row.confidence,
        checkpoint=row.checkpoint,
        preset=row.preset,
        **asdict(origin),
    )


def _origin(history: EditHistory, row: Row) -> Origin:
    made, changed = _since_result(history, row.id)
    origin = _before(history, row, made)
    if not changed:
        return origin
    return replace(
        origin,
        is_edited=any(edit.kind != "confirmed" for edit in changed) or origin.is_edited,
        edited_with=tuple(dict.fromkeys([*origin.edited_with, *(one.kind for one in changed)])),
        edited_at=_time(changed[-1]),
    )


def _since_result(history: EditHistory, row_id: int) -> tuple[Edit | None, list[Edit]]:
    """The edit that gave a row its last mask as a whole, and a person's edits of it since."""
    changed: list[Edit] = []
    for edit in history.newest_edits(row_id):
        if edit.kind == "result":
            return edit, changed[::-1]
        if edit.kind != "row":
            changed.append(edit)
    return None, changed[::-1]


def _before(history: EditHistory, row: Row, made: Edit | None) -> Origin:
    """What made the mask that a person's edits changed."""
    if made is None:
        return Origin()
    if made.words.startswith(f"{OPENED} "):
        told = history.notes.get(OPENED, {}).get(str(row.id))
        return Origin() if told is None else _from_json(told)
    if row.confidence is None:  # an empty outline
        return Origin(BY_HAND, is_edited=True, made_at=_time(made))
    return Origin(SYSTEM, is_edited=False, made_at=_time(made))


def _from_json(values: dict[str, Any]) -> Origin:
    return Origin(**{**values, "edited_with": tuple(values["edited_with"])})


def _time(edit: Edit) -> str:
    return datetime.fromtimestamp(edit.time, UTC).isoformat(timespec="seconds")
