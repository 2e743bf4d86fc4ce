"""One row a prompt: its colour, what it was understood as, mL, confidence, and what can be done.

Knows nothing of napari: the widget connects a row's signals to the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Literal

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QKeyEvent, QMouseEvent
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from segone_napari.data.vocabulary import Vocabulary

SWATCH_PX = 14

REPLACE = "segone:replace"
"""Where a note's link leads that puts a new result in the place of a corrected mask."""

DRAW = "segone:draw"
"""Where a note's link leads that begins an empty outline of what isn't known or wasn't seen."""


@dataclass(frozen=True)
class Shown:
    """What a row says.

    Attributes
    ----------
    name : what the prompt was understood as, or the words as typed.
    prompt : the words as typed.
    state : "draft", "accepted" or "not found".
    colour : three values 0 to 255.
    volume_ml : the mask's volume in millilitres.
    confidence : 0 to 1, or None where nobody said.
    row_id : the row's number in the history; None for what was not understood.
    is_edited : whether a person has corrected the mask.
    can_be_shown : of what was not found, whether there is a mask to show anyway.
    warnings : sentences that a person must see.
    suggestions : nearest known names, when the prompt was not understood.
    is_kept : whether a new result waits because this mask was corrected by hand.
    """

    name: str
    prompt: str
    state: Literal["draft", "accepted", "not found"]
    colour: tuple[int, int, int] = (255, 85, 0)
    volume_ml: float = 0.0
    confidence: float | None = None
    row_id: int | None = None
    is_edited: bool = False
    can_be_shown: bool = False
    warnings: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    is_kept: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it has a layer."""
        return self.state != "not found"

    @property
    def is_absent(self) -> bool:
        """Whether a person said that it isn't in the image."""
        return self.state == "accepted" and not self.volume_ml


class Row(QFrame):
    """What became of one prompt.

    Signals
    -------
    chosen : the row was clicked, or activated by Enter or Space.
    shown_changed : the person showed (True) or hid (False) the layer.
    accept_changed : the person accepted it (True) or made it a draft again (False).
    removed : the person wants it gone.
    shown_anyway : the person wants to see what was judged not to be there.
    suggested : the person clicked on a suggestion (its name).
    replaced : the person wants the new result in the place of the corrected mask.
    drawn : the person wants to outline it by hand.
    """

    chosen = Signal()
    shown_changed = Signal(bool)
    accept_changed = Signal(bool)
    removed = Signal()
    shown_anyway = Signal()
    suggested = Signal(str)
    replaced = Signal()
    drawn = Signal()

    def __init__(self, prompt: str, parent: QWidget | None = None):
        super().__init__(parent)
        self.name = prompt
        self.row_id: int | None = None
        self._is_there = False
        self.setObjectName("row")
        self.setMinimumHeight(48)  # so that nothing jumps when the answer comes
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._swatch = QLabel()
        self._swatch.setObjectName("swatch")
        self._swatch.setFixedSize(SWATCH_PX, SWATCH_PX)
        self._title = _label("understood_as")
        self._title.setWordWrap(True)  # a long name goes on a second line, the numbers stay
        self._ml = _label("volume_ml", "How much of the image it fills, in millilitres")
        self._facts = _label("facts")
        self._note = _label("note")
        self._note.setWordWrap(True)
        self._note.setTextFormat(Qt.TextFormat.RichText)
        flags = Qt.TextInteractionFlag
        self._note.setTextInteractionFlags(
            flags.LinksAccessibleByMouse | flags.LinksAccessibleByKeyboard
        )
        self._note.linkActivated.connect(self._on_link)
        self._anyway = QPushButton("Show anyway")
        self._anyway.setObjectName("show_anyway")
        self._anyway.setToolTip("Show what the model drew although it judged it not to be there")
        self._anyway.clicked.connect(self.shown_anyway)
        self._eye = _button("show", "Show or hide this outline", is_checkable=True)
        self._eye.clicked.connect(self._on_eye)
        self._lock = _button(
            "accept", "Accept: lock it against every change   (Ctrl+Return)", is_checkable=True
        )
        self._lock.clicked.connect(self.accept_changed)
        self._bin = _button("remove", "Remove   (Delete); undo brings it back")
        self._bin.clicked.connect(self.removed)
        self._lay_out()
        self.show_waiting(prompt)

    def show_waiting(self, prompt: str) -> None:
        """Say that an answer is on its way."""
        self._title.setText(prompt)
        self._ml.setText("…")
        self._facts.setText("working")
        self._facts.setVisible(True)
        self._set_note("")
        self._set_colour(None)
        for button in (self._eye, self._lock, self._bin, self._anyway):
            button.setVisible(False)
        self.setAccessibleName(f"{prompt}: working")

    def show_preview(self, name: str, colour: tuple[int, int, int] | None) -> None:
        """Say what the prompt was understood as, while the whole volume is worked on."""
        self._title.setText(name)
        if colour is not None:
            self._set_colour(colour)
            self._facts.setText("first slice, the rest follows")

    def show_result(self, shown: Shown, link_colour: str) -> None:
        """Say what there is."""
        self.name, self.row_id, self._is_there = shown.name, shown.row_id, shown.is_there
        self._title.setText(shown.name)
        self.setToolTip(f"You typed: {shown.prompt}")
        self._ml.setText(_amount(shown))
        self._facts.setText(_facts(shown))
        self._facts.setVisible(shown.is_there)
        self._facts.setToolTip(_facts_in_words(shown))
        self._set_colour(shown.colour if shown.is_there else None)
        self._set_note(_note(shown, link_colour))
        is_accepted = shown.state == "accepted"
        self._eye.setVisible(shown.is_there)
        self._lock.setVisible(shown.is_there)
        self._lock.setChecked(is_accepted)
        self._bin.setVisible(not is_accepted and shown.row_id is not None)
        self._anyway.setVisible(shown.can_be_shown)
        _set_style_property(self._title, "absent", not shown.is_there)
        self.setCursor(
            Qt.CursorShape.PointingHandCursor if shown.is_there else Qt.CursorShape.ArrowCursor
        )
        self._describe(shown)

    def set_shown(self, is_shown: bool) -> None:
        """Follow the layer's visibility."""
        self._eye.setChecked(is_shown)
        self._eye.setAccessibleName(f"{'Hide' if is_shown else 'Show'} {self.name}")

    def set_chosen(self, is_chosen: bool) -> None:
        """Mark the row whose layer is selected."""
        _set_style_property(self, "chosen", is_chosen)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Choose the row."""
        super().mousePressEvent(event)
        self.chosen.emit()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Choose the row by Enter or Space, remove it by Delete."""
        key = None if event is None else event.key()
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.chosen.emit()
        elif key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and not self._bin.isHidden():
            self.removed.emit()
        else:
            super().keyPressEvent(event)

    @property
    def tab_stops(self) -> tuple[QWidget, ...]:
        """The row and its buttons, in the order in which they stand."""
        return self, self._note, self._anyway, self._eye, self._lock, self._bin

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(8, 3, 4, 3)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(0)
        buttons = QHBoxLayout()
        buttons.setSpacing(2)
        for button in (self._anyway, self._eye, self._lock, self._bin):
            buttons.addWidget(button)
        self._ml.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        grid.addWidget(self._swatch, 0, 0)
        grid.addWidget(self._title, 0, 1)
        grid.addWidget(self._ml, 0, 2)
        grid.addWidget(self._facts, 1, 1)
        grid.addLayout(buttons, 1, 2, Qt.AlignmentFlag.AlignRight)
        grid.addWidget(self._note, 2, 1, 1, 2)
        grid.setColumnStretch(1, 1)

    def _set_colour(self, colour: tuple[int, int, int] | None) -> None:
        _set_style_property(self._swatch, "empty", colour is None)
        fill = f"background-color: rgb{tuple(colour)};" if colour is not None else ""
        sheet = f"QLabel#swatch {{ border-radius: {SWATCH_PX // 2}px; {fill} }}"
        if sheet != self._swatch.styleSheet():
            self._swatch.setStyleSheet(sheet)

    def _set_note(self, text: str) -> None:
        self._note.setText(text)
        self._note.setVisible(bool(text))

    def _describe(self, shown: Shown) -> None:
        words = (
            f"{self.name}: {_amount(shown).replace('mL', 'millilitres')}, {_facts_in_words(shown)}"
            if shown.is_there
            else f"{self.name}: not found in this image"
        )
        self.setAccessibleName(words)
        self._lock.setAccessibleName(
            f"Make {self.name} a draft again"
            if shown.state == "accepted"
            else f"Accept {self.name}"
        )
        self._bin.setAccessibleName(f"Remove {self.name}")
        self._anyway.setAccessibleName(f"Show {self.name} anyway")
        self._eye.setAccessibleName(f"Hide {self.name}")

    def _on_eye(self, is_shown: bool) -> None:
        self.set_shown(is_shown)
        self.shown_changed.emit(is_shown)

    def _on_link(self, where: str) -> None:
        if where == REPLACE:
            self.replaced.emit()
        elif where == DRAW:
            self.drawn.emit()
        else:
            self.suggested.emit(where)


class Rows(QWidget):
    """The list of rows."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self._rows: list[Row] = []
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(2)
        self._layout.addStretch(1)

    def __iter__(self) -> Iterator[Row]:
        return iter(tuple(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, prompt: str) -> Row:
        """Append a row that waits for its answer."""
        row = Row(prompt)
        self._rows.append(row)
        self._layout.insertWidget(len(self._rows) - 1, row)
        row.show()
        return row

    def remove(self, row: Row) -> None:
        """Take a row away."""
        self._rows.remove(row)
        self._layout.removeWidget(row)
        row.setParent(None)
        row.deleteLater()

    def arrange(self, rows: Sequence[Row]) -> None:
        """Bring the rows into this order, and take all others away."""
        for row in self:
            if row not in rows:
                self.remove(row)
        for place, row in enumerate(rows):
            if self._rows[place] is not row:
                self._rows.remove(row)
                self._rows.insert(place, row)
                self._layout.removeWidget(row)
                self._layout.insertWidget(place, row)

    def put_in_tab_order(self, before: QWidget) -> None:
        """Let the Tab key go from `before` through the rows as they stand."""
        for row in self._rows:
            for stop in row.tab_stops:
                QWidget.setTabOrder(before, stop)
                before = stop


def _set_style_property(widget: QWidget, name: str, value: bool) -> None:
    """Set what a style sheet asks for; Qt looks at it only when a widget is polished."""
    if widget.property(name) == value:
        return
    widget.setProperty(name, value)
    style = widget.style()
    if style is not None:
        style.unpolish(widget)
        style.polish(widget)


def _facts(shown: Shown) -> str:
    if not shown.is_there:
        return ""
    # the model's confidence is of a mask that is not there any more
    confidence = _short(shown.confidence) if shown.volume_ml else ""
    state = "✓ accepted" if shown.state == "accepted" else "draft"
    parts = [confidence, state, "corrected" if shown.is_edited else ""]
    return " · ".join(filter(None, parts))


def _amount(shown: Shown) -> str:
    if shown.is_absent:
        return "not there"
    if shown.is_there:
        return f"{shown.volume_ml:.2f} mL"
    confidence = _short(shown.confidence)
    return f"not found ({confidence})" if confidence else "not found"


def _short(confidence: float | None) -> str:
    return "" if confidence is None else f"{confidence:.2f}".removeprefix("0")


def _facts_in_words(shown: Shown) -> str:
    parts = [
        f"confidence {shown.confidence:.2f} of 1"
        if shown.confidence is not None and shown.volume_ml
        else "",
        "accepted: locked against changes" if shown.state == "accepted" else "draft",
        "corrected by hand" if shown.is_edited else "",
    ]
    return ", ".join(filter(None, parts))


def _note(shown: Shown, link_colour: str) -> str:
    sign = "⚠ " if shown.is_there else ""  # of what isn't there, a warning is just the reason
    lines = [sign + escape(warning) for warning in shown.warnings]
    if shown.state == "draft" and shown.name != shown.prompt and _is_description(shown.prompt):
        lines.insert(0, f"for \u201c{escape(shown.prompt)}\u201d")

    def link(where: str, words: str) -> str:
        return f'<a href="{escape(where)}" style="color: {link_colour}">{escape(words)}</a>'

    if shown.is_kept:
        replace = link(REPLACE, "Replace it")
        lines.append(f"Your corrected outline was kept. {replace} by the new result?")
    if shown.suggestions:
        names = ", ".join(link(name, name) for name in shown.suggestions)
        lines.append(f"Did you mean {names}?")
    if shown.row_id is None:
        lines.append(link(DRAW, "Outline it yourself"))
    return "<br>".join(lines)


@cache
def _is_description(prompt: str) -> bool:
    """Whether a prompt names nothing, so that what it was understood as is worth a look."""
    return Vocabulary.packaged().match(prompt).how == "description"


def _label(name: str, tooltip: str = "") -> QLabel:
    label = QLabel()
    label.setObjectName(name)
    label.setToolTip(tooltip)
    return label


def _button(name: str, tooltip: str, *, is_checkable: bool = False) -> QToolButton:
    button = QToolButton()
    button.setObjectName(name)
    button.setToolTip(tooltip)
    button.setCheckable(is_checkable)
    button.setChecked(is_checkable and name == "show")
    policy = QSizePolicy.Policy.Fixed
    button.setSizePolicy(policy, policy)
    return button
