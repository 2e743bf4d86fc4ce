"""Learning from corrections as a person does it: paint, train, look at the card, decide, go back.

The training is a real process with real events that learns nothing (`fake_training.py`), except in
the last test, where the real one teaches a tiny model.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QToolButton,
    QWidget,
)

from segone_napari.data import formats
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.gui import corrected
from segone_napari.gui.card import read_card
from segone_napari.gui.corrected import in_full, in_short, in_words, said_in
from segone_napari.gui.layers import image_layer_data, read_layer, volume_from_attributes
from segone_napari.gui.origins import OPENED
from segone_napari.project import EditHistory, ImageRef, Project, Row
from segone_napari.project.versions import Versions
from segone_napari.training import jobs
from segone_napari.training.cases import read_cases

from .. import tiny
from ..training import phantoms
from .conftest import ThresholdSegmenter, head
from .hands import (
    PATIENCE_MS,
    ask_and_wait,
    child,
    choose_row,
    click,
    drag,
    press,
    row_text,
    row_texts,
    rows,
    undo,
)

BETTER = {
    "better": True,
    "created": "2026-01-02T03:04:05+00:00",
    "held_back_by": "slice",
    "held_back": [{"term": "left ball", "before": 0.1, "after": 0.8}],
    "old_structures": {
        "on": "the bundled T1",
        "mean_before": 0.8,
        "mean_after": 0.8,
        "changes": {},
        "seconds_a_prompt_before": 0.2,
        "seconds_a_prompt_after": 0.4,
    },
    "remarks": ["corrections 1 and 2 differ"],
}
NO_BETTER = {**BETTER, "better": False, "held_back": [{"term": "a", "before": 0.5, "after": 0.5}]}
NOT_THERE = {
    **BETTER,
    "held_back": [
        {"term": "cyst", "before": before, "after": 1.0, "absent": True} for before in (0.0, 1.0)
    ],
}
LOST = {
    **BETTER,
    "better": False,
    "old_structures": {
        **BETTER["old_structures"],
        "mean_after": 0.78,
        "changes": {"left amygdala": -0.04},
    },
}


class Training:
    """How the fake training goes, and the processes that did it."""

    def __init__(self, folder: Path, project: Path):
        self.folder, self.project = folder, project
        self.processes: list[subprocess.Popen] = []
        self.command: list[str] = []

    def start(self, command: list[str], **options) -> subprocess.Popen:
        script = Path(__file__).with_name("fake_training.py")
        self.command = command
        process = subprocess.Popen([sys.executable, str(script), command[4]], **options)
        self.processes.append(process)
        return process

    def finish(self, card=BETTER, terms=None) -> None:
        self._write({"card": card, "terms": terms or {"left ball": []}})

    def fail(self, message: str) -> None:
        self._write({"message": message})

    def be_deaf(self, is_deaf: bool = True) -> None:
        if is_deaf:
            (self.folder / "deaf").touch()
        else:
            (self.folder / "deaf").unlink()

    def again(self) -> None:
        (self.folder / "finish").unlink()

    @property
    def is_running(self) -> bool:
        return jobs.is_training(self.project)

    def _write(self, outcome: dict) -> None:
        (self.folder / "part").write_text(json.dumps(outcome))
        (self.folder / "part").rename(self.folder / "finish")


@pytest.fixture
def training(tmp_path, own_settings, monkeypatch):
    folder = tmp_path / "control"
    folder.mkdir()
    monkeypatch.setenv("FAKE_TRAINING", str(folder))
    fake = Training(folder, own_settings)
    popen = SimpleNamespace(Popen=fake.start, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(jobs, "subprocess", popen)
    yield fake
    for process in fake.processes:
        process.kill()
        process.wait()


@pytest.fixture
def with_strokes(qtbot, open_widget):
    """A window in which two slices of the left ball were corrected, and the section is open."""
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    paint_two_slices(qtbot, viewer, widget, "left ball")
    qtbot.waitUntil(lambda: short(widget) == "2 corrected slices", timeout=PATIENCE_MS)
    open_section(qtbot, widget)
    return viewer, widget


def paint_two_slices(qtbot, viewer, widget, name: str) -> None:
    choose_row(qtbot, widget, name)
    click(qtbot, widget, QToolButton, "tool_paint")
    layer = viewer.layers[name]
    layer.brush_size = 3
    for _ in range(2):
        at = round(float(layer.world_to_data(viewer.dims.point)[0]))
        drag(qtbot, viewer, (at, 10, 22), (at, 14, 26))
        press(qtbot, viewer, Qt.Key.Key_Right)


def open_section(qtbot, widget) -> None:
    toggle = child(widget, QToolButton, "improve_toggle")
    if not toggle.isChecked():
        qtbot.mouseClick(toggle, Qt.MouseButton.LeftButton)


def short(widget) -> str:
    return child(widget, QLabel, "improve_short").accessibleName()


def text(widget, name: str) -> str:
    label = child(widget, QLabel, name)
    return "" if label.isHidden() else label.text()


def is_asked(widget) -> bool:
    return not child(widget, QWidget, "outcome").isHidden()


def is_learning(widget) -> bool:
    stage = child(widget, QLabel, "training_stage")
    return stage.isVisible() and stage.text() == "Learning"


def train(qtbot, widget) -> None:
    click(qtbot, widget, QPushButton, "train")
    qtbot.waitUntil(lambda: is_learning(widget), timeout=PATIENCE_MS)


def wait_for_idle(qtbot, widget, timeout=PATIENCE_MS) -> None:
    qtbot.waitUntil(child(widget, QPushButton, "train").isVisible, timeout=timeout)


def train_until_card(qtbot, widget, training, **outcome) -> None:
    train(qtbot, widget)
    training.finish(**outcome)
    qtbot.waitUntil(lambda: is_asked(widget), timeout=PATIENCE_MS)


# --- what is learnt from ------------------------------------------------------------------------


def test_section_is_closed_until_something_is_said_also_that_it_is_not_there(
    qtbot, open_widget, training, own_settings
) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    assert child(widget, QWidget, "improve_area").isHidden()
    open_section(qtbot, widget)
    assert not child(widget, QPushButton, "train").isEnabled()
    assert short(widget) == "no corrections yet"
    assert "Correct some slices" in text(widget, "improve_what")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    click(qtbot, widget, QPushButton, "repair_absent")
    qtbot.waitUntil(lambda: short(widget) == "1 × “not there”", timeout=PATIENCE_MS)
    assert "not there" in row_texts(widget)[0]
    assert "accepted" in row_texts(widget)[0]
    assert ".9" not in row_texts(widget)[0]  # nor how sure the model was of what was cleared
    assert "not there: accepted" in child(widget, QLabel, "status").text()
    undo(qtbot, viewer)  # one click is one step
    qtbot.waitUntil(lambda: "draft" in row_texts(widget)[0], timeout=PATIENCE_MS)
    assert np.asarray(viewer.layers["left ball"].data).any()
    assert "Took back: not there" in child(widget, QLabel, "status").text()
    click(qtbot, widget, QPushButton, "repair_absent")
    qtbot.waitUntil(lambda: "not there" in row_texts(widget)[0], timeout=PATIENCE_MS)
    train(qtbot, widget)
    (kept,) = Project(own_settings).corrections().usable
    assert kept.slices is None
    assert not kept.mask().any()


def test_painted_slices_are_kept_once_when_training_starts(
    qtbot, with_strokes, training, own_settings
) -> None:
    viewer, widget = with_strokes
    assert "left ball (your term): 2 slices in 1 image" in text(widget, "improve_what")
    assert not (own_settings / "corrections").exists()
    train_until_card(qtbot, widget, training)
    (kept,) = Project(own_settings).corrections().usable
    layer = viewer.layers["left ball"]
    assert (kept.term, kept.axis, len(kept.slices)) == ("left ball", 2, 2)
    mask = volume_from_attributes(layer.data, {"metadata": layer.metadata}).data
    for index in kept.slices:
        np.testing.assert_array_equal(kept.mask()[:, :, index], mask[:, :, index])
    assert Project(own_settings).kept_image(kept.image) is not None  # it has no file
    click(qtbot, widget, QPushButton, "keep_version")
    wait_for_idle(qtbot, widget)
    training.again()
    train(qtbot, widget)
    assert len(Project(own_settings).corrections().usable) == 1


def test_an_image_that_is_closed_still_counts(qtbot, with_strokes, own_settings) -> None:
    viewer, widget = with_strokes
    viewer.layers.remove(viewer.layers["head.nii.gz"])
    qtbot.waitUntil(
        lambda: len(Project(own_settings).corrections().usable) == 1, timeout=PATIENCE_MS
    )
    qtbot.wait(800)
    assert short(widget) == "2 corrected slices"


def test_other_words_that_mean_something_else_are_refused_before_a_training(
    qtbot, with_strokes, training, own_settings
) -> None:
    _, widget = with_strokes
    qtbot.keyClicks(child(widget, QLineEdit, "synonyms_1"), "hippocampus")
    click(qtbot, widget, QPushButton, "train")
    wait_for_idle(qtbot, widget)
    assert "'hippocampus' means the hippocampus and can't mean 'left ball' too" in text(
        widget, "improve_news"
    )
    assert not (own_settings / "corrections").exists()


# --- a training ---------------------------------------------------------------------------------


def test_window_lives_while_training_and_the_minutes_are_remembered(
    qtbot, with_strokes, training, open_widget
) -> None:
    _, widget = with_strokes
    minutes = child(widget, QSpinBox, "training_minutes")
    minutes.setFocus()
    minutes.selectAll()
    qtbot.keyClicks(minutes, "7")
    gaps, last = [], [time.monotonic()]

    def tick() -> None:
        gaps.append(time.monotonic() - last[0])
        last[0] = time.monotonic()

    timer = QTimer()
    timer.timeout.connect(tick)
    timer.start(5)
    train(qtbot, widget)
    bar = child(widget, QWidget, "training_progress")
    qtbot.waitUntil(lambda: bar.value() > 20, timeout=PATIENCE_MS)
    timer.stop()
    assert max(gaps) < 2.0  # the training itself takes longer to load
    assert training.command[training.command.index("--minutes") + 1] == "7.0"
    assert "--only-measure" in training.command
    assert short(widget).startswith("Learning ")
    ask_and_wait(qtbot, widget, "right ball")  # prompts are answered meanwhile
    _, other = open_widget()
    assert child(other, QSpinBox, "training_minutes").value() == 7


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no SIGKILL")
def test_whatever_ends_a_training_is_told_and_the_next_one_can_begin(
    qtbot, with_strokes, training, own_settings, monkeypatch
) -> None:
    _, widget = with_strokes
    # 1. Cancelled.
    train(qtbot, widget)
    click(qtbot, widget, QPushButton, "training_cancel")
    assert short(widget) == "Cancelling"
    wait_for_idle(qtbot, widget, timeout=10_000)
    assert "cancelled. The version in use stays" in text(widget, "improve_news")
    assert not training.is_running
    # 2. Cancelled while it is in the middle of something long.
    training.be_deaf()
    click(qtbot, widget, QPushButton, "train")
    qtbot.waitUntil(lambda: training.is_running, timeout=PATIENCE_MS)
    click(qtbot, widget, QPushButton, "training_cancel")
    wait_for_idle(qtbot, widget, timeout=10_000)
    assert "cancelled" in text(widget, "improve_news")
    assert not training.is_running
    training.be_deaf(False)
    # 3. Killed by the system.
    train(qtbot, widget)
    os.kill(training.processes[-1].pid, signal.SIGKILL)
    wait_for_idle(qtbot, widget)
    assert text(widget, "improve_news").startswith("⚠ Nothing was learnt")
    assert "ended from outside" in text(widget, "improve_news")
    # 4. Failed.
    train(qtbot, widget)
    training.fail("can't save to disk: the disk is full; free some space")
    wait_for_idle(qtbot, widget)
    assert "the disk is full; free some space" in text(widget, "improve_news")
    training.again()
    # 5. All the while, the model answers, and nothing was lost.
    ask_and_wait(qtbot, widget, "right ball")
    assert "mL" in row_texts(widget)[1]
    assert Versions(own_settings).numbers() == ()
    assert len(Project(own_settings).corrections().usable) == 1
    train_until_card(qtbot, widget, training)


def test_full_disk_before_the_training_is_told(qtbot, with_strokes, training, monkeypatch) -> None:
    _, widget = with_strokes

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segone_napari.project.corrections.write", full)
    click(qtbot, widget, QPushButton, "train")
    qtbot.waitUntil(lambda: "disk is full" in text(widget, "improve_news"), timeout=PATIENCE_MS)
    assert child(widget, QPushButton, "train").isVisible()
    assert not training.processes


def test_panel_may_go_while_the_section_opens(qtbot, with_strokes, monkeypatch) -> None:
    viewer, widget = with_strokes
    monkeypatch.setattr("segone_napari.gui.widget.MAKE_ROOM_MS", 200)
    for _ in range(2):
        click(qtbot, widget, QToolButton, "improve_toggle")
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.wait(400)  # what is raised in Qt's turns fails the test


def test_training_outlives_its_window_and_the_next_one_shows_the_card_once(
    qtbot, with_strokes, training, open_widget, own_settings
) -> None:
    viewer, widget = with_strokes
    # 1. Another window has begun one: it is watched instead of starting a second.
    jobs.TrainingJob.start(own_settings)
    qtbot.waitUntil(lambda: training.is_running, timeout=PATIENCE_MS)
    train(qtbot, widget)
    assert "Another window" in text(widget, "improve_news")
    assert len(training.processes) == 1
    viewer.close()
    # 2. It goes on, and the next window watches it.
    viewer, widget = open_widget()
    qtbot.waitUntil(lambda: is_learning(widget), timeout=PATIENCE_MS)
    # 3. It can end it, too; the next one that is begun is left to go on.
    training.be_deaf()
    click(qtbot, widget, QPushButton, "training_cancel")
    wait_for_idle(qtbot, widget)
    assert training.processes[0].wait(5) is not None
    training.be_deaf(False)
    qtbot.waitUntil(child(widget, QPushButton, "train").isEnabled, timeout=PATIENCE_MS)
    train(qtbot, widget)
    viewer.close()
    training.finish()
    training.processes[1].wait(30)
    # 4. It has ended meanwhile: the card waits, and closing the window decides nothing.
    viewer, widget = open_widget()
    qtbot.waitUntil(lambda: is_asked(widget), timeout=PATIENCE_MS)
    viewer.close()
    viewer, widget = open_widget()
    qtbot.waitUntil(lambda: is_asked(widget), timeout=PATIENCE_MS)
    click(qtbot, widget, QPushButton, "use_version")
    qtbot.waitUntil(lambda: Versions(own_settings).used() == 1, timeout=PATIENCE_MS)
    viewer.close()
    # 5. What was decided isn't asked again.
    _, widget = open_widget()
    version = child(widget, QLabel, "version_in_use")
    qtbot.waitUntil(lambda: "version 1" in version.accessibleName(), timeout=PATIENCE_MS)
    assert not is_asked(widget)


# --- its outcome --------------------------------------------------------------------------------


def test_accepted_version_answers_rows_stay_and_one_click_goes_back(
    qtbot, with_strokes, training, segmenter, own_settings
) -> None:
    viewer, widget = with_strokes
    before = viewer.layers["left ball"].data.copy()
    # 1. The card says what was measured, and shows pictures.
    train_until_card(qtbot, widget, training)
    assert "better" in text(widget, "verdict")
    assert "✓" in text(widget, "verdict")
    click(qtbot, widget, QPushButton, "look_at_card")
    window = child(widget, QWidget, "card_window")
    words = " ".join(label.text() for label in window.findChildren(QLabel))
    for expected in (
        "0.10",
        "0.80",
        "▲ +0.70",
        "as good as it was",
        "0.4 s, before 0.2 s",
        "slices that it hadn't learnt from",
        "corrections 1 and 2 differ",
    ):
        assert expected in words, expected
    assert not child(window, QLabel, "card_picture_1").pixmap().isNull()
    # 2. Accepted.
    click(qtbot, window, QPushButton, "card_use")
    qtbot.waitUntil(lambda: segmenter.reloads == 1, timeout=PATIENCE_MS)
    assert Versions(own_settings).used() == 1
    assert "version 1" in child(widget, QLabel, "version_in_use").accessibleName()
    np.testing.assert_array_equal(viewer.layers["left ball"].data, before)
    assert segmenter.recalled  # what was corrected counts in the open image
    # 3. Back to the package's own, and to the new one again.
    click(qtbot, widget, QPushButton, "versions")
    window = child(widget, QWidget, "versions_window")
    is_listed = lambda name: window.findChild(QPushButton, name) is not None  # noqa: E731
    qtbot.waitUntil(lambda: is_listed("use_version_0"), timeout=PATIENCE_MS)
    words = " ".join(label.text() for label in window.findChildren(QLabel))
    assert "Version 1 · 02 Jan 2026" in words
    assert "learnt left ball from 1 image; agreement 0.10 before, 0.80 then" in words
    click(qtbot, window, QPushButton, "use_version_0")
    qtbot.waitUntil(lambda: is_listed("use_version_1"), timeout=PATIENCE_MS)
    assert Versions(own_settings).used() == 0
    click(qtbot, window, QPushButton, "use_version_1")
    qtbot.waitUntil(lambda: segmenter.reloads == 3, timeout=PATIENCE_MS)
    assert Versions(own_settings).used() == 1


def test_keyboard_alone_trains_and_rejects_on_a_small_screen(
    qtbot, with_strokes, training, segmenter, own_settings
) -> None:
    viewer, widget = with_strokes
    viewer.window.resize(1280, 800)
    # 1. The Tab key goes through the section as it stands.
    child(widget, QToolButton, "improve_toggle").setFocus()
    reached = []
    for _ in range(4):
        qtbot.keyClick(widget.focusWidget(), Qt.Key.Key_Tab)
        reached.append(widget.focusWidget().objectName())
    assert reached == ["synonyms_1", "train", "training_minutes", "versions"]
    child(widget, QPushButton, "train").setFocus()
    qtbot.keyClick(widget.focusWidget(), Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: is_learning(widget), timeout=PATIENCE_MS)
    training.finish(card=LOST)
    qtbot.waitUntil(lambda: is_asked(widget), timeout=PATIENCE_MS)
    # 2. All of it can be seen and read.
    assert text(widget, "verdict") == "⚠  It lost something"
    assert "left amygdala" in text(widget, "verdict_words")
    qtbot.wait(200)
    assert viewer.window._qt_window.height() <= 800
    for name in ("use_version", "keep_version", "look_at_card", "export", "prompt"):
        part = child(widget, QWidget, name)
        assert part.visibleRegion().boundingRect().size() == part.size(), name
        assert part.width() >= part.minimumSizeHint().width(), name
    for button in child(widget, QWidget, "improve").findChildren(QAbstractButton):
        assert button.accessibleName() or button.text(), button.objectName()
    # 3. The rejected version is gone with its pictures; the corrections stay.
    child(widget, QPushButton, "keep_version").setFocus()
    qtbot.keyClick(widget.focusWidget(), Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: "thrown away" in text(widget, "improve_news"), timeout=PATIENCE_MS)
    assert Versions(own_settings).numbers() == ()
    assert not (own_settings / "training" / "version_1").exists()
    assert len(Project(own_settings).corrections().usable) == 1
    assert segmenter.reloads == 0
    # 4. A version that another window threw away can't be used, which is told.
    training.again()
    train_until_card(qtbot, widget, training)
    Versions(own_settings).remove(2)
    click(qtbot, widget, QPushButton, "use_version")
    qtbot.waitUntil(lambda: "no version 2" in text(widget, "improve_news"), timeout=PATIENCE_MS)
    assert not is_asked(widget)


class Learner(ThresholdSegmenter):
    """Finds the balls under every name that the version in use was taught."""

    def __init__(self, project: Path):
        super().__init__()
        self._project = project

    def _answer(self, image, prompt, box=None):
        from segone_napari.data.vocabulary import Vocabulary

        folder = Versions(self._project).folder_of(Versions(self._project).used())
        vocabulary = Vocabulary.load(folder and folder / "vocabulary.json")
        match = vocabulary.match(prompt)
        names = [entry.name for entry in vocabulary.learnt]
        if match.term is None or match.term.name not in names:
            return super()._answer(image, prompt, box)
        found = super()._answer(image, "balls", box)
        found.__dict__.update(prompt=prompt, resolved=match.term.name)
        return found


def test_new_term_is_outlined_by_hand_taught_and_then_asked_for_by_its_synonym(
    qtbot, make_napari_viewer, training, own_settings
) -> None:
    from segone_napari.gui.layers import image_layer_data
    from segone_napari.gui.widget import SegOneWidget

    viewer = make_napari_viewer(show=True)
    data, arguments, _ = image_layer_data(head())
    viewer.add_image(data, **arguments)
    widget = SegOneWidget(viewer, make_session=lambda preset, device: Learner(own_settings))
    viewer.window.add_dock_widget(widget, name="SegOne", area="right")
    # 1. It isn't known: begin an empty outline, and paint in it.
    ask_and_wait(qtbot, widget, "azure stone")
    (row,) = rows(widget)
    child(row, QLabel, "note").linkActivated.emit("segone:draw")
    layers = viewer.layers
    qtbot.waitUntil(
        lambda: "azure stone" in layers and layers.selection.active is layers["azure stone"],
        timeout=PATIENCE_MS,
    )
    viewer.dims.set_point(0, -3)
    paint_two_slices(qtbot, viewer, widget, "azure stone")
    open_section(qtbot, widget)
    qtbot.waitUntil(lambda: "azure stone (your term)" in text(widget, "improve_what"), timeout=9000)
    # 2. Say what else it is called, and train.
    line = child(widget, QLineEdit, "synonyms_1")
    assert line.accessibleName() == "Other words for azure stone"
    qtbot.keyClicks(line, "blue pebble, lapis")
    train_until_card(qtbot, widget, training, terms={"azure stone": ["blue pebble", "lapis"]})
    (kept,) = Project(own_settings).corrections().usable
    assert (kept.term, kept.synonyms) == ("azure stone", ("blue pebble", "lapis"))
    click(qtbot, widget, QPushButton, "use_version")
    qtbot.waitUntil(lambda: Versions(own_settings).used() == 1, timeout=PATIENCE_MS)
    # 3. It is completed, and answered by its other name; the outline drawn by hand is kept.
    prompt = child(widget, QLineEdit, "prompt")
    completer = prompt.completer()
    qtbot.waitUntil(lambda: "azure stone" in completer.model().stringList(), timeout=PATIENCE_MS)
    drawn = viewer.layers["azure stone"].data.copy()
    ask_and_wait(qtbot, widget, "lapis")
    (words,) = row_texts(widget)
    assert "Replace it" in words
    np.testing.assert_array_equal(viewer.layers["azure stone"].data, drawn)
    child(rows(widget)[0], QLabel, "note").linkActivated.emit("segone:replace")
    qtbot.waitUntil(
        lambda: viewer.layers["azure stone"].data.sum() > drawn.sum(), timeout=PATIENCE_MS
    )


# --- without a window ---------------------------------------------------------------------------


def _row(history, mask, **facts) -> int:
    history.put([(Row("p", facts.pop("name", "cyst"), **facts), mask)])
    return history.rows[-1].id


def _stroke(history, row_id, voxels, kind="brush") -> None:
    i, j, k = (np.array(axis) for axis in zip(*voxels, strict=True))
    before = history.masks[row_id][i, j, k].copy()
    history.masks[row_id][i, j, k] = 1
    history.record(row_id, [((i, j, k), before, 1)], kind=kind)


def test_a_stroke_belongs_to_the_slice_that_it_lies_in() -> None:
    history = EditHistory((9, 9, 9))
    row = _row(history, np.zeros((9, 9, 9), np.uint8))
    _stroke(history, row, [(2, 4, 4), (3, 5, 4), (4, 5, 4)])  # across k, in slice 4
    _stroke(history, row, [(2, 4, 6), (3, 4, 6)])  # a line: as the other strokes
    _stroke(history, row, [(8, y, z) for y in range(3) for z in range(3)])  # in slice 8 of i
    (across_i, across_k) = sorted(said_in(history), key=lambda one: one.axis)
    assert (across_i.axis, across_i.slices) == (0, (8,))
    assert (across_k.axis, across_k.slices) == (2, (4, 6))


def test_of_accepted_rows_those_that_a_person_changed_or_drew_are_learnt_from() -> None:
    history = EditHistory((4, 4, 4))
    ones = np.ones((4, 4, 4), np.uint8)
    for name, checkpoint in (("model's", "segone"), ("changed", "segone"), ("opened", "")):
        row = _row(history, ones.copy(), name=name, checkpoint=checkpoint)
        if name == "changed":
            history.edit(row, np.zeros_like(ones), kind="repair")
        history.set_row(Row("p", name, state="accepted", checkpoint=checkpoint, id=row))
    assert [one.term for one in said_in(history)] == ["changed", "opened"]
    assert all(one.slices is None for one in said_in(history))


def test_slices_that_were_called_right_are_learnt_from_as_they_are() -> None:
    history = EditHistory((5, 6, 7))
    row = _row(history, np.zeros((5, 6, 7), np.uint8), checkpoint="segone")
    history.confirm(row, 2, 3)
    _stroke(history, row, [(2, 4, 5), (3, 5, 5)])
    (one,) = said_in(history)
    assert (one.axis, one.slices) == (2, (3, 5))
    history.undo()
    history.set_row(replace(history.row(row), state="accepted"))  # accepted as the model made it
    (one,) = said_in(history)
    assert (one.axis, one.slices) == (2, (3,))


def test_only_a_number_that_an_opened_mask_was_given_is_left_out_of_its_term() -> None:
    history = EditHistory((4, 4, 4))
    ones = np.ones((4, 4, 4), np.uint8)
    names = ("metastasis (1)", "metastasis (2)", "cyst (2)")
    ids = [_row(history, ones.copy(), name=name, checkpoint="") for name in names]
    history.note(OPENED, {str(ids[2]): {}})
    for row, name in zip(ids, names, strict=True):
        prompt = "cyst" if name == "cyst (2)" else name
        history.set_row(Row(prompt, name, state="accepted", id=row))
    assert {one.term for one in said_in(history)} == {"metastasis (1)", "metastasis (2)", "cyst"}


def test_what_was_spread_or_came_anew_is_no_correction() -> None:
    history = EditHistory((4, 4, 4))
    row = _row(history, np.zeros((4, 4, 4), np.uint8), checkpoint="segone")
    _stroke(history, row, [(0, 0, 1), (1, 2, 1)], kind="spread")
    assert said_in(history) == []
    _stroke(history, row, [(0, 1, 1), (1, 1, 1)])
    assert len(said_in(history)) == 1
    history.put([(history.row(row), np.ones((4, 4, 4), np.uint8))])
    assert said_in(history) == []


def _source(layer, path=None) -> corrected.Source:
    values = read_layer(layer)
    history = EditHistory(values.grid.shape)
    row = _row(history, np.zeros(values.grid.shape, np.uint8), checkpoint="segone")
    _stroke(history, row, [(2, 4, 5), (3, 5, 5), (4, 5, 5)])
    return corrected.Source(ImageRef.of(values.volume, path), values, history)


def test_an_image_whose_voxels_were_replaced_is_kept_to_learn_from(tmp_path) -> None:
    path = formats.write(head(), tmp_path / "head.nii.gz")
    data, arguments, _ = image_layer_data(formats.read(path), str(path))
    for changed in (data, data * 2 + 3):
        project = Project(tmp_path / f"project_{changed.max()}")
        source = _source(Image(changed, **arguments), path)
        assert corrected.keep(project.folder, source) == 1
        (case,), remarks = read_cases(project, Vocabulary.packaged())
        np.testing.assert_array_equal(case.image.data, source.values.volume.data)
        assert remarks == []
        assert (project.folder / "images").exists() == (changed is not data)


def test_images_of_one_person_are_kept_as_one_patient(tmp_path) -> None:
    project = Project(tmp_path / "project")
    for kind, gain in (("T1w", 1), ("T2w", 2), ("FLAIR", 3)):
        image = head()
        path = tmp_path / f"sub-03_{kind}.nii.gz"
        formats.write(image.with_data(image.data * gain), path)
        data, arguments, _ = image_layer_data(formats.read(path), str(path))
        corrected.keep(project.folder, _source(Image(data, **arguments), path))
    cases, _ = read_cases(project, Vocabulary.packaged())
    assert len(cases) == 3
    assert len({case.patient for case in cases}) == 1


def test_words_count_slices_structures_and_images() -> None:
    of = corrected.OfTerm
    lore = corrected.Lore(
        {
            "cyst": of(slices={("a", 2, 4), ("a", 2, 5), ("b", 2, 4)}),
            "left hippocampus": of(whole={"a"}, absent={"c"}),
        },
        {"cyst": ()},
    )
    assert in_short(lore) == "5 corrections"
    assert in_full(lore) == (
        "3 slices, 1 whole outline, 1 × “not there” of 2 structures in 3 images"
    )
    assert in_words(lore) == [
        "left hippocampus: 1 whole outline, 1 × “not there” in 2 images",
        "cyst (your term): 3 slices in 2 images",
    ]


@pytest.mark.parametrize(
    ("card", "kind", "words"),
    [
        (BETTER, "better", "by 0.80, before by 0.10"),
        (NO_BETTER, "no better", "by 0.50"),
        (NOT_THERE, "better", "cyst, where it is not there: found in 1 of 2 before, not found now"),
        (LOST, "lost", "left amygdala, which it knew before, lost 0.04"),
        ({**BETTER, "better": False, "held_back": []}, "not measured", "Too few corrections"),
    ],
)
def test_the_verdict_says_in_words_what_was_measured(tmp_path, card, kind, words) -> None:
    shown = read_card(3, card, tmp_path)
    assert shown.verdict.kind == kind
    assert words in shown.verdict.words
    assert card is not NOT_THERE or "0.5" not in shown.verdict.words
    assert shown.verdict.sign


# --- with the real training ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_painted_slices_teach_a_new_term_to_the_model_that_answers(
    qtbot, make_napari_viewer, tmp_path, own_settings, monkeypatch, request
) -> None:
    from segone_napari.gui import learning
    from segone_napari.gui.app import open_viewer
    from segone_napari.systems.taught import TaughtSystem

    path, truth = phantoms.save(tmp_path, 0)
    use_untrained_base(own_settings, tmp_path)
    request.addfinalizer(lambda: jobs.TrainingJob(own_settings).cancel())
    quick = {"steps": 20, "teacher": None}
    monkeypatch.setattr(learning, "JobOptions", lambda **o: jobs.JobOptions(**{**o, **quick}))
    viewer, widget = open_viewer(path, viewer=make_napari_viewer(show=True))
    child(widget, QComboBox, "preset").setCurrentText("Fast")
    encoded = []
    encode = TaughtSystem.encode
    monkeypatch.setattr(
        TaughtSystem, "encode", lambda *a, **o: encoded.append(1) or encode(*a, **o)
    )
    # 1. Five slices of what the model doesn't know.
    ask_and_wait(qtbot, widget, phantoms.TERM)
    child(rows(widget)[0], QLabel, "note").linkActivated.emit("segone:draw")
    qtbot.waitUntil(lambda: phantoms.TERM in viewer.layers, timeout=PATIENCE_MS)
    layer = viewer.layers[phantoms.TERM]
    shown = widget._work.values.layout.to_layer(truth)
    painted = np.flatnonzero(shown.any(axis=(1, 2)))[::2]
    for index in painted:
        i, j = np.nonzero(shown[index])
        layer.data_setitem((np.full(len(i), index), i, j), 1)
    open_section(qtbot, widget)
    qtbot.waitUntil(lambda: bool(widget.findChild(QLineEdit, "synonyms_1")), timeout=PATIENCE_MS)
    qtbot.keyClicks(child(widget, QLineEdit, "synonyms_1"), "azure stone")
    # 2. The real training; the new version is accepted.
    click(qtbot, widget, QPushButton, "train")
    qtbot.waitUntil(lambda: is_asked(widget), timeout=6 * PATIENCE_MS)
    click(qtbot, widget, QPushButton, "use_version")
    qtbot.waitUntil(lambda: "Version 2 answers" in text(widget, "status"), timeout=PATIENCE_MS)
    # 3. It answers by its other name; the painted row is kept until replaced. How well so few
    #    steps teach is of no interest here, but painted slices are right whatever it has learnt.
    ask_and_wait(qtbot, widget, "azure stone")
    (row,) = rows(widget)
    assert "Replace it" in row_text(row), text(widget, "status")
    assert len(encoded) == 1  # what the base saw of the image is still good
    child(row, QLabel, "note").linkActivated.emit("segone:replace")
    qtbot.waitUntil(lambda: widget._work.rows[0].checkpoint == "2", timeout=PATIENCE_MS)
    for index in painted:
        np.testing.assert_array_equal(layer.data[index], shown[index])
    # 4. Out into a file; it isn't taken in again, since it is there.
    archive = tmp_path / "stone.zip"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(archive), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(archive), ""))
    click(qtbot, widget, QPushButton, "versions")
    window = child(widget, QWidget, "versions_window")
    qtbot.waitUntil(
        lambda: window.findChild(QPushButton, "export_version_2") is not None, timeout=PATIENCE_MS
    )
    click(qtbot, window, QPushButton, "export_version_2")
    qtbot.waitUntil(lambda: "Wrote" in text(window, "versions_words"), timeout=PATIENCE_MS)
    click(qtbot, window, QPushButton, "versions_import")
    already = "stone.zip is here already, as version 2"
    qtbot.waitUntil(lambda: already in text(window, "versions_words"), timeout=PATIENCE_MS)
    assert Versions(own_settings).used() == 2


def use_untrained_base(project: Path, folder: Path) -> None:
    """Make a tiny model that knows nothing the version in use: a lesson needs no more."""
    versions = Versions(project)
    versions.use(versions.import_from(tiny.save_untrained(folder / "base")))
