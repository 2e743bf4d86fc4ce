"""Clicks and a box on the slice on screen, and SAM2's answer to them: a preview to take or drop.

The preview is a Labels layer of its own that shows the outline, the clicks (+ and −) and the box;
nothing changes in the structure until it is taken. Who has no mouse moves a cross by keys and
clicks with it. Knows nothing of the panel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]
from scipy import ndimage

from segone_napari.gui import layers
from segone_napari.gui.imagework import ImageWork
from segone_napari.gui.sam2 import Said, Sam2, Slice
from segone_napari.gui.turns import Turns

Tool = Literal["click_add", "click_subtract", "box"]
TOOLS: tuple[Tool, ...] = ("click_add", "click_subtract", "box")

PREVIEW = "SAM2 preview"
ROLE = "preview"
MARK_MM = 2.5
"""How far a mark's arms reach from the click."""
DRAG_PX = 4
"""A press that moves less is a click."""

MOVES: Mapping[str, tuple[int, int]] = {
    "Up": (-1, 0),
    "Down": (1, 0),
    "Left": (0, -1),
    "Right": (0, 1),
}
"""By an arrow key, how the cross moves on screen: down and to the right."""
FAR = 10
"""How many pixels the cross goes at once with Ctrl held, too."""
CROSS_KEYS = tuple(f"{held}-{arrow}" for held in ("Shift", "Control-Shift") for arrow in MOVES)
CLICK_KEY = "X"
CROSS_PX = 4
"""How long an arm of the cross is."""

_INSIDE, _OUTLINE, _PLUS, _MINUS, _BOX, _CROSS = 1, 2, 3, 4, 5, 6
_COLOURS = {
    None: (0.0, 0.0, 0.0, 0.0),
    0: (0.0, 0.0, 0.0, 0.0),
    _PLUS: (0.2, 1.0, 0.4, 1.0),
    _MINUS: (1.0, 0.35, 0.3, 1.0),
    _BOX: (0.4, 0.85, 1.0, 1.0),
    _CROSS: (1.0, 1.0, 1.0, 1.0),
}
_PROPOSED = ((1.0, 1.0, 0.3), (1.0, 0.3, 0.9))
"""An outline to take has the one of these that is further from the structure's own colour."""

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

    def __init__(self, viewer: Any, sam2: Sam2, turns: Turns, parent: QObject | None = None):
        super().__init__(parent)
        self.tool: Tool | None = None
        self.where: Slice | None = None  # the slice that the steps are about
        self._viewer = viewer
        self._sam2 = sam2
        self._turns = turns
        self._work: ImageWork | None = None
        self._row_id = 0
        self._layer: Labels | None = None  # the structure's
        self._preview: Labels | None = None
        self._steps: list[Step] = []
        self._cross: tuple[Slice, int, int] | None = None  # row and column, moved by keys
        self._corner: tuple[float, float] | None = None  # the first one of a box made by keys
        self._drawn: list[Slice] = []  # where something stands in the preview
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
        for key in CROSS_KEYS:
            layer.bind_key(key, self._mover(key), overwrite=True)
        layer.bind_key(CLICK_KEY, lambda layer: self._click_at_cross(), overwrite=True)

    def _take_up(self, layer: Labels, tool: Tool) -> None:
        self.tool, self._corner = tool, None
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
        self._give_back(layer)
        self.tool, self._work, self._row_id = None, None, 0
        self._cross, self._corner, self._drawn = None, None, []
        self._is_own_doing = False
        preview, self._preview = self._preview, None
        if preview is not None:
            self._turns.remove([preview])
        self.changed.emit()

    def stop(self) -> None:
        """Leave no trace on the canvas; touches nothing of this object's Qt half."""
        layer, self._layer = self._layer, None
        if layer is not None:
            layer.bind_key("Enter", None, overwrite=True)
            self._give_back(layer)
        if self._preview is not None and self._preview in self._viewer.layers:
            with suppress(RuntimeError):  # the viewer's own window is going, too
                self._viewer.layers.remove(self._preview)

    def _give_back(self, layer: Labels) -> None:
        """Let keys and mouse mean on a layer what they mean in napari."""
        if self._on_press in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._on_press)
        for key in ("Escape", CLICK_KEY, *CROSS_KEYS):
            layer.bind_key(key, None, overwrite=True)
        layer.cursor = "standard"
        layer.mouse_pan = str(layer.mode) == "pan_zoom"

    def on_mode(self, layer: Any) -> None:
        """Follow a person who took another of napari's tools."""
        if layer is self._layer and not self._is_own_doing:
            self.leave()

    def on_selected(self, layer: Any) -> None:
        """Follow a person who selected another layer."""
        is_ours = layer is self._layer or (layer is not None and layer is self._preview)
        if self.tool is not None and not is_ours and not self._is_own_doing:
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
        where, cross = self._on_screen(), self._cross
        if where is not None and cross is not None and where.has_the_plane_of(cross[0]):
            self._cross = (where, *cross[1:])
            self._draw()
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
        self._steps, self.where = [], None
        self._draw()
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

    # The keys ------------------------------------------------------------------------------

    def _mover(self, key: str) -> Callable[[Labels], None]:
        def move(layer: Labels) -> None:  # napari wants a name, which a partial has not
            self._on_arrow(key)

        return move

    def _on_arrow(self, key: str) -> None:
        """Move the cross, or show it where it begins."""
        where = self._on_screen()
        if where is None:
            return
        if self._cross is None or not where.has_the_plane_of(self._cross[0]):
            self._cross = (where, *self._middle(where))
        else:
            *held, arrow = key.split("-")
            steps = np.array(MOVES[arrow]) * (FAR if "Control" in held else 1)
            row, column = np.array(self._cross[1:]) + self._turned(steps)
            height, width = where.shape
            place = int(np.clip(row, 0, height - 1)), int(np.clip(column, 0, width - 1))
            self._cross = (where, *place)
        corner = self._corner
        self._draw(None if corner is None else _box(corner, self._cross[1:]))
        self.told.emit(f"X clicks at row {self._cross[1]}, column {self._cross[2]}")

    def _click_at_cross(self) -> None:
        where, cross, tool = self._on_screen(), self._cross, self.tool
        if where is None or tool is None:
            return
        if cross is None or not where.has_the_plane_of(cross[0]):
            self.told.emit("Move the cross with Shift and the arrow keys first")
            return
        place = float(cross[1]), float(cross[2])
        self._cross = (where, *cross[1:])
        if tool != "box":
            self._point(place, is_inside=tool == "click_add")
        elif self._corner is None:
            self._corner = place
            self._draw(_box(place, place))
            self.told.emit("X at the opposite corner ends the box")
        else:
            box, self._corner = _box(self._corner, place), None
            self._say(lambda said: Said(box=box))

    def _middle(self, where: Slice) -> tuple[int, int]:
        """Where the cross begins: in the middle of the structure's outline, or of the slice."""
        assert self._work is not None
        mask = layers.plane_of(self._work.mask_on_layer(self._row_id), where.axis, where.index)
        inside = np.argwhere(mask)
        if not len(inside):
            return where.shape[0] // 2, where.shape[1] // 2
        row, column = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
        return int(row), int(column)

    def _turned(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps down and to the right on screen as steps along the slice's rows and columns."""
        vertical, horizontal = (str(way) for way in self._viewer.scene.camera.orientation2d)
        signs = (-1 if vertical == "up" else 1), (-1 if horizontal == "left" else 1)
        steps = steps * np.array(signs)
        first, second = self._viewer.dims.displayed
        return steps if first < second else steps[::-1]

    def _point(self, place: tuple[float, float], *, is_inside: bool) -> None:
        self._say(
            lambda said: replace(
                said, points=(*said.points, place), labels=(*said.labels, int(is_inside))
            )
        )

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
            self._point(start, is_inside=inside)

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
        """Show the last step and the cross, or a box that is being drawn on the slice on screen."""
        shown, work = self._on_screen(), self._work
        if work is None:
            return
        cross = self._cross
        if cross is not None and not cross[0].is_same_as(shown):
            cross = None
        wanted = [] if self.where is None or not self._steps else [self.where]
        is_shown_too = shown is not None and not shown.is_same_as(self.where)
        if shown is not None and is_shown_too and (box is not None or cross is not None):
            wanted.append(shown)
        if not wanted and self._preview is None:
            return
        preview = self._preview or self._add_preview(work)
        for where in self._drawn:
            layers.plane_of(preview.data, where.axis, where.index)[:] = 0
        for where in wanted:
            step = self.step if where.is_same_as(self.where) else None
            is_shown = where.is_same_as(shown)
            layers.plane_of(preview.data, where.axis, where.index)[:] = picture(
                where,
                None if is_shown and box is not None else step,
                box if is_shown else None,
                cross[1:] if is_shown and cross is not None else None,
            )
        self._drawn = wanted
        preview.refresh(extent=False)

    def _add_preview(self, work: ImageWork) -> Labels:
        empty = np.zeros(work.image.data.shape, dtype=np.uint8)
        own = np.array(work.history.row(self._row_id).colour) / 255
        proposed = max(_PROPOSED, key=lambda colour: float(np.abs(own - colour).sum()))
        colours = {_INSIDE: (*proposed, 0.22), _OUTLINE: (*proposed, 1.0)}
        preview = layers.labels_layer(work.image, PREVIEW, (255, 255, 0), empty)
        preview.colormap = DirectLabelColormap(color_dict=_COLOURS | colours)
        preview.opacity = 1.0
        preview.editable = False
        preview.metadata["segone_role"] = ROLE
        self._preview = preview
        self._turns.add(preview)
        return preview


def picture(
    where: Slice,
    step: Step | None,
    box: _Box | None = None,
    cross: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """(H, W) labels: the outline of a step's mask, its clicks, its box, and the keys' cross."""
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
    if cross is not None:  # open in its middle, so that what is clicked stays visible
        row, column = cross
        for n in range(2, 2 + CROSS_PX):
            for place in (
                (row - n, column),
                (row + n, column),
                (row, column - n),
                (row, column + n),
            ):
                if 0 <= place[0] < out.shape[0] and 0 <= place[1] < out.shape[1]:
                    out[place] = _CROSS
    return out


def _box(start: tuple[float, float], stop: tuple[float, float]) -> _Box:
    (first_row, last_row), (first_column, last_column) = (
        sorted(pair) for pair in zip(start, stop, strict=True)
    )
    return first_row, first_column, last_row, last_column
