"""Clicks and a box on the slice on screen, and SAM2's answer to them: a preview to take or drop.

The preview is a Labels layer of its own that shows the outline, the clicks (+ and −) and the box;
nothing changes in the structure until it is taken. Knows nothing of the panel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined, unused-ignore]
from scipy import ndimage

from segone_napari.gui import layers
from segone_napari.gui.imagework import ImageWork
from segone_napari.gui.sam2 import Said, Sam2, Slice

Tool = Literal["click_add", "click_subtract", "box"]
TOOLS: tuple[Tool, ...] = ("click_add", "click_subtract", "box")

PREVIEW = "SAM2 preview"
ROLE = "preview"
MARK_MM = 2.5
"""How far a mark's arms reach from the click."""
REMOVE_AFTER_MS = 60
DRAG_PX = 4
"""A press that moves less is a click."""

_INSIDE, _OUTLINE, _PLUS, _MINUS, _BOX = 1, 2, 3, 4, 5
_COLOURS = {
    None: (0.0, 0.0, 0.0, 0.0),
    0: (0.0, 0.0, 0.0, 0.0),
    _INSIDE: (1.0, 1.0, 0.3, 0.22),
    _OUTLINE: (1.0, 1.0, 0.3, 1.0),
    _PLUS: (0.2, 1.0, 0.4, 1.0),
    _MINUS: (1.0, 0.35, 0.3, 1.0),
    _BOX: (0.4, 0.85, 1.0, 1.0),
}

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Step:
    """What was said so far on a slice, and what SAM2 made of it (H, W), 0 to 1, or None yet."""

    said: Said
    probability: NDArray[np.float32] | None = None
    quality: float = 0.0

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """(H, W) what would be taken, or None."""
        return None if self.probability is None else self.probability > 0.5


class Clicks(QObject):  # type: ignore[misc, unused-ignore]
    """The tools that ask SAM2, on one structure at a time.

    Signals
    -------
    changed : the tool or the preview is different now.
    told : words for the status line.
    failed : an error for the person.
    """

    changed = Signal()
    told = Signal(str)
    failed = Signal(object)

    def __init__(self, viewer: Any, sam2: Sam2, parent: QObject | None = None):
        super().__init__(parent)
        self.tool: Tool | None = None
        self.where: Slice | None = None  # the slice that the steps are about
        self._viewer = viewer
        self._sam2 = sam2
        self._work: ImageWork | None = None
        self._row_id = 0
        self._layer: Labels | None = None  # the structure's
        self._preview: Labels | None = None
        self._put_away: list[Labels] = []
        self._steps: list[Step] = []
        self._is_own_doing = False

    # What there is -------------------------------------------------------------------------

    @property
    def step(self) -> Step | None:
        """The last step, if anything was said."""
        return self._steps[-1] if self._steps else None

    @property
    def can_be_taken(self) -> bool:
        """Whether there is a preview."""
        return self.step is not None and self.step.probability is not None

    # The tool ------------------------------------------------------------------------------

    def choose(self, tool: Tool, work: ImageWork, row_id: int) -> None:
        """Ask about this structure by this tool from now on; the same tool again leaves it."""
        if tool == self.tool and row_id == self._row_id and work is self._work:
            self.leave()
            return
        layer = work.layer_of(row_id)
        if layer is not None:
            if layer is not self._layer:
                self._turn_to(layer, work, row_id)
            self._take_up(layer, tool)

    def _turn_to(self, layer: Labels, work: ImageWork, row_id: int) -> None:
        self.leave()
        self._layer, self._work, self._row_id = layer, work, row_id
        layer.mouse_drag_callbacks.append(self._on_press)
        # While there is nothing to drop, Esc puts the tool away; later it is napari's again.
        layer.bind_key("Escape", lambda layer: self._on_escape(), overwrite=True)

    def _take_up(self, layer: Labels, tool: Tool) -> None:
        self.tool = tool
        self._is_own_doing = True  # our own change of the mode ends nothing
        if not layer.visible:
            layer.visible = True
        layer.mode = "pan_zoom"
        self._is_own_doing = False
        layer.mouse_pan = tool != "box"
        layer.cursor = "cross"
        self.look()
        self.changed.emit()

    def leave(self) -> None:
        """Put the tool away, and what was not taken with it."""
        layer = self._layer
        if layer is None or self._is_own_doing:
            return
        self._is_own_doing = True
        self.drop()
        self._layer = None
        if self._on_press in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._on_press)
        layer.bind_key("Escape", None, overwrite=True)
        layer.cursor = "standard"
        layer.mouse_pan = str(layer.mode) == "pan_zoom"
        self.tool, self._work, self._row_id = None, None, 0
        self._is_own_doing = False
        preview, self._preview = self._preview, None
        if preview is not None:  # in a turn of its own: napari takes a tenth of a second for it
            self._put_away.append(preview)
            QTimer.singleShot(REMOVE_AFTER_MS, self._remove_previews)
        self.changed.emit()

    def _remove_previews(self) -> None:
        while self._put_away:
            preview = self._put_away.pop()
            if preview in self._viewer.layers:
                self._viewer.layers.remove(preview)

    def on_mode(self, layer: Any) -> None:
        """Follow a person who took another of napari's tools."""
        if layer is self._layer and not self._is_own_doing:
            self.leave()

    def on_selected(self, layer: Any) -> None:
        """Follow a person who selected another layer."""
        if self.tool is not None and layer is not self._layer and not self._is_own_doing:
            self.leave()

    def on_layer_removed(self, layer: Any) -> None:
        """Follow a person who deleted the structure's layer or the preview."""
        if layer is self._layer:
            self.leave()
        elif layer is self._preview:
            self._preview = None
            self.drop()

    def look(self) -> None:
        """Let SAM2 look at the slice on screen, so that the first click needn't wait."""
        where = self._on_screen()
        if self.tool is not None and where is not None and not self._steps:
            self._sam2.look(where, self.failed.emit)

    # The preview ---------------------------------------------------------------------------

    def take(self) -> None:
        """Make the preview the structure's mask on its slice: an edit like every other."""
        step, where, work, row_id = self.step, self.where, self._work, self._row_id
        if step is None or step.mask is None or where is None or work is None:
            return
        mask = step.mask
        self._clear()
        work.set_slices(row_id, where.axis, where.index, mask[None].astype(np.uint8), kind="sam2")
        self.told.emit(f"Taken on slice {where.index}; G spreads it further")
        self.changed.emit()

    def drop(self) -> None:
        """Forget the preview and all that was said."""
        if self._steps:
            self._clear()
            self.told.emit("Dropped; the outline is as it was")
            self.changed.emit()

    def step_back(self) -> None:
        """Take the last click or box back."""
        self._sam2.cancel()
        del self._steps[-1:]
        if not self._steps:
            self._clear()
            self.told.emit("No click is left; the outline is as it was")
        self._draw()
        self.changed.emit()

    def _clear(self) -> None:
        self._sam2.cancel()
        self._steps = []
        self._draw()
        self.where = None
        if self._layer is not None:
            self._layer.bind_key("Enter", None, overwrite=True)

    def _say(self, change: Callable[[Said], Said]) -> None:
        """Add to what was said on the slice on screen, and ask."""
        where, work = self._on_screen(), self._work
        if where is None or work is None:
            self.told.emit("Clicks and boxes are for slices: switch the view to 2-D first")
            return
        if self._steps and not where.is_same_as(self.where):
            self._clear()
        first = not self._steps
        self.where = where
        former = self.step or Step(Said(mask=self._mask_there(where, work)))
        known = former.probability if former.probability is not None else former.said.mask
        said = change(replace(former.said, mask=known))
        self._steps.append(Step(said))
        self._draw()
        if first and self._layer is not None:  # while there is a preview, Enter takes it
            self._layer.bind_key("Enter", lambda layer: self.take(), overwrite=True)
        self.told.emit("SAM2 looks …")
        self.changed.emit()
        self._sam2.propose(where, said, self._on_proposed, self._on_failed)

    def _mask_there(self, where: Slice, work: ImageWork) -> NDArray[np.float32] | None:
        mask = layers.plane_of(work.mask_on_layer(self._row_id), where.axis, where.index) != 0
        return mask.astype(np.float32) if mask.any() else None

    def _on_proposed(self, proposal: Any) -> None:
        if not self._steps or self.where is None:
            return
        self._steps[-1] = replace(
            self._steps[-1], probability=proposal.probability, quality=proposal.quality
        )
        self._draw()
        self.told.emit("Enter takes it, Esc drops it, clicks refine it")
        self.changed.emit()

    def _on_failed(self, error: Exception) -> None:
        self._clear()
        self.changed.emit()
        self.failed.emit(error)

    def _on_escape(self) -> None:
        if self._steps:
            self.drop()
        else:
            self.leave()

    # The mouse -----------------------------------------------------------------------------

    def _on_press(self, layer: Labels, event: Any) -> Iterator[None]:
        tool = self.tool
        if tool is None or event.button != 1 or len(event.dims_displayed) != 2:
            return
        start, start_px = self._pixel(event), np.asarray(event.pos)
        yield
        has_moved = False
        while event.type == "mouse_move":
            has_moved |= bool(np.abs(np.asarray(event.pos) - start_px).max() > DRAG_PX)
            if has_moved and tool == "box" and start is not None:
                self._draw(_box(start, self._pixel(event) or start))
            yield
        stop = self._pixel(event)
        if start is None or stop is None:
            return
        if tool == "box":
            if has_moved:
                box = _box(start, stop)
                self._say(lambda said: Said(box=box))
            else:
                self.told.emit("Drag a box around the structure")
        elif not has_moved:  # a drag moves the view
            inside = (tool == "click_add") != ("Shift" in event.modifiers)
            self._say(
                lambda said: replace(
                    said, points=(*said.points, start), labels=(*said.labels, int(inside))
                )
            )

    def _pixel(self, event: Any) -> tuple[float, float] | None:
        """Row and column of the mouse on the slice on screen, or None beside the image."""
        where, layer = self._on_screen(), self._layer
        if where is None or layer is None:
            return None
        place = np.asarray(layer.world_to_data(event.position))[-3:]
        rows, columns = (float(n) for axis, n in enumerate(place) if axis != where.axis)
        height, width = where.shape
        is_inside = -0.5 <= rows < height - 0.5 and -0.5 <= columns < width - 0.5
        if not is_inside and self.tool != "box":
            return None
        return min(max(rows, 0.0), height - 1.0), min(max(columns, 0.0), width - 1.0)

    def _on_screen(self) -> Slice | None:
        if self._work is None:
            return None
        plane = layers.slice_on_screen(self._viewer, self._work.image)
        return None if plane is None else Slice(self._work.values, *plane)

    # Drawing -------------------------------------------------------------------------------

    def _draw(self, box: _Box | None = None) -> None:
        """Show the last step, or a box that is being drawn."""
        where = self.where if box is None else self._on_screen()
        if where is None or self._work is None:
            return
        if not self._steps and box is None and self._preview is None:
            return
        step = self.step if self.where is None or where.is_same_as(self.where) else None
        preview = self._preview or self._add_preview(self._work)
        data = np.moveaxis(preview.data, where.axis, 0)
        data[where.index] = picture(where, step if box is None else None, box)
        preview.refresh(extent=False)

    def _add_preview(self, work: ImageWork) -> Labels:
        empty = np.zeros(work.image.data.shape, dtype=np.uint8)
        preview = layers.labels_layer(work.image, PREVIEW, (255, 255, 0), empty)
        preview.colormap = DirectLabelColormap(color_dict=_COLOURS)
        preview.opacity = 1.0
        preview.editable = False
        preview.metadata["segone_role"] = ROLE
        self._preview = preview
        self._is_own_doing = True  # should napari select it after all
        layers.add_unselected(self._viewer, preview)
        self._is_own_doing = False
        return preview


def picture(where: Slice, step: Step | None, box: _Box | None = None) -> NDArray[np.uint8]:
    """(H, W) labels: the outline of a step's mask, its clicks and its box."""
    out = np.zeros(where.shape, dtype=np.uint8)
    spacing = [mm for axis, mm in enumerate(where.spacings) if axis != where.axis]
    if step is not None:
        if step.mask is not None:
            out[step.mask] = _INSIDE
            out[step.mask & ~ndimage.binary_erosion(step.mask)] = _OUTLINE
        box = step.said.box if box is None else box
    if box is not None:
        first_row, first_column, last_row, last_column = (round(n) for n in box)
        out[[first_row, last_row], first_column : last_column + 1] = _BOX
        out[first_row : last_row + 1, [first_column, last_column]] = _BOX
    for point, label in zip(step.said.points, step.said.labels, strict=True) if step else ():
        row, column = (round(n) for n in point)
        arms = [max(1, round(MARK_MM / mm)) for mm in spacing]
        out[row, max(0, column - arms[1]) : column + arms[1] + 1] = _PLUS if label else _MINUS
        if label:
            out[max(0, row - arms[0]) : row + arms[0] + 1, column] = _PLUS
    return out


def _box(start: tuple[float, float], stop: tuple[float, float]) -> _Box:
    (first_row, last_row), (first_column, last_column) = (
        sorted(pair) for pair in zip(start, stop, strict=True)
    )
    return first_row, first_column, last_row, last_column
