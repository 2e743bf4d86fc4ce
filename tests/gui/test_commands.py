"""Menu entries, and which reader napari takes for which file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
from napari._qt import qt_viewer
from napari.plugins import _npe2
from napari.settings import get_settings
from npe2 import PluginManager
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication, QFileDialog, QLabel, QWidget

from segone_napari.data import formats
from segone_napari.gui.layers import volume_of
from segone_napari.gui.widget import SegOneWidget
from segone_napari.volume import Volume
from tests.exports.cases import save_series

from .conftest import head
from .hands import ask_and_wait, child
from .test_readers import all_actions

OURS = "segone-napari"
AFFINE = np.diag([-1.0, 1.2, 1.5, 1.0])


@pytest.fixture(autouse=True)
def no_remembered_readers() -> Iterator[None]:
    PluginManager.instance().discover()
    plugins = get_settings().plugins
    before = dict(plugins.extension2reader)
    plugins.extension2reader = {}
    yield
    plugins.extension2reader = before


def trigger(viewer: Any, words: str) -> None:
    (action,) = [a for a in all_actions(viewer.window.file_menu) if a.text().startswith(words)]
    action.trigger()


def test_commands_are_in_the_menu() -> None:
    items = PluginManager.instance().iter_menu("napari/file/io_utilities")
    ours = [str(getattr(item, "command", "")) for item in items]
    for name in ("open_files", "open_folder", "open_export", "use_for_mri"):
        assert f"{OURS}.{name}" in ours


def test_menu_opens_files_and_folders_with_our_reader(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = head(AFFINE)
    file = formats.write(volume, tmp_path / "scan.nii.gz")
    save_series(tmp_path / "series", volume)
    viewer = make_napari_viewer(show=True)
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(file)], ""))
    trigger(viewer, "Open MRI files…")
    folder = str(tmp_path / "series")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: folder)
    trigger(viewer, "Open a DICOM folder…")
    assert [layer.metadata["path"] for layer in viewer.layers] == [str(file), folder]
    found = nib.as_closest_canonical(nib.Nifti1Image(*placed(viewer.layers[1])))
    expected = nib.as_closest_canonical(nib.load(file))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-3)
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([], ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    trigger(viewer, "Open MRI files…")
    trigger(viewer, "Open a DICOM folder…")
    assert len(viewer.layers) == 2  # nothing was chosen


def placed(layer: Any) -> tuple[Any, Any]:
    volume = volume_of(layer)
    return volume.data.astype(np.float32), volume.affine


def test_menu_opens_the_export_window_of_the_panel(
    qtbot: Any, open_widget: Callable[..., Any]
) -> None:
    viewer, widget = open_widget(head())
    trigger(viewer, "Export outlined structures…")
    assert "outline a structure first" in child(widget, QLabel, "status").text()
    ask_and_wait(qtbot, widget, "left ball")
    trigger(viewer, "Export outlined structures…")
    assert child(widget, QWidget, "export_window").isVisible()
    panels = [w for w in viewer.window.dock_widgets.values() if isinstance(w, SegOneWidget)]
    assert len(panels) == 1


@pytest.mark.parametrize(
    "name", ["a.mgz", "a.ima", "IM000001", "I0000001", "DICOMDIR", "1.2.840.1"]
)
def test_napari_asks_nobody_where_only_we_claim_the_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert set(_npe2.get_readers(str(tmp_path / name))) == {OURS}


@pytest.mark.parametrize(
    "name", ["a.tif", "a.png", "a.csv", "a.zarr", "a.txt", "a.mha", "a.npy", "a.gz"]
)
def test_files_of_others_are_not_claimed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert OURS not in _npe2.get_readers(str(tmp_path / name))


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.mgh", "scan.nrrd", "IM0001.dcm"])
def test_napari_asks_for_endings_of_two_readers_until_ours_is_chosen(
    make_napari_viewer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    path = save(head(AFFINE), tmp_path / name)
    viewer = make_napari_viewer()
    asked: list[Any] = []
    monkeypatch.setattr(
        qt_viewer, "handle_gui_reading", lambda paths, *_, **__: asked.append(paths)
    )
    # What *Open*, drag and drop and `napari IMAGE` call.
    viewer.window._qt_viewer._qt_open([str(path)], stack=False)
    assert (asked, list(viewer.layers)) == ([[str(path)]], [])
    trigger(viewer, "Open MRI files with SegOne without asking")
    viewer.window._qt_viewer._qt_open([str(path)], stack=False)
    assert len(asked) == 1
    assert [layer.metadata["path"] for layer in viewer.layers] == [str(path)]


def test_enter_in_naparis_dialog_takes_our_reader(
    qtbot: Any, make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    path = save(head(AFFINE), tmp_path / "scan.nii.gz")
    viewer = make_napari_viewer(show=True)
    asked: list[str] = []

    def answer() -> None:
        dialog = QApplication.activeModalWidget()
        if dialog is None or not dialog.isVisible():
            QTimer.singleShot(20, answer)
            return
        asked.append(dialog.windowTitle())
        qtbot.keyClick(dialog.focusWidget() or dialog, Qt.Key.Key_Return)

    QTimer.singleShot(20, answer)
    viewer.window._qt_viewer._qt_open([str(path)], stack=False)
    assert asked == ["Choose reader"]
    assert [layer.metadata["path"] for layer in viewer.layers] == [str(path)]
    assert get_settings().plugins.extension2reader == {}  # nothing was remembered unasked


def save(volume: Volume, path: Path) -> Path:
    if path.suffix == ".dcm":
        return save_series(path.parent, volume)[0].rename(path)
    if path.suffix == ".nrrd":
        nrrd.write(str(path), volume.data, {"space": "RAS", "space directions": np.eye(3)})
        return path
    return formats.write(volume, path)
