"""What the canvas always says of an image: which way the patient lies (R L A P S I), and mm."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from napari.components.overlays import ScaleBarOverlay, TextOverlay

from segone_napari.gui.layers import Edge, LayerImage, edge_letters

_POSITIONS: dict[Edge, str] = {
    "top": "top_center",
    "bottom": "bottom_center",
    "left": "middle_left",
    "right": "middle_right",
}
_FULL = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "feet"}


class EdgeLetters:
    """Overlays on a viewer's canvas that follow its axes: four letters and a scale."""

    def __init__(self, viewer: Any):
        self._viewer = viewer
        self._overlays: dict[Edge, TextOverlay] = {
            edge: TextOverlay(position=position, font_size=14, visible=False)
            for edge, position in _POSITIONS.items()
        }
        self._scale = ScaleBarOverlay(position="bottom_right", visible=False)
        for edge, overlay in self._overlays.items():
            viewer.canvas.overlays[f"segone_{edge}"] = overlay
        viewer.canvas.overlays["segone_scale"] = self._scale

    def update(self, image: LayerImage | None) -> str:
        """Show the letters for an image; return the words for where the patient's left is."""
        letters = edge_letters(self._viewer, image.world_axes) if image is not None else {}
        doubt = "" if image is None or image.is_placed else "?"
        for edge, overlay in self._overlays.items():
            overlay.text = letters.get(edge, "") + doubt if edge in letters else ""
            overlay.visible = edge in letters
        # A person who has switched napari's own scale bar on needs no second one.
        self._scale.visible = (
            image is not None and not self._viewer.canvas.overlays.scale_bar.visible
        )
        for overlay in (*self._overlays.values(), self._scale):
            for visual in _visuals(self._viewer, overlay):
                _draw_box_when_changed(visual)
        if image is None:
            return ""
        return _words(letters)

    def texts(self) -> dict[Edge, str]:
        """What stands at each edge."""
        return {edge: overlay.text for edge, overlay in self._overlays.items()}

    def remove(self) -> None:
        """Take letters and scale off the canvas."""
        for edge in self._overlays:
            self._viewer.canvas.overlays.pop(f"segone_{edge}", None)
        self._viewer.canvas.overlays.pop("segone_scale", None)


def _visuals(viewer: Any, overlay: Any) -> Iterator[Any]:
    """What draws an overlay; nothing where it isn't shown. napari has no public way to it."""
    window = getattr(viewer.window, "_qt_viewer", None)
    drawn = getattr(getattr(window, "canvas", None), "_viewer_overlay_to_visual", {})
    yield from drawn.get(overlay, ())


class _BoxWhenChanged:
    """Lets napari build the box behind an overlay when that has changed, and only then.

    It builds the boxes of all overlays, and what a graphics card draws them with, whenever a layer
    comes or a tool is chosen: of five overlays that is a tenth of a second in which the window
    stands still, and each picture after it takes longer.
    """

    def __init__(self, visual: Any):
        # no more than a weak reference: a visual that was taken off has to go at once, or it goes
        # on listening to the viewer
        self._visual = weakref.ref(visual)
        self._built: tuple[Any, ...] | None = None

    def __call__(self) -> None:
        visual = self._visual()
        if visual is None:
            return
        look = _look_of(visual)
        if look != self._built:
            self._built = look
            type(visual)._on_box_change(visual)


def _draw_box_when_changed(visual: Any) -> None:
    build = getattr(visual, "_on_box_change", None)
    if build is not None and not isinstance(build, _BoxWhenChanged):
        visual._on_box_change = _BoxWhenChanged(visual)


def _look_of(visual: Any) -> tuple[Any, ...]:
    """All that decides how the box behind an overlay looks and where it is drawn."""
    overlay, canvas = visual.overlay, visual.viewer.canvas
    node = visual.node
    return (
        overlay.box and visual._should_be_visible(),
        tuple(np.ravel(canvas.background_color)),
        None if overlay.box_color is None else tuple(np.ravel(overlay.box_color)),
        (visual.x_size, visual.y_size, *canvas.overlay_tiling.padding),
        (id(node.parent), id(node.transform), node.order),
    )


def _words(letters: Any) -> str:
    """Where the patient's left is on screen, or what the edges are if it is towards the viewer."""
    arrows = {"left": "◂", "right": "▸", "top": "▴", "bottom": "▾"}
    for edge, letter in letters.items():
        if letter == "L":
            return f"The patient's left is on the {edge} {arrows[edge]}"
    if letters:
        return f"Seen from the side: {_FULL[letters['left']]} on the left ◂"
    return "3-D view: which side is left is shown in 2-D"
