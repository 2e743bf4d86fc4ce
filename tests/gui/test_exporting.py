"""Out again: chosen rows in every format, read back with other libraries."""

import csv
import json
import os
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolButton,
    QWidget,
)

from segone_napari.data import formats
from segone_napari.exports import registry
from segone_napari.exports.content import BY_HAND, Content, Segment
from segone_napari.gui.exporting import content_of, default_name
from segone_napari.gui.widget import SegOneWidget
from tests.exports.cases import save_series
from tests.exports.test_privacy import SECRETS

from .conftest import head
from .hands import PATIENCE_MS, ask_and_wait, child, click, drag, rows


def oblique_head(folder):
    turn = nib.eulerangles.euler2mat(0.1, 0.05, 0.2) @ np.diag([-1.0, 1.0, 1.2])
    shape = (34, 36, 38)
    affine = nib.affines.from_matvec(turn, -turn @ ((np.array(shape) - 1) / 2))
    return formats.read(formats.write(head(affine, shape), folder / "head.nii.gz"))


def tick(window, name: str, is_on: bool) -> None:
    child(window, QCheckBox, name).setChecked(is_on)


def export(qtbot, window) -> str:
    click(qtbot, window, QPushButton, "export_now")
    words = child(window, QLabel, "export_words")
    qtbot.waitUntil(lambda: words.text() != "Writing …", timeout=PATIENCE_MS)
    return words.text()


def test_chosen_rows_lie_exactly_on_the_image_in_every_format(qtbot, open_widget, tmp_path) -> None:
    # 1. A corrected and an untouched structure, of which the second alone is left out once.
    volume = oblique_head(tmp_path)
    viewer, widget = open_widget(volume)
    ask_and_wait(qtbot, widget, "left ball; right ball")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    click(qtbot, widget, QToolButton, "tool_paint")
    at = viewer.dims.current_step[0]
    drag(qtbot, viewer, (at, 6, 6), (at, 6, 12))
    child(widget, QComboBox, "preset").setCurrentIndex(2)
    click(qtbot, widget, QPushButton, "export")
    window = child(widget, QWidget, "export_window")
    folder = tmp_path / "out"
    child(window, QLineEdit, "export_folder").setText(str(folder))
    child(window, QLineEdit, "export_name").setText("head")
    for name in ("masks", "seg-nrrd", "picture"):
        tick(window, f"export_{name}", True)
    assert export(qtbot, window).startswith("Wrote")

    # 2. The label map, by two libraries.
    shown = {
        name: volume_order(viewer.layers[name], volume) for name in ("left ball", "right ball")
    }
    written = nib.load(folder / "head_segone.nii.gz")
    np.testing.assert_allclose(written.affine, volume.affine, atol=1e-4)
    labels = np.asarray(written.dataobj)
    np.testing.assert_array_equal(labels == 1, shown["left ball"])
    # Where both lie a label map can hold one: the first.
    np.testing.assert_array_equal(labels == 2, shown["right ball"] & ~shown["left ball"])
    again = sitk.ReadImage(str(folder / "head_segone.nii.gz"))
    origin = volume.affine[:3, 3] * (-1, -1, 1)
    np.testing.assert_allclose(again.GetOrigin(), origin, atol=1e-4)
    assert (folder / "head_segone.tsv").read_text().splitlines()[1].split("\t")[1] == "left ball"

    # 3. A mask a structure, the volumes, the picture and the record.
    (left,) = folder.glob("head_masks/*left-ball.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(left).dataobj) > 0, shown["left ball"])
    table = list(csv.DictReader((folder / "head_segone.csv").open(encoding="utf-8")))
    expected = shown["left ball"].sum() * abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    assert abs(float(table[0]["volume_ml"]) - expected) < 1e-3
    assert min(Image.open(folder / "head_segone.png").size) > 300
    record = json.loads((folder / "head_segone.nii.gz.provenance.json").read_text("utf-8"))
    edited = {row["name"]: row["edited_by_hand"] for row in record["segments"]}
    assert edited == {"left ball": True, "right ball": False}
    assert record["image"]["voxels_checksum"]  # also of an image that no file is left of
    assert [row["prompt"] for row in record["segments"]] == ["left ball", "right ball"]
    # what they were made with, not what is chosen for the next ones
    assert {row["preset"] for row in record["segments"]} == {"balanced"}

    # 4. Nothing is overwritten unasked, and what is left out is left out.
    assert "exists" in export(qtbot, window)
    tick(window, "export_force", True)
    tick(window, "export_row_2", False)
    assert export(qtbot, window).startswith("Wrote")
    assert np.asarray(nib.load(folder / "head_segone.nii.gz").dataobj).max() == 1
    window.close()


def volume_order(layer, volume) -> np.ndarray:
    from segone_napari.gui.layers import volume_from_attributes

    return volume_from_attributes(layer.data, {"metadata": layer.metadata}).data > 0


def test_folder_that_cannot_be_written_is_said_and_can_be_changed(
    qtbot, open_widget, tmp_path
) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    click(qtbot, widget, QPushButton, "export")
    window = child(widget, QWidget, "export_window")
    (tmp_path / "file").write_text("in the way")
    child(window, QLineEdit, "export_folder").setText(str(tmp_path / "file"))
    assert "Nothing was written" in export(qtbot, window)
    child(window, QLineEdit, "export_folder").setText(str(tmp_path / "fine"))
    assert export(qtbot, window).startswith("Wrote")
    window.close()


def opened_window(qtbot, make_napari_viewer, segmenter, path) -> QWidget:
    """Open a file in napari, ask for a structure, and open the export window."""
    viewer = make_napari_viewer(show=True)
    viewer.open(str(path), plugin="segone-napari")
    widget = SegOneWidget(viewer, make_session=lambda preset, device: segmenter)
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")
    ask_and_wait(qtbot, widget, "left ball")
    click(qtbot, widget, QPushButton, "export")
    window = child(widget, QWidget, "export_window")
    child(window, QLineEdit, "export_folder").setText(str(path.parent.parent / "out"))
    return window


def test_exports_of_a_dicom_series_are_not_named_after_the_patient(
    qtbot, make_napari_viewer, segmenter, tmp_path
) -> None:
    # A scanner names folders after people, and a technician typed a name into the description.
    folder = tmp_path / "Doe_Jane" / "Doe_Jane_T1"
    folder.parent.mkdir()
    save_series(folder, head())
    window = opened_window(qtbot, make_napari_viewer, segmenter, folder)
    for name in ("masks", "seg-nrrd", "bids", "picture"):
        tick(window, f"export_{name}", True)
    assert export(qtbot, window).startswith("Wrote")
    out = tmp_path / "out"
    names = [str(path.relative_to(out)) for path in out.rglob("*")]
    assert any(name.endswith("_dseg.nii.gz") for name in names)
    assert any(name.endswith("_segone.png") for name in names)
    for word in SECRETS:
        assert [name for name in names if word.lower() in name.lower()] == [], word
    window.close()


def test_exports_of_a_file_bear_its_name_until_another_is_typed(
    qtbot, make_napari_viewer, segmenter, tmp_path
) -> None:
    (tmp_path / "in").mkdir()
    path = formats.write(head(), tmp_path / "in" / "volunteer 7.nii.gz")
    path = path.rename(path.with_name("volunteer 7.NII.GZ"))
    window = opened_window(qtbot, make_napari_viewer, segmenter, path)
    field = child(window, QLineEdit, "export_name")
    assert field.text() == "volunteer_7"
    field.setText("  ")
    assert "give the files a name" in export(qtbot, window)
    field.setText("../case/3")
    assert export(qtbot, window).startswith("Wrote")
    assert (tmp_path / "out" / "_case_3_segone.nii.gz").is_file()
    window.close()


def test_folder_is_remembered_for_its_image_and_never_for_another(
    qtbot, make_napari_viewer, segmenter, tmp_path
) -> None:
    paths = [tmp_path / name / "scan.nii.gz" for name in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        formats.write(head(), path)
    viewer = make_napari_viewer(show=True)
    one, other = (viewer.open(str(path), plugin="segone-napari")[0] for path in paths)
    widget = SegOneWidget(viewer, make_session=lambda preset, device: segmenter)
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")

    def folder_for(image) -> QLineEdit:
        viewer.layers.selection.active = image
        if not rows(widget):
            ask_and_wait(qtbot, widget, "left ball")
        click(qtbot, widget, QPushButton, "export")
        return child(widget, QLineEdit, "export_folder")

    def close() -> None:
        click(qtbot, widget, QPushButton, "export_close")
        qtbot.waitUntil(lambda: widget.findChild(QWidget, "export_window") is None)

    field = folder_for(one)
    assert field.text() == str(tmp_path / "first" / "segone-export")
    field.setText(str(tmp_path / "chosen"))
    assert export(qtbot, child(widget, QWidget, "export_window")).startswith("Wrote")
    close()
    assert folder_for(other).text() == str(tmp_path / "second" / "segone-export")
    close()
    assert folder_for(one).text() == str(tmp_path / "chosen")
    close()


def test_folder_of_an_image_on_a_cd_is_in_the_persons_own(
    qtbot, make_napari_viewer, segmenter, tmp_path, monkeypatch
) -> None:
    path = formats.write(head(), tmp_path / "scan.nii.gz")
    writable = os.access
    # Root may write everywhere, so a disk that can't be written is only said to be one.
    monkeypatch.setattr(
        os, "access", lambda folder, mode: folder != tmp_path and writable(folder, mode)
    )
    viewer = make_napari_viewer(show=True)
    viewer.open(str(path), plugin="segone-napari")
    widget = SegOneWidget(viewer, make_session=lambda preset, device: segmenter)
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")
    ask_and_wait(qtbot, widget, "left ball")
    click(qtbot, widget, QPushButton, "export")
    field = child(widget, QLineEdit, "export_folder")
    assert field.text() == str(Path.home() / "segone-export")
    click(qtbot, widget, QPushButton, "export_close")


def opened_export(qtbot, widget, folder: Path) -> QWidget:
    """Open the export window, for a label map and its measures in a folder."""
    click(qtbot, widget, QPushButton, "export")
    window = child(widget, QWidget, "export_window")
    child(window, QLineEdit, "export_folder").setText(str(folder))
    return window


def held_up(widget) -> threading.Event:
    """Let whatever takes longer wait until the event is set."""
    gate = threading.Event()
    widget._keeper.run(gate.wait)
    return gate


def test_export_is_finished_where_its_window_is_closed_meanwhile(
    qtbot, open_widget, tmp_path
) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    for folder, is_fine in ((tmp_path / "out", True), (tmp_path / "file", False)):
        window = opened_export(qtbot, widget, folder)
        if not is_fine:
            folder.write_text("in the way")
        gate = held_up(widget)
        click(qtbot, window, QPushButton, "export_now")
        window.close()
        qtbot.waitUntil(lambda: widget.findChild(QWidget, "export_window") is None)
        done = threading.Event()
        with qtbot.captureExceptions() as errors:
            gate.set()
            widget._keeper.run(lambda: None, lambda _, done=done: done.set())
            qtbot.waitUntil(done.is_set, timeout=PATIENCE_MS)
        assert errors == []
    assert (tmp_path / "out" / f"{default_name(widget._work)}_segone.csv").is_file()


def test_export_window_lists_the_structures_that_there_are_by_now(
    qtbot, open_widget, tmp_path
) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    window = opened_export(qtbot, widget, tmp_path / "out")
    left, _ = widget._work.rows
    widget._work.remove(left.id)
    ask_and_wait(qtbot, widget, "balls")

    def listed() -> list[str]:
        boxes = window.findChildren(QCheckBox)
        return [box.text() for box in boxes if box.objectName().startswith("export_row_")]

    qtbot.waitUntil(lambda: sorted(listed()) == ["balls", "right ball"], timeout=PATIENCE_MS)
    assert export(qtbot, window).startswith("Wrote")
    (table,) = (tmp_path / "out").glob("*_segone.tsv")
    names = [line.split("\t")[1] for line in table.read_text("utf-8").splitlines()[1:]]
    assert names == ["right ball", "balls"]
    # One that goes while others are being written is said.
    gate = held_up(widget)
    click(qtbot, window, QPushButton, "export_now")
    widget._work.remove(widget._work.rows[0].id)
    gate.set()
    words = child(window, QLabel, "export_words")
    qtbot.waitUntil(lambda: words.text() != "Writing …", timeout=PATIENCE_MS)
    assert "Nothing was written: there is no row" in words.text()
    window.close()


@pytest.mark.parametrize("name", ["segone.csv.provenance.json", "segone.tsv", "masks/masks.tsv"])
def test_one_file_in_the_way_stops_every_format(qtbot, open_widget, tmp_path, name: str) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    out = tmp_path / "out"
    window = opened_export(qtbot, widget, out)
    child(window, QLineEdit, "export_name").setText("head")
    for one in ("masks", "picture"):
        tick(window, f"export_{one}", True)
    there = out / f"head_{name}"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    before = sorted(out.rglob("*"))
    words = export(qtbot, window)
    assert words.startswith("Nothing was written")
    assert "tick 'Overwrite'" in words
    assert sorted(out.rglob("*")) == before
    tick(window, "export_force", True)
    assert export(qtbot, window).startswith("Wrote")
    assert there.read_text("utf-8") != "mine"
    window.close()


def test_format_that_cannot_hold_a_structure_is_said_and_the_others_are_written(
    qtbot, open_widget, tmp_path
) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; azure stone")
    child(rows(widget)[-1], QLabel, "note").linkActivated.emit("segone:draw")
    qtbot.waitUntil(lambda: "azure stone" in viewer.layers, timeout=PATIENCE_MS)
    window = opened_export(qtbot, widget, tmp_path / "out")
    child(window, QLineEdit, "export_name").setText("head")
    tick(window, "export_row_1", False)
    earlier = tmp_path / "out" / "head_stl-folder" / "01_azure-stone.stl"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("mine")
    for name in ("glb", "stl-folder", "force"):
        tick(window, f"export_{name}", True)
    words = export(qtbot, window)
    assert words.startswith("Wrote")
    assert "Not written: GLB scene, one object a structure: a mesh needs" in words
    assert "(azure stone)" in words
    assert "azure stone is empty: no voxel belongs to it" in words
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert {"head_segone.nii.gz", "head_segone.csv"} < set(written)
    assert not any("glb" in name or name.startswith(".") for name in written)
    assert [path.name for path in earlier.parent.iterdir()] == [earlier.name]
    # Where nothing is left to write, that is an error.
    for name in ("nifti", "csv", "stl-folder"):
        tick(window, f"export_{name}", False)
    assert export(qtbot, window).startswith("Nothing was written: GLB scene")
    window.close()


def record_of(widget, name: str) -> Segment:
    """What an export says of a row."""
    work = widget._work
    content = content_of(work, work.rows, "head")
    return next(one for one in content.segments if one.name == name)


def test_what_was_replaced_by_a_new_result_is_not_called_edited(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    viewer.layers["left ball"].paint((3, 3, 3), 1)
    assert record_of(widget, "left ball").edited_with == ("brush",)
    ask_and_wait(qtbot, widget, "left ball")
    child(rows(widget)[0], QLabel, "note").linkActivated.emit("segone:replace")
    (row,) = widget._work.rows
    qtbot.waitUntil(lambda: not widget._work.is_edited(row.id), timeout=PATIENCE_MS)
    told = record_of(widget, "left ball")
    assert (told.is_edited, told.edited_with, told.edited_at) == (False, (), "")
    assert (told.system, bool(told.made_at)) == ("segone", True)


def test_what_was_outlined_by_hand_is_said_to_be(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; azure stone")
    child(rows(widget)[-1], QLabel, "note").linkActivated.emit("segone:draw")
    qtbot.waitUntil(lambda: "azure stone" in viewer.layers, timeout=PATIENCE_MS)
    viewer.layers["azure stone"].paint((3, 3, 3), 1)
    told = record_of(widget, "azure stone")
    assert (told.system, told.is_edited, told.edited_with) == (BY_HAND, True, ("brush",))
    assert record_of(widget, "left ball").system == "segone"
    work = widget._work
    mixed = content_of(work, work.rows, "head")
    assert (mixed.system, mixed.checkpoint, mixed.options) == ("", "", {})


@pytest.mark.parametrize("has_record", [True, False])
def test_opened_mask_is_exported_with_what_its_file_said(
    qtbot, open_widget, tmp_path, has_record: bool
) -> None:
    volume = head()
    mask = volume.with_data((volume.data > 150).astype(np.uint8))
    sent = Segment(
        "left hippocampus",
        (1, 2, 3),
        mask,
        system=BY_HAND,
        is_edited=True,
        edited_with=("brush",),
        made_at="2026-01-02T03:04:05+00:00",
    )
    path = tmp_path / "a_dseg.nii.gz"
    registry.write(Content((sent,)), path, record=has_record)
    viewer, widget = open_widget(volume)
    qtbot.waitUntil(lambda: widget._work is not None, timeout=PATIENCE_MS)
    viewer.open(str(path), plugin="segone-napari")
    qtbot.waitUntil(lambda: "opened" in widget._work.history.notes, timeout=PATIENCE_MS)
    told = record_of(widget, "left hippocampus")
    if has_record:
        assert (told.system, told.is_edited, told.edited_with) == (BY_HAND, True, ("brush",))
        assert told.made_at == sent.made_at
    else:
        assert (told.system, told.is_edited, told.edited_with) == ("", None, ())
    assert content_of(widget._work, widget._work.rows, "head").system == ""
    # What is done to it here is known.
    viewer.layers["left hippocampus"].paint((3, 3, 3), 1)
    told = record_of(widget, "left hippocampus")
    assert (told.is_edited, told.edited_with) == (True, ("brush",))
