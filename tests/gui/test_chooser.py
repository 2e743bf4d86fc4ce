"""Opening DICOM in napari, and the dialog that asks which series, volume and orientation."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication

from segone_napari.data import formats
from segone_napari.data.choices import ManySeries
from segone_napari.data.dicom.study import open_study
from segone_napari.gui import cases, readers
from segone_napari.gui.chooser import Chooser
from segone_napari.gui.layers import read_layer, volume_of
from segone_napari.project import ImageRef
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume
from tests import scanner

pytestmark = pytest.mark.usefixtures("qtbot")

Keys = Qt.Key


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A T1, and a T2 of three volumes, as a folder of folders."""
    folder, uid, series = tmp_path / "cd", generate_uid(), generate_uid()
    t1 = scanner.images(scanner.head("PIR"), description="T1 sag", study_uid=uid)
    scanner.save(t1, folder / "A")
    made = []
    for time in range(3):

        def at(data: Dataset, k: int, time: int = time) -> None:
            data.SeriesInstanceUID, data.AcquisitionNumber = series, time + 1
            scanner.set_pixels(data, data.pixel_array + 1000 * time)

        made += scanner.images(
            scanner.head(), description="T2 dynamic", number=9, study_uid=uid, change=at
        )
    scanner.save(made, folder / "B")
    return folder


@pytest.fixture
def press(qtbot: Any) -> Callable[..., list[Chooser]]:
    """Press keys in the dialog as soon as it is there, each where the keyboard's focus is."""
    seen: list[Chooser] = []

    def at_next_dialog(*keys: Any) -> list[Chooser]:
        def go() -> None:
            dialog = QApplication.activeModalWidget()
            if not isinstance(dialog, Chooser) or not dialog.isVisible():
                QTimer.singleShot(20, go)
                return
            seen.append(dialog)
            for key in keys:
                qtbot.keyClick(dialog.focusWidget() or dialog, key)

        QTimer.singleShot(20, go)
        return seen

    return at_next_dialog


def same(layer: Any, expected: Volume) -> bool:
    ours, theirs = (
        nib.as_closest_canonical(nib.Nifti1Image(volume.data.astype(np.float32), volume.affine))
        for volume in (volume_of(layer), expected)
    )
    return bool(
        np.allclose(ours.affine, theirs.affine, atol=1e-3)
        and np.array_equal(ours.get_fdata(), theirs.get_fdata())
    )


def test_enter_opens_the_anatomical_series_that_is_offered_first(
    make_napari_viewer: Callable[..., Any], study: Path, press: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    seen = press(Keys.Key_Return)
    (layer,) = viewer.open(study, plugin="segone-napari")
    assert len(seen) == 1
    assert layer.name == "T1 sag"
    assert same(layer, scanner.head("PIR"))


def test_series_and_volume_are_chosen_with_the_keyboard_alone(
    make_napari_viewer: Callable[..., Any], study: Path, press: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    press(Keys.Key_Down, Keys.Key_Tab, Keys.Key_Up, Keys.Key_Up, Keys.Key_Return)
    (layer,) = viewer.open(study, plugin="segone-napari")
    expected = scanner.head()
    # What a program needs to open the same again.
    again = formats.read(
        study, series=layer.metadata["series"], volume=layer.metadata["volume_index"]
    )
    assert same(layer, again)
    assert layer.name == "T2 dynamic"
    assert same(layer, expected.with_data(expected.data + 2000))


def test_escape_opens_nothing(
    make_napari_viewer: Callable[..., Any], study: Path, press: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    press(Keys.Key_Escape)
    assert viewer.open(study, plugin="segone-napari") == []
    assert len(viewer.layers) == 0


def test_dialog_shows_what_tells_series_apart_and_asks_nothing_else(
    qtbot: Any, study: Path
) -> None:
    dialog = Chooser(None, "cd", study=open_study(study))
    qtbot.addWidget(dialog)
    dialog.show()
    cells = [
        [dialog.table.item(row, column).text() for column in range(dialog.table.columnCount())]
        for row in range(dialog.table.rowCount())
    ]
    assert cells == [
        ["1", "T1 sag", "T1", "sagittal", "18×12", "2×2.5×2", "14", "1"],
        ["2", "T2 dynamic", "other", "axial", "14×18", "2×2×2.5", "12", "3"],
    ]
    assert not dialog.volume.isEnabled()
    dialog.table.selectRow(1)
    assert dialog.volume.isEnabled()
    assert dialog.volume.maximum() == 2
    assert not dialog.directions.isVisible()


def test_a_4d_file_asks_for_its_volume(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, press: Any
) -> None:
    data = np.stack([scanner.head().data + 1000 * n for n in range(3)], axis=-1)
    nib.save(nib.Nifti1Image(data, scanner.head().affine), tmp_path / "bold.nii.gz")
    viewer = make_napari_viewer(show=True)
    press(Keys.Key_Up, Keys.Key_Return)
    (layer,) = viewer.open(tmp_path / "bold.nii.gz", plugin="segone-napari")
    expected = scanner.head()
    assert same(layer, expected.with_data(expected.data + 1000))


def test_a_file_that_does_not_say_how_it_lies_asks(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, press: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    for count, name in enumerate(("old.nii", "old.hdr", "old.mgh", "old.nrrd"), start=1):
        path = save_without_orientation(scanner.head().data, tmp_path / name)
        seen = press(Keys.Key_Down, Keys.Key_Down, Keys.Key_Return)
        (layer,) = viewer.open(path, plugin="segone-napari")
        assert len(seen) == count
        assert volume_of(layer).grid.orientation == "LAS"


def save_without_orientation(data: Any, path: Path) -> Path:
    affine = np.diag([2.0, 2.0, 2.5, 1.0])
    if path.suffix == ".nrrd":
        nrrd.write(str(path), data, {"spacings": [2.0, 2.0, 2.5]})
    elif path.suffix == ".mgh":
        nib.save(nib.MGHImage(data, affine), path)
        content = bytearray(path.read_bytes())
        content[28:30] = bytes(2)  # the flag that says whether directions are known
        path.write_bytes(content)
    elif path.suffix == ".hdr":
        nib.save(nib.AnalyzeImage(data, affine), path.with_suffix(".img"))
    else:
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, 0)
        image.set_qform(affine, 0)
        nib.save(image, path)
    return path


def test_what_is_unusual_about_a_series_is_a_notification(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, notifications: list[Any]
) -> None:
    made = scanner.images(scanner.head())
    del made[5]
    viewer = make_napari_viewer(show=True)
    viewer.open(scanner.save(made, tmp_path / "series"), plugin="segone-napari")
    assert any("1 slice is missing" in words for _, words in notifications)


def test_slices_that_are_dropped_together_are_one_series(
    make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    folder = scanner.save(scanner.images(scanner.head()), tmp_path / "series", "{:03}.dcm".format)
    viewer = make_napari_viewer(show=True)
    layers = viewer.open(sorted(folder.iterdir()), stack=True, plugin="segone-napari")
    assert len(layers) == 1
    assert same(layers[0], scanner.head())


def test_without_a_window_the_choice_is_an_error_and_no_dialog(study: Path) -> None:
    with pytest.raises(ManySeries, match="choose one with --series"):
        readers.read_layers(str(study))


def test_only_what_holds_dicom_is_taken(tmp_path: Path, study: Path) -> None:
    other = tmp_path / "images.zarr"
    other.mkdir()
    (other / "0.0").write_bytes(bytes(1000))
    (tmp_path / "IM000001").write_bytes(b"\x89PNG" + bytes(1000))
    assert readers.get_reader(str(study)) is not None
    assert readers.get_reader(str(study / "A" / "IM0001")) is not None
    assert readers.get_reader(str(other)) is None
    assert readers.get_reader(str(tmp_path / "IM000001")) is None


def test_asking_for_a_reader_loads_nothing(study: Path) -> None:
    code = (
        "import sys; from segone_napari.gui.readers import get_reader; "
        f"assert get_reader({str(study)!r}); assert not get_reader('picture.png'); "
        "print({'pydicom', 'nibabel', 'numpy', 'torch', 'qtpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_segmentations_open_as_labels_over_their_image(
    make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    slicer = pytest.importorskip("SimpleITK")
    volume = scanner.head("LPS", 15.0)
    mask = (volume.data > 60).astype(np.uint8)
    image = slicer.GetImageFromArray(mask.T)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetMetaData("Segment0_ID", "one")
    image.SetMetaData("Segment0_Name", "left hippocampus")
    image.SetMetaData("Segment0_Color", "1 0 0")
    slicer.WriteImage(image, tmp_path / "masks.seg.nrrd")
    viewer = make_napari_viewer()
    (layer,) = viewer.open(tmp_path / "masks.seg.nrrd", plugin="segone-napari")
    assert type(layer).__name__ == "Labels"
    assert layer.name == "left hippocampus"
    assert same(layer, volume.with_data(mask))


def test_view_asks_for_a_series_unless_it_is_named(
    make_napari_viewer: Callable[..., Any], study: Path, press: Any
) -> None:
    from segone_napari.gui import app

    press(Keys.Key_Down, Keys.Key_Return)
    viewer, _ = app.open_viewer(study, viewer=make_napari_viewer(show=True))
    assert [layer.name for layer in viewer.layers] == ["T2 dynamic"]
    viewer, _ = app.open_viewer(study, series="1", viewer=make_napari_viewer(show=True))
    assert [layer.name for layer in viewer.layers] == ["T1 sag"]


def test_earlier_work_opens_the_same_series_and_volume_again(
    make_napari_viewer: Callable[..., Any], study: Path, press: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    press(Keys.Key_Down, Keys.Key_Tab, Keys.Key_Up, Keys.Key_Return)
    (layer,) = viewer.open(study, plugin="segone-napari")
    path = layer.metadata["path"]
    found = cases.find(tmp_path / "work", read_layer(layer), path, lambda _: None, go_on=False)
    assert found.history is not None
    found.history.close()
    kept = ImageRef.from_json(found.reference.as_json())
    assert same(layer, cases.read_again(kept))


def test_image_that_is_read_again_lies_as_chosen_and_keeps_its_warnings(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    data[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(data, None), tmp_path / "scan.nii")
    found = formats.read(tmp_path / "scan.nii")
    for image in (found, formats.oriented(found, "LPS")):
        kept = ImageRef.of(image, tmp_path / "scan.nii")
        again = cases.read_again(ImageRef.from_json(kept.as_json()))
        assert again.warnings == image.warnings
        assert len(again.warnings) == 2
        assert again.grid.is_same_as(image.grid)


@pytest.fixture
def start_napari(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Do what the command `napari ARGUMENTS` does until its window is shown."""
    is_loaded = "napari.__main__" in sys.modules
    command = importlib.import_module("napari.__main__")
    viewers = []

    def start(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["napari", *arguments])
        viewers.append(command._build_viewer())
        return viewers[-1]

    yield start
    for viewer in viewers:
        viewer.close()
    if not is_loaded:
        del sys.modules["napari.__main__"]


def test_napari_command_asks_for_the_series_before_its_window_is_there(
    start_napari: Callable[..., Any], study: Path, press: Any
) -> None:
    seen = press(Keys.Key_Return)
    viewer = start_napari("--plugin", "segone-napari", str(study))
    assert len(seen) == 1
    (layer,) = viewer.layers
    assert same(layer, scanner.head())


def test_napari_command_opens_and_says_what_is_wrong_with_a_file(
    start_napari: Callable[..., Any], tmp_path: Path, notifications: list[Any], qtbot: Any
) -> None:
    (tmp_path / "broken.mgz").write_bytes(b"\x1f\x8b not really")
    viewer = start_napari(str(tmp_path / "broken.mgz"))
    assert viewer.window._qt_window.isVisible()
    qtbot.waitUntil(lambda: bool(notifications))
    ((severity, words),) = notifications
    assert severity == "error"
    assert "broken.mgz" in words
    assert list(viewer.layers) == []


def test_what_holds_no_image_is_explained_by_the_reader_that_was_chosen(
    make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("empty", "text.dcm", "00000001")]
    paths[0].mkdir()
    for path in paths[1:]:
        path.write_text("no image")
    for path in paths:  # without a window other readers have their turn
        assert readers.get_reader(str(path)) is None
    viewer = make_napari_viewer(show=True)
    for path in paths:
        with pytest.raises(BadInput, match=r"without DICOM images|not an image that can be read"):
            viewer.open(path, plugin="segone-napari")
