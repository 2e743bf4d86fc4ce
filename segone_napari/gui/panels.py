"""The lower parts of the panel: offers, correcting, reviewing, and what is saved.

They hold controls and say what a person wants by signals; they know nothing of layers or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from qtpy.QtCore import QSize, Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QResizeEvent, QShowEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QFlowLayout

from segone_napari.gui.controls import push
from segone_napari.gui.shortcuts import tooltip

_Button = TypeVar("_Button", bound=QAbstractButton)

TOOLS: Mapping[str, tuple[str, str]] = {
    "paint": ("Brush", "Brush: add to the selected structure"),
    "erase": ("Eraser", "Eraser: take away from the selected structure"),
    "fill": ("Fill", "Fill: click into a region to fill it"),
    "pan_zoom": ("Move", "Move and zoom the view"),
}

CLICK_TOOLS: Mapping[str, tuple[str, str]] = {
    "click_add": ("Click +", "Click on what belongs to it; SAM2 outlines it on this slice"),
    "click_subtract": ("Click −", "Click on what doesn't belong to it (also: Shift and Click +)"),
    "box": ("Box", "Drag a box around it; SAM2 outlines it anew on this slice"),
}
WITHOUT_A_MOUSE = "Without a mouse: Shift and the arrow keys move a cross, X clicks there"
SPREAD = "Carry this slice's outline to those within 5 mm, as far as SAM2 and the image agree"
INTERPOLATE = (
    "Outline the slices between those that you corrected, by what the image shows, what you drew "
    "and what the model had answered"
)
CONFIRM = "This slice is right as it is, also where it is empty: it counts as corrected"


class Offer(QFrame):
    """A question in the panel, with two answers; hidden until it is asked.

    Signals
    -------
    answered : True for the first answer, False for the second.
    """

    answered = Signal(bool)

    def __init__(self, name: str = "offer", parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName(name)
        self.setProperty("offers", True)
        self._words = QLabel()
        self._words.setObjectName(f"{name}_words")
        self._words.setWordWrap(True)
        self._yes, self._no = QPushButton(), QPushButton()
        for button, kind, answer in ((self._yes, "yes", True), (self._no, "no", False)):
            button.setObjectName(f"{name}_{kind}")
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
    """Brush, eraser, fill, SAM2's clicks and box, repairs, undo and redo.

    Signals
    -------
    tool_chosen : the name of one of `TOOLS`: a mode of napari's Labels layer.
    click_tool_chosen : the name of one of `CLICK_TOOLS`.
    repair_chosen : the name of a repair.
    spread, interpolate, confirm, undo, redo, take, drop, teacher_wanted : as they say.
    """

    tool_chosen = Signal(str)
    click_tool_chosen = Signal(str)
    repair_chosen = Signal(str)
    spread = Signal()
    interpolate = Signal()
    confirm = Signal()
    undo = Signal()
    redo = Signal()
    take = Signal()
    drop = Signal()
    teacher_wanted = Signal()

    def __init__(self, repairs: Mapping[str, tuple[str, str]], parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("fix")
        self._target = ShortLabel("fix_target")
        self._undo = push("undo", "Undo", "")
        self._redo = push("redo", "Redo", "")
        self._undo.clicked.connect(self.undo)
        self._redo.clicked.connect(self.redo)
        self._tools = {
            mode: self._checkable(_icon_button(f"tool_{mode}", title, ""), self.tool_chosen, mode)
            for mode, (title, _) in TOOLS.items()
        }
        self._click_tools = {
            tool: self._checkable(push(tool, title, ""), self.click_tool_chosen, tool)
            for tool, (title, _) in CLICK_TOOLS.items()
        }
        self._spread = push("spread", "Spread", "")
        self._spread.clicked.connect(self.spread)
        self._interpolate = push("interpolate", "Interpolate", "")
        self._interpolate.clicked.connect(self.interpolate)
        self._confirm = push("confirm", "Slice is right", "")
        self._confirm.clicked.connect(self.confirm)
        self._what_repairs_do = {name: words for name, (_, words) in repairs.items()}
        self._repairs = {
            name: push(f"repair_{name}", title, "") for name, (title, _) in repairs.items()
        }
        for name, button in self._repairs.items():
            button.clicked.connect(lambda _=False, n=name: self.repair_chosen.emit(n))
        self._more = push("sam2_model", "⋯", "Choose the SAM2 that clicks, boxes and Spread ask")
        self._more.setAccessibleName("Choose the SAM2 model")
        self._more.clicked.connect(self.teacher_wanted)
        self._preview = PreviewBar()
        self._preview.taken.connect(self.take)
        self._preview.dropped.connect(self.drop)
        self._lay_out()
        self.set_target(None, "draft", None, None, "")
        self.set_steps(0, "", 0, "")

    def set_target(
        self, name: str | None, state: str, mode: str | None, tool: str | None, no_sam2: str
    ) -> None:
        """Say what would be corrected, and by what.

        Parameters
        ----------
        name, state : of the selected row.
        mode : its layer's.
        tool : the one of `CLICK_TOOLS` that is on.
        no_sam2 : why SAM2 can't be asked; empty if it can.
        """
        can_fix = name is not None and state == "draft"
        why = ""
        if not can_fix:
            why = (
                "Select a structure first"
                if name is None
                else f"{name} is accepted; unlock it first"
            )
        for one, icon in self._tools.items():
            icon.setEnabled(can_fix)
            icon.setChecked(can_fix and one == mode and tool is None)
            words = TOOLS[one][1].replace("the selected structure", str(name))
            icon.setToolTip(why or tooltip(words, one))
        for one, button in self._click_tools.items():
            button.setEnabled(can_fix and not no_sam2)
            button.setChecked(can_fix and one == tool)
            words = tooltip(CLICK_TOOLS[one][1], one)
            button.setToolTip(why or no_sam2 or f"{words}\n{WITHOUT_A_MOUSE}")
        self._spread.setEnabled(can_fix and not no_sam2)
        self._spread.setToolTip(why or no_sam2 or tooltip(SPREAD, "spread"))
        self._interpolate.setEnabled(can_fix)
        self._interpolate.setToolTip(why or tooltip(INTERPOLATE, "interpolate"))
        self._confirm.setEnabled(can_fix)
        self._confirm.setToolTip(why or tooltip(CONFIRM, "confirm"))
        for one, button in self._repairs.items():
            button.setEnabled(can_fix)
            button.setToolTip(why or tooltip(f"{self._what_repairs_do[one]}: {name}", one))
        self._target.set_words(f"Fix {name}" if can_fix else "Fix", why)

    def set_preview(self, words: str, *, can_be_taken: bool) -> None:
        """Show what SAM2 proposes, to take or drop; nothing where there are no words."""
        self._preview.show_words(words, can_be_taken=can_be_taken)

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

    def showEvent(self, event: QShowEvent | None) -> None:
        """Make the icons as high as the words beside them, in whatever font that is."""
        super().showEvent(event)
        height = self._spread.sizeHint().height()
        for icon in self._tools.values():
            icon.setFixedSize(height + 4, height)

    def _checkable(self, button: _Button, signal: Any, name: str) -> _Button:
        button.setCheckable(True)
        button.clicked.connect(lambda _=False: signal.emit(name))
        return button

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.setSpacing(4)
        top.addWidget(self._target, 1)
        top.addWidget(self._undo)
        top.addWidget(self._redo)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(top)
        column.addWidget(_flow([*self._tools.values(), *self._click_tools.values()]))
        rest = [self._spread, self._interpolate, self._confirm, self._more, *self._repairs.values()]
        column.addWidget(_flow(rest))
        column.addWidget(self._preview)


class PreviewBar(QFrame):
    """What SAM2 proposes on a slice, with two buttons; hidden while there is nothing.

    Signals
    -------
    taken, dropped : the person decided.
    """

    taken = Signal()
    dropped = Signal()

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("preview")
        self._words = QLabel()
        self._words.setObjectName("preview_words")
        self._words.setWordWrap(True)
        self._take = push("preview_take", "Take ⏎", tooltip("Take the outline", "take"))
        self._drop = push("preview_drop", "Drop", tooltip("Drop it: nothing changes", "drop"))
        self._take.setAccessibleName("Take the outline")
        self._drop.setAccessibleName("Drop the outline")
        self._take.clicked.connect(self.taken)
        self._drop.clicked.connect(self.dropped)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 4, 4, 4)
        row.setSpacing(4)
        row.addWidget(self._words, 1)
        row.addWidget(self._take)
        row.addWidget(self._drop)
        self.hide()

    def show_words(self, words: str, *, can_be_taken: bool) -> None:
        """Show these words, or hide where there are none."""
        self._words.setText(words)
        self._take.setEnabled(can_be_taken)
        self.setVisible(bool(words))


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
        self._next = push("next_doubtful", "Next doubtful slice  N", "")
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


class ShortLabel(QLabel):
    """A line that ends with an ellipsis where it is too long; its tooltip then says all."""

    def __init__(self, name: str, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName(name)
        self._whole = ""
        self._hint = ""
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)

    def set_words(self, words: str, hint: str = "") -> None:
        """Say this; `hint` is the tooltip of what isn't cut."""
        self._whole, self._hint = words, hint
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Fit the words into the new width."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        mode = Qt.TextElideMode.ElideRight
        shown = self.fontMetrics().elidedText(self._whole, mode, max(0, self.width()))
        self.setText(shown)
        self.setToolTip(self._hint or ("" if shown == self._whole else self._whole))
        self.setAccessibleName(self._whole)


def _flow(widgets: Sequence[QWidget]) -> QWidget:
    """Widgets in a line, in more lines where there isn't room."""
    place = QWidget()
    flow = QFlowLayout(place)
    flow.setContentsMargins(0, 0, 0, 0)
    flow.setHorizontalSpacing(3)
    flow.setVerticalSpacing(3)
    for widget in widgets:
        flow.addWidget(widget)
    return place


def _icon_button(name: str, title: str, hint: str) -> QToolButton:
    button = QToolButton()
    button.setObjectName(name)
    button.setToolTip(hint)
    button.setAccessibleName(title)
    button.setIconSize(QSize(18, 18))
    return button
