"""What napari draws on, and what must be done there before a layer goes."""

from __future__ import annotations

from typing import Any

MOST_ARRAYS = 16
"""OpenGL has at least so many vertex arrays, and what napari draws uses the first few."""


def native_canvas(viewer: Any) -> Any:
    """The widget that vispy draws on, or None; napari and vispy have no public way to it."""
    window = getattr(viewer.window, "_qt_viewer", None)
    canvas = getattr(getattr(window, "canvas", None), "native", None)
    return canvas if hasattr(canvas, "_vispy_update") else None


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
