"""What a person does with the window: type, click, press keys, drag on the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QLabel, QLineEdit, QPushButton, QWidget

PATIENCE_MS = 90_000


def child(widget: Any, kind: Any, name: str) -> Any:
    found = widget.findChild(kind, name)
    assert found is not None, name
    return found


def ask(qtbot: Any, widget: Any, text: str) -> None:
    """Type into the prompt line and press Enter."""
    line = child(widget, QLineEdit, "prompt")
    line.clear()
    qtbot.keyClicks(line, text)
    qtbot.keyClick(line, Qt.Key.Key_Return)


def is_idle(widget: Any) -> bool:
    return bool(child(widget, QPushButton, "cancel").isHidden())


def ask_and_wait(qtbot: Any, widget: Any, text: str) -> None:
    ask(qtbot, widget, text)
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)


def rows(widget: Any) -> list[Any]:
    """The rows in the order in which they stand."""
    return list(child(widget, QWidget, "results"))


def row_text(row: Any) -> str:
    """Everything that can be read in a row."""
    texts = [label.text() for label in row.findChildren(QLabel) if not label.isHidden()]
    return " ".join(filter(None, texts))


def row_texts(widget: Any) -> list[str]:
    return [row_text(row) for row in rows(widget)]


def choose_row(qtbot: Any, widget: Any, name: str) -> Any:
    """Click on a row, which goes to its largest slice; returns the row."""
    row = next(row for row in rows(widget) if name in row_text(row))
    qtbot.mouseClick(row, Qt.MouseButton.LeftButton)
    return row


def click(qtbot: Any, widget: Any, kind: Any, name: str) -> None:
    button = child(widget, kind, name)
    assert button.isEnabled(), f"{name}: {button.toolTip()}"
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def canvas(viewer: Any) -> Any:
    return viewer.window._qt_viewer.canvas.native


def press(qtbot: Any, viewer: Any, key: Any, *modifiers: Any) -> None:
    """Press a key on the canvas."""
    held = Qt.KeyboardModifier.NoModifier
    for modifier in modifiers:
        held |= modifier
    canvas(viewer).setFocus()
    qtbot.keyClick(canvas(viewer), key, held)


def undo(qtbot: Any, viewer: Any) -> None:
    press(qtbot, viewer, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)


def redo(qtbot: Any, viewer: Any) -> None:
    control, shift = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
    press(qtbot, viewer, Qt.Key.Key_Z, control, shift)


def drag(qtbot: Any, viewer: Any, start: tuple[int, ...], stop: tuple[int, ...]) -> None:
    """Drag from one voxel of the active layer to another, on the slice on screen."""
    layer = viewer.layers.selection.active
    points = [_on_canvas(viewer, layer, voxel) for voxel in (start, stop)]
    native, button = canvas(viewer), Qt.MouseButton.LeftButton
    qtbot.mouseMove(native, points[0])
    qtbot.mousePress(native, button, pos=points[0])
    for share in np.linspace(0, 1, 5):
        x, y = (
            round(a + share * (b - a))
            for a, b in ((p, q) for p, q in zip(*[(t.x(), t.y()) for t in points], strict=True))
        )
        qtbot.wait(20)  # of moves in quicker succession vispy hears one only
        _move_held(native, QPoint(x, y), button)
    qtbot.wait(20)
    qtbot.mouseRelease(native, button, pos=points[1])


def click_on(qtbot: Any, viewer: Any, voxel: tuple[int, ...], *modifiers: Any) -> None:
    """Click on a voxel of the active layer, on the slice on screen."""
    held = Qt.KeyboardModifier.NoModifier
    for modifier in modifiers:
        held |= modifier
    where = _on_canvas(viewer, viewer.layers.selection.active, voxel)
    qtbot.mouseMove(canvas(viewer), where)
    qtbot.mouseClick(canvas(viewer), Qt.MouseButton.LeftButton, held, pos=where)


def encircle(qtbot: Any, viewer: Any, corners: Sequence[tuple[int, ...]]) -> None:
    """Click with the right button on the first voxel, then lead the mouse round to it again."""
    layer, native = viewer.layers.selection.active, canvas(viewer)
    first, *others = (_on_canvas(viewer, layer, voxel) for voxel in corners)
    qtbot.mouseMove(native, first)
    qtbot.mouseClick(native, Qt.MouseButton.RightButton, pos=first)
    for point in (*others, first):
        qtbot.wait(20)
        _move_held(native, point, Qt.MouseButton.NoButton)
    qtbot.wait(20)


def draw_polygon(qtbot: Any, viewer: Any, corners: Sequence[tuple[int, ...]]) -> None:
    """Click on each corner, and twice on the last one."""
    layer, native = viewer.layers.selection.active, canvas(viewer)
    for voxel in corners:
        point = _on_canvas(viewer, layer, voxel)
        qtbot.wait(20)
        _move_held(native, point, Qt.MouseButton.NoButton)
        qtbot.mouseClick(native, Qt.MouseButton.LeftButton, pos=point)
    qtbot.mouseDClick(native, Qt.MouseButton.LeftButton, pos=point)
    qtbot.wait(20)


def _move_held(native: Any, point: QPoint, button: Any) -> None:
    """Move the mouse with its button held, which qtbot can't."""
    from qtpy.QtCore import QEvent, QPointF
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    where = QPointF(point)
    event = QMouseEvent(
        QEvent.Type.MouseMove,
        where,
        native.mapToGlobal(where),
        Qt.MouseButton.NoButton,
        button,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(native, event)


def _on_canvas(viewer: Any, layer: Any, voxel: tuple[int, ...]) -> QPoint:
    """Where a voxel of the slice on screen is, in pixels of the canvas."""
    world = np.asarray(layer.data_to_world(voxel))
    camera, shown = viewer.scene.camera, list(viewer.dims.displayed)
    middle = np.asarray(camera.center)[-2:]
    row, column = (world[shown] - middle) * camera.zoom
    native = canvas(viewer)
    return QPoint(round(native.width() / 2 + column), round(native.height() / 2 + row))
