"""Brings every edit to the disk within a second, and says when that was."""

from __future__ import annotations

import time
from functools import partial

from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined, unused-ignore]

from segone_napari.gui.cases import ago
from segone_napari.gui.imagework import ImageWork
from segone_napari.gui.keeper import Keeper
from segone_napari.project import EditHistory

SYNC_AFTER_MS = 300
LOOK_EVERY_MS = 1000


class Saver(QObject):  # type: ignore[misc, unused-ignore]
    """Waits for the disk in a thread of its own, so that edits never do.

    Signals
    -------
    told : words for what is saved ("saved 3 s ago"), and why something isn't, or nothing.
    """

    told = Signal(str, str)

    def __init__(self, parent: QObject | None = None):
        super().__init__(parent)
        self._disk = Keeper("segone-disk", self)
        self._works: dict[ImageWork, str] = {}
        self._is_syncing = False
        self._is_due = False
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SYNC_AFTER_MS)
        self._soon.timeout.connect(self._sync)
        self._clock = QTimer(self)
        self._clock.setInterval(LOOK_EVERY_MS)
        self._clock.timeout.connect(self._look)

    def add(self, work: ImageWork, problem: str = "") -> None:
        """Save what happens in `work` from now on; `problem` is why that isn't possible."""
        self._works[work] = problem
        work.changed.connect(self._on_changed)
        self._clock.start()
        self.refresh()

    def remove(self, work: ImageWork) -> None:
        """Leave a work that is being closed alone."""
        self._works.pop(work, None)
        self.refresh()

    def stop(self) -> None:
        """Finish what was begun; touches nothing of Qt's."""
        self._disk.stop()

    def refresh(self) -> None:
        """Tell anew what is saved."""
        problems = [
            problem or str(work.history.problem or "") for work, problem in self._works.items()
        ]
        told = next(filter(None, problems), "")
        times = [work.history.saved_at for work in self._works]
        last = max((at for at in times if at is not None), default=None)
        saved = "" if told or last is None else f"saved {ago(time.time() - last)}"
        self.told.emit(saved, told)

    def _on_changed(self) -> None:
        if not self._soon.isActive():
            self._soon.start()

    def _look(self) -> None:
        if any(work.history.problem for work in self._works):
            self._on_changed()  # perhaps there is room on the disk again
        self.refresh()

    def _sync(self) -> None:
        if self._is_syncing:
            self._is_due = True
            return
        histories = [work.history for work, problem in self._works.items() if not problem]
        if histories:
            self._is_syncing = True
            self._disk.run(partial(_sync_all, histories), self._on_synced, self._on_synced)

    def _on_synced(self, outcome: object) -> None:
        self._is_syncing = False
        if self._is_due:
            self._is_due = False
            self._soon.start()
        self.refresh()


def _sync_all(histories: list[EditHistory]) -> None:
    for history in histories:
        history.sync()
