"""Which voxels an edit changed, from what to what, in few bytes.

A delta is a list of runs: neighbours along the mask's last axis that had one value and got
another. A stroke takes some hundred bytes, a whole mask some ten thousand.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segone_napari.volume import EMPTY_BOX, Box

Mask = NDArray[np.uint8]
Shape = tuple[int, int, int]
Painted = tuple[Sequence[NDArray[np.int64]], Mask, Mask]
"""Indices along i, j and k, and the values before and after, all of one length."""

_LONG = np.dtype("<u8")
_RUN_BYTES = 8 + 8 + 1 + 1


@dataclass(frozen=True, eq=False)
class Delta:
    """Changed voxels of one mask, as runs that end with their row at the latest.

    Attributes
    ----------
    starts : (R,) int64, rising, in the flat C order of the mask's shape.
    lengths : (R,) int64.
    before, after : (R,) uint8.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    before: Mask
    after: Mask

    def __len__(self) -> int:
        """How many runs there are; 0 if nothing changes."""
        return len(self.starts)

    def to_bytes(self) -> bytes:
        """Pack it; `from_bytes` undoes it."""
        # Column by column, and starts as gaps: equal bytes follow each other and pack better.
        gaps = np.diff(self.starts, prepend=0)
        columns = (gaps.astype(_LONG), self.lengths.astype(_LONG), self.before, self.after)
        return zlib.compress(b"".join(column.tobytes() for column in columns), 1)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Delta:
        """Unpack what `to_bytes` made.

        Raises
        ------
        ValueError, zlib.error
            If the bytes are something else.
        """
        data = zlib.decompress(packed)
        count, rest = divmod(len(data), _RUN_BYTES)
        if rest:
            raise ValueError("not a delta")
        gaps = np.frombuffer(data, _LONG, count)
        lengths = np.frombuffer(data, _LONG, count, 8 * count)
        before = np.frombuffer(data, np.uint8, count, 16 * count)
        after = np.frombuffer(data, np.uint8, count, 17 * count)
        return cls(np.cumsum(gaps.astype(np.int64)), lengths.astype(np.int64), before, after)

    def reversed(self) -> Delta:
        """The delta that takes this one back."""
        return Delta(self.starts, self.lengths, self.after, self.before)

    def do(self, mask: Mask) -> None:
        """Write the new values into a mask, in place."""
        self._put(mask, self.after)

    def take_back(self, mask: Mask) -> None:
        """Write the former values into a mask, in place."""
        self._put(mask, self.before)

    def box(self, shape: Shape) -> Box:
        """The smallest box that holds all changed voxels."""
        if not len(self):
            return EMPTY_BOX
        i, j, k = np.unravel_index(self.starts, shape)
        return (
            slice(int(i.min()), int(i.max()) + 1),
            slice(int(j.min()), int(j.max()) + 1),
            slice(int(k.min()), int((k + self.lengths).max())),
        )

    def indices(self) -> NDArray[np.int64]:
        """The changed voxels, rising, in the flat C order of the mask's shape."""
        ends = np.cumsum(self.lengths)
        total = int(ends[-1]) if len(self) else 0
        return np.arange(total) + np.repeat(self.starts - ends + self.lengths, self.lengths)

    def _put(self, mask: Mask, values: Mask) -> None:
        voxels = np.repeat(values, self.lengths)
        if mask.flags.c_contiguous:
            mask.reshape(-1)[self.indices()] = voxels
        else:  # a flipped or transposed view of a layer's array, which reshape would copy
            mask[np.unravel_index(self.indices(), mask.shape)] = voxels


def no_delta() -> Delta:
    """The delta of an edit that changes no voxel."""
    nowhere, nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    return Delta(nowhere, nowhere, nothing, nothing)


def delta_between(mask: Mask, values: Mask, box: Box) -> Delta:
    """What has to change in `mask` so that its part in `box` becomes `values`."""
    # Plane by plane: what is at work then fits into the processor's cache.
    return _joined_runs(
        [_runs_between(old, new) for old, new in zip(mask[box], values, strict=True)],
        box,
        mask.shape,
    )


def delta_from_nothing(mask: Mask, box: Box) -> Delta:
    """The delta that makes `mask`, which is empty outside `box`, out of an empty mask."""
    return _joined_runs([_runs_of(plane) for plane in mask[box]], box, mask.shape)


def delta_of_painted(atoms: Sequence[Painted], shape: Shape) -> Delta:
    """Join painted pieces, in the order in which they were painted, into one delta.

    Where one voxel was painted several times, the first value before and the last after count.
    """
    if not atoms:
        return no_delta()
    flat = np.concatenate([np.ravel_multi_index(tuple(where), shape) for where, _, _ in atoms])
    before = np.concatenate([old for _, old, _ in atoms])
    after = np.concatenate([new for _, _, new in atoms])
    indices, first = np.unique(flat, return_index=True)
    _, from_end = np.unique(flat[::-1], return_index=True)
    before, after = before[first], after[len(flat) - 1 - from_end]
    is_changed = before != after
    indices, before, after = indices[is_changed], before[is_changed], after[is_changed]
    is_start = np.ones(len(indices), dtype=bool)
    is_start[1:] = np.diff(indices) != 1
    is_start |= indices % shape[2] == 0
    is_start[1:] |= (before[1:] != before[:-1]) | (after[1:] != after[:-1])
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=len(indices))
    return Delta(indices[starts], lengths, before[starts], after[starts])


_Runs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[Any]]
"""Runs in a plane: row, column of the first voxel, length, and the value of all."""


def _runs_between(old: Mask, new: Mask) -> _Runs:
    """Runs of changed voxels: the value before in the high byte, the value after in the low."""
    differs = old != new
    both = old.astype(np.uint16) << 8
    both |= new
    both *= differs
    return _runs_of(both)


def _runs_of(plane: NDArray[Any]) -> _Runs:
    """Runs of equal values that aren't 0."""
    rows, columns = plane.shape
    # A 0 behind each row, so that no run goes on in the next; and one before the first.
    fenced = np.zeros(1 + rows * (columns + 1), dtype=plane.dtype)
    fenced[1:].reshape(rows, columns + 1)[:, :columns] = plane
    edges = np.flatnonzero(fenced[1:] != fenced[:-1])
    starts, ends = edges[:-1], edges[1:]
    values = fenced[1:][starts]
    is_run = values != 0
    row, column = np.divmod(starts[is_run], columns + 1)
    return row, column, (ends - starts)[is_run], values[is_run]


def _joined_runs(planes: Sequence[_Runs], box: Box, shape: tuple[int, ...]) -> Delta:
    """One delta from the runs of each plane of a box."""
    counts = [len(rows) for rows, _, _, _ in planes]
    if not sum(counts):
        return no_delta()
    i = np.repeat(np.arange(len(planes)), counts)
    j, k, lengths, values = (np.concatenate(parts) for parts in zip(*planes, strict=True))
    starts = np.ravel_multi_index((i + box[0].start, j + box[1].start, k + box[2].start), shape)
    before = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return Delta(starts, lengths, before, (values & 0xFF).astype(np.uint8))
