"""Seeing doubt: the layer that shows the uncertainty, and the way to the next doubtful slice."""

from __future__ import annotations

from typing import Any

from napari.layers import Image
from napari.utils import Colormap

from segone_napari.gui import layers
from segone_napari.gui.doubt import Doubt, next_doubtful
from segone_napari.gui.imagework import ImageWork
from segone_napari.gui.turns import Turns

ROLE = "uncertainty"


_COLOURS = Colormap(
    [[1.0, 0.25, 0.0, 0.0], [1.0, 0.45, 0.0, 0.55], [1.0, 0.95, 0.3, 0.9]], name="uncertainty"
)
"""From nothing over orange to yellow, so that the image stays visible where the model is sure."""


def is_doubt_layer(layer: Any) -> bool:
    """Whether a layer is one that shows an uncertainty."""
    return bool(layer.metadata.get("segone_role") == ROLE)


class Review:
    """The doubt about one image."""

    def __init__(self, viewer: Any, image: Image, turns: Turns):
        self._viewer = viewer
        self._image = image
        self._turns = turns
        self._layer: Image | None = None
        self._is_coming = False
        self._seen: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
        self.doubt: Doubt | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the uncertainty can be seen."""
        return self._layer is not None and (self._layer.visible or self._is_coming)

    def set_doubt(self, doubt: Doubt | None) -> None:
        """Take the uncertainty of new results."""
        if doubt is None:
            return
        self.doubt = doubt
        self._seen = {0: set(), 1: set(), 2: set()}
        if self._layer is not None:
            self._layer.data = doubt.values

    def show(self, is_shown: bool) -> None:
        """Show or hide the uncertainty's layer, without changing what is selected."""
        layer = self._layer
        if layer is not None and layer in self._viewer.layers:
            self._turns.never_mind(layer)
            layer.visible, self._is_coming = is_shown, False
        elif is_shown and self.doubt is not None and layer is None:
            self._layer, self._is_coming = _doubt_layer(self._image, self.doubt), True
            self._turns.later(self._add_layer)
        elif not is_shown:
            self.close()

    def _add_layer(self) -> None:
        if self._layer is not None:
            self._turns.add(self._layer)
            self._turns.do(self._on_there)

    def _on_there(self) -> None:
        self._is_coming = False

    def on_layer_removed(self, layer: Any) -> None:
        """Follow a person who deleted the layer."""
        if layer is self._layer:
            self._layer = None

    def go_to_next(self, work: ImageWork) -> str:
        """Go to the next doubtful slice along the slider; return what to say about it."""
        plane = layers.slice_on_screen(self._viewer, self._image)
        if plane is None:
            return "The next doubtful slice is shown in 2-D: switch the view back first"
        if self.doubt is None:
            return "There is no uncertainty yet: segment with Balanced or Best"
        axis = plane[0]
        drafts = [row for row in work.rows if row.state == "draft"]
        by_slice = self.doubt.by_slice([row.name for row in drafts], axis)
        seen = self._seen[axis].union(*(work.corrected_on_layer(row.id, axis) for row in drafts))
        index = next_doubtful(by_slice, seen)
        if index is None:
            self._seen[axis].clear()
            return "No slice is worth another look; N begins again with the most doubtful one"
        self._seen[axis].add(index)
        self._go(axis, index)
        worst = max(drafts, key=lambda row: self._at(row.name, axis, index))
        return f"Slice {index}: the most doubtful is {worst.name}"

    def close(self) -> None:
        """Take the layer away."""
        layer, self._layer, self._is_coming = self._layer, None, False
        if layer is not None:
            self._turns.remove([layer])

    def _at(self, name: str, axis: int, index: int) -> float:
        assert self.doubt is not None
        return float(self.doubt.by_slice([name], axis)[index])

    def _go(self, axis: int, index: int) -> None:
        """Move the slider alone: where the other axes stand stays as it is."""
        point = [0, 0, 0]
        point[axis] = index
        world = self._image.data_to_world(point)
        self._viewer.dims.set_point(axis + self._viewer.dims.ndim - 3, world[axis])


def _doubt_layer(image: Image, doubt: Doubt) -> Image:
    metadata = {key: value for key, value in image.metadata.items() if key != "warnings"}
    return Image(
        doubt.values,
        name="uncertainty",
        scale=image.scale,
        translate=image.translate,
        rotate=image.rotate,
        shear=image.shear,
        affine=image.affine,
        units=image.units,
        axis_labels=image.axis_labels,
        colormap=_COLOURS,
        blending="translucent",
        contrast_limits=(0.0, 1.0),
        metadata=metadata | {"segone_role": ROLE},
    )
