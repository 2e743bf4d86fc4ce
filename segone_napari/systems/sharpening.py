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


Parts = dict[int, ClassPart]
"""Classes by their index."""


@dataclass(frozen=True, eq=False)
class SparseClasses:
    """Probabilities of all classes in a box of an image whose axes are in RAS order.

    A class that is nowhere has no part. Of outliers, `clear` says which share of their voxels is
    clearly unlike what they lie in.
    """

    box: Box
    parts: Parts
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
        box = joined(*(part.box for part in parts))
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
    own = {index: part for index, part in before.items() if class_names[index] in OWN_WORD}
    others = {index: part for index, part in before.items() if index not in own}
    if not others:
        return SparseClasses(box, own)

    def choose(count: int, kept: Callable[[Parts], Parts]) -> _Choice:
        return _choice(kept(others), kept(own), count, class_names)

    # 1. How everything looks in this scan, from some of its voxels.
    every = _thinning(sum(len(part.voxels) for part in others.values()), shape[2])
    some = choose(-(-math.prod(shape) // every), partial(_thinned, every=every))
    places = some.shown * every
    observed = _at(image, box, places)
    bright_end = _bright_end(observed)
    looks, bias = _estimate(
        some.entries,
        count,
        observed / bright_end,
        *_cells(places, shape, spacing),
        lambda n: progress(count + n, steps),
    )

    # 2. What every voxel is, a few planes at a time.
    sharp: dict[int, list[Tensor]] = {index: [] for index in others}
    clear = _Clarity([*others], class_names)
    plane = math.prod(shape[1:])
    for first, last, bias_there in _in_pieces(bias, shape, max(1, AT_ONCE // plane)):
        progress(count + ITERATIONS + FINAL_STEPS * first // shape[0], steps)
        here = choose(
            (last - first) * plane, partial(_between, first=first * plane, end=last * plane)
        )
        even = (image[box][first:last] / bias_there).flatten()[here.shown] / bright_end
        shares = _expectation(here.entries, even, looks)
        shares *= here.room.clamp(0, 1)[here.entries.voxel]
        clear.add(here, shares, even)
        for values, part in zip(shares.split(here.lengths)[:-1], sharp.values(), strict=True):
            part.append(values.half())
    progress(steps, steps)
    parts = {index: part._replace(values=torch.cat(sharp[index])) for index, part in others.items()}
    return SparseClasses(box, parts | own, clear.shares())


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


class _Clarity:
    """Collects which share of each class of outliers is clearly unlike what it is one of."""

    def __init__(self, classes: Sequence[int], class_names: Sequence[str]) -> None:
        kinds = [_kind(name) for name in class_names]
        self._places = {
            index: (place, kinds.index(OUTLIERS[kinds[index]]))
            for place, index in enumerate(classes)
            if kinds[index] in OUTLIERS
        }
        self._found: dict[int, list[Tensor]] = {index: [] for index in self._places}
        self._usual: dict[int, list[Tensor]] = {index: [] for index in self._places}

    def add(self, choice: _Choice, shares: Tensor, even: Tensor) -> None:
        """Add voxels, with the shares (E,) of what they may be and their brightness `even` (N,)."""
        voxels, look, teaches = choice.entries[:3]
        for index, (place, usual) in self._places.items():
            values, its_voxels = (t.split(choice.lengths)[place] for t in (shares, voxels))
            self._found[index].append(even[its_voxels[values > 0.5]])
            self._usual[index].append(even[voxels[(look == usual) & teaches & (shares > 0.9)]])

    def shares(self) -> dict[int, float]:
        """Which share of a class's voxels is clear, where there is enough to tell from."""
        clear = {}
        for index, parts in self._found.items():
            found, usual = torch.cat(parts), torch.cat(self._usual[index])
            if len(found) and len(usual) >= DOUBT:
                middle = usual.median()
                spread = 1.4826 * (usual - middle).abs().median()
                clear[index] = float(((found - middle).abs() > CLEARLY * spread).float().mean())
        return clear


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
    class_names: Sequence[str],
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
    kinds = [_kind(name) for name in class_names]
    borrowed = BORROWED_LOOKS | OUTLIERS
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
    classes: int,
    observed: Tensor,
    cells: Tensor,
    size: tuple[int, ...],
    progress: Callable[[int], None],
) -> tuple[_Looks, Tensor]:
    """Estimate how each of C classes looks from voxels of a brightness `observed` (N,).

    Returns the looks, and the bias field on cells of `size`.
    """
    shares, bias = entries.prior, torch.ones(size, device=observed.device)
    for done in range(ITERATIONS):
        progress(done)
        even = observed / bias.flatten()[cells]
        looks = _maximisation(entries, classes, shares, even)
        shares = _expectation(entries, even, looks)
        bias = _bias(entries, shares, observed, looks, cells, size)
    progress(ITERATIONS)
    return looks, bias


def _maximisation(entries: _Entries, classes: int, shares: Tensor, even: Tensor) -> _Looks:
    """Mean and variance of each class's brightness, from shares (E,) of voxels `even` (N,)."""
    shares = shares * entries.teaches
    brightness = even[entries.voxel]

    def total(weights: Tensor) -> Tensor:
        return weights.new_zeros(classes).index_add_(0, entries.look, weights)

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
