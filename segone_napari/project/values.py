"""The values that a project is made of: rows, references to images, what an edit changed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segone_napari.runtime import SegOneError
from segone_napari.volume import Box, Grid, Volume

State = Literal["draft", "accepted", "not found"]

Kind = Literal["brush", "sam2", "confirmed", "spread", "repair", "interpolation", "result", "row"]
"""What made an edit. ``brush`` is also the eraser and the fill; ``sam2`` is what a person clicked
and took on a slice, and ``spread`` carries it to slices that nobody looked at; ``confirmed``
changes nothing and says that a slice is right as it is; ``result`` is the model's answer; ``row``
changes facts of a row, adds it or takes it away."""

BY_HAND: tuple[Kind, ...] = ("brush", "sam2", "confirmed")
"""The kinds by which a person says which voxels belong to a structure."""


class RowLocked(SegOneError):
    """An accepted row was to be changed.

    Attributes
    ----------
    change : where voxels that a brush had painted were put back.
    """

    def __init__(self, message: str, change: Change) -> None:
        super().__init__(message)
        self.change = change


@dataclass(frozen=True)
class Row:
    """One structure of a case, as the list of rows shows it.

    Attributes
    ----------
    prompt : the words as typed.
    name : the canonical name that they were understood as, or the words themselves.
    side : "left", "right", "both", or None for what has no side.
    colour : three values 0 to 255.
    state : ``accepted`` rows are locked.
    confidence : 0 to 1, or None where nobody said.
    checkpoint : the version of the model that answered; empty for a row painted by hand.
    id : the row's number in its case, given by `EditHistory.put`; 0 before that.
    preset : how it was answered ("balanced"); empty for a row painted by hand.
    """

    prompt: str
    name: str
    side: str | None = None
    colour: tuple[int, int, int] = (255, 85, 0)
    state: State = "draft"
    confidence: float | None = None
    checkpoint: str = ""
    id: int = 0
    preset: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """Make a row of what `as_json` gave."""
        red, green, blue = values["colour"]
        return cls(**{**values, "colour": (red, green, blue)})


@dataclass(frozen=True, eq=False)
class Change:
    """What one edit, undo or redo did.

    Attributes
    ----------
    kind : what made the edit.
    words : what to call it ("brush on left hippocampus").
    boxes : row to the smallest box that holds its changed voxels, empty where only facts of the
        row changed. Rows that came or went are included.
    added : the rows that are there now and were not before.
    removed : the rows that were there before.
    """

    kind: Kind
    words: str
    boxes: Mapping[int, Box] = field(default_factory=dict)
    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ImageRef:
    """Which image something belongs to, without its voxels.

    Attributes
    ----------
    checksum : of all voxels with their shape and type; a renamed or recompressed file keeps it.
    grid : where the voxels lie.
    name : what to call it.
    path : the file that it was read from, or None.
    volume_index : which volume of a 4-D file or series, counted from 0, or None.
    series : which of several DICOM series in the folder `path`, or None.
    """

    checksum: str
    grid: Grid
    name: str = "image"
    path: Path | None = None
    volume_index: int | None = None
    series: str | None = None

    @classmethod
    def of(
        cls,
        volume: Volume,
        path: str | Path | None = None,
        *,
        volume_index: int | None = None,
        series: str | None = None,
    ) -> ImageRef:
        """Refer to a volume. Takes about a second for each GB: ask in a worker."""
        where = None if path is None else Path(path).absolute()
        return cls(checksum_of(volume), volume.grid, volume.name, where, volume_index, series)

    def is_same_as(self, other: ImageRef) -> bool:
        """Whether both refer to the same voxels in the same place."""
        return self.checksum == other.checksum and self.grid.is_same_as(other.grid)

    def as_json(self) -> dict[str, Any]:
        """The reference as plain values."""
        return {
            "checksum": self.checksum,
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "volume_index": self.volume_index,
            "series": self.series,
            "shape": list(self.grid.shape),
            "affine": np.asarray(self.grid.affine).tolist(),
            "sform_code": self.grid.sform_code,
            "qform_code": self.grid.qform_code,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageRef:
        """Make a reference of what `as_json` gave."""
        i, j, k = (int(n) for n in values["shape"])
        affine = np.asarray(values["affine"], dtype=np.float64).reshape(4, 4)
        codes = int(values["sform_code"]), int(values["qform_code"])
        path = values["path"]
        return cls(
            str(values["checksum"]),
            Grid((i, j, k), affine, *codes),
            str(values["name"]),
            None if path is None else Path(path),
            values["volume_index"],
            values.get("series"),  # cases of the first version don't have it
        )


def checksum_of(volume: Volume) -> str:
    """SHA-256 of a volume's shape, dtype and voxels, the same for every order in memory."""
    data = volume.data
    if data.dtype.byteorder == ">" or (data.dtype.byteorder == "=" and sys.byteorder == "big"):
        data = data.astype(data.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{data.shape} {data.dtype.str}".encode())
    for plane in data:
        digest.update(np.ascontiguousarray(plane).data)
    return f"sha256:{digest.hexdigest()}"
