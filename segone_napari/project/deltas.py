"""Which voxels an edit changed, from what to what, in few bytes.

A delta is a list of runs: neighbours in the mask's flat C order that had one value and got
another. A stroke is some hundred bytes, a whole mask some ten thousand.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segone_napari.volume import EMPTY_BOX, Box

Mask = NDArray[np.uint8]
Shape = tuple[int, int, int]

_RUN = np.dtype([("gap", "<u8"), ("length", "<u8"), ("before", "u1"), ("after", "u1")])


@dataclass(frozen=True, eq=False)
class Delta:
    """Changed voxels of one mask.

    Attributes
    ----------
    indices : (N,) int64, rising, in the flat C order of the mask's shape.
    before, after : (N,) uint8.
    """

    indices: NDArray[np.int64]
    before: Mask
    after: Mask

    def to_bytes(self) -> bytes:
        """Pack it; `from_bytes` undoes it."""
        starts = _run_starts(self.indices, self.before, self.after)
        runs = np.empty(len(starts), dtype=_RUN)
        first = self.indices[starts]
        runs["length"] = np.diff(starts, append=len(self.indices))
        runs["gap"] = np.diff(first, prepend=0)
        runs["before"] = self.before[starts]
        runs["after"] = self.after[starts]
        # Column by column: the same bytes follow each other, which packs several times better.
        columns = b"".join(np.ascontiguousarray(runs[name]).tobytes() for name in _RUN.names or ())
        return zlib.compress(columns, 1)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Delta:
        """Unpack what `to_bytes` made.

        Raises
        ------
        ValueError, zlib.error
            If the bytes are something else.
        """
        columns = memoryview(zlib.decompress(packed))
        count, rest = divmod(len(columns), _RUN.itemsize)
        if rest:
            raise ValueError("not a delta")
        runs, at = {}, 0
        for name in _RUN.names or ():
            dtype = _RUN[name]
            runs[name] = np.frombuffer(columns, dtype, count, at)
            at += count * dtype.itemsize
        lengths = runs["length"].astype(np.int64)
        first = np.cumsum(runs["gap"].astype(np.int64))
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1] if count else 0) - np.repeat(ends - lengths, lengths)
        indices = np.repeat(first, lengths) + within
        return cls(indices, np.repeat(runs["before"], lengths), np.repeat(runs["after"], lengths))

    def box(self, shape: Shape) -> Box:
        """The smallest box that holds all changed voxels."""
        if not len(self.indices):
            return EMPTY_BOX
        axes = np.unravel_index(self.indices, shape)
        i, j, k = (slice(int(axis.min()), int(axis.max()) + 1) for axis in axes)
        return i, j, k

    def do(self, mask: Mask) -> None:
        """Write the new values into a mask, in place."""
        _put(mask, self.indices, self.after)

    def take_back(self, mask: Mask) -> None:
        """Write the former values into a mask, in place."""
        _put(mask, self.indices, self.before)


def delta_between(mask: Mask, values: Mask, box: Box) -> Delta:
    """What has to change in `mask` so that its part in `box` becomes `values`."""
    part = mask[box]
    changed = np.nonzero(part != values)
    return Delta(_flat(changed, box, mask.shape), part[changed], values[changed])


def delta_of_atoms(
    atoms: Sequence[tuple[Sequence[NDArray[np.int64]], Mask, Mask]], shape: Shape
) -> Delta:
    """Join painted pieces, in the order in which they were painted, into one delta.

    Each atom is (indices along i, j, k, values before, values after). Where one voxel was painted
    several times, the first ``before`` and the last ``after`` count.
    """
    if not atoms:
        return _nothing()
    flat = np.concatenate([np.ravel_multi_index(tuple(where), shape) for where, _, _ in atoms])
    before = np.concatenate([old for _, old, _ in atoms])
    after = np.concatenate([new for _, _, new in atoms])
    indices, first = np.unique(flat, return_index=True)
    _, from_end = np.unique(flat[::-1], return_index=True)
    last = len(flat) - 1 - from_end
    is_changed = before[first] != after[last]
    return Delta(indices[is_changed], before[first][is_changed], after[last][is_changed])


def all_of(mask: Mask, box: Box) -> Delta:
    """The delta that makes `mask`, which is empty outside `box`, out of an empty mask."""
    part = mask[box]
    inside = np.nonzero(part)
    after = part[inside]
    return Delta(_flat(inside, box, mask.shape), np.zeros_like(after), after)


def reversed_delta(delta: Delta) -> Delta:
    """The delta that takes this one back."""
    return Delta(delta.indices, delta.after, delta.before)


def bounding_box(mask: Mask) -> Box:
    """The smallest box that holds all of a mask."""
    box = []
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        hit = np.flatnonzero(mask.any(axis=others))
        if not len(hit):
            return EMPTY_BOX
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return box[0], box[1], box[2]


def joined(first: Box, second: Box) -> Box:
    """The smallest box that holds two boxes."""
    if _is_empty(first):
        return second
    if _is_empty(second):
        return first
    i, j, k = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return i, j, k


def _is_empty(box: Box) -> bool:
    return any(part.stop <= part.start for part in box)


def _nothing() -> Delta:
    none = np.zeros(0, dtype=np.uint8)
    return Delta(np.zeros(0, dtype=np.int64), none, none)


def _flat(
    where: tuple[NDArray[np.int64], ...], box: Box, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    moved = tuple(axis + part.start for axis, part in zip(where, box, strict=True))
    return np.ravel_multi_index(moved, shape).astype(np.int64, copy=False)


def _put(mask: Mask, indices: NDArray[np.int64], values: Mask) -> None:
    if mask.flags.c_contiguous:
        mask.reshape(-1)[indices] = values
    else:  # a flipped or transposed view of a layer's array: reshape would copy it
        mask[np.unravel_index(indices, mask.shape)] = values


def _run_starts(indices: NDArray[np.int64], before: Mask, after: Mask) -> NDArray[np.int64]:
    if not len(indices):
        return np.zeros(0, dtype=np.int64)
    is_new = np.ones(len(indices), dtype=bool)
    is_new[1:] = (np.diff(indices) != 1) | (before[1:] != before[:-1]) | (after[1:] != after[:-1])
    return np.flatnonzero(is_new)
