"""What persons painted and the model is to learn from, one folder a correction.

A folder has ``correction.json`` and ``voxels.npz``, and appears under its name only when both are
complete. Knows nothing of training.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segone_napari.project.journal import sync_folder
from segone_napari.project.values import ImageRef
from segone_napari.runtime import BadInput

AXES = "ijk"
"""The letters of the array axes, in order."""

CORRECT_AGAIN = "correct the slices again, or remove this correction"
"""What to do about a damaged correction."""

_UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True, eq=False)
class Correction:
    """What a person says is right.

    Attributes
    ----------
    term : what it is of.
    image : the image that it belongs to.
    axis, slices : the slices along this array axis that are right; None if all voxels are.
    synonyms : other words for the term.
    patient : whose image it is, or empty.
    author : who corrected it.
    created : ISO time, UTC.
    folder : where it is kept; its name is its number.
    """

    term: str
    image: ImageRef
    axis: int | None
    slices: tuple[int, ...] | None
    synonyms: tuple[str, ...]
    patient: str
    author: str
    created: str = ""
    folder: Path = Path()

    @property
    def id(self) -> str:
        """Its number, which grows with time."""
        return self.folder.name

    def mask(self) -> NDArray[np.uint8]:
        """Read the mask: uint8 (i, j, k), 0 or 1; 0 where nothing is known.

        Raises
        ------
        BadInput
            If its file is damaged or gone.
        """
        mask = np.zeros(self.image.grid.shape, dtype=np.uint8)
        stored = read_arrays(self.folder / "voxels.npz").get("mask")
        where = mask[self._region()]
        if stored is None or stored.shape != where.shape or stored.dtype != np.uint8:
            raise _damaged(self.folder / "voxels.npz", "its mask doesn't fit the image's grid")
        mask[self._region()] = stored
        return mask

    def known(self) -> NDArray[np.bool_]:
        """Which voxels (i, j, k) it says something about."""
        known = np.zeros(self.image.grid.shape, dtype=bool)
        known[self._region()] = True
        return known

    def _region(self) -> tuple[Any, ...]:
        if self.axis is None or self.slices is None:
            return (slice(None),) * 3
        region: list[Any] = [slice(None)] * 3
        region[self.axis] = list(self.slices)
        return tuple(region)


@dataclass(frozen=True)
class Corrections:
    """What lies in a project's folder of corrections.

    Attributes
    ----------
    usable : the oldest first.
    problems : a sentence for each that can't be used.
    """

    usable: tuple[Correction, ...]
    problems: tuple[str, ...]


def merge_corrections(
    corrections: Sequence[Correction],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Join corrections of one term and image; where they contradict each other, the later wins.

    Parameters
    ----------
    corrections : the oldest first, as `Project.corrections` lists them.

    Returns
    -------
    mask : uint8 (i, j, k), 0 or 1.
    known : bool (i, j, k), the voxels that any of them speaks of.

    Raises
    ------
    BadInput
        If they are of different terms or images, or one is damaged.
    """
    first = corrections[0]
    if any(c.term != first.term or not c.image.is_same_as(first.image) for c in corrections):
        raise BadInput("corrections of different terms or images can't be joined; sort them first")
    mask = np.zeros(first.image.grid.shape, dtype=np.uint8)
    known = np.zeros(first.image.grid.shape, dtype=bool)
    for correction in corrections:
        where = correction.known()
        mask[where] = correction.mask()[where]
        known |= where
    return mask, known


def checked(facts: Correction, mask: NDArray[Any]) -> Correction:
    """A new correction with its term and slices tidied and the time set.

    Raises
    ------
    BadInput
        If the term is empty, the mask is on another grid, or a slice is outside of it.
    """
    term = " ".join(facts.term.split())
    shape = facts.image.grid.shape
    if not term:
        raise BadInput("a correction needs a name; say what the mask is of")
    if mask.shape != shape:
        raise BadInput(
            f"the mask has the shape {mask.shape} and the image {shape}; "
            "draw it on the image's own grid"
        )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    if facts.slices is None:
        return replace(facts, term=term, axis=None, created=created)
    slices = _checked_slices(facts.slices, facts.axis, shape)
    return replace(facts, term=term, slices=slices, created=created)


def write(corrections: Path, facts: Correction, mask: NDArray[Any]) -> Correction:
    """Write a correction into a folder of its own. Raises OSError if the disk refuses."""
    corrections.mkdir(parents=True, exist_ok=True)
    part = corrections / f".{secrets.token_hex(6)}.part"
    part.mkdir()
    try:
        inside = (mask[facts._region()] != 0).astype(np.uint8)
        _write_synced(part / "voxels.npz", packed_arrays(mask=inside))
        _write_synced(part / "correction.json", json.dumps(_as_json(facts), indent=2).encode())
        folder = _rename_to_next(part, corrections)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(corrections)
    return replace(facts, folder=folder)


def read_all(corrections: Path) -> Corrections:
    """List a folder's corrections; voxels are read when they are asked for."""
    usable, problems = [], []
    for folder in sorted(corrections.glob("[0-9]*"), key=lambda path: path.name.zfill(12)):
        try:
            values = json.loads((folder / "correction.json").read_bytes())
            if not (folder / "voxels.npz").is_file():
                raise FileNotFoundError("voxels.npz is missing")
            usable.append(_from_json(values, folder))
        except _UNREADABLE as error:
            problems.append(str(_damaged(folder, str(error))))
    return Corrections(tuple(usable), tuple(problems))


def packed_arrays(**arrays: NDArray[Any]) -> bytes:
    """Put arrays into the bytes of an ``.npz`` file."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def read_arrays(path: Path, cure: str = CORRECT_AGAIN) -> dict[str, NDArray[Any]]:
    """Read an ``.npz`` file; pickles are refused.

    Parameters
    ----------
    cure : what a person can do when it is damaged.

    Raises
    ------
    BadInput
        If it is damaged or gone.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        raise _damaged(path, str(error), cure) from error


def _checked_slices(
    slices: Sequence[int], axis: int | None, shape: tuple[int, int, int]
) -> tuple[int, ...]:
    if axis not in (0, 1, 2):
        raise BadInput(f"slices along which axis? got {axis}, wanted one of {', '.join(AXES)}")
    chosen = tuple(sorted({int(index) for index in slices}))
    size = shape[axis]
    outside = [index for index in chosen if not 0 <= index < size]
    if outside or not chosen:
        what = f"slice {outside[0]}" if outside else "no slice"
        raise BadInput(
            f"{what} was named along {AXES[axis]}; this image has slices 0 to {size - 1} there"
        )
    return chosen


def _rename_to_next(part: Path, corrections: Path) -> Path:
    numbers = [int(p.name) for p in corrections.glob("[0-9]*") if p.name.isdigit()]
    number = max(numbers, default=0) + 1
    while True:
        folder = corrections / f"{number:04}"
        # Another program may take the number first; a folder can't be renamed onto a full one.
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            number += 1
        else:
            return folder


def _as_json(facts: Correction) -> dict[str, Any]:
    return {
        "term": facts.term,
        "image": facts.image.as_json(),
        "axis": None if facts.axis is None else AXES[facts.axis],
        "slices": None if facts.slices is None else list(facts.slices),
        "synonyms": list(facts.synonyms),
        "patient": facts.patient,
        "author": facts.author,
        "created": facts.created,
    }


def _from_json(values: Mapping[str, Any], folder: Path) -> Correction:
    axis, slices = values["axis"], values["slices"]
    return Correction(
        str(values["term"]),
        ImageRef.from_json(values["image"]),
        None if axis is None else AXES.index(axis),
        None if slices is None else tuple(int(index) for index in slices),
        tuple(values["synonyms"]),
        str(values["patient"]),
        str(values["author"]),
        str(values["created"]),
        folder,
    )


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _damaged(path: Path, why: str, cure: str = CORRECT_AGAIN) -> BadInput:
    return BadInput(f"{path} is damaged ({why}); {cure}")
