"""Take the README's screenshot: the real widget, the bundled model, the bundled T1.

    python docs/make_screenshot.py [--out docs/screenshot.png] [--theme dark|light]

Without a display, run it on a virtual one: ``xvfb-run -a -s "-screen 0 1440x1000x24" python ...``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from qtpy.QtWidgets import QApplication

from segone_napari.data.samples import SAMPLES
from segone_napari.gui.app import open_viewer

PROMPTS = "left hippocampus; right hippocampus; lateral ventricles; thalamus; brainstem; elephant"
WINDOW = (1280, 800)
ZOOM = 3.4  # screen pixels a mm
LONGEST_S = 600.0


def main() -> None:
    """Ask the prompts as a person would and save what the window shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("screenshot.png"))
    parser.add_argument("--theme", default="dark", choices=("dark", "light"))
    arguments = parser.parse_args()

    viewer, widget = open_viewer(SAMPLES["t1"].image_path)
    viewer.theme = arguments.theme
    viewer.window.resize(*WINDOW)
    wait(1.0)
    widget.ask(PROMPTS)
    started_s = time.monotonic()
    while widget.is_working:
        if time.monotonic() - started_s > LONGEST_S:
            raise SystemExit(f"no answer within {LONGEST_S:.0f} s")
        wait(0.1)
    show_hippocampus(viewer)
    wait(1.0)
    viewer.screenshot(str(arguments.out), canvas_only=False, flash=False)
    print(arguments.out)
    viewer.close()


def show_hippocampus(viewer: object) -> None:
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
