"""How well results agree with a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.systems.base import Result


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
