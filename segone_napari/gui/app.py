"""Opens napari with an image, the widget and results: what ``segone view`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segone_napari.data import formats
from segone_napari.runtime import BadInput
from segone_napari.systems.base import Result


def view(image_path: Path | None, *, results: Sequence[Result] | None = None) -> None:
    """Open napari with an image, the widget and results, and run until it is closed.

    Raises
    ------
    BadInput
        If the image can't be read (before a window opens), or there is no display.
    """
    open_viewer(image_path, results=results)
    import napari

    napari.run()


def open_viewer(
    image_path: Path | None,
    *,
    results: Sequence[Result] | None = None,
    viewer: Any = None,
    **widget_options: Any,
) -> tuple[Any, Any]:
    """Open napari without waiting for it; return (viewer, widget).

    Parameters
    ----------
    image_path : the image to open, or None for an empty viewer.
    results : shown over the image; they must be on its grid.
    viewer : an open viewer to use instead of a new one.
    widget_options : passed on to `SegOneWidget`.
    """
    volume = formats.read(image_path) if image_path is not None else None
    _require_display()
    import napari

    from segone_napari.gui.layers import image_layer_data
    from segone_napari.gui.widget import SegOneWidget

    viewer = viewer if viewer is not None else napari.Viewer(title="SegOne")
    if volume is not None:
        data, arguments, _ = image_layer_data(volume, str(image_path))
        viewer.add_image(data, **arguments)
    widget = SegOneWidget(viewer, **widget_options)
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")
    if results:
        widget.show_results(results)
    return viewer, widget


def _require_display() -> None:
    """Say in words what Qt would otherwise end the program for."""
    has_display = any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    )
    if sys.platform.startswith("linux") and not has_display:
        raise BadInput(
            "there is no display to open napari on; log in with a desktop, or use "
            "'segone segment' or 'segone demo --headless'"
        )
