"""A head made of two bright balls, and a system that finds them by threshold and affine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from segone_napari.models.teacher import Proposal
from segone_napari.runtime import Progress, no_progress
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

from .once import repeated_work_done_once

SHAPE = (34, 40, 30)
BALLS = {"left": ((-11.0, 4.0, 3.0), 5.0), "right": ((11.0, 4.0, 3.0), 7.0)}


def head(affine: np.ndarray | None = None, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """A dim head with a small bright ball on the left and a larger one on the right."""
    if affine is None:
        affine = nib.affines.from_matvec(np.eye(3), -(np.array(shape) - 1) / 2)
    index = np.indices(shape).reshape(3, -1).T
    world = nib.affines.apply_affine(affine, index)
    data = np.where(np.linalg.norm(world / (16.0, 19.0, 14.0), axis=1) < 1, 100.0, 0.0)
    for centre, radius in BALLS.values():
        data[np.linalg.norm(world - np.array(centre), axis=1) < radius] = 200.0
    return Volume.from_affine(data.reshape(shape).astype(np.float32), affine, "head.nii.gz")


class ThresholdSegmenter:
    """Answers "left ball", "right ball" and "balls"; everything else is not found.

    `gate`, when given, holds the work up at every step until it is set.
    """

    def __init__(self, steps: int = 4, gate: threading.Event | None = None):
        self.steps = steps
        self.gate = gate
        self.asked: list[tuple[str, ...]] = []
        self.previewed: list[tuple[int, int]] = []
        self.images: list[Volume] = []
        self.forgotten: list[Volume | None] = []
        self.recalled: list[Volume] = []
        self.reloads = 0
        self.threads: set[int] = set()
        self.has_begun = threading.Event()
        self.has_ended = threading.Event()
        self.error: Exception | None = None

    def segment(
        self, image: Volume, prompts: Sequence[str], *, progress: Progress = no_progress
    ) -> list[Result]:
        self.has_ended.clear()
        self.has_begun.set()
        try:
            self.threads.add(threading.get_ident())
            self.asked.append(tuple(prompts))
            self.images.append(image)
            for step in range(self.steps):
                progress(step, self.steps)
                while self.gate is not None and not self.gate.wait(0.02):
                    progress(step, self.steps)
            if self.error is not None:
                raise self.error
            return [self._answer(image, prompt) for prompt in prompts]
        finally:
            self.has_ended.set()

    def preview(
        self,
        image: Volume,
        prompts: Sequence[str],
        axis: int,
        index: int,
        *,
        progress: Progress = no_progress,
    ) -> list[Result]:
        self.previewed.append((axis, index))
        box = [slice(0, n) for n in image.grid.shape]
        box[axis] = slice(index, index + 1)
        return [self._answer(image, prompt, tuple(box)) for prompt in prompts]

    def forget(self, image: Volume | None = None) -> None:
        self.forgotten.append(image)

    def reload(self) -> None:
        self.reloads += 1

    def recall(self, image: Volume) -> None:
        self.recalled.append(image)

    def _answer(self, image: Volume, prompt: str, box: Any = None) -> Result:
        box = box or tuple(slice(0, n) for n in image.grid.shape)
        side = prompt.split()[0] if prompt.split()[0] in BALLS else None
        if prompt == "balls":
            side = "both"
        is_ball = prompt.endswith(("ball", "balls"))
        mask = np.asarray(image.data, dtype=np.float32) > 150
        index = np.indices(image.grid.shape).reshape(3, -1).T
        x = nib.affines.apply_affine(image.affine, index)[:, 0].reshape(image.grid.shape)
        if side in BALLS:
            mask &= x < 0 if side == "left" else x > 0
        inside = mask[box] & is_ball
        return Result(
            prompt=prompt,
            resolved=prompt if is_ball else None,
            side=side,
            grid=image.grid,
            box=box,
            probability=inside.astype(np.float16),
            found=bool(inside.any()),
            confidence=0.91 if inside.any() else 0.03,
            seconds=0.1,
            colour=(10, 200, 30) if side == "left" else (200, 30, 10),
            suggestions=() if is_ball else ("left ball",),
        )


class BrightTeacher:
    """Stands for SAM2: outlines bright pixels that are connected to what it is told about.

    It is sure of what it sees as long as there is any. `gate`, when given, holds it up before it
    looks at a slice until it is set.
    """

    def __init__(self, gate: threading.Event | None = None):
        self.gate = gate
        self.looked: list[tuple[float, float]] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self._pixels = np.zeros((1, 1))

    def set_slice(self, image: Any, spacing: tuple[float, float] = (1.0, 1.0)) -> None:
        while self.gate is not None and not self.gate.wait(0.02):
            pass
        if self.error is not None:
            raise self.error
        self.threads.add(threading.get_ident())
        self.looked.append(spacing)
        self._pixels = np.asarray(image)

    def predict(
        self, box: Any = None, points: Any = None, labels: Any = None, mask: Any = None
    ) -> Proposal:
        parts, _ = ndimage.label(self._pixels > 150)
        told = np.zeros(parts.shape, bool) if mask is None else np.asarray(mask) > 0.5
        if box is not None:
            first_row, first_column, last_row, last_column = np.rint(box).astype(int)
            told[first_row : last_row + 1, first_column : last_column + 1] = True
        wanted = set(np.unique(parts[told]).tolist())
        for (row, column), label in zip(points or (), labels or (), strict=True):
            part = int(parts[round(row), round(column)])
            wanted = wanted | {part} if label else wanted - {part}
        probability = np.isin(parts, list(wanted - {0})).astype(np.float32)
        return Proposal(probability, 0.9 if probability.any() else 0.1)


@pytest.fixture(autouse=True, scope="session")
def _done_once() -> Iterator[None]:
    with repeated_work_done_once():
        yield


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep a person's own preferences and work out of the tests; returns the project's folder."""
    from qtpy.QtCore import QSettings

    folder = tmp_path_factory.mktemp("person")
    monkeypatch.setenv("SEGONE_PROJECT", str(folder / "project"))
    kind, scope = QSettings.Format.IniFormat, QSettings.Scope.UserScope
    QSettings.setPath(kind, scope, str(folder / "settings"))
    return folder / "project"


@pytest.fixture
def segmenter() -> ThresholdSegmenter:
    return ThresholdSegmenter()


@pytest.fixture
def teacher() -> BrightTeacher:
    return BrightTeacher()


@pytest.fixture
def open_widget(
    make_napari_viewer: Callable[..., Any],
    segmenter: ThresholdSegmenter,
    teacher: BrightTeacher,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[Any, Any]]:
    """Dock the widget in a real viewer: ``open_widget(volume) -> (viewer, widget)``."""
    from segone_napari.gui import correcting
    from segone_napari.gui.layers import image_layer_data
    from segone_napari.gui.widget import SegOneWidget

    monkeypatch.setattr(correcting, "why_none", lambda source: "")

    def open_it(volume: Volume | None = None) -> tuple[Any, Any]:
        viewer = make_napari_viewer(show=True)
        if volume is not None:
            data, arguments, _ = image_layer_data(volume)
            viewer.add_image(data, **arguments)
        widget = SegOneWidget(
            viewer,
            make_session=lambda preset, device: segmenter,
            load_teacher=lambda source, device: teacher,
        )
        viewer.window.add_dock_widget(widget, name="SegOne", area="right")
        return viewer, widget

    return open_it


@pytest.fixture
def notifications() -> Any:
    """What napari told the person, in order: (severity, words)."""
    from napari.utils.notifications import notification_manager

    told: list[tuple[str, str]] = []

    def listen(event: Any) -> None:
        told.append((str(event.severity), event.message))

    notification_manager.notification_ready.connect(listen)
    yield told
    notification_manager.notification_ready.disconnect(listen)
