"""The window in which a person chooses the SAM2 that clicks, boxes and Spread ask."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

EXPLAINED = (
    "Clicks, boxes and Spread ask a SAM2. Leave this empty for the small one that comes with "
    "SegOne, or give Meta's weights as a .safetensors file, a checkpoint folder that "
    "'segone train-teacher' wrote, or a name on the model hub such as "
    "facebook/sam2.1-hiera-tiny (fetched once; needs a network)."
)
WIDTH_PX = 460
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")


class TeacherChoice(QDialog):
    """Asks for a folder, a file or a name.

    Signals
    -------
    chosen : what was chosen; empty for the bundled one.
    """

    chosen = Signal(str)

    def __init__(self, source: str, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("teacher_window")
        self.setWindowTitle("SegOne: the SAM2 model")
        self.setModal(False)
        words = QLabel(EXPLAINED)
        words.setWordWrap(True)
        self._source = QLineEdit(source)
        self._source.setObjectName("teacher_source")
        self._source.setAccessibleName("File, folder or name of the SAM2 model")
        self._source.setPlaceholderText("the one that comes with SegOne")
        self._source.setClearButtonEnabled(True)
        browse = QPushButton("Browse…")
        browse.setObjectName("teacher_browse")
        browse.setToolTip("Choose a .safetensors file")
        browse.clicked.connect(self._browse)
        self._problem = QLabel()
        self._problem.setObjectName("teacher_problem")
        self._problem.setWordWrap(True)
        self._problem.hide()
        kinds = QDialogButtonBox.StandardButton
        buttons = QDialogButtonBox(kinds.Ok | kinds.Cancel)
        buttons.setObjectName("teacher_buttons")
        buttons.accepted.connect(self._take)
        buttons.rejected.connect(self.close)
        line = QHBoxLayout()
        line.addWidget(self._source, 1)
        line.addWidget(browse)
        column = QVBoxLayout(self)
        column.addWidget(words)
        column.addLayout(line)
        column.addWidget(self._problem)
        column.addWidget(buttons)
        self.resize(WIDTH_PX, column.totalHeightForWidth(WIDTH_PX))

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Choose the weights of a SAM2", "", "Weights (*.safetensors)"
        )
        if path:
            self._source.setText(path)

    def _take(self) -> None:
        source = self._source.text().strip()
        problem = why_not(source)
        self._problem.setText(problem)
        self._problem.setVisible(bool(problem))
        if not problem:
            self.chosen.emit(source)
            self.close()


def why_not(source: str) -> str:
    """Why this can't be a SAM2, in a sentence; empty if it may be one."""
    path = Path(source)
    if path.suffix in PICKLES:
        return (
            f"{path.name} is a pickle, and those can run code and are never opened; give the same "
            "weights as .safetensors"
        )
    looks_like_a_path = path.is_absolute() or path.suffix == ".safetensors"
    if source and looks_like_a_path and not path.exists():
        return f"There is no {source}; choose a file or folder that exists"
    return ""
