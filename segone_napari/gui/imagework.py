"""The work on one image: rows and edits in an `EditHistory`, and the layers that show them.

A layer shows the history's own memory, so a stroke is in the mask as soon as it is painted; the
history is told of it and writes it down. What an undo or a repair changes is refreshed on screen.
Layers come and go with the rows, in turns of the event loop of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined, unused-ignore]

from segone_napari import editing
from segone_napari.gui import corrected, layers
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.layers import LayerImage
from segone_napari.gui.turns import Turns
from segone_napari.project import Change, EditHistory, ImageRef, Kind, Row, RowLocked
from segone_napari.project.values import BY_HAND
from segone_napari.runtime import SegOneError

Entry = tuple[Row, NDArray[np.uint8]]

REPAIRS: Mapping[str, tuple[str, str]] = {
    "largest": ("Largest", "Keep the largest part"),
    "holes": ("Fill holes", "Fill holes"),
    "smooth": ("Smooth", "Smooth"),
    "absent": ("Not there", "Clear and accept, since it isn't in this image"),
}
"""What stands on a repair's button, and what it does."""


class ImageWork(QObject):  # type: ignore[misc, unused-ignore]
    """Rows of one image, their edits and their layers.

    Attributes
    ----------
    export_folder : where this image's structures were last exported to; None if they weren't.

    Signals
    -------
    changed : rows, masks or what can be undone are different now.
    visibility_changed : a layer was shown or hidden.
    told : words for the person about what was done.
    failed : an error for the person.
    """

    changed = Signal()
    visibility_changed = Signal()
    told = Signal(str)
    failed = Signal(object)

    def __init__(
        self,
        viewer: Any,
        image: Image,
        values: LayerImage,
        reference: ImageRef,
        history: EditHistory,
        keeper: Keeper,
        turns: Turns,
        bind_keys: Callable[[Labels], None],
        parent: QObject | None = None,
    ):
        super().__init__(parent)
        self.image = image
        self.values = values
        self.reference = reference
        self.history = history
        self.is_busy = False
        self.export_folder: Path | None = None
        self.warnings: dict[int, tuple[str, ...]] = {}
        self._viewer = viewer
        self._keeper = keeper
        self._turns = turns
        self._bind_keys = bind_keys
        self._layers: dict[int, Labels] = {}
        self._left_out: set[int] = set()  # accepted rows whose layer a person deleted
        self._voxels: dict[int, int] = {}
        self._edited: dict[int, bool] = {}
        self._deleted: list[int] = []  # rows whose layer a person has just deleted
        self._is_closed = False
        self._thens: list[Callable[[], None]] = []
        self._queued: list[Callable[[], None]] = []
        self._to_select: int | None = None  # the row whose layer is selected once all are there
        notes = history.notes.get("warnings", {})
        self.warnings = {int(row_id): tuple(words) for row_id, words in notes.items()}

    # What there is -------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows, in order."""
        return self.history.rows

    def row_named(self, name: str) -> Row | None:
        """The row of this name."""
        return next((row for row in self.rows if row.name == name), None)

    def layer_of(self, row_id: int) -> Labels | None:
        """The layer that shows a row, or None."""
        return self._layers.get(row_id)

    def row_of(self, layer: Any) -> Row | None:
        """The row that a layer shows, or None."""
        shown = next((row_id for row_id, one in self._layers.items() if one is layer), None)
        return next((row for row in self.rows if row.id == shown), None)

    def volume_ml(self, row_id: int) -> float:
        """The volume of a row's mask in millilitres."""
        if row_id not in self._voxels:
            self._voxels[row_id] = int(np.count_nonzero(self.history.masks[row_id]))
        return self._voxels[row_id] * self.values.grid.voxel_volume_ml

    def is_edited(self, row_id: int) -> bool:
        """Whether a person has changed a row's mask since its last result."""
        if row_id not in self._edited:
            self._edited[row_id] = corrected.is_edited(self.history, row_id)
        return self._edited[row_id]

    @property
    def source(self) -> corrected.Source:
        """The image and the work on it, as values that a worker may have."""
        return corrected.Source(self.reference, self.values, self.history)

    def mask_on_layer(self, row_id: int) -> NDArray[np.uint8]:
        """A row's mask in the layer's axis order, as a view."""
        return self.values.layout.to_layer(self.history.masks[row_id])

    # Edits ---------------------------------------------------------------------------------

    def put(
        self,
        decide: Callable[[EditHistory], Sequence[Entry]],
        shown: Callable[[], Mapping[str, Labels]],
        then: Callable[[], None],
        *,
        words: str = "",
        done: Callable[[], None] = lambda: None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Add rows or give them new masks, as one step; call `then` when they are on screen.

        Parameters
        ----------
        decide : called in the worker once it is this step's turn, for what to put; nobody edits
            until that is done, so that nothing painted or accepted meanwhile is overlooked.
        shown : called for, by a row's name, a layer that shows a part of it already and is to be
            its layer.
        done : called once the rows are there, before their layers come.
        failed : called with what went wrong; without it that is told.
        """

        def put() -> Change | None:
            with self.history.undisturbed():
                entries = decide(self.history)
                return self.history.put(entries, words=words) if entries else None

        def show(change: Change | None) -> None:
            if self._is_closed:
                return
            if change is None:
                done()
                then()
                return
            parts = shown()
            for row in self.rows:
                if row.id in change.added and row.name in parts:
                    self._adopt(row, parts[row.name])
            done()
            there = [row.id for row in self.rows if row.state != "not found"]
            self._to_select = next((n for n in reversed(there) if n in change.added), None)
            self._show(change, then)

        self._keeper.run(put, show, failed or self._fail)

    def undo(self) -> None:
        """Take the last edit back, wherever it was, and show where."""
        self._step(self.history.undo, "Took back")

    def redo(self) -> None:
        """Do again what was undone last."""
        self._step(self.history.redo, "Did again")

    def set_state(self, row_id: int, state: Any) -> None:
        """Accept a row, or make it a draft again."""
        name = self.history.row(row_id).name
        words = f"{name} is {'accepted, and locked' if state == 'accepted' else 'a draft again'}"
        self._do(
            lambda: self.history.set_row(replace(self.history.row(row_id), state=state)),
            lambda: self.told.emit(words),  # not before it is done, nor where that fails
        )

    def show_anyway(self, row_id: int) -> None:
        """Make a draft of what was not found, and go to its largest slice."""
        row = replace(self.history.row(row_id), state="draft")
        self._do(lambda: self.history.set_row(row), partial(self.go_to, row_id))

    def remove(self, row_id: int) -> None:
        """Take a row and its layer away; undo brings them back."""
        self._do(lambda: self.history.remove(row_id))

    def repair(self, row_id: int, name: str) -> None:
        """Do one of `REPAIRS` to a row."""
        if name == "absent":
            self._say_absent(row_id)
            return
        row, spacing = self.history.row(row_id), self.values.grid.spacing
        largest = partial(editing.keep_largest_part, parts=2 if row.side == "both" else 1)
        repairs: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
            "largest": largest,
            "holes": editing.fill_holes,
            "smooth": lambda mask: editing.smooth(mask, spacing),
        }
        words = f"{REPAIRS[name][1].lower()}: {row.name}"

        def work() -> Change | None:
            values = repairs[name](self.history.masks[row_id])
            return self.history.edit(row_id, values, kind="repair", words=words)

        self._change_in_thread(row_id, work, told=REPAIRS[name][1])

    def _say_absent(self, row_id: int) -> None:
        """Clear a row and accept it, as one step."""
        name = self.history.row(row_id).name

        def work() -> Change | None:
            with self.history.undisturbed():
                nothing = np.zeros_like(self.history.masks[row_id])
                row = replace(self.history.row(row_id), state="accepted")
                return self.history.put([(row, nothing)], kind="repair", words=f"not there: {name}")

        words = f"{name} is not there: accepted, and locked"
        self._change_in_thread(row_id, work, lambda: self.told.emit(words))

    def interpolate(self, row_id: int, axis: int) -> None:
        """Fill in the slices between corrected ones along array axis `axis`."""

        def work() -> Change | None:
            from segone_napari.systems.following import follow  # loads torch

            mask, answer = self.history.masks[row_id], self.history.last_result(row_id)
            slices = self.history.corrected_slices(row_id, axis)
            values = follow(self.values.volume, mask, answer, slices, axis)
            return self.history.edit(row_id, values, kind="interpolation")

        self.told.emit("Filling in between corrected slices …")
        self._change_in_thread(row_id, work, told="Fill in between corrected slices")

    def set_slices(
        self, row_id: int, axis: int, first: int, masks: NDArray[np.uint8], *, kind: Kind
    ) -> None:
        """Give slices new masks, as one step.

        Parameters
        ----------
        axis, first : the layer's axis that the slices lie along, and where the first one is.
        masks : (N, rows, columns) in the layer's axis order.
        """
        shape = self.image.data.shape
        sides = [slice(0, n) for n in shape]
        sides[axis] = slice(first, first + len(masks))
        box = layers.stored_box((sides[0], sides[1], sides[2]), self.values.layout, shape)
        values = self.values.layout.to_stored(np.moveaxis(masks, 0, axis))

        def work() -> Change | None:
            return self.history.edit(row_id, values, kind=kind, box=box)

        if len(masks) == 1:
            self._do(work)
        else:
            self._change_in_thread(row_id, work)

    def confirm(self, row_id: int, axis: int, index: int) -> None:
        """Keep that a slice along a layer's axis is right."""
        stored = self.values.layout.stored_plane(axis, index, self.image.data.shape)
        self._do(lambda: self.history.confirm(row_id, *stored))

    def corrected_on_layer(
        self, row_id: int, axis: int, kinds: Collection[Kind] = BY_HAND
    ) -> set[int]:
        """The slices along a layer's axis that a person corrected since the last result."""
        layout, size = self.values.layout, self.image.data.shape[axis]
        stored = self.history.corrected_slices(row_id, layout.axes[axis], kinds)
        return {size - 1 - index if layout.flips[axis] else index for index in stored}

    def set_visible(self, row_id: int, is_visible: bool) -> None:
        """Show or hide a row's layer; one that was deleted comes back."""
        layer = self.layer_of(row_id)
        if layer is not None:
            if layer.visible != is_visible:  # napari draws anew what was visible already
                layer.visible = is_visible
        elif is_visible:
            self._left_out.discard(row_id)
            self._add_missing(lambda: None)

    def go_to(self, row_id: int) -> None:
        """Select a row's layer and go to its largest slice."""
        self.set_visible(row_id, True)
        layer = self.layer_of(row_id)
        if layer is None or layer not in self._viewer.layers:
            if any(row.id == row_id and row.state != "not found" for row in self.rows):
                self._thens.append(partial(self.go_to, row_id))  # it is on its way
            return
        self._viewer.layers.selection.active = layer
        if self.volume_ml(row_id):
            # In the volume's own order the voxels lie one behind the other, which is fast.
            i, j, k = layers.largest_slices(self.history.masks[row_id])
            box = slice(i, i + 1), slice(j, j + 1), slice(k, k + 1)
            a, b, c = layers.layer_box(box, self.values.layout, layer.data.shape)
            layers.show_slice(self._viewer, layer, (a.start, b.start, c.start))

    def keep_warnings(self, warnings: Mapping[str, Sequence[str]]) -> None:
        """Keep the sentences that a result came with, by a row's name."""
        if not warnings:
            return
        for name, words in warnings.items():
            row = self.row_named(name)
            if row is not None:
                self.warnings[row.id] = tuple(words)
        self.history.note("warnings", {str(n): list(words) for n, words in self.warnings.items()})

    # Layers --------------------------------------------------------------------------------

    def show_all(self, then: Callable[[], None]) -> None:
        """Show every row that has a layer; call `then` when they are on screen."""
        self.changed.emit()
        self._add_missing(then)

    def on_layer_removed(self, layer: Any) -> None:
        """Follow a person who deleted one of our layers.

        Not at once: where the image goes with it, nothing was deleted but the image was closed.
        """
        row = self.row_of(layer)
        if row is not None:
            self._let_go(row.id)
            self._deleted.append(row.id)
            QTimer.singleShot(0, self._follow_deletions)

    def _follow_deletions(self) -> None:
        deleted, self._deleted = self._deleted, []
        if self._is_closed or self.image not in self._viewer.layers:
            return
        for row in self.rows:
            if row.id in deleted and row.state == "accepted":
                self._left_out.add(row.id)
            elif row.id in deleted:
                self._do(partial(self.history.remove, row.id))
        self.changed.emit()

    def close(self) -> None:
        """Take the layers away and let the case go, once all of it is on disk."""
        self._is_closed = True
        if self.history.is_saved:
            self._turns.remove([self._let_go(row_id) for row_id in list(self._layers)])
        self._keeper.run(self.history.close)

    def _step(self, step: Callable[[], Change | None], done: str) -> None:
        if self.is_busy:  # a repair is about to end; what was asked for is not dropped
            self._queued.append(partial(self._step, step, done))
            return
        change = step()
        if change is not None:
            self.told.emit(f"{done}: {change.words}")
            self._show(change, lambda: None)
            self._bring_into_view(change)

    def _do(
        self, edit: Callable[[], Change | None], then: Callable[[], None] = lambda: None
    ) -> None:
        if self.is_busy:
            self._queued.append(partial(self._do, edit, then))
            return
        try:
            change = edit()
        except SegOneError as error:
            self._fail(error)
            return
        if change is not None:
            self._show(change, then)

    def _change_in_thread(
        self,
        row_id: int,
        work: Callable[[], Change | None],
        then: Callable[[], None] | None = None,
        *,
        told: str = "",
    ) -> None:
        """Change a mask off the GUI thread, then call `then`; nobody may paint on it meanwhile.

        With `told`, what was done, it is said what became of it.
        """
        if self.is_busy:
            self._queued.append(partial(self._change_in_thread, row_id, work, then, told=told))
            return
        if row_id not in {row.id for row in self.rows}:
            self.told.emit(f"{told or 'Nothing done'}: the structure was taken back before")
            return
        layer, before_ml = self.layer_of(row_id), self.volume_ml(row_id)
        mode = layer.mode if layer is not None else None
        self._set_busy(row_id, True)

        def show(change: Change | None) -> None:
            if self._is_closed:
                return
            self._set_busy(row_id, False)
            if layer is not None and mode is not None and layer.editable:
                layer.mode = mode
            if change is not None:
                self._show(change, lambda: None)
                self._bring_into_view(change)
            if then is not None:
                then()
            elif told:
                self._tell_volume(told, row_id, before_ml, is_changed=change is not None)
            self.changed.emit()
            queued, self._queued = self._queued, []
            for one in queued:  # what makes it busy again puts the others back in the queue
                one()

        def failed(error: Exception) -> None:
            nonlocal then, told
            then, told = None, ""
            show(None)
            self._fail(error)

        self._keeper.run(work, show, failed)

    def _tell_volume(self, what: str, row_id: int, before_ml: float, *, is_changed: bool) -> None:
        after_ml = self.volume_ml(row_id)
        became = f"{before_ml:.2f} → {after_ml:.2f} mL" if is_changed else "there is nothing to do"
        self.told.emit(f"{what}: {self.history.row(row_id).name}, {became}")

    def _set_busy(self, row_id: int, is_busy: bool) -> None:
        self.is_busy = is_busy
        layer, row = self.layer_of(row_id), self.history.row(row_id)
        if layer is not None:
            layer.editable = not is_busy and row.state != "accepted"
        self.changed.emit()

    def _show(self, change: Change, then: Callable[[], None]) -> None:
        """Bring the screen in line with the history after a change."""
        for row_id in change.boxes:
            self._voxels.pop(row_id, None)
            self._edited.pop(row_id, None)
        wanted = {row.id: row for row in self.rows if row.state != "not found"}
        unwanted = [row_id for row_id in self._layers if row_id not in wanted]
        self._turns.remove([self._let_go(row_id) for row_id in unwanted])
        for row_id, row in wanted.items():
            layer = self._layers.get(row_id)
            if layer is None:
                continue
            self._follow(layer, row)
            if row_id in change.boxes:
                layer.refresh(extent=False)
        self.changed.emit()
        self._add_missing(then)

    def _add_missing(self, then: Callable[[], None]) -> None:
        """Add the layers that rows lack, then call `then`."""
        self._thens.append(then)
        if self._first_missing() is None and self._to_select is None:
            self._add_next()
        else:
            self._turns.later(self._add_next)

    def _add_next(self) -> None:
        """Add the layer of the first row that lacks one, and come back for the next."""
        if self._is_closed:
            return
        row = self._first_missing()
        if row is not None:
            layer = layers.labels_layer(
                self.image, row.name, row.colour, self.mask_on_layer(row.id)
            )
            self._own(row, layer)
            self._turns.add(layer)
            self._to_select = row.id
            self._turns.do(self._add_next)
            return
        chosen, self._to_select = self._to_select, None
        if chosen in self._layers:
            self._turns.do(partial(self._turns.select, self._layers[chosen]))
            self._turns.do(self._tell_changed)
            self._turns.do(self._end_adding)
        else:
            self._end_adding()

    def _tell_changed(self) -> None:
        if not self._is_closed:  # else Qt may have deleted this already
            self.changed.emit()

    def _end_adding(self) -> None:
        thens, self._thens = self._thens, []
        for then in thens:
            if not self._is_closed:
                then()

    def _first_missing(self) -> Row | None:
        """The first row that should have a layer and has none."""
        there = self._layers.keys() | self._left_out | set(self._deleted)
        wanted = (row for row in self.rows if row.state != "not found")
        return next((row for row in wanted if row.id not in there), None)

    def _adopt(self, row: Row, layer: Labels) -> None:
        """Make a layer that is on screen already the layer of a row."""
        if layer in self._viewer.layers:
            layer.data = self.mask_on_layer(row.id)
            self._own(row, layer)

    def _own(self, row: Row, layer: Labels) -> None:
        self._layers[row.id] = layer
        self._bind_keys(layer)
        layer.events.paint.connect(self._on_paint)
        layer.events.data.connect(self._on_data_replaced)
        layer.events.visible.connect(self._on_visible)
        self._follow(layer, row)

    def _follow(self, layer: Labels, row: Row) -> None:
        mask = self.mask_on_layer(row.id)
        if not np.shares_memory(layer.data, mask):
            layer.data = mask
        is_editable = row.state != "accepted"
        if layer.editable != is_editable:
            layer.editable = is_editable

    def _follow_again(self, row_id: int) -> None:
        layer = self._layers.get(row_id)
        if layer is not None and not self._is_closed:
            self._follow(layer, self.history.row(row_id))

    def _let_go(self, row_id: int) -> Labels:
        layer = self._layers.pop(row_id)
        layer.events.paint.disconnect(self._on_paint)
        layer.events.data.disconnect(self._on_data_replaced)
        layer.events.visible.disconnect(self._on_visible)
        return layer

    def _on_paint(self, event: Any) -> None:
        row = self.row_of(event.source)
        if row is None:
            return
        layout, shape = self.values.layout, event.source.data.shape
        atoms = layers.stored_atoms(event.value, layout, shape)
        try:
            change = self.history.record(row.id, atoms)
        except RowLocked as error:
            change = error.change
            self._fail(error)
            # a polygon and what a program paints are told of before they are written
            QTimer.singleShot(0, partial(self._put_back, row.id, atoms))
        if change is not None:
            self._show(change, lambda: None)

    def _put_back(self, row_id: int, atoms: Sequence[Any]) -> None:
        """Take back, once more, what was painted on a locked row."""
        if self._is_closed:
            return
        try:
            self.history.record(row_id, atoms)
        except RowLocked as error:
            self._show(error.change, lambda: None)

    def _on_data_replaced(self, event: Any) -> None:
        """A console or another plugin gave one of our layers other data: take it as an edit."""
        layer = event.source
        row = self.row_of(layer)
        if row is None or np.shares_memory(layer.data, self.history.masks[row.id]):
            return
        data = np.asarray(layer.data)
        fits = data.shape == self.mask_on_layer(row.id).shape
        values = self.values.layout.to_stored(data != 0) if fits else None
        layer.data = self.mask_on_layer(row.id)
        QTimer.singleShot(0, partial(self._follow_again, row.id))  # napari unlocks it after this
        if values is None:
            words = f"'{row.name}' was given data of shape {data.shape} and kept its own"
            self._fail(SegOneError(f"{words}; its mask must have the image's grid"))
        else:
            self._do(lambda: self.history.edit(row.id, values, kind="brush"))

    def _on_visible(self, event: Any) -> None:
        self.visibility_changed.emit()

    def _bring_into_view(self, change: Change) -> None:
        """Go to where voxels changed if that is not on the slice on screen."""
        plane = layers.slice_on_screen(self._viewer, self.image)
        if plane is None or change.kind in ("result", "row"):
            return
        axis, index = plane
        shape = self.image.data.shape
        boxes = [
            layers.layer_box(box, self.values.layout, shape)
            for box in change.boxes.values()
            if all(side.stop > side.start for side in box)
        ]
        if boxes and not any(box[axis].start <= index < box[axis].stop for box in boxes):
            a, b, c = ((side.start + side.stop - 1) // 2 for side in boxes[0])
            layers.show_slice(self._viewer, self.image, (a, b, c))

    def _fail(self, error: Exception) -> None:
        if not self._is_closed:
            self.failed.emit(error)
