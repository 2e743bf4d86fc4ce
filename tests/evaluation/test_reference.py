"""Label values that hold both sides are told apart, or left out where nothing tells the sides."""

from __future__ import annotations

import numpy as np
import pytest

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.reference import reference_classes
from segone_napari.volume import Volume

CALLOSUM = np.s_[15:25, 10:30, 18:22]
WHITE_MATTER = {2: np.s_[2:8, 10:30, 25:30], 41: np.s_[32:38, 10:30, 25:30]}
HIPPOCAMPI = {17: np.s_[10:14, 12:20, 8:12], 53: np.s_[26:30, 12:20, 8:12]}


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize(
    ("shown", "is_told_apart"),
    [
        (WHITE_MATTER, True),
        (HIPPOCAMPI, True),
        ({2: WHITE_MATTER[2]} | HIPPOCAMPI, True),
        ({2: WHITE_MATTER[2]}, False),
        ({}, False),
    ],
)
def test_a_value_of_both_sides_is_split_in_the_middle_or_left_out(shown, is_told_apart, flip):
    values = np.zeros((40, 40, 40), np.int16)
    values[CALLOSUM] = 251
    values[18:22, 18:22, 2:6] = 16
    for value, where in shown.items():
        values[where] = value
    vocabulary = Vocabulary.packaged()
    truth = Volume.from_affine(values[::flip], np.diag([float(flip), 1.0, 1.0, 1.0]))
    found = reference_classes(truth, vocabulary)[::flip][CALLOSUM]
    names = {vocabulary.class_names[n] for n in np.unique(found)}
    if not is_told_apart:
        assert names == {"background"}
        return
    left = vocabulary.class_names.index("left cerebral white matter")
    share = (found == left).mean((1, 2))
    assert names == {"left cerebral white matter", "right cerebral white matter"}
    assert (share[0], share[-1]) == (1, 0)
    if len(shown) == 2:
        assert share.mean() == 0.5
