"""The main job as a person does it in napari, against what the command line writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLineEdit

from segone_napari.cli import main
from segone_napari.data.samples import SAMPLES
from segone_napari.gui.layers import volume_from_attributes
from segone_napari.gui.widget import SegOneWidget

from ..fakes import ThresholdSystem, head_affine, put_in_registry, save_head

PATIENCE_MS = 240_000


def test_typed_prompt_gives_the_voxels_that_the_command_line_writes(
    qtbot: Any,
    make_napari_viewer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_in_registry(monkeypatch, ThresholdSystem())
    turned = np.diag([-1.0, 1.0, 1.0, 1.0]) @ head_affine(degrees=12)
    image = save_head(tmp_path / "head.nii.gz", turned)
    viewer = make_napari_viewer(show=True)
    viewer.open(image, plugin="segone-napari")
    compare_with_the_command_line(
        qtbot, viewer, image, ["left hippocampus", "right amygdala"], tmp_path / "out.nii.gz", 60
    )


@pytest.mark.slow
@pytest.mark.usefixtures("bundled_checkpoint")
def test_bundled_model_gives_in_napari_what_the_command_line_writes(
    qtbot: Any, make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.open_sample("segone-napari", "t1")
    image = SAMPLES["t1"].image_path
    compare_with_the_command_line(
        qtbot, viewer, image, ["left hippocampus", "right thalamus"], tmp_path / "out.nii.gz", 500
    )


def compare_with_the_command_line(
    qtbot: Any, viewer: Any, image: Path, prompts: list[str], out: Path, fewest_voxels: int
) -> None:
    """Ask both the same of the image that the viewer has open; expect the same voxels."""
    # 1. The command line.
    options = [word for prompt in prompts for word in ("-p", prompt)]
    main(["segment", str(image), *options, "-o", str(out), "--preset", "fast"])
    written = np.asarray(nib.load(out).dataobj)

    # 2. The widget, typed into as a person would.
    _, widget = viewer.window.add_plugin_dock_widget("segone-napari", "SegOne")
    assert isinstance(widget, SegOneWidget)
    widget.findChild(QComboBox, "preset").setCurrentText("Fast")
    line = widget.findChild(QLineEdit, "prompt")
    qtbot.keyClicks(line, "; ".join(prompts))
    qtbot.keyClick(line, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not widget.is_working, timeout=PATIENCE_MS)

    # 3. The same voxels, on the file's own grid.
    for value, name in enumerate(prompts, start=1):
        layer = viewer.layers[name]
        shown = volume_from_attributes(layer.data, {"metadata": layer.metadata})
        np.testing.assert_array_equal(shown.data == 1, written == value)
        np.testing.assert_allclose(shown.affine, nib.load(out).affine, atol=1e-4)
        assert shown.data.sum() >= fewest_voxels
