"""One dialog for what a file leaves open: which series, which volume, how it lies.

Arrow keys choose a series, Tab goes on to the volume and the orientation, Enter opens and Escape
cancels. Knows nothing of files: it gets a list and gives back a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHeaderView,
    QLabel,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from segone_napari.data.dicom.study import Series, Study

_WORDS = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "head", "I": "feet"}
_COLUMNS = ("", "Series", "Seems to be", "Slices lie", "Matrix", "mm", "Slices", "Volumes")
_OPPOSITE_PAIRS = ("RL", "AP", "SI")


@dataclass(frozen=True)
class Choice:
    """What a person chose.

    Attributes
    ----------
    series : the series, where there was a study.
    volume : which volume, counted from 0.
    directions : where the array's axes grow to, such as "LPS"; empty for "as the numbers say".
    """

    series: Series | None = None
    volume: int = 0
    directions: str = ""


class Chooser(QDialog):
    """A dialog that asks for whatever is open, and for nothing else.

    Parameters
    ----------
    name : what is to be opened, in a person's words.
    study : the series to choose from; None for a single file.
    volumes : how many volumes the single file has.
    orientation : how its axes lie by the file's numbers ("RAS"), where it doesn't say what these
        mean; empty where it does.
    """

    def __init__(
        self,
        parent: QWidget | None,
        name: str,
        *,
        study: Study | None = None,
        volumes: int = 1,
        orientation: str = "",
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Choose what to open")
        self.setObjectName("chooser")
        self._study = study
        self._volumes = volumes
        layout = QVBoxLayout(self)
        title = QLabel(name)
        title.setTextFormat(Qt.TextFormat.PlainText)
        layout.addWidget(title)
        self.table = _series_table(study) if study is not None else None
        if self.table is not None:
            layout.addWidget(self.table)
            layout.addWidget(_notes(study))  # type: ignore[arg-type]
        self.volume, self.directions = QSpinBox(), _directions_box(orientation)
        self._add_questions(layout, orientation)
        self._add_buttons(layout)
        if self.table is not None:
            self.table.currentCellChanged.connect(self._show_volumes)
            self.table.cellDoubleClicked.connect(self.accept)
            self.table.selectRow(0)
            self.resize(760, 320)
        self._show_volumes()
        first = self.table or (self.volume if volumes > 1 else self.directions)
        first.setFocus()

    @property
    def choice(self) -> Choice:
        """What is chosen now."""
        return Choice(self._series, self.volume.value(), str(self.directions.currentData()))

    @property
    def _series(self) -> Series | None:
        if self._study is None or self.table is None:
            return None
        return self._study.series[max(0, self.table.currentRow())]

    def _add_questions(self, layout: QVBoxLayout, orientation: str) -> None:
        form = QFormLayout()
        counts = [s.volumes for s in self._study.series] if self._study else [self._volumes]
        if max(counts) > 1:
            self.volume.setObjectName("volume")
            self.volume.setAccessibleName("Volume")
            form.addRow("&Volume", self.volume)
        if orientation:
            form.addRow(QLabel("The file doesn't say how the image lies in the patient."))
            form.addRow("A&xes grow to", self.directions)
        layout.addLayout(form)

    def _add_buttons(self, layout: QVBoxLayout) -> None:
        kinds = QDialogButtonBox.StandardButton
        buttons = QDialogButtonBox(kinds.Open | kinds.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        accept = buttons.button(kinds.Open)
        assert accept is not None
        accept.setDefault(True)
        layout.addWidget(buttons)

    def _show_volumes(self) -> None:
        """Let the volume be chosen among those of the series at hand."""
        count = self._series.volumes if self._series is not None else self._volumes
        self.volume.setRange(0, count - 1)
        self.volume.setEnabled(count > 1)
        self.volume.setSuffix(f" of 0 to {count - 1}" if count > 1 else "")


def choose(
    parent: QWidget | None,
    name: str,
    *,
    study: Study | None = None,
    volumes: int = 1,
    orientation: str = "",
) -> Choice | None:
    """Ask a person, and return None if they cancel. The parameters are those of `Chooser`."""
    is_shown = parent is not None and parent.isVisible()
    # The dialog of a window that isn't shown yet stands alone, in the colours of that window.
    dialog = Chooser(
        parent if is_shown else None, name, study=study, volumes=volumes, orientation=orientation
    )
    if parent is not None and not is_shown:
        dialog.setStyleSheet(parent.styleSheet())
    try:
        return dialog.choice if dialog.exec() == QDialog.DialogCode.Accepted else None
    finally:
        dialog.deleteLater()


def _series_table(study: Study) -> QTableWidget:
    table = QTableWidget(len(study.series), len(_COLUMNS))
    table.setObjectName("series")
    table.setAccessibleName("Series")
    table.setHorizontalHeaderLabels(list(_COLUMNS))
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setTabKeyNavigation(False)  # Tab leaves the table; arrow keys stay inside
    rows, columns = table.verticalHeader(), table.horizontalHeader()
    assert rows is not None
    assert columns is not None
    rows.setVisible(False)
    columns.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    columns.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
    for row, series in enumerate(study.series):
        for column, text in enumerate(_cells(series, study)):
            table.setItem(row, column, QTableWidgetItem(text))
    return table


def _cells(series: Series, study: Study) -> Sequence[str]:
    has_many_patients = len({one.patient for one in study.series}) > 1
    patient = f"patient {series.patient}: " if has_many_patients else ""
    return (
        str(series.number),
        patient + series.name,
        series.kind,
        series.plane,
        series.matrix,
        series.spacing,
        str(series.slices),
        str(series.volumes),
    )


def _notes(study: Study) -> QLabel:
    """Say what else is in the folder."""
    lines = [*study.remarks]
    if study.not_listed:
        shown = "; ".join(study.not_listed[:6]) + (" ..." if len(study.not_listed) > 6 else "")
        lines.append(f"Can't be opened: {shown}")
    label = QLabel("\n".join(lines))
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setVisible(bool(lines))
    return label


def _directions_box(orientation: str) -> QComboBox:
    """A list of all ways in which an array can lie, that of the file's numbers first."""
    box = QComboBox()
    box.setObjectName("directions")
    box.setAccessibleName("Axes grow to")
    box.addItem(f"as the file's numbers say: {_in_words(orientation)}", "")
    for directions in sorted(_all_directions(), key=_likeliness):
        box.addItem(_in_words(directions), directions)
    return box


def _all_directions() -> list[str]:
    return [
        "".join(letters) for pairs in permutations(_OPPOSITE_PAIRS) for letters in product(*pairs)
    ]


def _likeliness(directions: str) -> tuple[int, str]:
    """Sort slices from the feet to the head first, which most programs write."""
    usual = ("RAS", "LAS", "LPS", "RPS", "PSR", "ASR", "LIP", "LIA")
    return (usual.index(directions) if directions in usual else len(usual), directions)


def _in_words(directions: str) -> str:
    words = ", ".join(_WORDS[letter] for letter in directions)
    return f"{directions} ({words})" if directions else ""
