"""What the manifest brings to napari: reader, writer, sample data, the widget in the menus."""

import os
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManager, PluginManifest

from segone_napari.data.samples import SAMPLES
from segone_napari.gui import readers
from segone_napari.runtime import BadInput

from .conftest import head

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, -0.15) @ np.diag([-0.9, 1.1, 1.4]), (12, -20, -15)
)


@pytest.fixture(params=["head.nii", "head.nii.gz", "head.mgz", "head.mgh"])
def head_file(request: pytest.FixtureRequest, tmp_path) -> Any:
    volume = head(OBLIQUE)
    path = tmp_path / request.param
    kind = nib.Nifti1Image if ".nii" in request.param else nib.MGHImage
    nib.save(kind(volume.data.astype(np.float32), OBLIQUE), path)
    return path


@pytest.fixture
def viewer() -> ViewerModel:
    """A viewer without a window, as a script may have it."""
    PluginManager.instance().discover()
    return ViewerModel()


def test_manifest_is_valid_and_is_the_one_that_is_installed() -> None:
    manifest = PluginManifest.from_distribution("segone-napari")
    assert manifest.name == "segone-napari"
    manifest.validate_imports()


def test_manifest_offers_every_sample_by_its_title() -> None:
    manifest = PluginManifest.from_distribution("segone-napari")
    offered = {sample.key: sample.display_name for sample in manifest.contributions.sample_data}
    assert offered == {key: sample.title for key, sample in SAMPLES.items()}


def test_file_opened_in_napari_keeps_its_voxels_and_true_affine(
    viewer: ViewerModel, head_file
) -> None:
    from segone_napari.gui.layers import volume_of

    (layer,) = viewer.open(head_file, plugin="segone-napari")
    volume = volume_of(layer)
    stored = nib.load(head_file)
    np.testing.assert_array_equal(volume.data, np.asarray(stored.dataobj))
    np.testing.assert_allclose(volume.affine, stored.affine, atol=1e-4)
    assert layer.metadata["path"] == str(head_file)


@pytest.mark.parametrize("ending", [".nii.gz", ".mgz"])
def test_layer_saved_in_napari_lies_over_its_image(
    viewer: ViewerModel, head_file, tmp_path, ending
) -> None:
    (layer,) = viewer.open(head_file, plugin="segone-napari")
    saved = tmp_path / f"saved{ending}"
    layer.save(str(saved), plugin="segone-napari")
    written, stored = nib.load(saved), nib.load(head_file)
    np.testing.assert_allclose(written.affine, stored.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(stored.dataobj))


def test_layer_that_does_not_say_how_it_lies_is_not_saved_as_if_it_did(tmp_path) -> None:
    with pytest.raises(BadInput, match="doesn't say how it lies"):
        readers.write_layer(
            str(tmp_path / "x.nii.gz"), np.zeros((3, 4, 5)), {"name": "array", "metadata": {}}
        )
    assert os.listdir(tmp_path) == []


def test_other_files_are_left_to_other_readers(tmp_path) -> None:
    assert readers.get_reader(str(tmp_path / "picture.png")) is None
    assert readers.get_reader([str(tmp_path / "a.nii"), str(tmp_path / "b.png")]) is None


def test_broken_file_says_what_is_wrong(tmp_path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8b not really")
    reader = readers.get_reader(str(broken))
    assert reader is not None
    with pytest.raises(BadInput, match=r"broken\.nii\.gz"):
        reader(str(broken))


@pytest.mark.parametrize("key", sorted(SAMPLES))
def test_sample_opens_from_the_menu(viewer: ViewerModel, key: str) -> None:
    (layer,) = viewer.open_sample("segone-napari", key)
    assert layer.data.ndim == 3
    np.testing.assert_allclose(
        sorted(layer.scale), sorted(nib.load(SAMPLES[key].image_path).header.get_zooms()), rtol=1e-3
    )


def test_widget_docks_from_the_plugin_menu(make_napari_viewer: Callable[..., Any], qtbot) -> None:
    viewer = make_napari_viewer(show=True)
    action = next(
        action
        for action in all_actions(viewer.window.plugins_menu)
        if action.text().startswith("SegOne")
    )
    action.trigger()
    qtbot.waitUntil(lambda: bool(docked(viewer)), timeout=20_000)


def test_widget_is_in_the_layers_menu_for_segmentation() -> None:
    manager = PluginManager.instance()
    manager.discover()
    items = list(manager.iter_menu("napari/layers/segment"))
    assert "segone-napari.widget" in [getattr(item, "command", None) for item in items]


def all_actions(menu: Any) -> list[Any]:
    """The actions of a menu, and of a menu inside it."""
    return [
        inner
        for action in menu.actions()
        for inner in (all_actions(action.menu()) if action.menu() else [action])
    ]


def docked(viewer: Any) -> list[Any]:
    from segone_napari.gui.widget import SegOneWidget

    return viewer.window._qt_window.findChildren(SegOneWidget)
