"""Sharpen what was seen on coarse pixels by the scan's own brightness, at its full resolution.

Every structure has a brightness in this very scan, so none has to be known beforehand: means,
variances and a smooth bias field are estimated by expectation maximisation, with the network's
probabilities as the prior. Where these leave a choice, mostly at an edge, a voxel goes to the
structure whose brightness it has. Knows nothing of networks or prompts.

Sources: Van Leemput et al., *Automated model-based tissue classification of MR images of the
brain*, IEEE TMI 1999, and *Automated segmentation of multiple sclerosis lesions by model outlier
detection*, IEEE TMI 2001; Ashburner and Friston, *Unified segmentation*, NeuroImage 2005.

Dimension key: V voxels of a box or of a part of it, N of them that may show something, E entries
(a voxel and a class that it may be), C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segone_napari.runtime import Progress, no_progress
from segone_napari.volume import EMPTY_BOX, Box, joined

LIKELIHOOD_POWER = 0.5
"""How much a voxel's brightness counts beside the network's word.

Less than 1, since neighbouring voxels tell nearly the same, and the network has seen brightness."""
LEAST_PRIOR = 0.02
"""Classes less probable than this can't win a voxel."""
ITERATIONS = 6
LOOKED_AT = 300_000
"""Brightness is estimated on no more than about so many entries; of finer scans on some voxels."""
AT_ONCE = 4_000_000
"""Voxels that are sharpened together; what lies between is only there for these."""
FINAL_STEPS = 4
"""Steps of progress for sharpening, once all looks are known."""
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


class OutlierOf(NamedTuple):
    """What an outlier is unlike, and what differs from that in the same direction."""

    usual: str
    towards: str


OUTLIERS = {"white matter lesions": OutlierOf("cerebral white matter", "cerebral cortex")}
"""What is known by looking unlike another structure.

Lesions hold more water than white matter, as grey matter does, so that in every sequence both are
brighter, or both are darker."""
OUTLIER = 3.0
"""From so many standard deviations on, a voxel is rather an outlier, if nothing else is known.

Up to there the odds are the exponential of how many are missing. Beyond it all brightness is as
likely in an outlier as one standard deviation from the mean is in what is usual."""
LEAST_CLEAR = 0.65
"""A piece of outliers of which a smaller share is beyond `OUTLIER` doesn't count, whatever the
network says: beside the ventricles white matter looks a little like lesions in most heads."""
UNCLEAR = 0.26
"""The highest probability of what doesn't count: in no mask that expects a Dice of twice that."""
SMALLEST_PIECE_ML = 0.01
"""Nor does a smaller one: what is called a lesion is 3 mm long at least."""
MOST_TOLD = 6.0
"""More that are missing make no difference."""
LEAST_APART = 0.5
"""Two structures have to be so many standard deviations apart to tell a direction."""
OWN_WORD = ("tumour", "blood vessels")
"""Classes that have no one brightness: the network alone says where they are."""

Dense = tuple[Box, NDArray[np.float16]]
"""A box of an image, and a probability in it."""


class ClassPart(NamedTuple):
    """One class: the smallest box that it may lie in, flat voxels of the outer box, and values."""

    box: Box
    voxels: Tensor
    values: Tensor


Parts = dict[int, ClassPart]
"""Classes by their index."""


@dataclass(frozen=True, eq=False)
class SparseClasses:
    """Probabilities of all classes in a box of an image whose axes are in RAS order.

    A class that is nowhere has no part. Of outliers, `unclear` says which voxels (E,) belong to
    pieces that hardly differ from what they lie in, or are specks, or are away from clear ones.
    """

    box: Box
    parts: Parts
    unclear: dict[int, Tensor] = field(default_factory=dict)

    def probability(self, classes: Sequence[int]) -> Dense:
        """Sum of the probabilities of some classes, in the box that holds them all.

        Of outliers alone, what is unclear has half its probability, and `UNCLEAR` at most, unless
        all is.
        """
        parts = [self.parts[c] for c in classes if c in self.parts]
        if not parts:
            return EMPTY_BOX, np.zeros((0, 0, 0), dtype=np.float16)
        if len(classes) == 1 and self.is_clear(classes[0]):
            part = parts[0]
            less = (part.values / 2).clamp_max(UNCLEAR)
            values = torch.where(self.unclear[classes[0]], less, part.values)
            parts = [part._replace(values=values)]
        shape = _shape(self.box)
        total = torch.zeros(math.prod(shape), device=parts[0].values.device)
        for part in parts:
            total.index_add_(0, part.voxels, part.values.float())
        box = joined(*(part.box for part in parts))
        values = total.reshape(shape)[_inside(box, self.box)].clamp(max=1)
        return box, values.half().cpu().numpy()

    def is_clear(self, index: int) -> bool | None:
        """Whether any piece of an outlier's mask is clear; None of what is no outlier."""
        if index not in self.unclear:
            return None
        return bool(((self.parts[index].values > 0.5) & ~self.unclear[index]).any())


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


class _Choice(NamedTuple):
    """Some voxels, and what they may be.

    `shown` (N,) are those of V voxels that may show something, `room` (N,) how much of each is left
    by classes of no one brightness. The entries are those of `lengths`, one class after the other
    in the order of the parts, and then of the background.
    """

    shown: Tensor
    room: Tensor
    entries: _Entries
    lengths: list[int]


class _Looks(NamedTuple):
    """Mean and variance (C,) of each class's brightness, and how outliers of it look.

    These differ from `middle` (C,) by standard deviations of `spread` (C,), upwards where
    `direction` (C,) is 1, downwards where it is -1, either way where it is 0.
    """

    mean: Tensor
    variance: Tensor
    middle: Tensor
    spread: Tensor
    direction: Tensor

    def unlikeness(self, look: int | Tensor, even: Tensor) -> Tensor:
        """By how many standard deviations brightness `even` (E,) is an outlier of a look, or of
        looks (E,).
        """
        direction = self.direction[look]
        away = (even - self.middle[look]) / self.spread[look]
        return torch.where(direction == 0, away.abs(), away * direction)


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
    kinds = [_kind(name) for name in class_names]
    count = len(kinds)
    steps = count + ITERATIONS + FINAL_STEPS
    dense = {}
    for index in range(1, count):
        progress(index, steps)
        boxed = probability(index)
        if boxed[1].size:
            dense[index] = boxed
    if not dense:
        return SparseClasses(EMPTY_BOX, {})
    box = joined(*(inner for inner, _ in dense.values()))
    shape = _shape(box)
    before = {index: _sparse(*dense.pop(index), box, image.device) for index in [*dense]}
    own = {index: part for index, part in before.items() if kinds[index] in OWN_WORD}
    others = {index: part for index, part in before.items() if index not in own}
    if not others:
        return SparseClasses(box, own)

    def choose(count: int, kept: Callable[[Parts], Parts]) -> _Choice:
        return _choice(kept(others), kept(own), count, kinds)

    # 1. How everything looks in this scan, from some of its voxels.
    every = _thinning(sum(len(part.voxels) for part in others.values()), shape[2])
    some = choose(-(-math.prod(shape) // every), partial(_thinned, every=every))
    places = some.shown * every
    observed = _at(image, box, places)
    bright_end = _bright_end(observed)
    looks, bias = _estimate(
        some.entries,
        kinds,
        observed / bright_end,
        *_cells(places, shape, spacing),
        lambda n: progress(count + n, steps),
    )

    # 2. What every voxel is, a few planes at a time.
    sharp: dict[int, list[Tensor]] = {index: [] for index in others}
    unlike: dict[int, list[Tensor]] = {i: [] for i in others if kinds[i] in OUTLIERS}
    plane = math.prod(shape[1:])
    for first, last, bias_there in _in_pieces(bias, shape, max(1, AT_ONCE // plane)):
        progress(count + ITERATIONS + FINAL_STEPS * first // shape[0], steps)
        here = choose(
            (last - first) * plane, partial(_between, first=first * plane, end=last * plane)
        )
        even = (image[box][first:last] / bias_there).flatten()[here.shown] / bright_end
        shares = _expectation(here.entries, even, looks)
        shares *= here.room.clamp(0, 1)[here.entries.voxel]
        of_classes = shares.split(here.lengths)[:-1], here.entries.voxel.split(here.lengths)[:-1]
        for index, values, voxels in zip(others, *of_classes, strict=True):
            sharp[index].append(values.half())
            if index in unlike:
                look = kinds.index(OUTLIERS[kinds[index]].usual)
                unlike[index].append(looks.unlikeness(look, even[voxels]))
    progress(steps, steps)
    parts = {index: part._replace(values=torch.cat(sharp[index])) for index, part in others.items()}
    least = SMALLEST_PIECE_ML * 1000 / math.prod(spacing)
    unclear = {i: _unclear(parts[i], torch.cat(away), box, least) for i, away in unlike.items()}
    return SparseClasses(box, parts | own, unclear)


def _in_pieces(
    bias: Tensor, shape: tuple[int, int, int], planes: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Cut a box into pieces of so many planes at most: the first plane, the one behind the last,
    and the bias field between, interpolated from its cells.
    """
    lines = bias.permute(1, 2, 0).flatten(0, 1)[None]  # (1, y · z, x)
    lines = F.interpolate(lines, shape[0], mode="linear")
    cells = lines.reshape(*bias.shape[1:], shape[0]).permute(2, 0, 1)  # (x, y, z)
    for first in range(0, shape[0], planes):
        last = min(first + planes, shape[0])
        yield first, last, F.interpolate(cells[None, first:last], shape[1:], mode="bilinear")[0]


def _unclear(part: ClassPart, unlike: Tensor, box: Box, least: float) -> Tensor:
    """Which voxels (E,) of outliers lie in pieces that are hardly `unlike` (E,) what is usual, or
    of fewer than `least` voxels, or beside no other piece.
    """
    start = [side.start - of.start for side, of in zip(part.box, box, strict=True)]
    voxels = np.unravel_index(part.voxels.cpu().numpy(), _shape(box))
    places = tuple(line - first for line, first in zip(voxels, start, strict=True))
    mask = np.zeros(_shape(part.box), dtype=bool)
    mask[places] = (part.values > 0.5).cpu().numpy()
    neighbours = np.ones((3, 3, 3))
    pieces, count = ndimage.label(mask, neighbours)
    piece = torch.from_numpy(pieces[places]).long()
    is_clear = (unlike > OUTLIER).float().cpu()
    size, clear = (
        torch.zeros(count + 1).index_add_(0, piece, weights)
        for weights in (torch.ones_like(is_clear), is_clear)
    )
    counts = (clear >= LEAST_CLEAR * size) & (size >= least)
    counts[0] = False
    near = ndimage.binary_dilation(counts.numpy()[pieces], neighbours)
    is_near = torch.from_numpy(near[places]) & (piece == 0)
    return ~(counts[piece] | is_near).to(part.values.device)


def _shape(box: Box) -> tuple[int, int, int]:
    x, y, z = (side.stop - side.start for side in box)
    return x, y, z


def _inside(inner: Box, outer: Box) -> Box:
    x, y, z = (
        slice(side.start - of.start, side.stop - of.start)
        for side, of in zip(inner, outer, strict=True)
    )
    return x, y, z


def _sparse(inner: Box, values: NDArray[np.float16], box: Box, device: torch.device) -> ClassPart:
    """Keep the voxels in which a class may be, in ascending order."""
    probable = torch.from_numpy(values)
    x, y, z = (probable >= LEAST_PRIOR).nonzero(as_tuple=True)
    start = [side.start - of.start for side, of in zip(inner, box, strict=True)]
    _, ny, nz = _shape(box)
    flat = ((x + start[0]) * ny + (y + start[1])) * nz + (z + start[2])
    return ClassPart(inner, flat.int().to(device), probable[x, y, z].to(device))


def _thinning(entries: int, line: int) -> int:
    """Of how many voxels one is enough.

    It has no divisor in common with the length of a line, so that not all lie in a few slices.
    """
    every = max(1, entries // LOOKED_AT)
    while math.gcd(every, line) > 1:
        every += 1
    return every


def _thinned(parts: Parts, every: int) -> Parts:
    """Keep every so many-th voxel of a box, and count these alone."""

    def some(part: ClassPart) -> ClassPart:
        is_kept = part.voxels % every == 0
        return part._replace(voxels=part.voxels[is_kept] // every, values=part.values[is_kept])

    return {index: some(part) for index, part in parts.items()}


def _between(parts: Parts, first: int, end: int) -> Parts:
    """Keep the voxels from `first` to before `end`, and count from the first."""

    def some(part: ClassPart) -> ClassPart:
        ends = torch.tensor([first, end], dtype=part.voxels.dtype, device=part.voxels.device)
        a, b = torch.searchsorted(part.voxels, ends).tolist()
        return part._replace(voxels=part.voxels[a:b] - first, values=part.values[a:b])

    return {index: some(part) for index, part in parts.items()}


def _at(image: Tensor, box: Box, voxels: Tensor) -> Tensor:
    """The image (x, y, z) at voxels of a box of it."""
    _, ny, nz = _shape(box)
    x, y, z = voxels // (ny * nz), voxels // nz % ny, voxels % nz
    return image[box][x, y, z]


def _kind(name: str) -> str:
    return name.removeprefix("left ").removeprefix("right ")


def _choice(
    others: Parts,
    own: Parts,
    count: int,
    kinds: Sequence[str],
) -> _Choice:
    """List what `count` voxels may be: all parts, then the background, which is one more thing.

    Where the classes of `own` are, there is less room for the others.
    """
    device = next(iter(others.values())).voxels.device
    covered, room = torch.zeros(count, device=device), torch.ones(count, device=device)
    for part in others.values():
        covered.index_add_(0, part.voxels, part.values.float())
    for part in own.values():
        room.index_add_(0, part.voxels, -part.values.float())
    shown = covered.nonzero().flatten()  # (N,)
    number = torch.zeros(count, dtype=torch.int32, device=device)
    number[shown] = torch.arange(len(shown), dtype=torch.int32, device=device)
    background = (room - covered).clamp_min(0)[shown]

    lengths = [len(part.voxels) for part in others.values()] + [len(shown)]
    borrowed = BORROWED_LOOKS | {name: of.usual for name, of in OUTLIERS.items()}
    looks = [kinds.index(borrowed.get(kinds[index], kinds[index])) for index in others] + [0]
    teaches = [kinds[index] not in borrowed for index in others] + [True]
    is_outlier = [kinds[index] in OUTLIERS for index in others] + [False]

    def spread(values: Sequence[int], dtype: torch.dtype) -> Tensor:
        counts = torch.tensor(lengths, device=device)
        return torch.tensor(values, dtype=dtype, device=device).repeat_interleave(counts)

    entries = _Entries(
        torch.cat([number[part.voxels] for part in others.values()] + [number[shown]]),
        spread(looks, torch.int32),
        spread(teaches, torch.bool),
        spread(is_outlier, torch.bool),
        torch.cat([part.values.float() for part in others.values()] + [background]),
    )
    entries = entries._replace(prior=entries.normalised(entries.prior, len(shown)))
    return _Choice(shown, room[shown], entries, lengths)


def _bright_end(brightness: Tensor) -> Tensor:
    some = brightness[:: max(1, len(brightness) // 200_000)]
    return some.quantile(0.9).clamp_min(1e-9)


def _cells(
    voxels: Tensor, shape: tuple[int, int, int], spacing: Sequence[float]
) -> tuple[Tensor, tuple[int, ...]]:
    """Return which cell each voxel (N,) lies in, and how many cells there are along each axis."""
    size = tuple(max(1, round(n * mm / CELL_MM)) for n, mm in zip(shape, spacing, strict=True))
    _, ny, nz = shape
    places = voxels // (ny * nz), voxels // nz % ny, voxels % nz
    x, y, z = (place * s // n for place, s, n in zip(places, size, shape, strict=True))
    return (x * size[1] + y) * size[2] + z, size


def _estimate(
    entries: _Entries,
    kinds: Sequence[str],
    observed: Tensor,
    cells: Tensor,
    size: tuple[int, ...],
    progress: Callable[[int], None],
) -> tuple[_Looks, Tensor]:
    """Estimate how each of C classes, of these kinds, looks from voxels `observed` (N,).

    Returns the looks, and the bias field on cells of `size`.
    """
    shares, bias = entries.prior, torch.ones(size, device=observed.device)
    for done in range(ITERATIONS):
        progress(done)
        even = observed / bias.flatten()[cells]
        looks = _maximisation(entries, kinds, shares, even)
        shares = _expectation(entries, even, looks)
        bias = _bias(entries, shares, observed, looks, cells, size)
    progress(ITERATIONS)
    return looks, bias


def _maximisation(entries: _Entries, kinds: Sequence[str], shares: Tensor, even: Tensor) -> _Looks:
    """How each class looks, from shares (E,) of voxels `even` (N,)."""
    shares = shares * entries.teaches
    brightness = even[entries.voxel]

    def total(weights: Tensor) -> Tensor:
        return weights.new_zeros(len(kinds)).index_add_(0, entries.look, weights)

    mass = total(shares) + DOUBT
    mean = (total(shares * brightness) + DOUBT * even.mean()) / mass
    spread = total(shares * (brightness - mean[entries.look]).square())
    variance = ((spread + DOUBT * even.var()) / mass).clamp_min(LEAST_SPREAD**2)
    looks = _Looks(mean, variance, mean.clone(), variance.sqrt(), torch.zeros_like(mean))
    for usual, towards in OUTLIERS.values():
        if usual not in kinds:
            continue
        look = kinds.index(usual)
        sure = brightness[(entries.look == look) & (shares > 0.9)]
        if len(sure) > DOUBT:
            looks.middle[look] = sure.median()
            deviation = 1.4826 * (sure - looks.middle[look]).abs().median()
            looks.spread[look] = deviation.clamp_min(LEAST_SPREAD)
        if towards in kinds:
            apart = (mean[kinds.index(towards)] - mean[look]) / variance[look].sqrt()
            looks.direction[look] = apart.sign() * (apart.abs() >= LEAST_APART)
    return looks


def _expectation(entries: _Entries, even: Tensor, looks: _Looks) -> Tensor:
    """How probable each entry (E,) is, given the voxels' brightness `even` (N,)."""
    variance = looks.variance[entries.look]
    distance = (even[entries.voxel] - looks.mean[entries.look]).square() / variance
    out = entries.is_outlier
    beyond = looks.unlikeness(entries.look[out], even[entries.voxel[out]]) - OUTLIER
    distance[out] = torch.where(beyond > 0, distance[out].clamp_max(1), distance[out])
    likelihood = (-0.5 * LIKELIHOOD_POWER * (distance + variance.log())).clamp(-40, 40)
    likelihood[out] += beyond.clamp(-MOST_TOLD, 0)
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
