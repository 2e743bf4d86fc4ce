"""Letters at the edges of the canvas that say which way the patient lies: R L A P S I."""

from __future__ import annotations

from typing import Any

from napari.components.overlays import TextOverlay

from segone_napari.gui.layers import Edge, LayerImage, edge_letters

_POSITIONS: dict[Edge, str] = {
    "top": "top_center",
    "bottom": "bottom_center",
    "left": "middle_left",
    "right": "middle_right",
}
_FULL = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "feet"}


class EdgeLetters:
    """Four overlays on a viewer's canvas that follow its axes."""

    def __init__(self, viewer: Any):
        self._viewer = viewer
        self._overlays: dict[Edge, TextOverlay] = {
            edge: TextOverlay(position=position, font_size=14, visible=False)
            for edge, position in _POSITIONS.items()
        }
        for edge, overlay in self._overlays.items():
            viewer.canvas.overlays[f"segone_{edge}"] = overlay

    def update(self, image: LayerImage | None) -> str:
        """Show the letters for an image; return the words for where the patient's left is."""
        letters = edge_letters(self._viewer, image.world_axes) if image is not None else {}
        doubt = "" if image is None or image.is_placed else "?"
        for edge, overlay in self._overlays.items():
            overlay.text = letters.get(edge, "") + doubt if edge in letters else ""
            overlay.visible = edge in letters
        if image is None:
            return ""
        return _words(letters)

    def texts(self) -> dict[Edge, str]:
        """What stands at each edge."""
        return {edge: overlay.text for edge, overlay in self._overlays.items()}

    def remove(self) -> None:
        """Take the letters off the canvas."""
        for edge in self._overlays:
            self._viewer.canvas.overlays.pop(f"segone_{edge}", None)


def _words(letters: Any) -> str:
    """Where the patient's left is on screen, or what the edges are if it is towards the viewer."""
    arrows = {"left": "◂", "right": "▸", "top": "▴", "bottom": "▾"}
    for edge, letter in letters.items():
        if letter == "L":
            return f"The patient's left is on the {edge} {arrows[edge]}"
    if letters:
        return f"Seen from the side: {_FULL[letters['left']]} on the left ◂"
    return "3-D view: which side is left is shown in 2-D"
