"""The dock widget: type what to outline, see it over the image.

It holds what is on screen and hands the work to `workers.Engine`. An answer is shown only if its
number is still the one that was asked last and its image is still there, unchanged.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from segone_napari.config import PRESETS, SegmentOptions, help_of
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.gui import layers, style
from segone_napari.gui.layers import Answer, LayerImage
from segone_napari.gui.letters import EdgeLetters
from segone_napari.gui.prompt import PromptLine, names_to_offer
from segone_napari.gui.rows import Row, Rows
from segone_napari.gui.workers import Engine, Request, Segmenter
from segone_napari.runtime import BadInput, SegOneError
from segone_napari.session import Session, as_prompts
from segone_napari.systems.base import Result

NO_IMAGE = "Open an MRI: File › Open, or drop a file on the canvas"


def make_session(preset: str) -> Segmenter:
    """A session with the bundled checkpoint on the best device there is."""
    return Session(preset=preset)


class SegOneWidget(QWidget):
    """The dock widget "SegOne".

    Parameters
    ----------
    napari_viewer : the viewer that it is docked in.
    make_session : makes what answers, from the name of a preset; called in the worker's thread.
    """

    def __init__(
        self,
        napari_viewer: Any,
        make_session: Callable[[str], Segmenter] = make_session,
    ):
        super().__init__()
        self.setObjectName("segone")
        self._viewer = napari_viewer
        self._engine = Engine(make_session, self)
        self._letters = EdgeLetters(napari_viewer)
        self._image: Image | None = None
        self._values: LayerImage | None = None  # what is in the chosen image
        # By the image layer's unique_id: one volume each as long as nothing in it changes, so
        # that a session recognises it, and what was answered about it.
        self._known: dict[Any, LayerImage] = {}
        self._answers: dict[Any, list[Answer]] = {}
        self._number = 0
        self._is_working = False
        self._unfinished: list[Labels] = []  # layers that show one slice only
        self._waiting: list[Row] = []
        self._asked_s = 0.0
        self._first_step: tuple[float, int] | None = None
        self._device = ""
        self._build()
        self._connect()
        self._restyle()
        self._refresh_images()
        self._follow_selection()
        self._engine.find_device()

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
        self._stop_asking()
        self._number += 1
        self._set_working(True)
        self._asked_s, self._first_step = time.monotonic(), None
        self._show_rows([shown for shown in self._found() if self._layer_of(shown) is not None])
        self._waiting = [self._rows.add(prompt) for prompt in prompts]
        plane = layers.slice_on_screen(self._viewer, image)
        stored = values.layout.stored_plane(*plane, values.data.shape) if plane else None
        preset = self._preset.currentData()
        self._engine.ask(Request(self._number, values, tuple(prompts), preset, stored))

    def cancel(self) -> None:
        """Stop what runs, and take away what was only half shown."""
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
        if self._image is None or self._values is None:
            raise BadInput("there is no image to show results on; open an MRI first")
        self._show_answers([layers.answer(self._values, result) for result in results])

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Cancel by Esc, which the prompt line doesn't use itself."""
        if event is not None and event.key() == Qt.Key.Key_Escape and self._is_working:
            self.cancel()
        else:
            super().keyPressEvent(event)

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
        self._prompt = PromptLine(names_to_offer(Vocabulary.load()))
        self._segment = QPushButton("Segment ⏎")
        _name(self._segment, "segment", "Segment", "Outline what is typed   (Enter)")
        self._preset = QComboBox()
        for preset in PRESETS:
            self._preset.addItem(preset.capitalize(), preset)
        self._preset.setCurrentText(SegmentOptions.preset.capitalize())
        words = help_of(SegmentOptions, "preset")
        _name(self._preset, "preset", "Preset: speed or quality", words.capitalize())
        self._progress = QProgressBar()
        _name(self._progress, "progress", "Progress", "How far the work is")
        self._cancel = QPushButton("Cancel")
        _name(self._cancel, "cancel", "Cancel", "Stop   (Esc)")
        self._status = _text("status", "What is happening")
        self._rows = Rows()
        _name(self._rows, "results", "Results", "")
        self._lay_out()
        self._set_working(False)

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
        area = QScrollArea()
        area.setObjectName("results_area")
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(self._rows)
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 8, 10, 8)
        column.setSpacing(6)
        column.addLayout(top)
        column.addWidget(self._header)
        column.addWidget(self._sides)
        column.addWidget(self._warning)
        column.addSpacing(4)
        column.addLayout(line)
        column.addLayout(work)
        column.addWidget(self._status)
        column.addWidget(area, 1)
        self.setMinimumWidth(330)

    def _connect(self) -> None:
        self._prompt.returnPressed.connect(self.segment)
        self._segment.clicked.connect(self.segment)
        self._cancel.clicked.connect(self.cancel)
        self._chooser.activated.connect(self._on_chosen)
        self._engine.started.connect(self._on_started)
        self._engine.previewed.connect(self._on_previewed)
        self._engine.progressed.connect(self._on_progressed)
        self._engine.answered.connect(self._on_answered)
        self._engine.warned.connect(self._on_warned)
        self._engine.failed.connect(self._on_failed)
        self._engine.device_known.connect(self._on_device_known)
        viewer = self._viewer
        listeners = [
            (viewer.layers.events.inserted, self._on_inserted),
            (viewer.layers.events.removed, self._on_removed),
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
        engine, letters = self._engine, self._letters
        # Qt has half destroyed this widget by then: touch only what isn't Qt's.
        self.destroyed.connect(lambda: _let_go(engine, letters, listeners))

    # The image -----------------------------------------------------------------------------

    def _on_inserted(self, event: Any) -> None:
        self._listen_to(event.value)
        self._refresh_images()

    def _listen_to(self, layer: Any) -> None:
        if isinstance(layer, Image):
            layer.events.name.connect(self._refresh_images)
            layer.events.data.connect(self._on_data_changed)
        elif isinstance(layer, Labels):
            layer.events.visible.connect(self._on_visible_changed)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        if layer in self._unfinished:
            self._unfinished.remove(layer)
        self._forget(layer)
        if layer is self._image:
            self._choose(None)
        self._refresh_images()
        if isinstance(layer, Labels) and not self._is_working:
            self._show_rows(self._found())

    def _on_data_changed(self, event: Any) -> None:
        image = event.source
        self._forget(image)
        if image is self._image:
            self._stop_asking()
            self._choose(image)
            self._status.setText("The image has changed")

    def _refresh_images(self, event: Any = None) -> None:
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
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

    def _follow_selection(self, event: Any = None) -> None:
        active = self._viewer.layers.selection.active
        if isinstance(active, Image) and active is not self._image:
            self._choose(active)
            self._refresh_images()
        for row in self._rows:
            row.set_chosen(active is not None and self._row_layer(row) is active)

    def _on_chosen(self, index: int) -> None:
        wanted = self._chooser.itemData(index)
        for layer in self._viewer.layers:
            if isinstance(layer, Image) and layer.unique_id == wanted:
                self._viewer.layers.selection.active = layer
                if layer is not self._image:
                    self._choose(layer)

    def _choose(self, image: Image | None) -> None:
        if image is not self._image:
            self._stop_asking()
        self._image = image
        self._values = None
        if image is not None:
            try:
                self._values = self._read(image)
            except SegOneError as error:
                self._warning.setText(str(error))
        self._refresh_header()
        self._refresh_sides()
        self._show_rows(self._found())
        self._status.setText(NO_IMAGE if image is None else "Type what to outline and press Enter")

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
        self._known[image.unique_id] = values
        return values

    def _forget(self, image: Any) -> None:
        values = self._known.pop(image.unique_id, None)
        if values is not None:
            self._engine.forget(values)
        self._answers.pop(image.unique_id, None)

    def _refresh_header(self) -> None:
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
        warnings = [layers.missing_facts(image) or "", *values.warnings]
        self._warning.setText("\n".join(filter(None, warnings)))
        self._warning.setVisible(bool(self._warning.text()))

    def _refresh_sides(self, event: Any = None) -> None:
        words = self._letters.update(self._values)
        if self._values is not None and not self._values.is_placed:
            words = f"{words} – if the assumption below holds"
        self._sides.setText(words)
        self._sides.setVisible(bool(words))

    def _restyle(self, event: Any = None) -> None:
        self.setStyleSheet(style.style_sheet(self._viewer.theme))
        self._prompt.set_popup_style(style.popup_style_sheet(self._viewer.theme))

    # Asking --------------------------------------------------------------------------------

    def _question(self) -> tuple[list[str], Image, LayerImage]:
        prompts = as_prompts(self._prompt.text())
        if self._image is None:
            raise BadInput("there is no image to outline on; open an MRI first")
        self._values = self._read(self._image)
        return prompts, self._image, self._values

    def _stop_asking(self) -> None:
        """Let nothing more come of what was asked, and take away what is half done."""
        self._engine.cancel()
        self._set_working(False)
        for layer in tuple(self._unfinished):
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._unfinished = []
        for row in self._waiting:
            self._rows.remove(row)
        self._waiting = []

    def _set_working(self, is_working: bool) -> None:
        self._is_working = is_working
        self._cancel.setVisible(is_working)
        self._progress.setVisible(is_working)
        self._progress.setRange(0, 0)  # moves without a number until the first step is told
        self._progress.setFormat("")

    def _is_outdated(self, number: int) -> bool:
        return not self._is_working or number != self._number

    def _on_started(self, number: int, words: str) -> None:
        if not self._is_outdated(number):
            self._status.setText(words)

    def _on_progressed(self, number: int, done: int, total: int) -> None:
        if self._is_outdated(number):
            return
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
        words = str(error)
        if not isinstance(error, SegOneError):
            words = f"Something unexpected went wrong: {type(error).__name__}: {error}"
            logging.getLogger(__name__).error(words, exc_info=error)
        show_error(words)
        self._status.setText(words)

    # Showing -------------------------------------------------------------------------------

    def _on_previewed(self, number: int, answers: list[Answer]) -> None:
        if self._is_outdated(number):
            return
        for row, shown in zip(self._waiting, answers, strict=False):
            row.show_preview(shown.result)
            if shown.result.found and self._layer_of(shown) is None:
                self._unfinished.append(self._add_layer(shown))

    def _on_answered(self, number: int, answers: list[Answer]) -> None:
        if self._is_outdated(number):
            return
        finished, self._unfinished = self._unfinished, []
        self._show_answers(answers)
        shown = [self._layer_of(answer) for answer in answers if answer.result.found]
        for layer in finished:  # the slice seemed to show it, the whole volume doesn't
            if layer not in shown and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._stop_asking()
        self._status.setText(self._summary(answers, time.monotonic() - self._asked_s))

    def _show_answers(self, answers: list[Answer]) -> None:
        if self._image is None:
            return
        names = {answer.name for answer in answers}
        kept = [answer for answer in self._found() if answer.name not in names]
        newest = {answer.name: answer for answer in answers}
        self._answers[self._image.unique_id] = [*kept, *newest.values()]
        for shown in newest.values():
            self._show_layer(shown)
            for warning in shown.result.warnings if shown.result.found else ():
                show_warning(f"{shown.name}: {warning}")
        for row in self._waiting:
            self._rows.remove(row)
        self._waiting = []
        self._show_rows(self._answers[self._image.unique_id])
        self._bring_into_view([shown for shown in newest.values() if shown.result.found])

    def _show_layer(self, shown: Answer) -> None:
        layer = self._layer_of(shown)
        if layer is not None and _is_edited(layer):
            # A person's strokes are never painted over: their layer is theirs from now on.
            layer.metadata["segone_name"] = None
            layer.name = f"{layer.name} (edited)"
            layer = None
        if layer is None:
            if shown.result.found:
                self._add_layer(shown)
        elif shown.result.found:
            layer.data = shown.mask
            layer.colormap = layers.colour_map(shown.result.colour)
            layer.metadata["segone_checksum"] = _checksum(shown.mask)
        else:
            self._viewer.layers.remove(layer)

    def _add_layer(self, shown: Answer) -> Labels:
        assert self._image is not None
        layer = layers.labels_layer(self._image, shown)
        layer.metadata["segone_checksum"] = _checksum(shown.mask)
        self._viewer.add_layer(layer)
        return layer

    def _bring_into_view(self, found: list[Answer]) -> None:
        """Go to the first outline if none of them can be seen on the slice on screen."""
        plane = layers.slice_on_screen(self._viewer, self._image) if found else None
        if plane is None:
            return
        axis, index = plane
        if not any(np.take(shown.mask, index, axis=axis).any() for shown in found):
            layers.show_slice(self._viewer, self._image, found[0].largest)

    def _show_rows(self, answers: list[Answer]) -> None:
        self._rows.keep(self._waiting)
        link = style.link_colour(self._viewer.theme)
        for shown in answers:
            row = self._rows.add(shown.name)
            row.show_result(shown.result, link)
            row.chosen.connect(lambda shown=shown: self._go_to(shown))
            row.shown_changed.connect(lambda is_on, shown=shown: self._set_visible(shown, is_on))
            row.suggested.connect(self.ask)
            layer = self._layer_of(shown)
            if layer is not None:
                row.set_shown(layer.visible)
                row.set_chosen(layer is self._viewer.layers.selection.active)

    def _found(self) -> list[Answer]:
        """What was found on the chosen image and is still among the layers."""
        if self._image is None:
            return []
        answers = self._answers.get(self._image.unique_id, [])
        return [answer for answer in answers if self._layer_of(answer) is not None]

    def _layer_of(self, shown: Answer) -> Labels | None:
        return self._named_layer(shown.name)

    def _row_layer(self, row: Row) -> Labels | None:
        return self._named_layer(row.name)

    def _named_layer(self, name: str) -> Labels | None:
        if self._image is None:
            return None
        for layer in self._viewer.layers:
            if layers.belongs_to(layer, self._image, name):
                return layer
        return None

    def _go_to(self, shown: Answer) -> None:
        layer = self._layer_of(shown)
        if layer is not None:
            layer.visible = True
            self._viewer.layers.selection.active = layer
            layers.show_slice(self._viewer, layer, shown.largest)

    def _set_visible(self, shown: Answer, is_visible: bool) -> None:
        layer = self._layer_of(shown)
        if layer is not None:
            layer.visible = is_visible

    def _on_visible_changed(self, event: Any) -> None:
        for row in self._rows:
            layer = self._row_layer(row)
            if layer is not None and layer is event.source:
                row.set_shown(layer.visible)

    def _summary(self, answers: list[Answer], seconds: float) -> str:
        found = sum(answer.result.found for answer in answers)
        what = "Found" if found == len(answers) == 1 else f"{found} of {len(answers)} found"
        return f"{what} in {seconds:.1f} s"


def _let_go(
    engine: Engine, letters: EdgeLetters, listeners: list[tuple[Any, Callable[..., None]]]
) -> None:
    engine.stop()
    for event, callback in listeners:
        event.disconnect(callback)
    letters.remove()


def _is_edited(layer: Labels) -> bool:
    return bool(layer.metadata.get("segone_checksum") != _checksum(layer.data))


def _checksum(mask: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(mask).data)


def time_left(first: tuple[float, int], now: float, done: int, total: int) -> str:
    """The time left at the pace since the first step ("4 s left"); empty until there is a pace."""
    started_s, at = first
    if done <= at or now - started_s < 0.3:
        return ""
    left_s = (now - started_s) / (done - at) * (total - done)
    if left_s < 1:
        return ""
    return f" · {left_s:.0f} s left" if left_s < 90 else f" · {left_s / 60:.0f} min left"


def _name(widget: QWidget, name: str, accessible: str, tooltip: str) -> None:
    widget.setObjectName(name)
    widget.setAccessibleName(accessible)
    widget.setToolTip(tooltip)


def _text(name: str, accessible: str) -> QLabel:
    label = QLabel()
    _name(label, name, accessible, "")
    label.setWordWrap(True)
    return label


def _buddy(name: str, words: str, widget: QWidget) -> QLabel:
    label = QLabel(words)
    label.setObjectName(f"{name}_label")
    label.setBuddy(widget)
    return label
