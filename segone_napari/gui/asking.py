"""One question at a time: from prompts to rows and masks of the image that was asked about.

An answer is shown only if its number is that of the question asked last, and its image is still
there, unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]

from segone_napari.gui import layers
from segone_napari.gui.corrected import is_to_keep
from segone_napari.gui.doubt import Doubt, doubt_of
from segone_napari.gui.form import Progress
from segone_napari.gui.imagework import Entry, ImageWork
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.layers import Answer
from segone_napari.gui.openimage import OpenImage
from segone_napari.gui.rows import Row, Rows, Shown
from segone_napari.gui.turns import Turns
from segone_napari.gui.workers import Engine, Request
from segone_napari.project import EditHistory
from segone_napari.project import Row as Structure
from segone_napari.systems.base import Result


@dataclass(eq=False)
class Question:
    """What was asked last, and what of it is on screen.

    Attributes
    ----------
    number : of its request.
    preset, checkpoint : how it is answered, and by what weights.
    typed : the prompts as a person typed them.
    refused : what the image has no row for, as long as this has no answer.
    rows : that wait for their answers, in the order of the prompts.
    unfinished : layers that show one slice only.
    then : what to do once the work on the image is open, where the answer came before.
    """

    number: int
    image: OpenImage
    preset: str = ""
    checkpoint: str = ""
    typed: str = ""
    refused: list[Shown] = field(default_factory=list)
    asked_s: float = field(default_factory=time.monotonic)
    rows: list[Row] = field(default_factory=list)
    unfinished: list[Labels] = field(default_factory=list)
    then: Callable[[], None] | None = None


class Asking(QObject):  # type: ignore[misc, unused-ignore]
    """Asks the engine, and puts what it says where it belongs.

    Signals
    -------
    changed : a question was begun, or is over: answered, cancelled or failed.
    waits : an answer is there, but the earlier work on its image isn't open yet.
    told : words for the person about what is happening.
    failed : an error for the person.
    """

    changed = Signal()
    waits = Signal()
    told = Signal(str)
    failed = Signal(object)

    def __init__(
        self,
        viewer: Any,
        engine: Engine,
        keeper: Keeper,
        turns: Turns,
        rows: Rows,
        progress: Progress,
        parent: QObject | None = None,
    ):
        super().__init__(parent)
        self._viewer = viewer
        self._engine = engine
        self._keeper = keeper
        self._turns = turns
        self._rows = rows
        self._progress = progress
        self._number = 0
        self._question: Question | None = None
        engine.started.connect(self._on_started)
        engine.previewed.connect(self._on_previewed)
        engine.progressed.connect(self._on_progressed)
        engine.answered.connect(self._on_answered)
        engine.warned.connect(self._on_warned)
        engine.failed.connect(self._on_failed)

    @property
    def is_working(self) -> bool:
        """Whether an answer is awaited."""
        return self._question is not None

    def asked_of_another(self, layer: Any) -> str:
        """What was asked about another image than this layer's, and has no answer yet; or ""."""
        question = self._question
        if question is None or question.image.layer is layer or not question.typed:
            return ""
        return f"“{question.typed}” on {question.image.values.name}"

    @property
    def waiting(self) -> list[Row]:
        """The rows that wait for their answers."""
        return [] if self._question is None else self._question.rows

    def ask(self, image: OpenImage, prompts: Sequence[str], preset: str, typed: str) -> None:
        """Ask about an image; what was asked before comes to nothing.

        `typed` are the prompts in the person's own words: kept with the rows that come of them.
        """
        question = self._begin(image, preset)
        question.typed = typed
        image.refused = []
        image.kept.clear()
        question.rows = [self._rows.add(prompt) for prompt in prompts]
        self.changed.emit()
        values = image.values
        plane = layers.slice_on_screen(self._viewer, image.layer)
        stored = values.layout.stored_plane(*plane, values.data.shape) if plane else None
        self._engine.ask(Request(question.number, values, tuple(prompts), preset, stored))

    def show(self, image: OpenImage, results: Sequence[Result], checkpoint: str) -> None:
        """Show results that were computed elsewhere, as if they had been asked for."""
        question, values = self._begin(image), image.values
        question.checkpoint = checkpoint
        self.changed.emit()

        def prepare() -> tuple[list[Answer], Doubt | None]:
            return [layers.answer(values, one) for one in results], doubt_of(results, values)

        number = question.number
        self._keeper.run(
            prepare,
            lambda ready: self._on_answered(number, *ready),
            partial(self._on_failed, number),
        )

    def stop(self) -> None:
        """Let nothing more come of what was asked, and take away what is half done."""
        self._engine.cancel()
        question, self._question = self._question, None
        if question is not None:
            unfinished, question.unfinished = question.unfinished, []
            self._turns.remove(unfinished)
            for row in question.rows:
                self._rows.remove(row)
            question.image.refused = question.refused
        self.changed.emit()

    def on_layer_removed(self, layer: Any) -> None:
        """Follow a person who deleted a layer that shows one slice only."""
        if self._question is not None and layer in self._question.unfinished:
            self._question.unfinished.remove(layer)

    def on_image_gone(self, image: OpenImage) -> None:
        """Let nothing come of a question about an image that was closed or has changed."""
        if self._question is not None and self._question.image is image:
            self.stop()

    def is_waiting_for(self, image: OpenImage) -> bool:
        """Whether an answer is there that waits for the work on this image."""
        question = self._question
        return question is not None and question.image is image and question.then is not None

    def on_work_opened(self, image: OpenImage) -> Callable[[], None] | None:
        """Drop first slices whose rows were there before; return what waited for the work."""
        question = self._question
        if question is None or question.image is not image or image.work is None:
            return None
        names = {row.name for row in image.work.rows}
        known = [one for one in question.unfinished if one.metadata["segone_name"] in names]
        question.unfinished = [one for one in question.unfinished if one not in known]
        self._turns.remove(known)
        then, question.then = question.then, None
        return then

    def _begin(self, image: OpenImage, preset: str = "") -> Question:
        self.stop()
        self._number += 1
        self._question = Question(self._number, image, preset, refused=image.refused)
        return self._question

    def _asked(self, number: int) -> Question | None:
        """The question of this number, if it is still the one that matters."""
        question = self._question
        return question if question is not None and question.number == number else None

    # What the engine says ------------------------------------------------------------------

    def _on_started(self, number: int, words: str) -> None:
        if self._asked(number):
            self.told.emit(words)

    def _on_progressed(self, number: int, done: int, total: int) -> None:
        if self._asked(number):
            self._progress.show_step(done, total)

    def _on_warned(self, number: int, words: str) -> None:
        if self._asked(number):
            show_warning(words)

    def _on_failed(self, number: int, error: Exception) -> None:
        if self._asked(number):
            self.stop()
            self.failed.emit(error)

    def _on_previewed(self, number: int, answers: list[Answer]) -> None:
        question = self._asked(number)
        if question is None:
            return
        image, work = question.image.layer, question.image.work
        for row, shown in zip(question.rows, answers, strict=False):
            result = shown.result
            row.show_preview(shown.name, result.colour if result.found else None)
            names = {layer.metadata["segone_name"] for layer in question.unfinished}
            is_there = work is not None and work.row_named(shown.name) is not None
            if result.found and not is_there and shown.name not in names:
                layer = layers.labels_layer(image, shown.name, result.colour, shown.mask)
                layer.editable = False  # what is painted now would be lost a moment later
                question.unfinished.append(layer)
                self._turns.add(layer)

    def _on_answered(self, number: int, answers: list[Answer], doubt: Doubt | None) -> None:
        question = self._asked(number)
        if question is None:
            return
        question.checkpoint = question.checkpoint or self._engine.checkpoint
        take = partial(self._take, number, answers, doubt)
        if question.image.work is not None:
            take()
        else:
            question.then = take
            self.waits.emit()

    # What becomes of it --------------------------------------------------------------------

    def _take(self, number: int, answers: list[Answer], doubt: Doubt | None) -> None:
        """Put answers into the rows; what a person has accepted or corrected stays as it is."""
        question = self._asked(number)
        if question is None or question.image.work is None:
            return
        work, sorting = question.image.work, _Sorting(question, answers)
        if question.image.review is not None:
            question.image.review.set_doubt(doubt)
        for layer in question.unfinished:  # what isn't there by now comes as a whole
            if layer not in self._viewer.layers:
                self._turns.never_mind(layer)

        def decide(history: EditHistory) -> list[Entry]:
            if not self._asked(number):
                return []  # cancelled meanwhile
            entries = sorting.entries(history)
            if entries and question.typed:  # what comes to nothing is no work to go on with
                history.add_prompt(question.typed)
            return entries

        work.put(
            decide,
            lambda: {layer.metadata["segone_name"]: layer for layer in question.unfinished},
            partial(self._finish, number, sorting),
            done=partial(self._on_put, question, work, sorting),
            failed=partial(self._on_failed, number),
        )

    def _on_put(self, question: Question, work: ImageWork, sorting: _Sorting) -> None:
        """The rows are there, whatever becomes of the question while their layers come."""
        if not sorting.is_done:
            return
        image = question.image
        # What the whole volume doesn't show although one slice seemed to goes away in the end.
        question.unfinished = [one for one in question.unfinished if work.row_of(one) is None]
        image.refused = question.refused = sorting.refused
        image.kept = image.kept | sorting.kept
        for name in sorting.accepted:
            show_info(f"{name} is accepted and was kept as it is; unlock it to replace it")
        work.keep_warnings({shown.name: shown.result.warnings for shown in sorting.found})
        for shown in sorting.found:
            for warning in shown.result.warnings:
                show_warning(f"{shown.name}: {warning}")

    def _finish(self, number: int, sorting: _Sorting) -> None:
        question = self._asked(number)
        if question is not None:
            self.stop()
            self._bring_into_view(question.image, sorting.found)
            self.told.emit(_summary(sorting, time.monotonic() - question.asked_s))

    def _bring_into_view(self, image: OpenImage, found: list[Answer]) -> None:
        """Go to the first outline if none of them can be seen on the slice on screen."""
        plane = layers.slice_on_screen(self._viewer, image.layer) if found else None
        if plane is None:
            return
        if not any(layers.plane_of(shown.mask, *plane).any() for shown in found):
            largest = layers.largest_slices(found[0].mask)
            layers.show_slice(self._viewer, image.layer, largest)


class _Sorting:
    """Where the answers to a question belong.

    Attributes
    ----------
    answers : the newest of each name.
    refused : what is not there and gets no row.
    kept : by row, what waits because the row was corrected by hand.
    accepted : names of rows that are locked.
    is_done : whether it was sorted, which a question that was cancelled never is.
    """

    def __init__(self, question: Question, answers: Sequence[Answer]) -> None:
        self.answers = list({answer.name: answer for answer in answers}.values())
        self.refused: list[Shown] = []
        self.kept: dict[int, Entry] = {}
        self.accepted: list[str] = []
        self.is_done = False
        self._preset, self._checkpoint = question.preset, question.checkpoint

    @property
    def found(self) -> list[Answer]:
        """The answers that show something."""
        return [answer for answer in self.answers if answer.result.found]

    def entries(self, history: EditHistory) -> list[Entry]:
        """What changes rows, as they are now; the rest is sorted into the attributes."""
        self.is_done = True
        made = (self._entry(history, answer) for answer in self.answers)
        return [entry for entry in made if entry is not None]

    def _entry(self, history: EditHistory, shown: Answer) -> Entry | None:
        result = shown.result
        row = next((row for row in history.rows if row.name == shown.name), None)
        structure = Structure(
            result.prompt,
            shown.name,
            result.side,
            result.colour,
            "draft" if result.found else "not found",
            result.confidence,
            self._checkpoint,
            0 if row is None else row.id,
            self._preset,
        )
        entry = structure, shown.stored
        if row is None and not result.found and not shown.stored.any():
            self.refused.append(_refusal(result))
        elif row is None:
            return entry
        elif row.state == "accepted":
            self.accepted.append(row.name)
        elif row.state == "draft" and is_to_keep(history, row.id):
            if result.found:
                self.kept[row.id] = entry
        elif row != structure or not np.array_equal(history.masks[row.id], shown.stored):
            return entry  # an undo that changes nothing would be puzzling
        return None


def _refusal(result: Result) -> Shown:
    return Shown(
        result.resolved or result.prompt,
        result.prompt,
        "not found",
        confidence=result.confidence,
        warnings=result.warnings,
        suggestions=result.suggestions,
    )


def _summary(sorting: _Sorting, seconds: float) -> str:
    asked, found = len(sorting.answers), len(sorting.found)
    what = "Found" if found == asked == 1 else f"{found} of {asked} found"
    kept = len(sorting.accepted) + len(sorting.kept)
    yours = "; yours was kept" if asked == kept == 1 else f"; {kept} of yours kept" if kept else ""
    return f"{what} in {seconds:.1f} s{yours}"
