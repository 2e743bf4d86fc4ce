"""What napari draws on, and what must be done there before a layer goes."""

from __future__ import annotations

import weakref
from typing import Any

MOST_ARRAYS = 16
"""OpenGL has at least so many vertex arrays, and what napari draws uses the first few."""


def native_canvas(viewer: Any) -> Any:
    """The widget that vispy draws on, or None; napari and vispy have no public way to it."""
    window = getattr(viewer.window, "_qt_viewer", None)
    canvas = getattr(getattr(window, "canvas", None), "native", None)
    return canvas if hasattr(canvas, "_vispy_update") else None


def protect(viewer: Any) -> None:
    """Release arrays before any layer goes, as long as the viewer lives.

    Also after the panel was closed: its layers stay, and what it drew with.
    """
    if hasattr(viewer.window, "_segone_protected"):
        return
    viewer.window._segone_protected = True
    reference = weakref.ref(viewer)

    def release(event: Any) -> None:
        viewer = reference()
        if viewer is not None:
            release_arrays(viewer)

    viewer.layers.events.removing.connect(release)


def release_arrays(viewer: Any) -> None:
    """Let OpenGL read from no array until something is drawn again; before a layer is removed.

    vispy leaves the arrays that it drew from enabled. A layer that is removed takes its own along,
    and what is drawn next, if only to see what was clicked on, has OpenGL read from where they
    were: with some drivers that ends the program.
    """
    canvas = native_canvas(viewer)
    if canvas is None or not canvas.isValid():
        return
    from vispy.gloo import gl

    canvas.makeCurrent()
    for number in range(MOST_ARRAYS):
        gl.glDisableVertexAttribArray(number)
