"""Memory: given back when an image or the panel is closed; said when there is too little."""

import gc
import threading
import weakref

import pytest
import torch
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QPushButton

from segone_napari.gui.layers import image_layer_data
from segone_napari.gui.widget import SegOneWidget
from segone_napari.session import Session
from segone_napari.systems import registry

from ..fakes import ThresholdSystem
from ..fakes import head as four_balls
from .hands import (
    PATIENCE_MS,
    ask_and_wait,
    child,
    click,
    row_texts,
    rows,
)


@pytest.fixture
def open_session(make_napari_viewer, monkeypatch):
    """A window with a real `Session`, whose system is made by a given function of the device."""

    def open_it(create):
        def create_by_name(name, *, checkpoint, device, preset, seed):
            return create(device)

        monkeypatch.setattr(registry, "create", create_by_name)
        sessions = []

        def make_session(preset, device):
            sessions.append(Session(preset=preset, device=device))
            return sessions[-1]

        viewer = make_napari_viewer(show=True)
        data, arguments, _ = image_layer_data(four_balls())
        viewer.add_image(data, **arguments)
        widget = SegOneWidget(viewer, make_session=make_session)
        viewer.window.add_dock_widget(widget, name="SegOne", area="right")
        return viewer, widget, sessions

    return open_it


def test_closed_image_gives_its_memory_back(qtbot, open_session) -> None:
    """Nothing of an image stays in memory: its voxels, what was encoded, masks, uncertainty."""
    viewer, widget, sessions = open_session(lambda device: ThresholdSystem())
    ask_and_wait(qtbot, widget, "left hippocampus; right amygdala")
    qtbot.mouseClick(rows(widget)[0], Qt.MouseButton.LeftButton)
    click(qtbot, widget, QPushButton, "next_doubtful")
    (session,) = sessions
    work = widget._work
    ((volume, encoded),) = session._encoded.values()
    refs = {
        "encoded": weakref.ref(encoded),
        "volume": weakref.ref(volume),
        "voxels": weakref.ref(volume.data),
        "doubt": weakref.ref(widget._review.doubt),
        **{f"mask {n}": weakref.ref(mask) for n, mask in work.history.masks.items()},
    }
    session.system.encoded.clear()  # the stand-in's own list
    del volume, encoded, work
    viewer.layers.remove(viewer.layers["head.nii.gz"])
    qtbot.waitUntil(lambda: len(viewer.layers) == 0, timeout=PATIENCE_MS)

    def left() -> list[str]:
        gc.collect()
        return [name for name, ref in refs.items() if ref() is not None]

    qtbot.waitUntil(lambda: not left(), timeout=PATIENCE_MS)
    assert session._encoded == {}


def test_closed_panel_ends_its_threads_and_lets_the_model_go(qtbot, open_session) -> None:
    before = {thread.name for thread in threading.enumerate()}
    viewer, widget, sessions = open_session(lambda device: ThresholdSystem())
    ask_and_wait(qtbot, widget, "left hippocampus")
    session = weakref.ref(sessions.pop())
    dock = widget.parent()
    while dock is not None and not hasattr(dock, "destroyOnClose"):
        dock = dock.parent()
    dock.destroyOnClose()
    del widget, dock

    def left() -> list[str]:
        gc.collect()
        names = {thread.name for thread in threading.enumerate()} - before
        return [name for name in names if name.startswith("segone")]

    qtbot.waitUntil(lambda: not left(), timeout=PATIENCE_MS)
    qtbot.waitUntil(lambda: session() is None, timeout=PATIENCE_MS)
    assert "left hippocampus" in viewer.layers  # what a person made stays


class Features:
    """What takes up the GPU's memory."""


class OutOfMemory(ThresholdSystem):
    """A system on a GPU that is full."""

    held: weakref.ref[Features] = weakref.ref(Features())

    def encode(self, image, *, progress):
        features = Features()
        OutOfMemory.held = weakref.ref(features)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB.")


class Gone(ThresholdSystem):
    """A system on a GPU that was unplugged while it answered."""

    def segment(self, encoded, prompts, *, progress):
        raise RuntimeError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize(("trouble", "words"), [(OutOfMemory, "is full"), (Gone, "stopped")])
def test_gpu_that_is_full_or_gone_is_said_and_the_cpu_answers(
    qtbot, open_session, notifications, trouble, words
) -> None:
    devices = []

    def create(device):
        devices.append(device)
        if device == "cpu":
            assert OutOfMemory.held() is None  # let go before the CPU begins
            return ThresholdSystem()
        return trouble()

    viewer, widget, sessions = open_session(create)
    ask_and_wait(qtbot, widget, "left hippocampus")
    assert devices == ["auto", "cpu"]
    assert "left hippocampus" in row_texts(widget)[0]
    assert viewer.layers["left hippocampus"].data.any()
    assert any(words in said and "works on the CPU" in said for _, said in notifications)
    header = child(widget, QLabel, "header")
    qtbot.waitUntil(lambda: "the GPU failed" in header.text(), timeout=PATIENCE_MS)
    ask_and_wait(qtbot, widget, "right amygdala")  # the next prompt goes to the CPU at once
    assert devices == ["auto", "cpu"]
    assert len(sessions) == 2
