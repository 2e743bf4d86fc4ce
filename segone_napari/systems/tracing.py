"""Tracing what was drawn on some slices through an image, from slice to slice, without a network.

A pixel takes what is known of the pixels near it on the slice before, the more of one the more its
surroundings look like its own: label propagation by patches (Coupé et al., NeuroImage 54, 2011).

Dimension key: N slices, R drawn slices, H W pixels, P places that are searched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.systems.lessons import REACH

SEARCHED = 2
"""A pixel is compared with those up to so many rows and columns away on the slice before."""
PATCH = 3
"""Side in pixels of the surroundings that are compared."""
SOFT = 1.5
"""What is known goes over from outside to inside within about so many pixels of an outline."""
ALIKE = 3e-4
"""Surroundings whose mean squared difference is so much above the least count less by e."""
PER_PIXEL = 1e-3
"""A squared distance of one pixel counts as such a difference."""
SHARPENED = 1.2
"""What is known is so many times as sure after a step, since means blur."""
FAINT = 1e-3
"""What is known differs by more than this where there is something to trace."""


def traced(
    slices: Tensor, indices: Sequence[int], outlines: Tensor, wanted: Sequence[int]
) -> Tensor:
    """Trace what was drawn from slice to slice: (N, 2, H, W), inside 1, outside -1.

    From the nearest drawn slice below and from that above; 0 where there is none, and where no
    wanted slice is reached from it.

    Parameters
    ----------
    slices : (N, H, W) the image.
    indices : of the drawn slices, increasing.
    outlines : (R, H, W) distances from the outlines there, as in `Drawn`.
    wanted : slices that are asked about.
    """
    sides = torch.zeros(len(slices), 2, *slices.shape[1:], device=slices.device)
    masks = (outlines.float() * REACH / SOFT).tanh()
    before, after = [-1, *indices[:-1]], [*indices[1:], len(slices)]
    for mask, index, first, last in zip(masks, indices, before, after, strict=True):
        sides[index] = mask
        for side, step in enumerate((1, -1)):
            reached = [(n - index) * step for n in wanted if first < n < last]
            known = mask
            for away in range(1, max(reached, default=0) + 1):
                n = index + step * away
                known = sides[n, side] = _traced_on(slices[n - step], known, slices[n])
    return sides


def _traced_on(before: Tensor, known: Tensor, now: Tensor) -> Tensor:
    """What is known (H, W) of a slice, on the one beside it."""
    traced = (SHARPENED * known).clamp(-1, 1)  # so it stays where all nearby is alike
    rows, columns = (_where_it_changes(known, axis) for axis in (0, 1))
    if rows is None or columns is None:
        return traced
    before, known, now = (values[rows, columns] for values in (before, known, now))
    steps = torch.arange(-SEARCHED, SEARCHED + 1, device=now.device)
    away = (steps[:, None] ** 2 + steps**2).flatten()[:, None, None]  # (P, 1, 1)
    difference = (_shifted(before) - now) ** 2  # (P, H, W)
    difference = (
        F.avg_pool2d(difference[:, None], PATCH, 1, PATCH // 2, count_include_pad=False)[:, 0]
        + PER_PIXEL * away
    )
    least = difference.amin(0)
    weight = torch.exp((least - difference) / (ALIKE + least / 2))
    mean = (weight * _shifted(known)).sum(0) / weight.sum(0)
    traced[rows, columns] = (SHARPENED * mean).clamp(-1, 1)
    return traced


def _where_it_changes(known: Tensor, axis: int) -> slice | None:
    """The rows (axis 0) or columns within reach of an outline; None where there is no outline."""
    low, high = (known - known[0, 0]).aminmax(dim=1 - axis)
    changing = torch.nonzero(torch.maximum(-low, high) > FAINT)
    if not len(changing):
        return None
    margin = 2 * SEARCHED + PATCH // 2
    return slice(max(0, int(changing[0]) - margin), int(changing[-1]) + margin + 1)


def _shifted(values: Tensor) -> Tensor:
    """Values (H, W) moved in every way that is searched: (P, H, W)."""
    height, width = values.shape
    padded = F.pad(values[None], (SEARCHED,) * 4, mode="replicate")[0]
    return padded.unfold(0, height, 1).unfold(1, width, 1).flatten(0, 1)
