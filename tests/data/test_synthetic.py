"""The generator of synthetic MRI, on a head of a few centimetres."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.data import synthetic, tumours, ventricles
from segone_napari.data.synthetic import (
    CEREBRUM,
    CEREBRUM_MM,
    PLANES,
    POSITION_SCALE_MM,
    LabelMaps,
    Slabs,
    SyntheticConfig,
    bright_end,
    centre_and_size,
    generate,
    load_label_maps,
    to_standard_size,
)
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.runtime import BadInput
from tests.tiny import LEFT, RIGHT, SHAPE, SYNTHETIC, centred_affine, labels, write_label_maps

VOCABULARY = Vocabulary.load()
CLASS = {name: index for index, name in enumerate(VOCABULARY.class_names)}
STILL = replace(
    SYNTHETIC,
    rotation_deg=0.0,
    scaling=0.0,
    shear=0.0,
    elastic_mm=0.0,
    position_jitter_mm=0.0,
    position_scaling=0.0,
    lost_share=0.0,
    cropped_share=0.0,
    ghost_share=0.0,
    scattered_share=0.0,
    stripped_share=0.0,
    thick_share=0.0,
)
"""No deformation: every pixel shows the voxel that lies at its position."""


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> LabelMaps:
    return load_label_maps(write_label_maps(tmp_path_factory.mktemp("maps"), 2), VOCABULARY)


def make(
    maps: LabelMaps, config: SyntheticConfig = SYNTHETIC, count: int = 4, seed: int = 1
) -> Slabs:
    return generate(maps, config, count, torch.Generator().manual_seed(seed))


def classes_at(maps: LabelMaps, positions: Tensor, *, is_mirrored: bool) -> Tensor:
    """Classes (B, H, W) of the first head at positions (B, 3, H, W) as networks get them."""
    mm = positions.permute(0, 2, 3, 1) * POSITION_SCALE_MM  # (B, H, W, 3)
    mm = mm / to_standard_size(maps.sizes[0])
    if is_mirrored:
        mm = mm * torch.tensor([-1.0, 1.0, 1.0])
    voxel = (mm + maps.centres[0]).round().long()
    shape = torch.tensor(maps.tissues.shape[1:])
    is_inside = ((voxel >= 0) & (voxel < shape)).all(-1)
    i, j, k = voxel.clamp_min(0).minimum(shape - 1).unbind(-1)
    tissue = maps.tissues[0][i, j, k].long() * is_inside
    return maps.classes[maps.mirrored[tissue] if is_mirrored else tissue]


# --- slabs --------------------------------------------------------------------------------------


def test_slabs_have_slices_positions_and_labels(maps):
    inputs, truth = make(maps)
    assert inputs.shape == (4, 3 + 3, SYNTHETIC.height, SYNTHETIC.width)
    assert inputs.dtype == torch.float32
    assert inputs.isfinite().all()
    assert truth.shape == (4, SYNTHETIC.height, SYNTHETIC.width)
    assert truth.dtype == torch.int64
    shown = set(make(maps, count=64).labels.unique().tolist())
    names = {"background", LEFT, RIGHT, "brainstem"}
    names |= {f"{side} cerebral white matter" for side in ("left", "right")}
    assert shown == {CLASS[name] for name in names}


@pytest.mark.parametrize("slices", [1, 5])
def test_a_slab_has_as_many_slices_as_asked_for(maps, slices):
    inputs, _ = make(maps, replace(SYNTHETIC, slices=slices, thick_share=1.0))
    assert inputs.shape[1] == slices + 3
    assert inputs.isfinite().all()


def test_the_same_seed_makes_the_same_slabs(maps):
    first, again, other = make(maps, seed=1), make(maps, seed=1), make(maps, seed=2)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.inputs, other.inputs)


def test_the_global_random_state_is_not_touched(maps):
    before = torch.get_rng_state()
    make(maps)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_the_same_code_runs_on_a_gpu(maps):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    runs = [
        generate(maps.to(device), SYNTHETIC, 64, torch.Generator(device).manual_seed(1))
        for _ in range(2)
    ]
    assert runs[0].inputs.device.type == "cuda"
    assert torch.equal(runs[0].inputs, runs[1].inputs)
    assert torch.equal(runs[0].labels, runs[1].labels)
    on_cpu = make(maps, count=64)
    share = [(slabs.labels > 0).float().mean().item() for slabs in (runs[0], on_cpu)]
    assert share[0] == pytest.approx(share[1], abs=0.1)


def test_slices_vary_in_contrast_and_are_normalised(maps):
    inputs, _ = make(maps, count=32)
    bright = bright_end(inputs[:, :3]).flatten()
    assert bright.min() > 0.7
    assert bright.max() < 1.25
    assert bright.std() > 0.05
    assert (inputs[:, :3] >= 0).all()
    assert inputs[:, 1].flatten(1).std(1).std() > 0.02


def test_a_structure_differs_from_its_surroundings(maps):
    inputs, truth = make(maps, replace(STILL, planes=("axial",)), count=64)
    middle, white = inputs[:, 1], truth == CLASS["left cerebral white matter"]
    ball = truth == CLASS[LEFT]
    contrasts = [
        abs(float(image[b].mean() - image[w].mean()))
        for image, b, w in zip(middle, ball, white, strict=True)
        if b.sum() > 20 and w.sum() > 20
    ]
    assert len(contrasts) > 10
    assert np.median(contrasts) > 0.05


# --- sides and positions ------------------------------------------------------------------------


@pytest.mark.parametrize("plane", PLANES)
def test_every_pixel_shows_what_lies_at_its_position(maps, plane):
    one = maps.select([0])
    inputs, truth = make(one, replace(STILL, planes=(plane,)), count=24)
    straight = classes_at(one, inputs[:, 3:], is_mirrored=False)
    mirrored = classes_at(one, inputs[:, 3:], is_mirrored=True)
    fits = torch.stack([(c == truth).float().mean((1, 2)) for c in (straight, mirrored)])
    assert (fits.max(0).values > 0.99).all()
    # the head is asymmetric, so that some slabs fit only straight and some only mirrored
    is_clear = (fits[0] - fits[1]).abs() > 0.01
    assert {0, 1} == set(fits.argmax(0)[is_clear].tolist())


@pytest.mark.parametrize("plane", PLANES)
def test_positions_grow_to_the_right_front_and_top(maps, plane):
    inputs, _ = make(maps, replace(STILL, planes=(plane,)))
    rows, columns, normal = PLANES[plane]
    position = inputs[:, 3:]
    step = to_standard_size(maps.sizes[0]) / POSITION_SCALE_MM
    assert torch.equal(maps.sizes[0], maps.sizes[1])
    along_rows, along_columns = position.diff(dim=2), position.diff(dim=3)
    for axis in range(3):
        expected = float(step[axis]) if axis == rows else 0.0
        torch.testing.assert_close(
            along_rows[:, axis], torch.full_like(along_rows[:, axis], expected)
        )
        expected = float(step[axis]) if axis == columns else 0.0
        torch.testing.assert_close(
            along_columns[:, axis], torch.full_like(along_columns[:, axis], expected)
        )
    assert position[:, normal].flatten(1).std(1).max() == 0


def test_a_small_window_lies_anywhere_in_the_head(maps):
    def middles(options: dict) -> Tensor:
        position = make(maps, replace(STILL, planes=("axial",), **options), 64).inputs[:, -3:-1]
        return POSITION_SCALE_MM * position.mean((2, 3))  # (B, 2)

    still, roaming = (middles({"shift_mm": 1.0, "roam_mm": roam}) for roam in ((0, 0), (9, 4)))
    most = 1.25  # a small head is brought towards standard size by no more
    assert still.abs().max() <= 1.01 * most
    assert 7 < roaming[:, 0].abs().max() <= 10.1 * most
    assert 3 < roaming[:, 1].abs().max() <= 5.1 * most


def test_left_structures_lie_left_of_the_middle(maps):
    inputs, truth = make(maps, STILL, count=64)
    right = inputs[:, 3]
    for side, sign in (("left", -1), ("right", 1)):
        for name in ("hippocampus", "cerebral white matter"):
            x = right[truth == CLASS[f"{side} {name}"]]
            assert len(x) > 100
            assert (sign * x > 0).float().mean() > 0.95


def test_mirrored_heads_swap_the_sizes_of_their_sides(maps):
    one = maps.select([0])
    _, truth = make(one, replace(STILL, planes=("axial",), central_mm=1.0), count=300)
    left, right = (
        (truth == CLASS[name]).sum((1, 2)) for name in (LEFT, RIGHT)
    )  # fmt: skip
    is_seen = (left > 20) & (right > 20)
    share_left_larger = float((left > right)[is_seen].float().mean())
    assert is_seen.sum() > 100
    assert 0.35 < share_left_larger < 0.65


def test_deformation_changes_what_a_pixel_shows(maps):
    one = maps.select([0])
    inputs, truth = make(one, replace(STILL, rotation_deg=18.0, scaling=0.15, elastic_mm=4.0))
    fits = [
        (classes_at(one, inputs[:, 3:], is_mirrored=m) == truth).float().mean((1, 2))
        for m in (False, True)
    ]
    assert (torch.stack(fits).max(0).values < 0.99).all()


def test_a_stripped_head_has_no_skin(maps):
    still = replace(STILL, planes=("axial",), central_mm=1.0)
    whole, _ = make(maps, still, count=48)
    stripped, truth = make(maps, replace(still, stripped_share=1.0), count=48)
    skin = maps.names.index("label 502")
    assert maps.is_outside[skin]
    outside = truth == 0
    # a blurred brain reaches a little beyond its edge, and one image in five has bright air
    beyond = ~F.max_pool2d((~outside).float(), 5, stride=1, padding=2).bool()
    shares = [(s[beyond[n]] < 0.2).float().mean() for n, s in enumerate(stripped[:, 1])]
    assert sum(share > 0.95 for share in shares) >= 33
    assert (whole[:, 1][outside] > 0.2).float().mean() > 0.05


def test_the_edge_of_the_field_of_view_cuts_image_and_labels(maps):
    inputs, truth = make(maps, replace(STILL, cropped_share=1.0), count=16)
    _, whole_truth = make(maps, STILL, count=16)
    empty = (inputs[:, :3] == 0).all(1)
    assert (truth[empty] == 0).all()
    cut = empty.all(2).any(1) | empty.all(1).any(1)
    assert cut.float().mean() > 0.5
    kept = ~empty
    assert torch.equal(truth[kept], whole_truth[kept])


def test_ghosts_of_motion_are_copies_at_another_place():
    draw = synthetic._Draw(torch.Generator().manual_seed(0))
    image = torch.zeros(32, 1, 16, 16)
    image[:, :, 4, 4] = 1.0
    ghosts = synthetic._ghosts(image, replace(SYNTHETIC, ghost_share=1.0), draw)
    torch.testing.assert_close(ghosts.sum((2, 3)), image.sum((2, 3)))
    assert ((ghosts > 0).sum((2, 3)) == 2).any()
    assert (ghosts[:, :, 4, 4] >= 0.7).all()


def test_brightness_changes_from_place_to_place_in_a_tumour_most(maps):
    rim, white = maps.names.index(tumours.TISSUES[1]), maps.names.index(CEREBRUM[0])
    tissue = torch.full((8, 1, 64, 64), white)
    tissue[..., 32:] = rim

    def unevenness(of_tumours: float, elsewhere: float) -> tuple[float, float]:
        """How much the means of large blocks differ, outside and inside of the tumours."""
        draw = synthetic._Draw(torch.Generator().manual_seed(3))
        config = replace(SYNTHETIC, tumour_texture=of_tumours, texture=elsewhere)
        blocks = F.avg_pool2d(synthetic._brightness(maps, tissue, config, draw), 8)  # (8, 1, 8, 8)
        halves = blocks[..., :4], blocks[..., 4:]
        return tuple(float(half.flatten(1).std(1).mean()) for half in halves)

    white_before, rim_before = unevenness(0.0, 0.0)
    white_after, rim_after = unevenness(0.2, 0.0)
    assert white_after == pytest.approx(white_before)
    assert rim_after > 2 * rim_before
    white_after, rim_alike = unevenness(0.2, 0.06)
    assert white_after > 1.3 * white_before
    assert rim_alike == pytest.approx(rim_after)


# --- thick slices -------------------------------------------------------------------------------


@pytest.mark.parametrize("slices", [1, 3, 5])
def test_thick_slices_average_planes_with_weights_that_sum_to_one(slices):
    config = SyntheticConfig(slices=slices, thick_share=1.0)
    draw = synthetic._Draw(torch.Generator().manual_seed(1))
    offsets, weights = synthetic._planes_around(config, 200, draw)
    assert weights.shape == (200, slices, offsets.shape[1])
    torch.testing.assert_close(weights.sum(2), torch.ones(200, slices))
    assert (weights >= 0).all()
    assert torch.equal(offsets[:, offsets.shape[1] // 2], torch.zeros(200))
    # the mean place that a slice shows is near its own, at most half an acquired slice away
    wanted = (torch.arange(slices) - slices // 2) * config.neighbour_mm
    shown = (weights * offsets[:, None]).sum(2)
    assert (shown - wanted).abs().max() < config.thickest_mm / 2 + 0.5


def test_thin_slices_lie_in_order_at_the_neighbours_distance():
    draw = synthetic._Draw(torch.Generator().manual_seed(1))
    config = SyntheticConfig(slices=5, neighbour_mm=1.5, thick_share=0.0)
    offsets, weights = synthetic._planes_around(config, 2, draw)
    assert offsets.tolist() == [[-3.0, -1.5, 0.0, 1.5, 3.0]] * 2
    assert torch.equal(weights, torch.eye(5).expand(2, -1, -1))


def test_positions_are_those_of_a_head_of_standard_size():
    standard = torch.tensor(CEREBRUM_MM)
    assert to_standard_size(standard).tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(to_standard_size(0.9 * standard), torch.full((3,), 1 / 0.9))
    assert to_standard_size(0.5 * standard).tolist() == pytest.approx([1.25] * 3)


# --- reading label maps -------------------------------------------------------------------------


def test_label_maps_are_cropped_to_the_head_and_know_the_brain(maps):
    assert maps.tissues.shape[0] == 2
    assert all(n <= s for n, s in zip(maps.tissues.shape[1:], SHAPE, strict=True))
    brain = maps.classes[maps.tissues[0].long()] > 0
    lines = torch.nonzero(brain)
    assert torch.equal(maps.extents[0, :, 0], lines.min(0).values.float())
    assert torch.equal(maps.extents[0, :, 1], lines.max(0).values.float())


def test_the_centre_is_that_of_the_cerebrum_however_far_the_brainstem_reaches(maps):
    is_cerebrum = torch.tensor([name in CEREBRUM for name in maps.names])
    centre, size = centre_and_size(is_cerebrum[maps.tissues[0].long()])
    assert maps.centres[0].tolist() == pytest.approx(centre)
    assert maps.sizes[0].tolist() == pytest.approx(size)


def test_a_few_stray_voxels_do_not_move_the_centre():
    mask = torch.zeros(30, 30, 30)
    mask[5:15, 8:18, 10:20] = 1
    expected = (9.5, 12.5, 14.5), (10.0, 10.0, 10.0)
    assert centre_and_size(mask) == expected
    mask[28, 28, 28] = 1
    assert centre_and_size(mask) == expected


def test_the_mirror_table_swaps_sides_and_is_its_own_inverse(maps):
    left, right = maps.names.index(LEFT), maps.names.index(RIGHT)
    assert maps.mirrored[left] == right
    assert maps.mirrored[right] == left
    assert maps.mirrored[maps.names.index("brainstem")] == maps.names.index("brainstem")
    assert torch.equal(maps.mirrored[maps.mirrored], torch.arange(len(maps.names)))


def test_moving_and_selecting_keep_the_maps(maps):
    moved = maps.to(torch.device("cpu"))
    assert torch.equal(moved.tissues, maps.tissues)
    second = maps.select([1])
    assert torch.equal(second.tissues[0], maps.tissues[1])
    assert torch.equal(second.centres[0], maps.centres[1])


@pytest.mark.parametrize("order", [("L", "P", "I"), ("P", "S", "R"), ("S", "R", "A")])
def test_the_axis_order_of_a_file_does_not_matter(tmp_path, maps, order):
    image = nib.Nifti1Image(labels(), centred_affine())
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(order)
    )
    nib.save(image.as_reoriented(turn), tmp_path / "a.nii.gz")
    read = load_label_maps(tmp_path, VOCABULARY)
    assert torch.equal(read.tissues[0], load_first(maps))


def load_first(maps: LabelMaps) -> Tensor:
    """The first map without the padding that the second one asked for."""
    filled = torch.nonzero(maps.tissues[0]).max(0).values + 1
    return maps.tissues[0][tuple(slice(int(n)) for n in filled)]


def test_a_coarse_map_is_brought_to_1_mm(tmp_path, maps):
    coarse = labels()[::2, :, ::3]
    affine = centred_affine() @ np.diag([2.0, 1.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(coarse, affine), tmp_path / "a.nii.gz")
    read = load_label_maps(tmp_path, VOCABULARY)
    size = (read.extents[0, :, 1] - read.extents[0, :, 0]) + 1
    expected = (maps.extents[0, :, 1] - maps.extents[0, :, 0]) + 1
    assert ((size - expected).abs() <= 3).all()
    voxels = [
        int((m.classes[m.tissues[0].long()] == CLASS[LEFT]).sum()) for m in (read, maps)
    ]  # fmt: skip
    assert voxels[0] == pytest.approx(voxels[1], rel=0.2)


def test_a_folder_with_its_own_table_of_names_works(tmp_path):
    own = np.zeros_like(labels())
    for ours, freesurfer in ((1000, 17), (2000, 53), (3, 16), (9, 2)):
        own[labels() == freesurfer] = ours
    nib.save(nib.Nifti1Image(own, centred_affine()), tmp_path / "a.nii.gz")
    table = {"1000": LEFT, "2000": RIGHT, "3": "brainstem"}
    (tmp_path / "labels.json").write_text(json.dumps(table))
    read = load_label_maps(tmp_path, VOCABULARY)
    own = {"background", LEFT, RIGHT, "brainstem", "label 9"}
    assert set(read.names) == own | set(tumours.TISSUES)
    assert read.classes[read.names.index("label 9")] == 0
    _, truth = make(read, count=32)
    assert set(truth.unique().tolist()) == {0, CLASS[LEFT], CLASS[RIGHT], CLASS["brainstem"]}


def test_labels_of_both_sides_are_told_apart_by_the_middle(tmp_path):
    values = labels()
    values[:, 30:34, 15:20] = np.where(values[:, 30:34, 15:20] > 0, 251, 0)  # corpus callosum
    nib.save(nib.Nifti1Image(values, centred_affine()), tmp_path / "a.nii.gz")
    read = load_label_maps(tmp_path, VOCABULARY)
    assert "label 251" not in read.names
    inputs, truth = make(read, STILL, count=48)
    for side, sign in (("left", -1), ("right", 1)):
        x = inputs[:, 3][truth == CLASS[f"{side} cerebral white matter"]]
        assert (sign * x > 0).float().mean() > 0.95


def test_progress_is_reported_map_by_map(tmp_path):
    calls = []
    write_label_maps(tmp_path, 2)
    load_label_maps(tmp_path, VOCABULARY, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]


def write_map(folder: Path, values: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.eye(4)), folder / "a.nii.gz")


def test_a_folder_without_label_maps_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput, match=r"holds no label maps|is no folder"):
            load_label_maps(folder, VOCABULARY)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((8, 8, 8)), "shows no structure"),
        (np.full((8, 8, 8), 502), "shows no structure"),
        (np.ones((8, 8, 8, 2)), "has 4 dimensions"),
        (np.arange(512).reshape(8, 8, 8), "different values"),
    ],
    ids=["empty", "skin only", "4-D", "too many values"],
)
def test_a_map_that_is_of_no_use_is_refused(tmp_path, values, words):
    write_map(tmp_path, values)
    with pytest.raises(BadInput, match=words):
        load_label_maps(tmp_path, VOCABULARY)


def test_a_damaged_map_is_named(tmp_path):
    write_label_maps(tmp_path, 2)
    whole = (tmp_path / "head_1.nii.gz").read_bytes()
    (tmp_path / "head_1.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"head_1\.nii\.gz"):
        load_label_maps(tmp_path, VOCABULARY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"1": "left knee"}', "left knee"),
        ('{"one": "brainstem"}', "no table"),
        ("[1, 2]", "no table"),
        ("{", "no table"),
    ],
)
def test_a_wrong_table_of_names_is_refused(tmp_path, text, words):
    write_label_maps(tmp_path, 1)
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(BadInput, match=words):
        load_label_maps(tmp_path, VOCABULARY)


# --- lesions ------------------------------------------------------------------------------------

LESION = "white matter lesions"
WHITE = {CLASS[f"{side} cerebral white matter"] for side in ("left", "right")}


@pytest.fixture(scope="module")
def maps_with_lesions(tmp_path_factory) -> LabelMaps:
    """Heads of which one has a lesion, and a mask of one in MNI space."""
    folder = write_label_maps(tmp_path_factory.mktemp("maps"), 2)
    values = labels()
    values[18:22, 34:38, 14:22] = 25
    nib.save(nib.Nifti1Image(values, centred_affine()), folder / "head_2.nii.gz")
    masks = tmp_path_factory.mktemp("masks")
    mask = np.zeros((182, 218, 182), np.uint8)
    mask[20:160, 110:150, 40:130] = 1  # everything in front of the middle
    affine = np.array([[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(mask, affine), masks / "mask.nii.gz")
    return load_label_maps(folder, VOCABULARY, masks)


def test_lesions_of_a_mask_lie_in_white_matter_where_the_mask_says(maps_with_lesions):
    config = replace(STILL, healed_share=0.0)
    without = make(maps_with_lesions, replace(config, lesion_share=0.0), count=32)
    pasted = make(maps_with_lesions, replace(config, lesion_share=1.0), count=32)
    new = (pasted.labels == CLASS[LESION]) & (without.labels != CLASS[LESION])
    assert new.any()
    assert set(without.labels[new].tolist()) == WHITE
    forward = pasted.inputs[:, -2][new]  # the position from back to front
    assert forward.min() > -0.5 / POSITION_SCALE_MM


def test_healed_heads_have_no_lesion(maps_with_lesions):
    kept = make(maps_with_lesions, replace(STILL, healed_share=0.0, lesion_share=0.0), count=64)
    healed = make(maps_with_lesions, replace(STILL, healed_share=1.0, lesion_share=0.0), count=64)
    was = kept.labels == CLASS[LESION]
    assert was.any()
    assert not (healed.labels == CLASS[LESION]).any()
    assert set(healed.labels[was].tolist()) <= WHITE
    assert torch.equal(healed.labels[~was], kept.labels[~was])


def test_small_lesions_are_scattered_over_white_matter(maps_with_lesions):
    healthy = replace(STILL, healed_share=1.0, lesion_share=0.0)
    none = make(maps_with_lesions, healthy, count=32).labels
    some = make(maps_with_lesions, replace(healthy, scattered_share=1.0), count=32).labels
    new = some == CLASS[LESION]
    assert set(none[new].tolist()) <= WHITE
    assert torch.equal(some[~new], none[~new])
    shares = [float(n.sum() / is_white.sum()) for n, is_white in zip(new, none > 0, strict=True)]
    assert 0 < np.nanmedian(shares) < 0.4


def test_lesions_may_hardly_differ_from_white_matter(maps_with_lesions):
    plain = replace(STILL, healed_share=0.0, lesion_share=1.0, t1_share=1.0)

    def difference(contrast: float) -> float:
        config = replace(plain, lesion_contrast=(contrast, contrast))
        inputs, truth = make(maps_with_lesions, config, count=32)
        is_white = torch.isin(truth, torch.tensor(sorted(WHITE)))
        return float(inputs[:, 1][is_white].mean() - inputs[:, 1][truth == CLASS[LESION]].mean())

    assert difference(0.3) < 0.5 * difference(1.0)


def test_masks_of_different_shapes_are_refused(tmp_path):
    for name, size in (("a", 4), ("b", 5)):
        nib.save(
            nib.Nifti1Image(np.ones((size,) * 3, np.uint8), np.eye(4)), tmp_path / f"{name}.nii"
        )
    folder = write_label_maps(tmp_path / "maps", 1)
    with pytest.raises(BadInput, match="differ in shape"):
        load_label_maps(folder, VOCABULARY, tmp_path)


# --- ventricles ---------------------------------------------------------------------------------

VENTRICLES = {CLASS[f"{side} lateral ventricle"] for side in ("left", "right")}


@pytest.fixture(scope="module")
def maps_with_ventricles(tmp_path_factory) -> LabelMaps:
    """A head with a ventricle on both sides of the middle, and one without."""
    folder = write_label_maps(tmp_path_factory.mktemp("maps"), 1)
    values = labels()
    values[14:18, 26:36, 17:23] = 4
    values[22:26, 26:36, 17:23] = 43
    nib.save(nib.Nifti1Image(values, centred_affine()), folder / "with.nii.gz")
    return load_label_maps(folder, VOCABULARY)


def test_ventricles_grow_and_shrink_and_what_is_far_away_stays(maps_with_ventricles):
    one = maps_with_ventricles.select([1])

    def truth(amount_mm: float) -> Tensor:
        config = replace(STILL, ventricle_share=1.0, ventricle_mm=(amount_mm, amount_mm))
        return make(one, config, count=64).labels

    def is_ventricle(labels: Tensor) -> Tensor:
        return torch.isin(labels, torch.tensor(sorted(VENTRICLES)))

    narrow, same, wide = truth(-1.5), truth(0.0), truth(3.0)
    sizes = [int(is_ventricle(labels).sum()) for labels in (narrow, same, wide)]
    assert 0 < sizes[0] < 0.7 * sizes[1]
    assert sizes[2] > 1.5 * sizes[1]
    assert (is_ventricle(wide) | ~is_ventricle(same)).float().mean() > 0.99
    brainstem = [labels == CLASS["brainstem"] for labels in (same, wide)]
    overlap = (brainstem[0] & brainstem[1]).sum() / (brainstem[0] | brainstem[1]).sum()
    assert overlap > 0.9


def test_both_sides_of_a_mirrored_head_change_alike(maps_with_ventricles):
    config = replace(STILL, ventricle_share=1.0, ventricle_mm=(3.0, 3.0))
    labels = make(maps_with_ventricles.select([1]), config, count=200).labels
    left, right = (int((labels == index).sum()) for index in sorted(VENTRICLES))
    assert left == pytest.approx(right, rel=0.05)


def test_a_head_without_ventricles_stays_as_it_is(maps_with_ventricles):
    one = maps_with_ventricles.select([0])
    assert not one.towards_ventricles.any()
    assert maps_with_ventricles.towards_ventricles[1].abs().max() == ventricles.FULL
    labels = [
        make(one, replace(STILL, ventricle_share=share), count=16).labels for share in (0.0, 1.0)
    ]
    assert torch.equal(*labels)


def test_every_slice_of_a_slab_can_be_labelled(maps):
    config = replace(SYNTHETIC, thick_share=0.0)
    alone = make(maps, config)
    every = make(maps, replace(config, labels_of_all=True))
    assert torch.equal(alone.inputs, every.inputs)
    assert every.labels.shape == (4, config.slices, config.height, config.width)
    assert torch.equal(alone.labels, every.labels[:, config.slices // 2])
    assert not torch.equal(every.labels[:, 0], every.labels[:, -1])
    with pytest.raises(ValueError, match="thick"):
        replace(config, thick_share=0.1, labels_of_all=True)


@pytest.mark.parametrize(("count", "value"), [(1, 1e6), (9, 32767.0), (1, 1e20)])
def test_a_few_extreme_voxels_hardly_move_the_bright_end(count, value):
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 288, 288, generator=draw) * 300
    image[:, :, :96] = 0
    before = bright_end(image)
    image[0, 1, 180, 180 : 180 + 3 * count : 3] = value
    torch.testing.assert_close(bright_end(image), before, rtol=0.02, atol=0)
