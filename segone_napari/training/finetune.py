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
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segone_napari import __version__
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import (
    Manifest,
    read_manifest,
    resolve_checkpoint,
    save_checkpoint,
)
from segone_napari.models.learnt import Lesson
from segone_napari.models.segone import SegOneModel
from segone_napari.project import Project
from segone_napari.project.case import LOOKS_TAKE_S
from segone_napari.project.journal import why_not_saved
from segone_napari.project.versions import Versions
from segone_napari.runtime import BadInput, Cancelled, is_out_of_memory
from segone_napari.systems.segone import SegOne
from segone_napari.training import promotion
from segone_napari.training.bookmarks import Bookmarks
from segone_napari.training.cases import (
    Case,
    group_by_image,
    nothing_to_learn,
    read_cases,
    terms_of,
    with_terms,
)
from segone_napari.training.lessons import NO_MEMORY, Budget, CantLearn
from segone_napari.training.teaching import FineTuneConfig, Taught, teach

ENDING_S, ENDING_SHARE = 8.0, 0.1
"""What saving and measuring take, at least this share of the time."""

Report = Callable[[str, float], None]
"""Called as ``report(stage, share)`` with what is being done and what share of it all is done.
It may raise `Cancelled`."""


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
        When `report` raises it before the new version is there.
    """
    versions = Versions(project.folder)
    found = project.corrections()
    if not found.usable:
        raise BadInput(" ".join([nothing_to_learn(project), *found.problems]))
    with _only_one(project):
        begin()
        try:
            return _finetune(project, versions, config, report)
        except OSError as error:
            raise why_not_saved(versions.folder, error) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise CantLearn(NO_MEMORY) from error


def _finetune(
    project: Project, versions: Versions, config: FineTuneConfig, report: Report
) -> Outcome:
    started = datetime.now(UTC)
    clock = Budget(steps=1 << 60, seconds=60 * config.minutes)
    # 1. What was used so far, and what is to be learnt from.
    report("reading corrections", 0.0)
    folder = resolve_checkpoint(versions.folder_of(versions.used()), "segone")
    before = _load(folder, config)
    cases, remarks = read_cases(project, before.vocabulary, _learnt_at(folder))
    if not cases:
        raise BadInput(" ".join([nothing_to_learn(project), *remarks]))
    # the terms first, so that no synonym of one takes the name of another
    vocabulary = with_terms(before.vocabulary, [(t, ()) for case in cases for t in case.told])
    vocabulary = with_terms(vocabulary, [pair for case in cases for pair in case.synonyms.items()])
    encoded = []
    for number, case in enumerate(cases):
        report("looking at the images", 0.15 * number / len(cases))
        encoded.append(before.encode(case.image))
    # 2. One lesson for the terms that share images.
    groups = group_by_image(cases)
    bookmarks = Bookmarks(project.folder / "training" / "state", _key(project, config, before))
    bookmarks.open()
    ending_s = max(ENDING_S, ENDING_SHARE * clock.seconds)
    rest_s = max(2.0, clock.seconds * (1 - clock.share(0)) - ending_s)
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
            learnt.append(teach(before, sorted(group), members, config, seconds, share_of, own))
        except CantLearn:
            bookmarks.clear()  # the same would come of it again
            raise
        remarks.extend(learnt[-1].remarks)
    held_back = [one for each in learnt for one in each.held_back]
    # 3. A version of its own, then its card, then perhaps to use.
    report("saving", 0.86)
    lessons = _joined(before.lessons, [each.lesson for each in learnt])
    manifest = _manifest(folder, cases, config, started)
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
    project.log("train", version=number, used=is_used, terms=sorted({*terms_of(cases)}))
    with suppress(Cancelled):  # too late: the version is there, and perhaps in use
        report("done", 1.0)
    return Outcome(number, is_used, card)


def _learnt_at(folder: Path) -> str:
    """When a version learnt from corrections, as `Correction.created` says it; or empty."""
    return str(read_manifest(folder).training.get("corrections", {}).get("started", ""))


def _key(project: Project, config: FineTuneConfig, system: SegOne) -> str:
    """What a training that was ended must have in common with one that goes on from it."""
    corrections = [
        (c.id, c.created, c.term, c.image.checksum, c.axis, c.slices, c.patient)
        for c in project.corrections().usable
    ]
    options = replace(config, promote=None)
    facts = repr((__version__, system.checkpoint, corrections, options))
    return hashlib.sha256(facts.encode()).hexdigest()


# --- saving -------------------------------------------------------------------------------------


def _joined(old: Sequence[Lesson], new: Sequence[Lesson]) -> list[Lesson]:
    """The lessons of a version: earlier ones stay unless all of their terms were taught anew."""
    now = {term for lesson in new for term in lesson.config.terms}
    return [lesson for lesson in old if not set(lesson.config.terms) <= now] + list(new)


def _load(folder: Path, config: FineTuneConfig) -> SegOne:
    return SegOne.from_checkpoint("segone", folder, device=config.device, preset="balanced")


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
    folder: Path, cases: Sequence[Case], config: FineTuneConfig, started: datetime
) -> Manifest:
    """What the new checkpoint says of itself: how much was learnt from, but not from whom."""
    parent = read_manifest(folder)
    learnt = {
        "kind": "corrections",
        "images": len(cases),
        "patients": len({case.patient for case in cases}),
        "terms": sorted(terms_of(cases)),
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
