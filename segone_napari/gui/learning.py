"""Learning from corrections in the window: what is learnt from, the training, its outcome.

It keeps corrections in the project's folder, starts the training in a process of its own
(`training.jobs`), asks it a few times a second how far it is, and shows what came of it. The
person decides which version answers. Whatever touches the disk
(`gui.trainings`, `gui.corrected`) happens in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QWidget

from segone_napari.gui import trainings
from segone_napari.gui.card import Card, CardWindow
from segone_napari.gui.controls import left_in_words, open_alone
from segone_napari.gui.corrected import Counter, Lore, Source
from segone_napari.gui.improve import MOST_MINUTES, ImprovePanel
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.preferences import Preferences
from segone_napari.gui.trainings import Ended
from segone_napari.gui.troubles import as_sentence
from segone_napari.gui.versions import VersionsWindow, read_versions
from segone_napari.project.versions import Versions
from segone_napari.training.jobs import LAST_EVENTS, Event, JobOptions, TrainingJob

COUNT_AFTER_MS = 600
ASK_EVERY_MS = 300
KILL_AFTER_MS = 1200
"""How long a training that was cancelled may take to end by itself."""
USUAL_MINUTES = 5


class Learning(QObject):  # type: ignore[misc, unused-ignore]
    """What stands behind the section "Improve the model".

    Parameters
    ----------
    folder : the project's.
    sources : gives the images that are open, with the work on them.

    Signals
    -------
    told : words for the status line.
    failed : an error for the person.
    kept : an image (`LayerImage`) has corrections that the project didn't know before.
    version_changed : another version answers from now on.
    names_known : the names that may be asked for, to be offered while typing.
    """

    told = Signal(str)
    failed = Signal(object)
    kept = Signal(object)
    version_changed = Signal()
    names_known = Signal(object)

    def __init__(
        self,
        folder: Path,
        preferences: Preferences,
        sources: Callable[[], Sequence[Source]],
        parent: QWidget,
    ):
        super().__init__(parent)
        self._folder = folder.expanduser().absolute()
        self._preferences = preferences
        self._sources = sources
        self._window = parent
        self._keeper = Keeper("segone-learning", self)
        self._counter = Counter()
        self._job: TrainingJob | None = None
        self._pid: int | None = None  # of the training, once it has said so
        self._is_busy = False  # from the click until the training has ended
        self._is_asking = False
        self._is_cancelling = False
        self._card: Card | None = None
        self._synonyms: dict[str, str] = {}
        self.panel = ImprovePanel(_minutes(preferences))
        self._count_soon = _timer(self, COUNT_AFTER_MS, self._count, is_single=True)
        self._ask_soon = _timer(self, ASK_EVERY_MS, self._ask)
        self._connect()
        self._keeper.run(partial(trainings.look, self._folder), self._on_looked, self._on_problem)
        self.refresh()

    def _connect(self) -> None:
        panel = self.panel
        panel.train.connect(self.train)
        panel.cancel.connect(self.cancel)
        panel.decided.connect(self.decide)
        panel.look_at_card.connect(self._show_card)
        panel.versions_wanted.connect(self._show_versions)
        panel.synonyms_typed.connect(self._on_synonyms)
        panel.opened.connect(lambda is_open: self._preferences.set_flag("improve_open", is_open))

    def refresh(self) -> None:
        """Count anew what can be learnt from, once nothing has happened for a moment."""
        self._count_soon.start()

    def keep(self, source: Source) -> None:
        """Keep what the work on an image says, before it is closed."""
        self._keep([source])
        self.refresh()

    def stop(self, sources: Iterable[Source]) -> None:
        """Keep what was corrected and end; a training goes on. Touches nothing of Qt's."""
        self._keep(sources)
        self._keeper.stop()

    def _keep(self, sources: Iterable[Source]) -> None:
        synonyms = _as_words(self._synonyms)
        for source in sources:
            self._keeper.run(partial(trainings.keep_if_possible, self._folder, source, synonyms))

    # What there is to learn from -----------------------------------------------------------

    def _count(self) -> None:
        sources = tuple(self._sources())
        count = partial(self._counter.count, self._folder, sources)
        self._keeper.run(count, self._on_counted, self._on_problem)

    def _on_counted(self, lore: Lore) -> None:
        self.panel.show_lore(lore, self._synonyms)

    def _on_synonyms(self, term: str, words: str) -> None:
        self._synonyms[term] = words

    # A training ----------------------------------------------------------------------------

    def train(self, minutes: int) -> None:
        """Keep what was corrected, then train on all corrections of the project."""
        if self._is_busy or self._card is not None:
            return
        self._preferences.set_text("training_minutes", str(minutes))
        self._begin("Reading your corrections")
        options = JobOptions(
            minutes=float(minutes), teacher=self._preferences.text("teacher", ""), promote=False
        )
        start = partial(
            trainings.start,
            self._folder,
            tuple(self._sources()),
            _as_words(self._synonyms),
            options,
        )
        self._keeper.run(start, self._on_started, self._on_not_started)

    def cancel(self) -> None:
        """End the training; the version in use stays."""
        if not self._is_busy or self._is_cancelling:
            return
        self._is_cancelling = True
        self.panel.set_cancellable(False)
        self.panel.show_training("Cancelling", None)
        if self._job is not None:
            self._end(self._job)

    def _begin(self, words: str) -> None:
        self._is_busy, self._is_cancelling, self._job, self._pid = True, False, None, None
        self.panel.say("")
        self.panel.set_cancellable(True)
        self.panel.show_training(words, None)
        self.told.emit("Training on your corrections: go on working meanwhile")

    def _on_started(self, started: trainings.Started) -> None:
        for source in started.kept:
            self.kept.emit(source.values)
        if started.was_running:
            self.panel.say("Another window has begun a training already; this is how far it is.")
        if not self._is_cancelling:
            self.panel.show_training("Starting", None)
        self._watch(started.job)

    def _watch(self, job: TrainingJob) -> None:
        self._job = job
        self._ask_soon.start()
        if self._is_cancelling:
            self._end(job)
        elif not self._is_asking:
            self._ask()

    def _end(self, job: TrainingJob) -> None:
        """Ask a training to end, and end it if it hasn't a moment later; nothing is lost by it."""
        self._keeper.run(job.cancel)

        def kill() -> None:
            if self._job is job:
                self._keeper.run(partial(trainings.kill, self._folder, job, self._pid))

        QTimer.singleShot(KILL_AFTER_MS, kill)

    def _on_not_started(self, error: Exception) -> None:
        self._finish(Ended(words=as_sentence(error), is_problem=True))

    def _ask(self) -> None:
        job = self._job
        if job is None or self._is_asking:
            return
        self._is_asking = True
        self._keeper.run(job.events, partial(self._on_events, job), self._on_lost)

    def _on_lost(self, error: Exception) -> None:
        self._is_asking = False
        self._on_not_started(error)

    def _on_events(self, job: TrainingJob, events: Sequence[Event]) -> None:
        self._is_asking = False
        if job is not self._job:
            return
        for event in events:
            self._pid = event.get("pid", self._pid)
        progress = [event for event in events if event["event"] == "progress"]
        if progress and not self._is_cancelling:
            self._show_progress(progress[-1])
        last = next((event for event in events if event["event"] in LAST_EVENTS), None)
        if last is not None:
            self._ask_soon.stop()
            self._job = None
            outcome = partial(
                trainings.outcome, self._folder, last, is_cancelled=self._is_cancelling
            )
            self._keeper.run(outcome, self._finish, self._on_not_started)

    def _show_progress(self, event: Event) -> None:
        stage = str(event["stage"])
        left = event.get("seconds_left")
        self.panel.show_training(
            stage[:1].upper() + stage[1:], float(event["share"]), left_in_words(left)
        )

    def _finish(self, ended: Ended) -> None:
        """Show what came of a training."""
        self._ask_soon.stop()
        self._is_busy, self._is_cancelling, self._job = False, False, None
        self._card = ended.card
        self.panel.say(ended.words, is_problem=ended.is_problem)
        if ended.card is None:
            self.panel.show_idle()
            self.told.emit(ended.words)
            self.refresh()
            return
        self.panel.show_card(ended.card)
        self.panel.open(True)
        self.told.emit(f"Training has ended: {ended.card.verdict.title.lower()}. You decide.")

    # Its outcome ---------------------------------------------------------------------------

    def decide(self, is_used: bool) -> None:
        """Use the new version from now on, or throw it away."""
        card = self._card
        if card is None:
            return
        self._card = None
        for window in self._window.findChildren(CardWindow):
            window.close()
        self.panel.show_idle()
        act = trainings.accept if is_used else trainings.reject
        self._keeper.run(
            partial(act, self._folder, card.version),
            partial(self._on_decided, is_used=is_used, card=card),
            partial(self._on_not_decided, card),
        )

    def _on_decided(self, standing: trainings.Standing, *, is_used: bool, card: Card) -> None:
        if is_used:
            words = f"Version {card.version} answers from now on; your rows stay as they are"
            self._take_over(standing, words)
        else:
            self._say("The new version was thrown away; the old one and your corrections stay")
        self.refresh()

    def _on_not_decided(self, card: Card, error: Exception) -> None:
        """The card stays where its version is still there and only the disk refused."""
        if (self._folder / "checkpoints" / str(card.version)).is_dir():
            self._card = card
            self.panel.show_card(card)
        self.panel.say(as_sentence(error), is_problem=True)
        self.failed.emit(error)

    def _show_card(self) -> None:
        if self._card is None:
            return
        window = CardWindow(self._card, self._window)
        window.decided.connect(self.decide)
        open_alone(window, self._window)

    # Versions ------------------------------------------------------------------------------

    def _show_versions(self) -> None:
        window = VersionsWindow(self._window)
        window.chosen.connect(self._go_to_version)
        window.exported.connect(self._export)
        window.imported.connect(self._import)
        open_alone(window, self._window)
        self._list_versions()

    def _list_versions(self, words: str = "") -> None:
        def show(versions: Any) -> None:
            for window in self._versions_windows():
                window.show_versions(versions)
                window.say(words)

        self._keeper.run(partial(read_versions, self._folder), show, self._on_problem)

    def _versions_windows(self) -> list[VersionsWindow]:
        return list(self._window.findChildren(VersionsWindow))

    def _go_to_version(self, number: int) -> None:
        what = f"Version {number}" if number else "The model that comes with SegOne"
        words = f"{what} answers from now on; your rows stay as they are"

        if self._card is not None and self._card.version == number:
            self.decide(True)  # it waited for that
            return
        self._keeper.run(
            partial(trainings.go_to, self._folder, number),
            lambda standing: self._take_over(standing, words),
            self._on_version_trouble,
        )

    def _export(self, number: int, file: Path) -> None:
        def then(written: Path) -> None:
            for window in self._versions_windows():
                window.say(f"Wrote {written}")

        write = partial(Versions(self._folder).export, number, file, force=True)
        self._keeper.run(write, then, self._on_version_trouble)

    def _import(self, file: Path) -> None:
        for window in self._versions_windows():
            window.say(f"Reading {file.name} …")

        def then(number: int) -> None:
            self._list_versions(f"{file.name} is version {number} now; choose “Use it” to use it")

        self._keeper.run(
            partial(trainings.take_in, self._folder, file), then, self._on_version_trouble
        )

    def _on_version_trouble(self, error: Exception) -> None:
        for window in self._versions_windows():
            window.say(f"⚠ {as_sentence(error)}")
        self.failed.emit(error)

    def _take_over(self, standing: trainings.Standing, words: str) -> None:
        self._show_standing(standing)
        self._list_versions()
        self.version_changed.emit()
        self._say(words)

    # At the start --------------------------------------------------------------------------

    def _on_looked(self, found: trainings.Found) -> None:
        self._show_standing(found.standing)
        if self._is_busy:
            return
        if found.job is not None:
            self._begin("Training")
            self._watch(found.job)
            self.panel.open(True)
        elif found.ended is not None:
            self._finish(found.ended)
        elif self._preferences.flag("improve_open", False):
            self.panel.open(True)

    def _show_standing(self, standing: trainings.Standing) -> None:
        number = standing.number
        words = f"version {number}" if number else "SegOne's own"
        self.panel.show_version(f"In use: {words}")
        self.names_known.emit(standing.names)

    def _say(self, words: str) -> None:
        self.panel.say(f"{words}.")
        self.told.emit(words)

    def _on_problem(self, error: Exception) -> None:
        self.panel.say(as_sentence(error), is_problem=True)


# --- small things -------------------------------------------------------------------------------


def _minutes(preferences: Preferences) -> int:
    text = preferences.text("training_minutes", "")
    return min(int(text), MOST_MINUTES) if text.isdigit() and int(text) else USUAL_MINUTES


def _as_words(synonyms: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """By term, what was typed between commas."""
    split = {term: [word.strip() for word in text.split(",")] for term, text in synonyms.items()}
    return {term: tuple(filter(None, words)) for term, words in split.items() if any(words)}


def _timer(
    parent: QObject, interval_ms: int, call: Callable[[], None], *, is_single: bool = False
) -> QTimer:
    timer = QTimer(parent)
    timer.setInterval(interval_ms)
    timer.setSingleShot(is_single)
    timer.timeout.connect(call)
    return timer
