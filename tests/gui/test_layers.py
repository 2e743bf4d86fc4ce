"""A volume on screen: which way it lies, and back to the volume's own order."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from segone_napari.gui import layers
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume

from .conftest import ThresholdSegmenter, head

ORDERS = [
    "".join(flip[axis] for axis in order)
    for order in itertools.permutations(range(3))
    for flip in itertools.product("RL", "AP", "SI")
]


def stored_as(volume: Volume, codes: str, spacing=(1.0, 1.0, 1.0), angle_deg: float = 0.0):
    """Sample the same head on a grid of other axes, spacing and obliquity."""
    ornt = nib.orientations.axcodes2ornt(codes)
    matrix = np.zeros((3, 3))
    for axis, (world_axis, sign) in enumerate(ornt):
        matrix[int(world_axis), axis] = sign * spacing[axis]
    rotation = nib.eulerangles.euler2mat(*np.radians([angle_deg, angle_deg / 2, -angle_deg]))
    matrix = rotation @ matrix
    shape = (26, 28, 30)
    middle = (np.array(shape) - 1) / 2
    return head(nib.affines.from_matvec(matrix, -matrix @ middle), shape)


def layer_of(volume: Volume) -> Image:
    data, arguments, _ = layers.image_layer_data(volume)
    return Image(data, **arguments)


@pytest.mark.parametrize("codes", ORDERS)
@pytest.mark.parametrize("angle_deg", [0.0, 14.0])
def test_every_axis_order_is_shown_feet_back_left(codes: str, angle_deg: float) -> None:
    layer = layer_of(stored_as(head(), codes, (1.0, 1.3, 0.8), angle_deg))
    assert nib.aff2axcodes(layer.metadata["affine"]) == ("I", "P", "L")
    np.testing.assert_allclose(layer.scale, nib.affines.voxel_sizes(layer.metadata["affine"]))
    assert (layer.scale > 0).all()


@pytest.mark.parametrize("codes", ORDERS)
def test_volume_comes_back_from_its_layer_as_it_was(codes: str) -> None:
    volume = stored_as(head(), codes, (1.0, 1.3, 0.8), 14.0)
    back = layers.volume_of(layer_of(volume))
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.grid.is_same_as(volume.grid)
    assert (back.grid.sform_code, back.grid.qform_code) == (1, 1)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LIA", "PSR"])
def test_world_of_a_straight_volume_is_the_patient_in_mm(codes: str) -> None:
    volume = stored_as(head(), codes, (1.0, 1.3, 0.8))
    layer = layer_of(volume)
    for index in [(0, 0, 0), (3, 7, 11), tuple(n - 1 for n in layer.data.shape)]:
        x, y, z = nib.affines.apply_affine(layer.metadata["affine"], index)
        np.testing.assert_allclose(layer.data_to_world(index), (-z, -y, -x), atol=1e-9)


def test_oblique_volume_has_its_centre_at_its_true_place() -> None:
    volume = stored_as(head(), "RAS", (1.0, 1.3, 0.8), 14.0)
    volume = Volume.from_affine(
        volume.data, nib.affines.from_matvec(np.eye(3), (5, -7, 20)) @ volume.affine
    )
    layer = layer_of(volume)
    middle = (np.array(layer.data.shape) - 1) / 2
    np.testing.assert_allclose(layer.data_to_world(middle), (-20, 7, -5), atol=1e-6)


@pytest.mark.parametrize("codes", ["RAS", "LIA", "PSR"])
@pytest.mark.parametrize("angle_deg", [0.0, 14.0])
def test_mask_lies_on_the_same_voxels_and_places_as_its_image(codes: str, angle_deg: float) -> None:
    volume = stored_as(head(), codes, (1.0, 1.3, 0.8), angle_deg)
    image = layer_of(volume)
    (result,) = ThresholdSegmenter().segment(volume, ["left ball"])
    shown = layers.answer(layers.read_layer(image), result)
    labels = layers.labels_layer(image, shown.name, result.colour, shown.mask)
    np.testing.assert_array_equal(labels.extent.world, image.extent.world)
    assert (np.asarray(image.data)[labels.data > 0] == 200).all()
    np.testing.assert_array_equal(
        layers.read_layer(image).layout.to_stored(labels.data), result.mask.data
    )
    # On screen, in the display frame, the patient's left lies at larger columns.
    columns = [labels.data_to_world(index)[2] for index in np.argwhere(labels.data)]
    assert np.mean(columns) > 5


def test_plane_on_screen_is_the_same_plane_of_the_volume() -> None:
    volume = stored_as(head(), "PSR")
    image = layers.read_layer(layer_of(volume))
    for axis in range(3):
        stored_axis, index = image.layout.stored_plane(axis, 4, image.data.shape)
        on_screen = np.take(image.data, 4, axis)
        in_volume = np.take(volume.data, index, stored_axis)
        assert sorted(on_screen.ravel()) == sorted(in_volume.ravel())
        assert on_screen.sum() > 0


def test_layer_of_another_reader_uses_its_scale_and_is_not_placed() -> None:
    layer = Image(np.random.default_rng(0).random((5, 6, 7)), scale=(5.5, 0.9, 0.9))
    image = layers.read_layer(layer)
    assert image.grid.spacing == pytest.approx((5.5, 0.9, 0.9))
    assert image.grid.orientation == "SPL"
    assert not image.is_placed
    assert "NOT KNOWN" in (layers.missing_facts(layer) or "")


def test_units_of_another_reader_are_brought_to_mm() -> None:
    layer = Image(np.zeros((5, 6, 7)), scale=(1000, 500, 500), units=("um", "um", "um"))
    assert layers.read_layer(layer).grid.spacing == pytest.approx((1.0, 0.5, 0.5))


def test_layer_that_was_cropped_is_no_longer_placed() -> None:
    layer = layer_of(head())
    cropped = Image(layer.data[2:], metadata=layer.metadata)
    assert not layers.read_layer(cropped).is_placed


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Image(np.zeros((6, 7))), "2 dimensions"),
        (Image(np.zeros((3, 4, 5, 6))), "select one volume"),
        (Image(np.zeros((9, 8, 7, 3)), rgb=True), "RGB"),
        (Image([np.zeros((8, 8, 8)), np.zeros((4, 4, 4))], multiscale=True), "multiscale"),
        (Image(np.zeros((0, 4, 4)), contrast_limits=(0, 1)), "empty"),
    ],
    ids=["2-D", "4-D", "RGB", "multiscale", "empty"],
)
def test_layer_that_cannot_be_outlined_is_refused_in_words(layer: Image, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        layers.read_layer(layer)


def test_constant_layer_is_refused() -> None:
    with pytest.raises(BadInput, match="shows nothing"):
        layers.volume_of(Image(np.full((4, 4, 4), 7)))


def test_layer_that_is_a_mask_is_doubted_once() -> None:
    data = (np.indices((20, 20, 20)).sum(axis=0) > 30).astype(np.uint8)
    words = "only 2 different values"
    assert [one for one in layers.volume_of(Image(data)).warnings if words in one]
    told = Volume(data, head(shape=data.shape).grid, "mask", layers.volume_of(Image(data)).warnings)
    assert len(layers.volume_of(layer_of(told)).warnings) == 1


def test_layer_with_nan_is_usable_with_a_warning() -> None:
    data = np.random.default_rng(0).random((4, 4, 4))
    data[1, 2, 3] = np.nan
    volume = layers.volume_of(Image(data))
    assert np.isfinite(volume.data).all()
    assert "NaN" in volume.warnings[0]


@pytest.mark.parametrize(
    ("order", "edges"),
    [
        ((0, 1, 2), {"top": "A", "bottom": "P", "left": "R", "right": "L"}),
        ((1, 0, 2), {"top": "S", "bottom": "I", "left": "R", "right": "L"}),
        ((2, 0, 1), {"top": "S", "bottom": "I", "left": "A", "right": "P"}),
    ],
    ids=["axial", "coronal", "sagittal"],
)
def test_letters_name_the_edges_of_the_canvas(order, edges) -> None:
    viewer = ViewerModel()
    viewer.add_layer(layer_of(head()))
    viewer.dims.order = order
    assert layers.edge_letters(viewer, layers.DISPLAY_AXES) == edges


def test_letters_follow_a_mirrored_camera_and_leave_in_3d() -> None:
    viewer = ViewerModel()
    viewer.add_layer(layer_of(head()))
    viewer.scene.camera.orientation2d = ("up", "left")
    letters = layers.edge_letters(viewer, layers.DISPLAY_AXES)
    assert letters == {"top": "P", "bottom": "A", "left": "L", "right": "R"}
    viewer.dims.ndisplay = 3
    assert layers.edge_letters(viewer, layers.DISPLAY_AXES) == {}
