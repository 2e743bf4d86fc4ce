"""The main job as a person does it, with the bundled model on the bundled MRI."""

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

PATIENCE_MS = 240_000


@pytest.mark.slow
@pytest.mark.usefixtures("bundled_checkpoint")
def test_typed_prompt_gives_the_voxels_that_the_command_line_writes(
    qtbot: Any, make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    # 1. The command line.
    sample, out = SAMPLES["t1"], tmp_path / "out.nii.gz"
    prompt = ["-p", "left hippocampus", "-p", "right thalamus"]
    main(["segment", str(sample.image_path), *prompt, "-o", str(out), "--preset", "fast"])
    written = np.asarray(nib.load(out).dataobj)

    # 2. The same in napari, from its menus.
    viewer = make_napari_viewer(show=True)
    viewer.open_sample("segone-napari", "t1")
    _, widget = viewer.window.add_plugin_dock_widget("segone-napari", "SegOne")
    assert isinstance(widget, SegOneWidget)
    widget.findChild(QComboBox, "preset").setCurrentText("Fast")
    line = widget.findChild(QLineEdit, "prompt")
    qtbot.keyClicks(line, "left hippocampus; right thalamus")
    qtbot.keyClick(line, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not widget.is_working, timeout=PATIENCE_MS)

    # 3. The same voxels, on the file's own grid.
    for value, name in [(1, "left hippocampus"), (2, "right thalamus")]:
        layer = viewer.layers[name]
        shown = volume_from_attributes(layer.data, {"metadata": layer.metadata})
        np.testing.assert_array_equal(shown.data == 1, written == value)
        np.testing.assert_allclose(shown.affine, nib.load(out).affine, atol=1e-4)
        assert shown.data.sum() > 500
