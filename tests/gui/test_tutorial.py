"""The tutorial in the documentation, step by step, in a real window; balls stand for the model."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QLineEdit, QPushButton, QToolButton

from segone_napari.data.samples import SAMPLES
from segone_napari.gui import correcting
from segone_napari.models.teacher import Proposal, Teacher
from segone_napari.systems.base import EMPTY_BOX, Result

from ..fakes import VOCABULARY, put_in_registry
from .hands import (
    PATIENCE_MS,
    ask_and_wait,
    child,
    click,
    click_on,
    drag,
    press,
    redo,
    row_text,
    rows,
    undo,
)

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


PLACES = {"left hippocampus": (-25, -20, -15), "right hippocampus": (25, -20, -15)}
"""Where the balls lie, in mm (RAS)."""


class BallsInTheSample:
    """A system that draws a ball where each hippocampus is about."""

    name, checkpoint, has_uncertainty, seed = "balls", "by-hand", True, 0

    def encode(self, image, *, progress):
        return image

    def segment(self, encoded, prompts, *, progress):
        return [self._answer(encoded, prompt) for prompt in prompts]

    def preview(self, image, prompts, axis, index, *, progress):
        return []

    def forget(self, image=None):
        pass

    def _answer(self, image, prompt):
        term = VOCABULARY.match(prompt).term
        if term is None:
            nothing = np.zeros((0, 0, 0), np.float16)
            return Result(prompt, None, None, image.grid, EMPTY_BOX, nothing, False, 0.0, 0.0)
        middle = nib.affines.apply_affine(np.linalg.inv(image.affine), PLACES[term.canonical])
        starts = np.round(middle).astype(int) - 12
        far = np.linalg.norm(np.indices((25, 25, 25)) - 12, axis=0)
        probability = np.clip((10 - far) / 4 + 0.5, 0, 1).astype(np.float16)
        doubt = (1 - np.abs(2 * probability - 1)).astype(np.float16)
        box = tuple(slice(start, start + 25) for start in starts)
        return Result(
            prompt, term.canonical, term.side, image.grid, box, probability, True, 0.9, 0.0, doubt
        )


class Discs:
    """Stands for SAM2: a disc at each click; sure of it for a few slices, then no more."""

    def __init__(self):
        self.left = 8

    def set_slice(self, image, spacing):
        self.shape, self.left = image.shape, self.left - 1

    def predict(self, box=None, points=None, labels=None, mask=None):
        out = np.zeros(self.shape, np.float32) if mask is None else np.array(mask, np.float32)
        far = np.indices(self.shape)
        for point, label in zip(points or (), labels or (), strict=True):
            out[np.hypot(far[0] - point[0], far[1] - point[1]) < 6] = label
        return Proposal(out, 0.9 if self.left > 0 else 0.1)


class Reader:
    """Follows the tutorial; one method a step, named after its heading."""

    def __init__(self, qtbot, viewer, folder, steps):
        self.qtbot, self.viewer, self.folder, self.steps = qtbot, viewer, folder, steps
        self.widget = None

    def open_a_scan(self):
        self.viewer.open_sample("segone-napari", "t1")
        assert len(self.viewer.layers) == 1

    def open_the_panel(self):
        _, self.widget = self.viewer.window.add_plugin_dock_widget("segone-napari", "SegOne")
        assert "left is on the" in child(self.widget, QLabel, "sides").text()

    def ask(self):
        for prompt in self.quoted("Ask"):
            ask_and_wait(self.qtbot, self.widget, prompt)
        texts = [row_text(row) for row in rows(self.widget)]
        for text, name in zip(texts, PLACES | {"elephant": ()}, strict=True):
            assert name in text
        assert "mL" in texts[0]
        assert "not found" in texts[2]

    def look_where_it_pays(self):
        self.choose()
        before = self.viewer.dims.current_step
        press(self.qtbot, self.viewer, Qt.Key.Key_N)
        assert "doubtful" in child(self.widget, QLabel, "status").text()
        press(self.qtbot, self.viewer, Qt.Key.Key_N)
        assert self.viewer.dims.current_step != before

    def correct(self):
        self.choose()
        click(self.qtbot, self.widget, QToolButton, "tool_paint")
        layer = self.viewer.layers["left hippocampus"]
        before = layer.data.copy()
        at = self.viewer.dims.current_step[0]
        _, row, column = np.argwhere(layer.data[at : at + 1]).mean(axis=0).astype(int)
        drag(self.qtbot, self.viewer, (at, row + 20, column), (at, row + 20, column + 15))
        painted = layer.data.copy()
        assert (painted != before).sum() > 50
        saved = child(self.widget, QLabel, "saved")
        self.qtbot.waitUntil(lambda: saved.text() == "saved just now", timeout=5000)
        undo(self.qtbot, self.viewer)
        np.testing.assert_array_equal(layer.data, before)
        redo(self.qtbot, self.viewer)
        np.testing.assert_array_equal(layer.data, painted)

    def let_sam2_help(self):
        for word in ("Click +", "Box", "Spread"):
            assert f"**{word}**" in self.steps["Let SAM2 help"]
        self.choose()
        layer = self.viewer.layers["left hippocampus"]
        before = layer.data.copy()
        at, row, column = (int(n) for n in np.argwhere(layer.data).mean(axis=0))
        self.viewer.dims.set_current_step(0, at)
        click(self.qtbot, self.widget, QPushButton, "click_add")
        take = child(self.widget, QPushButton, "preview_take")
        # 1. One click, dropped; one and another with Shift, taken.
        click_on(self.qtbot, self.viewer, (at, row, column + 14))
        self.qtbot.waitUntil(lambda: take.isVisible() and take.isEnabled(), timeout=PATIENCE_MS)
        press(self.qtbot, self.viewer, Qt.Key.Key_Escape)
        np.testing.assert_array_equal(layer.data, before)
        click_on(self.qtbot, self.viewer, (at, row, column + 14))
        shift = Qt.KeyboardModifier.ShiftModifier
        click_on(self.qtbot, self.viewer, (at, row, column - 9), shift)
        self.qtbot.waitUntil(lambda: take.isVisible() and take.isEnabled(), timeout=PATIENCE_MS)
        press(self.qtbot, self.viewer, Qt.Key.Key_Return)
        taken = layer.data.copy()
        assert taken[at, row, column + 14]
        assert not taken[at, row, column - 9]
        # 2. Spread, as one step.
        click(self.qtbot, self.widget, QPushButton, "spread")
        self.qtbot.waitUntil(lambda: (layer.data != taken).any(), timeout=PATIENCE_MS)
        self.qtbot.waitUntil(lambda: not self.widget._work.is_busy, timeout=PATIENCE_MS)
        assert layer.data[at - 1, row, column + 14]
        undo(self.qtbot, self.viewer)
        np.testing.assert_array_equal(layer.data, taken)

    def accept(self):
        click(self.qtbot, rows(self.widget)[0], QToolButton, "accept")
        assert "accepted" in row_text(rows(self.widget)[0])
        assert not self.viewer.layers["left hippocampus"].editable

    def export(self):
        click(self.qtbot, self.widget, QPushButton, "export")
        window = child(self.widget, object, "export_window")
        child(window, QLineEdit, "export_folder").setText(str(self.folder))
        click(self.qtbot, window, QPushButton, "export_now")
        words = child(window, QLabel, "export_words")
        self.qtbot.waitUntil(lambda: words.text() != "Writing …", timeout=PATIENCE_MS)
        assert words.text().startswith("Wrote"), words.text()
        window.close()
        (written,) = self.folder.glob("*_segone.nii.gz")
        labels, image = nib.load(written), nib.load(SAMPLES["t1"].image_path)
        np.testing.assert_allclose(labels.affine, image.affine, atol=1e-4)
        assert labels.shape == image.shape
        voxels = np.asarray(labels.dataobj)
        assert set(np.unique(voxels)) == {0, 1, 2}
        again = sitk.ReadImage(str(written))
        assert again.GetSize() == image.shape
        np.testing.assert_allclose(again.GetSpacing(), image.header.get_zooms()[:3], atol=1e-4)
        shown = self.viewer.layers["left hippocampus"].data
        assert (voxels == 1).sum() == np.count_nonzero(shown)
        assert list(self.folder.glob("*.provenance.json"))
        assert list(self.folder.glob("*.csv"))

    def come_back(self):
        mask = self.viewer.layers["left hippocampus"].data.copy()
        image = self.viewer.layers[0]
        self.viewer.layers.remove(image)
        self.viewer.add_layer(image)
        offer = child(self.widget, QPushButton, "offer_yes")
        self.qtbot.waitUntil(offer.isVisible, timeout=PATIENCE_MS)
        assert f"**{offer.text()}**" in self.steps["Come back"]
        click(self.qtbot, self.widget, QPushButton, "offer_yes")
        self.qtbot.waitUntil(lambda: len(self.viewer.layers) == 3, timeout=PATIENCE_MS)
        np.testing.assert_array_equal(self.viewer.layers["left hippocampus"].data, mask)
        assert "accepted" in row_text(rows(self.widget)[0])

    def choose(self):
        row = next(row for row in rows(self.widget) if "left hippocampus" in row_text(row))
        self.qtbot.mouseClick(row, Qt.MouseButton.LeftButton)

    def quoted(self, step: str) -> list[str]:
        """What the step says to type."""
        return re.findall(r"`([^`]+)`", self.steps[step])


def test_every_step_of_the_tutorial_does_what_it_says(
    qtbot, make_napari_viewer, tmp_path, monkeypatch
) -> None:
    put_in_registry(monkeypatch, BallsInTheSample())
    monkeypatch.setattr(Teacher, "load", lambda source, device: Discs())
    monkeypatch.setattr(correcting, "why_none", lambda source: "")
    parts = re.split(r"^## \d+\. (.+)$", TUTORIAL.read_text(encoding="utf-8"), flags=re.MULTILINE)
    steps = dict(zip(parts[1::2], parts[2::2], strict=True))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    reader = Reader(qtbot, viewer, tmp_path / "export", steps)
    for heading in steps:
        getattr(reader, heading.lower().replace(" ", "_"))()
