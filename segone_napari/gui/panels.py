"""The lower parts of the panel: offers, correcting, reviewing, and what is saved.

They hold controls and say what a person wants by signals; they know nothing of layers or files.
"""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import QSize, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import (
    QCheckBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from segone_napari.gui.shortcuts import tooltip

TOOLS: Mapping[str, tuple[str, str]] = {
    "paint": ("Brush", "Brush: add to the selected structure"),
    "erase": ("Eraser", "Eraser: take away from the selected structure"),
    "fill": ("Fill", "Fill: click into a region to fill it"),
    "pan_zoom": ("Move", "Move and zoom the view"),
}


class Offer(QFrame):
    """A question in the panel, with two answers; hidden until it is asked.

    Signals
    -------
    answered : True for the first answer, False for the second.
    """

    answered = Signal(bool)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("offer")
        self._words = QLabel()
        self._words.setObjectName("offer_words")
        self._words.setWordWrap(True)
        self._yes, self._no = QPushButton(), QPushButton()
        for button, name, answer in ((self._yes, "offer_yes", True), (self._no, "offer_no", False)):
            button.setObjectName(name)
            button.setToolTip("Answer")
            button.clicked.connect(lambda _=False, answer=answer: self._answer(answer))
        buttons = QHBoxLayout()
        buttons.addWidget(self._yes)
        buttons.addWidget(self._no)
        buttons.addStretch(1)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 6, 8, 6)
        column.addWidget(self._words)
        column.addLayout(buttons)
        self.hide()

    def ask(self, words: str, yes: tuple[str, str], no: tuple[str, str]) -> None:
        """Ask; each answer is what stands on its button and what its tooltip says."""
        self._words.setText(words)
        for button, (title, hint) in ((self._yes, yes), (self._no, no)):
            button.setText(title)
            button.setToolTip(hint)
            button.setAccessibleName(title)
        self.show()

    def _answer(self, is_yes: bool) -> None:
        self.hide()
        self.answered.emit(is_yes)


class FixPanel(QWidget):
    """Brush, eraser, fill, repairs, undo and redo.

    Signals
    -------
    tool_chosen : the name of a mode of napari's Labels layer.
    repair_chosen : the name of a repair.
    interpolate, undo, redo : as they say.
    """

    tool_chosen = Signal(str)
    repair_chosen = Signal(str)
    interpolate = Signal()
    undo = Signal()
    redo = Signal()

    def __init__(self, repairs: Mapping[str, str], parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("fix")
        self._tools: dict[str, QToolButton] = {}
        for mode, (title, words) in TOOLS.items():
            self._tools[mode] = _icon_button(f"tool_{mode}", title, tooltip(words, mode))
            self._tools[mode].setCheckable(True)
            self._tools[mode].clicked.connect(lambda _=False, m=mode: self.tool_chosen.emit(m))
        self._repair = _push("repair", "Repair", "One-click repairs of the structure")
        menu = QMenu(self._repair)
        for name, title in repairs.items():
            action = menu.addAction(title)
            assert action is not None
            action.setObjectName(f"repair_{name}")
            action.triggered.connect(lambda _=False, n=name: self.repair_chosen.emit(n))
        self._repair.setMenu(menu)
        words = "Fill in the slices between those that you corrected"
        self._interpolate = _push("interpolate", "Interpolate", tooltip(words, "interpolate"))
        self._interpolate.clicked.connect(self.interpolate)
        self._undo = _push("undo", "Undo", "")
        self._redo = _push("redo", "Redo", "")
        self._undo.clicked.connect(self.undo)
        self._redo.clicked.connect(self.redo)
        self._lay_out()
        self.set_target(None, "draft", None)
        self.set_steps(0, "", 0, "")

    def set_target(self, name: str | None, state: str, mode: str | None) -> None:
        """Say what would be corrected: the selected row's name and state, and its layer's mode."""
        can_fix = name is not None and state == "draft"
        why = {
            True: "",
            False: "Select a structure first"
            if name is None
            else f"{name} is accepted; unlock it first",
        }[can_fix]
        for tool, button in self._tools.items():
            button.setEnabled(can_fix)
            button.setChecked(can_fix and tool == mode)
            words = tooltip(TOOLS[tool][1], tool)
            button.setToolTip(why or words.replace("the selected structure", str(name)))
        for control in (self._repair, self._interpolate):
            control.setEnabled(can_fix)
        self._target.setText(f"Fix {name}" if can_fix else "Fix")
        self._target.setToolTip(why)

    def set_steps(self, undo: int, undo_words: str, redo: int, redo_words: str) -> None:
        """Say how many steps there are back and forth, and what the next ones are."""
        for button, title, count, words, key in (
            (self._undo, "Undo", undo, undo_words, "undo"),
            (self._redo, "Redo", redo, redo_words, "redo"),
        ):
            button.setText(f"{title} {count}" if count else title)
            button.setEnabled(count > 0)
            button.setToolTip(tooltip(f"{title}: {words}" if words else f"Nothing to {key}", key))
            button.setAccessibleName(f"{title}: {words}" if words else f"Nothing to {key}")

    def _lay_out(self) -> None:
        self._target = QLabel()
        self._target.setObjectName("fix_target")
        top = QHBoxLayout()
        top.setSpacing(4)
        top.addWidget(self._target, 1)
        for button in self._tools.values():
            top.addWidget(button)
        bottom = QHBoxLayout()
        bottom.setSpacing(4)
        for control in (self._undo, self._redo, self._repair, self._interpolate):
            bottom.addWidget(control)
        bottom.insertStretch(2, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(top)
        column.addLayout(bottom)


class ReviewPanel(QWidget):
    """The uncertainty and the next doubtful slice.

    Signals
    -------
    doubt_shown : the person wants to see the uncertainty (True) or not.
    next_doubtful : the person wants to go to the next doubtful slice.
    """

    doubt_shown = Signal(bool)
    next_doubtful = Signal()

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self._show = QCheckBox("Uncertainty")
        self._show.setObjectName("uncertainty")
        self._show.setAccessibleName("Show the uncertainty")
        self._show.clicked.connect(self.doubt_shown)
        self._next = _push("next_doubtful", "Next doubtful slice  N", "")
        self._next.setAccessibleName("Next doubtful slice")
        self._next.clicked.connect(self.next_doubtful)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._show)
        row.addStretch(1)
        row.addWidget(self._next)
        self.set_doubt(False, False)

    def set_doubt(self, is_known: bool, is_shown: bool) -> None:
        """Say whether there is an uncertainty, and whether its layer is shown."""
        missing = "No uncertainty yet: segment with Balanced or Best (Fast has none)"
        self._show.setEnabled(is_known)
        self._show.setChecked(is_shown)
        self._show.setToolTip("Show where the model is unsure" if is_known else missing)
        self._next.setEnabled(is_known)
        words = tooltip("Go to the slice where a look gains most", "doubt")
        self._next.setToolTip(words if is_known else missing)


def _push(name: str, title: str, hint: str) -> QPushButton:
    button = QPushButton(title)
    button.setObjectName(name)
    button.setToolTip(hint)
    button.setAccessibleName(title)
    return button


def _icon_button(name: str, title: str, hint: str) -> QToolButton:
    button = QToolButton()
    button.setObjectName(name)
    button.setToolTip(hint)
    button.setAccessibleName(title)
    button.setIconSize(QSize(18, 18))
    return button
