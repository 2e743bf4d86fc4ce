"""Synthetic tumours, on a block of tissue."""

from __future__ import annotations

import pytest
import torch

from segone_napari.data.tumours import TISSUES, Tumours, displaced, draw_tumours, grow

FIRST = 10


@pytest.fixture
def positions() -> torch.Tensor:
    """Positions (1, 1, 64, 64, 3) in mm of a slice through the centre, 1 mm apart."""
    row = torch.arange(64.0) - 31.5
    x, y = torch.meshgrid(row, row, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1)[None, None]


def ball(radius: float = 20.0, push: float = 0.0) -> Tumours:
    """A tumour without waves at the centre: core to a half, necrosis to a quarter."""
    return Tumours(
        centre=torch.zeros(1, 3),
        radius=torch.tensor([radius]),
        core=torch.tensor([0.5]),
        necrosis=torch.tensor([0.25]),
        waves=torch.zeros(1, 5, 3),
        phases=torch.zeros(1, 5),
        heights=torch.zeros(1, 5),
        push=torch.tensor([push]),
    )


def test_oedema_lies_around_the_rim_and_the_rim_around_necrosis(positions):
    tissue = torch.zeros(1, 1, 64, 64, dtype=torch.long)
    grown = grow(tissue, torch.full_like(tissue, 2), positions, ball(), FIRST)
    distance = positions.norm(dim=-1)
    assert len(TISSUES) == 3
    assert (grown[distance < 5] == FIRST + 2).all()
    assert (grown[(distance > 5.1) & (distance < 10)] == FIRST + 1).all()
    assert (grown[(distance > 10.1) & (distance < 20)] == FIRST).all()
    assert (grown[distance > 20.1] == 0).all()


def test_oedema_stays_out_of_grey_matter_and_nothing_grows_outside_the_brain(positions):
    tissue = torch.zeros(1, 1, 64, 64, dtype=torch.long)
    may_grow = torch.full_like(tissue, 2)
    may_grow[..., :32], may_grow[..., :16, :] = 1, 0
    grown = grow(tissue, may_grow, positions, ball(), FIRST)
    assert not (grown[..., :32] == FIRST).any()
    assert (grown[..., :32] == FIRST + 1).any()
    assert (grown[..., :16, :] == 0).all()


def test_mass_effect_pushes_outwards_and_fades(positions):
    moved = positions - displaced(positions, ball(push=4.0))
    outwards = (moved * positions).sum(-1) / positions.norm(dim=-1)
    distance = positions.norm(dim=-1)
    at_surface = (distance > 19) & (distance < 21)
    assert outwards[at_surface].mean() == pytest.approx(4.0, abs=0.3)
    assert outwards.max() <= 4.0 + 1e-4
    assert outwards[distance > 42].max() < outwards[at_surface].min()


def test_a_share_of_the_samples_gets_a_tumour_near_where_it_may_grow(positions):
    candidates = torch.zeros(400, 64, 64, dtype=torch.bool)
    candidates[:, 40:44, 20:24] = True
    generator = torch.Generator().manual_seed(0)
    places = positions[:, 0].expand(400, -1, -1, -1)
    drawn = draw_tumours(candidates, places, 0.25, generator)
    has_tumour = drawn.radius > 0
    assert has_tumour.float().mean() == pytest.approx(0.25, abs=0.06)
    middle = places[0, 40:44, 20:24].mean((0, 1))
    off = (drawn.centre - middle).abs().amax(1)
    assert (off[has_tumour] <= 0.5 * drawn.radius[has_tumour] + 2).all()


def test_without_a_place_to_grow_there_is_no_tumour(positions):
    candidates = torch.zeros(8, 64, 64, dtype=torch.bool)
    places = positions[:, 0].expand(8, -1, -1, -1)
    drawn = draw_tumours(candidates, places, 1.0, torch.Generator().manual_seed(0))
    assert (drawn.radius == 0).all()
    grown = grow(
        torch.zeros(8, 1, 64, 64, dtype=torch.long),
        torch.full((8, 1, 64, 64), 2),
        positions.expand(8, -1, -1, -1, -1),
        drawn,
        FIRST,
    )
    assert (grown == 0).all()
