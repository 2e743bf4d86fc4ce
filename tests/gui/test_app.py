"""``segone view``: napari with an image, the docked widget and results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QLabel, QWidget

from segone_napari.data import formats
from segone_napari.gui import app
from segone_napari.gui.layers import volume_from_attributes
from segone_napari.runtime import BadInput

from .conftest import ThresholdSegmenter, head


def test_view_opens_the_image_with_results_over_it(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, qtbot: Any
) -> None:
    path = formats.write(head(), tmp_path / "head.nii.gz")
    volume = formats.read(path)
    results = ThresholdSegmenter().segment(volume, ["left ball", "elephant"])
    viewer, widget = app.open_viewer(
        path, results=results, checkpoint="weights", viewer=make_napari_viewer(show=True)
    )
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)  # made ready in a worker
    assert [layer.name for layer in viewer.layers] == ["head.nii.gz", "left ball"]
    labels = viewer.layers["left ball"]
    mask = volume_from_attributes(labels.data, {"metadata": labels.metadata}).data
    np.testing.assert_array_equal(mask, results[0].mask.data)
    results_list = widget.findChild(QWidget, "results")
    qtbot.waitUntil(
        lambda: any("not found" in one.text() for one in results_list.findChildren(QLabel)),
        timeout=10_000,
    )
    assert widget._work.rows[0].checkpoint == "weights"  # else it would count as drawn by hand


def test_view_opens_empty_too(make_napari_viewer: Callable[..., Any]) -> None:
    viewer, widget = app.open_viewer(None, viewer=make_napari_viewer(show=True))
    assert len(viewer.layers) == 0
    assert "Open an MRI" in widget.findChild(QLabel, "status").text()


def test_bad_file_is_refused_before_a_window_opens(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.nii\.gz"):
        app.view(tmp_path / "nowhere.nii.gz")


def test_missing_display_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="no display"):
        app.view(None)
