"""Seeing doubt, and the rest of the rows: not found, show anyway, history, keys, preferences."""

from html import escape
from itertools import pairwise

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolButton,
    QWidget,
)

from segone_napari.gui.doubt import next_doubtful
from segone_napari.gui.layers import image_layer_data
from segone_napari.gui.shortcuts import OF_NAPARI, OF_THE_PANEL, OF_THE_PREVIEW, OURS
from segone_napari.gui.widget import SegOneWidget

from ..fakes import ThresholdSystem
from ..fakes import head as four_balls
from .conftest import ThresholdSegmenter, head
from .hands import (
    PATIENCE_MS,
    ask,
    ask_and_wait,
    child,
    click,
    drag,
    is_idle,
    press,
    redo,
    row_text,
    row_texts,
    rows,
    undo,
)


class Doubtful:
    """`ThresholdSystem` as a session: its results have an uncertainty."""

    def __init__(self):
        self.system = ThresholdSystem()

    def segment(self, image, prompts, *, progress):
        return self.system.segment(self.system.encode(image, progress=progress), prompts)

    def preview(self, image, prompts, axis, index, *, progress):
        return []

    def forget(self, image=None):
        pass


@pytest.fixture
def open_doubtful(make_napari_viewer):
    def open_it(make_session=lambda preset, device: Doubtful(), volume=None):
        viewer = make_napari_viewer(show=True)
        data, arguments, _ = image_layer_data(volume or four_balls())
        viewer.add_image(data, **arguments)
        widget = SegOneWidget(viewer, make_session=make_session)
        viewer.window.add_dock_widget(widget, name="SegOne", area="right")
        return viewer, widget

    return open_it


def test_next_doubtful_is_the_one_that_a_look_gains_most_from() -> None:
    doubt = np.array([0, 1, 9, 8, 1, 0, 0, 0, 5, 6, 5, 0, 0.1, 0])
    seen: list[int] = []
    while (index := next_doubtful(doubt, seen)) is not None:
        seen.append(index)
    assert seen == [2, 9]  # what is near is settled too; what hardly matters is left out


def test_n_goes_from_one_doubtful_slice_to_the_next(qtbot, open_doubtful) -> None:
    viewer, widget = open_doubtful()
    assert not child(widget, QPushButton, "next_doubtful").isEnabled()
    ask_and_wait(qtbot, widget, "left hippocampus; right amygdala")
    results = Doubtful().segment(four_balls(), ["left hippocampus", "right amygdala"],
                                 progress=lambda done, total: None)  # fmt: skip
    stored = np.zeros(results[0].grid.shape)
    for result in results:
        stored[result.box] += result.uncertainty
    doubt = stored.sum(axis=(0, 1))[::-1]  # RAS: axial slices from the head down
    places = []
    for _ in range(3):
        press(qtbot, viewer, Qt.Key.Key_N)
        places.append(viewer.dims.current_step[0])
    assert places[0] == doubt.argmax()
    assert len(set(places)) == 3
    assert all(abs(a - b) > 2 for a, b in pairwise(places))
    assert "most doubtful" in child(widget, QLabel, "status").text()


def test_uncertainty_is_shown_over_the_image_and_nothing_else_changes(qtbot, open_doubtful) -> None:
    viewer, widget = open_doubtful()
    ask_and_wait(qtbot, widget, "left hippocampus")
    active = viewer.layers.selection.active
    box = child(widget, QCheckBox, "uncertainty")
    box.click()
    assert box.isChecked()
    qtbot.waitUntil(lambda: "uncertainty" in viewer.layers, timeout=PATIENCE_MS)
    shown = viewer.layers["uncertainty"]
    qtbot.waitUntil(lambda: shown.visible, timeout=PATIENCE_MS)
    assert isinstance(shown, Image)
    np.testing.assert_array_equal(shown.extent.world, viewer.layers[0].extent.world)
    assert float(np.max(shown.data)) > 0.05
    assert viewer.layers.selection.active is active
    assert child(widget, QComboBox, "image").count() == 1
    box.click()
    assert not shown.visible


class SureOfNothing(ThresholdSegmenter):
    """Finds the ball, and judges that it isn't there."""

    def _answer(self, image, prompt, box=None):
        from dataclasses import replace

        return replace(super()._answer(image, prompt, box), found=False, confidence=0.03)


def test_what_was_not_found_can_be_shown_anyway_and_undone(qtbot, open_doubtful) -> None:
    viewer, widget = open_doubtful(lambda preset, device: SureOfNothing(), head())
    ask_and_wait(qtbot, widget, "left ball")
    assert "not found (.03)" in row_texts(widget)[0]
    assert "left ball" not in viewer.layers
    viewer.dims.set_point(0, -13)
    click(qtbot, widget, QPushButton, "show_anyway")
    qtbot.waitUntil(lambda: "left ball" in viewer.layers, timeout=PATIENCE_MS)
    layer = viewer.layers["left ball"]
    qtbot.waitUntil(
        lambda: layer.data[round(float(layer.world_to_data(viewer.dims.point)[0]))].any(),
        timeout=PATIENCE_MS,
    )
    assert viewer.layers["left ball"].data.sum() > 100
    assert "draft" in row_texts(widget)[0]
    undo(qtbot, viewer)
    qtbot.waitUntil(lambda: "left ball" not in viewer.layers, timeout=PATIENCE_MS)
    assert "not found" in row_texts(widget)[0]
    redo(qtbot, viewer)
    qtbot.waitUntil(lambda: "left ball" in viewer.layers, timeout=PATIENCE_MS)


def test_arrow_keys_bring_former_prompts_back_also_the_next_day(
    qtbot, open_widget, segmenter
) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    ask_and_wait(qtbot, widget, "right ball")
    _, tomorrow = open_widget(head())
    for panel in (widget, tomorrow):
        line = child(panel, QLineEdit, "prompt")
        line.clear()
        for expected in ("right ball", "left ball", "left ball"):
            qtbot.keyClick(line, Qt.Key.Key_Up)
            assert line.text() == expected
        qtbot.keyClick(line, Qt.Key.Key_Down)
        qtbot.keyClick(line, Qt.Key.Key_Down)
        assert line.text() == ""


def test_preset_is_remembered(qtbot, open_widget) -> None:
    _, widget = open_widget(head())
    presets = child(widget, QComboBox, "preset")
    presets.setCurrentText("Best")
    presets.activated.emit(presets.currentIndex())
    _, tomorrow = open_widget(head())
    assert child(tomorrow, QComboBox, "preset").currentText() == "Best"


def test_keyboard_alone_is_enough(qtbot, open_widget) -> None:
    """Ask, go through the rows, hide, accept, remove: no mouse."""
    viewer, widget = open_widget(head())
    widget.window().activateWindow()
    press(qtbot, viewer, Qt.Key.Key_L, Qt.KeyboardModifier.ControlModifier)
    line = child(widget, QLineEdit, "prompt")
    qtbot.waitUntil(line.hasFocus, timeout=PATIENCE_MS)
    ask_and_wait(qtbot, widget, "left ball; right ball")
    qtbot.waitUntil(lambda: rows(widget)[1].isVisible(), timeout=PATIENCE_MS)
    reached = []
    for _ in range(40):
        qtbot.keyClick(widget.window().focusWidget(), Qt.Key.Key_Tab)
        focused = widget.window().focusWidget()
        reached.append(focused.objectName())
        if focused.objectName() == "show":
            qtbot.keyClick(focused, Qt.Key.Key_Space)
            break
    assert "row" in reached
    assert not viewer.layers["left ball"].visible
    row = rows(widget)[1]
    row.setFocus()
    qtbot.keyClick(row, Qt.Key.Key_Return)
    assert viewer.layers.selection.active.name == "right ball"
    qtbot.keyClick(row, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert "accepted" in row_text(rows(widget)[1])


def test_every_button_says_what_it_does_to_eyes_and_screen_readers(qtbot, open_widget) -> None:
    _, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    buttons = [one for one in widget.findChildren(QAbstractButton) if one.isVisibleTo(widget)]
    ours = [one for one in buttons if one.objectName() and not one.objectName().startswith("qt_")]
    assert len(ours) > 12
    for button in ours:
        assert button.accessibleName() or button.text(), button.objectName()
        assert button.toolTip() or button.objectName() == "uncertainty", button.objectName()
    assert "left ball" in child(rows(widget)[0], QToolButton, "show").accessibleName()
    assert "millilitres" in rows(widget)[0].accessibleName()


def test_letters_and_millimetres_are_always_on_the_canvas(qtbot, open_widget) -> None:
    viewer, _ = open_widget(head())
    scale = viewer.canvas.overlays["segone_scale"]
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        viewer.dims.order = order
        assert scale.visible
        assert viewer.canvas.overlays["segone_left"].text in ("R", "A")
    assert not viewer.canvas.overlays.scale_bar.visible  # the person's own is left alone


def test_panel_fits_a_small_screen(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    viewer.window.resize(1280, 800)
    ask_and_wait(qtbot, widget, "left ball; right ball; elephant")
    qtbot.wait(200)
    assert viewer.window._qt_window.height() <= 800
    assert viewer.window._qt_window.width() <= 1280
    for name in ("prompt", "undo", "interpolate", "next_doubtful", "export", "image"):
        part = child(widget, QWidget, name)
        assert part.visibleRegion().boundingRect().size() == part.size(), name
        assert part.width() >= part.minimumSizeHint().width(), name


def test_cheat_sheet_lists_every_key(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    press(qtbot, viewer, Qt.Key.Key_F1)
    sheet = child(widget, QWidget, "cheat_sheet_window")
    words = "".join(label.text() for label in sheet.findChildren(QLabel))
    for shortcut in (*OURS, *OF_NAPARI, *OF_THE_PREVIEW, *OF_THE_PANEL):
        assert f"<b>{escape(shortcut.qt_key)}</b>" in words
        assert escape(shortcut.words) in words
    assert sheet.height() <= 800 / 1.5  # a small screen at 150 %
    assert sheet.width() <= 1280 / 1.5
    sheet.close()


class FailingOnGpu(ThresholdSegmenter):
    def segment(self, image, prompts, *, progress):
        raise RuntimeError("CUDA error: device-side assert; the device was lost")


def test_gpu_that_disappears_is_said_and_the_cpu_answers(
    qtbot, open_doubtful, notifications
) -> None:
    made = []

    def make(preset, device):
        made.append(device)
        return ThresholdSegmenter() if device == "cpu" else FailingOnGpu()

    viewer, widget = open_doubtful(make, head())
    ask_and_wait(qtbot, widget, "left ball")
    assert "left ball" in viewer.layers
    assert made == ["auto", "cpu"]
    assert any("works on the CPU" in words for _, words in notifications)
    assert "GPU failed" in child(widget, QLabel, "header").text()


def test_too_little_memory_says_what_to_close(qtbot, open_widget, segmenter, notifications) -> None:
    viewer, widget = open_widget(head())
    segmenter.error = MemoryError("Unable to allocate 178 GiB")
    ask_and_wait(qtbot, widget, "left ball")
    assert any("close other images" in words for _, words in notifications)
    segmenter.error = None
    ask_and_wait(qtbot, widget, "left ball")
    assert "left ball" in viewer.layers


def test_two_images_keep_their_rows_apart(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    data, arguments, _ = image_layer_data(head())
    ask_and_wait(qtbot, widget, "left ball")
    other = viewer.add_image(data[::-1], **arguments | {"name": "other"})
    assert row_texts(widget) == []
    ask_and_wait(qtbot, widget, "right ball")
    viewer.layers.selection.active = viewer.layers["right ball"]
    viewer.layers["right ball"].mode = "paint"
    at = viewer.dims.current_step[0]
    drag(qtbot, viewer, (at, 4, 10), (at, 4, 20))
    viewer.layers.selection.active = viewer.layers["head.nii.gz"]
    assert "left ball" in row_texts(widget)[0]
    assert child(widget, QPushButton, "undo").text() == "Undo 1"
    viewer.layers.selection.active = other
    assert "right ball" in row_texts(widget)[0]
    assert child(widget, QPushButton, "undo").text() == "Undo 2"


def test_asking_about_an_image_with_earlier_work_goes_on_with_it(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    image = viewer.layers["head.nii.gz"]
    viewer.layers.remove(image)
    viewer.add_layer(image)
    ask(qtbot, widget, "right ball")
    qtbot.waitUntil(lambda: is_idle(widget) and len(rows(widget)) == 2, timeout=PATIENCE_MS)
    assert {layer.name for layer in viewer.layers} == {"head.nii.gz", "left ball", "right ball"}


def boxes(viewer) -> dict[str, tuple]:
    """Whether napari draws a box behind each of our overlays, how large it is, and its colour."""
    canvas = viewer.window._qt_viewer.canvas
    drawn = {}
    for name, overlay in viewer.canvas.overlays.items():
        if name.startswith("segone_"):
            (visual,) = canvas._viewer_overlay_to_visual[overlay]
            box = visual.box
            size = round(float(box.width), 3), round(float(box.height), 3)
            drawn[name] = box.parent is not None, size, tuple(np.round(box.color.rgba, 3))
    return drawn


def test_boxes_behind_the_letters_are_built_when_they_change_and_only_then(
    qtbot, open_widget, monkeypatch
) -> None:
    from napari._vispy.overlays.base import VispyCanvasOverlay

    viewer, _ = open_widget(head())
    qtbot.wait(50)
    built = []
    build = VispyCanvasOverlay._on_box_change

    def counted(visual) -> None:
        built.append(visual.overlay)
        build(visual)

    before = boxes(viewer)
    assert len(before) == 5
    assert all(is_there for is_there, _, _ in before.values())
    monkeypatch.setattr(VispyCanvasOverlay, "_on_box_change", counted)
    viewer.add_labels(np.zeros((4, 4, 4), dtype=np.uint8))
    viewer.layers.selection.active.mode = "paint"
    qtbot.wait(50)
    ours = [o for n, o in viewer.canvas.overlays.items() if n.startswith("segone_")]
    assert not any(overlay in ours for overlay in built)
    assert boxes(viewer) == before
    # another theme gives the boxes another colour, other letters another size
    viewer.theme = "light"
    qtbot.wait(50)
    assert all(boxes(viewer)[name][2] != colour for name, (_, _, colour) in before.items())
    viewer.canvas.overlays["segone_left"].text = "WWWW"
    qtbot.wait(50)
    assert boxes(viewer)["segone_left"][1][0] > before["segone_left"][1][0]
    viewer.canvas.overlays["segone_left"].visible = False
    assert not boxes(viewer)["segone_left"][0]
    viewer.canvas.overlays["segone_left"].visible = True
    assert boxes(viewer)["segone_left"][0]
