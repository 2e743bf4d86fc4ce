"""SAM2 in the window: + and − clicks and a box on a slice, a preview to take or drop, spreading."""

import threading

import numpy as np
import pytest
import torch
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QToolButton,
    QWidget,
)

from segone_napari.project import Project

from .conftest import head
from .hands import (
    PATIENCE_MS,
    ask_and_wait,
    child,
    click,
    click_on,
    drag,
    is_idle,
    press,
    redo,
    row_text,
    rows,
    undo,
)

SHIFT = Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def with_empty_slice(qtbot, open_widget):
    """A window at the middle of the left ball, whose outline was erased on this slice."""
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    layer = viewer.layers["left ball"]
    at = viewer.dims.current_step[0]
    truth = layer.data[at].copy()
    row, column = np.argwhere(truth).mean(axis=0).round().astype(int)
    click(qtbot, widget, QToolButton, "tool_erase")
    layer.brush_size = 20
    drag(qtbot, viewer, (at, row, column - 4), (at, row, column + 4))
    assert not layer.data[at].any()
    return viewer, widget, layer, (at, int(row), int(column)), truth


def wait_for_preview(qtbot, widget) -> None:
    take = child(widget, QPushButton, "preview_take")
    qtbot.waitUntil(lambda: take.isVisible() and take.isEnabled(), timeout=PATIENCE_MS)


def preview_is_hidden(widget) -> bool:
    return child(widget, QWidget, "preview").isHidden()


def test_click_is_previewed_taken_by_enter_undone_and_saved(
    qtbot, with_empty_slice, own_settings
) -> None:
    viewer, widget, layer, place, truth = with_empty_slice
    at = place[0]
    rest = np.delete(layer.data, at, axis=0)
    steps = widget.findChild(QPushButton, "undo").text()
    press(qtbot, viewer, Qt.Key.Key_A)
    assert child(widget, QPushButton, "click_add").isChecked()
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    # 1. Until it is taken nothing has changed.
    assert not layer.data[at].any()
    shown = viewer.layers["SAM2 preview"]
    assert viewer.layers.selection.active is layer
    np.testing.assert_array_equal(shown.data[at] != 0, truth != 0)
    assert not np.delete(shown.data, at, axis=0).any()
    assert f"Slice {at}" in child(widget, QLabel, "preview_words").text()
    # 2. Enter makes it the slice's mask, and an edit like every other.
    press(qtbot, viewer, Qt.Key.Key_Return)
    np.testing.assert_array_equal(layer.data[at], truth)
    np.testing.assert_array_equal(np.delete(layer.data, at, axis=0), rest)
    assert preview_is_hidden(widget)
    assert not shown.data.any()
    assert "corrected" in row_text(rows(widget)[0])
    back = child(widget, QPushButton, "undo")
    assert back.text() != steps
    assert "SAM2 on left ball" in back.toolTip()
    saved = child(widget, QLabel, "saved")
    qtbot.waitUntil(lambda: saved.text() == "saved just now", timeout=PATIENCE_MS)
    undo(qtbot, viewer)
    assert not layer.data[at].any()
    redo(qtbot, viewer)
    np.testing.assert_array_equal(layer.data[at], truth)
    assert list(Project(own_settings).cases())


def test_esc_drops_the_preview_and_then_the_tool(qtbot, with_empty_slice) -> None:
    viewer, widget, layer, place, _ = with_empty_slice
    before = layer.data.copy()
    click(qtbot, widget, QPushButton, "click_add")
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    press(qtbot, viewer, Qt.Key.Key_Escape)
    assert preview_is_hidden(widget)
    assert child(widget, QPushButton, "click_add").isChecked()
    press(qtbot, viewer, Qt.Key.Key_Escape)
    assert not child(widget, QPushButton, "click_add").isChecked()
    qtbot.waitUntil(lambda: "SAM2 preview" not in viewer.layers, timeout=5000)
    np.testing.assert_array_equal(layer.data, before)
    # Enter and Esc are napari's again.
    press(qtbot, viewer, Qt.Key.Key_Return)
    np.testing.assert_array_equal(layer.data, before)


def test_preview_that_is_dropped_in_3d_is_gone_in_2d(qtbot, with_empty_slice) -> None:
    viewer, widget, _, place, _ = with_empty_slice
    click(qtbot, widget, QPushButton, "click_add")
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    viewer.dims.ndisplay = 3
    widget._correcting.clicks.drop()
    viewer.dims.ndisplay = 2
    assert not viewer.layers["SAM2 preview"].data.any()


def test_minus_click_takes_away_and_undo_goes_back_click_by_click(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "balls")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    layer = viewer.layers["balls"]
    at = viewer.dims.current_step[0]
    columns = np.flatnonzero(layer.data[at].any(axis=0))
    left, right = int(columns[0]) + 4, int(columns[-1]) - 4
    row = int(np.flatnonzero(layer.data[at].any(axis=1)).mean())
    both = layer.data[at].copy()
    click(qtbot, widget, QPushButton, "click_subtract")
    click_on(qtbot, viewer, (at, row, left))
    wait_for_preview(qtbot, widget)
    one = shown_mask(viewer, at)
    assert not one[:, : both.shape[1] // 2].any()
    assert one[:, both.shape[1] // 2 :].any()
    click_on(qtbot, viewer, (at, row, right))
    qtbot.waitUntil(lambda: not shown_mask(viewer, at).any(), timeout=PATIENCE_MS)
    click_on(qtbot, viewer, (at, row, right), SHIFT)  # the opposite of minus
    qtbot.waitUntil(lambda: shown_mask(viewer, at).any(), timeout=PATIENCE_MS)
    undo(qtbot, viewer)
    assert not shown_mask(viewer, at).any()
    undo(qtbot, viewer)
    np.testing.assert_array_equal(shown_mask(viewer, at), one)
    click(qtbot, widget, QPushButton, "preview_take")
    kept = layer.data[at] != 0
    assert not kept[:, : both.shape[1] // 2].any()
    np.testing.assert_array_equal(kept[:, both.shape[1] // 2 :], both[:, both.shape[1] // 2 :] != 0)


def shown_mask(viewer, at: int) -> np.ndarray:
    """The preview's outline and inside on a slice, its marks of clicks left out."""
    return np.isin(viewer.layers["SAM2 preview"].data[at], (1, 2))


def test_box_outlines_anew_and_does_not_move_the_view(qtbot, with_empty_slice) -> None:
    viewer, widget, layer, (at, row, column), truth = with_empty_slice
    click(qtbot, widget, QPushButton, "box")
    centre = viewer.scene.camera.center
    drag(qtbot, viewer, (at, row - 6, column - 6), (at, row + 6, column + 6))
    wait_for_preview(qtbot, widget)
    assert viewer.scene.camera.center == centre
    assert (viewer.layers["SAM2 preview"].data[at] == 5).sum() > 30  # the box itself
    press(qtbot, viewer, Qt.Key.Key_Return)
    np.testing.assert_array_equal(layer.data[at], truth)


def test_drag_with_a_click_tool_still_moves_the_view(qtbot, with_empty_slice) -> None:
    viewer, widget, _, (at, row, column), _ = with_empty_slice
    click(qtbot, widget, QPushButton, "click_add")
    centre = viewer.scene.camera.center
    drag(qtbot, viewer, (at, row, column), (at, row + 8, column))
    assert viewer.scene.camera.center != centre
    assert preview_is_hidden(widget)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)], ids=["a", "c", "s"])
def test_clicks_work_in_every_plane(qtbot, open_widget, order, teacher) -> None:
    import nibabel as nib

    affine = nib.affines.from_matvec(np.diag([1.0, 1.0, 2.0]), [-16.5, -19.5, -29.0])
    viewer, widget = open_widget(head(affine))
    ask_and_wait(qtbot, widget, "left ball")
    viewer.dims.order = order
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    layer = viewer.layers["left ball"]
    middle = tuple(int(n) for n in np.argwhere(layer.data).mean(axis=0).round())
    viewer.dims.set_current_step(order[0], middle[order[0]])
    at = tuple(slice(None) if n != order[0] else middle[n] for n in range(3))
    truth = layer.data[at].copy()
    click(qtbot, widget, QToolButton, "tool_fill")
    click_on(qtbot, viewer, middle)  # fill is with label 1: nothing changes
    layer.selected_label = 0
    click_on(qtbot, viewer, middle)
    assert not layer.data[at].any()
    click(qtbot, widget, QPushButton, "click_add")
    click_on(qtbot, viewer, middle)
    wait_for_preview(qtbot, widget)
    press(qtbot, viewer, Qt.Key.Key_Return)
    np.testing.assert_array_equal(layer.data[at], truth)
    spacing = [(2.0, 1.0, 1.0)[n] for n in range(3) if n != order[0]]  # layer axis 0 is z
    assert teacher.looked[-1] == tuple(spacing)


def test_each_slice_is_looked_at_once_and_off_the_gui_thread(
    qtbot, with_empty_slice, teacher
) -> None:
    viewer, widget, _, place, _ = with_empty_slice
    click(qtbot, widget, QPushButton, "click_add")
    for _ in range(2):
        click_on(qtbot, viewer, place)
        wait_for_preview(qtbot, widget)
    press(qtbot, viewer, Qt.Key.Key_Return)
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    assert len(teacher.looked) == 1
    assert threading.get_ident() not in teacher.threads


def test_unknown_structure_is_outlined_by_a_box_and_spread_in_one_step(qtbot, open_widget) -> None:
    """From a box on one slice the whole ball is outlined, and no more than the ball."""
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "tumour of a kind that nobody knows")
    # 1. Begin it by hand.
    (row,) = rows(widget)
    child(row, QLabel, "note").linkActivated.emit("segone:draw")
    name = "tumour of a kind that nobody knows"
    qtbot.waitUntil(lambda: name in viewer.layers, timeout=PATIENCE_MS)
    layer = viewer.layers[name]
    qtbot.waitUntil(lambda: viewer.layers.selection.active is layer, timeout=PATIENCE_MS)
    assert not layer.data.any()
    # 2. A box around the left ball, on its middle slice.
    truth = viewer.layers["head.nii.gz"].data > 150
    truth[..., : truth.shape[2] // 2] = False  # the patient's left is on the right
    at, row, column = (int(n) for n in np.argwhere(truth).mean(axis=0).round())
    viewer.dims.set_current_step(0, at)
    press(qtbot, viewer, Qt.Key.Key_R)
    drag(qtbot, viewer, (at, row - 6, column - 6), (at, row + 6, column + 6))
    wait_for_preview(qtbot, widget)
    press(qtbot, viewer, Qt.Key.Key_Return)
    one = layer.data.copy()
    np.testing.assert_array_equal(one[at] != 0, truth[at])
    # 3. Spread, as one step.
    press(qtbot, viewer, Qt.Key.Key_G)
    qtbot.waitUntil(lambda: layer.data.sum() > one.sum(), timeout=PATIENCE_MS)
    spread = layer.data != 0
    assert not (spread & ~truth).any()
    right = (spread == truth).all(axis=(1, 2)) & truth.any(axis=(1, 2))
    assert right.sum() >= 7  # the small ends of the ball are left out
    assert is_idle(widget)
    back = child(widget, QPushButton, "undo")
    qtbot.waitUntil(lambda: back.text() == "Undo 3", timeout=PATIENCE_MS)
    assert "spreading of" in child(widget, QPushButton, "undo").toolTip()
    undo(qtbot, viewer)
    np.testing.assert_array_equal(layer.data, one)


def test_spread_ends_before_a_slice_that_was_corrected(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    layer = viewer.layers["left ball"]
    at = viewer.dims.current_step[0]
    row, column = np.argwhere(layer.data[at]).mean(axis=0).round().astype(int)
    viewer.dims.set_current_step(0, at + 2)
    click(qtbot, widget, QToolButton, "tool_erase")
    layer.brush_size = 3
    drag(qtbot, viewer, (at + 2, int(row), int(column)), (at + 2, int(row), int(column) + 2))
    mine = layer.data[at + 2 :].copy()
    viewer.dims.set_current_step(0, at)
    press(qtbot, viewer, Qt.Key.Key_G)
    status = child(widget, QLabel, "status")
    qtbot.waitUntil(lambda: "you corrected" in status.text(), timeout=PATIENCE_MS)
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)
    np.testing.assert_array_equal(layer.data[at + 2 :], mine)


def test_spreading_shows_how_far_it_is_and_can_be_cancelled(qtbot, open_widget, teacher) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    layer = viewer.layers["left ball"]
    before = layer.data.copy()
    teacher.gate = threading.Event()
    click(qtbot, widget, QPushButton, "spread")
    assert not is_idle(widget)
    assert child(widget, QProgressBar, "progress").isVisible()
    click(qtbot, widget, QPushButton, "cancel")
    assert is_idle(widget)
    teacher.gate.set()
    qtbot.wait(300)
    np.testing.assert_array_equal(layer.data, before)
    # What comes next works.
    click(qtbot, widget, QPushButton, "spread")
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)


def test_stroke_while_spreading_stops_it(qtbot, open_widget, teacher) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    layer = viewer.layers["left ball"]
    at = viewer.dims.current_step[0]
    teacher.gate = threading.Event()
    click(qtbot, widget, QPushButton, "spread")
    click(qtbot, widget, QToolButton, "tool_paint")
    drag(qtbot, viewer, (at, 4, 8), (at, 4, 14))
    assert is_idle(widget)
    painted = layer.data.copy()
    teacher.gate.set()
    qtbot.wait(300)
    np.testing.assert_array_equal(layer.data, painted)


def test_without_a_teacher_the_buttons_say_so(qtbot, open_widget, monkeypatch) -> None:
    from segone_napari.gui import correcting, sam2

    viewer, widget = open_widget(head())
    monkeypatch.undo()
    monkeypatch.setattr(sam2, "_BUNDLED", sam2._BUNDLED / "not there")
    assert correcting.why_none("a/name") == ""
    ask_and_wait(qtbot, widget, "left ball")
    for name in ("click_add", "click_subtract", "box", "spread"):
        button = child(widget, QPushButton, name)
        assert not button.isEnabled()
        assert "comes without a SAM2" in button.toolTip()
    viewer.layers.selection.active = viewer.layers["left ball"]
    press(qtbot, viewer, Qt.Key.Key_A)
    assert "comes without a SAM2" in child(widget, QLabel, "status").text()
    assert child(widget, QToolButton, "tool_paint").isEnabled()


def test_accepted_structure_takes_no_clicks(qtbot, with_empty_slice) -> None:
    viewer, widget, layer, place, _ = with_empty_slice
    click(qtbot, widget, QPushButton, "click_add")
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    before = layer.data.copy()
    control = Qt.KeyboardModifier.ControlModifier
    press(qtbot, viewer, Qt.Key.Key_Return, control)
    assert "accepted" in row_text(rows(widget)[0])
    assert preview_is_hidden(widget)
    assert not child(widget, QPushButton, "click_add").isEnabled()
    press(qtbot, viewer, Qt.Key.Key_A)
    click_on(qtbot, viewer, place)
    qtbot.wait(200)
    assert preview_is_hidden(widget)
    np.testing.assert_array_equal(layer.data, before)


def test_gpu_that_fails_while_sam2_looks_is_said_and_the_cpu_answers(
    qtbot, make_napari_viewer, monkeypatch, notifications, segmenter
) -> None:
    from segone_napari.gui import correcting
    from segone_napari.gui.layers import image_layer_data
    from segone_napari.gui.widget import SegOneWidget

    from .conftest import BrightTeacher

    monkeypatch.setattr(correcting, "why_none", lambda source: "")
    made = []

    def load(source, device):
        made.append(device)
        teacher = BrightTeacher()
        if device != "cpu":
            teacher.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return teacher

    viewer = make_napari_viewer(show=True)
    data, arguments, _ = image_layer_data(head())
    viewer.add_image(data, **arguments)
    widget = SegOneWidget(viewer, lambda preset, device: segmenter, load)
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")
    ask_and_wait(qtbot, widget, "left ball")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    layer = viewer.layers["left ball"]
    at = viewer.dims.current_step[0]
    place = (at, *(int(n) for n in np.argwhere(layer.data[at]).mean(axis=0).round()))
    click(qtbot, widget, QPushButton, "click_add")
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    assert made == ["auto", "cpu"]
    assert any("GPU is full" in words for _, words in notifications)


def test_image_that_is_closed_takes_the_preview_with_it(qtbot, with_empty_slice) -> None:
    viewer, widget, _, place, _ = with_empty_slice
    click(qtbot, widget, QPushButton, "click_add")
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    viewer.layers.remove(viewer.layers["head.nii.gz"])
    qtbot.waitUntil(lambda: len(viewer.layers) == 0, timeout=5000)
    assert preview_is_hidden(widget)


def test_another_sam2_is_chosen_in_a_window_and_remembered(
    qtbot, make_napari_viewer, segmenter, tmp_path
) -> None:
    from segone_napari.gui.layers import image_layer_data
    from segone_napari.gui.widget import SegOneWidget

    from .conftest import BrightTeacher

    asked = []

    def load(source, device):
        asked.append(source)
        return BrightTeacher()

    def open_it():
        viewer = make_napari_viewer(show=True)
        data, arguments, _ = image_layer_data(head())
        viewer.add_image(data, **arguments)
        widget = SegOneWidget(viewer, lambda preset, device: segmenter, load)
        viewer.window.add_dock_widget(widget, name="SegOne", area="right")
        ask_and_wait(qtbot, widget, "left ball")
        qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
        return viewer, widget

    # 1. A pickle and a file that isn't there are refused in words.
    _, widget = open_it()
    click(qtbot, widget, QPushButton, "sam2_model")
    window = child(widget, QDialog, "teacher_window")
    line = child(window, QLineEdit, "teacher_source")
    problem = child(window, QLabel, "teacher_problem")
    take = child(window, QDialogButtonBox, "teacher_buttons").button(
        QDialogButtonBox.StandardButton.Ok
    )
    for wrong, words in (("sam2.1_hiera_tiny.pt", "pickle"), ("/no/such.safetensors", "no such")):
        line.setText(wrong)
        qtbot.mouseClick(take, Qt.MouseButton.LeftButton)
        assert window.isVisible()
        assert words.split()[-1] in problem.text()
    # 2. A folder is taken, asked at the next click, and taken again the next day.
    line.setText(str(tmp_path))
    qtbot.mouseClick(take, Qt.MouseButton.LeftButton)
    assert not window.isVisible()
    click(qtbot, widget, QPushButton, "click_add")
    qtbot.waitUntil(lambda: asked == [str(tmp_path)], timeout=PATIENCE_MS)
    _, tomorrow = open_it()
    click(qtbot, tomorrow, QPushButton, "click_add")
    qtbot.waitUntil(lambda: asked == [str(tmp_path)] * 2, timeout=PATIENCE_MS)


def test_cross_that_keys_move_clicks_and_boxes_without_a_mouse(qtbot, with_empty_slice) -> None:
    viewer, widget, layer, (at, row, column), truth = with_empty_slice
    control = Qt.KeyboardModifier.ControlModifier
    height, width = layer.data.shape[1:]

    def move(key, steps: int) -> None:
        for _ in range(steps // 10):
            press(qtbot, viewer, key, SHIFT, control)
        for _ in range(steps % 10):
            press(qtbot, viewer, key, SHIFT)

    def go_to(to_row: int, to_column: int, from_row: int, from_column: int) -> None:
        keys = Qt.Key
        move(keys.Key_Down if to_row > from_row else keys.Key_Up, abs(to_row - from_row))
        right = to_column > from_column
        move(keys.Key_Right if right else keys.Key_Left, abs(to_column - from_column))

    # 1. The cross begins in the middle of a slice without an outline; nothing is asked yet.
    press(qtbot, viewer, Qt.Key.Key_A)
    press(qtbot, viewer, Qt.Key.Key_Right, SHIFT)
    assert preview_is_hidden(widget)
    assert viewer.dims.current_step[0] == at
    assert viewer.layers["SAM2 preview"].data[at].any()
    # 2. X clicks, Enter takes: the whole way by keys.
    go_to(row, column, height // 2, width // 2)
    press(qtbot, viewer, Qt.Key.Key_X)
    wait_for_preview(qtbot, widget)
    press(qtbot, viewer, Qt.Key.Key_Return)
    np.testing.assert_array_equal(layer.data[at], truth)
    undo(qtbot, viewer)
    assert not layer.data[at].any()
    # 3. Two corners make a box.
    press(qtbot, viewer, Qt.Key.Key_R)
    go_to(row - 7, column - 7, row, column)
    press(qtbot, viewer, Qt.Key.Key_X)
    assert "opposite corner" in child(widget, QLabel, "status").text()
    go_to(row + 7, column + 7, row - 7, column - 7)
    press(qtbot, viewer, Qt.Key.Key_X)
    wait_for_preview(qtbot, widget)
    press(qtbot, viewer, Qt.Key.Key_Return)
    np.testing.assert_array_equal(layer.data[at], truth)
    # 4. With the tool the cross goes, and its keys are napari's again.
    press(qtbot, viewer, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: "SAM2 preview" not in viewer.layers, timeout=5000)
    before = viewer.dims.current_step[0]
    press(qtbot, viewer, Qt.Key.Key_Right)
    assert viewer.dims.current_step[0] == before + 1


def test_closed_panel_takes_preview_and_keys_of_its_tool_with_it(qtbot, with_empty_slice) -> None:
    viewer, widget, layer, place, _ = with_empty_slice
    press(qtbot, viewer, Qt.Key.Key_A)
    click_on(qtbot, viewer, place)
    wait_for_preview(qtbot, widget)
    before = layer.data.copy()
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: "SAM2 preview" not in viewer.layers, timeout=5000)
    for key in (Qt.Key.Key_Return, Qt.Key.Key_Escape, Qt.Key.Key_X):
        press(qtbot, viewer, key)
    np.testing.assert_array_equal(layer.data, before)
