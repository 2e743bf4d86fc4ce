"""From a volume on the working grid to batches of slabs, and back: the torch side of slicing.

A slab is a slice, its neighbours and the RAS position of every pixel, as `synthetic.generate`
makes them for training. This and `gui.layers` are the only places where axes change order.

Dimension key: x y z RAS axes of the working grid, B batch, S slices of a slab, H W pixels, D
channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.data.synthetic import PLANES, POSITION_SCALE_MM, Point
from segone_napari.volume import Box


@dataclass(frozen=True, eq=False)
class Head:
    """A normalised image on the working grid, ready to be cut into slabs.

    Attributes
    ----------
    image : (x, y, z) float32, about 0 (air) to 1 (bright end).
    spacing : mm along each axis.
    centre : the cerebrum's centre in working voxels.
    to_standard : what makes positions in mm those in a head of standard size.
    box : the part of the grid to look at.
    """

    image: Tensor
    spacing: tuple[float, float, float]
    centre: Point
    box: Box
    to_standard: Point = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class SlabLayout:
    """How a box of a head is cut: the order of axes, and which slices.

    Attributes
    ----------
    axes : the RAS axes of a slab's rows, columns and normal.
    box : the part of the working grid that is cut, its in-plane sides multiples of the stride
        (it may reach beyond the grid, where the image is zero).
    indices : the positions along the normal of the slices, in working voxels.
    """

    axes: tuple[int, int, int]
    box: Box
    indices: tuple[int, ...]


def slab_layout(head: Head, plane: str, step_mm: float, stride: int, shift: int = 0) -> SlabLayout:
    """Choose the slices of `head.box` in a plane, about `step_mm` apart.

    `shift` moves the window's first row and column outwards by so many voxels, so that the
    network's blocks of pixels fall elsewhere.
    """
    rows, columns, normal = axes = PLANES[plane]
    box = list(head.box)
    for axis in (rows, columns):
        size = box[axis].stop - box[axis].start + shift
        extra = -size % stride
        start = box[axis].start - shift - extra // 2
        box[axis] = slice(start, start + size + extra)
    step = max(1, round(step_mm / head.spacing[normal]))
    first, last = box[normal].start, box[normal].stop - 1
    indices = sorted({*range(first, last, step), last})
    return SlabLayout(axes, (box[0], box[1], box[2]), tuple(indices))


def cut_slabs(
    head: Head, layout: SlabLayout, indices: tuple[int, ...], slices: int, neighbour_mm: float
) -> Tensor:
    """Cut slabs (B, S + 3, H, W) float32 at some of the layout's slice positions."""
    rows, columns, normal = layout.axes
    image = head.image.permute(normal, rows, columns)  # (N, H', W')
    apart = max(1, round(neighbour_mm / head.spacing[normal]))
    half = slices // 2
    wanted = torch.tensor(indices, device=image.device)[:, None] + apart * torch.arange(
        -half, half + 1, device=image.device
    )  # (B, S)
    is_inside = (wanted >= 0) & (wanted < len(image))
    window = _window(image, layout.box[rows], layout.box[columns], wanted)
    window = window * is_inside[..., None, None]  # (B, S, H, W)
    return torch.cat([window, _positions(head, layout, indices)], dim=1)


def _window(image: Tensor, rows: slice, columns: slice, wanted: Tensor) -> Tensor:
    """Take slices (B, S, H, W) of (N, H', W') in a window that may reach beyond it."""
    height, width = image.shape[1:]
    inside = (
        slice(max(0, rows.start), min(height, rows.stop)),
        slice(max(0, columns.start), min(width, columns.stop)),
    )
    taken = image[wanted.clamp(0, len(image) - 1)][:, :, inside[0], inside[1]]
    pads = (
        inside[1].start - columns.start,
        columns.stop - inside[1].stop,
        inside[0].start - rows.start,
        rows.stop - inside[0].stop,
    )
    return F.pad(taken, pads)


def _positions(head: Head, layout: SlabLayout, indices: tuple[int, ...]) -> Tensor:
    """RAS positions (B, 3, H, W) in a head of standard size, in units of `POSITION_SCALE_MM`."""
    rows, columns, normal = layout.axes
    device = head.image.device

    def millimetres(axis: int, voxels: Tensor) -> Tensor:
        mm = (voxels - head.centre[axis]) * head.spacing[axis]
        return mm * head.to_standard[axis] / POSITION_SCALE_MM

    def along(axis: int) -> Tensor:
        voxels = torch.arange(layout.box[axis].start, layout.box[axis].stop, device=device)
        return millimetres(axis, voxels.float())

    height = layout.box[rows].stop - layout.box[rows].start
    width = layout.box[columns].stop - layout.box[columns].start
    out = torch.empty(len(indices), 3, height, width, device=device)
    out[:, rows] = along(rows)[None, :, None]
    out[:, columns] = along(columns)[None, None, :]
    depth = torch.tensor(indices, device=device).float()
    out[:, normal] = millimetres(normal, depth)[:, None, None]
    return out


def to_volume(slices: Tensor, layout: SlabLayout) -> Tensor:
    """Put values (B, H, W) of all slices of a layout back to (x, y, z) of its box.

    Between slices that are more than a voxel apart, values are interpolated linearly.
    """
    _, _, normal = layout.axes
    dense = layout.box[normal].stop - layout.box[normal].start
    stack = slices
    if len(layout.indices) != dense:
        stack = _fill_between(slices, layout.indices)
    order = [0, 0, 0]
    for place, axis in enumerate((normal, layout.axes[0], layout.axes[1])):
        order[axis] = place
    return stack.permute(order)


def _fill_between(slices: Tensor, indices: tuple[int, ...]) -> Tensor:
    """Interpolate (B, H, W) at increasing positions to every whole position (N, H, W)."""
    known = torch.tensor(indices, device=slices.device)
    every = torch.arange(indices[0], indices[-1] + 1, device=slices.device)
    above = (
        torch.searchsorted(known, every).clamp(1, len(indices) - 1)
        if len(indices) > 1
        else every * 0
    )
    below = (above - 1).clamp_min(0)
    span = (known[above] - known[below]).clamp_min(1)
    share = ((every - known[below]) / span).to(slices.dtype)[:, None, None]
    return torch.lerp(slices[below], slices[above], share)
