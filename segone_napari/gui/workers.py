"""Does the work off the GUI thread: one thread, one request after the other.

A request carries values only, never layers or widgets; what comes of it is told by signals that
carry the request's number and arrive on the GUI thread. Knows nothing of napari's viewer.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

import psutil
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]

from segone_napari.gui import garbage
from segone_napari.gui.doubt import doubt_of
from segone_napari.gui.layers import LayerImage, answer
from segone_napari.gui.troubles import gpu_trouble, in_words
from segone_napari.runtime import (
    Cancelled,
    Progress,
    SegOneError,
    choose_device,
    no_progress,
)
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

REPORT_EVERY_S = 0.05
LOADING = "Loading the model …"
NICENESS = 5
"""Priority of the work on Linux, as `nice` counts it."""

MakeSession = Callable[[str, str], "Segmenter"]
"""Makes what answers, from the names of a preset and a device."""


def give_way() -> None:
    """Let this thread, and those that it starts, wait where the window needs the processor."""
    if sys.platform == "linux":  # elsewhere a thread has no priority that can be set so
        thread = threading.get_native_id()
        with suppress(OSError):
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, max(own, NICENESS))


class Segmenter(Protocol):
    """The part of a session that the widget needs."""

    def segment(
        self, image: Volume, prompts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[Result]:
        """Answer each prompt for the whole volume."""
        ...

    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        """Answer each prompt for one slice, quickly."""
        ...

    def forget(self, image: Volume | None = None) -> None:
        """Give the memory of an image back."""
        ...

    def reload(self) -> None:
        """Answer with the version of the model that the person chose by now."""
        ...

    def recall(self, image: Volume) -> None:
        """Look again at what a person corrected in an image."""
        ...


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes
    ----------
    number : counts up; only the newest request's answers are shown.
    image : what to outline on.
    prompts : one phrase each.
    preset : "fast", "balanced" or "best".
    plane : array axis and index of the slice on screen, to be answered first; or None.
    """

    number: int
    image: LayerImage
    prompts: tuple[str, ...]
    preset: str
    plane: tuple[int, int] | None = None


class Engine(QObject):  # type: ignore[misc, unused-ignore]
    """Runs requests in a thread of its own and tells what comes of them.

    Signals (the first value is always the request's number)
    --------------------------------------------------------
    started : the words for what is being done.
    previewed : list of `Answer` for the slice on screen.
    progressed : steps done, steps in all.
    answered : list of `Answer`, in the order of the prompts, and their `Doubt` or None.
    warned : a sentence about the image that a person must see.
    failed : the exception.
    device_known : (no number) where the work runs and its memory, such as "GPU 3.1/8 GB".
    """

    started = Signal(int, str)
    previewed = Signal(int, object)
    progressed = Signal(int, int, int)
    answered = Signal(int, object, object)
    warned = Signal(int, str)
    failed = Signal(int, object)
    device_known = Signal(str)

    def __init__(self, make_session: MakeSession, parent: QObject | None = None):
        super().__init__(parent)
        self.checkpoint = ""  # what answered last
        self._make_session = make_session
        self._session: Segmenter | None = None
        self._preset: str | None = None
        self._device = "auto"
        self._seen: WeakSet[Volume] = WeakSet()
        self._results: WeakKeyDictionary[Volume, dict[str, Result]] = WeakKeyDictionary()
        self._current = 0
        self._is_preparing = False
        self._has_answered = False
        self._is_stopped = False
        self._thread = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="segone", initializer=give_way
        )

    def ask(self, request: Request) -> None:
        """Queue a request; whatever ran before is cancelled."""
        self._current = request.number
        if self._is_preparing:
            self._tell(self.started, request.number, LOADING)
        self._thread.submit(self._run, request)

    def cancel(self) -> None:
        """Stop at the next step. Nothing more is told about the request."""
        self._current = -1

    def forget(self, image: LayerImage) -> None:
        """Give the memory of an image back, after what runs now."""
        if not self._is_stopped:
            self._thread.submit(self._forget, image)

    def reload(self) -> None:
        """Answer with the version of the model that the person chose by now, after what runs."""
        if not self._is_stopped:
            self._thread.submit(self._reload)

    def recall(self, image: LayerImage) -> None:
        """Look again at what a person corrected in an image, after what runs now."""
        if not self._is_stopped:
            self._thread.submit(self._recall, image)

    def find_device(self) -> None:
        """Find out where the work will run, and load the libraries meanwhile."""
        self._thread.submit(self._find_device)

    def prepare(self, preset: str) -> None:
        """Load the model before it is asked, once; what goes wrong is told when it is."""
        if self._session is None and not self._is_preparing and not self._is_stopped:
            self._is_preparing = True
            self._thread.submit(self._prepare, preset)

    def stop(self) -> None:
        """Cancel, end the thread as soon as it notices, and let the model go."""
        self.cancel()
        self._is_stopped = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._session = None
        self._results.clear()

    def _run(self, request: Request) -> None:
        try:
            trouble = self._trouble_answering(request)
            if trouble is not None:
                # 1. What the GPU holds is let go with the session before the CPU begins anew.
                self._session, self._device = None, "cpu"
                gc.collect()
                # 2. It is said, and stays said.
                self._tell(self.warned, request.number, trouble)
                self._tell_device()
                self._answer(request)
        except Cancelled:
            return
        except Exception as error:  # whatever went wrong is told, and the program goes on
            self._tell(self.failed, request.number, in_words(error, request.image, request.preset))

    def _trouble_answering(self, request: Request) -> str | None:
        """Answer, and return None; or say why the GPU, which can run full or be gone, could not.

        The error ends here: its frames would hold on to what is on the GPU.
        """
        try:
            self._answer(request)
        except Exception as error:
            trouble = gpu_trouble(error)
            if trouble is None or self._device == "cpu":
                raise
            return trouble
        return None

    def _answer(self, request: Request) -> None:
        self._check(request.number)
        session = self._session_for(request)
        self._preview(session, request)
        self._segment(session, request)
        if not self._has_answered:
            self._has_answered = True
            garbage.spare()

    def _session_for(self, request: Request) -> Segmenter:
        if self._session is None or self._preset != request.preset:
            self._tell(self.started, request.number, LOADING)
            session = self._load(request.preset)
            self._check(request.number)
            return session
        return self._session

    def _load(self, preset: str) -> Segmenter:
        self._session, self._preset = None, None
        with garbage.while_loading():
            session = self._make_session(preset, self._device)
            getattr(session, "system", None)  # a session loads the model when it is asked for
        self._session, self._preset = session, preset
        self._seen = WeakSet()
        return session

    def _prepare(self, preset: str) -> None:
        try:
            if self._session is None:
                self._load(preset)
        except Exception:  # it is told when the model is asked
            self._session = None
        finally:
            self._is_preparing = False
            if self._is_stopped:
                self._session = None

    def _preview(self, session: Segmenter, request: Request) -> None:
        if request.plane is None:
            return
        self._tell(self.started, request.number, "Outlining the slice on screen …")
        axis, index = request.plane
        results = session.preview(
            request.image.volume,
            request.prompts,
            axis,
            index,
            progress=lambda done, total: self._check(request.number),
        )
        self._check(request.number)
        answers = [answer(request.image, result) for result in results]
        self._tell(self.previewed, request.number, answers)

    def _segment(self, session: Segmenter, request: Request) -> None:
        volume = request.image.volume
        is_new = volume not in self._seen
        for warning in volume.warnings[len(request.image.warnings) :] if is_new else ():
            self._tell(self.warned, request.number, warning)
        self._tell(
            self.started,
            request.number,
            "Looking at this image for the first time …"
            if is_new
            else f"Outlining {'; '.join(request.prompts)} …",
        )
        results = session.segment(
            volume, request.prompts, progress=Reporter(partial(self._report, request.number))
        )
        self._seen.add(volume)
        self._check(request.number)
        self.checkpoint = str(getattr(getattr(session, "system", None), "checkpoint", ""))
        answers = [answer(request.image, result) for result in results]
        known = self._results.setdefault(volume, {})
        known.update({result.resolved or result.prompt: result for result in results})
        doubt = doubt_of(list(known.values()), request.image)
        self._tell(self.answered, request.number, answers, doubt)
        self._tell_device()

    def _report(self, number: int, done: int, total: int, is_due: bool) -> None:
        self._check(number)
        if is_due:
            self._tell(self.progressed, number, done, total)

    def _check(self, number: int) -> None:
        if number != self._current:
            raise Cancelled

    def _forget(self, image: LayerImage) -> None:
        # An image that was never loaded was never encoded either.
        if self._session is not None and "volume" in vars(image):
            self._results.pop(image.volume, None)
            self._session.forget(image.volume)

    def _reload(self) -> None:
        self._results.clear()
        if self._session is None:
            return
        try:
            self._session.reload()
        except Exception:  # a version that can't be loaded is told when it is next asked
            self._session = None

    def _recall(self, image: LayerImage) -> None:
        if self._session is not None and "volume" in vars(image) and image.volume in self._seen:
            self._results.pop(image.volume, None)
            with suppress(SegOneError):  # told when the image is next asked about
                self._session.recall(image.volume)

    def _find_device(self) -> None:
        with garbage.while_loading():
            choose_device("auto")  # loads torch
        self._tell_device()

    def _tell_device(self) -> None:
        """Say where the work runs, and how much of its memory is in use."""
        name = {"cpu": "CPU (the GPU failed)"}.get(self._device, "")
        with suppress(RuntimeError):  # a GPU that is gone is told when it is next asked
            self._tell(self.device_known, device_words(choose_device(self._device).type, name))

    def _tell(self, signal: Signal, *values: object) -> None:
        if self._is_stopped:
            return
        try:
            signal.emit(*values)
        except RuntimeError:  # the window was closed, and Qt's half of this object with it
            self._is_stopped = True


class Reporter:
    """A progress callback: asks about cancelling at every step, tells a few times a second."""

    def __init__(self, report: Callable[[int, int, bool], None]):
        self._report = report
        self._told_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Pass it on, with whether it is time to tell a person."""
        now = time.monotonic()
        is_due = now - self._told_s >= REPORT_EVERY_S or done >= total
        if is_due:
            self._told_s = now
        self._report(done, total, is_due)


def device_words(kind: str, name: str = "") -> str:
    """Where the work runs, with the memory in use and all there is: "GPU 3.1/8 GB".

    On the CPU and on Apple's GPUs, which have the computer's own, it is what this program uses.
    """
    name = name or {"cpu": "CPU"}.get(kind, "GPU")
    if kind == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        used = total - free
    else:
        used, total = psutil.Process().memory_info().rss, psutil.virtual_memory().total
    return f"{name}\u00a0{used / 2**30:.1f}/{total / 2**30:.0f}\u00a0GB"  # stays on one line
