"""Finding a person's earlier work on the images that are opened, and asking whether to go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]

from segone_napari.gui import cases
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.openimage import OpenImage, is_image
from segone_napari.gui.panels import Offer
from segone_napari.gui.readers import Opened
from segone_napari.project import Case, ImageRef
from segone_napari.runtime import BadInput


class Opening(QObject):  # type: ignore[misc, unused-ignore]
    """Looks for work in a worker, one image after the other; asks about the chosen one.

    Signals
    -------
    found : an `OpenImage` and what was found of it (`cases.Found`), its history open.
    undecided : an `OpenImage` whose earlier work was found; whether to go on is to be said.
    told : words for the person.
    failed : an error for the person.
    not_saved : from any thread, why the work on an image can't be saved (`NotSaved`).
    """

    found = Signal(object, object)
    undecided = Signal(object)
    told = Signal(str)
    failed = Signal(object)
    not_saved = Signal(object)

    def __init__(
        self, viewer: Any, folder: Path, offer: Offer, keeper: Keeper, parent: QObject | None = None
    ):
        super().__init__(parent)
        self._viewer = viewer
        self._folder = folder
        self._offer = offer
        self._keeper = keeper
        self._image: OpenImage | None = None  # which the offer is about
        self._interrupted: ImageRef | None = None  # the same while no image is open
        self._is_reopening = False
        offer.answered.connect(self.decide)

    def find_interrupted(self) -> None:
        """Offer to open the image again that was worked on when the program died."""
        self._keeper.run(lambda: cases.interrupted(self._folder), self._offer_to_reopen)

    def choose(self, image: OpenImage | None) -> None:
        """Look for the work on the image that was chosen; ask about no other one any more."""
        self._offer.hide()
        self._image = image
        if image is not None:
            self.find(image)

    def find(self, image: OpenImage) -> None:
        """Look for the work on an image, and open it or ask; nothing if it is open already."""
        if image.work is not None or image.is_opening:
            return
        if image.earlier is not None:
            self.ask(image)
            return
        path, values = image.layer.metadata.get("path"), image.values
        go_on, self._is_reopening = self._is_reopening, False
        self._look(
            image,
            lambda: cases.find(self._folder, values, path, self.not_saved.emit, go_on=go_on),
        )

    def ask(self, image: OpenImage) -> None:
        """Ask whether to go on with the earlier work on an image."""
        assert image.earlier is not None
        self._offer.ask(
            cases.offer_words(image.earlier),
            ("Go on", "Bring back the rows, the masks and everything that can be undone"),
            ("Begin anew", "Put the earlier work aside; it is not deleted"),
        )

    def decide(self, is_yes: bool) -> None:
        """Go on with the earlier work, or not."""
        self._offer.hide()
        image = self._image
        if image is None:
            reference, self._interrupted = self._interrupted, None
            if is_yes and reference is not None:
                self._reopen(reference)
            return
        case, image.earlier = image.earlier, None
        if case is not None:
            opened = cases.open_case if is_yes else cases.begin_anew
            self._look(image, lambda: opened(case, self.not_saved.emit))

    def _look(self, image: OpenImage, look: Callable[[], cases.Found]) -> None:
        image.is_opening = True
        self._keeper.run(look, partial(self._on_found, image), partial(self._on_not_opened, image))

    def _on_found(self, image: OpenImage, found: cases.Found) -> None:
        image.is_opening = False
        if image.is_gone:
            if found.history is not None:
                found.history.close()
        elif found.history is not None:
            self.found.emit(image, found)
        else:
            image.earlier = found.case
            self.undecided.emit(image)

    def _on_not_opened(self, image: OpenImage, error: Exception) -> None:
        """Work in memory where even looking for earlier work failed."""
        if isinstance(error, BadInput):
            image.is_opening = False
            return  # the image can't be used, which is told when it is asked about
        logging.getLogger(__name__).error("the work could not be opened", exc_info=error)
        reference = ImageRef("", image.values.grid, image.values.name)
        self._on_found(image, cases.in_memory(reference, f"{error}"))

    def _offer_to_reopen(self, case: Case | None) -> None:
        if case is None or any(is_image(layer) for layer in self._viewer.layers):
            return
        self._interrupted = case.image
        self._offer.ask(
            cases.offer_words(case),
            ("Open and go on", f"Open {case.image.path} with its rows and masks"),
            ("Not now", "It stays where it is, and is offered when you open the image"),
        )

    def _reopen(self, reference: ImageRef) -> None:
        def show(volume: Any) -> None:
            assert reference.path is not None  # else it isn't offered
            opened = Opened(volume, reference.series, reference.volume_index)
            data, arguments, _ = opened.layer_data(reference.path)
            self._is_reopening = True
            self._viewer.add_image(data, **arguments)

        self.told.emit(f"Opening {reference.name} …")
        self._keeper.run(lambda: cases.read_again(reference), show, self.failed.emit)
