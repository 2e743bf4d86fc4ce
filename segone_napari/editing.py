"""Repairs of a mask. Pure functions: nothing is changed.

Masks are (i, j, k), uint8 or bool, anything but 0 is inside; spacing is the distance in mm between
neighbouring voxels along each array axis. Every answer is uint8, 0 or 1, of the mask's shape.
Knows nothing of rows, files or windows: hand the answer to `EditHistory.edit` with the row's
number, and only that row is changed::

    history.edit(row_id, fill_holes(history.masks[row_id]), kind="repair")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segone_napari.volume import Box, bounding_box

Mask = NDArray[np.uint8]
Spacing = tuple[float, float, float]

SMOOTHING_MM = 1.0
"""How wide `smooth` looks: the standard deviation of its Gaussian."""


def keep_largest_part(mask: NDArray[Any], *, parts: int = 1) -> Mask:
    """Drop all but the largest connected parts.

    Voxels that touch at a corner are connected. A paired structure with both sides in one mask
    has two parts worth keeping: ``parts=2``.
    """
    inside, box = _inside(mask)
    labels, count = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    if count > parts:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        largest = np.argsort(sizes, kind="stable")[-parts:]
        inside = np.isin(labels, largest)
    return _placed(inside, box, mask.shape)


def fill_holes(mask: NDArray[Any], *, axis: int | None = None) -> Mask:
    """Fill what the mask encloses.

    Parameters
    ----------
    axis : look at each slice along this array axis for itself, which also fills what is open
        towards the neighbouring slices. Without it, a hole must be closed on all sides.
    """
    inside, box = _inside(mask)
    in_plane = [n for n in range(3) if n != axis]
    padding = [(0, 0) if n == axis else (1, 1) for n in range(3)]
    neighbours = ndimage.generate_binary_structure(3, 1)
    if axis is not None:
        neighbours[tuple(np.s_[::2] if n == axis else np.s_[:] for n in range(3))] = False
    labels, _ = ndimage.label(~np.pad(inside, padding), structure=neighbours)
    # The padding is one part with all that is open to it: in 3-D one, else one in each slice.
    corner = tuple(np.s_[:1] if n in in_plane else np.s_[:] for n in range(3))
    is_open = np.isin(labels, labels[corner])
    cut = tuple(np.s_[:] if n == axis else np.s_[1:-1] for n in range(3))
    return _placed(inside | ~is_open[cut], box, mask.shape)


def smooth(
    mask: NDArray[Any],
    spacing: Spacing,
    *,
    sigma_mm: float = SMOOTHING_MM,
    axis: int | None = None,
) -> Mask:
    """Round the surface. The number of voxels stays the same, so that nothing shrinks.

    Parameters
    ----------
    sigma_mm : standard deviation of the Gaussian; larger is smoother.
    axis : smooth each slice along this array axis for itself.
    """
    sigma = [0.0 if n == axis else sigma_mm / mm for n, mm in enumerate(spacing)]
    margin = [int(np.ceil(3 * s)) for s in sigma]
    inside, box = _inside(mask, margin)
    blurred = ndimage.gaussian_filter(inside.astype(np.float32), sigma, mode="nearest")
    return _placed(_most(blurred, inside, axis), box, mask.shape)


def _most(
    blurred: NDArray[np.float32], inside: NDArray[np.bool_], axis: int | None
) -> NDArray[np.bool_]:
    """As many voxels as were inside, those with the highest values; slice by slice with `axis`."""
    count = int(np.count_nonzero(inside))
    if count == 0:
        return np.zeros(inside.shape, dtype=bool)
    if axis is not None:
        slices = zip(np.moveaxis(blurred, axis, 0), np.moveaxis(inside, axis, 0), strict=True)
        return np.stack([_most(values, was, None) for values, was in slices], axis)
    # Of equal values, what was inside stays inside.
    values = (blurred + np.float32(1e-5) * inside).ravel()
    most = values > 0.95
    # Only near the surface is there anything to choose, which is where sorting takes its time.
    near = np.flatnonzero((values > 0.05) & ~most)
    wanted = count - int(np.count_nonzero(most))
    if not 0 <= wanted <= len(near):
        most[:], near, wanted = False, np.arange(values.size), count
    if wanted:
        most[near[np.argpartition(values[near], len(near) - wanted)[len(near) - wanted :]]] = True
    return most.reshape(inside.shape)


def _inside(mask: NDArray[Any], margin: Sequence[int] = (0, 0, 0)) -> tuple[NDArray[np.bool_], Box]:
    """The part of a mask that isn't empty, with a margin, as bool; and where it lies."""
    inside = np.asarray(mask) != 0
    box = bounding_box(inside, margin)
    return inside[box], box


def _placed(inside: NDArray[np.bool_], box: Box, shape: tuple[int, ...]) -> Mask:
    whole = np.zeros(shape, dtype=np.uint8)
    whole[box] = inside
    return whole
