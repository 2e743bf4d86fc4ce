"""How long the window stands still: the longest stall of the event loop for everything it does.

    python benchmarks/stalls.py [--side 256] [--system model|threshold] [--limit-ms 150]

A timer ticks every 5 ms; the longest gap between two ticks while something is done is how long a
person could not have moved the mouse. The image is a cube of `--side` voxels; ``threshold`` is a
system that answers at once, so that what is left is the window's own work, and ``model`` is the
bundled checkpoint. Ends with status 1 if a stall is longer than `--limit-ms`. Without a display,
run it on a virtual one: ``xvfb-run -a -s "-screen 0 1440x1000x24" python ...``

Each step is done twice and the second time counts: the first one loads libraries and builds
napari's controls, once a session.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segone_napari.runtime import Progress, no_progress
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

TICK_MS = 5
SPHERES = {"left hippocampus": (0.35, 0.06), "right hippocampus": (0.65, 0.06), "brain": (0.5, 0.3)}
"""Middle along x and radius, as shares of the cube's side."""


class Threshold:
    """Answers with spheres, at once."""

    def segment(
        self, image: Volume, prompts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[Result]:
        """Answer each prompt for the whole volume."""
        return [self._answer(image, prompt) for prompt in prompts]

    def preview(self, image: Volume, prompts: Sequence[str], axis: int, index: int) -> list[Result]:
        """There is no quick answer."""
        return []

    def forget(self, image: Volume | None = None) -> None:
        """There is nothing to forget."""

    def _answer(self, image: Volume, prompt: str) -> Result:
        side = image.grid.shape[0]
        middle, radius = SPHERES[prompt]
        x, y, z = np.ogrid[:side, :side, :side]
        far = np.sqrt((x - middle * side) ** 2 + (y - side / 2) ** 2 + (z - side / 2) ** 2)
        probability = np.clip((radius * side - far) / 4 + 0.5, 0, 1).astype(np.float16)
        whole = (slice(0, side), slice(0, side), slice(0, side))
        doubt = (1 - np.abs(2 * probability - 1)).astype(np.float16)
        return Result(
            prompt, prompt, None, image.grid, whole, probability, True, 0.9, 0.0, uncertainty=doubt
        )


class Stalls:
    """Lets the event loop run, and notes the longest time between two ticks of a timer."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self.longest_ms = 0.0
        self._last_s = time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(TICK_MS)

    def during(self, action: Callable[[], Any], is_done: Callable[[], bool]) -> float:
        """Do something, wait until it is done and drawn; return the longest stall in ms."""
        from qtpy.QtWidgets import QApplication

        self._wait(0.3)
        self.longest_ms, self._last_s = 0.0, time.perf_counter()
        action()
        QApplication.processEvents()
        until_s = time.perf_counter() + 300
        while not is_done():
            QApplication.processEvents()
            time.sleep(0.001)
            if time.perf_counter() > until_s:
                raise SystemExit("no end within 300 s")
        self._wait(0.3)
        return self.longest_ms

    def _wait(self, seconds: float) -> None:
        from qtpy.QtWidgets import QApplication

        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            QApplication.processEvents()
            time.sleep(0.001)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.longest_ms = max(self.longest_ms, 1000 * (now - self._last_s))
        self._last_s = now


def main() -> None:
    """Measure every kind of work and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--system", default="threshold", choices=("threshold", "model"))
    parser.add_argument("--limit-ms", type=float, default=150.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        worst = measure(arguments.side, arguments.system, Path(folder))
    sys.stdout.flush()
    raise SystemExit(int(worst > arguments.limit_ms))


def measure(side: int, system: str, folder: Path) -> float:
    """Print the stall of each step; return the longest in ms."""
    import os

    os.environ["SEGONE_PROJECT"] = str(folder / "project")
    from segone_napari.gui.app import open_viewer
    from segone_napari.gui.layers import image_layer_data

    viewer, widget = open_viewer(None, **_options(system))
    viewer.window.resize(1280, 800)
    data, arguments, _ = image_layer_data(_image(side))
    viewer.add_image(data, **arguments)
    stalls = Stalls()
    stalls.during(lambda: None, lambda: widget._work is not None)
    worst = 0.0
    steps = list(_steps(viewer, widget, folder))
    for name, action, is_done in steps:
        first = stalls.during(action, is_done)
        print(f"{name:<34}{first:8.0f} ms", flush=True)
        if "first" not in name:
            worst = max(worst, first)
    print(f"{'longest':<34}{worst:8.0f} ms")
    viewer.close()
    return worst


def _steps(
    viewer: Any, widget: Any, folder: Path
) -> list[tuple[str, Callable[[], Any], Callable[[], bool]]]:
    """Each kind of work: its name, what begins it, and whether it has ended."""

    def idle() -> bool:
        return not widget.is_working and not widget._work.is_busy

    def layer() -> Any:
        return viewer.layers["left hippocampus"]

    def stroke() -> None:
        viewer.layers.selection.active = layer()
        layer().mode = "paint"
        with layer().block_history():
            for column in range(60, 120):
                layer().paint((data_middle(), 100, column), 1)

    def data_middle() -> int:
        return int(layer().data.shape[0] // 2)

    def export() -> None:
        widget.open_export()
        window = _export_window(widget)
        window._folder.setText(str(folder / "export"))
        for box in window._formats.values():
            box.setChecked(True)
        window.export()

    def exported() -> bool:
        words = _export_window(widget)._words.text()
        if words.startswith("Nothing"):
            raise SystemExit(words)
        return words.startswith("Wrote")

    def remove() -> None:
        widget._work.remove(widget._work.row_named("right hippocampus").id)

    return [
        ("segment, first", lambda: widget.ask("right hippocampus"), idle),
        ("segment", lambda: widget.ask("left hippocampus; brain"), idle),
        ("change the slice", lambda: viewer.dims.set_current_step(0, data_middle()), idle),
        ("select a structure", lambda: widget._work.go_to(widget._work.rows[1].id), idle),
        ("brush, first", stroke, idle),
        ("undo a stroke", widget._correcting.undo, idle),
        ("redo a stroke", widget._correcting.redo, idle),
        ("brush", stroke, idle),
        ("save", lambda: None, lambda: widget._work.history.is_saved),
        ("smooth", lambda: widget._correcting.repair("smooth"), idle),
        ("keep the largest part", lambda: widget._correcting.repair("largest"), idle),
        ("undo a repair", widget._correcting.undo, idle),
        ("accept", widget._correcting.toggle_accepted, idle),
        ("make it a draft again", widget._correcting.toggle_accepted, idle),
        ("show the uncertainty", lambda: widget._show_doubt(True), idle),
        ("next doubtful slice", widget._next_doubtful, idle),
        ("remove a row", remove, idle),
        ("undo the removal", widget._correcting.undo, lambda: "right hippocampus" in viewer.layers),
        ("export all formats", export, exported),
    ]


def _options(system: str) -> dict[str, Any]:
    if system == "model":
        return {}
    return {"make_session": lambda preset, device: Threshold()}


def _export_window(widget: Any) -> Any:
    from segone_napari.gui.exporting import ExportWindow

    return widget.findChildren(ExportWindow)[-1]


def _image(side: int) -> Volume:
    x, y, z = np.ogrid[:side, :side, :side]
    far = np.sqrt((x - side / 2) ** 2 + (y - side / 2) ** 2 + (z - side / 2) ** 2)
    data = np.where(far < 0.4 * side, 100.0 + 20 * np.sin(far / 5), 0.0).astype(np.float32)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = side / 2, side / 2, -side / 2
    return Volume.from_affine(data, affine, "cube.nii.gz")


if __name__ == "__main__":
    main()
