"""Holding corrections back from a lesson, and measuring it on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segone_napari.data.synthetic import PLANES
from segone_napari.models.learnt import Lesson
from segone_napari.systems import lessons as taught
from segone_napari.systems.segone import SegOne
from segone_napari.systems.taught import TaughtHead
from segone_napari.training.cases import Case
from segone_napari.training.lessons import Example, Slice

Member = tuple[Case, TaughtHead]
"""A case, and what the base model saw of its image."""


@dataclass(frozen=True, eq=False)
class HeldBack:
    """A correction that a lesson wasn't taught while it was measured on it.

    Attributes
    ----------
    term, patient : of what, and whose.
    kind : "patient", or "slice" where there was only one patient.
    before, after : Dice of the model in use and of the new one; `before` is 0 for a new term.
    image, truth, old, new : the slice where most has changed, for a picture (H, W).
    """

    term: str
    patient: str
    kind: str
    before: float
    after: float
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    old: NDArray[np.bool_]
    new: NDArray[np.bool_]


def hold_back(
    examples: Sequence[Example], slices: Sequence[Slice], seed: int
) -> tuple[list[Slice], list[Slice], str]:
    """Divide slices into those to learn from and those to measure on.

    By patient where there are three or more: a fifth of them. Else by slice: every fourth of each
    image that shows something, from three on.

    Returns
    -------
    kept, held : the slices; `held` is empty where there are too few.
    kind : "patient" or "slice".
    """
    patients = sorted({example.patient for example in examples})
    if len(patients) >= 3:
        order = np.random.default_rng(seed).permutation(len(patients))
        away = {patients[n] for n in order[: max(1, len(patients) // 5)]}
        held = [s for s in slices if examples[s.example].patient in away]
        return [s for s in slices if s not in set(held)], held, "patient"
    away_slices: set[Slice] = set()
    for number in range(len(examples)):
        for plane in {s.plane for s in slices}:
            mine = [s for s in slices if s.example == number and s.plane == plane]
            if len(mine) >= 3:
                away_slices.update(mine[1::4])
    held = [s for s in slices if s in away_slices]
    return [s for s in slices if s not in away_slices], held, "slice"


def without(examples: Sequence[Example], held: Sequence[Slice]) -> list[Example]:
    """The examples as if the held-back slices had not been drawn."""
    out = []
    for number, example in enumerate(examples):
        weight = example.weight.clone()
        for one in held:
            if one.example == number:
                taught.slice_values(weight, one.plane, one.place)[:] = 0
        drawn = {
            plane: taught.drawn_slices(example.truth > 0.5, weight > 0, plane)
            for plane in example.drawn
        }
        out.append(replace(example, weight=weight, drawn=drawn))
    return out


def measure(
    system: SegOne,
    lesson: Lesson,
    examples: Sequence[Example],
    shown: Sequence[Example],
    members: Sequence[Member],
    held: Sequence[Slice],
    kind: str,
) -> list[HeldBack]:
    """Dice of the model in use and of the lesson on held-back slices, by term and image.

    `shown` are the examples without what was held back.
    """
    out = []
    for number in sorted({s.example for s in held}):
        example, (_, seen) = examples[number], members[number]
        mine = [s for s in held if s.example == number]
        drawn = shown[number].drawn if kind == "slice" else {}
        # of one plane, what wasn't held back needs no look
        is_one_plane = len(lesson.config.planes) == 1
        only = sorted({one.place for one in mine}) if is_one_plane else None
        new = taught.look(lesson, example.scene, drawn, only=only) > 0.5
        for place, term in enumerate(lesson.config.terms):
            where = torch.zeros_like(new[place])
            for one in mine:
                taught.slice_values(where[None], one.plane, one.place)[:] = True
            where &= example.weight[place] == 1
            truth = example.truth[place] > 0.5
            if not (truth & where).any():
                continue
            old = system.answer_in(seen, term, example.scene) > 0.5
            out.append(
                HeldBack(
                    term,
                    example.patient,
                    kind,
                    _dice(old, truth, where),
                    _dice(new[place], truth, where),
                    *_picture(example.scene.image, truth, old, new[place], where, mine[0].plane),
                )
            )
    return out


def _dice(mask: torch.Tensor, truth: torch.Tensor, where: torch.Tensor) -> float:
    mask, truth = mask & where, truth & where
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()).clamp_min(1))


def _picture(
    image: torch.Tensor,
    truth: torch.Tensor,
    old: torch.Tensor,
    new: torch.Tensor,
    where: torch.Tensor,
    plane: str,
) -> tuple[NDArray[Any], ...]:
    """The slice where old and new differ most: image, truth, old, new (H, W)."""
    rows, columns, normal = PLANES[plane]
    changed = ((old ^ new) & where).sum((rows, columns))
    index = int(changed.argmax())
    stacks = [
        v.permute(normal, rows, columns)[index].cpu().numpy() for v in (image, truth, old, new)
    ]
    return tuple(stacks)
