"""How well results agree with a reference."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.systems.base import Result
from segone_napari.volume import bounding_box


@dataclass(frozen=True)
class Agreement:
    """How well a mask agrees with a reference.

    Attributes
    ----------
    dice : 2·|A ∩ B| / (|A| + |B|), 0 to 1; 1 where both are empty.
    hausdorff_mm : 95th percentile of the distances between the two surfaces; None where one of
        them is empty.
    """

    dice: float
    hausdorff_mm: float | None


def agreement(
    mask: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> Agreement:
    """Compare a mask (i, j, k) with a reference on the same grid, its voxels `spacing` mm wide."""
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    dice = 2 * np.count_nonzero(mask & truth) / total if total else 1.0
    if not mask.any() or not truth.any():
        return Agreement(float(dice), None)
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    box = bounding_box(mask | truth, margin=(1, 1, 1))
    ours, theirs = (
        torch.from_numpy(np.ascontiguousarray(one[box]))[None, None] for one in (mask, truth)
    )
    with warnings.catch_warnings():  # MONAI's own, of one of its parts by another
        warnings.simplefilter("ignore", FutureWarning)
        distance = compute_hausdorff_distance(ours, theirs, percentile=95, spacing=list(spacing))
    return Agreement(float(dice), float(distance))


def dice_by_prompt(
    results: Sequence[Result], classes: NDArray[np.uint8], vocabulary: Vocabulary
) -> dict[str, float]:
    """Dice overlap of each mask with the reference, for the prompts that the reference shows.

    Dice is 2·|A ∩ B| / (|A| + |B|), 0 to 1. A structure that was not found scores 0.

    Parameters
    ----------
    results : on the reference's grid.
    classes : (i, j, k) class indices, from `reference_classes`.
    vocabulary : what the indices and the prompts mean.
    """
    voxels = np.bincount(classes.ravel(), minlength=len(vocabulary.class_names))
    dice: dict[str, float] = {}
    for result in results:
        term = vocabulary.match(result.prompt).term
        if term is None:
            continue
        wanted = [vocabulary.class_names.index(name) for name in term.classes]
        if voxels[wanted].any():
            mask = (result.probability > 0.5) & result.found
            overlap = np.count_nonzero(np.isin(classes[result.box][mask], wanted))
            dice[result.prompt] = float(
                2.0 * overlap / (np.count_nonzero(mask) + voxels[wanted].sum())
            )
    return dice
