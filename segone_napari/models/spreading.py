"""One slice's mask carried to the slices beside it by the teacher, as far as it stays sure.

The mask of the slice before is what the teacher is told about the next one, as a rough mask and
the box around it, away from the start in both directions. Knows nothing of structures, files or
windows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segone_napari.models.teacher import Proposal, box_around
from segone_napari.runtime import BadInput, Progress, no_progress

SURE = 0.5
"""The teacher's own quality below which it isn't followed any further ..."""
SURE_OF_START = 0.7
"""... or below this share of its quality on the slice where it starts."""
ALIKE = 0.3
"""Dice of neighbouring slices' masks below which it is another object."""
SMALLEST_MM2 = 4.0
"""An object that is smaller in a slice ends there."""

Spacing = tuple[float, float, float]


class Outliner(Protocol):
    """The part of a `Teacher` that spreading needs."""

    def set_slice(self, image: ArrayLike, spacing: tuple[float, float] = (1.0, 1.0)) -> None:
        """Look at a slice."""
        ...

    def predict(
        self,
        box: ArrayLike | None = None,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Proposal:
        """Outline one object in it."""
        ...


class Spread(NamedTuple):
    """`masks` (N, H, W) uint8 of the slices from `first` on; why it ended `before` and `after`."""

    first: int
    masks: NDArray[np.uint8]
    before: str
    after: str


def spread(
    outliner: Outliner,
    image: NDArray[Any],
    axis: int,
    start: int,
    mask: NDArray[Any],
    spacing: Spacing,
    *,
    settled: Collection[int] = (),
    progress: Progress = no_progress,
) -> Spread:
    """Carry the mask of slice `start` to its neighbours along `axis`.

    Parameters
    ----------
    image : three axes, in any order.
    mask : (H, W) of slice `start`: the image's other two axes, in their order; not empty.
    spacing : mm between neighbouring voxels along each axis of the image.
    settled : slices that are not to be changed, since a person has: it ends before them.

    Raises
    ------
    BadInput
        If the mask is empty.
    Cancelled
        When `progress` raises it.
    """
    slices = np.moveaxis(image, axis, 0)
    height, width = (mm for n, mm in enumerate(spacing) if n != axis)
    shape = np.asarray(mask) != 0
    if not shape.any():
        raise BadInput("there is nothing to spread on this slice; outline the structure here first")
    course = _Course(outliner, slices, (height, width), progress, [0, len(slices)])
    sure = course.quality_of(start, shape)
    before, why_before = course.follow(range(start - 1, -1, -1), shape, sure, settled)
    course.totals[0] = start + 1  # what was left out before it counts as done
    after, why_after = course.follow(range(start + 1, len(slices)), shape, sure, settled)
    masks = np.stack([*before[::-1], shape, *after]).astype(np.uint8)
    return Spread(start - len(before), masks, why_before, why_after)


class _Course:
    """Goes from slice to slice; counts its steps in `totals` (done, of)."""

    def __init__(
        self,
        outliner: Outliner,
        slices: NDArray[Any],
        spacing: tuple[float, float],
        progress: Progress,
        totals: list[int],
    ) -> None:
        self._outliner = outliner
        self._slices = slices
        self._spacing = spacing
        self._smallest = SMALLEST_MM2 / (spacing[0] * spacing[1])
        self._progress = progress
        self.totals = totals

    def quality_of(self, index: int, shape: NDArray[np.bool_]) -> float:
        """How sure the teacher is of a shape that is known."""
        return self._ask(index, shape).quality

    def follow(
        self, indices: range, shape: NDArray[np.bool_], sure: float, settled: Collection[int]
    ) -> tuple[list[NDArray[np.bool_]], str]:
        """The shapes of these slices, in their order, and why they end."""
        shapes: list[NDArray[np.bool_]] = []
        lowest = max(SURE, SURE_OF_START * sure)
        for index in indices:
            if index in settled:
                return shapes, "you corrected the next slice"
            answer = self._ask(index, shape)
            new = answer.probability > 0.5
            if answer.quality < lowest:
                return shapes, "SAM2 is no longer sure"
            if new.sum() < self._smallest:
                return shapes, "the structure ends"
            if _dice(new, shape) < ALIKE:
                return shapes, "it would be another structure"
            shapes.append(new)
            shape = new
        return shapes, "the image ends"

    def _ask(self, index: int, shape: NDArray[np.bool_]) -> Proposal:
        done, of = self.totals
        self._progress(min(done, of), of)
        self.totals[0] += 1
        self._outliner.set_slice(self._slices[index], self._spacing)
        return self._outliner.predict(box=box_around(shape), mask=shape)


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))
