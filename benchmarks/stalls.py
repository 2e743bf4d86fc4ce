"""How long the window stands still: the longest stall of the event loop for everything it does.

    python benchmarks/stalls.py [--side 256] [--system model|threshold] [--limit-ms 150]
                                [--runs 1] [--explain]

A timer ticks every 5 ms; the longest gap between two ticks while something is done is how long a
person could not have moved the mouse ("stall"). "busy" is how much of such a gap the window's own
thread computed: on a computer that does other work as well, the rest is waiting for a core.

``threshold`` is a system that answers at once on a cube of `--side` voxels, so that what is left is
the window's own work; ``model`` is the bundled checkpoint on the bundled T1 (256³), and also says
how long after Enter the first outline is on the slice on screen, for an image that is new to a
loaded model, and how long after *Cancel* the window and the worker are free again. SAM2 is one
that answers at once. `--explain` says where the window was in its longest
stalls. Of several `--runs` the best time of each step counts. Ends with status 1 if a stall is
longer than `--limit-ms`. Without a display, run it on a virtual one:
``xvfb-run -a -s "-screen 0 1440x1000x24" python ...``

Steps called "first" come once a session: libraries are loaded then and what napari shows is built.
They count like all others.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.runtime import Progress, no_progress
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

TICK_MS = 5
SPHERES = {"left hippocampus": (0.35, 0.06), "right hippocampus": (0.65, 0.06), "brain": (0.5, 0.3)}
"""Middle along x and radius, as shares of the cube's side."""


CANCEL_WHEN: dict[str, Callable[[float, float], bool]] = {
    "cancel after 0.5 s": lambda seconds, share: seconds > 0.5,
    "cancel while encoding": lambda seconds, share: share > 0.3,
    "cancel while sharpening": lambda seconds, share: share > 0.93,
}
"""When *Cancel* is pressed: by the seconds since Enter and the share that the bar shows."""


class Threshold:
    """Answers with spheres, at once."""

    def segment(
        self, image: Volume, prompts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[Result]:
        """Answer each prompt for the whole volume."""
        return [self._answer(image, prompt) for prompt in prompts]

    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
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


class Blobs:
    """Stands for SAM2: outlines a disc, at once; loads the libraries that a teacher needs."""

    def __init__(self) -> None:
        import segone_napari.models.teacher  # noqa: F401

    def set_slice(self, image: Any, spacing: tuple[float, float] = (1.0, 1.0)) -> None:
        """Look at a slice."""
        self._shape = image.shape

    def predict(
        self, box: Any = None, points: Any = None, labels: Any = None, mask: Any = None
    ) -> Any:
        """Outline a disc in the middle of the slice."""
        from segone_napari.models.teacher import Proposal

        rows, columns = np.ogrid[: self._shape[0], : self._shape[1]]
        far = np.hypot(rows - self._shape[0] / 2, columns - self._shape[1] / 2)
        return Proposal((far < 0.1 * self._shape[0]).astype(np.float32), 0.9)


class Stalls:
    """Lets the event loop run, and notes the longest time between two ticks of a timer."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self.where: Counter[str] = Counter()
        self._forget()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(TICK_MS)

    def during(self, action: Callable[[], Any], is_done: Callable[[], bool]) -> tuple[float, float]:
        """Do something, wait until it is done and drawn; return the longest stall and busy, ms."""
        from qtpy.QtWidgets import QApplication

        self._wait(0.3)
        self._forget()
        action()
        QApplication.processEvents()
        until_s = time.perf_counter() + 300
        while not is_done():
            QApplication.processEvents()
            time.sleep(0.001)
            if time.perf_counter() > until_s:
                raise SystemExit("no end within 300 s")
        self._wait(0.3)
        return self.longest_ms, self.busiest_ms

    def explain(self) -> None:
        """Note from now on what the window does whenever a tick is late."""
        import threading

        window = threading.get_ident()

        def watch() -> None:
            while True:
                time.sleep(TICK_MS / 1000)
                if time.perf_counter() - self._last_s > 10 * TICK_MS / 1000:
                    frame = sys._current_frames().get(window)
                    if frame is None:  # the program has ended
                        return
                    lines = [f"{f.name}:{f.lineno}" for f in traceback.extract_stack(frame)]
                    self.where[" > ".join(lines[-7:])] += 1

        threading.Thread(target=watch, daemon=True).start()

    def _forget(self) -> None:
        self.longest_ms, self.busiest_ms = 0.0, 0.0
        self._last_s, self._busy_s = time.perf_counter(), time.thread_time()
        self.where.clear()

    def _wait(self, seconds: float) -> None:
        from qtpy.QtWidgets import QApplication

        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            QApplication.processEvents()
            time.sleep(0.001)

    def _tick(self) -> None:
        now, busy_s = time.perf_counter(), time.thread_time()
        self.longest_ms = max(self.longest_ms, 1000 * (now - self._last_s))
        self.busiest_ms = max(self.busiest_ms, 1000 * (busy_s - self._busy_s))
        self._last_s, self._busy_s = now, busy_s


def main() -> None:
    """Measure every kind of work and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--system", default="threshold", choices=("threshold", "model"))
    parser.add_argument("--limit-ms", type=float, default=150.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--explain", action="store_true")
    arguments = parser.parse_args()
    best: dict[str, tuple[float, float]] = {}
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            for name, times in measure(arguments, Path(folder)):
                best[name] = min(best.get(name, times), times)
    if arguments.runs > 1:
        print(f"the best of {arguments.runs} runs")
        for name, times in best.items():
            _print(name, times)
    worst = max(best.values())[0], max(busy for _, busy in best.values())
    _print("longest", worst)
    sys.stdout.flush()
    raise SystemExit(int(worst[0] > arguments.limit_ms))


def measure(
    arguments: argparse.Namespace, folder: Path
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Do each step in a new window; print and give its name, longest stall and busy time in ms."""
    os.environ["SEGONE_PROJECT"] = str(folder / "project")
    from segone_napari.gui.app import open_viewer
    from segone_napari.gui.layers import image_layer_data

    viewer, widget = open_viewer(None, **_options(arguments.system))
    viewer.window.resize(1280, 800)
    data, options, _ = image_layer_data(_image(arguments.side, arguments.system))
    viewer.add_image(data, **options)
    stalls = Stalls()
    if arguments.explain:
        stalls.explain()
    stalls.during(lambda: None, lambda: widget._work is not None)
    for name, action, is_done in _steps(viewer, widget, folder):
        times = stalls.during(action, is_done)
        _print(name, times)
        for words, count in stalls.where.most_common(3):
            print(f"    {count:4} × {words}")
        yield name, times
    if arguments.system == "model":
        print(f"{'first outline after Enter':<34}{_first_outline_s(viewer, widget):8.1f} s")
        for name, is_time in CANCEL_WHEN.items():
            print(f"{name:<34}{_cancelled(viewer, widget, is_time)}", flush=True)
    viewer.close()


def _print(name: str, times: tuple[float, float]) -> None:
    print(f"{name:<34}{times[0]:8.0f} ms stall{times[1]:8.0f} ms busy", flush=True)


def _first_outline_s(viewer: Any, widget: Any) -> float:
    """Seconds from Enter to a visible outline, on an image that the loaded model has not seen."""
    from napari.layers import Labels

    start_s = _ask_about_new_image(viewer, widget)
    _until(lambda: any(isinstance(one, Labels) and one.visible for one in viewer.layers))
    viewer.screenshot(flash=False)  # drawn
    seconds = time.perf_counter() - start_s
    widget.cancel()
    return seconds


def _cancelled(viewer: Any, widget: Any, is_time: Callable[[float, float], bool]) -> str:
    """How long window and worker go on after *Cancel*, in words."""
    start_s = _ask_about_new_image(viewer, widget)
    bar = widget._form.progress

    def share() -> float:
        return bar.value() / bar.maximum() if bar.maximum() else 0.0

    _until(lambda: is_time(time.perf_counter() - start_s, share()))
    thread = next(iter(widget._engine._thread._threads)).ident
    clock = time.pthread_getcpuclockid(thread)
    cancelled_s, busy_s = time.perf_counter(), time.clock_gettime(clock)
    widget._form.cancel.click()
    _until(lambda: not widget.is_working)
    idle_s = time.perf_counter() - cancelled_s
    stopped = widget._engine._thread.submit(time.perf_counter)
    _until(stopped.done)
    worker_s = stopped.result() - cancelled_s
    busy_s = time.clock_gettime(clock) - busy_s
    return f"{idle_s:8.2f} s window {worker_s:7.2f} s worker {busy_s:7.2f} s busy"


def _ask_about_new_image(viewer: Any, widget: Any) -> float:
    """Press Enter on an image that nobody has seen; return when that was."""
    from segone_napari.gui.layers import image_layer_data

    sample = _image(0, "model")
    brighter = sample.data * np.random.default_rng().uniform(1.1, 1.5)  # or its rows were offered
    other = Volume.from_affine(brighter, sample.affine, "other.nii.gz")
    data, options, _ = image_layer_data(other)
    viewer.layers.clear()
    viewer.add_image(data, **options)
    _until(lambda: widget._work is not None)
    start_s = time.perf_counter()
    widget.ask("left cerebral white matter")
    return start_s


def _until(is_done: Callable[[], bool]) -> None:
    from qtpy.QtWidgets import QApplication

    while not is_done():
        QApplication.processEvents()
        time.sleep(0.001)  # the model needs the core that this would take


def _steps(
    viewer: Any, widget: Any, folder: Path
) -> list[tuple[str, Callable[[], Any], Callable[[], bool]]]:
    """Each kind of work: its name, what begins it, and whether it has ended."""

    def idle() -> bool:
        return not widget.is_working and not widget._work.is_busy

    def layer() -> Any:
        return viewer.layers["left hippocampus"]

    def select() -> None:
        widget._work.go_to(widget._work.row_named("left hippocampus").id)

    def stroke() -> None:
        with layer().block_history():
            for column in range(60, 120):
                layer().paint((data_middle(), 100, column), 1)

    def click() -> None:
        say = widget._correcting.clicks._say
        say(lambda said: replace(said, points=((100.0, 100.0),), labels=(1,)))

    def proposed() -> bool:
        return bool(widget._correcting.clicks.can_be_taken)

    def spread() -> bool:
        return idle() and not widget._correcting.is_spreading

    def doubt_is_shown() -> bool:
        return "uncertainty" in viewer.layers and bool(viewer.layers["uncertainty"].visible)

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
        ("select a structure", select, idle),
        ("choose the brush", lambda: widget._correcting.choose_tool("paint"), idle),
        ("brush, first", stroke, idle),
        ("undo a stroke", widget._correcting.undo, idle),
        ("redo a stroke", widget._correcting.redo, idle),
        ("brush", stroke, idle),
        ("save", lambda: None, lambda: widget._work.history.is_saved),
        ("choose Click +", lambda: widget._correcting.choose_click_tool("click_add"), idle),
        ("click, first", click, proposed),
        ("click", click, proposed),
        ("take the outline", widget._correcting.clicks.take, idle),
        ("spread it", widget._correcting.spread, spread),
        ("smooth", lambda: widget._correcting.repair("smooth"), idle),
        ("keep the largest part", lambda: widget._correcting.repair("largest"), idle),
        ("undo a repair", widget._correcting.undo, idle),
        ("accept", widget._correcting.toggle_accepted, idle),
        ("make it a draft again", widget._correcting.toggle_accepted, idle),
        ("show the uncertainty", lambda: widget._show_doubt(True), doubt_is_shown),
        ("next doubtful slice", widget._next_doubtful, idle),
        ("remove a row", remove, idle),
        ("undo the removal", widget._correcting.undo, lambda: "right hippocampus" in viewer.layers),
        ("export all formats", export, exported),
    ]


def _options(system: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "load_teacher": lambda source, device: Blobs(),
        "teacher": "one that answers at once",
    }
    if system != "model":
        options["make_session"] = lambda preset, device: Threshold()
    return options


def _export_window(widget: Any) -> Any:
    from segone_napari.gui.exporting import ExportWindow

    return widget.findChildren(ExportWindow)[-1]


def _image(side: int, system: str) -> Volume:
    if system == "model":
        return formats.read(SAMPLES["t1"].image_path)
    x, y, z = np.ogrid[:side, :side, :side]
    far = np.sqrt((x - side / 2) ** 2 + (y - side / 2) ** 2 + (z - side / 2) ** 2)
    data = np.where(far < 0.4 * side, 100.0 + 20 * np.sin(far / 5), 0.0).astype(np.float32)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = side / 2, side / 2, -side / 2
    return Volume.from_affine(data, affine, "cube.nii.gz")


if __name__ == "__main__":
    main()
