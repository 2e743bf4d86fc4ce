"""What makes a person doubt that the right image was opened, though it can be read.

Knows nothing of files: readers of any format ask it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segone_napari.runtime import BadInput
from segone_napari.volume import Grid

# No body is longer, and no voxel of a living brain is smaller.
_LARGEST_MM = 3000.0
_SMALLEST_VOXEL_MM = 0.1
# An MRI of 8 bits has dozens of values, a mask two.
_FEW_VALUES = 3
# Neighbours in an MRI correlate by 0.7 and more along some axis, those in noise by next to nothing.
_LEAST_CORRELATION = 0.2
# In fewer voxels than this, noise may look like anything.
_LEAST_VOXELS = 4096
# As many tell; looking at all of a large image would take seconds.
_VOXELS_LOOKED_AT = 1 << 20


def doubts_about_size(name: str, grid: Grid) -> tuple[str, ...]:
    """Say it if voxels can't be as small as the header says.

    Raises
    ------
    BadInput
        If the image would be larger than any scanner.
    """
    sizes = [n * mm for n, mm in zip(grid.shape, grid.spacing, strict=True)]
    size, voxel = (" × ".join(f"{mm:.3g}" for mm in lengths) for lengths in (sizes, grid.spacing))
    if max(sizes) > _LARGEST_MM:
        raise BadInput(
            f"{name} would be {size} mm large, as its voxels are said to be {voxel} mm; "
            "correct the spacing in its header"
        )
    if max(grid.spacing) < _SMALLEST_VOXEL_MM:
        return (
            f"{name} is {size} mm small, as its voxels are said to be {voxel} mm; is that right?",
        )
    return ()


def doubts_about_values(data: NDArray[Any]) -> tuple[str, ...]:
    """Say in sentences what values no MRI has.

    Parameters
    ----------
    data : (i, j, k), finite values.
    """
    count = _few_values(data)
    if count:
        return (f"this image has only {count} different values; is it a mask or a label map?",)
    if data.size >= _LEAST_VOXELS and max(map(_correlation, _lines(data))) < _LEAST_CORRELATION:
        return ("this image looks like pure noise; is it the right one?",)
    return ()


def _few_values(data: NDArray[Any]) -> int:
    """How many different values there are; 0 where they are not few."""
    sample = data.ravel()[:: max(1, data.size // _VOXELS_LOOKED_AT)]
    if len(np.unique(sample)) > _FEW_VALUES:
        return 0
    count = len(np.unique(data))
    return count if count <= _FEW_VALUES else 0


def _lines(data: NDArray[Any]) -> list[NDArray[Any]]:
    """Whole lines of voxels along each axis, which comes first, from all over the image."""
    step = max(1, math.isqrt(data.size // _VOXELS_LOOKED_AT))
    return [np.moveaxis(data, axis, 0)[:, ::step, ::step] for axis in range(data.ndim)]


def _correlation(lines: NDArray[Any]) -> float:
    """How much values and their next neighbours along the first axis have in common, -1 to 1."""
    # a few extreme voxels would hide what all others say
    lowest, highest = np.percentile(lines, [1, 99])
    values = np.clip(lines.astype(np.float32), lowest, highest)
    values -= values.mean()
    return float((values[1:] * values[:-1]).mean() / max((values**2).mean(), 1e-12))
