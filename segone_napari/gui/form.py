"""The panel's parts and where they stand, top to bottom in the order in which they are needed.

Knows nothing of images, layers or work; `widget.SegOneWidget` fills it and listens to it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from segone_napari.config import PRESETS, SegmentOptions, help_of
from segone_napari.gui.controls import left_in_words
from segone_napari.gui.panels import FixPanel, Offer, ReviewPanel
from segone_napari.gui.prompt import PromptLine
from segone_napari.gui.rows import Rows
from segone_napari.gui.shortcuts import tooltip

LEAST_ROWS_PX = 72  # a row with its numbers and buttons, and the beginning of the next one
LEAST_WIDTH_PX = 330


class Form:
    """All parts of the panel.

    Parameters
    ----------
    names : that the prompt line offers.
    repairs : of a mask: from a name to the label of its button and its tooltip.
    learning : the section about learning.
    """

    def __init__(
        self, names: Iterable[str], repairs: Mapping[str, tuple[str, str]], learning: QWidget
    ) -> None:
        self.image = QComboBox()
        _name(self.image, "image", "Image to outline on", "The image that prompts are about")
        self.image.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.image.setMinimumContentsLength(12)
        self.header = _text("header", "Spacing, orientation and device")
        self.sides = _text("sides", "Which side of the screen is the patient's left")
        self.warning = _text("warning", "Warning about the image")
        self.room = Offer("room")
        self.offer = Offer()
        self.prompt = PromptLine(names)
        self.segment = QPushButton("Segment ⏎")
        _name(self.segment, "segment", "Segment", "Outline what is typed   (Enter)")
        self.preset = QComboBox()
        for preset in PRESETS:
            self.preset.addItem(preset.capitalize(), preset)
        words = help_of(SegmentOptions, "preset")
        _name(self.preset, "preset", "Preset: speed or quality", words.capitalize())
        self.progress = Progress()
        _name(self.progress, "progress", "Progress", "How far the work is")
        self.cancel = QPushButton("Cancel")
        _name(self.cancel, "cancel", "Cancel", "Stop   (Esc)")
        self.status = _text("status", "What is happening")
        self.rows = Rows()
        _name(self.rows, "results", "Results", "")
        self.fix = FixPanel(repairs)
        self.review = ReviewPanel()
        self.learning = learning
        self.not_saved = _text("not_saved", "Warning: not saved")
        self.not_saved.hide()
        self.saved = _text("saved", "Whether everything is saved")
        self.help = QPushButton("?")
        _name(self.help, "cheat_sheet", "All shortcuts", tooltip("All shortcuts", "cheat_sheet"))
        self.export = QPushButton("Export…")
        _name(self.export, "export", "Export", "Label map, masks, volumes, meshes, DICOM")
        self._area = _scrolled("panel_area", self._what_scrolls())  # for windows that are too low

    def lay_out(self, panel: QWidget) -> None:
        """Put everything into the panel."""
        around = QVBoxLayout(panel)
        around.setContentsMargins(0, 0, 0, 0)
        around.setSpacing(0)
        around.addWidget(self._area, 1)
        around.addLayout(self._what_stays())
        panel.setMinimumWidth(LEAST_WIDTH_PX)

    def bring_up_learning(self) -> None:
        """Scroll to the section about learning."""
        self._area.ensureWidgetVisible(self.learning, 0, 0)

    def _what_scrolls(self) -> QWidget:
        inside = _Inside()
        inside.setObjectName("panel")
        column = QVBoxLayout(inside)
        column.setContentsMargins(10, 4, 10, 0)
        column.setSpacing(4)  # at 150 % of 1280 × 800 there is no pixel to spare
        column.addLayout(self._choice_of_image())
        for part in (self.header, self.sides, self.warning, self.room, self.offer):
            column.addWidget(part)
        column.addLayout(self._question())
        column.addLayout(self._what_runs())
        column.addWidget(self.status)
        column.addWidget(self._results(), 1)
        for section in (self.fix, self.review, self.learning):
            column.addWidget(_line())
            column.addWidget(section)
        return inside

    def _what_stays(self) -> QLayout:
        column = QVBoxLayout()
        column.setContentsMargins(10, 0, 10, 4)
        column.setSpacing(4)
        column.addWidget(_line())
        column.addWidget(self.not_saved)
        line = QHBoxLayout()
        line.addWidget(self.saved, 1)
        line.addWidget(self.help)
        line.addWidget(self.export)
        column.addLayout(line)
        return column

    def _choice_of_image(self) -> QLayout:
        line = QHBoxLayout()
        label = QLabel("Image")
        label.setObjectName("image_label")
        label.setBuddy(self.image)
        line.addWidget(label)
        line.addWidget(self.image, 1)
        return line

    def _question(self) -> QLayout:
        line = QHBoxLayout()
        line.addWidget(self.prompt, 1)
        line.addWidget(self.segment)
        return line

    def _what_runs(self) -> QLayout:
        line = QHBoxLayout()
        line.addWidget(self.preset)
        line.addWidget(self.progress, 1)
        line.addWidget(self.cancel)
        for part in (self.progress, self.cancel):  # so that nothing jumps when work begins
            policy = part.sizePolicy()
            policy.setRetainSizeWhenHidden(True)
            part.setSizePolicy(policy)
        return line

    def _results(self) -> QWidget:
        area = _scrolled("results_area", self.rows)
        # it takes what room is left, however many rows there are
        area.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Ignored)
        area.setMinimumHeight(LEAST_ROWS_PX)
        return area


class Progress(QProgressBar):
    """How far the work is, and how long it still takes."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._first: tuple[float, int] | None = None

    def begin(self) -> None:
        """Move without a number until the first step is told."""
        self._first = None
        self.setRange(0, 0)
        self.setFormat("")

    def show_step(self, done: int, total: int) -> None:
        """Say that so many steps of all are done."""
        now = time.monotonic()
        if self._first is None or done < self._first[1]:
            self._first = (now, done)
        self.setRange(0, total)
        self.setValue(done)
        percent = f"{100 * done // max(total, 1)} %"
        self.setFormat(percent + time_left(self._first, now, done, total))


def time_left(first: tuple[float, int], now: float, done: int, total: int) -> str:
    """The time left at the pace since the first step ("4 s left"); empty until there is a pace."""
    started_s, at = first
    if done <= at or now - started_s < 0.3:
        return ""
    return left_in_words((now - started_s) / (done - at) * (total - done))


class _Inside(QWidget):
    """What is in the scroll area around everything; it may be as low as its parts can be."""

    def heightForWidth(self, width: int) -> int:
        """The least height; Qt's own would leave out parts that take what room is left."""
        layout = self.layout()
        assert layout is not None
        return layout.minimumHeightForWidth(width)


def _name(widget: QWidget, name: str, accessible: str, tooltip: str) -> None:
    widget.setObjectName(name)
    widget.setAccessibleName(accessible)
    widget.setToolTip(tooltip)


def _text(name: str, accessible: str) -> QLabel:
    label = QLabel()
    _name(label, name, accessible, "")
    label.setWordWrap(True)
    return label


def _scrolled(name: str, inside: QWidget) -> QScrollArea:
    """Something with a scroll bar where it is higher than there is room."""
    area = QScrollArea()
    area.setObjectName(name)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    area.setWidget(inside)
    return area


def _line() -> QFrame:
    line = QFrame()
    line.setObjectName("line")
    line.setFrameShape(QFrame.Shape.HLine)
    return line
