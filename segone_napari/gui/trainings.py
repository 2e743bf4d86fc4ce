"""Beginning and ending a training in a project's folder, and choosing the version that answers.

All of it touches the disk, so it belongs in a worker; it touches no widget.

A training's outcome is told once: what was decided, or told, is noted beside its progress, in
``PROJECT/training/settled.json``, by the time at which the training started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.gui import corrected
from segone_napari.gui.card import Card, read_card
from segone_napari.gui.corrected import Source
from segone_napari.gui.prompt import names_to_offer
from segone_napari.project.journal import write_whole
from segone_napari.project.versions import Versions
from segone_napari.runtime import SegOneError
from segone_napari.training.jobs import LAST_EVENTS, Event, JobOptions, TrainingJob

STAYS = "The version in use stays"


@dataclass(frozen=True, eq=False)
class Ended:
    """What came of a training.

    Attributes
    ----------
    card : of a version that waits for a decision; None where there is nothing to decide.
    words : a sentence; empty for a card.
    is_problem : whether it went wrong.
    """

    card: Card | None = None
    words: str = ""
    is_problem: bool = False


@dataclass(frozen=True, eq=False)
class Started:
    """A training that runs, and the images whose corrections were kept before."""

    job: TrainingJob
    kept: tuple[Source, ...]
    was_running: bool


@dataclass(frozen=True)
class Standing:
    """The number of the version that answers, and the names that it knows."""

    number: int
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Found:
    """What an earlier window left: a training that runs or has ended, if there is one."""

    standing: Standing
    job: TrainingJob | None = None
    ended: Ended | None = None


def start(
    folder: Path,
    sources: Sequence[Source],
    synonyms: Mapping[str, Sequence[str]],
    options: JobOptions,
) -> Started:
    """Keep what was corrected in open images, then train, or join a training that runs.

    Raises
    ------
    BadInput
        If the project's folder can't be used, or another word for a term names something else.
    NotSaved
        If the disk refuses.
    """
    corrected.check_synonyms(folder, sources, synonyms)
    kept = tuple(one for one in sources if corrected.keep(folder, one, synonyms))
    corrected.keep_synonyms(folder, synonyms)
    running = TrainingJob.running(folder)
    if running is not None:
        return Started(running, kept, was_running=True)
    return Started(TrainingJob.start(folder, options), kept, was_running=False)


def keep_if_possible(folder: Path, source: Source, synonyms: Mapping[str, Sequence[str]]) -> None:
    """Keep corrections of an image that is closed; that a folder can't be used is told before."""
    with suppress(SegOneError, OSError):
        corrected.keep(folder, source, synonyms)


def look(folder: Path) -> Found:
    """What an earlier window left, or another one does right now."""
    standing = standing_of(folder)
    job = TrainingJob.running(folder)
    if job is not None:
        return Found(standing, job)
    if not (folder / "training" / "progress.jsonl").exists():
        return Found(standing)
    events = TrainingJob(folder).events()
    last = next((event for event in events if event["event"] in LAST_EVENTS), None)
    if last is None or _is_settled(folder):
        return Found(standing)
    ended = outcome(folder, last, is_cancelled=False)
    return Found(standing, ended=ended if ended.card or ended.is_problem else None)


def outcome(folder: Path, last: Event, *, is_cancelled: bool) -> Ended:
    """What to say of a training's last event; all but a card is settled with it."""
    if last["event"] == "done":
        number, versions = int(last["version"]), Versions(folder)
        is_open = number in versions.numbers() and not last["used"]
        if is_open and not is_cancelled:
            return Ended(read_card(number, last["card"], versions.pictures_of(number)))
        if is_open:
            versions.remove(number)
    _settle(folder)
    if last["event"] == "done" and not is_cancelled:
        return Ended(words=f"A training has ended; version {number} was decided on elsewhere.")
    if last["event"] == "failed" and not is_cancelled:
        words = str(last["message"]).rstrip(".")
        stays = "" if "version in use stays" in words else f" {STAYS}."
        return Ended(words=f"Nothing was learnt: {words}.{stays}", is_problem=True)
    return Ended(words=f"Training was cancelled. {STAYS}.")


def kill(folder: Path, job: TrainingJob, pid: int | None) -> None:
    """End a training at once, also one that another window began."""
    job.kill()
    if pid is None or not job.is_running:
        return
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if str(folder) in process.cmdline():  # the number may be another program's by now
            process.kill()


def accept(folder: Path, number: int) -> Standing:
    """Let a version that waited for it answer from now on. Raises as `Versions.use`."""
    Versions(folder).use(number)
    _settle(folder)
    return standing_of(folder)


def reject(folder: Path, number: int) -> Standing:
    """Throw a version away that waited for a decision. Raises as `Versions.remove`."""
    Versions(folder).remove(number)
    _settle(folder)
    return standing_of(folder)


def go_to(folder: Path, number: int) -> Standing:
    """Let any version answer from now on. Raises as `Versions.use`."""
    Versions(folder).use(number)
    return standing_of(folder)


def take_in(folder: Path, file: Path) -> int:
    """Import a version, and return its number. Raises as `Versions.import_from`."""
    from segone_napari.training.learning_cli import import_version

    return import_version(Versions(folder), file)


def standing_of(folder: Path) -> Standing:
    """Which version answers. One that is damaged still answers, with a sentence, when asked."""
    versions = Versions(folder)
    number = versions.used()
    vocabulary = Vocabulary.packaged()
    own = versions.folder_of(number)
    if own is not None:
        with suppress(SegOneError, OSError, ValueError):
            vocabulary = Vocabulary.load(own / "vocabulary.json").brought_up_to_date()
    return Standing(number, tuple(names_to_offer(vocabulary)))


def _settle(folder: Path) -> None:
    with suppress(OSError):  # then it is told once more at the next start
        content = json.dumps({"started": _started_at(folder)}).encode()
        write_whole(folder / "training" / "settled.json", content)


def _is_settled(folder: Path) -> bool:
    try:
        settled = json.loads((folder / "training" / "settled.json").read_bytes())
        return bool(settled["started"] == _started_at(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _started_at(folder: Path) -> float | None:
    try:
        with (folder / "training" / "progress.jsonl").open("rb") as stream:
            return float(json.loads(stream.readline())["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
