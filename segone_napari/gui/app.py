"""Opens napari with an image, the widget and results: what ``segone view`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segone_napari.data import formats
from segone_napari.data.choices import ManySeries, ManyVolumes
from segone_napari.gui.readers import Opened, open_image
from segone_napari.runtime import BadInput
from segone_napari.systems.base import Result


def view(
    image_path: Path | None,
    *,
    series: int | str | None = None,
    volume: int | None = None,
    results: Sequence[Result] | None = None,
    checkpoint: str = "",
    teacher: str | None = None,
) -> None:
    """Open napari with an image, the widget and results, and run until it is closed.

    Raises
    ------
    BadInput
        If the image can't be read (before a window opens), or there is no display.
    """
    open_viewer(
        image_path,
        series=series,
        volume=volume,
        results=results,
        checkpoint=checkpoint,
        teacher=teacher,
    )
    import napari

    napari.run()


def open_viewer(
    image_path: Path | None,
    *,
    series: int | str | None = None,
    volume: int | None = None,
    results: Sequence[Result] | None = None,
    checkpoint: str = "",
    viewer: Any = None,
    **widget_options: Any,
) -> tuple[Any, Any]:
    """Open napari without waiting for it; return (viewer, widget).

    Parameters
    ----------
    image_path : the image to open, or None for an empty viewer.
    series, volume : which one of several; a dialog asks where there are several and none is given.
    results, checkpoint : shown over the image, on its grid, and the weights that made them.
    viewer : an open viewer to use instead of a new one.
    widget_options : passed on to `SegOneWidget`.
    """
    opened = _open(image_path, series, volume) if image_path is not None else None
    _require_display()
    import napari

    from segone_napari.gui.widget import SegOneWidget

    viewer = viewer if viewer is not None else napari.Viewer(title="SegOne")
    if image_path is not None and opened is None:
        opened = open_image(image_path, series=series, volume=volume)
    if image_path is not None and opened is not None:
        data, arguments, _ = opened.layer_data(image_path)
        viewer.add_image(data, **arguments)
    widget = SegOneWidget(viewer, **widget_options)
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")
    if results:
        widget.show_results(results, checkpoint)
    return viewer, widget


def _open(path: Path, series: int | str | None, volume: int | None) -> Opened | None:
    """Open what needs no choice; None where a person must be asked in a window."""
    try:
        opened = open_image(path, series=series, volume=volume)
    except ManySeries:
        if series is not None:
            raise
        return None
    except ManyVolumes:
        if volume is not None or series is not None:
            raise
        return None
    return opened if opened is not None and formats.says_orientation(opened.image) else None


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
