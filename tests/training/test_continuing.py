"""What drawn slices teach about those near them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segone_napari.training.continuing import continued
from segone_napari.training.lessons import Slice
from tests.training import phantoms

DRAWN = (7, 11)
WEIGHT = 0.5
KEPT = [Slice(0, "axial", place) for place in DRAWN]


@pytest.fixture(scope="module")
def example():
    return phantoms.example(0, DRAWN)


@pytest.fixture(scope="module")
def whole():
    return phantoms.phantom(0)[1] > 0


def test_slices_near_drawn_ones_are_outlined_and_count_less(example, whole):
    (more,), slices = continued([example], KEPT, WEIGHT)
    places = [one.place for one in slices]
    assert places == [n for n in range(1, 18) if n not in DRAWN]
    between = [8, 9, 10]
    found = more.truth[0, ..., between].numpy() > 0
    assert phantoms.dice(found, whole[..., between]) > 0.85
    weight = more.weight[0, ..., places]
    assert 0 < weight.mean() <= weight.max() <= WEIGHT
    # away from it there may be more of the kind
    assert not weight[:3].any()
    assert (weight[10:16, 14:22, places.index(9)] > 0).all()
    # nothing is known of slices farther away
    assert not more.weight[..., 18:].any()


def test_what_a_person_drew_stays_as_it_is(example):
    kept = example.truth.clone(), example.weight.clone()
    (more,), _ = continued([example], KEPT, WEIGHT)
    for values, before in zip((more.truth, more.weight), kept, strict=True):
        assert torch.equal(values[..., list(DRAWN)], before[..., list(DRAWN)])
    assert torch.equal(example.truth, kept[0])
    assert torch.equal(example.weight, kept[1])


def test_the_less_sure_the_less_it_counts(example, whole):
    (more,), _ = continued([example], KEPT, WEIGHT)
    edge = np.zeros(whole.shape, dtype=bool)
    edge[1:] |= whole[1:] != whole[:-1]
    weight = more.weight[0, ..., 9].float().numpy()
    assert weight[edge[..., 9]].mean() < weight[~edge[..., 9] & (weight > 0)].mean()


def test_where_nothing_was_drawn_or_learnt_from_nothing_is_continued(example):
    empty = replace(example, drawn={})
    assert continued([empty], KEPT, WEIGHT) == ([empty], [])
    assert continued([example], [], WEIGHT) == ([example], [])
