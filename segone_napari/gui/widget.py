"""The dock widget: type what to outline, see it over the image, correct it, take it out.

It holds what is on screen and hands the work to others: `workers.Engine` answers prompts,
`imagework.ImageWork` keeps rows, edits and layers of one image, `review.Review` its doubt. An
answer is shown only if its number is still the one that was asked last and its image is still
there, unchanged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent, Qt, QTimer, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QKeyEvent, QShowEvent
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from segone_napari.config import PRESETS, SegmentOptions, help_of
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.gui import ahead, cases, drawing, garbage, incoming, layers, room, style
from segone_napari.gui.cheatsheet import CheatSheet
from segone_napari.gui.controls import left_in_words
from segone_napari.gui.corrected import Source
from segone_napari.gui.correcting import Correcting
from segone_napari.gui.doubt import Doubt, doubt_of
from segone_napari.gui.exporting import ExportWindow
from segone_napari.gui.imagework import REPAIRS, Entry, ImageWork
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.layers import Answer, LayerImage
from segone_napari.gui.learning import Learning
from segone_napari.gui.letters import EdgeLetters
from segone_napari.gui.panels import FixPanel, Offer, ReviewPanel
from segone_napari.gui.preferences import Preferences, project_folder
from segone_napari.gui.prompt import PromptLine, names_to_offer
from segone_napari.gui.review import Review, is_doubt_layer
from segone_napari.gui.rows import Row, Rows, Shown
from segone_napari.gui.sam2 import LoadTeacher, load_teacher
from segone_napari.gui.saving import Saver
from segone_napari.gui.shortcuts import Bindings, tooltip
from segone_napari.gui.teacherchoice import TeacherChoice
from segone_napari.gui.troubles import as_sentence
from segone_napari.gui.turns import Turns
from segone_napari.gui.workers import Engine, Request, Segmenter
from segone_napari.project import Case, ImageRef, NotSaved
from segone_napari.project import Row as Structure
from segone_napari.runtime import BadInput, SegOneError
from segone_napari.session import Session, as_prompts
from segone_napari.systems.base import Result

NO_IMAGE = "Open an MRI: File › Open, or drop a file on the canvas"
LEAST_ROWS_PX = 72  # a row with its numbers and buttons, and the beginning of the next one
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

    _problem_told = Signal(object)  # from any thread

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
        napari_viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._viewer = napari_viewer
        self._preferences = Preferences()
        self._folder = project_folder()
        self._engine = Engine(make_session, self)
        self._keeper = Keeper("segone-work", self)
        self._saver = Saver(self)
        self._turns = Turns(napari_viewer, self)
        self._give_back = QTimer(self)
        self._give_back.setSingleShot(True)
        self._give_back.timeout.connect(garbage.give_back)
        self._letters = EdgeLetters(napari_viewer)
        self._image: Image | None = None
        self._values: LayerImage | None = None  # what is in the chosen image
        # All by the image layer's unique_id. One volume each as long as nothing in it changes, so
        # that a session recognises it.
        self._known: dict[Any, LayerImage] = {}
        self._works: dict[Any, ImageWork] = {}
        self._reviews: dict[Any, Review] = {}
        self._opening: dict[Any, LayerImage] = {}  # whose work is being looked for or read
        self._offered: dict[Any, Case] = {}
        self._refused: dict[Any, list[Shown]] = {}
        self._kept: dict[Any, dict[int, Entry]] = {}
        self._held: tuple[Any, Callable[[], None]] | None = None  # waits for the work to open
        self._interrupted: ImageRef | None = None  # offered while no image is open
        self._is_reopening = False
        self._has_looked_for_room = False
        self._was_docked = False
        self._number = 0
        self._preset_asked = ""
        self._is_working = False
        self._unfinished: list[Labels] = []  # layers that show one slice only
        self._waiting: list[Row] = []
        self._asked_s = 0.0
        self._first_step: tuple[float, int] | None = None
        self._device = ""
        self._windows: list[QWidget] = []
        self._build()
        self._connect_learning()
        self._correcting = Correcting(napari_viewer, self._fix, load_teacher, self._turns, self)
        self._correcting.sam2.choose(teacher or self._preferences.text("teacher", "") or None)
        self._bindings = Bindings(napari_viewer, self, self._actions(), self._is_ours)
        self._connect()
        self._prepare()
        self._set_working(False)
        self._restyle()
        self._refresh_images()
        self._follow_selection()
        self._engine.find_device()
        if self._image is None:
            self._keeper.run(lambda: cases.interrupted(self._folder), self._offer_to_reopen)

    # What a script or the command line may call --------------------------------------------

    def ask(self, prompts: str) -> None:
        """Type prompts, separated by ``;``, and press Enter."""
        self._prompt.setText(prompts)
        self.segment()

    def segment(self) -> None:
        """Outline what the prompt line says on the chosen image."""
        try:
            prompts, image, values = self._question()
        except SegOneError as error:
            self._tell_error(error)
            return
        text = self._prompt.text().strip()
        self._preferences.add_prompt(text)
        self._prompt.set_former(self._preferences.prompts)
        self._stop_asking()
        self._number += 1
        self._set_working(True)
        self._asked_s, self._first_step = time.monotonic(), None
        self._refused.pop(image.unique_id, None)
        self._kept.pop(image.unique_id, None)
        self._waiting = [self._rows.add(prompt) for prompt in prompts]
        self._show_rows()
        if self._work is not None:
            self._work.history.add_prompt(text)
        plane = layers.slice_on_screen(self._viewer, image)
        stored = values.layout.stored_plane(*plane, values.data.shape) if plane else None
        preset = self._preset_asked = self._preset.currentData()
        self._engine.ask(Request(self._number, values, tuple(prompts), preset, stored))

    def cancel(self) -> None:
        """Stop what runs, and take away what was only half shown."""
        if self._correcting.is_spreading:
            self._correcting.cancel()
            self._status.setText("Cancelled; nothing was spread")
        if not self._is_working:
            return
        self._stop_asking()
        self._status.setText("Cancelled")

    @property
    def is_working(self) -> bool:
        """Whether an answer is awaited."""
        return self._is_working

    def show_results(self, results: Sequence[Result]) -> None:
        """Show results that were computed elsewhere on the chosen image."""
        image, values = self._image, self._values
        if image is None or values is None:
            raise BadInput("there is no image to show results on; open an MRI first")
        self._set_working(True)
        self._number += 1
        number = self._number

        def prepare() -> tuple[list[Answer], Doubt | None]:
            return [layers.answer(values, one) for one in results], doubt_of(results, values)

        self._keeper.run(prepare, lambda ready: self._on_answered(number, *ready))

    def open_export(self) -> None:
        """Open the window that writes the structures of the image at work, if there are any."""
        if self._work is None or not self._work.rows:
            self._status.setText("There is nothing to export yet; outline a structure first.")
            return
        self._open_window(ExportWindow(self._work, self._keeper, self._preferences, self))

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Drop a preview or cancel by Esc, which the prompt line doesn't use itself."""
        is_escape = event is not None and event.key() == Qt.Key.Key_Escape
        if is_escape and self._correcting.clicks.step is not None:
            self._correcting.clicks.drop()
        elif is_escape and not self._cancel.isHidden():
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

    def _build(self) -> None:
        self._chooser = QComboBox()
        _name(self._chooser, "image", "Image to outline on", "The image that prompts are about")
        self._chooser.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self._chooser.setMinimumContentsLength(12)
        self._header = _text("header", "Spacing, orientation and device")
        self._sides = _text("sides", "Which side of the screen is the patient's left")
        self._warning = _text("warning", "Warning about the image")
        self._offer = Offer()
        self._room = Offer("room")
        self._prompt = PromptLine(names_to_offer(Vocabulary.load()))
        self._prompt.set_former(self._preferences.prompts)
        self._segment = QPushButton("Segment ⏎")
        _name(self._segment, "segment", "Segment", "Outline what is typed   (Enter)")
        self._preset = QComboBox()
        for preset in PRESETS:
            self._preset.addItem(preset.capitalize(), preset)
        preset = self._preferences.text("preset", SegmentOptions.preset)
        self._preset.setCurrentIndex(max(0, self._preset.findData(preset)))
        words = help_of(SegmentOptions, "preset")
        _name(self._preset, "preset", "Preset: speed or quality", words.capitalize())
        self._progress = QProgressBar()
        _name(self._progress, "progress", "Progress", "How far the work is")
        self._cancel = QPushButton("Cancel")
        _name(self._cancel, "cancel", "Cancel", "Stop   (Esc)")
        self._status = _text("status", "What is happening")
        self._rows = Rows()
        _name(self._rows, "results", "Results", "")
        self._fix = FixPanel(REPAIRS)
        self._review_panel = ReviewPanel()
        self._learning = Learning(self._folder, self._preferences, self._sources, self)
        self._export = QPushButton("Export…")
        _name(self._export, "export", "Export", "Label map, masks, volumes, meshes, DICOM")
        self._help = QPushButton("?")
        _name(self._help, "cheat_sheet", "All shortcuts", tooltip("All shortcuts", "cheat_sheet"))
        self._saved = _text("saved", "Whether everything is saved")
        self._not_saved = _text("not_saved", "Warning: not saved")
        self._lay_out()

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.addWidget(_buddy("image", "Image", self._chooser))
        top.addWidget(self._chooser, 1)
        line = QHBoxLayout()
        line.addWidget(self._prompt, 1)
        line.addWidget(self._segment)
        work = QHBoxLayout()
        work.addWidget(self._preset)
        work.addWidget(self._progress, 1)
        work.addWidget(self._cancel)
        for widget in (self._progress, self._cancel):  # so that nothing jumps when work begins
            policy = widget.sizePolicy()
            policy.setRetainSizeWhenHidden(True)
            widget.setSizePolicy(policy)
        area = _scrolled("results_area", self._rows)
        # it takes what room is left, however many rows there are
        area.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Ignored)
        area.setMinimumHeight(LEAST_ROWS_PX)
        bottom = QHBoxLayout()
        bottom.addWidget(self._saved, 1)
        bottom.addWidget(self._help)
        bottom.addWidget(self._export)
        inside = _Panel()
        inside.setObjectName("panel")
        column = QVBoxLayout(inside)
        column.setContentsMargins(10, 4, 10, 0)
        column.setSpacing(4)  # at 150 % of 1280 × 800 there is no pixel to spare
        column.addLayout(top)
        for part in (self._header, self._sides, self._warning, self._room, self._offer):
            column.addWidget(part)
        column.addLayout(line)
        column.addLayout(work)
        column.addWidget(self._status)
        column.addWidget(area, 1)
        for panel in (self._fix, self._review_panel, self._learning.panel):
            column.addWidget(_line())
            column.addWidget(panel)
        self._not_saved.hide()
        always = QVBoxLayout()
        always.setContentsMargins(10, 0, 10, 4)
        always.setSpacing(4)
        always.addWidget(_line())
        always.addWidget(self._not_saved)
        always.addLayout(bottom)
        around = QVBoxLayout(self)
        around.setContentsMargins(0, 0, 0, 0)
        around.setSpacing(0)
        self._area = _scrolled("panel_area", inside)  # for windows that are too low for all
        around.addWidget(self._area, 1)
        around.addLayout(always)
        self.setMinimumWidth(330)

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            **self._correcting.actions,
            "doubt": self._next_doubtful,
            "prompt": self._go_to_prompt,
            "cheat_sheet": self._show_cheat_sheet,
        }

    def _connect(self) -> None:
        self._prompt.returnPressed.connect(self.segment)
        self._segment.clicked.connect(self.segment)
        self._cancel.clicked.connect(self.cancel)
        self._chooser.activated.connect(self._on_chosen)
        self._preset.activated.connect(
            lambda _: self._preferences.set_text("preset", self._preset.currentData())
        )
        self._engine.started.connect(self._on_started)
        self._engine.previewed.connect(self._on_previewed)
        self._engine.progressed.connect(self._on_progressed)
        self._engine.answered.connect(self._on_answered)
        self._engine.warned.connect(self._on_warned)
        self._engine.failed.connect(self._on_failed)
        self._engine.device_known.connect(self._on_device_known)
        self._correcting.told.connect(self._status.setText)
        self._correcting.failed.connect(self._tell_error)
        self._correcting.warned.connect(show_warning)
        self._correcting.teacher_wanted.connect(self._ask_for_teacher)
        self._correcting.spreading.connect(self._show_progress)
        self._correcting.progressed.connect(self._show_steps)
        self._help.clicked.connect(self._show_cheat_sheet)
        self._review_panel.doubt_shown.connect(self._show_doubt)
        self._review_panel.next_doubtful.connect(self._next_doubtful)
        self._export.clicked.connect(self.open_export)
        self._offer.answered.connect(self._on_offer_answered)
        self._room.answered.connect(self._on_room_answered)
        self._saver.told.connect(self._on_saved)
        self._problem_told.connect(self._on_problem)
        self._listen_to_viewer()

    def _prepare(self) -> None:
        """Do ahead what would hold the window up later; works that are opened wait for it."""
        ahead.take_turns_often()
        ahead.know_units()
        self._keeper.run(ahead.load_libraries)
        self._turns.later(partial(ahead.build_brush_circle, self._viewer))

    def _connect_learning(self) -> None:
        learning = self._learning
        learning.told.connect(self._status.setText)
        learning.failed.connect(self._tell_error)
        learning.kept.connect(self._engine.recall)
        learning.version_changed.connect(self._engine.reload)
        learning.names_known.connect(self._prompt.set_names)
        learning.panel.opened.connect(self._bring_section_up)

    def _listen_to_viewer(self) -> None:
        viewer = self._viewer
        listeners = [
            (viewer.layers.events.inserted, self._on_inserted),
            (viewer.layers.events.removing, self._on_removing),
            (viewer.layers.events.removed, self._on_removed),
            (viewer.layers.events.reordered, self._refresh_header),
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
    def _work(self) -> ImageWork | None:
        return None if self._image is None else self._works.get(self._image.unique_id)

    @property
    def _review(self) -> Review | None:
        return None if self._image is None else self._reviews.get(self._image.unique_id)

    def _sources(self) -> list[Source]:
        return [work.source for work in self._works.values()]

    def _is_ours(self, layer: Any) -> bool:
        return any(work.row_of(layer) is not None for work in self._works.values())

    def _on_inserted(self, event: Any) -> None:
        self._listen_to(event.value)
        self._refresh_images()
        incoming.take_in(self._viewer, self._work)

    def _listen_to(self, layer: Any) -> None:
        if isinstance(layer, Image):
            layer.events.name.connect(self._refresh_images)
            layer.events.data.connect(self._on_data_changed)
            layer.events.visible.connect(self._refresh_tools)
            layer.events.visible.connect(self._refresh_header)
        elif isinstance(layer, Labels):
            layer.events.mode.connect(self._correcting.on_mode)

    def _on_removing(self, event: Any) -> None:
        drawing.release_arrays(self._viewer)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        if layer in self._unfinished:
            self._unfinished.remove(layer)
        for work in tuple(self._works.values()):
            work.on_layer_removed(layer)
        for review in self._reviews.values():
            review.on_layer_removed(layer)
        self._correcting.on_layer_removed(layer)
        self._let_image_go(layer)
        if layer is self._image:
            self._choose(None)
        self._refresh_images()
        self._refresh_tools()

    def _on_data_changed(self, event: Any) -> None:
        image = event.source
        if is_doubt_layer(image):
            return
        self._let_image_go(image)
        if image is self._image:
            self._stop_asking()
            self._choose(image)
            self._status.setText("The image has changed")

    def _refresh_images(self, event: Any = None) -> None:
        images = [layer for layer in self._viewer.layers if _is_image(layer)]
        self._chooser.clear()
        for image in images:
            self._chooser.addItem(image.name, image.unique_id)
        self._chooser.setEnabled(bool(images))
        if not images:
            self._chooser.addItem("no image")
        if self._image not in images:
            self._choose(images[-1] if images else None)
        elif self._image is not None:
            self._chooser.setCurrentIndex(images.index(self._image))
        self._refresh_header()

    def _follow_selection(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if _is_image(active) and active is not self._image:
            self._choose(active)
            self._refresh_images()
        for image_id, work in self._works.items():
            row = work.row_of(active)
            if row is not None and work is not self._work and self._image is not None:
                self._choose_by_id(image_id)
        self._refresh_chosen()
        self._refresh_tools()

    def _on_chosen(self, index: int) -> None:
        self._choose_by_id(self._chooser.itemData(index), select=True)

    def _choose_by_id(self, wanted: Any, *, select: bool = False) -> None:
        for layer in self._viewer.layers:
            if isinstance(layer, Image) and layer.unique_id == wanted:
                if select:
                    self._viewer.layers.selection.active = layer
                if layer is not self._image:
                    self._choose(layer)
                    self._refresh_images()

    def _choose(self, image: Image | None) -> None:
        if image is not self._image:
            self._stop_asking()
        self._image = image
        self._values = None
        self._offer.hide()
        self._status.setText(NO_IMAGE if image is None else "Type what to outline and press Enter")
        if image is not None:
            try:
                self._values = self._read(image)
            except SegOneError as error:
                self._warning.setText(str(error))
                self._status.setText("This image can't be outlined; choose or open another one")
            else:
                self._open_work(image, self._values)
        self._correcting.set_work(self._work)
        self._refresh_header()
        self._refresh_sides()
        self._show_rows()

    def _read(self, image: Image) -> LayerImage:
        """The image's values; the same object as long as the layer says the same."""
        values = layers.read_layer(image)
        old = self._known.get(image.unique_id)
        if (
            old is not None
            and old.data is values.data
            and old.layout == values.layout
            and old.grid.is_same_as(values.grid)
        ):
            return old
        if old is not None:
            self._let_image_go(image)
        self._known[image.unique_id] = values
        return values

    def _let_image_go(self, image: Any) -> None:
        """Give back what is kept of an image; its work is on disk."""
        unique_id = image.unique_id
        values = self._known.pop(unique_id, None)
        if values is not None:
            self._engine.forget(values)
        for kept in (self._opening, self._offered, self._refused, self._kept):
            kept.pop(unique_id, None)
        if (review := self._reviews.pop(unique_id, None)) is not None:
            review.close()
        if (work := self._works.pop(unique_id, None)) is not None:
            self._correcting.set_work(self._work)
            self._saver.remove(work)
            self._learning.keep(work.source)
            work.close()
            work.setParent(None)  # or Qt would keep it, and its masks, as long as the panel
            work.deleteLater()
        if values is not None:
            self._give_back.start(GIVE_BACK_MS)

    def _refresh_header(self, event: Any = None) -> None:
        values, image = self._values, self._image
        self._header.setVisible(values is not None)
        if values is None or image is None:
            self._warning.setVisible(image is not None)
            return
        spacing = " × ".join(f"{mm:.3g}" for mm in values.grid.spacing)
        facts = [f"{spacing} mm", values.grid.orientation if values.is_placed else "axes unknown"]
        if values.is_placed and values.obliquity_deg > 0.5:
            facts.append(f"oblique {values.obliquity_deg:.0f}°")
        if self._device:
            facts.append(self._device)
        self._header.setText(" · ".join(facts))
        warnings = [layers.missing_facts(image) or "", *values.warnings, self._what_covers(image)]
        self._warning.setText("\n".join(filter(None, warnings)))
        self._warning.setVisible(bool(self._warning.text()))

    def _what_covers(self, image: Image) -> str:
        """What to say if another image hides the chosen one on the canvas; or nothing."""
        if image not in self._viewer.layers:
            return ""
        above = list(self._viewer.layers)[self._viewer.layers.index(image) + 1 :]
        for other in above:
            is_see_through = str(other.blending) in ("additive", "minimum")
            if _is_image(other) and other.visible and other.opacity > 0.5 and not is_see_through:
                return (
                    f"'{other.name}' lies over this image on the canvas: hide it, or move it "
                    "down in napari's list, to see this one"
                )
        return ""

    def _refresh_sides(self, event: Any = None) -> None:
        words = self._letters.update(self._values)
        if self._values is not None and not self._values.is_placed:
            words = f"{words} – if the assumption below holds"
        self._sides.setText(words)
        self._sides.setVisible(bool(words))

    def _restyle(self, event: Any = None) -> None:
        self.setStyleSheet(style.style_sheet(self._viewer.theme))
        self._prompt.set_popup_style(style.popup_style_sheet(self._viewer.theme))
        self._show_rows()  # their links have the theme's colour

    # The work on it ------------------------------------------------------------------------

    def _open_work(self, image: Image, values: LayerImage) -> None:
        """Look for earlier work on the image and open it, or offer to; once at a time."""
        unique_id = image.unique_id
        if unique_id in self._works or unique_id in self._opening:
            return
        self._engine.prepare(self._preset.currentData())
        if unique_id in self._offered:
            self._offer_to_go_on(self._offered[unique_id])
            return
        path = image.metadata.get("path")
        go_on, self._is_reopening = self._is_reopening, False
        self._look_for_work(
            image,
            values,
            lambda: cases.find(self._folder, values, path, self._problem_told.emit, go_on=go_on),
        )

    def _look_for_work(
        self, image: Image, values: LayerImage, look: Callable[[], cases.Found]
    ) -> None:
        self._opening[image.unique_id] = values
        self._keeper.run(
            look,
            partial(self._on_found, image, values),
            partial(self._on_not_opened, image, values),
        )

    def _on_found(self, image: Image, values: LayerImage, found: cases.Found) -> None:
        if self._opening.get(image.unique_id) is values:
            del self._opening[image.unique_id]
        if self._known.get(image.unique_id) is not values or image not in self._viewer.layers:
            if found.history is not None:
                found.history.close()
            return
        if found.history is None:
            assert found.case is not None
            identity = image.unique_id
            self._offered[identity] = found.case
            if image is self._image:
                if self._held is not None and self._held[0] == identity:
                    self._on_offer_answered(True)
                else:
                    self._offer_to_go_on(found.case)
            return
        work = ImageWork(
            self._viewer,
            image,
            values,
            found.reference,
            found.history,
            self._keeper,
            self._turns,
            self._bindings.bind_layer,
            self,
        )
        self._works[image.unique_id] = work
        self._correcting.set_work(self._work)
        self._reviews.setdefault(image.unique_id, Review(self._viewer, image, self._turns))
        work.changed.connect(self._on_work_changed)
        work.visibility_changed.connect(self._refresh_chosen)
        work.told.connect(self._status.setText)
        work.failed.connect(self._tell_error)
        self._saver.add(work, found.problem)
        for warning in found.history.warnings:
            show_warning(warning)
        if image is self._image:
            self._drop_previews([row.name for row in work.rows])
        held, self._held = self._held, None
        if held is not None and held[0] == image.unique_id:
            work.show_all(held[1])
        else:
            work.show_all(partial(self._tell_restored, work))
        incoming.take_in(self._viewer, work)

    def _on_not_opened(self, image: Image, values: LayerImage, error: Exception) -> None:
        """Work in memory where even looking for earlier work failed."""
        if isinstance(error, BadInput):
            self._opening.pop(image.unique_id, None)
            return  # the image can't be used, which is told when it is asked about
        logging.getLogger(__name__).error("the work could not be opened", exc_info=error)
        found = cases.in_memory(ImageRef("", values.grid, values.name), f"{error}")
        self._on_found(image, values, found)

    def _tell_restored(self, work: ImageWork) -> None:
        count, undo = len(work.rows), work.history.undo_count
        if work is self._work and (count or undo):
            rows = f"{count or 'No'} {'row' if count == 1 else 'rows'}"
            self._status.setText(
                f"{rows} as you left {'it' if count == 1 else 'them'}; {undo} "
                f"{'step' if undo == 1 else 'steps'} can be undone"
            )
        self._on_work_changed()

    def _offer_to_go_on(self, case: Case) -> None:
        self._offer.ask(
            cases.offer_words(case),
            ("Go on", "Bring back the rows, the masks and everything that can be undone"),
            ("Begin anew", "Put the earlier work aside; it is not deleted"),
        )

    def _offer_to_reopen(self, case: Case | None) -> None:
        if case is None or self._image is not None:
            return
        self._interrupted = case.image
        self._offer.ask(
            cases.offer_words(case),
            ("Open and go on", f"Open {case.image.path} with its rows and masks"),
            ("Not now", "It stays where it is, and is offered when you open the image"),
        )

    def _look_for_room(self) -> None:
        if room.is_too_small(self):
            self._room.ask(room.OFFER, room.YES, room.NO)

    def _on_room_answered(self, is_yes: bool) -> None:
        if is_yes:
            self._status.setText("The menu View brings napari's panels back")
            QTimer.singleShot(MAKE_ROOM_MS, self._make_room)

    def _make_room(self) -> None:
        room.make(self)

    def _on_offer_answered(self, is_yes: bool) -> None:
        self._offer.hide()
        image = self._image
        if image is None:
            reference, self._interrupted = self._interrupted, None
            if is_yes and reference is not None:
                self._reopen(reference)
            return
        case = self._offered.pop(image.unique_id, None)
        values = self._values
        if case is None or values is None:
            return
        opened = cases.open_case if is_yes else cases.begin_anew
        self._look_for_work(image, values, lambda: opened(case, self._problem_told.emit))

    def _reopen(self, reference: ImageRef) -> None:
        def show(volume: Any) -> None:
            data, arguments, _ = layers.image_layer_data(volume, str(reference.path))
            self._is_reopening = True
            self._viewer.add_image(data, **arguments)

        self._status.setText(f"Opening {reference.name} …")
        self._keeper.run(lambda: cases.read_again(reference), show, self._tell_error)

    def _on_work_changed(self) -> None:
        self._show_rows()
        self._correcting.on_work_changed()
        self._learning.refresh()
        self._refresh_tools()

    def _on_problem(self, problem: NotSaved) -> None:
        self._saver.refresh()
        show_error(str(problem))

    def _on_saved(self, words: str, problem: str) -> None:
        self._saved.setText(words)
        self._not_saved.setText(f"⚠ NOT SAVED: {problem}")
        self._not_saved.setVisible(bool(problem))

    # Asking --------------------------------------------------------------------------------

    def _question(self) -> tuple[list[str], Image, LayerImage]:
        prompts = as_prompts(self._prompt.text())
        if self._image is None:
            raise BadInput("there is no image to outline on; open an MRI first")
        self._values = self._read(self._image)
        self._open_work(self._image, self._values)
        return prompts, self._image, self._values

    def _stop_asking(self) -> None:
        """Let nothing more come of what was asked, and take away what is half done."""
        self._engine.cancel()
        self._set_working(False)
        self._held = None
        unfinished, self._unfinished = self._unfinished, []
        self._turns.remove(unfinished)
        for row in self._waiting:
            self._rows.remove(row)
        self._waiting = []

    def _set_working(self, is_working: bool) -> None:
        self._is_working = is_working
        self._show_progress(is_working)

    def _show_progress(self, is_shown: bool) -> None:
        self._first_step = None
        is_shown = is_shown or self._is_working or self._correcting.is_spreading
        self._cancel.setVisible(is_shown)
        self._progress.setVisible(is_shown)
        self._progress.setRange(0, 0)  # moves without a number until the first step is told
        self._progress.setFormat("")

    def _is_outdated(self, number: int) -> bool:
        return not self._is_working or number != self._number

    def _on_started(self, number: int, words: str) -> None:
        if not self._is_outdated(number):
            self._status.setText(words)

    def _on_progressed(self, number: int, done: int, total: int) -> None:
        if not self._is_outdated(number):
            self._show_steps(done, total)

    def _show_steps(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first_step is None or done < self._first_step[1]:
            self._first_step = (now, done)
        self._progress.setRange(0, total)
        self._progress.setValue(done)
        percent = f"{100 * done // max(total, 1)} %"
        self._progress.setFormat(percent + time_left(self._first_step, now, done, total))

    def _on_device_known(self, device: str) -> None:
        self._device = device
        self._refresh_header()

    def _on_warned(self, number: int, words: str) -> None:
        if not self._is_outdated(number):
            show_warning(words)

    def _on_failed(self, number: int, error: Exception) -> None:
        if self._is_outdated(number):
            return
        self._stop_asking()
        self._tell_error(error)

    def _tell_error(self, error: Exception) -> None:
        words = as_sentence(error)
        if not isinstance(error, SegOneError):
            logging.getLogger(__name__).error(words, exc_info=error)
        show_error(words)
        self._status.setText(words)

    # Showing -------------------------------------------------------------------------------

    def _on_previewed(self, number: int, answers: list[Answer]) -> None:
        if self._is_outdated(number) or self._image is None:
            return
        for row, shown in zip(self._waiting, answers, strict=False):
            result = shown.result
            row.show_preview(shown.name, result.colour if result.found else None)
            if result.found and not self._is_on_screen(shown.name):
                layer = layers.labels_layer(self._image, shown.name, result.colour, shown.mask)
                layer.editable = False  # what is painted now would be lost a moment later
                self._unfinished.append(layer)
                self._turns.add(layer)

    def _drop_previews(self, names: Sequence[str]) -> None:
        """Take first slices off the screen whose rows were there before."""
        dropped = [x for x in self._unfinished if x.metadata["segone_name"] in names]
        self._unfinished = [layer for layer in self._unfinished if layer not in dropped]
        self._turns.remove(dropped)

    def _is_on_screen(self, name: str) -> bool:
        known = self._work is not None and self._work.row_named(name) is not None
        return known or any(layer.metadata["segone_name"] == name for layer in self._unfinished)

    def _on_answered(self, number: int, answers: list[Answer], doubt: Doubt | None) -> None:
        image = self._image
        if self._is_outdated(number) or image is None:
            return
        take = partial(self._take, number, answers, doubt)
        if self._work is not None:
            take()
            return
        # The work on this image is still being opened, or offered: asking means to go on.
        self._held = (image.unique_id, take)
        if image.unique_id in self._offered:
            self._on_offer_answered(True)

    def _take(self, number: int, answers: list[Answer], doubt: Doubt | None) -> None:
        """Put answers into the rows; what a person has accepted or corrected stays as it is."""
        work, image = self._work, self._image
        if self._is_outdated(number) or work is None or image is None:
            return
        newest = {answer.name: answer for answer in answers}
        refused: list[Shown] = []
        entries = []
        for shown in newest.values():
            entry = self._entry(work, shown, refused)
            if entry is not None:
                entries.append(entry)
        self._refused[image.unique_id] = refused
        if (review := self._review) is not None:
            review.set_doubt(doubt)
        then = partial(self._finish, number, work, list(newest.values()))
        if entries:
            for layer in self._unfinished:  # what isn't there by now comes as the whole answer
                if layer not in self._viewer.layers:
                    self._turns.never_mind(layer)
            preview = {layer.metadata["segone_name"]: layer for layer in self._unfinished}
            work.put(entries, preview, then)
        else:
            then()

    def _entry(self, work: ImageWork, shown: Answer, refused: list[Shown]) -> Entry | None:
        """What an answer does to its row; None if it does nothing."""
        result = shown.result
        row = work.row_named(shown.name)
        structure = Structure(
            result.prompt,
            shown.name,
            result.side,
            result.colour,
            "draft" if result.found else "not found",
            float(result.confidence),
            self._engine.checkpoint,
            0 if row is None else row.id,
            self._preset_asked,
        )
        if row is None and not result.found and not shown.stored.any():
            refused.append(_refusal(result))
            return None
        if row is None:
            return structure, shown.stored
        if row.state == "accepted":
            show_info(f"{row.name} is accepted and was kept as it is; unlock it to replace it")
            return None
        if row.state == "draft" and work.is_edited(row.id):
            if result.found and self._image is not None:
                kept = self._kept.setdefault(self._image.unique_id, {})
                kept[row.id] = (structure, shown.stored)
            return None
        if row == structure and np.array_equal(work.history.masks[row.id], shown.stored):
            return None  # an undo that changes nothing would be puzzling
        return structure, shown.stored

    def _finish(self, number: int, work: ImageWork, answers: list[Answer]) -> None:
        if work is not self._work or self._is_outdated(number):
            return
        text = {shown.name: shown.result.warnings for shown in answers if shown.result.found}
        work.keep_warnings(text)
        for name, warnings in text.items():
            for warning in warnings:
                show_warning(f"{name}: {warning}")
        # What the whole volume doesn't show although one slice seemed to goes away again.
        self._unfinished = [one for one in self._unfinished if work.row_of(one) is None]
        self._stop_asking()
        self._show_rows()
        self._refresh_tools()
        self._bring_into_view([shown for shown in answers if shown.result.found])
        self._status.setText(_summary(answers, time.monotonic() - self._asked_s))

    def _bring_into_view(self, found: list[Answer]) -> None:
        """Go to the first outline if none of them can be seen on the slice on screen."""
        plane = layers.slice_on_screen(self._viewer, self._image) if found else None
        if plane is None:
            return
        axis, index = plane
        if not any(layers.plane_of(shown.mask, axis, index).any() for shown in found):
            largest = layers.largest_slices(found[0].mask)
            layers.show_slice(self._viewer, self._image, largest)

    def _bring_section_up(self, is_open: bool) -> None:
        """Scroll to the section that was opened, once its height is known."""
        if is_open:
            QTimer.singleShot(MAKE_ROOM_MS, self._scroll_to_section)  # Qt drops it with the panel

    def _scroll_to_section(self) -> None:
        self._area.ensureWidgetVisible(self._learning.panel, 0, 0)

    # Rows ----------------------------------------------------------------------------------

    def _show_rows(self) -> None:
        """Bring the rows in line with the work; a row that stays keeps its widget and focus."""
        by_key = {_key(row): row for row in self._rows if row not in self._waiting}
        link = style.link_colour(self._viewer.theme)
        rows = []
        for shown in self._shown():
            row = by_key.pop(_key(shown), None) or self._new_row(shown)
            row.show_result(shown, link)
            rows.append(row)
        self._rows.arrange([*rows, *self._waiting])
        self._rows.put_in_tab_order(self._cancel)
        self._refresh_chosen()

    def _shown(self) -> list[Shown]:
        if self._image is None:
            return []
        refused = self._refused.get(self._image.unique_id, [])
        work = self._work
        if work is None:
            return list(refused)
        kept = self._kept.get(self._image.unique_id, {})
        there = [
            Shown(
                row.name,
                row.prompt,
                row.state,
                row.colour,
                work.volume_ml(row.id),
                row.confidence,
                row.id,
                is_edited=work.is_edited(row.id),
                can_be_shown=row.state == "not found" and work.volume_ml(row.id) > 0,
                warnings=work.warnings.get(row.id, ()),
                is_kept=row.id in kept and row.state == "draft",
            )
            for row in work.rows
        ]
        return [*there, *refused]

    def _new_row(self, shown: Shown) -> Row:
        row = self._rows.add(shown.name)
        row.suggested.connect(self.ask)
        row.removed.connect(partial(self._remove, row))
        row.chosen.connect(partial(self._with_row, row, ImageWork.go_to))
        row.shown_changed.connect(partial(self._with_row, row, ImageWork.set_visible))
        row.accept_changed.connect(partial(self._accept, row))
        row.shown_anyway.connect(partial(self._with_row, row, ImageWork.show_anyway))
        row.replaced.connect(partial(self._replace, row))
        row.drawn.connect(partial(self._outline_by_hand, row))
        return row

    def _with_row(self, row: Row, action: Callable[..., None], *values: Any) -> None:
        if self._work is not None and row.row_id is not None:
            action(self._work, row.row_id, *values)

    def _remove(self, row: Row) -> None:
        if row.row_id is not None:
            self._with_row(row, ImageWork.remove)
        elif self._image is not None:
            refused = self._refused.get(self._image.unique_id, [])
            self._refused[self._image.unique_id] = [x for x in refused if x.name != row.name]
            self._show_rows()

    def _accept(self, row: Row, is_accepted: bool) -> None:
        state = "accepted" if is_accepted else "draft"
        self._with_row(row, lambda work, row_id: work.set_state(row_id, state))

    def _replace(self, row: Row) -> None:
        work, image = self._work, self._image
        if work is None or image is None or row.row_id is None:
            return
        entry = self._kept.get(image.unique_id, {}).pop(row.row_id, None)
        if entry is not None:
            work.put([entry], {}, self._show_rows)

    def _outline_by_hand(self, row: Row) -> None:
        """Begin an empty row in the place of what isn't known or wasn't seen."""
        work, image = self._work, self._image
        if work is None or image is None:
            return
        refused = self._refused.get(image.unique_id, [])
        shown = next((one for one in refused if one.name == row.name), None)
        if shown is None:
            return
        refused.remove(shown)
        colour = style.colour_of_row(len(work.rows))
        structure = Structure(shown.prompt, shown.name, colour=colour)
        empty = np.zeros(work.values.grid.shape, dtype=np.uint8)
        words = f"empty outline of {shown.name}"

        def then() -> None:
            added = work.row_named(shown.name)
            if added is not None and work is self._work:
                work.go_to(added.id)
                self._status.setText(f"Outline {shown.name}: brush, clicks or a box, then Spread")

        work.put([(structure, empty)], {}, then, words=words)

    def _refresh_chosen(self) -> None:
        active, work = self._viewer.layers.selection.active, self._work
        for row in self._rows:
            layer = None
            if work is not None and row.row_id is not None:
                layer = work.layer_of(row.row_id)
                row.set_shown(layer is not None and layer.visible)
            row.set_chosen(active is not None and layer is active)

    # Reviewing, and what else there is -----------------------------------------------------

    def _refresh_tools(self, event: Any = None) -> None:
        work, review = self._work, self._review
        self._correcting.refresh()
        is_known = review is not None and review.doubt is not None
        self._review_panel.set_doubt(is_known, review is not None and review.is_shown)
        self._export.setEnabled(work is not None and any(r.state != "not found" for r in work.rows))

    def _show_doubt(self, is_shown: bool) -> None:
        if self._review is not None:
            self._review.show(is_shown)
        self._refresh_tools()

    def _next_doubtful(self) -> None:
        if self._review is not None and self._work is not None:
            self._status.setText(self._review.go_to_next(self._work))

    def _go_to_prompt(self) -> None:
        self._prompt.setFocus()
        self._prompt.selectAll()

    def _ask_for_teacher(self) -> None:
        window = TeacherChoice(self._preferences.text("teacher", ""), self)
        window.chosen.connect(self._choose_teacher)
        self._open_window(window)

    def _choose_teacher(self, source: str) -> None:
        self._preferences.set_text("teacher", source)
        self._correcting.clicks.leave()
        self._correcting.sam2.choose(source or None)
        self._correcting.refresh()
        self._status.setText(f"Clicks and boxes ask {source or 'the SAM2 that comes with SegOne'}")

    def _show_cheat_sheet(self) -> None:
        self._open_window(CheatSheet(self))

    def _open_window(self, window: QWidget) -> None:
        for other in self.findChildren(type(window)):
            if other is not window:
                other.close()
        window.show()
        window.raise_()


class _Panel(QWidget):
    """What is in the scroll area around everything; it may be as low as its parts can be."""

    def heightForWidth(self, width: int) -> int:
        """The least height; Qt's own would leave out parts that take what room is left."""
        layout = self.layout()
        assert layout is not None
        return layout.minimumHeightForWidth(width)


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
        self._works = widget._works
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
        self._learning.stop([work.source for work in self._works.values()])
        for work in self._works.values():
            self._keeper.run(work.history.close)
        self._keeper.stop()
        self._saver.stop()
        self._works.clear()
        self._listeners.clear()
        garbage.look_at_all_again()


def _key(row: Row | Shown) -> tuple[int | None, str]:
    """What a row is known by: its number, or its name where it has none."""
    return row.row_id, "" if row.row_id is not None else row.name


def _is_image(layer: Any) -> bool:
    return isinstance(layer, Image) and not is_doubt_layer(layer)


def _refusal(result: Result) -> Shown:
    return Shown(
        result.resolved or result.prompt,
        result.prompt,
        "not found",
        confidence=result.confidence,
        warnings=result.warnings,
        suggestions=result.suggestions,
    )


def _summary(answers: Sequence[Answer], seconds: float) -> str:
    found = sum(answer.result.found for answer in answers)
    what = "Found" if found == len(answers) == 1 else f"{found} of {len(answers)} found"
    return f"{what} in {seconds:.1f} s"


def time_left(first: tuple[float, int], now: float, done: int, total: int) -> str:
    """The time left at the pace since the first step ("4 s left"); empty until there is a pace."""
    started_s, at = first
    if done <= at or now - started_s < 0.3:
        return ""
    return left_in_words((now - started_s) / (done - at) * (total - done))


def _name(widget: QWidget, name: str, accessible: str, tooltip: str) -> None:
    widget.setObjectName(name)
    widget.setAccessibleName(accessible)
    widget.setToolTip(tooltip)


def _text(name: str, accessible: str) -> QLabel:
    label = QLabel()
    _name(label, name, accessible, "")
    label.setWordWrap(True)
    return label


def _scrolled(name: str, inside: QWidget) -> QScrollArea:
    """Something with a scroll bar where it is higher than there is room."""
    area = QScrollArea()
    area.setObjectName(name)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    area.setWidget(inside)
    return area


def _line() -> QFrame:
    line = QFrame()
    line.setObjectName("line")
    line.setFrameShape(QFrame.Shape.HLine)
    return line


def _buddy(name: str, words: str, widget: QWidget) -> QLabel:
    label = QLabel(words)
    label.setObjectName(f"{name}_label")
    label.setBuddy(widget)
    return label
