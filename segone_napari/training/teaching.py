"""Teaching one lesson: what it looks at, from which slices it learns, for how long.

A lesson learns what a person drew, then what a teacher proposes beside it; it is measured on what
was held back, and then learns from that as well. `training.lessons` has the steps themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from segone_napari.data.resample import slice_grid, through_plane_axis
from segone_napari.data.synthetic import PLANES
from segone_napari.data.vocabulary import BACKGROUND, Vocabulary
from segone_napari.models.learnt import GENERAL_FROM, Lesson, LessonConfig
from segone_napari.runtime import BadInput
from segone_napari.systems import lessons as taught
from segone_napari.systems.following import LARGEST_SIDE, PLANE_OF_NORMAL, plane_across
from segone_napari.systems.segone import SegOne
from segone_napari.training import proposals
from segone_napari.training.bookmarks import Bookmarks
from segone_napari.training.continuing import continued
from segone_napari.training.holding_back import HeldBack, Member, hold_back, measure, without
from segone_napari.training.lessons import (
    Budget,
    Check,
    Example,
    LearnConfig,
    Slice,
    held_back_check,
    learn,
    new_lesson,
    slices_of,
    start_from_base,
)

LEAST_MARGIN = 12
"""Pixels around what was corrected in which a lesson looks for its terms, at least."""
CONTEXT_CLASSES = 6
MEMBERS_OF_FEW = 3
"""So many networks learn from one or two patients."""
MOST_STEPS = 6000
STRETCHES = ("drawn", "proposed", "all")
"""What a lesson is learnt from, one after the other."""


@dataclass(frozen=True)
class FineTuneConfig:
    """How to train on corrections. `minutes` is a limit for all of it, which a busy
    computer exceeds: what comes after the learning, measuring and saving, is not cut short.
    """

    minutes: float = 5.0
    steps: int | None = None
    """Training steps; None: as many as the number of slices asks for."""
    teacher: str | Path | None = ""
    """A SAM2 that proposes masks on slices nobody corrected: a folder or a hub name; empty for
    the bundled one, None for none."""
    promote: bool | None = None
    """Whether to put the new version to use: None if it is better, True in any case, False not."""
    device: str = "auto"
    seed: int = 0
    learn: LearnConfig = field(default_factory=LearnConfig)
    trust: proposals.TrustConfig = field(default_factory=proposals.TrustConfig)

    def __post_init__(self) -> None:
        if not 0.05 <= self.minutes <= 24 * 60:
            raise BadInput(f"can't train for {self.minutes} minutes; give 0.05 to 1440")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"can't train for {self.steps} steps; give 1 or more")
        if self.seed < 0:
            raise BadInput(f"the seed can't be {self.seed}; give 0 or more")


@dataclass(frozen=True, eq=False)
class Taught:
    """A lesson that was learnt, and how.

    Attributes
    ----------
    lesson : in evaluation mode.
    held_back : what it was measured on.
    trust : by term, how right the teacher was on the person's own slices; empty without one.
    proposed : how many slices the teacher added.
    remarks : what a person should know.
    """

    lesson: Lesson
    held_back: list[HeldBack]
    trust: dict[str, float]
    proposed: int
    remarks: list[str]


def teach(
    system: SegOne,
    terms: Sequence[str],
    members: Sequence[Member],
    config: FineTuneConfig,
    seconds: float,
    report: Callable[[float], None],
    bookmarks: Bookmarks,
) -> Taught:
    """Learn a lesson, measure it on what was held back, then learn from that as well."""
    began = Budget(1 << 60, seconds)
    lesson_config = plan_lesson(system, terms, members)
    made = [_example(system, lesson_config, member) for member in members]
    members = [member for member, one in zip(members, made, strict=True) if one is not None]
    examples = [one for one in made if one is not None]
    slices = slices_of(examples, lesson_config.planes)
    if not slices:
        raise BadInput(
            f"the corrections of {', '.join(terms)} mark no whole slice; "
            "correct at least one slice, then train again"
        )
    new = _not_learnt_yet(examples, members, lesson_config)
    kept, held, kind = hold_back(examples, slices, new, config.seed)
    lesson = new_lesson(lesson_config, config.seed)
    start_from_base(lesson.network, examples, kept)
    steps = config.steps or _steps_for(lesson_config, len(slices))
    shown = seen = without(examples, held)
    # of one image drawn slices are followed beside the lesson anyway; others see what it learnt
    followed_weight = config.learn.followed_weight if lesson_config.patients > 1 else 0.0
    near: list[Slice] = []
    if followed_weight:
        seen, near = continued(shown, kept, followed_weight)
    check = held_back_check(lesson_config, shown, examples, held) if held else None
    # one patient's few slices are soon learnt by heart: what saw fewer of them is no good start
    anew = kind == "slice" and bool(held)
    first = 1.0 if not held else 0.5 if anew else 0.7
    remarks: list[str] = []
    teacher = None
    if config.teacher is not None:
        teacher, why_none = proposals.load_teacher(config.teacher, config.device)
        remarks.extend([why_none] if teacher is None else [])

    def stretch(
        name: str, first: float, last: float, *, calmer: bool, slices: Sequence[Slice],
        examples: Sequence[Example], steps: int, check: Check | None = None,
    ) -> int:  # fmt: skip
        left_s = seconds * (1 - began.share(0))
        share_s = left_s * (last - first) / (1 - first)
        learn_config = _calmer(config.learn) if calmer else config.learn
        return learn(
            lesson.network, examples, slices, Budget(steps, share_s), learn_config,
            config.seed + STRETCHES.index(name),
            lambda share, loss: report(first + (last - first) * share),
            check=check, bookmarks=bookmarks, name=name,
        )  # fmt: skip

    # 1. What the person drew, and where it leads on the slices beside.
    alone = first if teacher is None else 0.6 * first
    best = stretch(
        "drawn", 0.0, alone, calmer=False, slices=[*kept, *near], examples=seen, steps=steps,
        check=check,
    )  # fmt: skip
    # 2. What the teacher proposes there.
    added = proposals.Proposals([], [], {})
    if teacher is not None:
        added = proposals.propose(lesson, shown, kept, teacher, config.trust, config.seed)
        remarks.extend(added.remarks)
        if added.slices:
            seen = _with_proposals(seen, added.examples)
            stretch(
                "proposed", alone, first, calmer=True, slices=_each([*kept, *near, *added.slices]),
                examples=seen, steps=max(1, steps // 2), check=check,
            )  # fmt: skip
    # 3. Measured, and then taught what was held back as well.
    measured = measure(system, lesson, examples, shown, members, held, kind) if held else []
    if held:
        if anew:
            lesson = new_lesson(lesson_config, config.seed)
            start_from_base(lesson.network, examples, slices)
        if followed_weight:
            examples, near = continued(examples, slices, followed_weight)
        if added.slices:
            examples = _with_proposals(examples, added.examples)
        stretch(
            "all", first, 1.0, calmer=not anew, slices=_each([*slices, *near, *added.slices]),
            examples=examples,
            steps=max(1, best, steps // 2) if anew else max(1, round(steps * 0.4)),
        )  # fmt: skip
    return Taught(lesson, measured, added.trust, len(added.slices), remarks)


def plan_lesson(system: SegOne, terms: Sequence[str], members: Sequence[Member]) -> LessonConfig:
    """Choose planes, pixels, box and context of a lesson by the images that were corrected."""
    known = tuple(_is_known(term, system.vocabulary) for term in terms)
    planes = _planes(members)
    in_head = all(taught.is_head(seen.head) for _, seen in members)
    finest = float(np.median([min(case.image.grid.spacing) for case, _ in members]))
    pixel_mm = float(np.clip(finest, 0.7, 2.0)) if in_head else finest
    patients = len({case.patient for case, _ in members})
    low, high = _extent_mm(members, terms, pixel_mm, in_head=in_head)
    pixel_mm = max(pixel_mm, float((high - low).max()) / LARGEST_SIDE)
    low, high = low - LEAST_MARGIN * pixel_mm, high + LEAST_MARGIN * pixel_mm
    box = tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))
    return LessonConfig(
        terms=tuple(terms),
        is_known=known,
        context=_context(system, members) if in_head else (),
        planes=planes,
        pixel_mm=pixel_mm,
        in_head=in_head,
        box_mm=box,
        patients=patients,
        # one patient's slices are few; of many, which side is which says more than more slices
        is_mirrored=patients < GENERAL_FROM,
        # few slices leave much open; of many, more steps say more than more networks
        members=MEMBERS_OF_FEW if patients < GENERAL_FROM else 1,
    )


def _example(system: SegOne, config: LessonConfig, member: Member) -> Example | None:
    case, seen = member
    scene = system.scene(seen, Lesson(config, new_lesson(config, 0).network))
    if scene is None:
        return None
    scene = scene.to(torch.device("cpu"))
    truth, known = taught.told_on(scene, case.image.grid, config.terms, case.told)
    drawn = {plane: taught.drawn_slices(truth, known, plane) for plane in config.planes}
    return Example(scene, truth.half(), known.half(), drawn, case.patient)


def _not_learnt_yet(
    examples: Sequence[Example], members: Sequence[Member], lesson: LessonConfig
) -> set[Slice]:
    """The slices that were corrected after the version in use learnt."""
    since = []
    for example, (case, _) in zip(examples, members, strict=True):
        _, known = taught.told_on(example.scene, case.image.grid, lesson.terms, case.new)
        since.append(replace(example, weight=known.half()))
    return set(slices_of(since, lesson.planes))


def _steps_for(lesson: LessonConfig, slices: int) -> int:
    """How many steps so many slices ask for."""
    if lesson.patients == 1:
        return min(400, 120 + 15 * slices)
    return min(MOST_STEPS, 1000 + 50 * slices)


def _calmer(learn: LearnConfig) -> LearnConfig:
    """To go on with what has been learnt."""
    return replace(learn, learning_rate=learn.learning_rate / 2)


def _with_proposals(examples: Sequence[Example], proposed: Sequence[Example]) -> list[Example]:
    """Add what SAM2 proposes. It bears out what was followed on those slices, or contradicts it:
    a voxel counts more where both agree, and not at all where they don't. A person's voxels stay.
    """
    out = []
    for one, more in zip(examples, proposed, strict=True):
        says = (more.weight > 0) & (one.weight < 1)
        agrees = (one.weight == 0) | (one.truth == more.truth)
        truth = torch.where(says, more.truth, one.truth)
        weight = torch.where(says, (one.weight + more.weight) * agrees, one.weight)
        out.append(replace(one, truth=truth, weight=weight))
    return out


def _each(slices: Sequence[Slice]) -> list[Slice]:
    """Every slice once, in order."""
    return sorted(set(slices))


def _is_known(term: str, vocabulary: Vocabulary) -> bool:
    """Whether the base model itself answers a term."""
    named = vocabulary.named(term)
    return named is not None and set(named.classes) <= set(vocabulary.class_names)


def _planes(members: Sequence[Member]) -> tuple[str, ...]:
    """The planes in which slices were corrected; all of them where whole volumes were."""
    planes = set()
    for case, _ in members:
        planes |= {plane_across(case.image.grid, axis) for axis in case.axes}
        if not case.axes:
            thick = through_plane_axis(case.image.grid)
            planes |= set(PLANES) if thick is None else {PLANE_OF_NORMAL[thick]}
    return tuple(sorted(planes))


def _extent_mm(
    members: Sequence[Member], terms: Sequence[str], pixel_mm: float, *, in_head: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the terms may lie about the centre: what was corrected, and a third more each way.

    Images of which was said that nothing is there count only where all are such.
    """
    lows, highs = [], []
    shows = any(case.told[t].mask.any() for case, _ in members for t in terms if t in case.told)
    for case, seen in members:
        grid = slice_grid(case.image.grid, pixel_mm)
        centre, stretch = taught.centre_of(seen, grid, in_head=in_head)
        to_voxel = np.linalg.inv(grid.affine) @ case.image.affine
        told = [case.told[t] for t in terms if t in case.told]
        for mask in (t.mask if shows else t.known for t in told):
            if not mask.any():
                continue
            voxels = nib.affines.apply_affine(to_voxel, np.argwhere(mask))
            places = (voxels - centre) * grid.spacing * stretch
            lows.append(places.min(0))
            highs.append(places.max(0))
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    margin = 0.35 * (high - low)
    return low - margin, high + margin


def _context(system: SegOne, members: Sequence[Member]) -> tuple[str, ...]:
    """The classes of the base model that overlap most with what was corrected."""
    totals: dict[str, float] = {}
    for case, seen in members:
        inside = np.any([t.mask for t in case.told.values()], axis=0)
        for name in system.vocabulary.class_names:
            if name == BACKGROUND:
                continue
            box, values = system.class_map(seen, name, case.image.grid)
            if values.size:
                share = float(values[inside[box]].sum()) / max(1, int(inside.sum()))
                totals[name] = totals.get(name, 0.0) + share / len(members)
    most = sorted(totals, key=lambda name: -totals[name])[:CONTEXT_CLASSES]
    return tuple(name for name in most if totals[name] > 0.02)
