"""Whether the window fits the screen, and what may be put away so that it does.

On a small screen, or a magnified one, napari's own panels and ours don't fit beside the image:
what is too much lies outside the screen. Which panels are shown is a person's own choice, so that
room is made only when it is asked for.
"""

from __future__ import annotations

from qtpy.QtCore import QRect
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

NAPARI_S_OWN = ("layer controls", "layer list")
"""The docks that the rows and tools of our panel can stand for, the least needed first."""

OFFER = "This screen is too small for all panels beside the image."
YES = ("Make room", "Put napari's layer controls and list away; the menu View brings them back")
NO = ("Leave it", "Nothing is changed")


def is_too_small(widget: QWidget) -> bool:
    """Whether the window needs more than its screen has, and there is something to put away."""
    window, there = widget.window(), place_of(widget)
    if not isinstance(window, QMainWindow) or not _shown_docks(window):
        return False
    needed = window.minimumSizeHint()
    return needed.width() > there.width() or needed.height() > there.height()


def make(widget: QWidget) -> None:
    """Put napari's own panels away, one after the other, until the window fits the screen."""
    window, there = widget.window(), place_of(widget)
    if not isinstance(window, QMainWindow):
        return
    for dock in _shown_docks(window):
        if is_too_small(widget):
            dock.hide()
            if (layout := window.layout()) is not None:
                layout.activate()
    window.resize(min(window.width(), there.width()), min(window.height(), there.height()))
    window.move(
        max(there.left(), min(window.x(), there.right() + 1 - window.width())),
        max(there.top(), min(window.y(), there.bottom() + 1 - window.height())),
    )


def place_of(widget: QWidget) -> QRect:
    """What a window may take up on a widget's screen."""
    screen = widget.screen()
    assert screen is not None
    return screen.availableGeometry()


def _shown_docks(window: QMainWindow) -> list[QDockWidget]:
    docks = {dock.windowTitle(): dock for dock in window.findChildren(QDockWidget)}
    return [docks[name] for name in NAPARI_S_OWN if name in docks and docks[name].isVisible()]
