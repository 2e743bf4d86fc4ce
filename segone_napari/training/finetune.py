"""Training on a person's corrections: from a project's folder to a new version of the model.

The base model isn't changed. For the terms that were corrected a *lesson* is learnt
(`training.lessons`), saved with a copy of the base as a new version, and put to use if it is better
on corrections that were held back (`training.promotion`). A kill at any moment leaves the version
that was in use, and all corrections, as they were.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from segone_napari import __version__
from segone_napari.data import formats
from segone_napari.data.resample import through_plane_axis, working_grid
from segone_napari.data.synthetic import PLANES
from segone_napari.data.vocabulary import BACKGROUND, Vocabulary
from segone_napari.models.checkpoint import (
    Manifest,
    read_manifest,
    resolve_checkpoint,
    save_checkpoint,
)
from segone_napari.models.learnt import GENERAL_FROM, Lesson, LessonConfig
from segone_napari.models.segone import SegOneModel
from segone_napari.project import Correction, Project, merge_corrections
from segone_napari.project.journal import why_not_saved
from segone_napari.project.values import ImageRef
from segone_napari.project.versions import Versions
from segone_napari.runtime import BadInput, Cancelled
from segone_napari.systems import lessons as taught
from segone_napari.systems.base import Told
from segone_napari.systems.segone import SegOne
from segone_napari.systems.taught import TaughtHead
from segone_napari.training import promotion, proposals
from segone_napari.training.bookmarks import Bookmarks
from segone_napari.training.lessons import (
    Budget,
    CantLearn,
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
from segone_napari.volume import Volume

LARGEST_SIDE = 160
"""A lesson's box has at most about so many pixels along an axis; larger ones get coarser pixels."""
LEAST_MARGIN = 12
"""Pixels around what was corrected in which a lesson looks for its terms, at least."""
CONTEXT_CLASSES = 6
MEMBERS_OF_FEW = 3
"""So many networks learn from one or two patients."""
MOST_STEPS = 6000
LOOKS_TAKE_S = 1.0
"""Whoever asks whether a training runs holds its lock for a moment, at most so long."""
PLANE_OF_NORMAL = {normal: name for name, (_, _, normal) in PLANES.items()}


@dataclass(frozen=True)
class FineTuneConfig:
    """How to train on corrections. `minutes` is a limit for all of it."""

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


Report = Callable[[str, float], None]
"""Called as ``report(stage, share)`` with what is being done and what share of it all is done.
It may raise `Cancelled`."""


@dataclass(frozen=True, eq=False)
class Case:
    """All that a project's corrections say about one image.

    Attributes
    ----------
    image : its voxels.
    told : by canonical term, what a person corrected.
    synonyms : by canonical term.
    patient : whose image it is.
    axes : the array axes along which slices were corrected; empty where all voxels were.
    """

    image: Volume
    told: Mapping[str, Told]
    synonyms: Mapping[str, tuple[str, ...]]
    patient: str
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes
    ----------
    version : number of the new version.
    is_used : whether it was put to use.
    card : what was measured; also in the version's ``card.json``.
    """

    version: int
    is_used: bool
    card: Mapping[str, Any]


def finetune(
    project: Project,
    config: FineTuneConfig,
    report: Report = lambda stage, share: None,
    begin: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train on all corrections of a project; return the new version and what was measured.

    `begin` is called once, when it is sure that no other training of the project runs.

    Raises
    ------
    BadInput
        If there is nothing to learn from, or another training of this project runs.
    CantLearn
        If the training came to nothing.
    NotSaved
        If the disk refuses.
    Cancelled
        When `report` raises it.
    """
    versions = Versions(project.folder)
    if not project.corrections().usable:
        raise BadInput(_nothing_to_learn(project))
    with _only_one(project):
        begin()
        try:
            return _finetune(project, versions, config, report)
        except OSError as error:
            raise why_not_saved(versions.folder, error) from error


def _finetune(
    project: Project, versions: Versions, config: FineTuneConfig, report: Report
) -> Outcome:
    started = datetime.now(UTC)
    clock = Budget(steps=1 << 60, seconds=60 * config.minutes)
    # 1. What was used so far, and what is to be learnt from.
    report("reading corrections", 0.0)
    folder = resolve_checkpoint(versions.folder_of(versions.used()), "segone")
    before = _load(folder, config)
    cases, remarks = read_cases(project, before.vocabulary)
    if not cases:
        raise BadInput(" ".join([_nothing_to_learn(project), *remarks]))
    vocabulary = _with_terms(before.vocabulary, cases)
    encoded = []
    for number, case in enumerate(cases):
        report("looking at the images", 0.15 * number / len(cases))
        encoded.append(before.encode(case.image))
    # 2. One lesson for the terms that share images.
    groups = group_by_image(cases)
    bookmarks = Bookmarks(project.folder / "training" / "state", _key(project, config, before))
    bookmarks.open()
    rest_s = max(2.0, clock.seconds * (1 - clock.share(0)) * 0.9)
    learnt: list[Taught] = []
    for number, group in enumerate(groups):
        start, span = 0.15 + 0.7 * number / len(groups), 0.7 / len(groups)

        def share_of(share: float, start: float = start, span: float = span) -> None:
            report("learning", start + span * share)

        members = [
            (case, seen)
            for case, seen in zip(cases, encoded, strict=True)
            if group & set(case.told)
        ]
        seconds, own = rest_s / len(groups), replace(bookmarks, lesson=number)
        try:
            learnt.append(_teach(before, sorted(group), members, config, seconds, share_of, own))
        except CantLearn:
            bookmarks.clear()  # the same would come of it again
            raise
        remarks.extend(learnt[-1].remarks)
    held_back = [one for each in learnt for one in each.held_back]
    # 3. A version of its own, then its card, then perhaps to use.
    report("saving", 0.86)
    lessons = _joined(before.lessons, [each.lesson for each in learnt])
    manifest = _manifest(folder, before, project, cases, config, started)
    with _scratch(versions) as scratch:
        candidate = scratch / "version"
        _save(before, vocabulary, manifest, candidate, lessons)
        after = _load(candidate, config)

        def on_old(share: float) -> None:
            report("measuring", 0.88 + 0.1 * share)

        card = promotion.make_card(before, after, held_back, remarks, started, on_old)
        card["teacher"] = {
            "proposed_slices": sum(each.proposed for each in learnt),
            "trust": {term: value for each in learnt for term, value in each.trust.items()},
        }
        promotion.write_card(card, candidate)
        number = versions.add(candidate)
    bookmarks.clear()
    promotion.write_pictures(held_back, versions.pictures_of(number))
    is_used = card["better"] if config.promote is None else config.promote
    if is_used:
        versions.use(number)
    project.log("train", version=number, used=is_used, terms=sorted({*_terms(cases)}))
    report("done", 1.0)
    return Outcome(number, is_used, card)


def _key(project: Project, config: FineTuneConfig, system: SegOne) -> str:
    """What a training that was ended must have in common with one that goes on from it."""
    corrections = [
        (c.id, c.created, c.term, c.image.checksum, c.axis, c.slices, c.patient)
        for c in project.corrections().usable
    ]
    options = replace(config, promote=None)
    facts = repr((__version__, system.checkpoint, corrections, options))
    return hashlib.sha256(facts.encode()).hexdigest()


# --- reading ------------------------------------------------------------------------------------


def read_cases(project: Project, vocabulary: Vocabulary) -> tuple[list[Case], list[str]]:
    """Read all corrections, by image; what can't be used is said in sentences and left out."""
    found = project.corrections()
    remarks = list(found.problems)
    by_image: dict[str, list[Correction]] = {}
    for correction in found.usable:
        by_image.setdefault(correction.image.checksum, []).append(correction)
    cases = []
    for corrections in by_image.values():
        try:
            image = _read_image(project, corrections[0].image)
        except BadInput as error:
            remarks.append(str(error))
            continue
        case = _case(image, corrections, vocabulary, remarks)
        if case is not None:
            cases.append(case)
    return cases, remarks


def canonical(term: str, vocabulary: Vocabulary) -> str:
    """The name that corrections of a term are collected under."""
    match = vocabulary.match(term)
    return match.term.canonical if match.term and match.how != "description" else term


def told_about(project: Project, image: Volume, vocabulary: Vocabulary) -> Mapping[str, Told]:
    """What a project's corrections say of one image, by canonical term; damaged ones left out."""
    usable = project.corrections().usable
    if not any(one.image.grid.is_same_as(image.grid) for one in usable):
        return {}
    ref = ImageRef.of(image)
    case = _case(image, [c for c in usable if c.image.is_same_as(ref)], vocabulary, [])
    return {} if case is None else case.told


def _case(
    image: Volume, corrections: Sequence[Correction], vocabulary: Vocabulary, remarks: list[str]
) -> Case | None:
    by_term: dict[str, list[Correction]] = {}
    for correction in corrections:
        by_term.setdefault(canonical(correction.term, vocabulary), []).append(correction)
    told, synonyms = {}, {}
    for term, same in by_term.items():
        readable = [replace(c, term=term) for c in same if _is_readable(c, remarks)]
        if not readable:
            continue
        told[term] = Told(*merge_corrections(readable))
        remarks.extend(_contradictions(readable))
        synonyms[term] = tuple(dict.fromkeys(s for c in readable for s in c.synonyms))
    if not told:
        return None
    axes = {c.axis for c in corrections if c.axis is not None}
    patient = next((c.patient for c in corrections if c.patient), corrections[0].image.checksum)
    return Case(image, told, synonyms, patient, tuple(sorted(axes)))


def _is_readable(correction: Correction, remarks: list[str]) -> bool:
    try:
        correction.mask()
    except BadInput as error:
        remarks.append(str(error))
        return False
    return True


def _contradictions(corrections: Sequence[Correction]) -> list[str]:
    """Say where corrections of one term and image disagree; the later one counts."""
    sentences = []
    for earlier, later in pairwise(corrections):
        both = earlier.known() & later.known()
        voxels = int(np.count_nonzero((earlier.mask() != later.mask()) & both))
        if voxels:
            sentences.append(
                f"corrections {earlier.id} and {later.id} of {later.term!r} differ in {voxels} "
                f"voxels; the later one counts"
            )
    return sentences


def _read_image(project: Project, ref: ImageRef) -> Volume:
    """Find the image that was corrected. Raises BadInput if it is gone or another by now."""
    kept = project.kept_image(ref)
    if kept is not None:
        return kept
    again = "open the image again and correct it there"
    if ref.path is None:
        raise BadInput(f"the image {ref.name!r} of a correction was not kept; {again}")
    try:
        image = formats.read(ref.path, volume=ref.volume_index, series=ref.series)
    except (BadInput, OSError) as error:
        raise BadInput(f"a corrected image can't be read: {error}") from error
    if not ImageRef.of(image).is_same_as(ref):
        raise BadInput(f"{ref.path} is another image than the one that was corrected; {again}")
    return image


def _nothing_to_learn(project: Project) -> str:
    return (
        f"{project.folder} has no corrections to learn from; correct some slices in the app, "
        "or give a mask with 'segone correct'."
    )


def _terms(cases: Sequence[Case]) -> set[str]:
    return {term for case in cases for term in case.told}


def _with_terms(vocabulary: Vocabulary, cases: Sequence[Case]) -> Vocabulary:
    """Let a vocabulary know the terms that are new, and their synonyms."""
    for case in cases:
        for term, synonyms in case.synonyms.items():
            if vocabulary.match(term).term is None or any(
                entry.name == term for entry in vocabulary.learnt
            ):
                vocabulary = vocabulary.with_term(term, synonyms)
    return vocabulary


def group_by_image(cases: Sequence[Case]) -> list[set[str]]:
    """Terms that were corrected on the same images, directly or by way of others."""
    groups: list[set[str]] = []
    for case in cases:
        joined = set(case.told)
        apart = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


# --- teaching one lesson ------------------------------------------------------------------------

Member = tuple[Case, TaughtHead]
STRETCHES = ("drawn", "proposed", "all")
"""What a lesson is learnt from, one after the other."""


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


def _calmer(learn: LearnConfig) -> LearnConfig:
    """To go on with what has been learnt."""
    return replace(learn, learning_rate=learn.learning_rate / 2)


def _with_proposals(
    examples: Sequence[Example], proposed: Sequence[Example], slices: Sequence[Slice]
) -> list[Example]:
    """All that a person drew, and what was proposed where nobody drew."""
    out = []
    for whole, more in zip(examples, proposed, strict=True):
        free = whole.weight == 0
        out.append(
            replace(
                whole,
                truth=torch.where(free, more.truth, whole.truth),
                weight=torch.where(free, more.weight, whole.weight),
            )
        )
    return out


def _teach(
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
    kept, held, kind = hold_back(examples, slices, config.seed)
    lesson = new_lesson(lesson_config, config.seed)
    start_from_base(lesson.network, examples, kept)
    steps = config.steps or _steps_for(lesson_config, len(slices))
    seen = _without(examples, held) if kind == "slice" else examples
    check = held_back_check(lesson_config, seen, examples, held) if held else None
    # one patient's few slices are soon learnt by heart: what saw fewer of them is no good start
    anew = kind == "slice" and bool(held)
    first = 1.0 if not held else 0.5 if anew else 0.7
    remarks: list[str] = []
    trust: dict[str, float] = {}
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

    # 1. What the person drew, and only that.
    alone = first if teacher is None else 0.6 * first
    best = stretch(
        "drawn", 0.0, alone, calmer=False, slices=kept, examples=seen, steps=steps, check=check
    )
    # 2. What the teacher proposes beside it.
    more: list[Slice] = []
    if teacher is not None:
        added = proposals.propose(lesson, seen, kept, teacher, config.trust, config.seed)
        trust, more = added.trust, added.slices
        remarks.extend(added.remarks)
        seen = added.examples
        if more:
            stretch(
                "proposed", alone, first, calmer=True, slices=[*kept, *more], examples=seen,
                steps=max(1, steps // 2), check=check,
            )  # fmt: skip
    # 3. Measured, and then taught what was held back as well.
    shown = _without(examples, held) if kind == "slice" else examples
    measured = _measure(system, lesson, examples, shown, members, held, kind) if held else []
    if held:
        if anew:
            lesson = new_lesson(lesson_config, config.seed)
            start_from_base(lesson.network, examples, slices)
        everything = slices_of(examples, lesson_config.planes)
        if more:
            examples = _with_proposals(examples, seen, more)
        stretch(
            "all", first, 1.0, calmer=not anew, slices=[*everything, *more], examples=examples,
            steps=max(1, best, steps // 2) if anew else max(1, round(steps * 0.4)),
        )  # fmt: skip
    return Taught(lesson, measured, trust, len(more), remarks)


def _steps_for(lesson: LessonConfig, slices: int) -> int:
    """How many steps so many slices ask for."""
    if lesson.patients == 1:
        return min(400, 120 + 15 * slices)
    return min(MOST_STEPS, 1000 + 50 * slices)


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


def _is_known(term: str, vocabulary: Vocabulary) -> bool:
    """Whether the base model itself answers a term."""
    match = vocabulary.match(term).term
    return match is not None and set(match.classes) <= set(vocabulary.class_names)


def _planes(members: Sequence[Member]) -> tuple[str, ...]:
    """The planes in which slices were corrected; all of them where whole volumes were."""
    planes = set()
    for case, _ in members:
        order = nib.orientations.io_orientation(case.image.affine)[:, 0].astype(int)
        planes |= {PLANE_OF_NORMAL[int(order[axis])] for axis in case.axes}
        if not case.axes:
            thick = through_plane_axis(case.image.grid)
            planes |= set(PLANES) if thick is None else {PLANE_OF_NORMAL[thick]}
    return tuple(sorted(planes))


def _extent_mm(
    members: Sequence[Member], terms: Sequence[str], pixel_mm: float, *, in_head: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the terms may lie about the centre: what was corrected, and a third more each way."""
    lows, highs = [], []
    for case, seen in members:
        grid = working_grid(case.image.grid, pixel_mm)
        centre, stretch = taught.centre_of(case.image, seen, grid, in_head=in_head)
        to_voxel = np.linalg.inv(grid.affine) @ case.image.affine
        told = [case.told[t] for t in terms if t in case.told]
        masks = [t.mask if t.mask.any() else t.known for t in told]
        for mask in masks:
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


def _example(system: SegOne, config: LessonConfig, member: Member) -> Example | None:
    case, seen = member
    scene = system.scene(seen, Lesson(config, new_lesson(config, 0).network))
    if scene is None:
        return None
    scene = scene.to(torch.device("cpu"))
    nothing = np.zeros(case.image.grid.shape, dtype=np.uint8)
    by_term = [case.told.get(term, Told(nothing, nothing.astype(bool))) for term in config.terms]
    truth, known = taught.told_on(scene, case.image.grid, by_term)
    drawn = {plane: taught.drawn_slices(truth, known, plane) for plane in config.planes}
    return Example(scene, truth.half(), known.half(), drawn, case.patient)


# --- holding back -------------------------------------------------------------------------------


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
        if away_slices:
            continue
    held = [s for s in slices if s in away_slices]
    return [s for s in slices if s not in away_slices], held, "slice"


def _without(examples: Sequence[Example], held: Sequence[Slice]) -> list[Example]:
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


def _measure(
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


# --- saving -------------------------------------------------------------------------------------


def _joined(old: Sequence[Lesson], new: Sequence[Lesson]) -> list[Lesson]:
    """The lessons of a version: earlier ones stay unless all of their terms were taught anew."""
    now = {term for lesson in new for term in lesson.config.terms}
    return [lesson for lesson in old if not set(lesson.config.terms) <= now] + list(new)


def _load(folder: Path, config: FineTuneConfig) -> SegOne:
    return SegOne.from_checkpoint(
        "segone", folder, device=config.device, preset="balanced", seed=config.seed
    )


def _save(
    system: SegOne,
    vocabulary: Vocabulary,
    manifest: Manifest,
    folder: Path,
    lessons: Sequence[Lesson],
) -> None:
    assert isinstance(system.model, SegOneModel)
    save_checkpoint(system.model, vocabulary, manifest, folder, lessons)


def _manifest(
    folder: Path,
    system: SegOne,
    project: Project,
    cases: Sequence[Case],
    config: FineTuneConfig,
    started: datetime,
) -> Manifest:
    """What the new checkpoint says of itself: how much was learnt from, but not from whom."""
    parent = read_manifest(folder)
    learnt = {
        "kind": "corrections",
        "images": len(cases),
        "patients": len({case.patient for case in cases}),
        "terms": sorted(_terms(cases)),
        "started": started.isoformat(timespec="seconds"),
        "config": {
            "minutes": config.minutes,
            "steps": config.steps,
            "with_teacher": config.teacher is not None,
            "seed": config.seed,
            "learn": asdict(config.learn),
        },
    }
    training = {**parent.training, "corrections": learnt}
    return Manifest("segone", parent=folder.name, training=training, metrics=parent.metrics)


class _scratch:
    """A folder beside the versions for one that isn't finished; gone at the end."""

    def __init__(self, versions: Versions) -> None:
        self.versions = versions

    def __enter__(self) -> Path:
        self.versions.folder.mkdir(parents=True, exist_ok=True)
        # what a killed training left
        for old in self.versions.folder.glob(".training-*"):
            shutil.rmtree(old, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=".training-", dir=self.versions.folder))
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class _only_one:
    """One training at a time in a project; the system frees the lock of one that died."""

    def __init__(self, project: Project) -> None:
        folder = project.folder / "training"
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / "lock")

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=LOOKS_TAKE_S)
        except Timeout as error:
            raise BadInput(
                "another training of this project is running; wait for it or cancel it first"
            ) from error

    def __exit__(self, *_: object) -> None:
        self.lock.release()


__all__ = ["Cancelled", "CantLearn", "FineTuneConfig", "Outcome", "finetune", "read_cases"]
