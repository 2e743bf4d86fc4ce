"""What the drawn slices let expect on those near them, for a lesson to learn from.

The network that follows drawn slices through a volume (`systems.propagation`) outlines the slices
between and beside them. A lesson that answers on other images learns from these as well, the less
the less sure that network is: few slices of an object show only a little of it. Of what lies away
from what was drawn nothing is said: there may be more of the kind. What a person drew is never
changed.

Dimension key: x y z RAS axes of a scene, T terms, N slices, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.systems import lessons as taught
from segone_napari.systems import propagation
from segone_napari.training.lessons import Example, Slice

REACH = 6
"""How many slices beyond the outermost drawn ones, or from the nearest in a gap, it goes."""

AROUND = 6
"""So many pixels around what was drawn, and where it leads, it is known that nothing is there."""


def continued(
    examples: Sequence[Example], kept: Sequence[Slice], weight: float
) -> tuple[list[Example], list[Slice]]:
    """Examples with truth and weight on more slices, and those slices.

    Parameters
    ----------
    kept : the slices that are learnt from; only images and planes of these are continued.
    weight : how much a pixel counts of which the network is sure, beside one that a person drew.
    """
    out, more = list(examples), []
    for number, plane in sorted({(one.example, one.plane) for one in kept}):
        found = _near(out[number], plane)
        if found:
            out[number] = _continued(out[number], plane, found, weight)
            more += [Slice(number, plane, place) for place in found]
    return out, more


def _near(example: Example, plane: str) -> list[int]:
    """The slices near drawn ones, these left out."""
    drawn = example.drawn.get(plane)
    if drawn is None or not len(drawn.indices):
        return []
    places = torch.arange(taught.slice_count(example.scene, plane))
    away = (places[:, None] - drawn.indices.cpu()).abs().amin(1)
    return torch.nonzero((away > 0) & (away <= REACH)).flatten().tolist()


def _continued(example: Example, plane: str, places: Sequence[int], most: float) -> Example:
    truth, weight = example.truth.clone(), example.weight.clone()
    network = propagation.bundled(example.scene.image.device)
    for one in propagation.followed(example.scene, plane, example.drawn[plane], places):
        logits = propagation.propagated(network, one, plane, places)
        logits = propagation.kept_between(logits, one, plane, places)
        truths, weights = (taught.by_slice(v[one.term], plane) for v in (truth, weight))  # views
        free = (weights[places] == 0) & _about(one.drawn.outlines[:, 0] > 0, logits > 0)
        truths[places] = torch.where(free, (logits > 0).half(), truths[places])
        sure = most * (2 * logits.sigmoid() - 1).abs().half()
        weights[places] = torch.where(free, sure, weights[places])
    return replace(example, truth=truth, weight=weight)


def _about(drawn: Tensor, followed: Tensor) -> Tensor:
    """Where something was drawn, or leads to, on any slice (N, H, W), and around that: (H, W)."""
    there = (drawn.any(0) | followed.any(0)).float()[None, None]
    return F.max_pool2d(there, 2 * AROUND + 1, 1, AROUND)[0, 0] > 0
