"""The list of all shortcuts, as a window beside the viewer."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QLabel,
    QVBoxLayout,
    QWidget,
)

from segone_napari.gui.shortcuts import (
    OF_NAPARI,
    OF_THE_PANEL,
    OF_THE_PREVIEW,
    OURS,
    Shortcut,
)

COLUMN_PX = 385
"""Two of them fit on a small screen at 150 %."""

_COLUMNS = (
    (
        ("On the canvas and in the panel", OURS),
        ("While Click +, Click − or Box is on", OF_THE_PREVIEW),
    ),
    (
        ("Correcting, on the canvas (napari's own keys)", OF_NAPARI),
        ("In the panel", OF_THE_PANEL),
    ),
)


class CheatSheet(QDialog):
    """All shortcuts; it doesn't get in the way of the work."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("cheat_sheet_window")
        self.setWindowTitle("SegOne: shortcuts")
        self.setModal(False)
        sheet = QHBoxLayout()
        sheet.setSpacing(24)
        for number, groups in enumerate(_COLUMNS, start=1):
            words = QLabel("".join(_group(title, keys) for title, keys in groups))
            words.setObjectName(f"cheat_sheet_words_{number}")
            words.setAccessibleName(f"Shortcuts, column {number}")
            words.setAlignment(Qt.AlignmentFlag.AlignTop)
            words.setWordWrap(True)
            words.setMinimumWidth(COLUMN_PX)
            sheet.addWidget(words)
        close = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        close.rejected.connect(self.close)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 0, 12, 6)  # at 150 % of 1280 × 800 every line counts
        column.addLayout(sheet)
        column.addWidget(close)


def _group(title: str, keys: tuple[Shortcut, ...]) -> str:
    lines = "".join(
        f"<tr><td width='110'><b>{escape(key.qt_key)}</b></td><td>{escape(key.words)}</td></tr>"
        for key in keys
    )
    return f"<h4>{escape(title)}</h4><table cellspacing='2'>{lines}</table>"
