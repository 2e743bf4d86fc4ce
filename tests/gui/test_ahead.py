"""What is loaded and built before it is needed, and what a person sees of it: nothing."""

import gc
import subprocess
import sys

from segone_napari.gui import ahead, garbage

from .conftest import head
from .hands import PATIENCE_MS

UNITS = """
import pint
from segone_napari.gui import ahead

units = pint.get_application_registry()
print(type(units.get()).__name__)
ahead.know_units()
print(type(units.get()).__name__)
"""


def test_units_are_known_before_layers_are_made_in_two_threads() -> None:
    # pint's table is lazy, and a second thread that asks meanwhile finds half of it; in a process
    # of its own, where nobody has asked yet
    done = subprocess.run([sys.executable, "-c", UNITS], capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert before == "LazyRegistry"
    assert after != before


def test_circle_of_the_brush_is_built_and_stays_hidden(qtbot, open_widget) -> None:
    viewer, _ = open_widget(head())
    circle = viewer.canvas.overlays._brush_circle
    built = viewer.window._qt_viewer.canvas._viewer_overlay_to_visual
    qtbot.waitUntil(lambda: circle in built, timeout=PATIENCE_MS)
    assert not circle.visible


def test_window_waits_less_for_workers_and_never_longer_than_it_did(open_widget) -> None:
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.0005)
        open_widget(head())
        assert sys.getswitchinterval() == 0.0005
        sys.setswitchinterval(0.005)
        ahead.take_turns_often()
        assert sys.getswitchinterval() <= ahead.SWITCH_EVERY_S
    finally:
        sys.setswitchinterval(before)


def test_garbage_is_looked_for_again_after_loading() -> None:
    with garbage.while_loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    garbage.look_at_all_again()
