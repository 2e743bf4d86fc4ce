"""Sharpen what was seen on coarse pixels by the scan's own brightness, at its full resolution.

Every structure has a brightness in this very scan, so none has to be known beforehand: means,
variances and a smooth bias field are estimated by expectation maximisation, with the network's
probabilities as the prior. Where these leave a choice, mostly at an edge, a voxel goes to the
structure whose brightness it has. Knows nothing of networks or prompts.

Sources: Van Leemput et al., *Automated model-based tissue classification of MR images of the
brain*, IEEE TMI 1999, and *Automated segmentation of multiple sclerosis lesions by model outlier
detection*, IEEE TMI 2001; Ashburner and Friston, *Unified segmentation*, NeuroImage 2005.

Dimension key: N voxels that may show something, E entries (a voxel and a class that it may be),
C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segone_napari.runtime import Progress, no_progress
from segone_napari.volume import EMPTY_BOX, Box

LIKELIHOOD_POWER = 0.5
"""How much a voxel's brightness counts beside the network's word.

Less than 1, since neighbouring voxels tell nearly the same, and the network has seen brightness."""
LEAST_PRIOR = 0.02
"""Classes less probable than this can't win a voxel."""
ITERATIONS = 6
EVERY = 8
"""Brightness is estimated on every so many-th voxel."""
BIAS_MM, CELL_MM = 60.0, 4.0
"""Full width at half maximum of the bias field's smoothing, and the cells it is computed on."""
LEAST_SPREAD = 0.03
"""Least standard deviation of a brightness, as a share of the scan's bright end."""
DOUBT = 2.0
"""Voxels of no particular brightness that are added to each class; some hardly have others."""
BORROWED_LOOKS = dict.fromkeys(
    ("inferior lateral ventricle", "third ventricle", "fourth ventricle"), "lateral ventricle"
)
"""Structures too thin to show their own brightness, and whose they have."""
OUTLIERS = {"white matter lesions": "cerebral white matter"}
"""What is known by looking unlike another structure, in whichever way, and which that is."""
OUTLIER = 1.7
"""From so many standard deviations on, a voxel is rather an outlier, if nothing else is known."""
CLEARLY = 3.0
"""From so many robust standard deviations on, an outlier is clearly unlike what it is one of."""
OWN_WORD = ("tumour", "blood vessels")
"""Classes that have no one brightness: the network alone says where they are."""

Dense = tuple[Box, NDArray[np.float16]]
"""A box of an image, and a probability in it."""


class ClassPart(NamedTuple):
    """One class: the smallest box that it may lie in, flat voxels of the outer box, and values."""

    box: Box
    voxels: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class SparseClasses:
    """Probabilities of all classes in a box of an image whose axes are in RAS order.

    A class that is nowhere has no part. Of outliers, `clear` says which share of their voxels is
    clearly unlike what they lie in.
    """

    box: Box
    parts: dict[int, ClassPart]
    clear: dict[int, float] = field(default_factory=dict)

    def probability(self, classes: Sequence[int]) -> Dense:
        """Sum of the probabilities of some classes, in the box that holds them all."""
        parts = [self.parts[c] for c in classes if c in self.parts]
        if not parts:
            return EMPTY_BOX, np.zeros((0, 0, 0), dtype=np.float16)
        shape = _shape(self.box)
        total = torch.zeros(math.prod(shape), device=parts[0].values.device)
        for part in parts:
            total.index_add_(0, part.voxels, part.values.float())
        box = _around([part.box for part in parts])
        values = total.reshape(shape)[_inside(box, self.box)].clamp(max=1)
        return box, values.half().cpu().numpy()


class _Entries(NamedTuple):
    """What each voxel may be.

    `voxel` (E,) counts through the N voxels, `look` (E,) is the class whose brightness counts,
    `teaches` (E,) whether that is the entry's own, and `is_outlier` (E,) whether the entry is what
    doesn't look like that.
    """

    voxel: Tensor
    look: Tensor
    teaches: Tensor
    is_outlier: Tensor
    prior: Tensor

    def normalised(self, weights: Tensor, count: int) -> Tensor:
        """Divide weights (E,) by their sum over each of `count` voxels."""
        total = weights.new_zeros(count).index_add_(0, self.voxel, weights)
        return weights / total.clamp_min(1e-12)[self.voxel]


class _Looks(NamedTuple):
    """Mean and variance (C,) of each class's brightness."""

    mean: Tensor
    variance: Tensor


def sharpen(
    image: Tensor,
    spacing: tuple[float, float, float],
    class_names: Sequence[str],
    probability: Callable[[int], Dense],
    *,
    progress: Progress = no_progress,
) -> SparseClasses:
    """Sharpen the probabilities of all classes.

    Parameters
    ----------
    image : (x, y, z) float32, not negative.
    spacing : mm between its voxels.
    class_names : C names; the first is the background.
    probability : returns a class's box in the image and its probability there.

    Raises
    ------
    Cancelled
        When `progress` raises it.
    """
    count = len(class_names)
    steps = count + ITERATIONS
    dense = {}
    for index in range(1, count):
        progress(index, steps)
        boxed = probability(index)
        if boxed[1].size:
            dense[index] = boxed
    if not dense:
        return SparseClasses(EMPTY_BOX, {})
    box = _around([inner for inner, _ in dense.values()])
    before = _sparse(dense, box, image.device)
    inside = image[box].flatten()
    own = {index: part for index, part in before.items() if class_names[index] in OWN_WORD}
    others = {index: part for index, part in before.items() if index not in own}
    if not others:
        return SparseClasses(box, own)

    # 1. The voxels that may show something, and what each may be; the background is one more thing.
    covered, room = torch.zeros_like(inside), torch.ones_like(inside)
    for part in others.values():
        covered.index_add_(0, part.voxels, part.values)
    for part in own.values():
        room.index_add_(0, part.voxels, -part.values)
    shown = covered.nonzero().flatten()  # (N,)
    number = torch.zeros_like(inside, dtype=torch.int32)
    number[shown] = torch.arange(len(shown), dtype=torch.int32, device=image.device)
    background = (room - covered).clamp_min(0)[shown]
    entries = _entries(others, class_names, number, background)

    # 2. How everything looks in this scan, then what every voxel is.
    brightness = inside[shown] / _bright_end(inside[shown])
    cells = _cells(shown, _shape(box), spacing)
    looks, bias = _estimate(entries, brightness, *cells, lambda n: progress(count + n, steps))
    even = (
        brightness / F.interpolate(bias[None, None], _shape(box), mode="trilinear").flatten()[shown]
    )
    shares = _expectation(entries, even, looks) * room[shown].clamp(0, 1)[entries.voxel]
    lengths = [*(len(part.voxels) for part in others.values()), len(shown)]
    sharp = {
        index: part._replace(values=values.half())
        for (index, part), values in zip(others.items(), shares.split(lengths)[:-1], strict=True)
    }
    return SparseClasses(
        box, sharp | own, _clear_shares(list(others), lengths, entries, shares, even)
    )


def _clear_shares(
    classes: Sequence[int], lengths: Sequence[int], entries: _Entries, shares: Tensor, even: Tensor
) -> dict[int, float]:
    """Which share of the voxels of each class of outliers is clearly unlike what it is one of.

    `lengths` says how many of the entries, with their `shares` (E,), belong to each class.
    """
    clear = {}
    parts = (t.split(lengths)[:-1] for t in (entries.voxel, entries.look, shares))
    is_outlier = (flags.any() for flags in entries.is_outlier.split(lengths)[:-1])
    for index, is_one, voxels, look, values in zip(classes, is_outlier, *parts, strict=True):
        found = even[voxels[values > 0.5]]
        if not is_one or not len(found):
            continue
        is_usual = (entries.look == look[0]) & (entries.teaches > 0) & (shares > 0.9)
        usual = even[entries.voxel[is_usual]]
        if len(usual) < DOUBT:
            continue
        middle = usual.median()
        spread = 1.4826 * (usual - middle).abs().median()
        clear[index] = float(((found - middle).abs() > CLEARLY * spread).float().mean())
    return clear


def _shape(box: Box) -> tuple[int, int, int]:
    x, y, z = (side.stop - side.start for side in box)
    return x, y, z


def _around(boxes: Sequence[Box]) -> Box:
    x, y, z = (
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(3)
    )
    return x, y, z


def _inside(inner: Box, outer: Box) -> Box:
    x, y, z = (
        slice(side.start - of.start, side.stop - of.start)
        for side, of in zip(inner, outer, strict=True)
    )
    return x, y, z


def _sparse(dense: dict[int, Dense], box: Box, device: torch.device) -> dict[int, ClassPart]:
    """Keep the voxels in which a class may be."""
    flat = torch.arange(math.prod(_shape(box)), dtype=torch.int32).reshape(_shape(box))
    parts = {}
    for index, (inner, values) in dense.items():
        probable = torch.from_numpy(values)
        is_kept = probable >= LEAST_PRIOR
        voxels = flat[_inside(inner, box)][is_kept]
        parts[index] = ClassPart(inner, voxels.to(device), probable[is_kept].float().to(device))
    return parts


def _entries(
    parts: dict[int, ClassPart],
    class_names: Sequence[str],
    number: Tensor,
    background: Tensor,
) -> _Entries:
    """List what the N voxels may be: all parts one after the other, then the background (N,)."""
    device = number.device
    lengths = [len(part.voxels) for part in parts.values()] + [len(background)]
    kinds = [name.removeprefix("left ").removeprefix("right ") for name in class_names]
    others = BORROWED_LOOKS | OUTLIERS
    looks = [kinds.index(others.get(kinds[index], kinds[index])) for index in parts] + [0]
    teaches = [kinds[index] not in others for index in parts] + [True]
    is_outlier = [kinds[index] in OUTLIERS for index in parts] + [False]

    def spread(values: Sequence[int]) -> Tensor:
        return torch.tensor(values).repeat_interleave(torch.tensor(lengths)).to(device)

    prior = torch.cat([part.values for part in parts.values()] + [background])
    voxel = torch.cat(
        [number[part.voxels] for part in parts.values()]
        + [torch.arange(len(background), dtype=torch.int32, device=device)]
    )
    entries = _Entries(
        voxel,
        spread(looks),
        spread(teaches).float(),
        spread(is_outlier),
        prior,
    )
    return entries._replace(prior=entries.normalised(entries.prior, len(background)))


def _bright_end(brightness: Tensor) -> Tensor:
    some = brightness[:: max(1, len(brightness) // 200_000)]
    return some.quantile(0.9).clamp_min(1e-9)


def _cells(
    voxels: Tensor, shape: tuple[int, int, int], spacing: Sequence[float]
) -> tuple[Tensor, tuple[int, ...]]:
    """Return which cell each voxel (N,) lies in, and how many cells there are along each axis."""
    size = tuple(max(1, round(n * mm / CELL_MM)) for n, mm in zip(shape, spacing, strict=True))
    x, y, z = (
        torch.arange(n, device=voxels.device) * s // n for n, s in zip(shape, size, strict=True)
    )
    cells = (x[:, None, None] * size[1] + y[:, None]) * size[2] + z
    return cells.flatten()[voxels], size


def _estimate(
    entries: _Entries,
    brightness: Tensor,
    cells: Tensor,
    size: tuple[int, ...],
    progress: Callable[[int], None],
) -> tuple[_Looks, Tensor]:
    """Estimate how everything looks from every `EVERY`-th voxel, brightness (N,).

    Returns the looks, and the bias field on cells of `size`.
    """
    is_used = entries.voxel % EVERY == 0
    some = _Entries(entries.voxel[is_used] // EVERY, *(part[is_used] for part in entries[1:]))
    observed, cells = brightness[::EVERY], cells[::EVERY]
    shares, bias = some.prior, torch.ones(size, device=brightness.device)
    for done in range(ITERATIONS):
        progress(done)
        even = observed / bias.flatten()[cells]
        looks = _maximisation(some, shares, even)
        shares = _expectation(some, even, looks)
        bias = _bias(some, shares, observed, looks, cells, size)
    progress(ITERATIONS)
    return looks, bias


def _maximisation(entries: _Entries, shares: Tensor, even: Tensor) -> _Looks:
    """Mean and variance of each class's brightness, from shares (E,) of voxels `even` (N,)."""
    shares = shares * entries.teaches
    brightness = even[entries.voxel]
    count = int(entries.look.max()) + 1

    def total(weights: Tensor) -> Tensor:
        return weights.new_zeros(count).index_add_(0, entries.look, weights)

    mass = total(shares) + DOUBT
    mean = (total(shares * brightness) + DOUBT * even.mean()) / mass
    spread = total(shares * (brightness - mean[entries.look]).square())
    variance = (spread + DOUBT * even.var()) / mass
    return _Looks(mean, variance.clamp_min(LEAST_SPREAD**2))


def _expectation(entries: _Entries, even: Tensor, looks: _Looks) -> Tensor:
    """How probable each entry (E,) is, given the voxels' brightness `even` (N,)."""
    variance = looks.variance[entries.look]
    distance = (even[entries.voxel] - looks.mean[entries.look]).square() / variance
    distance = torch.where(entries.is_outlier, OUTLIER**2, distance)
    likelihood = (-0.5 * LIKELIHOOD_POWER * (distance + variance.log())).clamp(-40, 40)
    return entries.normalised(entries.prior * likelihood.exp(), len(even))


def _bias(
    entries: _Entries,
    shares: Tensor,
    observed: Tensor,
    looks: _Looks,
    cells: Tensor,
    size: tuple[int, ...],
) -> Tensor:
    """How much brighter the scan is than its structures are, smooth, on cells of `size`."""
    precision = shares / looks.variance[entries.look] * (entries.look > 0)
    weight = torch.zeros_like(observed).index_add_(0, entries.voxel, precision)
    told = torch.zeros_like(observed)
    told.index_add_(0, entries.voxel, precision * looks.mean[entries.look])
    expected = told / weight.clamp_min(1e-9)  # brightness without bias
    sums = [
        torch.zeros(math.prod(size), device=observed.device).index_add_(0, cells, part)
        for part in (weight * observed * expected, weight * expected.square())
    ]
    sigma = BIAS_MM / 2.355 / CELL_MM
    over, under = (
        ndimage.gaussian_filter(part.reshape(size).cpu().numpy(), sigma) for part in sums
    )
    is_known = under > 1e-4 * under.max()
    field = np.where(is_known, over / np.where(is_known, under, 1), 1).clip(0.5, 2)
    return torch.from_numpy(field.astype(np.float32)).to(observed.device)
