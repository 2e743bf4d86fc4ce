"""The dock widget: type what to outline, see it over the image, correct it, take it out.

It brings the parts together and holds which image is chosen. `form.Form` is what is seen,
`opening.Opening` finds earlier work, `asking.Asking` puts answers into rows, `results.Results`
shows them, `correcting.Correcting` changes masks: all of one `openimage.OpenImage`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QKeyEvent, QShowEvent
from qtpy.QtWidgets import QApplication, QWidget

from segone_napari.config import SegmentOptions
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.gui import ahead, drawing, garbage, incoming, layers, room, style
from segone_napari.gui.asking import Asking
from segone_napari.gui.cases import Found
from segone_napari.gui.cheatsheet import CheatSheet
from segone_napari.gui.controls import open_alone
from segone_napari.gui.corrected import Source
from segone_napari.gui.correcting import Correcting
from segone_napari.gui.exporting import ExportWindow
from segone_napari.gui.form import Form
from segone_napari.gui.imagework import REPAIRS, ImageWork
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.learning import Learning
from segone_napari.gui.letters import EdgeLetters
from segone_napari.gui.openimage import OpenImage, is_image, what_covers
from segone_napari.gui.opening import Opening
from segone_napari.gui.preferences import Preferences, project_folder
from segone_napari.gui.prompt import names_to_offer
from segone_napari.gui.results import Results
from segone_napari.gui.review import Review, is_doubt_layer
from segone_napari.gui.sam2 import LoadTeacher, load_teacher
from segone_napari.gui.saving import Saver
from segone_napari.gui.shortcuts import Bindings
from segone_napari.gui.teacherchoice import TeacherChoice
from segone_napari.gui.troubles import as_sentence
from segone_napari.gui.turns import Turns
from segone_napari.gui.workers import Engine, Segmenter
from segone_napari.project import NotSaved
from segone_napari.runtime import BadInput, SegOneError
from segone_napari.session import Session, as_prompts
from segone_napari.systems.base import Result

NO_IMAGE = "Open an MRI: File › Open, or drop a file on the canvas"

LOOK_FOR_ROOM_MS = 500  # the docks have found their sizes by then
END_AFTER_MS = 500  # whoever takes the panel out to put it elsewhere has done so by then
MAKE_ROOM_MS = 50  # the question itself is gone by then, and what was opened has its height
GIVE_BACK_MS = 500  # nothing runs any more that an image which was closed had begun


def make_session(preset: str, device: str) -> Segmenter:
    """A session with the version of the model that the person's project uses."""
    try:
        return Session(preset=preset, device=device, project=project_folder())
    except BadInput:  # the folder can't be used, which the panel says already
        return Session(preset=preset, device=device)


class SegOneWidget(QWidget):
    """The dock widget "SegOne".

    Parameters
    ----------
    napari_viewer : the viewer that it is docked in.
    make_session : makes what answers, from the names of a preset and a device; called in the
        worker's thread.
    load_teacher : makes what clicks and boxes ask; called in another worker's thread.
    teacher : the SAM2 to load: a folder, a safetensors file or a name on the hub; None for what
        the person chose before, or the bundled one.
    """

    def __init__(
        self,
        napari_viewer: Any,
        make_session: Callable[[str, str], Segmenter] = make_session,
        load_teacher: LoadTeacher = load_teacher,
        teacher: str | None = None,
    ):
        super().__init__()
        self.setObjectName("segone")
        # napari hands plugins a proxy of the viewer, whose layers are new objects at each look.
        viewer = self._viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._image: Image | None = None  # that is chosen, whether or not it can be outlined on
        self._images: dict[Any, OpenImage] = {}  # by the layer's unique_id
        self._device = ""
        self._has_looked_for_room = False
        self._was_docked = False
        self._preferences = Preferences()
        folder = project_folder()
        self._learning = Learning(folder, self._preferences, self._sources, self)
        form = self._form = Form(
            names_to_offer(Vocabulary.packaged()), REPAIRS, self._learning.panel
        )
        form.lay_out(self)
        self._say = form.status.setText
        self._engine = Engine(make_session, self)
        self._keeper = Keeper("segone-work", self)
        self._saver = Saver(self)
        self._turns = Turns(viewer, self)
        self._letters = EdgeLetters(viewer)
        self._opening = Opening(viewer, folder, form.offer, self._keeper, self)
        self._asking = Asking(
            viewer, self._engine, self._keeper, self._turns, form.rows, form.progress, self
        )
        self._results = Results(viewer, form.rows, form.cancel, lambda: self._asking.waiting, self)
        self._correcting = Correcting(viewer, form.fix, load_teacher, self._turns, self)
        self._correcting.sam2.choose(teacher or self._preferences.text("teacher", "") or None)
        self._bindings = Bindings(viewer, self, self._actions(), self._is_ours)
        self._give_back = QTimer(self)
        self._give_back.setSingleShot(True)
        self._give_back.timeout.connect(garbage.give_back)
        self._connect()
        drawing.protect(viewer)
        self._listen_to_viewer()
        self._prepare()
        self._show_progress()
        self._restyle()
        self._refresh_images()
        self._follow_selection()
        self._engine.find_device()
        if self._image is None:
            self._opening.find_interrupted()

    # What a script or the command line may call --------------------------------------------

    def ask(self, prompts: str) -> None:
        """Type prompts, separated by ``;``, and press Enter."""
        self._form.prompt.setText(prompts)
        self.segment()

    def segment(self) -> None:
        """Outline what the prompt line says on the chosen image."""
        text = self._form.prompt.text()
        try:
            prompts, image = as_prompts(text), self._image_to_ask_about()
        except SegOneError as error:
            self._tell_error(error)
            return
        self._preferences.add_prompt(text.strip())
        self._form.prompt.set_former(self._preferences.prompts)
        self._asking.ask(image, prompts, self._form.preset.currentData(), text.strip())

    def cancel(self) -> None:
        """Stop what runs, and take away what was only half shown."""
        if self._correcting.is_spreading:
            self._correcting.cancel()
            self._say("Cancelled; nothing was spread")
        if self.is_working:
            self._asking.stop()
            self._say("Cancelled")

    @property
    def is_working(self) -> bool:
        """Whether an answer is awaited."""
        return self._asking.is_working

    def show_results(self, results: Sequence[Result], checkpoint: str = "") -> None:
        """Show results that were computed elsewhere, with these weights, on the chosen image."""
        if self._open is None:
            raise BadInput("there is no image to show results on; open an MRI first")
        self._asking.show(self._open, results, checkpoint)

    def open_export(self) -> None:
        """Open the window that writes the structures of the image at work, if there are any."""
        if self._work is None or not self._work.rows:
            self._say("There is nothing to export yet; outline a structure first.")
            return
        open_alone(ExportWindow(self._work, self._keeper, self._preferences, self), self)

    # Qt's own events -----------------------------------------------------------------------

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Drop a preview or cancel by Esc, which the prompt line doesn't use itself."""
        is_escape = event is not None and event.key() == Qt.Key.Key_Escape
        if is_escape and self._correcting.clicks.step is not None:
            self._correcting.clicks.drop()
        elif is_escape and not self._form.cancel.isHidden():
            self.cancel()
        else:
            super().keyPressEvent(event)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Offer to make room once, when the panel is first shown on a screen that is too small."""
        super().showEvent(event)
        if not self._has_looked_for_room:
            self._has_looked_for_room = True
            QTimer.singleShot(LOOK_FOR_ROOM_MS, self._look_for_room)

    def changeEvent(self, event: QEvent | None) -> None:
        """End when the panel is closed: napari only takes it out of its dock and forgets it."""
        super().changeEvent(event)
        if event is None or event.type() != QEvent.Type.ParentChange:
            return
        if self.parent() is not None:
            self._was_docked = True
        elif self._was_docked:
            QTimer.singleShot(END_AFTER_MS, self._end_if_closed)

    def _end_if_closed(self) -> None:
        if self.parent() is None and not self.isVisible():
            self.deleteLater()

    # Building ------------------------------------------------------------------------------

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            **self._correcting.actions,
            "doubt": self._next_doubtful,
            "prompt": self._go_to_prompt,
            "cheat_sheet": self._show_cheat_sheet,
        }

    def _connect(self) -> None:
        self._connect_form()
        self._engine.device_known.connect(self._on_device_known)
        opening, asking, correcting = self._opening, self._asking, self._correcting
        opening.found.connect(self._on_found)
        opening.undecided.connect(self._on_undecided)
        opening.not_saved.connect(self._on_problem)
        asking.changed.connect(self._on_asking)
        asking.waits.connect(self._on_waiting_for_work)
        self._results.suggested.connect(self.ask)
        correcting.warned.connect(show_warning)
        correcting.teacher_wanted.connect(self._ask_for_teacher)
        correcting.spreading.connect(self._show_progress)
        correcting.progressed.connect(self._form.progress.show_step)
        learning = self._learning
        learning.kept.connect(self._engine.recall)
        learning.version_changed.connect(self._engine.reload)
        learning.names_known.connect(self._form.prompt.set_names)
        learning.panel.opened.connect(self._bring_section_up)
        for part in (opening, asking, self._results, correcting, learning):
            part.told.connect(self._say)
        for part in (opening, asking, correcting, learning):
            part.failed.connect(self._tell_error)
        self._saver.told.connect(self._on_saved)

    def _connect_form(self) -> None:
        form = self._form
        form.prompt.set_former(self._preferences.prompts)
        preset = self._preferences.text("preset", SegmentOptions.preset)
        form.preset.setCurrentIndex(max(0, form.preset.findData(preset)))
        form.preset.activated.connect(
            lambda _: self._preferences.set_text("preset", form.preset.currentData())
        )
        form.image.activated.connect(self._on_chosen)
        form.prompt.returnPressed.connect(self.segment)
        form.segment.clicked.connect(self.segment)
        form.cancel.clicked.connect(self.cancel)
        form.room.answered.connect(self._on_room_answered)
        form.review.doubt_shown.connect(self._show_doubt)
        form.review.next_doubtful.connect(self._next_doubtful)
        form.help.clicked.connect(self._show_cheat_sheet)
        form.export.clicked.connect(self.open_export)

    def _prepare(self) -> None:
        """Do ahead what would hold the window up later; works that are opened wait for it."""
        ahead.take_turns_often()
        ahead.know_units()
        self._keeper.run(ahead.load_libraries)
        self._turns.later(partial(ahead.build_brush_circle, self._viewer))

    def _listen_to_viewer(self) -> None:
        viewer = self._viewer
        listeners = [
            (viewer.layers.events.inserted, self._on_inserted),
            (viewer.layers.events.removed, self._on_removed),
            (viewer.layers.events.reordered, self._refresh_images),
            (viewer.layers.selection.events.active, self._follow_selection),
            (viewer.dims.events.order, self._refresh_sides),
            (viewer.dims.events.ndisplay, self._refresh_sides),
            (viewer.dims.events.ndim, self._refresh_sides),
            (viewer.scene.camera.events.orientation, self._refresh_sides),
            (viewer.events.theme, self._restyle),
        ]
        for event, callback in listeners:
            event.connect(callback)
        for layer in viewer.layers:
            self._listen_to(layer)
        shut_down = _ShutDown(self, listeners)
        # Qt has half destroyed this widget by then: touch only what isn't Qt's.
        self.destroyed.connect(shut_down)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(shut_down)

    # The image -----------------------------------------------------------------------------

    @property
    def _open(self) -> OpenImage | None:
        """The chosen image, if it can be outlined on."""
        return None if self._image is None else self._images.get(self._image.unique_id)

    @property
    def _work(self) -> ImageWork | None:
        return None if self._open is None else self._open.work

    @property
    def _works(self) -> list[ImageWork]:
        return [image.work for image in self._images.values() if image.work is not None]

    def _sources(self) -> list[Source]:
        return [work.source for work in self._works]

    def _is_ours(self, layer: Any) -> bool:
        return any(work.row_of(layer) is not None for work in self._works)

    def _on_inserted(self, event: Any) -> None:
        self._listen_to(event.value)
        self._refresh_images()
        for work in self._works:  # a mask may be of an image that isn't the chosen one
            incoming.take_in(self._viewer, work, self._follow_selection)

    def _listen_to(self, layer: Any) -> None:
        if isinstance(layer, Image):
            layer.events.name.connect(self._refresh_images)
            layer.events.data.connect(self._on_data_changed)
            layer.events.visible.connect(self._refresh_tools)
            layer.events.visible.connect(self._refresh_header)
        elif isinstance(layer, Labels):
            layer.events.mode.connect(self._correcting.on_mode)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        self._asking.on_layer_removed(layer)
        for image in self._images.values():
            if image.work is not None:
                image.work.on_layer_removed(layer)
            if image.review is not None:
                image.review.on_layer_removed(layer)
        self._correcting.on_layer_removed(layer)
        self._let_go(layer)
        if layer is self._image:
            self._choose(None)
        self._refresh_images()
        self._refresh_tools()

    def _on_data_changed(self, event: Any) -> None:
        layer = event.source
        if is_doubt_layer(layer):
            return
        self._let_go(layer)
        if layer is self._image:
            self._choose(layer)
            self._say("The image has changed")

    def _refresh_images(self, event: Any = None) -> None:
        images, chooser = [x for x in self._viewer.layers if is_image(x)], self._form.image
        chooser.clear()
        for image in images:
            chooser.addItem(image.name, image.unique_id)
        chooser.setEnabled(bool(images))
        if not images:
            chooser.addItem("no image")
        if self._image not in images:
            self._choose(images[-1] if images else None)
        elif self._image is not None:
            chooser.setCurrentIndex(images.index(self._image))
        self._refresh_header()

    def _follow_selection(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if is_image(active):
            self._go_to(active)
        for work in self._works:
            if work is not self._work and work.row_of(active) is not None:
                self._go_to(work.image)
        self._results.show_chosen()
        self._refresh_tools()

    def _on_chosen(self, index: int) -> None:
        wanted = self._form.image.itemData(index)
        for layer in self._viewer.layers:
            if isinstance(layer, Image) and layer.unique_id == wanted:
                self._viewer.layers.selection.active = layer
                self._go_to(layer)

    def _go_to(self, layer: Image) -> None:
        if layer is not self._image:
            self._choose(layer)
            self._refresh_images()

    def _choose(self, layer: Image | None) -> None:
        """Turn to an image, or to none; also anew to the one that is chosen."""
        dropped = self._asking.asked_of_another(layer)
        self._asking.stop()
        self._image = layer
        self._say(NO_IMAGE if layer is None else "Type what to outline and press Enter")
        image = None
        if layer is not None:
            try:
                image = self._read(layer)
            except SegOneError as error:
                self._form.warning.setText(str(error))
                self._say("This image can't be outlined; choose or open another one")
            else:
                self._engine.prepare(self._form.preset.currentData())
        self._results.image = image
        self._opening.choose(image)
        self._correcting.set_work(self._work)
        self._refresh_header()
        self._refresh_sides()
        self._results.show()
        if dropped:
            self._say(
                f"Stopped outlining {dropped}, since you turned to another image; ask again there"
            )

    def _image_to_ask_about(self) -> OpenImage:
        """The chosen image, as it is by now."""
        if self._image is None:
            raise BadInput("there is no image to outline on; open an MRI first")
        former, image = self._open, self._read(self._image)
        if image is not former:
            self._results.image = image
            self._opening.choose(image)
            self._refresh_header()
            self._refresh_sides()
        self._opening.find(image)  # again, if it couldn't be looked for before
        return image

    def _read(self, layer: Image) -> OpenImage:
        """The image that a layer shows; the same one as long as the layer says the same."""
        values = layers.read_layer(layer)
        former = self._images.get(layer.unique_id)
        if former is not None and former.says(values):
            return former
        self._let_go(layer)
        image = self._images[layer.unique_id] = OpenImage(layer, values)
        return image

    def _let_go(self, layer: Any) -> None:
        """Give back what is kept of an image; its work is on disk."""
        image = self._images.pop(layer.unique_id, None)
        if image is None:
            return
        image.is_gone = True
        self._asking.on_image_gone(image)
        self._engine.forget(image.values)
        if image.review is not None:
            image.review.close()
        work, image.work = image.work, None
        if work is not None:
            self._correcting.set_work(self._work)
            self._saver.remove(work)
            self._learning.keep(work.source)
            work.close()
            work.setParent(None)  # or Qt would keep it, and its masks, as long as the panel
            work.deleteLater()
        self._give_back.start(GIVE_BACK_MS)

    def _refresh_header(self, event: Any = None) -> None:
        form, image = self._form, self._open
        form.header.setVisible(image is not None)
        if image is None:
            form.warning.setVisible(self._image is not None)
            return
        form.header.setText(" · ".join(filter(None, (image.facts, self._device))))
        warnings = [
            layers.missing_facts(image.layer) or "",
            *image.values.warnings,
            what_covers(self._viewer, image.layer),
        ]
        form.warning.setText("\n".join(filter(None, warnings)))
        form.warning.setVisible(bool(form.warning.text()))

    def _refresh_sides(self, event: Any = None) -> None:
        values = None if self._open is None else self._open.values
        words = self._letters.update(values)
        if values is not None and not values.is_placed:
            words = f"{words} – if the assumption below holds"
        self._form.sides.setText(words)
        self._form.sides.setVisible(bool(words))

    def _restyle(self, event: Any = None) -> None:
        self.setStyleSheet(style.style_sheet(self._viewer.theme))
        self._form.prompt.set_popup_style(style.popup_style_sheet(self._viewer.theme))
        self._results.show()  # their links have the theme's colour

    # The work on it ------------------------------------------------------------------------

    def _on_found(self, image: OpenImage, found: Found) -> None:
        """Take the work on an image, new or of before."""
        assert found.history is not None
        work = ImageWork(
            self._viewer,
            image.layer,
            image.values,
            found.reference,
            found.history,
            self._keeper,
            self._turns,
            self._bindings.bind_layer,
            self,
        )
        image.work = work
        image.review = image.review or Review(self._viewer, image.layer, self._turns)
        self._correcting.set_work(self._work)
        work.changed.connect(self._on_work_changed)
        work.visibility_changed.connect(self._results.show_chosen)
        work.told.connect(self._say)
        work.failed.connect(self._tell_error)
        self._saver.add(work, found.problem)
        for warning in found.history.warnings:
            show_warning(warning)
        then = self._asking.on_work_opened(image)
        work.show_all(then or partial(self._tell_restored, work))
        incoming.take_in(self._viewer, work)

    def _on_undecided(self, image: OpenImage) -> None:
        if image is not self._open:
            return
        if self._asking.is_waiting_for(image):
            self._opening.decide(True)  # to ask about an image means to go on
        else:
            self._opening.ask(image)

    def _on_waiting_for_work(self) -> None:
        if self._open is not None and self._open.earlier is not None:
            self._opening.decide(True)

    def _tell_restored(self, work: ImageWork) -> None:
        count, undo = len(work.rows), work.history.undo_count
        if work is self._work and (count or undo):
            rows = f"{count or 'No'} {'row' if count == 1 else 'rows'}"
            self._say(
                f"{rows} as you left {'it' if count == 1 else 'them'}; {undo} "
                f"{'step' if undo == 1 else 'steps'} can be undone"
            )
        self._on_work_changed()

    def _on_work_changed(self) -> None:
        self._results.show()
        self._correcting.on_work_changed()
        self._learning.refresh()
        self._refresh_tools()

    def _on_problem(self, problem: NotSaved) -> None:
        self._saver.refresh()
        show_error(f"{as_sentence(problem)}. Work goes on in memory only")

    def _on_saved(self, words: str, problem: str) -> None:
        self._form.saved.setText(words)
        self._form.not_saved.setText(f"⚠ NOT SAVED: {problem}")
        self._form.not_saved.setVisible(bool(problem))

    # What is happening ---------------------------------------------------------------------

    def _on_asking(self) -> None:
        self._show_progress()
        self._results.show()
        self._refresh_tools()

    def _show_progress(self, event: Any = None) -> None:
        is_shown = self._asking.is_working or self._correcting.is_spreading
        self._form.cancel.setVisible(is_shown)
        self._form.progress.setVisible(is_shown)
        self._form.progress.begin()

    def _on_device_known(self, device: str) -> None:
        self._device = device
        self._refresh_header()

    def _tell_error(self, error: Exception) -> None:
        words = as_sentence(error)
        if not isinstance(error, SegOneError):
            logging.getLogger(__name__).error(words, exc_info=error)
        show_error(words)
        self._say(words)

    # Room ----------------------------------------------------------------------------------

    def _look_for_room(self) -> None:
        if room.is_too_small(self):
            self._form.room.ask(room.OFFER, room.YES, room.NO)

    def _on_room_answered(self, is_yes: bool) -> None:
        if is_yes:
            self._say("The menu View brings napari's panels back")
            QTimer.singleShot(MAKE_ROOM_MS, self._make_room)

    def _make_room(self) -> None:
        room.make(self)

    def _bring_section_up(self, is_open: bool) -> None:
        """Scroll to the section that was opened, once its height is known."""
        if is_open:
            QTimer.singleShot(MAKE_ROOM_MS, self._scroll_to_section)  # Qt drops it with the panel

    def _scroll_to_section(self) -> None:
        self._form.bring_up_learning()

    # Reviewing, and what else there is -----------------------------------------------------

    def _refresh_tools(self, event: Any = None) -> None:
        work, review = self._work, self._review
        self._correcting.refresh()
        is_known = review is not None and review.doubt is not None
        self._form.review.set_doubt(is_known, review is not None and review.is_shown)
        is_there = work is not None and any(row.state != "not found" for row in work.rows)
        self._form.export.setEnabled(is_there)

    @property
    def _review(self) -> Review | None:
        return None if self._open is None else self._open.review

    def _show_doubt(self, is_shown: bool) -> None:
        if self._review is not None:
            self._review.show(is_shown)
        self._refresh_tools()

    def _next_doubtful(self) -> None:
        if self._review is not None and self._work is not None:
            self._say(self._review.go_to_next(self._work))

    def _go_to_prompt(self) -> None:
        self._form.prompt.setFocus()
        self._form.prompt.selectAll()

    def _ask_for_teacher(self) -> None:
        window = TeacherChoice(self._preferences.text("teacher", ""), self)
        window.chosen.connect(self._choose_teacher)
        open_alone(window, self)

    def _choose_teacher(self, source: str) -> None:
        self._preferences.set_text("teacher", source)
        self._correcting.clicks.leave()
        self._correcting.sam2.choose(source or None)
        self._correcting.refresh()
        self._say(f"Clicks and boxes ask {source or 'the SAM2 that comes with SegOne'}")

    def _show_cheat_sheet(self) -> None:
        open_alone(CheatSheet(self), self)


class _ShutDown:
    """Ends everything once, when the widget or the program ends; touches nothing of Qt's."""

    def __init__(self, widget: SegOneWidget, listeners: list[tuple[Any, Callable[..., None]]]):
        self._engine = widget._engine
        self._correcting = widget._correcting
        self._keeper = widget._keeper
        self._learning = widget._learning
        self._saver = widget._saver
        self._letters = widget._letters
        self._bindings = widget._bindings
        self._images = widget._images
        self._listeners = listeners
        self._is_done = False

    def __call__(self, *values: Any) -> None:
        if self._is_done:
            return
        self._is_done = True
        self._engine.stop()
        for event, callback in self._listeners:
            event.disconnect(callback)
        self._correcting.stop()
        self._letters.remove()
        self._bindings.remove()
        works = [image.work for image in self._images.values() if image.work is not None]
        self._learning.stop([work.source for work in works])
        for work in works:
            self._keeper.run(work.history.close)
        self._keeper.stop()
        self._saver.stop()
        self._images.clear()
        self._listeners.clear()
        garbage.look_at_all_again()
