"""Where the masks are doubtful: one uncertainty for all structures, and which slice to see next.

Plain functions on values; safe in a worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segone_napari.gui.layers import LayerImage
from segone_napari.systems.base import Result

NEAR = 2
"""How many slices on either side a look at one slice settles too: they show nearly the same."""

WORTH_A_LOOK = 0.05
"""A slice with less than this share of the doubt of the most doubtful one isn't worth a look."""

BySlice = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""For each axis of the image's layer, the summed uncertainty of each slice."""


@dataclass(frozen=True, eq=False)
class Doubt:
    """How unsure the model is, in the axis order of the image's layer.

    Attributes
    ----------
    values : float16, 0 to 1: at each voxel the largest uncertainty of any structure.
    by_structure : by a structure's name, its uncertainty by slice.
    """

    values: NDArray[np.float16]
    by_structure: Mapping[str, BySlice]

    def by_slice(self, names: Iterable[str], axis: int) -> NDArray[np.float64]:
        """The summed uncertainty of these structures in each slice along `axis`."""
        total = np.zeros(self.values.shape[axis])
        for name in names:
            if name in self.by_structure:
                total += self.by_structure[name][axis]
        return total


def doubt_of(results: Sequence[Result], image: LayerImage) -> Doubt | None:
    """Join the uncertainties of all found structures; None where no result has one."""
    stored: NDArray[np.float16] | None = None
    by_structure = {}
    for result in results:
        if not result.found or result.uncertainty is None:
            continue
        if stored is None:
            stored = np.zeros(result.grid.shape, dtype=np.float16)
        part = stored[result.box]
        np.maximum(part, result.uncertainty, out=part)
        by_structure[result.resolved or result.prompt] = _by_slice(result, image)
    if stored is None:
        return None
    return Doubt(image.layout.to_layer(stored), by_structure)


def next_doubtful(doubt: NDArray[np.float64], seen: Collection[int]) -> int | None:
    """The slice where a look gains most, or None when all that are worth one have been seen.

    A look settles the slices near by as well, so what is near a seen slice is left out.

    Parameters
    ----------
    doubt : the summed uncertainty of each slice.
    seen : the slices that a person has looked at or corrected.
    """
    left = doubt.astype(np.float64, copy=True)
    for index in seen:
        left[max(0, index - NEAR) : index + NEAR + 1] = 0.0
    if not left.size or left.max() <= WORTH_A_LOOK * doubt.max():
        return None
    return int(np.argmax(left))


def _by_slice(result: Result, image: LayerImage) -> BySlice:
    assert result.uncertainty is not None
    sums = []
    for layer_axis, (axis, is_flipped) in enumerate(
        zip(image.layout.axes, image.layout.flips, strict=True)
    ):
        others = tuple({0, 1, 2} - {axis})
        along = np.zeros(image.data.shape[layer_axis])
        along[result.box[axis]] = result.uncertainty.sum(axis=others, dtype=np.float64)
        sums.append(along[::-1] if is_flipped else along)
    a, b, c = sums
    return a, b, c
