"""Tracing what was drawn from slice to slice."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from segone_napari.systems import tracing
from segone_napari.systems.lessons import drawn_slices

SHAPE = (21, 40, 44)
DRAWN = (4, 16)


def pair(index: int) -> NDArray[np.bool_]:
    """Two bodies of one object on a slice; one moves to the right, the other stays."""
    rows, columns = np.indices(SHAPE[1:])
    moving = np.hypot(rows - 12, columns - 8 - index) < 5
    return np.asarray(moving | (np.hypot(rows - 30, columns - 20) < 4))


OBJECT = np.stack([pair(n) for n in range(SHAPE[0])])
NOISE = np.random.default_rng(0).normal(0, 0.04, SHAPE)
SLICES = torch.from_numpy((0.3 + 0.3 * OBJECT + NOISE).astype(np.float32))


def outlines(*indices: int) -> torch.Tensor:
    truth = torch.from_numpy(OBJECT).permute(1, 2, 0)[None]
    known = torch.zeros_like(truth)
    known[..., list(indices)] = True
    return drawn_slices(truth, known, "axial").outlines[:, 0]


def traced(*indices: int, wanted: range = range(SHAPE[0])) -> torch.Tensor:
    return tracing.traced(SLICES, indices, outlines(*indices), wanted)


def dice(values: torch.Tensor, truth: NDArray[np.bool_]) -> float:
    found = values.numpy() > 0
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_each_part_of_an_object_is_traced_from_both_sides_however_it_moves():
    sides = traced(*DRAWN)
    between = slice(5, 16)
    for side in (0, 1):
        assert dice(sides[between, side], OBJECT[between]) > 0.95
    # as it lay on the drawn slices it is found far worse
    assert dice(torch.from_numpy(OBJECT[[4]] * 2.0 - 1).expand(11, -1, -1), OBJECT[between]) < 0.75


def test_beyond_the_outermost_slices_it_is_traced_from_one_side_only():
    sides = traced(*DRAWN)
    assert not sides[:4, 0].any()
    assert not sides[17:, 1].any()
    assert dice(sides[:4, 1], OBJECT[:4]) > 0.95
    assert dice(sides[17:, 0], OBJECT[17:]) > 0.95


def test_on_drawn_slices_it_is_what_was_drawn():
    sides = traced(*DRAWN)[list(DRAWN)]
    assert np.array_equal(sides.numpy() > 0, np.stack([OBJECT[list(DRAWN)]] * 2, axis=1))


def test_only_what_is_wanted_is_traced():
    some = traced(*DRAWN, wanted=range(6, 8))
    every = traced(*DRAWN)
    assert torch.equal(some[6:8, 0], every[6:8, 0])
    assert torch.equal(some[6:16, 1], every[6:16, 1])
    assert not some[8:16, 0].any()
    assert not some[17:].any()


def test_an_object_that_ends_is_not_traced_into_what_looks_different():
    gone = SLICES.clone()
    gone[10:] = torch.from_numpy((0.3 + NOISE[10:]).astype(np.float32))
    with_end = torch.stack([outlines(4)[0], torch.full(SHAPE[1:], -1.0)])
    sides = tracing.traced(gone, (4, 16), with_end, range(SHAPE[0]))
    assert (sides[5:16, 1] < 0).all()


def test_looking_only_where_something_changes_makes_no_difference():
    with mock.patch.object(tracing, "_where_it_changes", return_value=slice(None)):
        expected = traced(*DRAWN)
    assert (traced(*DRAWN) - expected).abs().max() < 2 * tracing.FAINT
