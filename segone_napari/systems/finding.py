"""Where the brain lies in an image: its box, and its cerebrum's centre and size, cut off or not.

Plain functions on masks that a network made; the network is asked in `systems.sliced`.

Dimension key: x y z RAS axes of the working grid.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segone_napari.data.slices import Head
from segone_napari.data.synthetic import CEREBRUM_MM, centre_and_size, to_standard_size
from segone_napari.volume import Box, Volume

NARROWEST_BRAIN = 0.65
"""Least width of a whole brain as a share of its length; most have 0.7 to 0.85."""
EDGE_MM, CUT_FROM, REACHED_FROM = 4.0, 0.4, 0.1
"""Where a section of the head so near the image's edge is larger than this share of its largest,
the edge cuts the head; the cerebrum too, where its own section there is larger than the other."""
FOREGROUND = 0.12
"""What is brighter than this share of the bright end is no air."""
AIR_SHARE = 0.1
"""So much of what lies on an image's faces is at most as bright as air, of a cropped head too."""
FILL_SHARE, FILL_GAP = 0.005, 0.25
"""One value that so much of an image has, as far below all others as this share of their range, is
no air but fills what lies outside of the field of view."""
SMALLEST_BRIGHT = 0.01
"""Images whose brightest voxel is less are scaled: what follows takes such numbers for nothing."""
SETTLED_MM, SETTLED_SHARE = 2.0, 0.05
"""What moves a centre, or changes a size, by less makes no difference: positions in training are
more than that off."""
MARGIN_MM = 14.0
"""What is looked at around the brain."""
LEAST_VOXELS = 100
"""Less than this of a brain tells nothing about where it lies."""


def with_air_at_zero(image: Volume) -> Volume:
    """An image (i, j, k) whose air is dark, whatever its numbers are.

    Where most of what lies on the image's faces is below zero, as after a shift or a scaling to
    -1 … 1, air is moved to 0; numbers that are very small are made larger. Other images, those
    with some negative voxels beside air of 0 too, stay as they are.
    """
    air = min(0.0, _air(image.data)) if image.data.min() < 0 else 0.0
    brightest = float(image.data.max()) - air
    scale = 1.0 if brightest > SMALLEST_BRIGHT or brightest <= 0 else 1000 / brightest
    if air == 0 and scale == 1:
        return image
    return image.with_data((image.data.astype(np.float32) - air).clip(0) * np.float32(scale))


def _air(data: NDArray[np.generic]) -> float:
    """How bright air is: of what lies on the faces (i, j, k), but for a value that fills what lies
    outside of the field of view.
    """
    values = data[::2, ::2, ::2].astype(np.float32)
    faces = np.concatenate([np.take(data, [0, -1], axis).ravel() for axis in range(3)])
    faces = faces.astype(np.float32)
    lowest = values.min()
    rest = values[values != lowest]
    if rest.size and rest.size < (1 - FILL_SHARE) * values.size:
        low, high = np.quantile(rest, [AIR_SHARE, 1 - AIR_SHARE])
        if low - lowest > FILL_GAP * (high - low):
            faces = faces[faces != lowest]
            return float(np.quantile(faces, AIR_SHARE)) if faces.size else float(low)
    return float(np.quantile(faces, AIR_SHARE))


def foreground_box(image: Tensor) -> Box:
    """The box of what is brighter than air."""
    sparse = image[::3, ::3, ::3].flatten()
    level = FOREGROUND * float(sparse.kthvalue(max(1, int(0.995 * len(sparse)))).values)
    is_bright = image > level
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        share = is_bright.float().mean(others)
        lines = torch.nonzero(share > 0.01).flatten()
        if len(lines) == 0:
            box.append(slice(0, image.shape[axis]))
        else:
            box.append(slice(int(lines[0]), int(lines[-1]) + 1))
    return box[0], box[1], box[2]


def first_centre(box: Box, spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Guess a brain's centre: the middle of the head, at most 75 mm below its top."""
    middle = [(s.start + s.stop - 1) / 2 for s in box]
    middle[2] = max(middle[2], box[2].stop - 75 / spacing[2])
    return middle[0], middle[1], middle[2]


def centred_on(head: Head, is_brain: Tensor, is_cerebrum: Tensor, box: Box) -> Head:
    """Return the head with centre and size of the cerebrum and the box of the brain.

    Both are masks (x, y, z) on `box`. Where hardly anything was found, the head stays as it is.
    """
    if is_brain.sum() < LEAST_VOXELS:
        return head
    measured = is_cerebrum if is_cerebrum.sum() >= LEAST_VOXELS else is_brain
    middle, size_mm = _completed(measured, head.image[box] > FOREGROUND, head.spacing)
    centre = [c + s.start for c, s in zip(middle, box, strict=True)]
    x, y, z = to_standard_size(torch.tensor(size_mm)).tolist()
    sides = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        area = is_brain.float().sum(others)
        lines = torch.nonzero(area > 0.02 * area.max()).flatten()
        first, last = int(lines[0]) + box[axis].start, int(lines[-1]) + box[axis].start
        margin = round(MARGIN_MM / head.spacing[axis])
        sides.append(slice(max(0, first - margin), min(head.image.shape[axis], last + margin + 1)))
    return replace(
        head,
        centre=(centre[0], centre[1], centre[2]),
        to_standard=(x, y, z),
        box=(sides[0], sides[1], sides[2]),
    )


def _completed(
    mask: Tensor, is_head: Tensor, spacing: tuple[float, float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Centre (voxels) and size (mm) of a cerebrum (x, y, z), also where the image's edge cuts it.

    How long it would go on is told by the axes along which it is whole, since heads differ in size
    more than in shape; where none is, it has the standard size. Along an axis that is cut at both
    ends the middle of what is seen stays.
    """
    middle, size = centre_and_size(mask)
    seen_mm = [voxels * mm for voxels, mm in zip(size, spacing, strict=True)]
    is_cut = [_is_cut(mask, is_head, spacing, axis) for axis in range(3)]
    times = [
        mm / standard
        for mm, standard, cut in zip(seen_mm, CEREBRUM_MM, is_cut, strict=True)
        if not any(cut)
    ]
    of_standard = float(np.mean(times)) if times else 1.0
    centre, size_mm = list(middle), list(seen_mm)
    for axis, (at_start, at_end) in enumerate(is_cut):
        missing = of_standard * CEREBRUM_MM[axis] - seen_mm[axis]
        if missing > 0 and (at_start or at_end):
            size_mm[axis] += missing
            centre[axis] += (int(at_end) - int(at_start)) * missing / spacing[axis] / 2
    return tuple(centre), tuple(size_mm)


def _is_cut(
    mask: Tensor, is_head: Tensor, spacing: tuple[float, float, float], axis: int
) -> tuple[bool, bool]:
    """Whether the image's first and its last line of an axis cut a mask (x, y, z) off."""
    near = 1 + round(EDGE_MM / spacing[axis])

    def largest_near(sections: Tensor) -> tuple[float, float]:
        most = float(sections.max().clamp_min(1))
        return float(sections[:near].max()) / most, float(sections[-near:].max()) / most

    of_head, of_mask = (
        largest_near(whole.movedim(axis, 0)[:, ::2, ::2].float().sum((1, 2)))
        for whole in (is_head, mask)
    )
    at_start, at_end = (
        head > CUT_FROM and own > REACHED_FROM for head, own in zip(of_head, of_mask, strict=True)
    )
    return at_start, at_end


def is_settled(before: Head, after: Head) -> bool:
    """Whether another look would hardly move the cerebrum's centre, or change its size."""
    moved_mm = np.abs(np.subtract(after.centre, before.centre)) * after.spacing
    grown = np.abs(np.divide(after.to_standard, before.to_standard) - 1)
    return bool(moved_mm.max() < SETTLED_MM and grown.max() < SETTLED_SHARE)


def is_cut_in_width(head: Head) -> bool:
    """Whether the brain that was found is too narrow for its length to be a whole one.

    Where its middle lies is then estimated only.
    """
    margin = [round(MARGIN_MM / mm) for mm in head.spacing]
    extent_mm = []
    for axis in (0, 1):
        lines, size = head.box[axis], head.image.shape[axis]
        first = lines.start + (margin[axis] if lines.start > 0 else 0)
        last = lines.stop - (margin[axis] if lines.stop < size else 0)
        extent_mm.append((last - first) * head.spacing[axis])
    return extent_mm[0] < NARROWEST_BRAIN * extent_mm[1]


def largest_piece(mask: Tensor) -> Tensor:
    """Keep the largest connected piece of a mask (x, y, z): the others may lie in the neck."""
    pieces, count = ndimage.label(mask.cpu().numpy())
    if count < 2:
        return mask
    largest = np.bincount(pieces.ravel())[1:].argmax() + 1
    return torch.from_numpy(pieces == largest).to(mask.device)
