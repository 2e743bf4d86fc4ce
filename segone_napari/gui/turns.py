"""What napari takes a tenth of a second for, one after the other, each in a turn of its own.

A layer that comes takes that long three times: its controls are built, it is drawn for the first
time, and it is selected. Between two turns, and before what a turn changed is drawn, the event loop
sees to the mouse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer  # type: ignore[attr-defined, unused-ignore]

DRAW_AFTER_MS, BETWEEN_MS = 8, 20
"""When what a turn changed is drawn, and when the next turn comes."""


class Turns(QObject):  # type: ignore[misc, unused-ignore]
    """Adds and removes layers of one viewer, in the order in which it was told to."""

    def __init__(self, viewer: Any, parent: QObject | None = None):
        super().__init__(parent)
        self._viewer = viewer
        self._waiting: deque[Callable[[], None]] = deque()
        self._next = QTimer(self)
        self._next.setSingleShot(True)
        self._next.setInterval(BETWEEN_MS)
        self._next.timeout.connect(self._do_next)
        self._draw = QTimer(self)
        self._draw.setSingleShot(True)
        self._draw.setInterval(DRAW_AFTER_MS)
        self._draw.timeout.connect(self._draw_now)

    def do(self, action: Callable[[], None]) -> None:
        """Do something in a turn of its own; at once if nothing waits."""
        self._waiting.append(action)
        if not self._next.isActive():
            self._do_next()

    def later(self, action: Callable[[], None]) -> None:
        """Do something in a turn of its own, but not in this one."""
        self._waiting.append(action)
        if not self._next.isActive():
            self._next.start()

    def add(self, layer: Layer) -> None:
        """Add a layer above the others, first hidden and then drawn; what is selected stays so."""
        layer.visible = False
        self.do(partial(self._add, layer))
        self.do(partial(self._show, layer))

    def remove(self, layers: Sequence[Layer]) -> None:
        """Take layers away: the first at once, every other in a turn of its own."""
        for layer in layers:
            self.never_mind(layer)
        there = [layer for layer in layers if layer in self._viewer.layers]
        for layer in there[:1]:
            self._draw_later(partial(self.take_away, layer))
        for layer in there[1:]:
            self.later(partial(self.take_away, layer))

    def select(self, layer: Layer) -> None:
        """Select a layer now, if it is there."""
        if layer in self._viewer.layers and self._viewer.layers.selection.active is not layer:
            self._viewer.layers.selection.active = layer

    def take_away(self, layer: Layer) -> None:
        """Remove a layer now, if it is there."""
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def never_mind(self, layer: Layer) -> None:
        """Don't add, show or select a layer any more."""
        self._waiting = deque(
            one
            for one in self._waiting
            if not (isinstance(one, partial) and one.args and one.args[0] is layer)
        )

    def _do_next(self) -> None:
        if self._waiting:
            self._next.start()  # so that what is told meanwhile waits
            self._draw_later(self._waiting.popleft())

    def _draw_later(self, action: Callable[[], None]) -> None:
        """Do something, and draw in a later turn: that takes as long again."""
        canvas = self._canvas()
        if canvas is None:
            action()
            return
        canvas._vispy_update = lambda: None
        try:
            action()
        finally:
            del canvas._vispy_update
            self._draw.start()

    def _draw_now(self) -> None:
        with suppress(RuntimeError):  # the window was closed meanwhile
            canvas = self._canvas()
            if canvas is not None:
                canvas._vispy_update()

    def _canvas(self) -> Any:
        """The widget that vispy draws on, or None; napari and vispy have no public way to it."""
        window = getattr(self._viewer.window, "_qt_viewer", None)
        canvas = getattr(getattr(window, "canvas", None), "native", None)
        return canvas if hasattr(canvas, "_vispy_update") else None

    def _add(self, layer: Layer) -> None:
        # napari selects what is added, which takes as long again: its controls are shown, and
        # then those of what was selected before. A private switch of napari 0.9's; where there is
        # none, the selection is put back below.
        layers = self._viewer.layers
        selected = layers.selection.active
        former = getattr(layers, "_activate_on_insert", True)
        layers._activate_on_insert = False
        try:
            self._viewer.add_layer(layer)
        finally:
            layers._activate_on_insert = former
        if layers.selection.active is not selected:
            layers.selection.active = selected

    def _show(self, layer: Layer) -> None:
        if layer in self._viewer.layers:
            layer.visible = True
