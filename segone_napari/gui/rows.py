"""One row a prompt: its colour, what it was understood as, mL, confidence, or "not found".

Knows nothing of napari: the widget connects a row's signals to the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QKeyEvent, QMouseEvent
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from segone_napari.systems.base import Result

SWATCH_PX = 14


class Row(QFrame):
    """What became of one prompt.

    Signals
    -------
    chosen : the row was clicked, or activated by Enter or Space.
    shown_changed : the person showed (True) or hid (False) the layer.
    suggested : the person clicked on a suggestion (its name).
    """

    chosen = Signal()
    shown_changed = Signal(bool)
    suggested = Signal(str)

    def __init__(self, prompt: str, parent: QWidget | None = None):
        super().__init__(parent)
        self.name = prompt
        self.is_found = False
        self.is_final = False
        self.setObjectName("row")
        self.setMinimumHeight(38)  # so that nothing jumps when the answer comes
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._swatch = QLabel()
        self._swatch.setObjectName("swatch")
        self._swatch.setFixedSize(SWATCH_PX, SWATCH_PX)
        self._title = _label("understood_as")
        self._title.setWordWrap(True)  # a long name goes on a second line, the numbers stay
        self._ml = _label("volume_ml", "How much of the image it fills, in millilitres")
        self._confidence = _label(
            "confidence", "How sure SegOne is of the whole structure, from 0 to 1"
        )
        self._note = _label("note")
        self._note.setWordWrap(True)
        self._note.setTextFormat(Qt.TextFormat.RichText)
        self._note.linkActivated.connect(self.suggested)
        self._eye = QToolButton()
        self._eye.setObjectName("show")
        self._eye.setCheckable(True)
        self._eye.setChecked(True)
        self._eye.setToolTip("Show or hide this outline")
        self._eye.clicked.connect(self._on_eye)
        self._lay_out()
        self.show_waiting(prompt)

    def show_waiting(self, prompt: str) -> None:
        """Say that an answer is on its way."""
        self._title.setText(prompt)
        self._ml.setText("…")
        self._confidence.clear()
        self._confidence.setVisible(False)
        self._set_note("")
        self._set_colour(None)
        self._eye.setVisible(False)
        self._describe(f"{prompt}: working")

    def show_preview(self, result: Result) -> None:
        """Say what the prompt was understood as, while the whole volume is worked on."""
        self._title.setText(result.resolved or result.prompt)
        if result.found:
            self._set_colour(result.colour)
            self._ml.setText("first slice …")

    def show_result(self, result: Result, link_colour: str) -> None:
        """Say what was found, or that it was not."""
        self.is_final = True
        self.is_found = result.found
        self.name = result.resolved or result.prompt
        self._title.setText(self.name)
        self.setToolTip(f"You typed: {result.prompt}")
        confidence = f"{result.confidence:.2f}".removeprefix("0")
        if result.found:
            self._ml.setText(f"{result.volume_ml:.2f} mL")
            self._confidence.setText(confidence)
        else:
            self._ml.setText(f"not found ({confidence})")
        self._confidence.setVisible(result.found)
        self._set_colour(result.colour if result.found else None)
        self._eye.setVisible(result.found)
        self._set_note(_note(result, link_colour))
        self._title.setProperty("absent", not result.found)
        self._restyle()
        self.setCursor(
            Qt.CursorShape.PointingHandCursor if result.found else Qt.CursorShape.ArrowCursor
        )
        self._describe(
            f"{self.name}: {result.volume_ml:.2f} millilitres, confidence {result.confidence:.2f}"
            if result.found
            else f"{self.name}: not found in this image"
        )

    def set_shown(self, is_shown: bool) -> None:
        """Follow the layer's visibility."""
        self._eye.setChecked(is_shown)
        self._eye.setAccessibleName(f"{'Hide' if is_shown else 'Show'} {self.name}")

    def set_chosen(self, is_chosen: bool) -> None:
        """Mark the row whose layer is selected."""
        self.setProperty("chosen", is_chosen)
        self._restyle()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Choose the row."""
        super().mousePressEvent(event)
        self.chosen.emit()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Choose the row by Enter or Space."""
        keys = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)
        if event is not None and event.key() in keys:
            self.chosen.emit()
        else:
            super().keyPressEvent(event)

    def _lay_out(self) -> None:
        numbers = QHBoxLayout()
        numbers.setSpacing(10)
        numbers.addWidget(self._ml)
        numbers.addWidget(self._confidence)
        grid = QGridLayout(self)
        grid.setContentsMargins(8, 5, 4, 5)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(1)
        grid.addWidget(self._swatch, 0, 0)
        grid.addWidget(self._title, 0, 1)
        grid.addLayout(numbers, 0, 2)
        grid.addWidget(self._eye, 0, 3)
        grid.addWidget(self._note, 1, 1, 1, 3)
        grid.setColumnStretch(1, 1)

    def _restyle(self) -> None:
        """Qt looks at properties in a style sheet only when a widget is polished."""
        for widget in (self, self._title, self._swatch):
            style = widget.style()
            if style is not None:
                style.unpolish(widget)
                style.polish(widget)

    def _set_colour(self, colour: tuple[int, int, int] | None) -> None:
        self._swatch.setProperty("empty", colour is None)
        fill = f"background-color: rgb{colour};" if colour is not None else ""
        self._swatch.setStyleSheet(f"QLabel#swatch {{ border-radius: {SWATCH_PX // 2}px; {fill} }}")

    def _set_note(self, text: str) -> None:
        self._note.setText(text)
        self._note.setVisible(bool(text))

    def _describe(self, words: str) -> None:
        self.setAccessibleName(words)
        self._eye.setAccessibleName(f"Hide {self.name}")

    def _on_eye(self, is_shown: bool) -> None:
        self.set_shown(is_shown)
        self.shown_changed.emit(is_shown)


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
        return row

    def remove(self, row: Row) -> None:
        """Take a row away."""
        self._rows.remove(row)
        self._layout.removeWidget(row)
        row.setParent(None)
        row.deleteLater()

    def keep(self, rows: Sequence[Row]) -> None:
        """Take all other rows away."""
        for row in self:
            if row not in rows:
                self.remove(row)

    def clear(self) -> None:
        """Take all rows away."""
        self.keep(())


def _note(result: Result, link_colour: str) -> str:
    sign = "⚠ " if result.found else ""  # of what isn't there, a warning is just the reason
    lines = [sign + escape(warning) for warning in result.warnings]
    if result.suggestions:
        links = ", ".join(
            f'<a href="{escape(name)}" style="color: {link_colour}">{escape(name)}</a>'
            for name in result.suggestions
        )
        lines.append(f"Did you mean {links}?")
    return "<br>".join(lines)


def _label(name: str, tooltip: str = "") -> QLabel:
    label = QLabel()
    label.setObjectName(name)
    label.setToolTip(tooltip)
    return label
