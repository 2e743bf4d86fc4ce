"""Where an export comes from: the image's checksum, what made the masks, what a person changed.

Holds no name, date or number of the patient, no path and no file name: an image is named by its
checksum alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segone_napari import __version__
from segone_napari.exports.content import NOT_FOR_DIAGNOSIS, Content, Segment
from segone_napari.runtime import BadInput

ENDING = ".provenance.json"
FORMAT = 1

_SAME_ML = 1e-4  # tables are rounded to this


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

    Raises
    ------
    BadInput
        If the record can't be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = {row["name"]: row for row in document["segments"]}
        segments = tuple(
            replace(
                segment,
                prompt=rows[segment.name]["prompt"] or "",
                confidence=rows[segment.name]["confidence"],
                checkpoint=rows[segment.name]["checkpoint"] or "",
                preset=rows[segment.name].get("preset") or "",
                is_edited=rows[segment.name]["edited_by_hand"],
                edited_with=tuple(rows[segment.name].get("edited_with") or ()),
                made_at=rows[segment.name]["made_at"] or "",
                edited_at=rows[segment.name]["edited_at"] or "",
            )
            if segment.name in rows
            else segment
            for segment in content.segments
        )
        return replace(
            content,
            segments=segments,
            system=document["system"] or "",
            checkpoint=document["checkpoint"] or "",
            image_checksum=document["image"]["voxels_checksum"] or "",
            options=document["options"],
        )
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
        rows = {row["resolved"] or row["prompt"]: row for row in document["results"]}
        segments = tuple(
            replace(
                segment,
                prompt=rows[segment.name]["prompt"],
                confidence=rows[segment.name]["confidence"],
                is_edited=None if _differs(segment, rows[segment.name]) else False,
            )
            if segment.name in rows
            else segment
            for segment in content.segments
        )
        return replace(
            content,
            segments=segments,
            system=document["system"],
            checkpoint=document["checkpoint"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"the table {path} can't be read; name one that 'segone segment --table' wrote"
        ) from error


def _differs(segment: Segment, row: Mapping[str, Any]) -> bool:
    return abs(segment.volume_ml - float(row["volume_ml"])) > _SAME_ML


def _row(content: Content, segment: Segment, label: int) -> dict[str, Any]:
    return {
        "label": label,
        "name": segment.name,
        "prompt": segment.prompt or None,
        "checkpoint": segment.checkpoint or content.checkpoint or None,
        "preset": segment.preset or content.options.get("preset"),
        "volume_ml": round(segment.volume_ml, 4),
        "confidence": None if segment.confidence is None else round(segment.confidence, 4),
        "edited_by_hand": segment.is_edited,
        "edited_with": list(segment.edited_with),
        "made_at": segment.made_at or None,
        "edited_at": segment.edited_at or None,
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
