"""Wider and narrower ventricles in synthetic MRI: what surrounds them makes way, or follows.

Heads differ in the size of their ventricles more than in anything else, and label maps of few
heads show few sizes. Here a head is sampled a little nearer to its ventricles than it is, or a
little farther away. Knows nothing of how tissues look.

Dimension key: M label maps, B batch, K planes sampled around a slice, H W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

NAMES = tuple(
    f"{side}{what} ventricle"
    for side, what in (
        ("left ", "lateral"),
        ("left ", "inferior lateral"),
        ("right ", "lateral"),
        ("right ", "inferior lateral"),
        ("", "third"),
    )
)
"""The classes that grow and shrink together."""

CELL_MM = 2
"""Size of the cells that directions are kept for."""
REACH_MM = 5.0
"""How far around the ventricles tissue makes way (standard deviation)."""
FULL = 127
"""Length of the longest direction, as it is kept."""


def directions(is_ventricle: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return where the ventricles lie, seen from around them.

    Parameters
    ----------
    is_ventricle : (X, Y, Z) bool, voxels of 1 mm.

    Returns
    -------
    (X / 2, Y / 2, Z / 2, 3) int8 vectors towards the ventricles, rounded up. The longest, at their
    walls, has the length `FULL`; all are 0 in a head without ventricles.
    """
    cells = is_ventricle[::CELL_MM, ::CELL_MM, ::CELL_MM].astype(np.float32)
    near = ndimage.gaussian_filter(cells, REACH_MM / CELL_MM)
    slope = np.stack(np.gradient(near), axis=-1)  # (X, Y, Z, 3)
    longest = max(1e-6, float(np.linalg.norm(slope, axis=-1).max()))
    return np.rint(slope * (FULL / longest)).astype(np.int8)


def moved(places: Tensor, head: Tensor, towards: Tensor, amount_mm: Tensor) -> Tensor:
    """Return where a head with ventricles of another size is to be sampled.

    Parameters
    ----------
    places : (B, K, H, W, 3), voxels of 1 mm.
    head : (B,) int64, which of the maps each sample shows.
    towards : (M, X, Y, Z, 3), the maps' `directions`.
    amount_mm : (B,), by how much the walls move outwards; inwards below 0.
    """
    cells = (places / CELL_MM).round().long()
    shape = torch.tensor(towards.shape[1:4], device=places.device)
    i, j, k = cells.clamp_min(0).minimum(shape - 1).unbind(-1)
    step = (amount_mm / FULL)[:, None, None, None, None]
    shifted: Tensor = places + step * towards[head[:, None, None, None], i, j, k]
    return shifted
