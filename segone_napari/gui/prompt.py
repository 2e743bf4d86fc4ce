"""The line in which a person types what to outline, with completion and former prompts.

Several prompts are separated by ``;``: only the last one is completed. The up and down arrows go
through what was typed before, also on other days.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qtpy.QtCore import QModelIndex, QStringListModel, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QCompleter, QLineEdit, QToolButton, QWidget

from segone_napari.data.vocabulary import Vocabulary


class PromptLine(QLineEdit):
    """A line edit that completes names of structures."""

    def __init__(self, names: Iterable[str], parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("prompt")
        self.setAccessibleName("What to outline")
        self.setPlaceholderText("left hippocampus; ventricles; …")
        self.setClearButtonEnabled(True)
        for button in self.findChildren(QToolButton):
            button.setAccessibleName("Clear what is typed")
        self.setToolTip(
            "Type what to outline, several separated by ;   (Ctrl+L)\n"
            "Enter: segment      Esc: cancel      ↑ ↓: former prompts, or the list of names"
        )
        self._former: list[str] = []
        self._place = 0  # in `_former`; its length stands for what is being typed
        self._typed = ""
        self._completer = _LastPromptCompleter(list(names), self)
        self.setCompleter(self._completer)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Let Enter on a name in the list only fill it in; the next Enter asks."""
        popup = self._completer.popup()
        is_choosing = popup is not None and popup.isVisible() and popup.currentIndex().isValid()
        is_enter = event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        steps = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
        if event is not None and is_choosing and is_enter:
            event.ignore()  # Qt's completer takes what the line leaves
        elif event is not None and event.key() in steps and not self._is_list_open():
            self._go_through_former(steps[Qt.Key(event.key())])
        else:
            super().keyPressEvent(event)

    def set_former(self, prompts: Sequence[str]) -> None:
        """Say what was typed before, the oldest first."""
        self._former = list(prompts)
        self._place = len(self._former)

    def _is_list_open(self) -> bool:
        popup = self._completer.popup()
        return popup is not None and popup.isVisible()

    def _go_through_former(self, step: int) -> None:
        place = min(max(self._place + step, 0), len(self._former))
        if place == self._place:
            return
        if self._place == len(self._former):
            self._typed = self.text()
        self._place = place
        self.setText(self._former[place] if place < len(self._former) else self._typed)

    def set_names(self, names: Iterable[str]) -> None:
        """Say which names are completed from now on."""
        self._completer.set_names(list(names))

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
        self._names = QStringListModel(names, self)
        self.setModel(self._names)
        self.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.setFilterMode(Qt.MatchFlag.MatchContains)
        self.setMaxVisibleItems(8)

    def set_names(self, names: list[str]) -> None:
        """Complete these names."""
        self._names.setStringList(names)

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
