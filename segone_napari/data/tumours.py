"""Synthetic tumours in synthetic MRI: a core with necrosis and a rim, oedema around, mass effect.

A tumour is a ball whose surface is bent by a few waves. Knows nothing of how tissues look.

Dimension key: B batch, K planes sampled around a slice, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

TISSUES = ("tumour oedema", "tumour rim", "tumour necrosis")
"""From outside to inside; together they are the class ``tumour``."""

WAVES = 5


@dataclass(frozen=True)
class Tumours:
    """Tumours of a batch, one a sample, in mm around the centre of the head.

    Attributes
    ----------
    centre : (B, 3).
    radius : (B,) of the whole tumour; 0 where a sample has none.
    core, necrosis : (B,) radii of the inner parts, as shares of the whole.
    waves : (B, WAVES, 3) in radians per mm, phases (B, WAVES), and heights (B, WAVES) as shares of
        the radius: how the surface is bent.
    push : (B,) mm by which the tissue at its surface was moved outwards.
    """

    centre: Tensor
    radius: Tensor
    core: Tensor
    necrosis: Tensor
    waves: Tensor
    phases: Tensor
    heights: Tensor
    push: Tensor

    def select(self, index: Tensor) -> Tumours:
        """Return those of some samples; index (B',)."""
        return Tumours(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def draw_tumours(
    candidates: Tensor, positions: Tensor, share: float, generator: torch.Generator
) -> Tumours:
    """Choose for some of the samples where a tumour grows, and how.

    Parameters
    ----------
    candidates : (B, H, W) bool, pixels of the middle slice where one may grow.
    positions : (B, H, W, 3) in mm.
    share : of the samples that get one.
    generator : on the same device.
    """
    count, device = len(candidates), candidates.device

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        draws = torch.rand(shape, generator=generator, device=device)
        return low + (high - low) * draws

    flat = candidates.flatten(1)  # (B, H·W)
    has_place = flat.any(1)
    weights = torch.where(has_place[:, None], flat, True).float()
    chosen = torch.multinomial(weights, 1, generator=generator)[:, 0]  # (B,)
    centre = positions.flatten(1, 2)[torch.arange(count, device=device), chosen]  # (B, 3)
    radius = uniform(count, low=6.0, high=36.0)
    # the slice seldom cuts a tumour through its middle
    centre = centre + 0.5 * radius[:, None] * uniform(count, 3, low=-1, high=1)
    has_tumour = has_place & (uniform(count) < share)
    directions = torch.randn(count, WAVES, 3, generator=generator, device=device)
    directions = directions / directions.norm(dim=2, keepdim=True)
    length = radius[:, None, None] * uniform(count, WAVES, 1, low=0.6, high=2.5)
    core = torch.where(uniform(count) < 0.2, 0.0, uniform(count, low=0.35, high=0.95))
    return Tumours(
        centre=centre,
        radius=radius * has_tumour,
        core=core,
        necrosis=torch.where(uniform(count) < 0.4, 0.0, core * uniform(count, low=0.3, high=0.85)),
        waves=2 * math.pi * directions / length,
        phases=2 * math.pi * uniform(count, WAVES),
        heights=uniform(count, WAVES, high=0.2),
        push=0.25 * radius * core * uniform(count) * has_tumour,
    )


def displaced(positions: Tensor, tumours: Tumours) -> Tensor:
    """Return where what lies at positions (B, K, H, W, 3) in mm came from: mass effect."""
    away = positions - tumours.centre[:, None, None, None]
    distance = away.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    radius = tumours.radius.clamp_min(1.0)[:, None, None, None, None]
    push = tumours.push[:, None, None, None, None]
    fade = torch.exp(-0.5 * ((distance - radius).clamp_min(0) / radius).square())
    inside = (distance / radius).clamp_max(1)
    moved: Tensor = positions - away / distance * push * fade * inside
    return moved


def grow(
    tissue: Tensor, may_grow: Tensor, positions: Tensor, tumours: Tumours, first: int
) -> Tensor:
    """Put tumours into tissues; theirs start at `first`, in the order of `TISSUES`.

    Parameters
    ----------
    tissue : (B, K, H, W) int64.
    may_grow : (B, K, H, W) int64: 2 where all of a tumour may be, 1 where its core may be but no
        oedema, 0 elsewhere.
    positions : (B, K, H, W, 3) in mm.
    """
    away = positions - tumours.centre[:, None, None, None]  # (B, K, H, W, 3)
    angles = torch.einsum("bkhwd,bnd->bkhwn", away, tumours.waves)
    angles = angles + tumours.phases[:, None, None, None]
    bend = (angles.sin() * tumours.heights[:, None, None, None]).sum(-1)  # (B, K, H, W)
    radius = tumours.radius[:, None, None, None]
    depth = away.norm(dim=-1) / radius.clamp_min(1e-3) + bend
    depth = torch.where(radius > 0, depth, torch.inf)
    core, necrosis = (share[:, None, None, None] for share in (tumours.core, tumours.necrosis))
    tissue = torch.where((depth < 1) & (may_grow == 2), first, tissue)
    tissue = torch.where((depth < core) & (may_grow > 0), first + 1, tissue)
    return torch.where((depth < necrosis) & (may_grow > 0), first + 2, tissue)
