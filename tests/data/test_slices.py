"""Cutting a head into slabs and putting slices back together."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from segone_napari.data.slices import Head, SlabLayout, cut_slabs, slab_layout, to_volume
from segone_napari.data.synthetic import (
    PLANES,
    POSITION_SCALE_MM,
    generate,
    load_label_maps,
    to_standard_size,
)
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.volume import Box
from tests.tiny import SYNTHETIC, centred_affine, labels

STILL = replace(
    SYNTHETIC,
    rotation_deg=0.0,
    scaling=0.0,
    shear=0.0,
    elastic_mm=0.0,
    shift_mm=0.0,
    position_jitter_mm=0.0,
    position_scaling=0.0,
    lost_share=0.0,
    cropped_share=0.0,
    stripped_share=0.0,
    thick_share=0.0,
)

SHAPE = (20, 26, 18)
STRIDE = 4


def make_head(box: Box | None = None, spacing: tuple[float, float, float] = (1, 1, 1)) -> Head:
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) + 1
    x, y, z = (slice(0, n) for n in SHAPE)
    return Head(image, spacing, (9.0, 12.5, 8.0), box or (x, y, z))


def inside(box: Box) -> tuple[Box, Box]:
    """The part of a box that lies in the grid: in the grid's indices and in the box's."""
    grid = [slice(max(0, s.start), min(n, s.stop)) for s, n in zip(box, SHAPE, strict=True)]
    own = [slice(g.start - s.start, g.stop - s.start) for g, s in zip(grid, box, strict=True)]
    return (grid[0], grid[1], grid[2]), (own[0], own[1], own[2])


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(
    "box",
    [
        (slice(0, 20), slice(0, 26), slice(0, 18)),
        (slice(3, 14), slice(2, 25), slice(5, 16)),
        (slice(15, 20), slice(0, 3), slice(1, 2)),
    ],
    ids=["whole", "part", "corner"],
)
def test_cutting_and_putting_back_gives_the_image(plane, box):
    head = make_head(box)
    layout = slab_layout(head, plane, 1.0, STRIDE)
    slabs = cut_slabs(head, layout, layout.indices, 3, 2.0)
    volume = to_volume(slabs[:, 1], layout)
    assert volume.shape == tuple(s.stop - s.start for s in layout.box)
    at_grid, at_box = inside(layout.box)
    assert torch.equal(volume[at_box], head.image[at_grid])
    outside = volume.clone()
    outside[at_box] = 0
    assert (outside == 0).all()


@pytest.mark.parametrize("plane", PLANES)
def test_a_layout_covers_the_box_in_multiples_of_the_stride(plane):
    head = make_head((slice(3, 14), slice(2, 25), slice(5, 16)))
    layout = slab_layout(head, plane, 1.0, STRIDE)
    rows, columns, normal = layout.axes
    for axis in (rows, columns):
        assert (layout.box[axis].stop - layout.box[axis].start) % STRIDE == 0
        assert layout.box[axis].start <= head.box[axis].start
        assert layout.box[axis].stop >= head.box[axis].stop
    assert layout.box[normal] == head.box[normal]
    assert layout.indices == tuple(range(head.box[normal].start, head.box[normal].stop))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("step_mm", [2.0, 3.0, 7.0, 100.0])
def test_slices_between_are_interpolated_and_both_ends_are_seen(plane, step_mm):
    head = make_head()
    layout = slab_layout(head, plane, step_mm, STRIDE)
    normal = layout.axes[2]
    assert layout.indices[0] == 0
    assert layout.indices[-1] == SHAPE[normal] - 1
    apart = [b - a for a, b in zip(layout.indices, layout.indices[1:], strict=False)]
    assert max(apart) <= step_mm
    # a ramp along the normal comes back as it was
    ramp = torch.tensor(layout.indices).float()[:, None, None].expand(-1, 4, 8)
    box = list(layout.box)
    box[layout.axes[0]], box[layout.axes[1]] = slice(0, 4), slice(0, 8)
    volume = to_volume(ramp, SlabLayout(layout.axes, (box[0], box[1], box[2]), layout.indices))
    line = volume.movedim(normal, 0)[:, 0, 0]
    torch.testing.assert_close(line, torch.arange(SHAPE[normal]).float())


def test_steps_follow_the_spacing_across_the_slices():
    thick = make_head(spacing=(1.0, 1.0, 3.0))
    assert slab_layout(thick, "axial", 1.0, STRIDE).indices == tuple(range(SHAPE[2]))
    assert slab_layout(thick, "axial", 6.0, STRIDE).indices == (0, 2, 4, 6, 8, 10, 12, 14, 16, 17)


@pytest.mark.parametrize("plane", PLANES)
def test_neighbours_lie_below_and_above_along_the_normal(plane):
    head = make_head()
    layout = slab_layout(head, plane, 1.0, STRIDE)
    normal = layout.axes[2]
    slabs = cut_slabs(head, layout, (7,), 5, 2.0)
    alone = [cut_slabs(head, layout, (n,), 1, 2.0)[0, 0] for n in (3, 5, 7, 9, 11)]
    assert torch.equal(slabs[0, :5], torch.stack(alone))
    thick = replace(head, spacing=tuple(4.0 if a == normal else 1.0 for a in range(3)))
    slabs = cut_slabs(thick, layout, (7,), 3, 2.0)
    alone = [cut_slabs(thick, layout, (n,), 1, 2.0)[0, 0] for n in (6, 7, 8)]
    assert torch.equal(slabs[0, :3], torch.stack(alone))


def test_neighbours_beyond_the_grid_are_empty():
    head = make_head()
    layout = slab_layout(head, "axial", 1.0, STRIDE)
    first, last = cut_slabs(head, layout, (0, SHAPE[2] - 1), 3, 2.0)
    assert (first[0] == 0).all()
    assert (last[2] == 0).all()
    assert (first[2] > 0).any()


@pytest.mark.parametrize("plane", PLANES)
def test_a_window_beyond_the_grid_shows_nothing_there(plane):
    box = (slice(-6, 27), slice(-3, 30), slice(-2, 31))
    head = make_head()
    layout = replace(slab_layout(head, plane, 1.0, STRIDE), box=box, indices=(-2, 4, 27))
    rows, columns, normal = layout.axes
    slabs = cut_slabs(head, layout, layout.indices, 1, 2.0)
    assert (slabs[0, 0] == 0).all()
    assert (slabs[2, 0] == 0).all()
    at_grid, at_box = inside(box)
    expected = head.image.permute(normal, rows, columns)[4, at_grid[rows], at_grid[columns]]
    assert torch.equal(slabs[1, 0, at_box[rows], at_box[columns]], expected)
    assert int((slabs[1, 0] > 0).sum()) == expected.numel()


@pytest.mark.parametrize("plane", PLANES)
def test_positions_are_mm_from_the_centre(plane):
    head = make_head((slice(3, 14), slice(2, 25), slice(5, 16)), (1.0, 0.9, 3.0))
    layout = slab_layout(head, plane, 3.0, STRIDE)
    rows, columns, normal = layout.axes
    positions = cut_slabs(head, layout, layout.indices, 3, 2.0)[:, 3:]
    for batch, row, column in ((0, 0, 0), (1, 3, 2), (-1, -1, -1)):
        voxel = [0.0, 0.0, 0.0]
        voxel[normal] = layout.indices[batch]
        voxel[rows] = range(layout.box[rows].start, layout.box[rows].stop)[row]
        voxel[columns] = range(layout.box[columns].start, layout.box[columns].stop)[column]
        expected = [
            (v - c) * s / POSITION_SCALE_MM
            for v, c, s in zip(voxel, head.centre, head.spacing, strict=True)
        ]
        assert positions[batch, :, row, column].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("plane", PLANES)
def test_a_slab_of_training_is_what_is_cut_at_the_positions_it_carries(plane, tmp_path):
    # 1. Training's slabs of a head that is its own mirror image, not deformed.
    values = labels()
    values[np.isin(values, (17, 53))] = 0
    nib.save(nib.Nifti1Image(values, centred_affine()), tmp_path / "symmetric.nii.gz")
    maps = load_label_maps(tmp_path, Vocabulary.load())
    trained = generate(
        maps, replace(STILL, planes=(plane,)), 16, torch.Generator().manual_seed(1)
    )  # fmt: skip
    # 2. The same windows, found from the positions and cut from the classes as if an image.
    centre = maps.centres[0]
    image = maps.classes[maps.tissues[0].long()].float()
    scale = to_standard_size(maps.sizes[0])
    corner = trained.inputs[:, 3:, 0, 0] * POSITION_SCALE_MM / scale  # (B, 3)
    first = (corner + centre).round().int()
    rows, columns, normal = PLANES[plane]
    height, width = trained.labels.shape[1:]
    for start, inputs, truth in zip(first.tolist(), trained.inputs, trained.labels, strict=True):
        box = [slice(n, n + 1) for n in start]
        box[rows] = slice(start[rows], start[rows] + height)
        box[columns] = slice(start[columns], start[columns] + width)
        layout = SlabLayout(PLANES[plane], (box[0], box[1], box[2]), (start[normal],))
        x, y, z = centre.tolist()
        a, b, c = scale.tolist()
        head = Head(image, (1.0, 1.0, 1.0), (x, y, z), layout.box, (a, b, c))
        slab = cut_slabs(head, layout, layout.indices, 1, 2.0)[0]
        off = (slab[1:] - inputs[3:]).abs().amax((1, 2))  # (3,)
        off_mm = (off * POSITION_SCALE_MM / scale).max()
        assert off_mm <= 0.51  # slices of training lie between voxels
        assert (slab[0] == truth).float().mean() > 0.9
    assert trained.labels.any()
