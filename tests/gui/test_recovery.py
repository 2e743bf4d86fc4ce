"""Nothing lost: a window that is killed, a disk that refuses, an image that is opened again."""

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from segone_napari.data import formats
from segone_napari.gui import cases
from segone_napari.project import EditHistory, ImageRef, Project, Row

from .conftest import head
from .hands import (
    PATIENCE_MS,
    ask,
    ask_and_wait,
    child,
    click,
    drag,
    is_idle,
    row_texts,
    rows,
    undo,
)
from .killed_window import state

ROOT = Path(__file__).parents[2]


def offer_is_open(widget) -> bool:
    return not child(widget, QWidget, "offer").isHidden()


def paint_a_stroke(qtbot, viewer, widget, name: str) -> None:
    viewer.layers.selection.active = viewer.layers[name]
    viewer.layers[name].mode = "paint"
    at = viewer.dims.current_step[0]
    drag(qtbot, viewer, (at, 8, 8), (at, 8, 14))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_window_that_is_killed_in_a_stroke_ten_times_goes_on_where_it_was(
    qtbot, open_widget, tmp_path, own_settings
) -> None:
    """Each life begins with the masks, rows and undo steps that the one before ended with."""
    volume = formats.read(formats.write(head(), tmp_path / "head.nii.gz"))
    known: dict[int, str] = {}  # by the number of steps that can be undone, what was shown
    saved = 0
    coming = open_window(tmp_path, own_settings)
    for life in range(10):
        window, coming = coming, open_window(tmp_path, own_settings)  # which loads meanwhile
        states, saved_after = work_until_killed(window, life)
        steps = steps_of(states[0])
        newest = max(known, default=0)
        assert saved <= steps <= max(newest + 1, 1), f"life {life} lost a stroke"
        assert states[0] == known.get(steps, states[0])
        known = {n: shown for n, shown in known.items() if n <= steps}
        known |= {steps_of(shown): shown for shown in states}
        saved = saved_after
    coming.kill()
    coming.wait()

    # 1. What the next window offers and shows.
    (case,) = Project(own_settings).cases()
    assert case.was_interrupted
    viewer, widget = open_widget(volume)
    qtbot.waitUntil(lambda: offer_is_open(widget), timeout=PATIENCE_MS)
    assert "cut off" in child(widget, QLabel, "offer_words").text()
    click(qtbot, widget, QPushButton, "offer_yes")
    status = child(widget, QLabel, "status")
    qtbot.waitUntil(lambda: "as you left" in status.text(), timeout=PATIENCE_MS)
    assert widget._work.history.prompts == ("left ball; right ball",)
    # 2. Every stroke of all ten lives can be undone, down to the model's own answer.
    steps = steps_of(state(viewer, widget))
    assert steps >= saved >= 20
    compared = 0
    for _ in range(steps - 1):
        shown = state(viewer, widget)
        if (expected := known.get(steps_of(shown))) is not None:
            assert shown == expected
            compared += 1
        undo(qtbot, viewer)
    assert compared >= 20
    fresh = head().data > 150
    left = viewer.layers["left ball"]
    answered = np.asarray(left.data, bool) | np.asarray(viewer.layers["right ball"].data, bool)
    assert answered.sum() == fresh.sum()


def steps_of(shown: str) -> int:
    return int(shown.split()[0])


def open_window(folder: Path, project: Path) -> subprocess.Popen:
    """Start what opens a window when it is told to."""
    command = [sys.executable, "-m", "tests.gui.killed_window", f"{folder}/head.nii.gz"]
    environment = os.environ | {"SEGONE_PROJECT": str(project), "XDG_CONFIG_HOME": str(folder)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1
    )


def lines_of(window: subprocess.Popen) -> queue.Queue[str]:
    """What the window prints, as it comes, and "ended" when it is gone; to be waited for with
    patience, but not for ever.
    """
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert window.stdout is not None
        for line in window.stdout:
            lines.put(line)
        lines.put("ended")

    threading.Thread(target=read, daemon=True).start()
    return lines


def work_until_killed(window: subprocess.Popen, seed: int) -> tuple[list[str], int]:
    """Let a window be worked in until it is killed in the middle of a stroke.

    Returns what it showed after every edit, and how many steps it had shown as saved.
    """
    assert window.stdin is not None
    window.stdin.write(f"{seed}\n")
    window.stdin.flush()
    lines = lines_of(window)
    states: list[str] = []
    saved, is_down = 0, False
    while True:
        line = lines.get(timeout=PATIENCE_MS / 1000)
        kind, _, rest = line.strip().partition(" ")
        if kind == "state":
            states.append(rest)
        elif kind == "saved":
            saved = steps_of(states[-1])
        elif kind == "ended":
            assert window.wait(60) == -signal.SIGKILL
            break
        if kind != "saved":
            is_down = kind == "down"
    assert is_down, "the stroke had ended before the kill"
    return states, saved


def test_closed_image_that_is_opened_again_offers_its_rows(
    qtbot, open_widget, own_settings
) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    paint_a_stroke(qtbot, viewer, widget, "left ball")
    mask = viewer.layers["left ball"].data.copy()
    qtbot.waitUntil(lambda: "saved" in child(widget, QLabel, "saved").text(), timeout=PATIENCE_MS)
    image = viewer.layers["head.nii.gz"]
    viewer.layers.remove(image)
    assert rows(widget) == []
    qtbot.waitUntil(lambda: len(viewer.layers) == 0, timeout=PATIENCE_MS)
    viewer.add_layer(image)
    qtbot.waitUntil(lambda: offer_is_open(widget), timeout=PATIENCE_MS)
    assert "before" in child(widget, QLabel, "offer_words").text()
    click(qtbot, widget, QPushButton, "offer_yes")
    qtbot.waitUntil(lambda: "left ball" in viewer.layers, timeout=PATIENCE_MS)
    np.testing.assert_array_equal(viewer.layers["left ball"].data, mask)


def test_volume_of_a_series_that_was_cut_off_is_the_same_volume_again(
    qtbot, open_widget, tmp_path, own_settings
) -> None:
    path = tmp_path / "series.nii.gz"
    volumes = np.random.default_rng(0).random((10, 11, 12, 3), dtype=np.float32)
    nib.save(nib.Nifti1Image(volumes, np.eye(4)), path)
    volume = formats.read(path, volume=1)
    case = Project(own_settings).case(ImageRef.of(volume, path, volume_index=1))
    history = EditHistory.open(case)
    history.put([(Row("ball", "ball"), np.ones(volume.data.shape, np.uint8))])
    assert history._case is not None
    history._case._journal.close()  # as when the window is killed
    history._case._lock.release()
    viewer, widget = open_widget()
    qtbot.waitUntil(lambda: offer_is_open(widget), timeout=PATIENCE_MS)
    click(qtbot, widget, QPushButton, "offer_yes")
    qtbot.waitUntil(lambda: "ball" in viewer.layers, timeout=PATIENCE_MS)
    np.testing.assert_array_equal(
        np.sort(viewer.layers[0].data, None), np.sort(volumes[..., 1], None)
    )
    assert viewer.layers[0].metadata["volume_index"] == 1
    (case,) = Project(own_settings).cases()
    assert case.image.volume_index == 1


def test_question_that_came_to_nothing_is_no_work_to_go_on_with(
    qtbot, open_widget, own_settings
) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "elephant")
    image = viewer.layers["head.nii.gz"]
    viewer.layers.remove(image)
    viewer.add_layer(image)
    qtbot.waitUntil(lambda: widget._work is not None, timeout=PATIENCE_MS)
    assert not offer_is_open(widget)
    assert not Project(own_settings).cases()


def masks_first(viewer) -> None:
    for layer in reversed(list(viewer.layers)):
        viewer.layers.remove(layer)


def image_first(viewer) -> None:
    for layer in list(viewer.layers):
        viewer.layers.remove(layer)  # fails for what has gone on its own


def trash_button(viewer) -> None:
    viewer.layers.select_all()
    viewer.layers.remove_selected()


def test_image_that_is_closed_with_its_masks_keeps_its_rows(qtbot, open_widget) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball; right ball")
    image = viewer.layers["head.nii.gz"]
    for close in (masks_first, image_first, trash_button, lambda viewer: viewer.layers.clear()):
        close(viewer)
        qtbot.waitUntil(lambda: len(viewer.layers) == 0, timeout=PATIENCE_MS)
        viewer.add_layer(image)
        qtbot.waitUntil(lambda: offer_is_open(widget), timeout=PATIENCE_MS)
        click(qtbot, widget, QPushButton, "offer_yes")
        qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=PATIENCE_MS)
        names = {layer.name for layer in viewer.layers}
        assert names == {"head.nii.gz", "left ball", "right ball"}
        assert len(rows(widget)) == 2


def test_image_that_is_closed_while_its_rows_come_stops_them(qtbot, open_widget) -> None:
    """What waits for its turn must not reach work that Qt has deleted: that ends the program."""
    viewer, widget = open_widget(head())
    image = viewer.layers["head.nii.gz"]
    for _ in range(3):
        ask(qtbot, widget, "left ball; right ball; balls")
        qtbot.waitUntil(lambda: "right ball" in viewer.layers, timeout=PATIENCE_MS)
        viewer.layers.remove(image)
        qtbot.waitUntil(lambda: len(viewer.layers) == 0, timeout=PATIENCE_MS)
        qtbot.wait(200)
        assert rows(widget) == []
        viewer.add_layer(image)
        qtbot.waitUntil(lambda: offer_is_open(widget), timeout=PATIENCE_MS)
        click(qtbot, widget, QPushButton, "offer_no")


def test_beginning_anew_deletes_nothing(qtbot, open_widget, own_settings) -> None:
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    image = viewer.layers["head.nii.gz"]
    viewer.layers.remove(image)
    viewer.add_layer(image)
    qtbot.waitUntil(lambda: offer_is_open(widget), timeout=PATIENCE_MS)
    click(qtbot, widget, QPushButton, "offer_no")
    ask_and_wait(qtbot, widget, "right ball")
    assert [layer.name for layer in viewer.layers] == ["head.nii.gz", "right ball"]
    assert list((own_settings / "set_aside").iterdir())


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs a file in the folder's place")
def test_project_that_cannot_be_written_is_said_and_stays_said(
    qtbot, open_widget, own_settings
) -> None:
    own_settings.write_text("a file where the folder should be")
    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    warning = child(widget, QLabel, "not_saved")
    assert not warning.isHidden()
    assert "NOT SAVED" in warning.text()
    paint_a_stroke(qtbot, viewer, widget, "left ball")
    assert "corrected" in row_texts(widget)[0]
    undo(qtbot, viewer)
    assert "corrected" not in row_texts(widget)[0]
    qtbot.wait(1200)
    assert not warning.isHidden()


def test_disk_that_fills_up_is_said_at_once_and_written_later(
    qtbot, open_widget, own_settings, monkeypatch
) -> None:
    from segone_napari.project.journal import Journal

    viewer, widget = open_widget(head())
    ask_and_wait(qtbot, widget, "left ball")
    warning = child(widget, QLabel, "not_saved")
    assert warning.isHidden()
    append = Journal.append

    def full(self, kind, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    paint_a_stroke(qtbot, viewer, widget, "left ball")
    qtbot.waitUntil(lambda: not warning.isHidden(), timeout=1000)
    assert "No space left" in warning.text() or "full" in warning.text()
    monkeypatch.setattr(Journal, "append", append)
    qtbot.waitUntil(warning.isHidden, timeout=PATIENCE_MS)


def test_same_image_in_two_windows_is_saved_by_the_first_only(qtbot, open_widget) -> None:
    first, one = open_widget(head())
    ask_and_wait(qtbot, one, "left ball")
    second, other = open_widget(head())
    ask_and_wait(qtbot, other, "right ball")
    assert [layer.name for layer in first.layers] == ["head.nii.gz", "left ball"]
    assert [layer.name for layer in second.layers] == ["head.nii.gz", "right ball"]
    assert child(one, QLabel, "not_saved").isHidden()
    assert "open in another window" in child(other, QLabel, "not_saved").text()


def test_asking_while_earlier_work_is_still_looked_for_shows_the_answer(
    qtbot, open_widget, monkeypatch
) -> None:
    may_look, looks = threading.Event(), []

    def slow_find(*values, **options):
        looks.append(values)
        may_look.wait(10)
        return find(*values, **options)

    find = cases.find
    monkeypatch.setattr(cases, "find", slow_find)
    viewer, widget = open_widget(head())
    ask(qtbot, widget, "left ball")
    qtbot.wait(200)
    may_look.set()
    qtbot.waitUntil(lambda: is_idle(widget), timeout=PATIENCE_MS)
    assert "left ball" in row_texts(widget)[0]
    assert np.count_nonzero(viewer.layers["left ball"].data.any(axis=(1, 2))) > 5
    assert len(looks) == 1
