"""The widget in a real viewer, used as a person would use it."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QWidget,
)

from segone_napari.gui.form import time_left
from segone_napari.gui.layers import image_layer_data, volume_of
from segone_napari.gui.rows import REPLACE, Row, Shown
from segone_napari.gui.widget import SegOneWidget
from segone_napari.gui.workers import NICENESS, give_way
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume

from .conftest import ThresholdSegmenter, head
from .hands import PATIENCE_MS, ask, ask_and_wait, canvas, child, is_idle, press, row_texts, rows


def labels_of(viewer) -> list[Labels]:
    return [layer for layer in viewer.layers if isinstance(layer, Labels)]


@pytest.fixture
def gate(segmenter):
    """Holds the work up until it is set."""
    segmenter.gate = threading.Event()
    yield segmenter.gate
    segmenter.gate.set()


def test_typed_prompts_become_layers_over_the_image(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    image, left, right = viewer.layers
    assert (left.name, right.name) == ("left ball", "right ball")
    for layer in (left, right):
        np.testing.assert_array_equal(layer.scale, image.scale)
        np.testing.assert_array_equal(layer.translate, image.translate)
        np.testing.assert_array_equal(layer.affine.affine_matrix, image.affine.affine_matrix)
        assert layer.units == image.units
        np.testing.assert_array_equal(layer.metadata["affine"], image.metadata["affine"])
    np.testing.assert_allclose(left.get_color(1)[:3], np.array([10, 200, 30]) / 255, atol=0.01)


def test_layer_has_the_voxels_that_the_session_answers(qtbot, open_widget) -> None:
    volume = head()
    viewer, widget = open_widget(volume)
    ask_and_wait(qtbot, widget, "left ball")
    (result,) = ThresholdSegmenter().segment(volume, ["left ball"])
    shown = volume_of_labels(viewer.layers["left ball"])
    np.testing.assert_array_equal(shown, result.mask.data)
    assert shown.sum() > 100


def volume_of_labels(layer) -> np.ndarray:
    from segone_napari.gui.layers import volume_from_attributes

    return volume_from_attributes(layer.data, {"metadata": layer.metadata, "name": layer.name}).data


def test_rows_say_millilitres_confidence_and_not_found(qtbot, open_widget) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; elephant")
    ball, elephant = row_texts(widget)
    voxels = ThresholdSegmenter().segment(head(), ["left ball"])[0].volume_ml
    assert "left ball" in ball
    assert f"{voxels:.2f} mL" in ball
    assert ".91" in ball
    assert "not found (.03)" in elephant
    assert "left ball" in elephant  # suggested


def test_suggestion_can_be_clicked(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "elephant")
    row = child(widget, QWidget, "row")
    child(row, QLabel, "note").linkActivated.emit("left ball")
    qtbot.waitUntil(lambda: "left ball" in viewer.layers, timeout=PATIENCE_MS)


def test_slice_on_screen_comes_first(qtbot, open_widget, segmenter, gate) -> None:
    viewer, widget = open_widget(head())
    viewer.dims.set_point(0, -3.5)
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(lambda: "left ball" in viewer.layers, timeout=PATIENCE_MS)
    layer = viewer.layers["left ball"]
    slices = np.flatnonzero(layer.data.any(axis=(1, 2)))
    assert slices.tolist() == [round(layer.world_to_data(viewer.dims.point)[0])]
    assert not is_idle(widget)
    gate.set()
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)
    assert len(labels_of(viewer)) == 1
    assert np.count_nonzero(viewer.layers["left ball"].data.any(axis=(1, 2))) > 5
    # The head is stored as RAS: an axial slice is a slice of the third array axis.
    assert segmenter.previewed[0][0] == 2


def test_window_stays_alive_while_working(qtbot, open_widget, segmenter, gate) -> None:
    _, widget = open_widget(head())
    ticks: list[int] = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(5)
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(lambda: segmenter.has_begun.is_set() and len(ticks) > 20, timeout=PATIENCE_MS)
    assert threading.get_ident() not in segmenter.threads
    timer.stop()
    gate.set()
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)


def test_progress_counts_the_steps_of_the_work(qtbot, open_widget, segmenter, gate) -> None:
    segmenter.steps = 7
    _, widget = open_widget(head())
    bar = child(widget, QProgressBar, "progress")
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(lambda: bar.maximum() == 7, timeout=PATIENCE_MS)
    assert bar.text() == "0 %"
    gate.set()
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)


def test_time_left_follows_the_pace() -> None:
    assert time_left((100.0, 2), 104.0, 4, 10) == " · 12 s left"
    assert time_left((100.0, 0), 160.0, 1, 10) == " · 9 min left"
    assert time_left((100.0, 2), 100.1, 2, 10) == ""


@pytest.mark.parametrize("by", ["button", "escape"])
def test_cancel_stops_the_work_and_takes_the_half_done_away(
    qtbot, open_widget, segmenter, gate, by
) -> None:
    viewer, widget = open_widget(head())
    viewer.dims.set_point(0, -3.5)
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(lambda: "left ball" in viewer.layers, timeout=PATIENCE_MS)
    qtbot.waitUntil(segmenter.has_begun.is_set, timeout=PATIENCE_MS)
    if by == "button":
        qtbot.mouseClick(child(widget, QPushButton, "cancel"), Qt.MouseButton.LeftButton)
    else:
        widget.window().activateWindow()
        child(widget, QLineEdit, "prompt").setFocus()
        qtbot.keyClick(child(widget, QLineEdit, "prompt"), Qt.Key.Key_Escape)
    assert is_idle(widget)
    assert segmenter.has_ended.wait(5)
    qtbot.waitUntil(lambda: not labels_of(viewer), timeout=PATIENCE_MS)
    assert row_texts(widget) == []
    gate.set()
    ask_and_wait(qtbot, widget, "right ball")
    assert [layer.name for layer in labels_of(viewer)] == ["right ball"]


def test_answer_is_dropped_when_the_image_is_removed(qtbot, open_widget, segmenter, gate) -> None:
    viewer, widget = open_widget(head())
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(segmenter.has_begun.is_set, timeout=PATIENCE_MS)
    viewer.layers.remove(viewer.layers["head.nii.gz"])
    gate.set()
    assert segmenter.has_ended.wait(5)
    qtbot.wait(100)
    assert len(viewer.layers) == 0
    # The memory of the image is given back.
    qtbot.waitUntil(lambda: segmenter.forgotten == segmenter.images, timeout=PATIENCE_MS)


def test_answer_is_dropped_when_another_image_is_chosen(
    qtbot, open_widget, segmenter, gate
) -> None:
    viewer, widget = open_widget(head())
    first = viewer.layers[0]
    other = viewer.add_image(np.asarray(first.data), name="other", metadata=first.metadata)
    viewer.layers.selection.active = first
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(segmenter.has_begun.is_set, timeout=PATIENCE_MS)
    viewer.layers.selection.active = other
    assert child(widget, QComboBox, "image").currentText() == "other"
    said = child(widget, QLabel, "status").text()
    assert "Stopped outlining “left ball” on head.nii.gz" in said
    gate.set()
    assert segmenter.has_ended.wait(5)
    qtbot.wait(100)
    assert not labels_of(viewer)


def test_what_was_not_found_stays_in_the_list_when_the_next_question_is_cancelled(
    qtbot, open_widget, segmenter, gate
) -> None:
    _, widget = open_widget(head())
    gate.set()
    ask_and_wait(qtbot, widget, "elephant")
    before = row_texts(widget)
    assert "elephant" in before[0]
    gate.clear()
    segmenter.has_begun.clear()
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(segmenter.has_begun.is_set, timeout=PATIENCE_MS)
    widget.cancel()
    assert row_texts(widget) == before
    gate.set()


def test_answer_is_dropped_when_the_image_gets_other_data(
    qtbot, open_widget, segmenter, gate
) -> None:
    viewer, widget = open_widget(head())
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(segmenter.has_begun.is_set, timeout=PATIENCE_MS)
    image = viewer.layers["head.nii.gz"]
    image.data = np.asarray(image.data)[::-1].copy()
    gate.set()
    assert segmenter.has_ended.wait(5)
    qtbot.wait(100)
    assert not labels_of(viewer)
    ask_and_wait(qtbot, widget, "left ball")
    assert segmenter.images[-1] is not segmenter.images[0]


def test_newer_prompt_replaces_the_one_that_runs(qtbot, open_widget, segmenter, gate) -> None:
    viewer, widget = open_widget(head())
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(segmenter.has_begun.is_set, timeout=PATIENCE_MS)
    gate.set()
    ask_and_wait(qtbot, widget, "right ball")
    assert [layer.name for layer in labels_of(viewer)] == ["right ball"]


def test_image_is_handed_over_as_the_same_volume_every_time(qtbot, open_widget, segmenter) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    ask_and_wait(qtbot, widget, "right ball")
    assert segmenter.images[0] is segmenter.images[1]


def test_same_prompt_again_updates_its_layer(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    ask_and_wait(qtbot, widget, "left ball")
    assert len(labels_of(viewer)) == 1
    assert len(row_texts(widget)) == 1


def test_strokes_of_a_person_are_replaced_only_when_they_say_so(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    layer = viewer.layers["left ball"]
    answered = layer.data.copy()
    layer.paint((2, 2, 2), 1)
    mine = layer.data.copy()
    ask_and_wait(qtbot, widget, "left ball")
    np.testing.assert_array_equal(layer.data, mine)
    (row,) = row_texts(widget)
    assert "corrected" in row
    assert "Your corrected outline was kept" in row
    child(widget, QLabel, "note").linkActivated.emit(REPLACE)
    qtbot.waitUntil(lambda: not (layer.data == mine).all(), timeout=PATIENCE_MS)
    np.testing.assert_array_equal(layer.data, answered)


@pytest.fixture
def slow_worker(open_widget):
    """A window with a row whose worker is busy, as with an export, until it is let go."""
    viewer, widget = open_widget(head())
    gate = threading.Event()
    yield viewer, widget, gate, lambda: widget._keeper.run(gate.wait)
    gate.set()


def until_the_answer_waits(qtbot, segmenter) -> None:
    qtbot.waitUntil(lambda: len(segmenter.asked) == 2, timeout=PATIENCE_MS)
    qtbot.wait(500)


def test_stroke_while_an_answer_waits_is_kept(qtbot, slow_worker, segmenter) -> None:
    viewer, widget, gate, hold = slow_worker
    ask_and_wait(qtbot, widget, "left ball")
    child(widget, QComboBox, "preset").setCurrentIndex(2)  # a row that is made otherwise
    hold()
    ask(qtbot, widget, "left ball")
    until_the_answer_waits(qtbot, segmenter)
    layer = viewer.layers["left ball"]
    layer.data_setitem((np.full(20, 9), np.full(20, 5), np.arange(5, 25)), 1)
    gate.set()
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)
    assert np.asarray(layer.data)[9, 5, 5:25].all()
    assert "Your corrected outline was kept" in row_texts(widget)[0]


def test_row_accepted_while_an_answer_waits_stays_and_the_others_come(
    qtbot, slow_worker, segmenter, notifications
) -> None:
    _, widget, gate, hold = slow_worker
    ask_and_wait(qtbot, widget, "left ball")
    hold()
    ask(qtbot, widget, "left ball; right ball")
    until_the_answer_waits(qtbot, segmenter)
    widget._work.set_state(widget._work.rows[0].id, "accepted")
    gate.set()
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)
    assert [row.name for row in widget._work.rows] == ["left ball", "right ball"]
    assert any("accepted and was kept" in words for _, words in notifications)


def test_answer_that_is_cancelled_while_it_waits_changes_nothing(
    qtbot, slow_worker, segmenter
) -> None:
    _, widget, gate, hold = slow_worker
    ask_and_wait(qtbot, widget, "left ball")
    hold()
    ask(qtbot, widget, "right ball")
    until_the_answer_waits(qtbot, segmenter)
    widget.cancel()
    gate.set()
    ask_and_wait(qtbot, widget, "left ball")
    assert [row.name for row in widget._work.rows] == ["left ball"]


@pytest.mark.parametrize("end", ["cancel", "ask"])
def test_rows_stay_where_the_question_ends_while_their_layers_come(qtbot, open_widget, end) -> None:
    viewer, widget = open_widget(head())
    names = ["balls", "left ball", "right ball", "big balls", "small balls"]
    ask(qtbot, widget, "; ".join(names))
    qtbot.waitUntil(lambda: bool(widget._work and widget._work.rows), timeout=PATIENCE_MS)
    assert widget.is_working
    if end == "cancel":
        widget.cancel()
    else:
        ask_and_wait(qtbot, widget, "tail")
    qtbot.waitUntil(lambda: len(viewer.layers) == 6, timeout=PATIENCE_MS)
    qtbot.wait(300)
    assert [row.name for row in widget._work.rows] == names
    assert widget._work.history.undo_count == 1


def test_what_was_refused_is_there_after_a_look_at_another_image(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    image = viewer.layers["head.nii.gz"]
    data, arguments, _ = image_layer_data(head())
    other = viewer.add_image(data[::-1], **arguments | {"name": "other"})
    viewer.layers.selection.active = image
    ask(qtbot, widget, "left ball; right ball; tail")
    qtbot.waitUntil(lambda: bool(widget._work and widget._work.rows), timeout=PATIENCE_MS)
    viewer.layers.selection.active = other
    qtbot.wait(300)
    viewer.layers.selection.active = image
    assert any("tail" in text and "not found" in text for text in row_texts(widget))


def test_image_whose_row_has_no_layer_doesn_t_take_the_panel(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    image = viewer.layers["head.nii.gz"]
    ask_and_wait(qtbot, widget, "left ball")
    widget._work.set_state(widget._work.rows[0].id, "accepted")
    viewer.layers.remove(viewer.layers["left ball"])  # the row stays, since it is accepted
    qtbot.wait(100)
    assert widget._work.row_of(None) is None
    data, arguments, _ = image_layer_data(head())
    other = viewer.add_image(data[::-1], **arguments | {"name": "other"})
    ask_and_wait(qtbot, widget, "right ball")
    viewer.layers.selection.clear()
    assert child(widget, QComboBox, "image").currentText() == "other"
    assert [row.name for row in widget._work.rows] == ["right ball"]
    viewer.layers.selection.active = image
    viewer.layers.selection.active = other
    assert "right ball" in viewer.layers


def test_results_that_cant_be_shown_are_told(qtbot, open_widget, segmenter, notifications) -> None:
    volume = head()
    _, widget = open_widget(volume)
    (result,) = segmenter.segment(volume, ["left ball"])
    widget.show_results([replace(result, probability=np.zeros((2, 2, 2), np.float16))])
    qtbot.waitUntil(lambda: not widget.is_working, timeout=PATIENCE_MS)
    assert notifications


def test_chooser_follows_the_order_of_the_layers(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    viewer.add_image(np.random.default_rng(0).random((8, 9, 10)), name="other")
    viewer.layers.move(1, 0)
    chooser = child(widget, QComboBox, "image")
    assert [chooser.itemText(n) for n in range(2)] == ["other", "head.nii.gz"]


def test_layer_of_the_same_name_that_is_not_ours_is_left_alone(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    theirs = viewer.add_labels(np.ones(viewer.layers[0].data.shape, np.uint8), name="left ball")
    ask_and_wait(qtbot, widget, "left ball")
    assert (theirs.data == 1).all()
    assert len(labels_of(viewer)) == 2


def test_click_on_a_row_selects_its_layer_and_goes_to_it(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    viewer.dims.set_point(0, -13)
    row = child(widget, QWidget, "results").findChildren(QWidget, "row")[0]
    qtbot.mouseClick(row, Qt.MouseButton.LeftButton)
    layer = viewer.layers["left ball"]
    assert viewer.layers.selection.active is layer
    index = round(layer.world_to_data(viewer.dims.point)[0])
    counts = layer.data.sum(axis=(1, 2))
    assert counts[index] == counts.max()


def test_row_hides_and_shows_its_layer(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    eye = child(widget, QWidget, "show")
    qtbot.mouseClick(eye, Qt.MouseButton.LeftButton)
    assert not viewer.layers["left ball"].visible
    viewer.layers["left ball"].visible = True
    assert eye.isChecked()


def test_row_goes_when_its_layer_is_deleted(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    viewer.layers.remove(viewer.layers["left ball"])
    qtbot.waitUntil(lambda: len(rows(widget)) == 1, timeout=PATIENCE_MS)
    (left_over,) = row_texts(widget)
    assert "right ball" in left_over


@pytest.mark.parametrize("is_panel_closed", [False, True])
def test_nothing_is_read_from_the_arrays_of_a_layer_that_has_gone(
    qtbot, open_widget, is_panel_closed
) -> None:
    """Else the next click on the canvas, which draws out of sight, can end the program."""
    from vispy.gloo import gl

    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    if is_panel_closed:
        close_panel(qtbot, viewer, widget)
    enabled = []

    def look(event) -> None:
        canvas(viewer).makeCurrent()
        which = gl.GL_VERTEX_ATTRIB_ARRAY_ENABLED
        enabled.append([int(gl.glGetVertexAttrib(n, which)) for n in range(8)])

    viewer.screenshot(canvas_only=True, flash=False)
    look(None)
    viewer.layers.events.removed.connect(look)
    viewer.layers.remove(viewer.layers["left ball"])
    assert any(enabled[0])
    assert not any(enabled[1])


def test_outline_that_is_elsewhere_is_brought_into_view(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    viewer.dims.set_point(0, -13)
    ask_and_wait(qtbot, widget, "left ball")
    layer = viewer.layers["left ball"]
    assert layer.data[round(layer.world_to_data(viewer.dims.point)[0])].any()


def test_header_says_spacing_orientation_and_side(qtbot, open_widget) -> None:
    _, widget = open_widget(head())
    header = child(widget, QLabel, "header")
    assert "1 × 1 × 1 mm · RAS" in header.text()
    assert "left is on the right" in child(widget, QLabel, "sides").text()
    assert child(widget, QLabel, "warning").isHidden()
    qtbot.waitUntil(lambda: header.text().endswith("\u00a0GB"), timeout=PATIENCE_MS)


def test_letters_on_the_canvas_follow_the_axes(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    assert {k: o.text for k, o in letters(viewer).items()} == {
        "top": "A", "bottom": "P", "left": "R", "right": "L",
    }  # fmt: skip
    viewer.dims.order = (2, 0, 1)
    assert letters(viewer)["left"].text == "A"
    assert "front on the left" in child(widget, QLabel, "sides").text()


def letters(viewer):
    overlays = viewer.canvas.overlays
    return {edge: overlays[f"segone_{edge}"] for edge in ("top", "bottom", "left", "right")}


def test_unknown_sides_are_said_and_never_guessed_silently(qtbot, open_widget) -> None:
    viewer, widget = open_widget()
    viewer.add_image(np.random.default_rng(0).random((8, 9, 10)), name="array")
    warning = child(widget, QLabel, "warning")
    assert not warning.isHidden()
    assert "NOT KNOWN" in warning.text()
    assert letters(viewer)["right"].text == "L?"


def test_bad_layer_is_told_and_the_program_goes_on(qtbot, open_widget, notifications) -> None:
    viewer, widget = open_widget()
    for shape, options, words in (
        ((8, 9), {}, "2 dimensions"),
        ((3, 8, 9, 10), {}, "4 dimensions"),
        ((8, 9, 10, 3), {"rgb": True}, "RGB"),
    ):
        viewer.layers.clear()
        viewer.add_image(np.random.default_rng(0).random(shape), **options)
        ask(qtbot, widget, "left ball")
        assert any("error" in kind and words in told for kind, told in notifications)
    array, arguments, _ = image_layer_data(head())
    viewer.add_image(array, **arguments)
    ask_and_wait(qtbot, widget, "left ball")
    assert "left ball" in viewer.layers


def test_empty_prompt_is_told(qtbot, open_widget, notifications) -> None:
    _, widget = open_widget(head())
    for text in ("", " ; "):
        notifications.clear()
        ask(qtbot, widget, text)
        assert any("prompt is empty" in told for _, told in notifications)


def test_prompt_without_an_image_is_told(qtbot, open_widget, notifications) -> None:
    _, widget = open_widget()
    ask(qtbot, widget, "left ball")
    assert any("open an MRI" in told for _, told in notifications)


def test_error_of_the_work_is_told_and_the_program_goes_on(
    qtbot, open_widget, segmenter, notifications
) -> None:
    viewer, widget = open_widget(head())
    for error, words in (
        (BadInput("mend it like this"), "Mend it like this"),
        (RuntimeError("boom"), "boom"),
    ):
        segmenter.error = error
        ask_and_wait(qtbot, widget, "left ball")
        assert any("error" in kind and words in told for kind, told in notifications)
        qtbot.waitUntil(lambda: not labels_of(viewer), timeout=PATIENCE_MS)
    segmenter.error = None
    ask_and_wait(qtbot, widget, "left ball")
    assert "left ball" in viewer.layers


def test_completion_fills_in_the_last_of_several_prompts(qtbot, open_widget) -> None:
    _, widget = open_widget(head())
    line = child(widget, QLineEdit, "prompt")
    qtbot.keyClicks(line, "brainstem; left hippoc")
    assert line.completer().currentCompletion() == "brainstem; left hippocampus"


def test_every_control_has_a_name_for_scripts_and_one_for_screen_readers(open_widget) -> None:
    _, widget = open_widget(head())
    for kind, name in [
        (QComboBox, "image"), (QLabel, "header"), (QLabel, "sides"), (QLabel, "warning"),
        (QLineEdit, "prompt"), (QPushButton, "segment"), (QComboBox, "preset"),
        (QProgressBar, "progress"), (QPushButton, "cancel"), (QLabel, "status"),
        (QWidget, "results"),
    ]:  # fmt: skip
        assert child(widget, kind, name).accessibleName()
    for kind in (QPushButton, QComboBox, QLineEdit):
        for control in widget.findChildren(kind):
            assert control.objectName()
            assert control.toolTip()
    for button in widget.findChildren(QAbstractButton):
        assert button.accessibleName() or button.text() or not button.isVisible()


def test_preset_is_the_one_that_the_session_is_made_with(
    qtbot, make_napari_viewer, segmenter
) -> None:
    from segone_napari.gui.layers import image_layer_data
    from segone_napari.gui.widget import SegOneWidget

    made: list[str] = []
    viewer = make_napari_viewer(show=True)
    data, arguments, _ = image_layer_data(head())
    viewer.add_image(data, **arguments)

    def make(preset, device):
        made.append(preset)
        return segmenter

    widget = SegOneWidget(viewer, make_session=make)
    viewer.window.add_dock_widget(widget, name="SegOne")
    qtbot.waitUntil(lambda: made == ["balanced"], timeout=PATIENCE_MS)  # before it is asked
    ask_and_wait(qtbot, widget, "left ball")
    ask_and_wait(qtbot, widget, "right ball")
    child(widget, QComboBox, "preset").setCurrentText("Fast")
    ask_and_wait(qtbot, widget, "left ball")
    assert made == ["balanced", "fast"]


def test_model_that_cant_be_loaded_is_told_when_it_is_asked(
    qtbot, make_napari_viewer, segmenter
) -> None:
    from segone_napari.gui.layers import image_layer_data
    from segone_napari.gui.widget import SegOneWidget

    tries: list[str] = []
    viewer = make_napari_viewer(show=True)
    data, arguments, _ = image_layer_data(head())
    viewer.add_image(data, **arguments)

    def make(preset, device):
        tries.append(preset)
        raise BadInput("the checkpoint is damaged; copy it anew")

    widget = SegOneWidget(viewer, make_session=make)
    viewer.window.add_dock_widget(widget, name="SegOne")
    qtbot.waitUntil(lambda: len(tries) == 1, timeout=PATIENCE_MS)
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(lambda: not widget.is_working, timeout=PATIENCE_MS)
    assert "The checkpoint is damaged" in child(widget, QLabel, "status").text()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
def test_work_waits_where_the_window_needs_the_processor() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = priority()
    with ThreadPoolExecutor(max_workers=1, initializer=give_way) as pool:
        assert pool.submit(priority).result() == max(own, NICENESS)
    assert priority() == own


def test_light_and_dark_theme_both_have_readable_text(open_widget) -> None:
    viewer, widget = open_widget(head())
    sheets = []
    for theme in ("dark", "light"):
        viewer.theme = theme
        sheets.append(widget.styleSheet())
    assert sheets[0] != sheets[1]
    assert "theme_light" in sheets[1]


def close_panel(qtbot, viewer, widget) -> None:
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: "segone_left" not in viewer.canvas.overlays, timeout=PATIENCE_MS)


def test_closing_the_dock_leaves_a_viewer_that_works(qtbot, open_widget, segmenter, gate) -> None:
    viewer, widget = open_widget(head())
    ask(qtbot, widget, "left ball")
    qtbot.waitUntil(segmenter.has_begun.is_set, timeout=PATIENCE_MS)
    close_panel(qtbot, viewer, widget)
    assert segmenter.has_ended.wait(5)
    viewer.add_image(np.random.default_rng(0).random((8, 9, 10)))
    viewer.dims.order = (1, 0, 2)
    viewer.theme = "light"


def test_panel_that_is_opened_while_another_goes_keeps_its_keys(qtbot, open_widget) -> None:
    viewer, former = open_widget(head())
    before = str(viewer.keymap.get(coerce_keybinding("K")))
    viewer.window.remove_dock_widget(former)
    widget = SegOneWidget(viewer)  # the former one goes in the next turn
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")
    former.deleteLater()
    qtbot.wait(200)
    assert str(viewer.keymap.get(coerce_keybinding("K"))) not in (before, "None")
    press(qtbot, viewer, Qt.Key.Key_K)
    assert "Select a structure first" in child(widget, QLabel, "status").text()
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: coerce_keybinding("K") not in viewer.keymap, timeout=PATIENCE_MS)


def test_links_of_rows_follow_the_theme(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    viewer.theme = "dark"
    ask_and_wait(qtbot, widget, "elephant")
    note = child(rows(widget)[0], QLabel, "note")
    dark = note.text()
    viewer.theme = "light"
    assert note.text() != dark


def test_image_that_another_one_hides_says_so(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    other = viewer.add_image(np.random.default_rng(0).random((30, 34, 32)), name="other")
    warning = child(widget, QLabel, "warning")
    assert "lies over" not in warning.text()  # the one on top was chosen
    viewer.layers.selection.active = viewer.layers["head.nii.gz"]
    assert "'other' lies over this image" in warning.text()
    other.visible = False
    assert "lies over" not in warning.text()
    other.visible = True
    viewer.layers.move(1, 0)
    assert "lies over" not in warning.text()


def test_volume_of_a_layer_is_the_file_s_own(open_widget) -> None:
    volume = head()
    viewer, _ = open_widget(volume)
    np.testing.assert_array_equal(volume_of(viewer.layers[0]).data, volume.data)


def test_name_chosen_from_the_list_is_filled_in_and_asked_by_the_next_enter(
    qtbot, open_widget, segmenter
) -> None:
    _, widget = open_widget(head())
    line = child(widget, QLineEdit, "prompt")
    widget.window().activateWindow()
    line.setFocus()
    qtbot.waitUntil(line.hasFocus, timeout=PATIENCE_MS)
    qtbot.keyClicks(line, "right ball; left hippoc")
    popup = line.completer().popup()
    qtbot.waitUntil(popup.isVisible, timeout=PATIENCE_MS)
    qtbot.keyClick(popup, Qt.Key.Key_Down)
    qtbot.keyClick(popup, Qt.Key.Key_Return)
    assert line.text() == "right ball; left hippocampus"
    assert not popup.isVisible()
    assert is_idle(widget)
    qtbot.keyClick(line, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: bool(segmenter.asked) and is_idle(widget), timeout=PATIENCE_MS)
    assert segmenter.asked == [("right ball", "left hippocampus")]


def test_enter_while_the_list_is_open_asks_what_was_typed(qtbot, open_widget, segmenter) -> None:
    _, widget = open_widget(head())
    line = child(widget, QLineEdit, "prompt")
    qtbot.keyClicks(line, "left hippoc")
    popup = line.completer().popup()
    qtbot.waitUntil(popup.isVisible, timeout=PATIENCE_MS)
    qtbot.keyClick(popup, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: bool(segmenter.asked) and is_idle(widget), timeout=PATIENCE_MS)
    assert segmenter.asked == [("left hippoc",)]
    assert not popup.isVisible()


def test_warning_about_the_side_is_told_and_stands_in_its_row(
    qtbot, open_widget, segmenter, notifications, monkeypatch
) -> None:
    words = "the left ball lies on the other side of the brain's middle; check it"
    answer = segmenter._answer

    def doubtful(*values: Any) -> Any:
        result = answer(*values)
        return replace(result, warnings=(words,)) if result.side == "left" else result

    monkeypatch.setattr(segmenter, "_answer", doubtful)
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    left, right = row_texts(widget)
    assert f"⚠ {words}".replace("'", "&#x27;") in left
    assert "⚠" not in right
    assert ("warning", f"left ball: {words}") in notifications


def test_header_that_names_two_sides_is_warned_of_in_the_panel(
    qtbot, open_widget, tmp_path
) -> None:
    image = nib.Nifti1Image(head().data, head().affine)
    image.set_qform(head().affine, 1)
    image.set_sform(np.diag([-1.0, 1.0, 1.0, 1.0]) @ head().affine, 1)
    nib.save(image, tmp_path / "two_sides.nii.gz")
    viewer, widget = open_widget()
    viewer.open(str(tmp_path / "two_sides.nii.gz"), plugin="segone-napari")
    warning = child(widget, QLabel, "warning")
    qtbot.waitUntil(warning.isVisible, timeout=PATIENCE_MS)
    assert "sform and qform" in warning.text()
    assert "disagree" in warning.text()


def test_two_windows_work_at_once_and_keep_their_rows_apart(qtbot, open_widget) -> None:
    first, one = open_widget(head())
    other_head = Volume.from_affine(head().data * 1.5, head().affine, "other.nii.gz")
    second, other = open_widget(other_head)
    ask(qtbot, one, "left ball")
    ask(qtbot, other, "right ball; balls")
    qtbot.waitUntil(lambda: is_idle(one) and is_idle(other), timeout=PATIENCE_MS)
    assert [layer.name for layer in first.layers] == ["head.nii.gz", "left ball"]
    assert [layer.name for layer in second.layers] == ["other.nii.gz", "right ball", "balls"]
    assert len(row_texts(one)) == 1
    assert len(row_texts(other)) == 2
    assert child(one, QLabel, "not_saved").isHidden()
    assert child(other, QLabel, "not_saved").isHidden()


def test_file_that_was_deleted_meanwhile_is_told_with_what_to_do(
    qtbot, open_widget, segmenter, notifications
) -> None:
    _, widget = open_widget(head())
    segmenter.error = FileNotFoundError(2, "No such file or directory")
    ask_and_wait(qtbot, widget, "left ball")
    words = "'head.nii.gz' can't be read any more (No such file or directory); open it again"
    assert child(widget, QLabel, "status").text() == words
    assert ("error", words) in notifications
    segmenter.error = None
    ask_and_wait(qtbot, widget, "left ball")
    assert "left ball" in row_texts(widget)[0]


def test_row_repeats_a_description_but_not_a_name(qtbot) -> None:
    row = Row("")
    qtbot.addWidget(row)
    for prompt, is_repeated in (("where the eye nerves cross", True), ("chiasma opticum", False)):
        row.show_result(Shown("optic chiasm", prompt, "draft", row_id=1), "#ffffff")
        assert (prompt in child(row, QLabel, "note").text()) == is_repeated
