"""The line in which a person types what to outline, with completion from the vocabulary.

Several prompts are separated by ``;``: only the one under the cursor is completed.
"""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import QModelIndex, QStringListModel, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QCompleter, QLineEdit, QWidget

from segone_napari.data.vocabulary import Vocabulary


class PromptLine(QLineEdit):
    """A line edit that completes names of structures."""

    def __init__(self, names: Iterable[str], parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("prompt")
        self.setAccessibleName("What to outline")
        self.setPlaceholderText("left hippocampus; ventricles; …")
        self.setClearButtonEnabled(True)
        self.setToolTip(
            "Type what to outline, several separated by ;\n"
            "Enter: segment      Esc: cancel      ↓: choose from the list"
        )
        self._completer = _LastPromptCompleter(list(names), self)
        self.setCompleter(self._completer)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Let Enter on a name in the list only fill it in; the next Enter asks."""
        popup = self._completer.popup()
        is_choosing = popup is not None and popup.isVisible() and popup.currentIndex().isValid()
        is_enter = event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if event is not None and is_choosing and is_enter:
            event.ignore()  # Qt's completer takes what the line leaves
        else:
            super().keyPressEvent(event)

    def set_popup_style(self, sheet: str) -> None:
        """Give the list of completions a style sheet."""
        popup = self._completer.popup()
        if popup is not None:
            popup.setObjectName("completions")
            popup.setStyleSheet(sheet)


class _LastPromptCompleter(QCompleter):
    """Completes the last of several prompts and leaves the ones before it alone."""

    def __init__(self, names: list[str], line: QLineEdit):
        super().__init__(line)
        self._line = line
        self.setModel(QStringListModel(names, self))
        self.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.setFilterMode(Qt.MatchFlag.MatchContains)
        self.setMaxVisibleItems(8)

    def splitPath(self, path: str | None) -> list[str]:
        """The part of the line that is compared with the names."""
        return [(path or "").rpartition(";")[2].strip()]

    def pathFromIndex(self, index: QModelIndex) -> str:
        """The whole line with the chosen name in the place of its last part."""
        before, separator, _ = self._line.text().rpartition(";")
        name = super().pathFromIndex(index)
        return f"{before}{separator} {name}" if separator else name


def names_to_offer(vocabulary: Vocabulary) -> list[str]:
    """Canonical names, those with a side also for both sides together, in alphabetical order."""
    return sorted({term.canonical for term in vocabulary.terms()})
