"""Segmentations that were opened become Labels layers over their image, and rows to correct.

The reader makes the layers; the widget calls `take_in` when a layer comes and when the work on an
image has been opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels

from segone_napari.exports.content import Segment, known_term
from segone_napari.exports.reading import place
from segone_napari.gui import layers, origins
from segone_napari.gui.origins import Origin
from segone_napari.project import Row
from segone_napari.runtime import BadInput

if TYPE_CHECKING:
    from segone_napari.gui.imagework import ImageWork

FACTS = "segone_segment"
"""Where a layer's metadata say what the file said of the structure, until it is a row."""


def layer_data(segment: Segment, path: Path, images: Iterable[Image]) -> tuple[Any, ...]:
    """Turn a segment into what napari makes a Labels layer of: (data, arguments, "labels").

    Parameters
    ----------
    images : the layers on screen. On the voxels of the first that fits the mask is put, so that
        it lies exactly over it, whatever part of it the file has and in whatever order.
    """
    facts = {
        "name": segment.name,
        "colour": segment.colour,
        "prompt": segment.prompt,
        "confidence": segment.confidence,
        "checkpoint": segment.checkpoint,
        "preset": segment.preset,
        "origin": Origin.of(segment),
    }
    for image in images:
        try:
            values = layers.read_layer(image)
            placed = place(segment, values.grid)
        except BadInput:
            continue
        mask = np.ascontiguousarray(values.layout.to_layer(placed.mask.data))
        layer = layers.labels_layer(image, segment.name, segment.colour, mask)
        layer.metadata[FACTS] = facts  # the path is the image's, for a DICOM segmentation
        made: tuple[Any, ...] = layer.as_layer_data_tuple()
        return made
    data, arguments, _ = layers.image_layer_data(segment.mask, str(path))
    kept = ("scale", "translate", "units", "axis_labels", "metadata")
    arguments = {key: arguments[key] for key in kept}
    arguments["metadata"] |= {FACTS: facts, "segone_name": segment.name, "path": None}
    shown = {"opacity": 0.6, "colormap": layers.colour_map(segment.colour), "name": segment.name}
    return np.ascontiguousarray(data), arguments | shown, "labels"


def take_in(viewer: Any, work: ImageWork, then: Callable[[], None] = lambda: None) -> None:
    """Make a row of every layer that was opened from a segmentation and fits the image.

    A layer that lies on the image's own voxels stays on screen as the row's; another one is
    replaced. Layers that fit no image stay as they are. `then` is called when a row is there.
    """
    for layer in list(viewer.layers):
        if isinstance(layer, Labels) and FACTS in layer.metadata:
            _take(viewer, work, layer, then)


def _take(viewer: Any, work: ImageWork, layer: Labels, then: Callable[[], None]) -> None:
    owner = layer.metadata.get("segone_image")
    if owner not in (None, work.image.unique_id):
        return
    facts = layer.metadata[FACTS]
    try:
        mask = layers.volume_from_attributes(
            np.asarray(layer.data), {"metadata": layer.metadata, "name": layer.name}
        )
        segment = place(Segment(facts["name"], facts["colour"], mask), work.values.grid)
    except BadInput:
        return
    del layer.metadata[FACTS]
    # Rows that wait to be added are not among the work's yet.
    names = {row.name for row in work.rows}
    names |= {one.name for one in viewer.layers if one is not layer and isinstance(one, Labels)}
    row = _row(facts, _free_name(facts["name"], names))
    layer.name = row.name
    is_over_image = owner is not None
    shown = {row.name: layer} if is_over_image else {}
    values = np.ascontiguousarray(segment.mask.data != 0, dtype=np.uint8)

    def finish() -> None:
        _keep_origin(work, row.name, facts["origin"])
        then()

    words = f"{origins.OPENED} {row.name}"
    work.put(lambda _: [(row, values)], lambda: shown, finish, words=words)
    if not is_over_image:
        viewer.layers.remove(layer)


def _keep_origin(work: ImageWork, name: str, origin: Origin) -> None:
    row = work.row_named(name)
    if row is not None:
        origins.keep(work.history, row.id, origin)


def _row(facts: dict[str, Any], name: str) -> Row:
    term = known_term(facts["name"])
    return Row(
        prompt=facts["prompt"] or facts["name"],
        name=name,
        side=term.side if term else None,
        colour=facts["colour"],
        confidence=facts["confidence"],
        checkpoint=facts["checkpoint"],
        preset=facts["preset"],
    )


def _free_name(name: str, taken: set[str]) -> str:
    """Number a name that is taken: an opened mask never replaces one that is there."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
