"""The rows of the chosen image: what they say, and what happens when one of them is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import QWidget

from segone_napari.gui import style
from segone_napari.gui.imagework import ImageWork
from segone_napari.gui.openimage import OpenImage
from segone_napari.gui.rows import Row, Rows, Shown
from segone_napari.project import Row as Structure


class Results(QObject):  # type: ignore[misc, unused-ignore]
    """Keeps the rows in line with the work on an image.

    Attributes
    ----------
    image : whose rows are shown; None for none.

    Parameters
    ----------
    before : what the Tab key leaves for the rows.
    waiting : the rows that wait for an answer, which stand below the others.

    Signals
    -------
    suggested : a name that the person wants to ask about.
    told : words for the person about what was done.
    """

    suggested = Signal(str)
    told = Signal(str)

    def __init__(
        self,
        viewer: Any,
        rows: Rows,
        before: QWidget,
        waiting: Callable[[], list[Row]],
        parent: QObject | None = None,
    ):
        super().__init__(parent)
        self.image: OpenImage | None = None
        self._viewer = viewer
        self._rows = rows
        self._before = before
        self._waiting = waiting

    def show(self) -> None:
        """Bring the rows in line with the work; a row that stays keeps its widget and focus."""
        waiting = self._waiting()
        by_key = {_key(row): row for row in self._rows if row not in waiting}
        link = style.link_colour(self._viewer.theme)
        rows = []
        for shown in [] if self.image is None else self.image.shown:
            row = by_key.pop(_key(shown), None) or self._new_row(shown)
            row.show_result(shown, link)
            rows.append(row)
        self._rows.arrange([*rows, *waiting])
        self._rows.put_in_tab_order(self._before)
        self.show_chosen()

    def show_chosen(self) -> None:
        """Say which row's layer is selected, and which are visible."""
        active, work = self._viewer.layers.selection.active, self._work
        for row in self._rows:
            layer = None
            if work is not None and row.row_id is not None:
                layer = work.layer_of(row.row_id)
                row.set_shown(layer is not None and layer.visible)
            row.set_chosen(active is not None and layer is active)

    @property
    def _work(self) -> ImageWork | None:
        return None if self.image is None else self.image.work

    def _new_row(self, shown: Shown) -> Row:
        row = self._rows.add(shown.name)
        row.suggested.connect(self.suggested)
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
        elif self.image is not None:
            self.image.take_refused(row.name)
            self.show()

    def _accept(self, row: Row, is_accepted: bool) -> None:
        state = "accepted" if is_accepted else "draft"
        self._with_row(row, lambda work, row_id: work.set_state(row_id, state))

    def _replace(self, row: Row) -> None:
        image = self.image
        if image is None or image.work is None or row.row_id is None:
            return
        entry = image.kept.pop(row.row_id, None)
        if entry is not None:
            image.work.put(lambda _: [entry], dict, self.show)

    def _outline_by_hand(self, row: Row) -> None:
        """Begin an empty row in the place of what isn't known or wasn't seen."""
        image, work = self.image, self._work
        if image is None or work is None:
            return
        shown = image.take_refused(row.name)
        if shown is None:
            return
        colour = style.colour_of_row(len(work.rows))
        structure = Structure(shown.prompt, shown.name, colour=colour)
        empty = np.zeros(work.values.grid.shape, dtype=np.uint8)

        def then() -> None:
            added = work.row_named(shown.name)
            if added is not None and work is self._work:
                work.go_to(added.id)
                self.told.emit(f"Outline {shown.name}: brush, clicks or a box, then Spread")

        work.put(lambda _: [(structure, empty)], dict, then, words=f"empty outline of {shown.name}")


def _key(row: Row | Shown) -> tuple[int | None, str]:
    """What a row is known by: its number, or its name where it has none."""
    return row.row_id, "" if row.row_id is not None else row.name
