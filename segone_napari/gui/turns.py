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
from typing import Any, NamedTuple

from napari.layers import Layer
from qtpy.QtCore import QObject, QTimer  # type: ignore[attr-defined, unused-ignore]

from segone_napari.gui.drawing import native_canvas

DRAW_AFTER_MS, BETWEEN_MS = 8, 20
"""When what a turn changed is drawn, and when the next turn comes."""


class _Turn(NamedTuple):
    """What is done in one turn, and the layer that it is about."""

    action: Callable[[], None]
    layer: Layer | None = None


class Turns(QObject):  # type: ignore[misc, unused-ignore]
    """Adds and removes layers of one viewer, in the order in which it was told to."""

    def __init__(self, viewer: Any, parent: QObject | None = None):
        super().__init__(parent)
        self._viewer = viewer
        self._waiting: deque[_Turn] = deque()
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
        self._take(_Turn(action))

    def later(self, action: Callable[[], None]) -> None:
        """Do something in a turn of its own, but not in this one."""
        self._queue(_Turn(action))

    def add(self, layer: Layer) -> None:
        """Add a layer above the others, first hidden and then drawn; what is selected stays so."""
        layer.visible = False
        for action in (self._add, self._show):
            self._take(_Turn(partial(action, layer), layer))

    def remove(self, layers: Sequence[Layer]) -> None:
        """Take layers away, each in a turn of its own; none at once.

        napari may be in the middle of removing what is selected, and fails where that is gone.
        """
        for layer in layers:
            self.never_mind(layer)
            if layer in self._viewer.layers:
                self._queue(_Turn(partial(self._take_away, layer), layer))

    def select(self, layer: Layer) -> None:
        """Select a layer now, if it is there."""
        if layer in self._viewer.layers and self._viewer.layers.selection.active is not layer:
            self._viewer.layers.selection.active = layer

    def never_mind(self, layer: Layer) -> None:
        """Don't add, show or remove a layer any more."""
        self._waiting = deque(turn for turn in self._waiting if turn.layer is not layer)

    def _take(self, turn: _Turn) -> None:
        self._waiting.append(turn)
        if not self._next.isActive():
            self._do_next()

    def _queue(self, turn: _Turn) -> None:
        self._waiting.append(turn)
        if not self._next.isActive():
            self._next.start()

    def _do_next(self) -> None:
        if self._waiting:
            self._next.start()  # so that what is told meanwhile waits
            self._draw_later(self._waiting.popleft().action)

    def _draw_later(self, action: Callable[[], None]) -> None:
        """Do something, and draw in a later turn: that takes as long again."""
        canvas = native_canvas(self._viewer)
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
            canvas = native_canvas(self._viewer)
            if canvas is not None:
                canvas._vispy_update()

    def _take_away(self, layer: Layer) -> None:
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

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
