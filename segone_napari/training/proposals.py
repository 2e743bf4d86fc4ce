"""What SAM2 proposes on slices that nobody corrected, for a lesson to learn from.

The student's own mask asks SAM2: its box, moved a little, and points inside it. A proposal is kept
where SAM2 itself thinks well of it, where it stays the same when the box is moved, and where it
agrees with the student; and only of terms whose masks it got right on the slices that the person
corrected. What the person said is never changed.

Dimension key: x y z RAS axes of a scene, T terms, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from segone_napari.data.synthetic import PLANES
from segone_napari.models.learnt import Lesson
from segone_napari.models.teacher import Teacher, box_around
from segone_napari.runtime import BadCheckpoint
from segone_napari.systems import lessons as taught
from segone_napari.systems.looking import look
from segone_napari.training.lessons import Example, Slice


@dataclass(frozen=True)
class TrustConfig:
    """When a proposal is good enough to learn from."""

    least_trust: float = 0.7
    """Mean Dice with the person's own slices, below which a term learns nothing from SAM2."""
    least_quality: float = 0.7
    """SAM2's own estimate of its intersection over union."""
    least_stability: float = 0.85
    """Mean Dice between its answers to boxes that are moved."""
    least_agreement: float = 0.6
    """Dice with the student's mask."""
    jitters: int = 3
    jitter_px: float = 1.5
    reach: int = 4
    """How many slices from a corrected one it is asked at most."""
    weight: float = 0.4
    """How much a pixel of a proposal counts beside a person's, times the trust squared."""


@dataclass(frozen=True)
class Proposals:
    """What SAM2 added.

    Attributes
    ----------
    examples : as they were, with truth and weight on more slices.
    slices : those slices.
    trust : by term, mean Dice of SAM2 on slices that the person corrected.
    remarks : what a person should know, in sentences.
    """

    examples: list[Example]
    slices: list[Slice]
    trust: dict[str, float]
    remarks: tuple[str, ...] = ()


def load_teacher(source: str | Path | None, device: str) -> tuple[Teacher | None, str]:
    """Load a teacher: a folder, a hub name, or the bundled one for an empty name.

    Returns
    -------
    The teacher, or None with a sentence that says why there is none. One that was named and can't
    be loaded raises `BadCheckpoint`.
    """
    try:
        return Teacher.load(source or None, device), ""
    except BadCheckpoint as error:
        if source:
            raise
        return None, f"learnt without a teacher: {error}"


def propose(
    lesson: Lesson,
    examples: Sequence[Example],
    kept: Sequence[Slice],
    teacher: Teacher,
    config: TrustConfig,
    seed: int,
) -> Proposals:
    """Ask a teacher on slices near the corrected ones.

    Parameters
    ----------
    lesson : the student, as far as it has learnt.
    kept : the slices that a person corrected and that are learnt from; no other is looked at.
    """
    draw = np.random.default_rng(seed)
    views = [_View(lesson, example, number) for number, example in enumerate(examples)]
    trust = _measure_trust(lesson, views, kept, teacher, config, draw)
    trusted = [place for place, value in enumerate(trust) if value >= config.least_trust]
    more: list[Slice] = []
    out = list(examples)
    if trusted:
        for number, view in enumerate(views):
            mine = [s for s in kept if s.example == number]
            found, out[number] = _add(view, mine, trusted, trust, teacher, config, draw)
            more.extend(found)
    terms = lesson.config.terms
    values = {term: round(float(v), 4) for term, v in zip(terms, trust, strict=True)}
    away = [term for place, term in enumerate(terms) if place not in trusted]
    remarks = (f"the teacher was not trusted with {', '.join(map(repr, away))}",) if away else ()
    return Proposals(out, more, values, remarks)


class _View:
    """An example with what the student thinks of it."""

    def __init__(self, lesson: Lesson, example: Example, number: int) -> None:
        self.example, self.number = example, number
        self.student = look(lesson, example.scene, example.drawn)  # (T, x, y, z)

    def picture(self, plane: str, place: int) -> NDArray[np.float32]:
        return np.asarray(
            taught.slice_values(self.example.scene.image[None], plane, place)[0].numpy()
        )

    def spacing(self, plane: str) -> tuple[float, float]:
        rows, columns, _ = PLANES[plane]
        mm = self.example.scene.grid.spacing
        return mm[rows], mm[columns]

    def mask(self, plane: str, place: int, term: int) -> NDArray[np.bool_]:
        return np.asarray(taught.slice_values(self.student, plane, place)[term].numpy() > 0.5)


def _measure_trust(
    lesson: Lesson,
    views: Sequence[_View],
    kept: Sequence[Slice],
    teacher: Teacher,
    config: TrustConfig,
    draw: np.random.Generator,
) -> list[float]:
    """Mean Dice of the teacher's answers with what the person drew, by term; 0 where unknown."""
    scores: list[list[float]] = [[] for _ in lesson.config.terms]
    for one in kept:
        view = views[one.example]
        truth = taught.slice_values(view.example.truth, one.plane, one.place).numpy() > 0.5
        weight = taught.slice_values(view.example.weight, one.plane, one.place).numpy()
        rough = [view.mask(one.plane, one.place, term) for term in range(len(scores))]
        if not any(mask.any() for mask in rough):
            continue
        teacher.set_slice(view.picture(one.plane, one.place), view.spacing(one.plane))
        for term, mask in enumerate(rough):
            if not mask.any() or weight[term].mean() < 0.5:
                continue
            answer, _, _ = _ask(teacher, mask, config, draw)
            scores[term].append(_dice(answer > 0.5, truth[term]))
    return [float(np.mean(values)) if values else 0.0 for values in scores]


def _add(
    view: _View,
    kept: Sequence[Slice],
    trusted: Sequence[int],
    trust: Sequence[float],
    teacher: Teacher,
    config: TrustConfig,
    draw: np.random.Generator,
) -> tuple[list[Slice], Example]:
    """Propose outward from the corrected slices of one image."""
    truth, weight = view.example.truth.clone(), view.example.weight.clone()
    found = []
    for plane in sorted({one.plane for one in kept}):
        mine = {one.place for one in kept if one.plane == plane}
        count = taught.slice_count(view.example.scene, plane)
        near = {place + step for place in mine for step in range(-config.reach, config.reach + 1)}
        for place in sorted(p for p in near - mine if 0 <= p < count):
            rough = {term: view.mask(plane, place, term) for term in trusted}
            if not any(mask.any() for mask in rough.values()):
                continue
            teacher.set_slice(view.picture(plane, place), view.spacing(plane))
            taken = False
            for term, mask in rough.items():
                own = taught.slice_values(weight, plane, place)[term]
                if not mask.any() or bool((own > 0).any()):
                    continue  # a person said something here
                answer, is_sure, is_good = _ask(teacher, mask, config, draw)
                if not is_good or _dice(answer > 0.5, mask) < config.least_agreement:
                    continue
                counts = torch.from_numpy(is_sure).half() * config.weight * trust[term] ** 2
                taught.slice_values(truth, plane, place)[term] = torch.from_numpy(
                    answer > 0.5
                ).half()
                own[:] = counts
                taken = True
            if taken:
                found.append(Slice(view.number, plane, place))
    return found, replace(view.example, truth=truth, weight=weight)


def _ask(
    teacher: Teacher, mask: NDArray[np.bool_], config: TrustConfig, draw: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_], bool]:
    """Ask about one object with moved boxes: mean answer, where all agree, whether it is good."""
    answers, qualities = [], []
    inside = np.asarray(ndimage.distance_transform_edt(mask))
    point = np.unravel_index(int(inside.argmax()), mask.shape)
    first_row, first_column, last_row, last_column = box_around(mask)
    for _ in range(config.jitters):
        moved = draw.normal(0, config.jitter_px, 4)
        box = np.array([first_row - 1, first_column - 1, last_row + 1, last_column + 1]) + moved
        proposal = teacher.predict(box=box, points=[point], mask=mask.astype(np.float32))
        answers.append(proposal.probability)
        qualities.append(proposal.quality)
    masks = [answer > 0.5 for answer in answers]
    pairs = [_dice(masks[a], masks[b]) for a in range(len(masks)) for b in range(a)]
    is_good = (
        float(np.mean(qualities)) >= config.least_quality
        and float(np.mean(pairs or [1.0])) >= config.least_stability
    )
    agree = np.all(masks, axis=0) | ~np.any(masks, axis=0)
    return np.mean(answers, axis=0), agree, is_good


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0
