"""What is done to the selected structure: tools, SAM2, repairs, undo; and the panel for it.

It joins the buttons and keys of `FixPanel` to `ImageWork` and `Clicks`. The widget says which
image's work is at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]

from segone_napari.gui import layers
from segone_napari.gui.clicks import TOOLS, Clicks, Tool
from segone_napari.gui.imagework import REPAIRS, ImageWork
from segone_napari.gui.panels import FixPanel
from segone_napari.gui.sam2 import LoadTeacher, Sam2, Slice, why_none
from segone_napari.gui.turns import Turns
from segone_napari.project import Kind, Row

if TYPE_CHECKING:
    from segone_napari.models.spreading import Spread


SPREAD: tuple[Kind, ...] = ("spread",)


class Correcting(QObject):  # type: ignore[misc, unused-ignore]
    """Corrects the row whose layer is selected.

    Signals
    -------
    told : words for the status line.
    failed : an error for the person.
    spreading : whether an outline is being spread, which takes a while and can be cancelled.
    progressed : slices done, slices in all.
    teacher_wanted : the person wants to choose the SAM2 model.
    """

    told = Signal(str)
    failed = Signal(object)
    warned = Signal(str)
    spreading = Signal(bool)
    progressed = Signal(int, int)
    teacher_wanted = Signal()

    def __init__(
        self,
        viewer: Any,
        panel: FixPanel,
        load: LoadTeacher,
        turns: Turns,
        parent: QObject | None = None,
    ):
        super().__init__(parent)
        self.sam2 = Sam2(load, self)
        self.clicks = Clicks(viewer, self.sam2, turns, self)
        self.is_spreading = False
        self._viewer = viewer
        self._panel = panel
        self._work: ImageWork | None = None
        self._steps_at_spread = 0
        self._connect()

    def _connect(self) -> None:
        panel, clicks, sam2 = self._panel, self.clicks, self.sam2
        panel.tool_chosen.connect(self.choose_tool)
        panel.click_tool_chosen.connect(self.choose_click_tool)
        panel.repair_chosen.connect(self.repair)
        panel.spread.connect(self.spread)
        panel.interpolate.connect(self.interpolate)
        panel.confirm.connect(self.confirm)
        panel.undo.connect(self.undo)
        panel.redo.connect(self.redo)
        panel.take.connect(clicks.take)
        panel.drop.connect(clicks.drop)
        panel.teacher_wanted.connect(self.teacher_wanted)
        clicks.changed.connect(self.refresh)
        clicks.told.connect(self.told)
        clicks.failed.connect(self.failed)
        sam2.told.connect(self.told)
        sam2.warned.connect(self.warned)
        sam2.progressed.connect(self._on_progressed)
        self._viewer.dims.events.current_step.connect(self._on_slice)
        self._viewer.layers.selection.events.active.connect(self._on_selected)

    def stop(self) -> None:
        """End the thread and listen no more; touches nothing of Qt's."""
        self.sam2.stop()
        self._viewer.dims.events.current_step.disconnect(self._on_slice)
        self._viewer.layers.selection.events.active.disconnect(self._on_selected)
        self.clicks.stop()

    @property
    def actions(self) -> dict[str, Callable[[], None]]:
        """By a shortcut's name, what it does."""
        tools: dict[str, Callable[[], None]] = {
            tool: partial(self.choose_click_tool, tool) for tool in TOOLS
        }
        repairs = {name: partial(self.repair, name) for name in REPAIRS}
        return {
            "undo": self.undo,
            "redo": self.redo,
            "accept": self.toggle_accepted,
            "interpolate": self.interpolate,
            "confirm": self.confirm,
            "spread": self.spread,
            **tools,
            **repairs,
        }

    # What it is about ----------------------------------------------------------------------

    def set_work(self, work: ImageWork | None) -> None:
        """Correct the structures of this image from now on."""
        if work is not self._work:
            self.clicks.leave()
            self.cancel()
            self.sam2.forget()
            self._work = work
        self.refresh()

    def target(self) -> Row | None:
        """The row whose layer is selected."""
        active = self._viewer.layers.selection.active
        return None if self._work is None else self._work.row_of(active)

    def refresh(self, event: Any = None) -> None:
        """Show on the buttons what can be done."""
        work, target = self._work, self.target()
        layer = work.layer_of(target.id) if work is not None and target is not None else None
        is_busy = work is not None and work.is_busy
        self._panel.set_target(
            None if target is None or is_busy else target.name,
            "draft" if target is None else target.state,
            None if layer is None else str(layer.mode),
            self.clicks.tool,
            why_none(self.sam2.source),
        )
        step, where = self.clicks.step, self.clicks.where
        words = ""
        if step is not None and where is not None:
            words = f"Slice {where.index} · SAM2 looks …"
            if step.probability is not None:
                sure = f"{step.quality:.2f}".removeprefix("0")
                words = f"Slice {where.index} · {sure} sure"
        self._panel.set_preview(words, can_be_taken=self.clicks.can_be_taken)
        if work is None:
            self._panel.set_steps(0, "", 0, "")
        else:
            history = work.history
            self._panel.set_steps(
                history.undo_count, history.undo_words, history.redo_count, history.redo_words
            )

    def on_mode(self, event: Any) -> None:
        """Follow napari's own tools."""
        self.clicks.on_mode(event.source)
        self.refresh()

    def on_layer_removed(self, layer: Any) -> None:
        """Follow a person who deleted a layer."""
        self.clicks.on_layer_removed(layer)

    def on_work_changed(self) -> None:
        """Follow edits: what is being spread was about the outline before."""
        work = self._work
        steps = 0 if work is None else work.history.undo_count
        if self.is_spreading and steps != self._steps_at_spread:
            self.cancel()
            self.told.emit("The outline has changed, so spreading was stopped")
        target = self.target()
        if self.clicks.tool is not None and (target is None or target.state != "draft"):
            self.clicks.leave()
        self.refresh()

    # What is done --------------------------------------------------------------------------

    def choose_tool(self, mode: str) -> None:
        """Take one of napari's tools for the selected structure."""
        self.clicks.leave()
        work, target = self._work, self.target()
        layer = work.layer_of(target.id) if work is not None and target is not None else None
        if layer is not None:
            if not layer.visible:
                layer.visible = True
            if mode in ("paint", "fill"):
                layer.selected_label = 1
            layer.mode = mode
        self.refresh()

    def choose_click_tool(self, tool: Tool) -> None:
        """Let clicks on the slice ask SAM2."""
        if why := why_none(self.sam2.source):
            self.told.emit(why)
        else:
            self._with_target(lambda work, row: self.clicks.choose(tool, work, row.id))
        self.refresh()

    def repair(self, name: str) -> None:
        """Do one of the repairs."""
        self._with_target(lambda work, row: work.repair(row.id, name))

    def interpolate(self) -> None:
        """Fill in the slices between corrected ones."""
        where = self._where()
        if where is not None:
            axis = where.image.layout.axes[where.axis]
            self._with_target(lambda work, row: work.interpolate(row.id, axis))

    def confirm(self) -> None:
        """Keep that the selected structure is right on the slice on screen."""
        if self.clicks.can_be_taken:
            self.clicks.take()
        where = self._where()
        if where is None:
            self.told.emit("A slice is confirmed in 2-D: switch the view back first")
        else:
            self._with_target(partial(self._confirm, where))

    def spread(self) -> None:
        """Carry the outline on this slice to its neighbours, as one step."""
        if why := why_none(self.sam2.source):
            self.told.emit(why)
            return
        if self.clicks.can_be_taken:
            self.clicks.take()
        where = self._where()
        if where is None:
            self.told.emit("Spreading starts from a slice: switch the view to 2-D first")
        else:
            self._with_target(partial(self._spread, where))

    def cancel(self) -> None:
        """Stop spreading."""
        if self.is_spreading:
            self.sam2.cancel()
            self._set_spreading(False)

    def undo(self) -> None:
        """Take the last click back, or else the last edit."""
        if self.clicks.step is not None:
            self.clicks.step_back()
        elif self._work is not None:
            self._work.undo()

    def redo(self) -> None:
        """Do again what was undone last."""
        if self._work is not None:
            self._work.redo()

    def toggle_accepted(self) -> None:
        """Accept the structure, or make it a draft again."""
        work, target = self._work, self.target()
        if work is not None and target is not None:
            work.set_state(target.id, "draft" if target.state == "accepted" else "accepted")

    # Inside --------------------------------------------------------------------------------

    def _with_target(self, action: Callable[[ImageWork, Row], None]) -> None:
        work, target = self._work, self.target()
        if work is None or target is None:
            self.told.emit("Select a structure first: click on its row")
        elif target.state == "accepted":
            self.told.emit(f"{target.name} is accepted; unlock it first")
        else:
            action(work, target)

    def _where(self) -> Slice | None:
        if self._work is None:
            return None
        plane = layers.slice_on_screen(self._viewer, self._work.image)
        return None if plane is None else Slice(self._work.values, *plane)

    def _confirm(self, where: Slice, work: ImageWork, row: Row) -> None:
        known = work.corrected_on_layer(row.id, where.axis)
        work.confirm(row.id, where.axis, where.index)
        count = len(known | {where.index})
        many = "slice is" if count == 1 else "slices are"
        state = "counted already" if where.index in known else "is right"
        words = f"Slice {where.index} of {row.name} {state}"
        self.told.emit(f"{words}; {count} {many} to learn from")

    def _spread(self, where: Slice, work: ImageWork, row: Row) -> None:
        mask = layers.plane_of(work.mask_on_layer(row.id), where.axis, where.index) != 0
        if not mask.any():
            self.told.emit(
                f"{row.name} has no outline on slice {where.index}; make one, then spread it"
            )
            return
        settled = work.corrected_on_layer(row.id, where.axis)
        if where.index not in settled:  # where spreading ended, it only goes on
            settled |= work.corrected_on_layer(row.id, where.axis, SPREAD)
        settled.discard(where.index)
        self._steps_at_spread = work.history.undo_count
        self._set_spreading(True)
        self.told.emit(f"Spreading {row.name} from slice {where.index} …")
        then = partial(self._on_spread, where, work, row)
        self.sam2.spread(where, mask, settled, then, self._on_failed)

    def _on_spread(self, where: Slice, work: ImageWork, row: Row, result: Spread) -> None:
        self._set_spreading(False)
        if work is not self._work:
            return
        work.set_slices(row.id, where.axis, result.first, result.masks, kind="spread")
        last = result.first + len(result.masks) - 1
        what = f"Spread over slices {result.first} to {last}"
        if len(result.masks) == 1:
            what = "Nothing was spread"
        self.told.emit(f"{what}. Before: {result.before}; after: {result.after}. Look at its ends")

    def _on_failed(self, error: Exception) -> None:
        self._set_spreading(False)
        self.failed.emit(error)

    def _set_spreading(self, is_spreading: bool) -> None:
        self.is_spreading = is_spreading
        self.spreading.emit(is_spreading)

    def _on_progressed(self, done: int, of: int) -> None:
        if self.is_spreading:
            self.progressed.emit(done, of)

    def _on_slice(self, event: Any = None) -> None:
        self.clicks.look()

    def _on_selected(self, event: Any = None) -> None:
        self.clicks.on_selected(self._viewer.layers.selection.active)
