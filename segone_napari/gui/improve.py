"""The section "Improve the model" of the panel: what can be learnt, a training, and its outcome.

It holds controls and says what a person wants by signals; it knows nothing of files or processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Literal

from qtpy.QtCore import QSize, Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from segone_napari.gui.card import KEEP, USE, Card
from segone_napari.gui.controls import push, wrapped
from segone_napari.gui.corrected import Lore, in_full, in_short, in_words
from segone_napari.gui.panels import ShortLabel

NOTHING_YET = (
    "Correct some slices, or outline something yourself that SegOne doesn't know. It can then "
    "learn from that, on this computer."
)
SHORT_NOTHING = "no corrections yet"
MOST_MINUTES = 240
LEAST_BODY_PX = 110
"""What is seen of the open section on the smallest screens; the rest is scrolled to."""

State = Literal["idle", "training", "card"]


class ImprovePanel(QWidget):
    """The section, closed at first.

    Signals
    -------
    train : the person wants to train; the limit in minutes.
    cancel, look_at_card, versions_wanted : as they say.
    decided : True to use the new version, False to keep the old one.
    synonyms_typed : a new term, and the words that were typed for it.
    opened : the section was opened (True) or closed.
    """

    train = Signal(int)
    cancel = Signal()
    look_at_card = Signal()
    versions_wanted = Signal()
    decided = Signal(bool)
    synonyms_typed = Signal(str, str)
    opened = Signal(bool)

    def __init__(self, minutes: int, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("improve")
        self._state: State = "idle"
        self._lore = Lore()
        self._synonyms: dict[str, QLineEdit] = {}
        self._build(minutes)
        self._lay_out()
        self.open(False)
        self.show_lore(Lore(), {})

    # What is shown -------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the section is open."""
        return self._toggle.isChecked()

    def open(self, is_open: bool) -> None:
        """Open the section, or close it down to one line."""
        self._toggle.setChecked(is_open)
        arrow = Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow
        self._toggle.setArrowType(arrow)
        self._toggle.setToolTip("Close this section" if is_open else "Train on your corrections")
        self._area.setVisible(is_open)

    def show_lore(self, lore: Lore, synonyms: Mapping[str, str]) -> None:
        """Say what would be learnt from, and ask for other words for new terms."""
        self._lore = lore
        if not lore:
            self._what.setText(NOTHING_YET)
        else:
            lines = "\n".join(f"•  {line}" for line in in_words(lore))
            problems = "".join(f"\n⚠ {problem}" for problem in lore.problems[:2])
            self._what.setText(f"It will learn from {in_full(lore)}:\n{lines}{problems}")
        if set(self._synonyms) != set(lore.synonyms):
            self._ask_for_synonyms(lore, synonyms)
        hint = "Train on this computer; you decide afterwards whether the new version is used"
        self._train.setEnabled(bool(lore))
        self._train.setToolTip(hint if lore else NOTHING_YET)
        self._refresh()

    def show_training(self, words: str, share: float | None, left: str = "") -> None:
        """Say how far a training is; `share` is None where nobody knows."""
        self._stage.setText(words)
        if share is None:
            self._progress.setRange(0, 0)
            self._progress.setFormat("")
        else:
            self._progress.setRange(0, 100)
            self._progress.setValue(round(100 * share))
            self._progress.setFormat(f"{round(100 * share)} %{left}")
        self._state = "training"
        self._short_training = words if share is None else f"{words} {round(100 * share)} %"
        self._refresh()

    def set_cancellable(self, can_be_cancelled: bool) -> None:
        """Say whether *Cancel* still has an effect."""
        self._cancel.setEnabled(can_be_cancelled)

    def show_card(self, card: Card) -> None:
        """Say in short what a training brought, and ask whether it is to be used."""
        verdict = card.verdict
        self._title.setText(f"{verdict.sign}  {verdict.title}")
        learnt = "; ".join(f"{line.term} {line.before:.2f} → {line.now:.2f}" for line in card.lines)
        self._words.setText("\n".join(filter(None, (verdict.words, learnt))))
        is_better = verdict.kind == "better"
        for button, is_default in ((self._use, is_better), (self._keep, not is_better)):
            button.setProperty("wanted", is_default)
            if (style := button.style()) is not None:
                style.unpolish(button)
                style.polish(button)
        self._state = "card"
        self._refresh()

    def show_idle(self) -> None:
        """Go back to what can be learnt from."""
        self._state = "idle"
        self._refresh()

    def say(self, words: str, *, is_problem: bool = False) -> None:
        """Keep a sentence in sight until the next one; nothing where there are no words."""
        self._news.setText(f"⚠ {words}" if is_problem and words else words)
        self._news.setVisible(bool(words))

    def show_version(self, words: str) -> None:
        """Say which version answers."""
        self._version.set_words(words)

    # Building ------------------------------------------------------------------------------

    def _build(self, minutes: int) -> None:
        self._toggle = QToolButton()
        self._toggle.setObjectName("improve_toggle")
        self._toggle.setText("Improve the model")
        self._toggle.setAccessibleName("Improve the model")
        self._toggle.setCheckable(True)
        self._toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._toggle.clicked.connect(self._on_toggled)
        self._short = ShortLabel("improve_short")
        self._short.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._short_training = ""
        self._news = wrapped("improve_news")
        self._news.hide()
        self._what = wrapped("improve_what")
        self._train = push("train", "Train on my corrections", "")
        self._train.clicked.connect(lambda: self.train.emit(self._minutes.value()))
        self._minutes: QSpinBox = QSpinBox()
        self._minutes.setObjectName("training_minutes")
        self._minutes.setAccessibleName("Longest time for training, in minutes")
        self._minutes.setToolTip("How long it may take; on a busy computer a little longer")
        if (line := self._minutes.lineEdit()) is not None:  # has the focus, and so is read out
            line.setToolTip(self._minutes.toolTip())
            line.setAccessibleName(self._minutes.accessibleName())
        self._minutes.setRange(1, MOST_MINUTES)
        self._minutes.setSuffix(" min")
        self._minutes.setValue(minutes)
        self._stage: QLabel = wrapped("training_stage")
        self._progress: QProgressBar = QProgressBar()
        self._progress.setObjectName("training_progress")
        self._progress.setAccessibleName("How far the training is")
        self._cancel = push("training_cancel", "Cancel", "Stop training; the version in use stays")
        self._cancel.setAccessibleName("Cancel the training")
        self._cancel.clicked.connect(self.cancel)
        self._title = wrapped("verdict")
        self._words = wrapped("verdict_words")
        self._use = push("use_version", *USE)
        self._use.clicked.connect(lambda: self.decided.emit(True))
        self._keep = push("keep_version", *KEEP)
        self._keep.clicked.connect(lambda: self.decided.emit(False))
        self._look = push("look_at_card", "Look…", "All that was measured, with pictures")
        self._look.setAccessibleName("Look at what was measured, with pictures")
        self._look.clicked.connect(self.look_at_card)
        self._version = ShortLabel("version_in_use")
        self._versions = push("versions", "Versions…", "Go back to any version; export or import")
        self._versions.setAccessibleName("Versions of the model")
        self._versions.clicked.connect(self.versions_wanted)

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.setContentsMargins(0, 0, 0, 0)
        top.addWidget(self._toggle)
        top.addWidget(self._short, 1)
        self._idle = QWidget()
        idle = _column(self._idle)
        idle.addWidget(self._what)
        self._also = QFormLayout()
        self._also.setContentsMargins(0, 0, 0, 0)
        self._also.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self._also.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        idle.addLayout(self._also)
        run = QHBoxLayout()
        run.addWidget(self._train, 1)
        run.addWidget(self._minutes)
        idle.addLayout(run)
        self._running = QWidget()
        running = _column(self._running)
        running.addWidget(self._stage)
        bar = QHBoxLayout()
        bar.addWidget(self._progress, 1)
        bar.addWidget(self._cancel)
        running.addLayout(bar)
        self._outcome = QFrame()
        self._outcome.setObjectName("outcome")
        self._outcome.setProperty("offers", True)
        outcome = _column(self._outcome)
        outcome.setContentsMargins(8, 6, 8, 6)
        outcome.addWidget(self._title)
        outcome.addWidget(self._words)
        answers = QHBoxLayout()
        for button in (self._use, self._keep, self._look):
            answers.addWidget(button)
        answers.addStretch(1)
        outcome.addLayout(answers)
        bottom = QHBoxLayout()
        bottom.addWidget(self._version, 1)
        bottom.addWidget(self._versions)
        body = QWidget()
        body.setObjectName("improve_body")
        inside = _column(body)
        for part in (self._news, self._idle, self._running, self._outcome):
            inside.addWidget(part)
        inside.addLayout(bottom)
        self._area = _Area(body)
        column = _column(self)
        column.addLayout(top)
        column.addWidget(self._area)

    def _ask_for_synonyms(self, lore: Lore, synonyms: Mapping[str, str]) -> None:
        """A line for each new term in which other words for it are typed."""
        typed = {term: line.text() for term, line in self._synonyms.items()}
        while self._also.rowCount():
            self._also.removeRow(0)
        self._synonyms = {}
        for term, known in lore.synonyms.items():
            line = QLineEdit(typed.get(term) or synonyms.get(term) or ", ".join(known))
            line.setObjectName(f"synonyms_{len(self._synonyms) + 1}")
            line.setAccessibleName(f"Other words for {term}")
            line.setPlaceholderText("other words, separated by commas")
            line.setToolTip(f"What else you would type for {term}; used from the next training on")
            line.textEdited.connect(lambda text, term=term: self.synonyms_typed.emit(term, text))
            line.setCursorPosition(0)
            line.editingFinished.connect(partial(line.setCursorPosition, 0))
            self._also.addRow(f"“{term}” is also", line)
            self._synonyms[term] = line
        stops = [self._toggle, *self._synonyms.values(), self._train]
        for before, after in pairwise(stops):
            self.setTabOrder(before, after)

    def _refresh(self) -> None:
        self._idle.setVisible(self._state == "idle")
        self._running.setVisible(self._state == "training")
        self._outcome.setVisible(self._state == "card")
        short = {
            "idle": in_short(self._lore) or SHORT_NOTHING,
            "training": self._short_training,
            "card": "new version ready",
        }
        self._short.set_words(short[self._state], in_full(self._lore))
        self._area.refit()

    def _on_toggled(self, is_open: bool) -> None:
        self.open(is_open)
        self.opened.emit(is_open)


class _Area(QScrollArea):
    """As high as what is inside, and lower with a scroll bar where there isn't room."""

    def __init__(self, inside: QWidget):
        super().__init__()
        self.setObjectName("improve_area")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.setMinimumHeight(LEAST_BODY_PX)
        self.setWidget(inside)

    def sizeHint(self) -> QSize:
        """The size of what is inside at the width there is."""
        inside = self.widget()
        layout = None if inside is None else inside.layout()
        if inside is None or layout is None:
            return super().sizeHint()
        viewport = self.viewport()
        width = 0 if viewport is None else viewport.width()
        width = max(width, layout.minimumSize().width())
        height = layout.totalHeightForWidth(width) if layout.hasHeightForWidth() else -1
        height = height if height > 0 else layout.sizeHint().height()
        return QSize(width, height + 2 * self.frameWidth())

    def minimumSizeHint(self) -> QSize:
        """No smaller than can be read."""
        return QSize(0, min(LEAST_BODY_PX, self.sizeHint().height()))

    def refit(self) -> None:
        """Ask for the height that what is inside needs now."""
        self.updateGeometry()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Words that wrap otherwise need another height."""
        super().resizeEvent(event)
        if event is not None and event.size().width() != event.oldSize().width():
            self.updateGeometry()


def _column(widget: QWidget) -> QVBoxLayout:
    column = QVBoxLayout(widget)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(4)
    return column
