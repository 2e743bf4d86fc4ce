"""The export window: which structures, in which formats, under which name, into which folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from segone_napari import montage
from segone_napari.data import formats
from segone_napari.exports import registry
from segone_napari.exports.content import Content, labels_of, remarks_on
from segone_napari.exports.dicom_series import files_of
from segone_napari.exports.registry import FORMATS, Format
from segone_napari.exports.staging import Occupied, write_together
from segone_napari.gui import garbage
from segone_napari.gui.controls import push
from segone_napari.gui.imagework import ImageWork
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.origins import SYSTEM, segment_of
from segone_napari.gui.preferences import Preferences
from segone_napari.project import Row
from segone_napari.runtime import BadInput, SegOneError

OFFERED = ("nifti", "masks", "csv", "seg-nrrd", "dicom-seg", "glb", "stl-folder", "bids")
USUAL = "nifti csv"
PICTURE = "picture"
"""An overlay picture; it is for people to look at, so it is no format of a segmentation."""
PICTURE_TITLE = "PNG picture of slices with the outlines"


class ExportWindow(QDialog):
    """Writes chosen structures; it stays open and doesn't get in the way of the work."""

    def __init__(
        self,
        work: ImageWork,
        keeper: Keeper,
        preferences: Preferences,
        parent: QWidget | None = None,
    ):
        super().__init__(parent)
        self.setObjectName("export_window")
        self.setWindowTitle(f"Export: {work.values.name}")
        self.setModal(False)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._work = work
        self._keeper = keeper
        self._preferences = preferences
        self._structures: dict[int, QCheckBox] = {}
        self._structures_column = _column([])
        self._follow_rows()
        work.changed.connect(self._follow_rows)
        usual = preferences.text("export_formats", USUAL).split()
        self._formats = {
            one.name: _check(f"export_{one.name}", one.title, one.name in usual)
            for one in _formats_for(work)
        }
        self._formats[PICTURE] = _check(f"export_{PICTURE}", PICTURE_TITLE, PICTURE in usual)
        self._name = QLineEdit(default_name(work))
        self._name.setObjectName("export_name")
        self._name.setAccessibleName("Name of the files")
        self._name.setToolTip("What the files are called, as typed: leave the patient's name out")
        # Never the folder of another image: one person's files would end among another's.
        self._folder = QLineEdit(str(work.export_folder or _folder_of(work)))
        self._folder.setObjectName("export_folder")
        self._folder.setAccessibleName("Folder to export into")
        self._folder.setToolTip("The folder that the files are written into")
        self._browse = _push("export_browse", "Choose…", "Choose a folder", self._choose_folder)
        self._force = _check("export_force", "Overwrite files that exist", False)
        self._words = QLabel("A record of how each file was made is written beside it.")
        self._words.setObjectName("export_words")
        self._words.setWordWrap(True)
        self._open = _push("export_open", "Open folder", "Show the files", self._open_folder)
        self._open.hide()
        self._export = _push("export_now", "Export", "Write the files   (Enter)", self.export)
        self._export.setDefault(True)
        self._close = _push("export_close", "Close", "Close this window   (Esc)", self.close)
        self._lay_out()

    def export(self) -> None:
        """Write what is chosen."""
        chosen = [row_id for row_id, box in self._structures.items() if box.isChecked()]
        rows = [row for row in _rows_of(self._work) if row.id in chosen]
        names = [name for name, box in self._formats.items() if box.isChecked()]
        folder = Path(self._folder.text().strip()).expanduser()
        if not rows or not names:
            missing = "structure" if not rows else "format"
            self._words.setText(f"Nothing was written: choose at least one {missing}.")
            return
        stem = _stem(self._name.text().strip())
        if not stem:
            self._words.setText("Nothing was written: give the files a name.")
            return
        self._preferences.set_text("export_formats", " ".join(names))
        self._work.export_folder = folder
        self._export.setEnabled(False)
        self._words.setText("Writing …")
        work, force = self._work, self._force.isChecked()

        def write() -> Written:
            content = content_of(work, rows, stem)
            written = write_exports(content, folder, names, stem, force=force)
            garbage.spare()  # the formats' libraries
            return written

        self._keeper.run(write, self._on_written, self._on_failed)

    def _on_written(self, written: Written) -> None:
        self._export.setEnabled(True)
        files = written.files
        listed = ", ".join(file.name for file in files[:6])
        more = f" and {len(files) - 6} more" if len(files) > 6 else ""
        words = f"Wrote {listed}{more} into {self._folder.text()}"
        self._words.setText("\n".join([words, *written.remarks]))
        self._open.show()

    def _on_failed(self, error: Exception) -> None:
        self._export.setEnabled(True)
        is_known = isinstance(error, SegOneError)
        words = str(error) if is_known else f"{type(error).__name__}: {error}"
        self._words.setText(f"Nothing was written: {words}")

    def _follow_rows(self) -> None:
        """List the structures that there are by now; what is new is chosen."""
        rows = {row.id: row for row in _rows_of(self._work)}
        for row_id in self._structures.keys() - rows.keys():
            self._structures.pop(row_id).deleteLater()
        for row_id, row in rows.items():
            if row_id not in self._structures:
                self._structures[row_id] = _check(f"export_row_{row_id}", row.name, True)
                before_stretch = self._structures_column.count() - 1
                self._structures_column.insertWidget(before_stretch, self._structures[row_id])

    def _choose_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Export into", self._folder.text())
        if chosen:
            self._folder.setText(chosen)

    def _open_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(self._folder.text()))

    def _lay_out(self) -> None:
        called = QHBoxLayout()
        label = QLabel("&Name")
        label.setBuddy(self._name)
        called.addWidget(label)
        called.addWidget(self._name, 1)
        where = QHBoxLayout()
        where.addWidget(self._folder, 1)
        where.addWidget(self._browse)
        buttons = QHBoxLayout()
        buttons.addWidget(self._open)
        buttons.addStretch(1)
        buttons.addWidget(self._close)
        buttons.addWidget(self._export)
        column = QVBoxLayout(self)
        column.addWidget(_group("Structures", self._structures_column), 1)
        column.addWidget(_group("Formats", _column(self._formats.values())))
        column.addLayout(called)
        column.addLayout(where)
        column.addWidget(self._force)
        column.addWidget(self._words)
        column.addLayout(buttons)
        self._words.setMinimumHeight(3 * self._words.fontMetrics().lineSpacing())
        wanted = 320 + 27 * (len(self._structures) + len(self._formats))
        screen = self.screen()
        room = screen.availableGeometry().height() if screen is not None else wanted
        self.resize(460, min(wanted, round(0.85 * room)))


def default_name(work: ImageWork) -> str:
    """Name exports after a file that a person named, and anything else by a neutral name.

    Scanners, archives and other readers write patients' names into the names of DICOM files and of
    layers.
    """
    path = work.reference.path
    is_series = work.reference.series is not None
    if not is_series and path is not None and path.is_file() and not formats.is_dicom(path):
        return _stem(path.name) or "mri"
    digits = work.reference.checksum.rpartition(":")[2][:6]  # tells the series of a study apart
    return f"mri-{digits}" if digits else "mri"


def content_of(work: ImageWork, rows: Sequence[Row], stem: str) -> Content:
    """Take rows as they are now: for a worker, since masks are copied and the image is loaded.

    Raises
    ------
    BadInput
        If one of the rows isn't there any more.
    """
    history, grid = work.history, work.values.grid
    rows = [history.row(row.id) for row in rows]
    segments = tuple(segment_of(history, row, grid) for row in rows)
    reference, path = work.reference, work.reference.path
    is_there = path is not None and path.exists()
    files = files_of(path, reference.series, reference.volume_index) if path and is_there else ()
    content = Content(
        segments,
        image=work.values.volume,
        image_files=files,
        image_checksum=reference.checksum,
        subject=_subject(stem),
    )
    if any(segment.system != SYSTEM for segment in segments):
        return content  # what is said of all of them would not be true
    checkpoints = dict.fromkeys(row.checkpoint for row in rows if row.checkpoint)
    presets = dict.fromkeys(row.preset for row in rows if row.preset)
    return replace(
        content,
        system=SYSTEM,
        checkpoint=", ".join(checkpoints),
        options={"preset": ", ".join(presets)} if presets else {},
    )


@dataclass(frozen=True)
class Written:
    """What came of an export.

    Attributes
    ----------
    files : what was written.
    remarks : sentences about what was not, and about what is empty.
    """

    files: list[Path]
    remarks: list[str]


def write_exports(
    content: Content, folder: Path, names: Sequence[str], stem: str, *, force: bool = False
) -> Written:
    """Write a content in several formats; the names of their files begin with `stem`.

    A format that can't hold this content is left out and remarked on. Of the others all files are
    written, or none.

    Raises
    ------
    BadInput
        If a file exists and `force` is not set, one can't be written, or no format can hold this.
    """
    rows = {folder / _file_name(stem, name): _row_named(name) for name in names}
    refused: dict[Path, str] = {}

    def fill(staging: Path) -> None:
        for path, row in rows.items():
            # what a refused format has begun goes with the folder of its own
            with tempfile.TemporaryDirectory(dir=staging) as own:
                try:
                    _fill(content, Path(own, path.name), row, stem)
                except BadInput as error:
                    if isinstance(error.__cause__, OSError):  # the disk's fault, so that of all
                        raise
                    refused[path] = f"{_title(row)}: {error}"
                    continue
                for file in Path(own).iterdir():
                    file.rename(staging / file.name)
        if len(refused) == len(rows):
            raise BadInput("; ".join(refused.values()))

    try:
        for path in rows:  # known before the slow work
            if path.exists() and not force:
                raise Occupied(path, path)
        known = [(path, row) for path, row in rows.items() if row is not None]
        files = write_together(
            {folder: fill},
            target=folder,
            force=force,
            shared=[file for one in known for file in registry.shared_files(*one)],
            # a generator: what was refused is known when it is asked
            former=(
                file
                for path, row in known
                if path not in refused
                for file in registry.former_files(path, row)
            ),
        )
    except Occupied as error:
        raise BadInput(
            f"{error.path.name} exists in {error.path.parent}; "
            "tick 'Overwrite', or choose another name"
        ) from error
    unwritten = [f"Not written: {words}" for words in refused.values()]
    return Written(files, [*unwritten, *remarks_on(content)])


def write_picture(content: Content, path: Path, *, title: str) -> None:
    """Draw three slices of each plane with the outlines, and a legend."""
    assert content.image is not None
    legend: Any = [_LegendLine(s.name, s.name, s.colour, s.volume_ml) for s in content.segments]
    labels = labels_of(content.segments)
    montage.draw(content.image, labels, legend, title=title).save(path, format="PNG")


def _fill(content: Content, path: Path, row: Format | None, stem: str) -> None:
    if row is None:
        write_picture(content, path, title=stem)
    else:
        registry.fill(content, path, row)


@dataclass(frozen=True)
class _LegendLine:
    """What a line of the picture's legend says."""

    resolved: str
    prompt: str
    colour: tuple[int, int, int]
    volume_ml: float
    found: bool = True


def _rows_of(work: ImageWork) -> list[Row]:
    return [row for row in work.rows if row.state != "not found"]


def _formats_for(work: ImageWork) -> list[Format]:
    path = work.reference.path
    is_series = path is not None and path.exists() and formats.is_dicom(path)
    by_name = {one.name: one for one in FORMATS}
    known = [by_name[name] for name in OFFERED if name in by_name]
    return [one for one in known if is_series or not one.needs_series]


def _folder_of(work: ImageWork) -> Path:
    """The folder of exports beside the image, or in the person's own folder (as for a CD)."""
    path = work.reference.path
    is_beside = path is not None and os.access(path.parent, os.W_OK)
    return (path.parent if path is not None and is_beside else Path.home()) / "segone-export"


def _stem(name: str) -> str:
    """Turn a name into the beginning of a file's name; empty if nothing is left of it."""
    for ending in (".nii.gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".hdr", ".img"):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")


def _subject(stem: str) -> str:
    """BIDS's label of the person; a name that BIDS gave says it itself."""
    if stem.startswith("sub-"):
        return ""
    return "".join(c for c in stem if c.isascii() and c.isalnum())[:40] or "image"


def _row_named(name: str) -> Format | None:
    """The row of a format; None for the picture."""
    return None if name == PICTURE else registry.format_named(name)


def _title(row: Format | None) -> str:
    return PICTURE_TITLE if row is None else row.title


def _file_name(stem: str, name: str) -> str:
    one = _row_named(name)
    if one is None:
        return f"{stem}_segone.png"
    return f"{stem}_{one.name}" if one.is_folder else f"{stem}_segone{one.endings[0]}"


def _check(name: str, title: str, is_checked: bool) -> QCheckBox:
    box = QCheckBox(title)
    box.setObjectName(name)
    box.setAccessibleName(title)
    box.setChecked(is_checked)
    return box


def _push(name: str, title: str, hint: str, action: Callable[[], Any]) -> QPushButton:
    button = push(name, title, hint)
    button.clicked.connect(lambda _=False: action())
    return button


def _column(boxes: Iterable[QCheckBox]) -> QVBoxLayout:
    column = QVBoxLayout()
    column.setSpacing(2)
    for box in boxes:
        column.addWidget(box)
    column.addStretch(1)
    return column


def _group(title: str, column: QVBoxLayout) -> QWidget:
    inside = QWidget()
    inside.setLayout(column)
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setWidget(inside)
    group = QGroupBox(title)
    around = QVBoxLayout(group)
    around.setContentsMargins(4, 4, 4, 4)
    around.addWidget(area)
    return group
