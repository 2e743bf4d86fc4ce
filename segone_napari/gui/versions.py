"""The window with the versions of the model: what each learnt, which is in use, out and in.

`read_versions` reads a project's folder and belongs in a worker; the window only shows and asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import (
    QDialog,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from segone_napari.gui.card import lines_of, mean_dice
from segone_napari.gui.controls import push
from segone_napari.project.versions import Version, Versions
from segone_napari.runtime import SegOneError

BUNDLED = "As it comes with SegOne"


@dataclass(frozen=True)
class ShownVersion:
    """A line of the list.

    Attributes
    ----------
    number : 0 is the one that comes with the package.
    title : when it was made.
    words : what it learnt, from how much, and what that brought.
    is_used : whether it answers.
    """

    number: int
    title: str
    words: str
    is_used: bool

    @property
    def name(self) -> str:
        """How a sentence speaks of it."""
        return f"version {self.number}" if self.number else "the model that comes with SegOne"


def read_versions(folder: Path) -> tuple[ShownVersion, ...]:
    """The versions of a project, the newest first, the package's own last."""
    return tuple(_shown(version) for version in reversed(Versions(folder).all()))


def _shown(version: Version) -> ShownVersion:
    if version.folder is None:
        return ShownVersion(0, BUNDLED, "What every version was taught beside", version.is_used)
    learnt = _learnt(version.folder)
    when = local_time(str(version.card.get("created", "")) or str(learnt.get("started", "")))
    title = " · ".join(filter(None, (f"Version {version.number}", when)))
    return ShownVersion(version.number, title, _words(version, learnt), version.is_used)


def _learnt(folder: Path) -> dict[str, Any]:
    """What ``checkpoint.json`` says it was taught; empty where it says nothing."""
    from segone_napari.models.checkpoint import read_manifest  # loads torch, which takes a while

    with suppress(SegOneError):
        learnt = read_manifest(folder).training.get("corrections")
        return dict(learnt) if isinstance(learnt, dict) else {}
    return {}


def _words(version: Version, learnt: dict[str, Any]) -> str:
    parts = []
    if terms := learnt.get("terms"):
        images = int(learnt.get("images", 0))
        parts.append(f"learnt {', '.join(terms)} from {images} image{'' if images == 1 else 's'}")
    lines = lines_of(version.card.get("held_back", ()))
    if dice := mean_dice(lines):
        parts.append(f"agreement {dice[0]:.2f} before, {dice[1]:.2f} then")
    for line in lines:
        if line.found:
            parts.append(f"{line.term}, not there: {line.found[0]} before, {line.found[1]} then")
    return "; ".join(parts) or "no record of what it learnt"


def local_time(iso: str) -> str:
    """A time in UTC as a person writes it, where they are: "25 Nov 2026, 21:40"."""
    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%d %b %Y, %H:%M")
    except ValueError:
        return ""


class VersionsWindow(QDialog):
    """The list of versions; it stays open beside the work.

    Signals
    -------
    chosen : the number of the version that is to answer from now on.
    exported : a version's number, and the ``.zip`` file that it is to be written to.
    imported : the ``.zip`` file of a version.
    """

    chosen = Signal(int)
    exported = Signal(int, object)
    imported = Signal(object)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("versions_window")
        self.setWindowTitle("SegOne: versions of the model")
        self.setModal(False)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._area = QScrollArea()
        self._area.setObjectName("versions_area")
        self._area.setAccessibleName("Versions")
        self._area.setWidgetResizable(True)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._words = QLabel("Reading …")
        self._words.setObjectName("versions_words")
        self._words.setWordWrap(True)
        take_in = push("versions_import", "Import…", "Take in a version that was exported (.zip)")
        take_in.clicked.connect(self._import)
        close = push("versions_close", "Close", "Close this window   (Esc)")
        close.clicked.connect(self.close)
        buttons = QHBoxLayout()
        buttons.addWidget(take_in)
        buttons.addStretch(1)
        buttons.addWidget(close)
        column = QVBoxLayout(self)
        column.addWidget(self._area, 1)
        column.addWidget(self._words)
        column.addLayout(buttons)
        self.resize(500, 360)

    def show_versions(self, versions: Sequence[ShownVersion]) -> None:
        """Show these versions, in this order."""
        inside = QWidget()
        inside.setObjectName("versions_inside")
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        for version in versions:
            column.addWidget(self._line(version))
        column.addStretch(1)
        self._area.setWidget(inside)
        self.say("")

    def say(self, words: str) -> None:
        """Say what came of something."""
        self._words.setText(words)
        self._words.setVisible(bool(words))

    def _line(self, version: ShownVersion) -> QWidget:
        line = QFrame()
        line.setObjectName("version")
        line.setProperty("chosen", version.is_used)
        title = QLabel(version.title)
        title.setObjectName("version_title")
        words = QLabel(version.words)
        words.setObjectName("version_words")
        words.setWordWrap(True)
        grid = QGridLayout(line)
        grid.setContentsMargins(8, 5, 6, 5)
        grid.addWidget(title, 0, 0)
        grid.addWidget(words, 1, 0, 1, 3)
        grid.setColumnStretch(0, 1)
        if version.number:
            export = push(f"export_version_{version.number}", "Export…", "Write it into a file")
            export.setAccessibleName(f"Export {version.name}")
            export.clicked.connect(lambda _=False: self._export(version.number))
            grid.addWidget(export, 0, 1)
        if version.is_used:
            used = QLabel("✓ in use")
            used.setObjectName("version_used")
            grid.addWidget(used, 0, 2)
        else:
            use = push(f"use_version_{version.number}", "Use it", "Answer with it from now on")
            use.setAccessibleName(f"Use {version.name}")
            use.clicked.connect(lambda _=False: self.chosen.emit(version.number))
            grid.addWidget(use, 0, 2)
        return line

    def _export(self, number: int) -> None:
        name = f"segone-version-{number}.zip"
        path, _ = QFileDialog.getSaveFileName(self, "Export a version", name, "Versions (*.zip)")
        if not path:
            return
        file = Path(path)
        if file.suffix.lower() != ".zip":
            file = Path(f"{path}.zip")
            if file.exists():  # the dialog has asked about the other name
                self.say(f"{file.name} exists; choose another name")
                return
        self.exported.emit(number, file)

    def _import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import a version", "", "Versions (*.zip)")
        if path:
            self.imported.emit(Path(path))
