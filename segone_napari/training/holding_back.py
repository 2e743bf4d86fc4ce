"""Holding corrections back from a lesson, and measuring it on them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segone_napari.data.resample import to_native
from segone_napari.data.synthetic import PLANES
from segone_napari.models.learnt import Lesson
from segone_napari.systems import lessons as taught
from segone_napari.systems.base import Told
from segone_napari.systems.looking import look
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
    kind : "patient", or "slice" where there were fewer than three patients.
    before, after : Dice of the version in use and of the new lesson, 1 where both they and the
        person say that it is not there.
    is_absent : whether the person said that it is not there.
    image, truth, old, new : the slice where most has changed, for a picture (W, H), its axes in
        the order and direction of RAS.
    """

    term: str
    patient: str
    kind: str
    before: float
    after: float
    is_absent: bool
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    old: NDArray[np.bool_]
    new: NDArray[np.bool_]


def hold_back(
    examples: Sequence[Example], slices: Sequence[Slice], new: Collection[Slice], seed: int
) -> tuple[list[Slice], list[Slice], str]:
    """Divide slices into those to learn from and those to measure on.

    By patient where there are three or more: a fifth of them. Else by slice: every fourth of each
    image, where it has three or more.

    Parameters
    ----------
    new : the slices that the version in use hasn't learnt from. They are held back first: on what
        it was taught, that version looks better than it is.

    Returns
    -------
    kept, held : the slices; `held` is empty where there are too few.
    kind : "patient" or "slice".
    """
    is_by_patient = len({example.patient for example in examples}) >= 3
    if is_by_patient:
        chosen = _every_fifth(examples, {s.example for s in slices if s not in new}, seed)
        away = {s for s in slices if examples[s.example].patient in chosen}
    else:
        away = _every_fourth(slices, new)
    kept, held = [s for s in slices if s not in away], [s for s in slices if s in away]
    return kept, held, "patient" if is_by_patient else "slice"


def without(examples: Sequence[Example], held: Sequence[Slice]) -> list[Example]:
    """The examples as if the held-back slices had not been drawn."""
    out = []
    for number, example in enumerate(examples):
        mine = [one for one in held if one.example == number]
        if not mine:
            out.append(example)
            continue
        weight = example.weight.clone()
        for one in mine:
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
    """Dice of the version in use and of the lesson on held-back slices, by term and image.

    Both are shown the slices that weren't held back. Where the version in use was taught what is
    held back now, it looks better than it is: that errs on the side of keeping it.

    Parameters
    ----------
    system : the version in use.
    shown : the examples `without` what was held back.
    """
    out = []
    for number in sorted({s.example for s in held}):
        example, (case, seen) = examples[number], members[number]
        mine = [s for s in held if s.example == number]
        told = _told_without(case, example.scene, mine)
        # of one plane, what wasn't held back needs no look
        is_one_plane = len(lesson.config.planes) == 1
        only = sorted({one.place for one in mine}) if is_one_plane else None
        new = look(lesson, example.scene, shown[number].drawn, only=only) > 0.5
        for place, term in enumerate(lesson.config.terms):
            where = torch.zeros_like(new[place])
            for one in mine:
                taught.slice_values(where[None], one.plane, one.place)[:] = True
            where &= example.weight[place] == 1
            if not where.any():
                continue
            truth = example.truth[place] > 0.5
            old = system.answer_in(seen, term, example.scene, told) > 0.5
            out.append(
                HeldBack(
                    term,
                    example.patient,
                    kind,
                    _dice(old, truth, where),
                    _dice(new[place], truth, where),
                    not bool((truth & where).any()),
                    *_picture(example.scene.image, truth, old, new[place], where, mine[0].plane),
                )
            )
    return out


def _every_fifth(examples: Sequence[Example], learnt: Collection[int], seed: int) -> set[str]:
    """A fifth of the patients, at least one of whom shows something.

    Those of whom there are `learnt` examples, which the version in use was taught, come last.
    """
    patients = sorted({example.patient for example in examples})
    known = {examples[number].patient for number in learnt}
    showing = {example.patient for example in examples if bool(example.truth.any())}
    drawn = [patients[n] for n in np.random.default_rng(seed).permutation(len(patients))]
    order = sorted(drawn, key=known.__contains__)
    first = next((one for one in order if one in showing), order[0])
    order = [first, *(one for one in order if one != first)]
    return set(order[: max(1, len(order) // 5)])


def _every_fourth(slices: Sequence[Slice], new: Collection[Slice]) -> set[Slice]:
    """Of each image and plane with three slices or more, every fourth: of the new ones if any."""
    away: set[Slice] = set()
    for number, plane in {(s.example, s.plane) for s in slices}:
        mine = [s for s in slices if (s.example, s.plane) == (number, plane)]
        if len(mine) >= 3:
            first = [s for s in mine if s in new] or mine
            away.update(first[min(1, len(first) - 1) :: 4])
    return away


def _told_without(case: Case, scene: taught.Scene, held: Sequence[Slice]) -> dict[str, Told]:
    """What a person told of an image, but for held-back slices of a scene of it."""
    whole = torch.zeros(scene.grid.shape)
    for one in held:
        first = scene.box[PLANES[one.plane][2]].start
        taught.slice_values(whole[None], one.plane, first + one.place)[:] = 1
    box, share = to_native(whole, scene.grid, case.image.grid)
    away = np.zeros(case.image.grid.shape, dtype=bool)
    away[box] = share > 0.4  # as much as makes a slice of the scene known
    return {term: Told(told.mask, told.known & ~away) for term, told in case.told.items()}


def _dice(mask: torch.Tensor, truth: torch.Tensor, where: torch.Tensor) -> float:
    mask, truth = mask & where, truth & where
    total = int(mask.sum() + truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def _picture(
    image: torch.Tensor,
    truth: torch.Tensor,
    old: torch.Tensor,
    new: torch.Tensor,
    where: torch.Tensor,
    plane: str,
) -> tuple[NDArray[Any], ...]:
    """The slice where old and new differ most: image, truth, old, new (W, H)."""
    rows, columns, normal = PLANES[plane]
    changed = ((old ^ new) & where).sum((rows, columns))
    index = int(changed.argmax())
    return tuple(v.select(normal, index).cpu().numpy() for v in (image, truth, old, new))
