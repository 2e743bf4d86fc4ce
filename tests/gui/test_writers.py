"""napari's Save Selected Layers: our answers go out as other programs want them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segone_napari.exports.reading import read_segments
from segone_napari.gui.layers import colour_map, read_layer
from segone_napari.runtime import BadInput
from tests.exports.cases import save_series
from tests.fakes import ThresholdSystem, head, head_affine, save_head


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any], tmp_path: Path) -> Any:
    """An oblique head with two answers over it."""
    shown = make_napari_viewer()
    file = save_head(tmp_path / "head.nii.gz", head_affine(degrees=12.0))
    (layer,) = shown.open(file, plugin="segone-napari")
    image, system = read_layer(layer), ThresholdSystem()
    prompts = ["left hippocampus", "amygdala"]
    for result in system.segment(system.encode(image.volume), prompts):
        shown.add_labels(
            np.ascontiguousarray(image.layout.to_layer(result.mask.data)),
            name=result.prompt,
            scale=layer.scale,
            translate=layer.translate,
            colormap=colour_map(result.colour),
            metadata={**layer.metadata, "segone_name": result.resolved},
        )
    return shown


@pytest.mark.parametrize("name", ["out.seg.nrrd", "out.nii.gz"])
def test_saved_layers_are_the_masks_on_the_images_grid(
    viewer: Any, tmp_path: Path, name: str
) -> None:
    image, *answers = viewer.layers
    viewer.layers.selection = set(answers)
    viewer.layers.save(str(tmp_path / name), selected=True, plugin="segone-napari")
    volume = read_layer(image)
    came = read_segments(tmp_path / name, grid=volume.grid)
    assert [one.name for one in came] == ["left hippocampus", "amygdala"]
    for layer, one in zip(answers, came, strict=True):
        np.testing.assert_array_equal(one.mask.data, volume.layout.to_stored(layer.data))
        assert one.mask.data.any()
        shown = np.round(255 * layer.colormap.map(1)[:3])
        np.testing.assert_allclose(one.colour, shown, atol=1)


def test_image_that_is_saved_with_labels_gives_their_intensities(
    viewer: Any, tmp_path: Path
) -> None:
    viewer.layers.save(str(tmp_path / "out.csv"), plugin="segone-napari")
    lines = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert [line[1] for line in lines] == ["name", "left hippocampus", "amygdala"]
    assert [round(float(line[6])) for line in lines[1:]] == [100, 150]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.csv"]


def test_layers_of_a_dicom_series_are_saved_as_its_segmentation(
    viewer: Any, tmp_path: Path
) -> None:
    save_series(tmp_path / "series", head(head_affine(degrees=12.0)))
    for layer in viewer.layers:
        layer.metadata["path"] = str(tmp_path / "series")
    viewer.layers.save(str(tmp_path / "out.dcm"), plugin="segone-napari")
    volume = read_layer(viewer.layers[0])
    came = read_segments(tmp_path / "out.dcm", grid=volume.grid)
    np.testing.assert_array_equal(came[1].mask.data, volume.layout.to_stored(viewer.layers[2].data))


def test_labels_of_any_program_are_saved_one_structure_a_label(viewer: Any, tmp_path: Path) -> None:
    layer = viewer.layers[2]
    layer.metadata.pop("segone_name")
    layer.name = "mine"
    layer.data[:4, :4, :4] = 5
    layer.save(str(tmp_path / "mine.seg.nrrd"), plugin="segone-napari")
    names = [one.name for one in read_segments(tmp_path / "mine.seg.nrrd")]
    assert names == ["mine 1", "mine 5"]


def test_layer_of_unknown_place_is_not_saved(viewer: Any, tmp_path: Path) -> None:
    layer = viewer.add_labels(np.ones((4, 4, 4), dtype=np.uint8))
    with pytest.raises(BadInput, match="doesn't say how it lies"):
        layer.save(str(tmp_path / "x.seg.nrrd"), plugin="segone-napari")
    assert not (tmp_path / "x.seg.nrrd").exists()
