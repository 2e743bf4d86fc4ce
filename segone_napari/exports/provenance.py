"""Where an export comes from: the image's checksum, what made the masks, what a person changed.

Holds no name, date or number of the patient, no path and no file name: an image is named by its
checksum alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from segone_napari import __version__
from segone_napari.exports.content import NOT_FOR_DIAGNOSIS, Content, Segment
from segone_napari.runtime import BadInput

ENDING = ".provenance.json"
FORMAT = 1

_SAME_ML = 1e-4  # tables are rounded to this
_SAME_MM = 0.1
# What a record or a table says of one segment.
_Row = Mapping[str, Any]


def write(content: Content, path: Path) -> None:
    """Write the record as JSON."""
    text = json.dumps(record(content), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def record(content: Content) -> dict[str, Any]:
    """List where the content comes from, as a JSON document."""
    return {
        "format": FORMAT,
        "remark": NOT_FOR_DIAGNOSIS,
        "written_at": now(),
        "software": {"name": "segone-napari", "version": __version__},
        "image": {
            "sha256": checksum(content.image_files) if content.image_files else None,
            "voxels_checksum": content.image_checksum or None,
            "shape": list(content.grid.shape),
            "voxel_mm": [round(size, 6) for size in content.grid.spacing],
        },
        "system": content.system or None,
        "checkpoint": content.checkpoint or None,
        "options": dict(content.options),
        "segments": [_row(content, s, n) for n, s in enumerate(content.segments, start=1)],
    }


def checksum(paths: Iterable[Path]) -> str:
    """Give the SHA-256 of one file; of several, or of a folder, that of their sorted SHA-256s."""
    files: list[Path] = []
    for path in paths:
        files += [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    try:
        digests = sorted(_sha256(file) for file in files)
    except OSError as error:
        raise BadInput(
            f"the image can't be read for its checksum ({error.strerror or error}); check its path"
        ) from error
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def beside(path: Path) -> Path:
    """Name the record of an export: ``OUT.stl.provenance.json``, ``FOLDER/provenance.json``."""
    return path / ENDING[1:] if path.is_dir() else path.with_name(path.name + ENDING)


def names_in(path: Path) -> list[str]:
    """The names of the segments that the record at `path` is of; none where it can't be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [str(row["name"]) for row in document["segments"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def remembered(content: Content, path: Path) -> Content:
    """Add what the record at `path` says of the segments of the same names, and of their maker.

    Of a mask that is another one now, nobody knows whether it was edited by hand.

    Raises
    ------
    BadInput
        If the record can't be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = _rows_of(content.segments, document["segments"], lambda row: str(row["name"]))
        told = replace(
            content,
            segments=tuple(
                segment if row is None else _recalled(segment, row, document["system"] or "")
                for segment, row in zip(content.segments, rows, strict=True)
            ),
            image_checksum=document["image"]["voxels_checksum"] or "",
        )
        if None in rows:  # nobody knows what made that one
            return told
        return _made_by(told, document, document["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"the record {path} can't be read; move it away") from error


def told_by_table(content: Content, path: Path) -> Content:
    """Add what the table of ``segone segment --table FILE.json`` says of segments and their maker.

    A segment that still has the volume that the table says was not edited since.

    Raises
    ------
    BadInput
        If the table can't be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = _rows_of(
            content.segments, document["results"], lambda row: row["resolved"] or row["prompt"]
        )
        is_all = None not in rows  # else nobody knows what made the others
        told = replace(
            content,
            segments=tuple(
                segment
                if row is None
                else replace(
                    segment,
                    prompt=row["prompt"],
                    confidence=row["confidence"],
                    is_edited=False if _is_same(segment, row) else None,
                    made_at=document.get("made_at") or "",
                    system="" if is_all else document["system"],
                    checkpoint="" if is_all else document["checkpoint"],
                )
                for segment, row in zip(content.segments, rows, strict=True)
            ),
        )
        if not is_all:
            return told
        return _made_by(told, document, document.get("options") or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"the table {path} can't be read; name one that 'segone segment --table' wrote"
        ) from error


def _made_by(content: Content, document: Mapping[str, Any], options: Mapping[str, Any]) -> Content:
    return replace(
        content,
        system=document["system"] or "",
        checkpoint=document["checkpoint"] or "",
        options=options,
    )


def _rows_of(
    segments: Sequence[Segment], rows: Sequence[_Row], name_of: Callable[[_Row], str]
) -> list[_Row | None]:
    """Find the row of each segment: of those of its name the one of its mask, else the first."""
    left = list(rows)
    found: list[_Row | None] = []
    for segment in segments:
        named = [row for row in left if name_of(row) == segment.name]
        row = next((row for row in named if _is_same(segment, row)), named[0] if named else None)
        found.append(row)
        left = [one for one in left if one is not row]
    return found


def _is_same(segment: Segment, row: _Row) -> bool:
    """Whether a mask is the one that a row was written of."""
    told = row.get("mask")
    if told is None:  # a table, or a record of an earlier version
        return abs(segment.volume_ml - float(row["volume_ml"])) <= _SAME_ML
    mask = _mask(segment)
    return mask["sha256"] == told["sha256"] and bool(
        np.allclose(mask["corner_mm"], told["corner_mm"], rtol=0, atol=_SAME_MM)
    )


def _mask(segment: Segment) -> dict[str, Any]:
    """What tells a mask from others, however a file orders its axes and how much is around it."""
    boxes = ndimage.find_objects(segment.inside.view(np.uint8))
    if not boxes:
        return {"sha256": hashlib.sha256().hexdigest(), "corner_mm": []}
    orientation = nib.io_orientation(segment.grid.affine)
    inside = nib.apply_orientation(segment.inside[boxes[0]], orientation)
    digest = hashlib.sha256(str(inside.shape).encode())
    digest.update(np.packbits(inside).tobytes())
    # the first voxel in that order
    first = [
        side.start if direction > 0 else side.stop - 1
        for side, (_, direction) in zip(boxes[0], orientation, strict=True)
    ]
    corner = nib.affines.apply_affine(segment.grid.affine, first)
    return {"sha256": digest.hexdigest(), "corner_mm": [round(float(x), 3) for x in corner]}


def _recalled(segment: Segment, row: _Row, system: str) -> Segment:
    is_same = _is_same(segment, row)
    return replace(
        segment,
        prompt=row["prompt"] or "",
        confidence=row["confidence"],
        checkpoint=row["checkpoint"] or "",
        preset=row.get("preset") or "",
        system=row.get("system") or system,
        is_edited=row["edited_by_hand"] if is_same else None,
        edited_with=tuple(row.get("edited_with") or ()) if is_same else (),
        made_at=row["made_at"] or "",
        edited_at=(row["edited_at"] or "") if is_same else "",
    )


def _row(content: Content, segment: Segment, label: int) -> dict[str, Any]:
    return {
        "label": label,
        "name": segment.name,
        "prompt": segment.prompt or None,
        "checkpoint": segment.checkpoint or content.checkpoint or None,
        "preset": segment.preset or content.options.get("preset"),
        "system": segment.system or content.system or None,
        "volume_ml": round(segment.volume_ml, 4),
        "mask": _mask(segment),
        "confidence": None if segment.confidence is None else round(segment.confidence, 4),
        "edited_by_hand": segment.is_edited,
        "edited_with": list(segment.edited_with),
        "made_at": segment.made_at or None,
        "edited_at": segment.edited_at or None,
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
