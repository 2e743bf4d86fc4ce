"""The keys: bound, shown in tooltips and listed in the cheat sheet from this one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QWidget


@dataclass(frozen=True)
class Shortcut:
    """One key.

    Attributes
    ----------
    name : what it is called in the code.
    napari_key : as `bind_key` takes it; empty for a key that napari or Qt binds itself.
    qt_key : as a `QKeySequence` takes it, and as a person reads it.
    words : what it does.
    """

    name: str
    napari_key: str
    qt_key: str
    words: str


OURS = (
    Shortcut("undo", "Control-Z", "Ctrl+Z", "Undo, over all slices and structures"),
    Shortcut("redo", "Control-Shift-Z", "Ctrl+Shift+Z", "Redo"),
    Shortcut("doubt", "N", "N", "Go to the next doubtful slice"),
    Shortcut("accept", "Control-Enter", "Ctrl+Return", "Accept the structure, or unlock it"),
    Shortcut("click_add", "A", "A", "SAM2: click on what belongs to it"),
    Shortcut("click_subtract", "S", "S", "SAM2: click on what doesn't"),
    Shortcut("box", "R", "R", "SAM2: drag a box around the structure"),
    Shortcut("spread", "G", "G", "SAM2: spread it to the next slices"),
    Shortcut("interpolate", "I", "I", "Outline the slices between corrected ones"),
    Shortcut("confirm", "Y", "Y", "This slice is right: count it as corrected"),
    Shortcut("largest", "K", "K", "Keep the largest part"),
    Shortcut("holes", "H", "H", "Fill holes"),
    Shortcut("smooth", "O", "O", "Smooth (round off)"),
    Shortcut("absent", "Q", "Q", "Not there: clear and accept it"),
    Shortcut("prompt", "Control-L", "Ctrl+L", "Go to the prompt line"),
    Shortcut("cheat_sheet", "F1", "F1", "Show this list"),
)
"""Bound on the canvas and inside the panel."""

OF_NAPARI = (
    Shortcut("paint", "", "2 or P", "Brush"),
    Shortcut("erase", "", "1 or E", "Eraser"),
    Shortcut("fill", "", "4 or F", "Fill what is clicked"),
    Shortcut("pan_zoom", "", "6 or Z", "Back to moving the view"),
    Shortcut("smaller", "", "[", "Smaller brush"),
    Shortcut("larger", "", "]", "Larger brush"),
    Shortcut("size", "", "Ctrl+Alt+move", "Brush size by the mouse"),
    Shortcut("slice", "", "← and →", "Slice before, slice after"),
    Shortcut("roll", "", "Ctrl+E", "Axial, coronal, sagittal"),
    Shortcut("visible", "", "V", "Show or hide the selected layer"),
)
"""napari's own keys, on the canvas, as they are unless a person has changed them."""

OF_THE_PREVIEW = (
    Shortcut("take", "", "Enter", "Take SAM2's outline"),
    Shortcut("drop", "", "Esc", "Drop it"),
    Shortcut("step_back", "", "Ctrl+Z", "Take the last click or box back"),
    Shortcut("opposite", "", "Shift+click", "The opposite: − for +, + for −"),
    Shortcut("cross", "", "Shift+arrows", "No mouse: move a cross (+Ctrl: × 10)"),
    Shortcut("at_cross", "", "X", "Click at the cross (Box: two corners)"),
)
"""While a tool of SAM2's is on, and while there is an outline to take or drop."""

OF_THE_PANEL = (
    Shortcut("segment", "", "Enter", "Outline what is typed"),
    Shortcut("cancel", "", "Esc", "Cancel"),
    Shortcut("former", "", "↑ and ↓", "Former prompts; ↓: the list of names"),
    Shortcut("go_to", "", "Enter on a row", "Go to the structure's largest slice"),
    Shortcut("remove", "", "Delete on a row", "Remove the structure"),
)

_FORMER = "segone_former"
"""Attribute of what we bind: what was bound before."""

_BY_NAME = {one.name: one for one in (*OURS, *OF_NAPARI, *OF_THE_PREVIEW, *OF_THE_PANEL)}


def tooltip(words: str, name: str) -> str:
    """A tooltip with its key: ``Undo   (Ctrl+Z)``."""
    return f"{words}   ({_BY_NAME[name].qt_key})"


class Bindings:
    """Our keys on a viewer's canvas and inside a panel, until `remove`.

    Parameters
    ----------
    actions : by a shortcut's name, what it does.
    is_ours : whether a Labels layer is one of ours; undo on any other stays napari's own.
    """

    def __init__(
        self,
        viewer: Any,
        panel: QWidget,
        actions: dict[str, Callable[[], None]],
        is_ours: Callable[[Any], bool],
    ):
        self._viewer = viewer
        self._own: dict[str, Any] = {}
        for shortcut in OURS:
            action = actions[shortcut.name]
            if shortcut.name in ("undo", "redo"):
                on_canvas = _unless_foreign(viewer, shortcut.name, action, is_ours)
            else:
                on_canvas = _for_viewer(action)
            bound = _bound(viewer, shortcut.napari_key)
            # of a panel that is about to go, what was bound before it
            setattr(on_canvas, _FORMER, getattr(bound, _FORMER, bound))
            self._own[shortcut.napari_key] = on_canvas
            viewer.bind_key(shortcut.napari_key, on_canvas, overwrite=True)
            if len(shortcut.qt_key) > 1:  # a letter alone would be typed nowhere else
                key = QShortcut(QKeySequence(shortcut.qt_key), panel)
                key.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
                key.activated.connect(action)
        self._actions = actions

    def bind_layer(self, layer: Labels) -> None:
        """Put our undo in the place of napari's on one of our layers."""
        for shortcut in OURS[:2]:
            layer.bind_key(
                shortcut.napari_key, _for_viewer(self._actions[shortcut.name]), overwrite=True
            )

    def remove(self) -> None:
        """Give the viewer its own keys back, but those that another panel has bound since."""
        for key, own in self._own.items():
            if _bound(self._viewer, key) is not own:
                continue
            former = getattr(own, _FORMER)
            self._viewer.bind_key(key, None, overwrite=True)
            if former is not None:
                self._viewer.bind_key(key, former, overwrite=True)


def _bound(viewer: Any, key: str) -> Any:
    from napari.utils.key_bindings import coerce_keybinding

    return viewer.keymap.get(coerce_keybinding(key))


def _for_viewer(action: Callable[[], None]) -> Callable[[Any], None]:
    def call(target: Any) -> None:
        action()

    return call


def _unless_foreign(
    viewer: Any, name: str, action: Callable[[], None], is_ours: Callable[[Any], bool]
) -> Callable[[Any], None]:
    def call(target: Any) -> None:
        active = viewer.layers.selection.active
        if isinstance(active, Labels) and not is_ours(active):
            getattr(active, name)()
        else:
            action()

    return call
