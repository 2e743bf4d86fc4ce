"""Answering with what corrections taught: from an image to a lesson's inputs, and back to a mask.

A *scene* is the part of an image that a lesson looks at, on a grid as fine as the corrected
images. *Drawn* slices are those that a person corrected in that same image: a lesson is shown
where the outline is to be expected between them. Training and use make their inputs here.

Dimension key: x y z RAS axes of the lesson's grid, T terms, K classes of context, N slices, R drawn
slices, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segone_napari.data.resample import slice_grid, to_native, to_working
from segone_napari.data.slices import Head
from segone_napari.data.synthetic import PLANES, Point
from segone_napari.models.learnt import REFERENCE_CHANNELS, Lesson, LessonConfig
from segone_napari.systems.base import Told
from segone_napari.volume import Box, Grid, Volume

LENGTH_MM = 40.0
"""Positions are shown to a network as mm from the centre, divided by this."""
REACH = 10.0
"""Distances from an outline are shown in pixels up to this, divided by it."""
KEPT_REACH = 3.0
"""They are kept up to so many times this, since outlines that shrink or grow are mixed."""
FADES_OVER = 4.0
"""So many slices from a drawn one, what it says counts half."""
LASTS_FOR = 3.5
"""Between drawn slices an object goes on for so many times the distance from its edge to its middle
before it tapers off."""
LOGIT_LIMIT = 6.0
FAINT = 0.02
MIRRORED: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""Axes of (N, C, H, W) over which slices are turned over before they are looked at."""


class Seen(Protocol):
    """What a system knows of an image that it has encoded."""

    @property
    def working(self) -> Grid:
        """The base model's working grid."""
        ...

    @property
    def head(self) -> Head:
        """Where the brain lies on it."""
        ...


ClassMap = Callable[[str, Grid], tuple[Box, NDArray[np.float16]]]
"""Probability of a class or term on a grid: the box where it is not zero, and the values in it."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The part of an image that a lesson looks at.

    Attributes
    ----------
    grid : the lesson's grid over the whole image.
    box : the part of it that is looked at.
    image : (x, y, z) float32 in the box, about 0 (dark) to 1 (bright).
    context : (K, x, y, z) float16, probability of each class of context.
    base : (T, x, y, z) float16, the base model's logits of the terms that it knows.
    places : along x, y, z: the positions of the box's voxels in `LENGTH_MM`.
    """

    grid: Grid
    box: Box
    image: Tensor
    context: Tensor
    base: Tensor
    places: tuple[Tensor, Tensor, Tensor]

    def to(self, device: torch.device) -> Scene:
        """The same on another device."""
        x, y, z = (place.to(device) for place in self.places)
        image, context, base = (t.to(device) for t in (self.image, self.context, self.base))
        return Scene(self.grid, self.box, image, context, base, (x, y, z))


@dataclass(frozen=True, eq=False)
class Drawn:
    """Slices of one plane that a person corrected.

    Attributes
    ----------
    indices : of the slices in the scene's box, increasing (R,).
    outlines : (R, T, H, W) float16, distance from the outline, inside positive, in `REACH`, -1
        where there is nothing.
    is_known : (R, T) whether the slice was corrected for a term.
    centres : (R, T, 2) float32, row and column of a mask's middle, NaN where there is nothing.
    """

    indices: Tensor
    outlines: Tensor
    is_known: Tensor
    centres: Tensor


def is_head(head: Head) -> bool:
    """Whether the base model found about a whole brain, so that positions in it mean something."""
    if head.to_standard == (1.0, 1.0, 1.0):
        return False
    extents = [(b.stop - b.start) * mm for b, mm in zip(head.box, head.spacing, strict=True)]
    return all(mm > least for mm, least in zip(extents, (100.0, 120.0, 70.0), strict=True))


def centre_of(seen: Seen | None, grid: Grid, *, in_head: bool) -> tuple[Point, Point]:
    """Where a scene's positions count from, in voxels of `grid`, and what stretches them."""
    if seen is None or not in_head:
        x, y, z = ((n - 1) / 2 for n in grid.shape)
        return (x, y, z), (1.0, 1.0, 1.0)
    world = seen.working.affine @ np.array([*seen.head.centre, 1.0])
    x, y, z = (float(v) for v in (np.linalg.inv(grid.affine) @ world)[:3])
    return (x, y, z), seen.head.to_standard


def make_scene(
    config: LessonConfig,
    image: Volume,
    seen: Seen | None,
    class_map: ClassMap,
    device: torch.device,
) -> Scene | None:
    """Cut out what a lesson looks at.

    None where its box lies outside of the image, or where it learnt on heads and this is none.
    """
    if config.in_head and (seen is None or not is_head(seen.head)):
        return None
    grid = slice_grid(image.grid, config.pixel_mm)
    centre, stretch = centre_of(seen, grid, in_head=config.in_head)
    sides = []
    for axis in range(3):
        first, last = config.box_mm[axis]
        to_voxels = 1 / (grid.spacing[axis] * stretch[axis])
        start = max(0, round(centre[axis] + first * to_voxels))
        stop = min(grid.shape[axis], round(centre[axis] + last * to_voxels) + 1)
        if stop <= start:
            return None
        sides.append(slice(start, stop))
    box = (sides[0], sides[1], sides[2])
    places = tuple(
        (torch.arange(s.start, s.stop, device=device) - c) * mm * k / LENGTH_MM
        for s, c, mm, k in zip(box, centre, grid.spacing, stretch, strict=True)
    )
    whole = normalised(to_working(image, grid, device))
    return Scene(
        grid,
        box,
        whole[box].contiguous(),
        _maps(config.context, class_map, grid, box, device),
        _base_logits(config, class_map, grid, box, device),
        (places[0], places[1], places[2]),
    )


def normalised(image: Tensor) -> Tensor:
    """Shift and scale brightness so that the dark end is 0 and the bright end 1."""
    every = max(1, image.numel() // 200_000)
    sample = image.flatten()[::every]
    low, high = torch.quantile(sample, torch.tensor([0.01, 0.99], device=image.device))
    return ((image - low) / (high - low).clamp_min(1e-6)).clamp(-0.5, 2.0)


def _maps(
    names: Sequence[str], class_map: ClassMap, grid: Grid, box: Box, device: torch.device
) -> Tensor:
    """Probabilities (N, x, y, z) float16 of some classes in a box of a grid."""
    nothing = [s.stop - s.start for s in box]
    if not names:
        return torch.zeros(0, *nothing, dtype=torch.float16, device=device)
    return torch.stack([pasted(class_map(name, grid), box, device) for name in names])


def pasted(source: tuple[Box, NDArray[np.float16]], box: Box, device: torch.device) -> Tensor:
    """Values (x, y, z) float16 in a box, from values in another box that are zero outside."""
    out = torch.zeros([s.stop - s.start for s in box], dtype=torch.float16, device=device)
    where, values = source
    inside, of_values = [], []
    for outer, own in zip(box, where, strict=True):
        start, stop = max(outer.start, own.start), min(outer.stop, own.stop)
        if stop <= start:
            return out
        inside.append(slice(start - outer.start, stop - outer.start))
        of_values.append(slice(start - own.start, stop - own.start))
    out[tuple(inside)] = torch.from_numpy(values[tuple(of_values)]).to(device)
    return out


def _base_logits(
    config: LessonConfig, class_map: ClassMap, grid: Grid, box: Box, device: torch.device
) -> Tensor:
    known = [term for term, is_known in zip(config.terms, config.is_known, strict=True) if is_known]
    maps = dict(zip(known, _maps(known, class_map, grid, box, device), strict=True))
    shape = [s.stop - s.start for s in box]
    nothing = torch.full(shape, 0.5, dtype=torch.float16, device=device)
    probability = torch.stack([maps.get(term, nothing) for term in config.terms])
    return probability.float().logit(eps=1e-4).clamp(-LOGIT_LIMIT, LOGIT_LIMIT).half()


# --- what was drawn -----------------------------------------------------------------------------


def told_on(
    scene: Scene, native: Grid, terms: Sequence[str], by_term: Mapping[str, Told]
) -> tuple[Tensor, Tensor]:
    """Bring corrections of each term to a scene: truth and known, (T, x, y, z) bool in its box."""
    truths, knowns = [], []
    device = scene.image.device
    nothing = np.zeros(native.shape, dtype=np.uint8)
    unknown = Told(nothing, nothing.astype(bool))
    for told in (by_term.get(term, unknown) for term in terms):
        known = to_working(Volume(told.known.astype(np.uint8), native), scene.grid, device)
        inside = told.mask * told.known
        share = to_working(Volume(inside.astype(np.uint8), native), scene.grid, device)
        # less than half: two slices of a voxel that is thinner than the scene's make one
        is_known = known[scene.box] > 0.4
        truths.append((share[scene.box] > 0.5 * known[scene.box]) & is_known)
        knowns.append(is_known)
    return torch.stack(truths), torch.stack(knowns)


def drawn_slices(truth: Tensor, known: Tensor, plane: str) -> Drawn:
    """Find the slices that were corrected as a whole, and measure distances from their outlines.

    Parameters
    ----------
    truth : (T, x, y, z) bool in a scene's box.
    known : (T, x, y, z) bool, the voxels that a person said something about.
    """
    truth, known = by_slice(truth, plane), by_slice(known, plane)  # (N, T, H, W)
    is_known = known.float().mean((2, 3)) > 0.9  # (N, T)
    indices = torch.nonzero(is_known.any(1)).flatten()
    is_known = is_known[indices]
    outlines = np.full((len(indices), *truth.shape[1:]), -1.0, dtype=np.float16)
    centres = np.full((*is_known.shape, 2), np.nan, dtype=np.float32)
    for place, index in enumerate(indices.tolist()):
        for term in torch.nonzero(is_known[place]).flatten().tolist():
            mask = truth[index, term].cpu().numpy()
            outlines[place, term] = _distances(mask)
            if mask.any():
                centres[place, term] = np.argwhere(mask).mean(0)
    device = truth.device
    return Drawn(
        indices,
        torch.from_numpy(outlines).to(device),
        is_known,
        torch.from_numpy(centres).to(device),
    )


def _distances(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each pixel (H, W) from the outline in `REACH`, inside positive."""
    if not mask.any():
        return np.full(mask.shape, -1.0, dtype=np.float32)
    if mask.all():
        return np.ones(mask.shape, dtype=np.float32)
    from_neighbours = signed_distance(mask)
    distances = np.sign(from_neighbours) * (np.abs(from_neighbours) - 0.5) / REACH
    return np.asarray(distances.clip(-KEPT_REACH, KEPT_REACH), np.float32)


def signed_distance(
    mask: NDArray[np.bool_], sampling: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Distance of each pixel or voxel to the nearest one on the other side of the outline.

    Inside positive; in `sampling`'s unit, which has one number for each axis, or in pixels.
    """
    inside, outside = (ndimage.distance_transform_edt(m, sampling) for m in (mask, ~mask))
    return np.asarray(inside - outside, dtype=np.float32)


def expected_outlines(drawn: Drawn, index: int, use: Tensor) -> Tensor:
    """What the drawn slices let expect on another slice: (T, `REFERENCE_CHANNELS`, H, W).

    The first channel is the distance from the outline, interpolated between the nearest slices on
    both sides, the second says how near these are; both are 0 where nothing was drawn. An object
    that moves from slice to slice is brought to where it is expected before outlines are mixed:
    without that the mean of two outlines that don't overlap is nothing.

    Parameters
    ----------
    index : of the slice in the scene's box.
    use : (R,) bool, which of the drawn slices may be looked at.
    """
    terms, height, width = drawn.outlines.shape[1:]
    out = torch.zeros(terms, REFERENCE_CHANNELS, height, width, device=drawn.outlines.device)
    for term in range(terms):
        places = torch.nonzero(use & drawn.is_known[:, term]).flatten()
        below = places[drawn.indices[places] <= index]
        above = places[drawn.indices[places] > index]
        sides = [int(side[at]) for side, at in ((below, -1), (above, 0)) if len(side)]
        if not sides:
            continue
        away = [abs(int(drawn.indices[side]) - index) for side in sides]
        centre = _expected_centre(drawn, term, index, places)
        outlines = [
            moved(drawn.outlines[side, term].float(), centre - drawn.centres[side, term])
            for side in sides
        ]
        if len(sides) == 2:
            share = away[0] / max(1, sum(away))
            outline = torch.lerp(outlines[0], outlines[1], share)
            outline = outline - _gap_taper(drawn, term, sides, away)
        else:  # beyond the last drawn slice an object tapers off
            outline = outlines[0] - away[0] / REACH
        out[term, 0] = outline.clamp(-1, 1)
        out[term, 1] = nearness(min(away))
    return out


def _gap_taper(drawn: Drawn, term: int, sides: Sequence[int], away: Sequence[int]) -> float:
    """How much an object tapers off in a gap: where it is much wider than the object is thick,
    there may be two objects, one on each side.
    """
    thickness = max(0.0, *(float(drawn.outlines[side, term].max()) for side in sides)) * REACH
    return max(0.0, min(away) - LASTS_FOR * thickness) / REACH


def nearness(away: float) -> float:
    """How near a drawn slice is that lies so many slices away: 1, falling to 0."""
    return 1 / (1 + away / FADES_OVER)


def moved(outline: Tensor, by: Tensor) -> Tensor:
    """Move an outline (H, W) by rows and columns (2,); as it is where these are NaN."""
    if not bool(torch.isfinite(by).all()) or not bool(by.any()):
        return outline
    height, width = outline.shape
    rows = torch.arange(height, device=outline.device) - by[0]
    columns = torch.arange(width, device=outline.device) - by[1]
    grid = torch.stack(
        torch.broadcast_tensors(
            (columns[None, :] + 0.5) * 2 / width - 1, (rows[:, None] + 0.5) * 2 / height - 1
        ),
        -1,
    )
    return F.grid_sample(
        outline[None, None], grid[None], padding_mode="border", align_corners=False
    )[0, 0]


def _expected_centre(drawn: Drawn, term: int, index: int, places: Tensor) -> Tensor:
    """Where an object's middle (2,) is expected: a smooth course through the drawn slices.

    Between two slices a cubic with the slopes of the course (Catmull and Rom, 1974), beyond the
    last one a line; NaN where only one slice, or none, shows it.
    """
    shown = places[torch.isfinite(drawn.centres[places, term, 0])]
    at = drawn.indices[shown].tolist()
    centres = drawn.centres[shown, term]
    if len(at) < 2:
        return torch.full((2,), torch.nan, device=centres.device)
    slopes = _slopes(at, centres)
    if index <= at[0]:
        return centres[0] + slopes[0] * (index - at[0])
    if index >= at[-1]:
        return centres[-1] + slopes[-1] * (index - at[-1])
    n = next(n for n, place in enumerate(at) if place > index) - 1
    gap = at[n + 1] - at[n]
    t = (index - at[n]) / gap
    return (
        (2 * t**3 - 3 * t**2 + 1) * centres[n]
        + (t**3 - 2 * t**2 + t) * gap * slopes[n]
        + (3 * t**2 - 2 * t**3) * centres[n + 1]
        + (t**3 - t**2) * gap * slopes[n + 1]
    )


def _slopes(at: Sequence[int], centres: Tensor) -> list[Tensor]:
    """How fast the middle moves at each drawn slice, per slice: of the parabola through three."""
    gaps = [b - a for a, b in pairwise(at)]
    lines = [(b - a) / gap for a, b, gap in zip(centres, centres[1:], gaps, strict=False)]
    if len(lines) == 1:
        return [lines[0], lines[0]]
    inner = [
        (before * gap_after + after * gap_before) / (gap_before + gap_after)
        for before, after, gap_before, gap_after in zip(
            lines, lines[1:], gaps, gaps[1:], strict=False
        )
    ]
    return [2 * lines[0] - inner[0], *inner, 2 * lines[-1] - inner[-1]]


# --- slices -------------------------------------------------------------------------------------


def by_slice(values: Tensor, plane: str) -> Tensor:
    """Turn (…, x, y, z) into the slices of a plane (N, …, H, W), a view."""
    rows, columns, normal = PLANES[plane]
    lead = values.ndim - 3
    order = (lead + normal, *range(lead), lead + rows, lead + columns)
    return values.permute(order)


def slice_count(scene: Scene, plane: str) -> int:
    """How many slices a scene has in a plane."""
    return int(scene.image.shape[PLANES[plane][2]])


def slice_inputs(scene: Scene, plane: str, index: int, neighbours: int) -> Tensor:
    """What a network is shown of a slice beside drawn ones: (C, H, W) float32.

    First the slice between its neighbours, then its positions along x, y, z, then the context.
    """
    rows, columns, normal = PLANES[plane]
    image = by_slice(scene.image, plane)  # (N, H, W)
    wanted = range(index - neighbours, index + neighbours + 1)
    slices = [image[min(max(n, 0), len(image) - 1)] for n in wanted]  # the last one goes on
    nothing = torch.zeros_like(image[0])
    positions = [nothing, nothing, nothing]
    positions[rows] = scene.places[rows][:, None].expand_as(nothing)
    positions[columns] = scene.places[columns][None, :].expand_as(nothing)
    positions[normal] = scene.places[normal][index].expand_as(nothing)
    context = by_slice(scene.context, plane)[index].float()  # (K, H, W)
    return torch.cat([torch.stack([*slices, *positions]), context])


def slice_base(scene: Scene, plane: str, index: int) -> Tensor:
    """The base model's logits (T, H, W) float32 in a slice."""
    return by_slice(scene.base, plane)[index].float()


def slice_values(values: Tensor, plane: str, index: int) -> Tensor:
    """A slice (T, H, W) of values (T, x, y, z) in a scene's box."""
    return by_slice(values, plane)[index]


def slice_logits(
    lesson: Lesson,
    scene: Scene,
    plane: str,
    indices: Sequence[int],
    drawn: Drawn | None,
    flips: Sequence[tuple[int, ...]] | None = None,
) -> Tensor:
    """Logits (N, T, H, W) of some slices, the mean of all ways to turn them over."""
    neighbours = lesson.config.neighbours
    inputs = torch.stack([slice_inputs(scene, plane, n, neighbours) for n in indices])
    base = torch.stack([slice_base(scene, plane, n) for n in indices])
    count = REFERENCE_CHANNELS * len(lesson.config.terms)
    if drawn is None or not len(drawn.indices):
        outlines = inputs.new_zeros(len(inputs), count, *inputs.shape[2:])
    else:
        use = torch.ones(len(drawn.indices), dtype=torch.bool, device=inputs.device)
        outlines = torch.stack([expected_outlines(drawn, n, use).flatten(0, 1) for n in indices])
    device = next(lesson.network.parameters()).device
    shown, base = torch.cat([inputs, outlines], 1).to(device), base.to(device)
    total = torch.zeros_like(base)
    flips = flips or (MIRRORED if lesson.config.is_mirrored else MIRRORED[:1])
    for flip in flips:
        total += lesson.network(shown.flip(flip), base.flip(flip)).float().flip(flip)
    return (total / len(flips)).to(inputs.device)


def on_image(probability: Tensor, scene: Scene, native: Grid) -> tuple[Box, NDArray[np.float16]]:
    """Sample a term's probability (x, y, z) in a scene's box on an image's own grid."""
    x, y, z = (s.start for s in scene.box)
    return to_native(probability, scene.grid, native, FAINT, origin=(x, y, z))
