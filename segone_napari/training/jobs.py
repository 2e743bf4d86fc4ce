"""A training on corrections in a process of its own: start, watch, cancel. Knows nothing of Qt.

How a window uses it::

    job = TrainingJob.start(project_folder, JobOptions(minutes=5))
    job.events()            # what has come since the last call; never waits
    job.cancel()            # ends within a step; the version in use stays
    job.is_running
    TrainingJob.running(project_folder)     # one that an earlier window started, or None

The process doesn't end with the window. What it says is kept in ``PROJECT/training/``, so that a
window that comes later can read it. An event is a dict with the key ``event``:

``started``    ``time``, ``pid``, ``job``: a word that no other training has
``progress``   ``stage``, ``share`` 0 to 1, ``seconds_left`` or None; the first share of
               "learning" is high where it goes on from a training that was killed
``done``       ``version``, ``used``, ``card``
``failed``     ``message``: a sentence for a person
``cancelled``
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segone_napari.runtime import BadInput

Event = dict[str, Any]
JOB_VARIABLE = "SEGONE_JOB"
"""Tells a process which job it is."""
PROGRESS = "progress.jsonl"
KEPT_S = 3600.0
"""How long what an ended training leaves beside its events may be of use to whoever started it."""
LAST_EVENTS = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class JobOptions:
    """What a training is told.

    Attributes
    ----------
    minutes : a limit for all of it.
    steps : training steps; None: as many as what was corrected asks for.
    teacher : a SAM2 as a folder or a hub name; empty for the bundled one, None for none.
    promote : None puts a better version to use, True any, False none.
    device, seed : as in `config.SegmentOptions`.
    """

    minutes: float = 5.0
    steps: int | None = None
    teacher: str | None = ""
    promote: bool | None = None
    device: str = "auto"
    seed: int = 0

    def arguments(self) -> list[str]:
        """The same as options of ``segone finetune``."""
        words = ["--minutes", str(self.minutes), "--device", self.device, "--seed", str(self.seed)]
        if self.steps is not None:
            words += ["--steps", str(self.steps)]
        if self.teacher is None:
            words.append("--no-teacher")
        elif self.teacher:
            words += ["--teacher", self.teacher]
        if self.promote is not None:
            words.append("--insist" if self.promote else "--only-measure")
        return words


class TrainingJob:
    """One training of a project, in a process of its own."""

    def __init__(self, project: str | Path) -> None:
        self.folder = Path(project).expanduser().absolute() / "training"
        self._process: subprocess.Popen[bytes] | None = None
        self._name = ""
        self._read = 0
        self._has_ended = False

    @classmethod
    def start(cls, project: str | Path, options: JobOptions | None = None) -> TrainingJob:
        """Start training.

        Raises
        ------
        BadInput
            If a training of this project runs already.
        NotSaved
            If the project's folder can't be written.
        """
        from segone_napari.project.journal import why_not_saved

        if is_training(project):
            raise BadInput(
                "another training of this project is running; wait for it or cancel it first"
            )
        job = cls(project)
        job._name = secrets.token_hex(6)
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            log = job._log.open("wb")
        except OSError as error:
            raise why_not_saved(job.folder, error) from error
        command = [sys.executable, "-m", "segone_napari.cli", "finetune", str(job.folder.parent)]
        with log:
            job._process = subprocess.Popen(
                [*command, *(options or JobOptions()).arguments(), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, JOB_VARIABLE: job._name},
                # a Ctrl-C for the window is none for the training
                start_new_session=True,
            )
        return job

    @classmethod
    def running(cls, project: str | Path) -> TrainingJob | None:
        """The training of a project that runs, whoever started it, or None."""
        return cls(project) if is_training(project) else None

    @property
    def is_running(self) -> bool:
        """Whether it still works."""
        if self._process is not None:
            return self._process.poll() is None
        return is_training(self.folder.parent)

    def events(self) -> list[Event]:
        """What has come since the last call. A process that died says so in the end."""
        was_running = self.is_running  # asked first: what it wrote before it ended is then read
        events = self._new_events()
        self._has_ended |= any(event["event"] in LAST_EVENTS for event in events)
        if not was_running and not self._has_ended:
            self._has_ended = True
            events.append({"event": "failed", "message": self._last_words()})
        return events

    def wait(self, timeout_s: float | None = None) -> list[Event]:
        """Wait until it ends, or for so long, and return the events since the last call."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self.is_running and (until is None or time.monotonic() < until):
            time.sleep(0.05)
        return self.events()

    def _new_events(self) -> list[Event]:
        """What was written since the last call, by this training and by no other."""
        data = _bytes_of(self.folder / PROGRESS)
        data = data[: data.rfind(b"\n") + 1]
        name = _job_in(data)
        if name != self._name:
            if self._process is not None:
                return []  # an earlier training's
            self._name, self._read = name, 0
        first, self._read = self._read, len(data)
        return _events_in(data[first:])

    @property
    def _log(self) -> Path:
        return self.folder / f"worker-{self._name}.log"

    def cancel(self) -> None:
        """Ask it to end, which it does within a step. Returns at once."""
        if self.is_running:
            (self.folder / f"cancel-{self._name or _name_of_running(self.folder)}").touch()

    def kill(self) -> None:
        """End it at once, as a crash would. Nothing that was saved is lost."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        code = None if self._process is None else self._process.poll()
        said = _bytes_of(self._log).decode(errors="replace").strip().splitlines()
        own = [line for line in said if line.startswith("segone: ")]
        if own:
            return own[-1].removeprefix("segone: ")
        is_killed = not said if code is None else code < 0
        if is_killed:
            return (
                "the training was ended from outside, perhaps for want of memory; the version in "
                "use stays; train again, and it goes on from there"
            )
        return f"the training ended without a word; see {self._log}, then train again"


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _name_of_running(folder: Path) -> str:
    """Which job wrote the events of a ``training`` folder; empty where none has begun."""
    data = _bytes_of(folder / PROGRESS)
    return _job_in(data[: data.rfind(b"\n") + 1])


def _job_in(lines: bytes) -> str:
    return next((str(e["job"]) for e in _events_in(lines) if e["event"] == "started"), "")


def _events_in(lines: bytes) -> list[Event]:
    """The events that can be read; a line was torn where the disk was full for a moment."""
    events = []
    for line in lines.splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


def is_training(project: str | Path) -> bool:
    """Whether a training of this project runs."""
    lock = Path(project).expanduser().absolute() / "training" / "lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


class Chronicle:
    """Writes the events of a training into its project, and asks whether it was cancelled."""

    def __init__(self, project: Path, tell: Callable[[Event], None] = lambda event: None) -> None:
        self.folder = project / "training"
        self.job = os.environ.get(JOB_VARIABLE, "") or secrets.token_hex(6)
        self._tell = tell
        self._has_begun = False
        self._unwritten = b""
        self._last = (-1.0, "")
        self._learning_from: tuple[float, float] | None = None

    def begin(self) -> None:
        """Say that it has started, once no other training of the project can run."""
        with suppress(OSError):
            for old in (*self.folder.glob("worker-*.log"), *self.folder.glob("cancel-*")):
                if old.stat().st_mtime < time.time() - KEPT_S:
                    old.unlink()
            (self.folder / PROGRESS).unlink(missing_ok=True)
        self._has_begun = True
        self.write({"event": "started", "time": time.time(), "pid": os.getpid(), "job": self.job})

    def progress(self, stage: str, share: float) -> None:
        """Say how far it is; not more often than is of use. Raises `Cancelled` when asked to."""
        from segone_napari.runtime import Cancelled

        if (self.folder / f"cancel-{self.job}").exists():
            raise Cancelled
        if stage == self._last[1] and share - self._last[0] < 0.01:
            return
        self._last = share, stage
        if stage == "learning" and self._learning_from is None:
            self._learning_from = share, time.monotonic()
        left_s = self._seconds_left(share)
        self.write(
            {"event": "progress", "stage": stage, "share": round(share, 4), "seconds_left": left_s}
        )

    def _seconds_left(self, share: float) -> float | None:
        """By the pace since learning began, which is not at 0 where an earlier one goes on."""
        if self._learning_from is None:
            return None
        first, since = self._learning_from
        if share < first + 0.01:
            return None
        return round((time.monotonic() - since) * (1 - share) / (share - first), 1)

    def write(self, event: Event) -> None:
        """Add an event. A disk that is full doesn't end the training: events wait until it isn't.

        Before it began the events in the folder are another training's.
        """
        from segone_napari.project.journal import append_lines

        self._tell(event)
        if not self._has_begun:
            return
        self._unwritten += json.dumps(event).encode() + b"\n"
        with suppress(OSError):
            append_lines(self.folder / PROGRESS, self._unwritten)
            self._unwritten = b""


def follow(job: TrainingJob, every_s: float = 0.2) -> Iterator[Event]:
    """The events of a job as they come, until it ends."""
    while True:
        events = job.events()
        yield from events
        if any(event["event"] in LAST_EVENTS for event in events):
            return
        time.sleep(every_s)
