"""The list of all shortcuts, as a window beside the viewer."""

from __future__ import annotations

from html import escape

from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLabel, QVBoxLayout, QWidget

from segone_napari.gui.shortcuts import (
    OF_NAPARI,
    OF_THE_PANEL,
    OF_THE_PREVIEW,
    OURS,
    Shortcut,
)

_GROUPS = (
    ("On the canvas and in the panel", OURS),
    ("Correcting, on the canvas (napari's own keys)", OF_NAPARI),
    ("While SAM2 shows an outline", OF_THE_PREVIEW),
    ("In the panel", OF_THE_PANEL),
)


class CheatSheet(QDialog):
    """All shortcuts; it doesn't get in the way of the work."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("cheat_sheet_window")
        self.setWindowTitle("SegOne: shortcuts")
        self.setModal(False)
        words = QLabel("".join(_group(title, keys) for title, keys in _GROUPS))
        words.setObjectName("cheat_sheet_words")
        words.setAccessibleName("All shortcuts")
        close = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        close.rejected.connect(self.close)
        column = QVBoxLayout(self)
        column.addWidget(words)
        column.addWidget(close)


def _group(title: str, keys: tuple[Shortcut, ...]) -> str:
    lines = "".join(
        f"<tr><td width='130'><b>{escape(key.qt_key)}</b></td><td>{escape(key.words)}</td></tr>"
        for key in keys
    )
    return f"<h4>{escape(title)}</h4><table cellspacing='2'>{lines}</table>"
