"""One slice's mask carried to the slices beside it, as far as that can be trusted.

Two witnesses say where the object is in the next slice, each told its mask in the slice before: the
teacher, and the brightness near that mask's border. Their mean is the next mask. Where they
disagree, or the mask is no longer like the one at the start, it ends: the teacher alone is always
sure of itself, and goes on far beyond the object's end.

Knows nothing of structures, files or windows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from segone_napari.models.teacher import Proposal
from segone_napari.runtime import BadInput, Progress, no_progress

REACH_MM = 5.0
"""How far it goes from the start in either direction; to the next slice at least."""
SURE = 0.5
"""The teacher's own quality below which it isn't followed any further ..."""
SURE_OF_START = 0.7
"""... or below this share of its quality on the slice where it starts."""
AGREE = 0.85
"""Dice of the teacher's and the brightness's masks below which neither is believed."""
ALIKE, LIKE_START = 0.6, 0.5
"""Dice with the mask of the slice before, and of the start, below which it is another object."""
AS_BRIGHT = 0.8
"""How far the brightness inside may move from the start's, in standard deviations of that."""
SMALLEST_MM2 = 4.0
"""An object that is smaller in a slice ends there."""

BAND_MM, RING_MM = 2.0, 4.0
"""How far a border may move from slice to slice, and how wide a ring shows what lies around."""
LEVELS = 24
"""Steps of brightness that are told apart."""

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
    reach = max(1, round(REACH_MM / spacing[axis]))
    course = _Course(outliner, slices, (height, width), progress, [0, 2 * reach + 1])
    course.begin_at(start, shape)
    first = _Start(start, shape, *_brightness(slices[start], shape))
    before, why_before = course.follow(range(start - 1, -1, -1)[:reach], first, settled)
    course.totals[0] = reach + 1  # what was left out before it counts as done
    after, why_after = course.follow(range(start + 1, len(slices))[:reach], first, settled)
    masks = np.stack([*before[::-1], shape, *after]).astype(np.uint8)
    return Spread(start - len(before), masks, why_before, why_after)


class _Start(NamedTuple):
    """The slice where it starts: its mask, and how bright it is inside."""

    at: int
    shape: NDArray[np.bool_]
    brightness: float
    deviation: float


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
        self._quality = 0.0

    def begin_at(self, index: int, shape: NDArray[np.bool_]) -> None:
        """Find out how sure the teacher is of the shape that is known."""
        self._quality = self._ask(index, shape).quality

    def follow(
        self, indices: range, first: _Start, settled: Collection[int]
    ) -> tuple[list[NDArray[np.bool_]], str]:
        """The shapes of these slices, in their order, and why they end."""
        shapes: list[NDArray[np.bool_]] = []
        shape, before = first.shape, first.at
        for index in indices:
            if index in settled:
                return shapes, "you corrected the next slice"
            answer = self._ask(index, shape)
            bright = by_brightness(shape, self._slices[before], self._slices[index], self._spacing)
            new = answer.probability + bright > 1.0
            why = self._why_it_ends(answer, bright, new, shape)
            why = why or _why_unlike_start(new, self._slices[index], first)
            if why:
                return shapes, why
            shapes.append(new)
            shape, before = new, index
        at_end = indices.stop in (-1, len(self._slices))
        return shapes, "the image ends" if at_end else f"{REACH_MM:.0f} mm are reached"

    def _why_it_ends(
        self,
        answer: Proposal,
        bright: NDArray[np.float64],
        new: NDArray[np.bool_],
        shape: NDArray[np.bool_],
    ) -> str:
        if answer.quality < max(SURE, SURE_OF_START * self._quality):
            return "SAM2 is no longer sure"
        if new.sum() < self._smallest:
            return "the structure ends"
        if _dice(answer.probability > 0.5, bright > 0.5) < AGREE:
            return "SAM2 and the brightness disagree"
        return "it would be another structure" if _dice(new, shape) < ALIKE else ""

    def _ask(self, index: int, shape: NDArray[np.bool_]) -> Proposal:
        done, of = self.totals
        self._progress(min(done, of), of)
        self.totals[0] += 1
        self._outliner.set_slice(self._slices[index], self._spacing)
        return self._outliner.predict(mask=shape)


def by_brightness(
    shape: NDArray[np.bool_],
    before: NDArray[Any],
    here: NDArray[Any],
    spacing: tuple[float, float],
) -> NDArray[np.float64]:
    """How probably each pixel of a slice (H, W) belongs to what has `shape` in the slice before.

    Near the border of `shape`, a pixel's brightness is compared with those inside and around it in
    the slice before; farther away nothing changes.
    """
    inner = ndimage.distance_transform_edt(shape, sampling=spacing)
    outer = ndimage.distance_transform_edt(~shape, sampling=spacing)
    band = max(BAND_MM, 1.5 * max(spacing))
    ring = (outer > 0) & (outer <= max(RING_MM, 2 * band))
    # 1. What is inside and what is around, each as a histogram.
    known = np.concatenate([before[shape], before[ring]])
    low, high = np.percentile(known, [1, 99])
    step = max(float(high - low), 1e-6) / LEVELS

    def levels(values: NDArray[Any]) -> NDArray[np.int64]:
        return np.clip((values - low) / step, 0, LEVELS - 1).astype(np.int64)

    inside, around = (_histogram(levels(before[part])) for part in (shape, ring))
    # 2. Which of both each pixel is more like, evened out a little, and where it lies.
    evidence = ndimage.gaussian_filter(
        np.log(inside / around)[levels(here)], [0.7 / mm for mm in spacing]
    )
    score = evidence + np.clip((inner - outer) / band, -2, 2)
    probability: NDArray[np.float64] = 1 / (1 + np.exp(-score))
    probability[inner > band] = 1.0
    probability[outer > band] = 0.0
    return probability


def _histogram(levels: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(levels, minlength=LEVELS).astype(np.float64)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter1d(counts, 1.0) + 0.5
    return smooth / smooth.sum()


def _brightness(pixels: NDArray[Any], shape: NDArray[np.bool_]) -> tuple[float, float]:
    """Median and standard deviation inside a shape."""
    inside = np.asarray(pixels)[shape].astype(np.float64)
    return float(np.median(inside)), float(inside.std())


def _why_unlike_start(new: NDArray[np.bool_], pixels: NDArray[Any], first: _Start) -> str:
    if _dice(new, first.shape) < LIKE_START:
        return "its shape has changed much"
    moved = abs(_brightness(pixels, new)[0] - first.brightness)
    is_as_bright = moved <= max(AS_BRIGHT * first.deviation, 1e-6)
    return "" if is_as_bright else "it is brighter or darker there"


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))
