"""Correcting as a person does it: brush strokes on the canvas, repairs, undo, accepting."""

import threading

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QToolButton, QWidget

from segone_napari.gui import imagework
from segone_napari.gui.layers import volume_from_attributes
from segone_napari.project import EditHistory, Project

from .conftest import head
from .hands import (
    PATIENCE_MS,
    ask_and_wait,
    child,
    choose_row,
    click,
    click_on,
    drag,
    draw_polygon,
    encircle,
    press,
    redo,
    row_text,
    rows,
    undo,
)


def stroke(qtbot, viewer, layer, offset: int = 0) -> np.ndarray:
    """Draw with the brush across the middle of the slice on screen; returns what changed."""
    before = layer.data.copy()
    layer.brush_size = 2
    at = round(float(layer.world_to_data(viewer.dims.point)[0]))
    drag(qtbot, viewer, (at, 8 + offset, 8), (at, 8 + offset, 14))
    return layer.data != before


@pytest.fixture
def with_balls(qtbot, open_widget):
    """A window with both balls outlined and the left one chosen."""
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    choose_row(qtbot, widget, "left ball")
    return viewer, widget


def test_stroke_of_the_brush_is_in_the_journal_within_a_second(
    qtbot, with_balls, own_settings
) -> None:
    viewer, widget = with_balls
    layer = viewer.layers["left ball"]
    click(qtbot, widget, QToolButton, "tool_paint")
    assert layer.mode == "paint"
    changed = stroke(qtbot, viewer, layer)
    assert changed.sum() > 5
    saved = child(widget, QLabel, "saved")
    qtbot.waitUntil(lambda: saved.text() == "saved just now", timeout=1000)
    # What another program would find on the disk at this moment.
    (case,) = Project(own_settings).cases()
    assert case.is_open
    copy = own_settings.parent / "copy"
    case.folder.rename(copy)
    copy.rename(case.folder)
    mask = read_copy(case.folder, own_settings.parent / "other")
    shown = volume_from_attributes(layer.data, {"metadata": layer.metadata}).data
    np.testing.assert_array_equal(mask, shown)


def read_copy(case_folder, project) -> np.ndarray:
    """The first row's mask in a copy of a case, as another process would restore it."""
    import shutil

    shutil.copytree(case_folder, project / "cases" / case_folder.name)
    (case,) = Project(project).cases()
    with EditHistory.open(case) as history:
        return history.masks[history.rows[0].id].copy()


@pytest.mark.parametrize(("mode", "draw"), [("polygon", draw_polygon), ("paint", encircle)])
def test_napari_s_own_outlines_fill_and_are_one_step(qtbot, with_balls, mode, draw) -> None:
    viewer, _ = with_balls
    layer = viewer.layers["left ball"]
    before = layer.data.copy()
    layer.brush_size = 1
    layer.mode = mode
    at = round(float(layer.world_to_data(viewer.dims.point)[0]))
    draw(qtbot, viewer, [(at, 2, 4), (at, 2, 14), (at, 7, 14), (at, 7, 4)])
    added = np.argwhere(layer.data != before)
    assert {tuple(voxel) for voxel in added} >= {(at, 4, 8), (at, 5, 12)}
    assert {int(voxel[0]) for voxel in added} == {at}
    undo(qtbot, viewer)
    np.testing.assert_array_equal(layer.data, before)


def test_undo_goes_back_over_slices_layers_and_kinds_of_edit(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    left, right = viewer.layers["left ball"], viewer.layers["right ball"]
    states = [(left.data.copy(), right.data.copy())]

    # 1. A stroke, one on another slice, one on another layer, and a repair.
    click(qtbot, widget, QToolButton, "tool_paint")
    assert stroke(qtbot, viewer, left).any()
    states.append((left.data.copy(), right.data.copy()))
    press(qtbot, viewer, Qt.Key.Key_Right)
    assert stroke(qtbot, viewer, left, 3).any()
    states.append((left.data.copy(), right.data.copy()))
    choose_row(qtbot, widget, "right ball")
    click(qtbot, widget, QToolButton, "tool_paint")
    assert stroke(qtbot, viewer, right, -6).any()
    states.append((left.data.copy(), right.data.copy()))
    repair(qtbot, widget, "largest")
    back = child(widget, QPushButton, "undo")
    qtbot.waitUntil(lambda: "largest part" in back.toolTip(), timeout=PATIENCE_MS)
    assert not np.array_equal(right.data, states[-1][1])
    states.append((left.data.copy(), right.data.copy()))

    # 2. All the way back, whatever slice and axis are on screen, and forth again.
    viewer.dims.order = (1, 0, 2)
    for expected in states[-2::-1]:
        undo(qtbot, viewer)
        np.testing.assert_array_equal(left.data, expected[0])
        np.testing.assert_array_equal(right.data, expected[1])
    for expected in states[1:]:
        redo(qtbot, viewer)
        np.testing.assert_array_equal(left.data, expected[0])
        np.testing.assert_array_equal(right.data, expected[1])


def repair(qtbot, widget, name: str) -> None:
    click(qtbot, widget, QPushButton, f"repair_{name}")


@pytest.mark.parametrize("key", [Qt.Key.Key_H, Qt.Key.Key_K, Qt.Key.Key_O])
def test_repairs_have_keys_and_are_one_step_each(qtbot, with_balls, key) -> None:
    """A hole is filled, a crumb dropped, a bump rounded off; one undo brings each back."""
    viewer, widget = with_balls
    layer = viewer.layers["left ball"]
    places = np.argwhere(layer.data)
    middle = tuple(int(n) for n in places.mean(axis=0).round())
    if key == Qt.Key.Key_H:
        layer.data_setitem(tuple(np.array([n]) for n in middle), 0)
    else:
        layer.data_setitem(tuple(np.array([n]) for n in (3, 3, 3)), 1)
    spoilt = layer.data.copy()
    count = child(widget, QPushButton, "undo").text()
    press(qtbot, viewer, key)
    qtbot.waitUntil(lambda: not np.array_equal(layer.data, spoilt), timeout=PATIENCE_MS)
    qtbot.waitUntil(lambda: child(widget, QPushButton, "undo").text() != count)
    if key == Qt.Key.Key_H:
        assert layer.data[middle]
    else:
        assert not layer.data[3, 3, 3]
    undo(qtbot, viewer)
    np.testing.assert_array_equal(layer.data, spoilt)


def test_undo_shows_the_slice_where_it_happened(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    layer = viewer.layers["left ball"]
    click(qtbot, widget, QToolButton, "tool_paint")
    at = viewer.dims.current_step[0]
    assert stroke(qtbot, viewer, layer).any()
    viewer.dims.set_current_step(0, at + 9)
    undo(qtbot, viewer)
    assert viewer.dims.current_step[0] == at


def test_undo_takes_a_new_result_back_and_brings_a_removed_row_again(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    mask = viewer.layers["left ball"].data.copy()
    row = choose_row(qtbot, widget, "left ball")
    row.setFocus()
    qtbot.keyClick(row, Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: "left ball" not in viewer.layers, timeout=PATIENCE_MS)
    undo(qtbot, viewer)
    qtbot.waitUntil(lambda: "left ball" in viewer.layers, timeout=PATIENCE_MS)
    np.testing.assert_array_equal(viewer.layers["left ball"].data, mask)
    undo(qtbot, viewer)
    assert rows(widget) == []
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=PATIENCE_MS)
    assert viewer.layers[0].name == "head.nii.gz"


def test_row_s_millilitres_follow_the_brush(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    layer = viewer.layers["left ball"]
    click(qtbot, widget, QToolButton, "tool_paint")
    stroke(qtbot, viewer, layer)
    text = row_text(rows(widget)[0])
    assert f"{np.count_nonzero(layer.data) / 1000:.2f} mL" in text
    assert "corrected" in text


def is_shown(viewer, name: str) -> bool:
    return name in viewer.layers and viewer.layers[name].visible


def test_accepted_row_is_locked_until_it_is_a_draft_again(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    layer = viewer.layers["left ball"]
    before = layer.data.copy()
    click(qtbot, rows(widget)[0], QWidget, "accept")
    assert "accepted" in row_text(rows(widget)[0])
    assert not child(widget, QToolButton, "tool_paint").isEnabled()
    # 1. Neither the brush, nor the same prompt, nor a key removes or changes it.
    press(qtbot, viewer, Qt.Key.Key_2)
    stroke(qtbot, viewer, layer)
    ask_and_wait(qtbot, widget, "left ball")
    row = rows(widget)[0]
    row.setFocus()
    qtbot.keyClick(row, Qt.Key.Key_Delete)
    np.testing.assert_array_equal(viewer.layers["left ball"].data, before)
    # 2. A person who deletes its layer can show it again.
    viewer.layers.remove(layer)
    eye = child(rows(widget)[0], QToolButton, "show")
    qtbot.waitUntil(lambda: not eye.isChecked(), timeout=PATIENCE_MS)
    assert "accepted" in row_text(rows(widget)[0])
    click(qtbot, rows(widget)[0], QWidget, "show")
    qtbot.waitUntil(lambda: is_shown(viewer, "left ball"), timeout=30_000)
    np.testing.assert_array_equal(viewer.layers["left ball"].data, before)
    # 3. Unlocked by the key, it can be painted on.
    control = Qt.KeyboardModifier.ControlModifier
    viewer.layers.selection.active = viewer.layers["left ball"]
    press(qtbot, viewer, Qt.Key.Key_Return, control)
    click(qtbot, widget, QToolButton, "tool_paint")
    assert stroke(qtbot, viewer, viewer.layers["left ball"]).any()


def test_accepted_row_is_locked_against_what_napari_tells_of_first(qtbot, with_balls) -> None:
    """A polygon that was begun before, and what a program paints, don't get in."""
    viewer, widget = with_balls
    layer = viewer.layers["left ball"]
    before = layer.data.copy()
    at = round(float(layer.world_to_data(viewer.dims.point)[0]))
    corners = [(at, 2, 4), (at, 2, 14), (at, 7, 14), (at, 7, 4)]
    layer.mode = "polygon"
    for corner in corners:
        click_on(qtbot, viewer, corner)
        qtbot.wait(20)
    row = choose_row(qtbot, widget, "left ball")
    click(qtbot, row, QToolButton, "accept")
    press(qtbot, viewer, Qt.Key.Key_Return)
    layer.paint_polygon(corners, 1)
    layer.paint((at, 3, 8), 1)
    qtbot.wait(50)
    np.testing.assert_array_equal(layer.data, before)
    layer.data = np.ones_like(before)
    np.testing.assert_array_equal(layer.data, before)
    qtbot.waitUntil(lambda: not layer.editable, timeout=PATIENCE_MS)


def test_largest_keeps_both_sides_of_what_has_two_and_says_what_it_did(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    ask_and_wait(qtbot, widget, "balls")
    layer = viewer.layers["balls"]
    before = layer.data.copy()
    layer.data_setitem(tuple(np.array([n]) for n in (3, 3, 3)), 1)
    choose_row(qtbot, widget, "balls")
    repair(qtbot, widget, "largest")
    status = child(widget, QLabel, "status")
    qtbot.waitUntil(lambda: "mL" in status.text(), timeout=PATIENCE_MS)
    assert "Keep the largest part: balls" in status.text()
    np.testing.assert_array_equal(layer.data, before)
    repair(qtbot, widget, "largest")
    qtbot.waitUntil(lambda: "nothing to do" in status.text(), timeout=PATIENCE_MS)


def test_image_that_is_closed_in_the_middle_of_a_repair_is_let_go(
    qtbot, with_balls, monkeypatch
) -> None:
    """The repair ends after the work on the image has gone, and nobody is told."""
    viewer, widget = with_balls
    hold, has_begun = threading.Event(), threading.Event()

    def slow(mask, spacing):
        has_begun.set()
        assert hold.wait(10)
        return mask * 0

    monkeypatch.setattr(imagework.editing, "smooth", slow)
    repair(qtbot, widget, "smooth")
    qtbot.waitUntil(has_begun.is_set, timeout=PATIENCE_MS)
    viewer.layers.clear()
    qtbot.wait(100)
    hold.set()
    qtbot.wait(300)  # an error here would fail the test
    assert len(viewer.layers) == 0


def test_row_that_is_clicked_while_its_layer_comes_is_gone_to(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    for name in ("left ball", "right ball"):
        row = choose_row(qtbot, widget, name)
        click(qtbot, row, QToolButton, "remove")
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=PATIENCE_MS)
    undo(qtbot, viewer)
    undo(qtbot, viewer)
    choose_row(qtbot, widget, "left ball")
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=PATIENCE_MS)
    qtbot.waitUntil(
        lambda: viewer.layers.selection.active is viewer.layers["left ball"], timeout=PATIENCE_MS
    )


def test_interpolation_fills_the_slices_between_painted_ones(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    layer = viewer.layers["left ball"]
    click(qtbot, widget, QToolButton, "tool_paint")
    at = viewer.dims.current_step[0]
    stroke(qtbot, viewer, layer)
    viewer.dims.set_current_step(0, at + 4)
    stroke(qtbot, viewer, layer)
    assert not layer.data[at + 2, 8, 8:14].any()
    press(qtbot, viewer, Qt.Key.Key_I)
    qtbot.waitUntil(lambda: bool(layer.data[at + 2, 8, 9:13].all()), timeout=PATIENCE_MS)


def test_slice_that_is_right_counts_as_corrected(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    layer, status = viewer.layers["left ball"], child(widget, QLabel, "status")
    before, at = layer.data.copy(), viewer.dims.current_step[0]
    press(qtbot, viewer, Qt.Key.Key_Y)
    assert status.text() == f"Slice {at} of left ball is right; 1 slice is to learn from"
    press(qtbot, viewer, Qt.Key.Key_Y)
    assert status.text().startswith(f"Slice {at} of left ball counted already")
    assert not any("corrected" in row_text(row) for row in rows(widget))  # nothing was changed
    undo(qtbot, viewer)
    press(qtbot, viewer, Qt.Key.Key_Y)
    assert "is right; 1 slice" in status.text()
    np.testing.assert_array_equal(layer.data, before)
    # filling in between uses it
    viewer.dims.set_current_step(0, at + 4)
    click(qtbot, widget, QToolButton, "tool_paint")
    changed = stroke(qtbot, viewer, layer)
    assert changed.any()
    press(qtbot, viewer, Qt.Key.Key_I)
    filled = "Fill in between corrected slices: left ball"
    qtbot.waitUntil(lambda: status.text().startswith(filled), timeout=PATIENCE_MS)
    np.testing.assert_array_equal(layer.data[at], before[at])
    viewer.dims.set_current_step(0, at + 2)
    button = child(widget, QPushButton, "confirm")
    qtbot.waitUntil(button.isEnabled, timeout=PATIENCE_MS)
    click(qtbot, widget, QPushButton, "confirm")
    assert status.text().endswith("is right; 3 slices are to learn from")  # one between


def test_a_repair_behind_an_undo_of_its_row_does_nothing_and_the_rest_goes_on(
    qtbot, open_widget
) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    with qtbot.captureExceptions() as errors:
        widget._correcting.repair("holes")
        widget._correcting.undo()
        widget._correcting.repair("smooth")
        widget._correcting.redo()
        qtbot.waitUntil(lambda: not widget._work.is_busy, timeout=PATIENCE_MS)
    assert errors == []
    assert [row.name for row in widget._work.rows] == ["left ball"]


def test_slices_called_right_stay_so_when_the_same_is_asked_again(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    work = widget._work
    press(qtbot, viewer, Qt.Key.Key_Y)
    before = work.corrected_on_layer(work.rows[0].id, 0)
    assert before
    presets = child(widget, QComboBox, "preset")
    presets.setCurrentIndex((presets.currentIndex() + 1) % presets.count())
    ask_and_wait(qtbot, widget, "left ball")
    assert "yours was kept" in child(widget, QLabel, "status").text()
    assert work.corrected_on_layer(work.rows[0].id, 0) == before


@pytest.mark.parametrize("codes", ["LPI", "PSR", "SAL"])
def test_strokes_reach_the_voxels_of_every_storage_order(qtbot, open_widget, codes) -> None:
    """What is painted on screen is painted in the mask on the file's own grid."""
    ornt = nib.orientations.axcodes2ornt(codes)
    matrix = np.zeros((3, 3))
    for axis, (world_axis, sign) in enumerate(ornt):
        matrix[int(world_axis), axis] = sign
    shape = (34, 36, 38)
    affine = nib.affines.from_matvec(matrix, -matrix @ ((np.array(shape) - 1) / 2))
    viewer, widget = open_widget(head(affine, shape))
    ask_and_wait(qtbot, widget, "left ball")
    choose_row(qtbot, widget, "left ball")
    layer = viewer.layers["left ball"]
    click(qtbot, widget, QToolButton, "tool_paint")
    assert stroke(qtbot, viewer, layer).sum() > 5
    painted = layer.data.copy()
    undo(qtbot, viewer)
    assert not np.array_equal(layer.data, painted)
    redo(qtbot, viewer)
    np.testing.assert_array_equal(layer.data, painted)
    press(qtbot, viewer, Qt.Key.Key_Y)  # counted already, so at the same place
    assert "counted already" in child(widget, QLabel, "status").text()
    viewer.dims.set_current_step(0, viewer.dims.current_step[0] + 3)
    press(qtbot, viewer, Qt.Key.Key_Y)
    assert "is right; 2 slices" in child(widget, QLabel, "status").text()


def test_other_labels_layers_keep_napari_s_own_undo(qtbot, with_balls) -> None:
    viewer, _ = with_balls
    mine = viewer.layers["left ball"].data.copy()
    theirs = viewer.add_labels(np.zeros(viewer.layers[0].data.shape, np.uint8), name="theirs")
    theirs.paint((5, 5, 5), 1)
    assert theirs.data.any()
    undo(qtbot, viewer)
    assert not theirs.data.any()
    np.testing.assert_array_equal(viewer.layers["left ball"].data, mine)


def test_steps_are_counted_and_named_on_the_buttons(qtbot, with_balls) -> None:
    viewer, widget = with_balls
    click(qtbot, widget, QToolButton, "tool_paint")
    stroke(qtbot, viewer, viewer.layers["left ball"])
    back, forth = child(widget, QPushButton, "undo"), child(widget, QPushButton, "redo")
    assert back.text() == "Undo 2"
    assert "brush on left ball" in back.toolTip()
    assert "Ctrl+Z" in back.toolTip()
    assert not forth.isEnabled()
    click(qtbot, widget, QPushButton, "undo")
    assert (back.text(), forth.text()) == ("Undo 1", "Redo 1")
