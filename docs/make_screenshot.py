"""Take the README's pictures: the real widget, the bundled model, the bundled T1.

    python docs/make_screenshot.py [--out docs/screenshot.png] [--theme dark|light]
                                   [--animation docs/flow.gif]

Without a display, run it on a virtual one: ``xvfb-run -a -s "-screen 0 1440x1000x24" python ...``
Your own preferences and work stay as they are.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from qtpy.QtCore import QSettings
from qtpy.QtWidgets import QApplication

from segone_napari.data.samples import SAMPLES
from segone_napari.gui.app import open_viewer

PROMPTS = "left hippocampus; right hippocampus; lateral ventricles; thalamus; brainstem; elephant"
WINDOW = (1280, 800)
ZOOM = 3.4  # screen pixels a mm
LONGEST_S = 600.0
ANIMATION_WIDTH = 960
COLOURS = 128
STROKE = 14


class Film:
    """Frames of the window, each shown for a while."""

    def __init__(self, viewer: Any):
        self._viewer = viewer
        self._frames: list[Image.Image] = []
        self._shown_ms: list[int] = []

    def add(self, shown_ms: int) -> None:
        """Take what the window shows now."""
        wait(0.3)
        pixels = self._viewer.screenshot(canvas_only=False, flash=False)
        whole = Image.fromarray(pixels[..., :3])
        height = round(whole.height * ANIMATION_WIDTH / whole.width)
        small = whole.resize((ANIMATION_WIDTH, height), Image.Resampling.LANCZOS)
        self._frames.append(small.quantize(COLOURS))
        self._shown_ms.append(shown_ms)

    def save(self, path: Path) -> None:
        """Write an animated GIF that runs without end."""
        first, *others = self._frames
        first.save(path, save_all=True, append_images=others, duration=self._shown_ms, loop=0)


def main() -> None:
    """Ask the prompts as a person would and save what the window shows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("screenshot.png"))
    parser.add_argument("--theme", default="dark", choices=("dark", "light"))
    parser.add_argument("--animation", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        leave_the_person_s_own_alone(Path(folder))
        viewer, widget = open_viewer(SAMPLES["t1"].image_path)
        viewer.theme = arguments.theme
        viewer.window.resize(*WINDOW)
        wait(1.0)
        film = Film(viewer)
        ask(widget, film)
        show_hippocampus(viewer)
        wait(1.0)
        viewer.screenshot(str(arguments.out), canvas_only=False, flash=False)
        print(arguments.out)
        if arguments.animation is not None:
            film.add(2500)
            correct(viewer, widget, film)
            film.save(arguments.animation)
            print(arguments.animation)
        viewer.close()


def leave_the_person_s_own_alone(folder: Path) -> None:
    """Keep preferences and work in a folder that goes away."""
    os.environ["SEGONE_PROJECT"] = str(folder / "project")
    scope = QSettings.Scope.UserScope
    QSettings.setPath(QSettings.Format.IniFormat, scope, str(folder))


def ask(widget: Any, film: Film) -> None:
    """Type the prompts and wait for the answers."""
    film.add(1200)
    widget._form.prompt.setText(PROMPTS)
    film.add(1500)
    widget.segment()
    started_s, shown_s = time.monotonic(), 0.0
    while widget.is_working:
        if time.monotonic() - started_s > LONGEST_S:
            raise SystemExit(f"no answer within {LONGEST_S:.0f} s")
        wait(0.1)
        if time.monotonic() - shown_s > 1.5:
            film.add(400)
            shown_s = time.monotonic()
    if not len(widget._form.rows):
        raise SystemExit(widget._form.status.text())


def correct(viewer: Any, widget: Any, film: Film) -> None:
    """Go to a doubtful slice, draw a stroke, take it back, accept."""
    work = widget._work
    row = work.row_named("left hippocampus")
    work.go_to(row.id)
    film.add(1500)
    widget._show_doubt(True)
    widget._next_doubtful()
    film.add(2000)
    widget._show_doubt(False)
    work.go_to(row.id)
    widget._correcting.choose_tool("paint")
    layer = work.layer_of(row.id)
    axis = viewer.dims.not_displayed[0]
    at = viewer.dims.current_step[axis]
    middle = np.argwhere(np.take(layer.data, at, axis)).mean(axis=0).round().astype(int)
    with layer.block_history():
        for step in range(STROKE):
            point = np.insert(middle + np.array([0, step]), axis, at)
            layer.paint(tuple(int(n) for n in point), 1)
            if step % 4 == 0:
                film.add(150)
    film.add(1500)
    widget._correcting.undo()
    film.add(1500)
    widget._correcting.toggle_accepted()
    film.add(2500)


def show_hippocampus(viewer: Any) -> None:
    """A coronal slice through the hippocampus, filled by the brain."""
    viewer.dims.order = (1, 0, 2)
    if "left hippocampus" in viewer.layers:
        layer = viewer.layers["left hippocampus"]
        index = int(layer.data.sum(axis=(0, 2)).argmax())
        viewer.dims.set_point(1, layer.data_to_world((0, index, 0))[1])
    viewer.reset_view()
    viewer.scene.camera.zoom = ZOOM


def wait(seconds: float) -> None:
    """Let the window live for a while."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
