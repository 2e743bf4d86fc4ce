"""What would hold the window up when it is first needed, or fail there, done ahead.

napari loads libraries when it makes its first Labels layer, a first prompt needs the table of all
names, and a first brush its circle. Each of these takes the window a tenth of a second or more.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.transforms import Affine

from segone_napari.gui import garbage
from segone_napari.session import as_prompts

SWITCH_EVERY_S = 0.001
"""How long a worker may compute in Python while the window waits for its turn."""


def take_turns_often() -> None:
    """Let the window wait less for workers.

    Drawing goes in and out of Python a hundred times a frame, and each time a worker that computes
    may keep it for Python's usual 5 ms.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_EVERY_S))


def know_units() -> None:
    """Let napari build its table of units, before any worker does.

    It is built when the first layer is made. A second thread that makes a layer meanwhile finds
    half a table, and an image that is opened then fails.
    """
    Affine(affine_matrix=np.eye(3), ndim=2)


def load_libraries() -> None:
    """Load what the first prompt and the first layer need; for a worker."""
    with garbage.while_loading():
        as_prompts("brain; stones from the moon's far side")  # what isn't known takes most tables
        Labels(np.zeros((1, 1, 1), dtype=np.uint8))
        with suppress(ImportError):  # vispy keeps the dashes of lines that it has computed
            from vispy.visuals.line.dash_atlas import DashAtlas

            DashAtlas()


def build_brush_circle(viewer: Any) -> None:
    """Build the circle that is the brush's cursor, which napari does when it is first shown.

    napari has no public way to it; where it is elsewhere, it is built when it is needed.
    """
    circle = getattr(viewer.canvas.overlays, "_brush_circle", None)
    if circle is not None and not circle.visible:
        circle.visible = True
        circle.visible = False
