"""A window that is worked in until SIGKILL ends it in a stroke: asks, then draws and draws.

    python -m tests.gui.killed_window IMAGE

It loads the libraries, which takes most of a start, and opens its window when a seed comes, a line
of its standard input. It goes on with earlier work if there is any. When it has drawn a few
strokes, of which one is on the disk, it is killed at a random moment of the next. It prints one
line, at once, for what happens:

    state N CRC ROWS     after every edit: how many can be undone, a checksum of all masks in the
                         file's order, and what the rows say
    saved                the panel says that everything until here is saved
    down                 the mouse's button went down: a stroke has begun
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import zlib
from typing import Any

import numpy as np
import torch  # noqa: F401  (so that a window need not load it)
from napari.layers import Labels
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from segone_napari.gui.app import open_viewer
from segone_napari.gui.layers import volume_from_attributes
from tests.gui.conftest import ThresholdSegmenter
from tests.gui.hands import child, drag, is_idle, row_texts

NAMES = ("left ball", "right ball")
STROKES = 4
SHORTEST_STROKE_S = 0.1


class Mouse:
    """The part of pytest-qt's robot that `drag` needs, without a test."""

    strokes = 0
    is_due = False  # whether the next stroke is the last
    mouseMove = staticmethod(QTest.mouseMove)
    mouseRelease = staticmethod(QTest.mouseRelease)
    wait = staticmethod(QTest.qWait)

    @staticmethod
    def mousePress(*where: Any, **options: Any) -> None:
        QTest.mousePress(*where, **options)
        print("down", flush=True)
        Mouse.strokes += 1
        if Mouse.strokes > STROKES and Mouse.is_due:
            after_s = random.uniform(0, SHORTEST_STROKE_S)
            threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()


def state(viewer: Any, widget: Any) -> str:
    """Everything that must come back: undo steps, masks, rows."""
    crc = 0
    for layer in sorted((x for x in viewer.layers if isinstance(x, Labels)), key=lambda x: x.name):
        volume = volume_from_attributes(layer.data, {"metadata": layer.metadata})
        crc = zlib.crc32(np.ascontiguousarray(volume.data), zlib.crc32(layer.name.encode(), crc))
    return f"{steps_of(widget)} {crc} {' | '.join(row_texts(widget))}"


def steps_of(widget: Any) -> int:
    """How many steps can be undone."""
    return int(child(widget, QPushButton, "undo").text().removeprefix("Undo").strip() or 0)


def is_shown(viewer: Any, name: str) -> bool:
    """Whether a row's layer is on screen."""
    return name in viewer.layers and bool(viewer.layers[name].visible)


def work(image: str, seed: int) -> None:
    """Open a window and work in it without end."""
    chance = np.random.default_rng(seed)
    viewer, widget = open_viewer(image, make_session=lambda preset, device: ThresholdSegmenter())
    offer = child(widget, QWidget, "offer")
    while widget._work is None and offer.isHidden():
        QTest.qWait(10)
    if offer.isHidden():
        widget.ask("; ".join(NAMES))
    else:
        child(widget, QPushButton, "offer_yes").click()
    while not (is_idle(widget) and all(is_shown(viewer, name) for name in NAMES)):
        QTest.qWait(10)
    status = child(widget, QLabel, "status")
    while not any(words in status.text() for words in ("found", "as you left")):
        QTest.qWait(10)  # the last layer is selected, too
    print("state", state(viewer, widget), flush=True)

    saved = child(widget, QLabel, "saved")
    clock = QTimer()
    first = steps_of(widget)

    def look() -> None:
        if saved.text() == "saved just now":
            print("saved", flush=True)
            Mouse.is_due = steps_of(widget) > first

    clock.timeout.connect(look)
    clock.start(20)
    while True:
        layer = viewer.layers[NAMES[int(chance.integers(2))]]
        viewer.layers.selection.active = layer
        layer.mode = ("paint", "erase")[int(chance.integers(2))]
        layer.brush_size = 3
        at = int(chance.integers(10, 20))
        viewer.dims.set_current_step(0, at)
        start, stop = chance.integers(6, 28, (2, 2))
        drag(Mouse, viewer, (at, *map(int, start)), (at, *map(int, stop)))
        print("state", state(viewer, widget), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.stdin.readline()))
