"""Small and magnified screens: room is offered, and made only when a person wants it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from qtpy.QtCore import QRect, Qt
from qtpy.QtWidgets import QDockWidget, QLabel, QPushButton, QToolButton, QWidget

from segone_napari.gui import room

from .conftest import head
from .hands import PATIENCE_MS, ask_and_wait, child, click

SMALL = QRect(0, 0, 1280 * 2 // 3, 800 * 2 // 3)  # 1280 × 800 at 150 %
NAPARI_S = ("layer controls", "layer list")


def shown_docks(viewer) -> list[str]:
    docks = viewer.window._qt_window.findChildren(QDockWidget)
    return [dock.windowTitle() for dock in docks if dock.isVisible()]


def test_small_screen_gets_room_when_it_is_asked_for(qtbot, open_widget, monkeypatch) -> None:
    monkeypatch.setattr(room, "place_of", lambda widget: SMALL)
    viewer, widget = open_widget(head())
    offer = child(widget, QWidget, "room")
    qtbot.waitUntil(offer.isVisible, timeout=PATIENCE_MS)
    ask_and_wait(qtbot, widget, "left ball; right ball; elephant")
    assert set(NAPARI_S) <= set(shown_docks(viewer))  # nothing has changed unasked
    click(qtbot, widget, QPushButton, "room_yes")
    qtbot.waitUntil(lambda: offer.isHidden(), timeout=PATIENCE_MS)
    window = viewer.window._qt_window
    qtbot.waitUntil(lambda: window.width() <= SMALL.width(), timeout=PATIENCE_MS)
    assert "SegOne" in shown_docks(viewer)
    for name in ("prompt", "undo", "click_add", "spread", "repair_smooth", "next_doubtful",
                 "export", "image"):  # fmt: skip
        part = child(widget, QWidget, name)
        assert part.visibleRegion().boundingRect().size() == part.size(), name
        assert part.width() >= part.minimumSizeHint().width(), name
    assert child(widget, QWidget, "results_area").height() >= 60


def test_refused_room_changes_nothing(qtbot, open_widget, monkeypatch) -> None:
    monkeypatch.setattr(room, "place_of", lambda widget: SMALL)
    viewer, widget = open_widget(head())
    offer = child(widget, QWidget, "room")
    qtbot.waitUntil(offer.isVisible, timeout=PATIENCE_MS)
    before = shown_docks(viewer)
    click(qtbot, widget, QPushButton, "room_no")
    assert offer.isHidden()
    assert shown_docks(viewer) == before


def test_screen_that_is_large_enough_is_not_spoken_of(qtbot, open_widget) -> None:
    _, widget = open_widget(head())
    qtbot.wait(1000)
    assert child(widget, QWidget, "room").isHidden()


MAGNIFIED = """
import sys
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QPushButton, QWidget
from segone_napari.gui import room
from segone_napari.gui.app import open_viewer
from tests.gui.conftest import ThresholdSegmenter

viewer, widget = open_viewer(sys.argv[1], make_session=lambda preset, device: ThresholdSegmenter())
widget.ask("left ball; right ball")
while widget.is_working:
    QTest.qWait(10)
QTest.qWait(500)
room.make(widget)
QTest.qWait(500)
for name in ("prompt", "undo", "click_add", "spread", "repair_smooth", "next_doubtful", "export"):
    part = widget.findChild(QWidget, name)
    if part.visibleRegion().boundingRect().size() != part.size():
        print("cut off:", name)
print("ratio", widget.devicePixelRatioF())
import os
sys.stdout.flush()
os._exit(0)
"""


def test_window_too_low_for_all_scrolls_and_keeps_rows_and_warnings_in_sight(
    qtbot, open_widget, monkeypatch
) -> None:
    monkeypatch.setattr(room, "place_of", lambda widget: SMALL)
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    click(qtbot, widget, QPushButton, "room_yes")
    window = viewer.window._qt_window
    qtbot.waitUntil(lambda: window.height() <= SMALL.height(), timeout=PATIENCE_MS)
    click(qtbot, widget, QToolButton, "improve_toggle")
    train, export = (child(widget, QPushButton, name) for name in ("train", "export"))
    qtbot.waitUntil(lambda: not train.visibleRegion().isEmpty(), timeout=PATIENCE_MS)
    assert export.visibleRegion().boundingRect().size() == export.size()
    assert child(widget, QWidget, "results_area").height() >= 60
    prompt = child(widget, QWidget, "prompt")
    prompt.setFocus()
    qtbot.keyClick(prompt, Qt.Key.Key_Tab)  # whoever goes on by keys sees where they are
    focused = widget.focusWidget()
    assert focused.visibleRegion().boundingRect().size() == focused.size()


@pytest.mark.slow
def test_nothing_is_cut_off_at_150_percent(tmp_path, own_settings) -> None:
    """In a process of its own, since Qt reads the scale when it starts."""
    from segone_napari.data import formats

    path = formats.write(head(), tmp_path / "head.nii.gz")
    environment = os.environ | {"QT_SCALE_FACTOR": "1.5", "SEGONE_PROJECT": str(own_settings)}
    environment["XDG_CONFIG_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MAGNIFIED, str(path)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "ratio 1.5" in done.stdout, done.stderr
    assert "cut off" not in done.stdout


def test_status_says_how_to_get_napari_s_panels_back(qtbot, open_widget, monkeypatch) -> None:
    monkeypatch.setattr(room, "place_of", lambda widget: SMALL)
    _, widget = open_widget(head())
    offer = child(widget, QWidget, "room")
    qtbot.waitUntil(offer.isVisible, timeout=PATIENCE_MS)
    click(qtbot, widget, QPushButton, "room_yes")
    assert "View" in child(widget, QLabel, "status").text()
