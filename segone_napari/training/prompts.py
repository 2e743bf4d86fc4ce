"""Objects to outline, and what a person or a network might say about them, drawn at random.

Objects are structures, unions and parts of them, and painted lesions that no label map has.
Prompts are boxes, clicks and rough masks. Knows nothing of the network that answers them.

Dimension key: B images, K objects an image, N = B·K objects, P points, S side of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.models.sam2 import (
    FIRST_CORNER,
    INSIDE,
    LAST_CORNER,
    MASK_STRIDE,
    OUTSIDE,
    Prompts,
    mask_logits,
)
from segone_napari.models.teacher import CLICK_FIELD_MM, CLOSE_UP, LEAST_FIELD_MM, WHITE

SMALLEST, LARGEST = 2e-4, 0.5
"""Objects that cover a smaller or larger share of an image are not asked about."""


@dataclass(frozen=True)
class Saying:
    """What a prompt is made of: a box or not, so many clicks, a rough mask or not."""

    box: bool = False
    clicks: int = 0
    mask: bool = False

    @property
    def is_ambiguous(self) -> bool:
        """Whether it may mean a part as well as the whole."""
        return self.clicks == 1 and not self.box and not self.mask


BOX, CLICK, CLICKS, ROUGH = (
    Saying(box=True),
    Saying(clicks=1),
    Saying(clicks=3),
    Saying(mask=True),
)
SAYINGS = (
    BOX, BOX, CLICK, CLICKS, Saying(clicks=2), ROUGH, ROUGH,
    Saying(box=True, clicks=1), Saying(box=True, clicks=3), Saying(box=True, clicks=2, mask=True),
)  # fmt: skip
"""Drawn from at random, one for all objects of a step: SAM2 has no way to leave a point out."""


def draw_views(
    slices: Tensor, labels: Tensor, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Show slices (B, H, W) and labels (B, H, W) turned, mirrored, shifted and scaled.

    Returns images (B, 1, S, S), 0 to 1, and labels (B, S, S).
    """
    count, height, width = slices.shape
    draw = _drawer(generator)
    quarter = (draw(count) * 4).floor()
    angle = (quarter + 0.3 * (draw(count) - 0.5)) * math.pi / 2
    half_field = max(height, width) / 2 * (0.7 + 0.6 * draw(count))
    mirror = torch.where(draw(count) < 0.5, -1.0, 1.0)
    shift = (draw(count, 2) - 0.5) * 0.3 * max(height, width)
    cosine, sine = angle.cos() * half_field, angle.sin() * half_field
    x = torch.stack([mirror * cosine, -sine, shift[:, 0]], 1) / (width / 2)
    y = torch.stack([mirror * sine, cosine, shift[:, 1]], 1) / (height / 2)
    grid = F.affine_grid(torch.stack([x, y], 1), [count, 1, side, side], align_corners=False)
    images = F.grid_sample(slices[:, None], grid, align_corners=False)
    seen = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return (images * WHITE).clamp(0, 1), seen[:, 0].long()


def paint_lesions(
    images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paint one blob of another brightness into every image (B, 1, S, S), inside the head.

    Returns the images and where the blobs are (B, S, S) bool.
    """
    count, side = len(images), images.shape[-1]
    draw = _drawer(generator)
    centre = draw_pixels(labels > 0, generator)  # (B, 2)
    radius = side * (0.012 + 0.09 * draw(count, 2) ** 2)
    edge = 0.5 * _smooth_noise(count, side, 12, generator)
    places = torch.arange(side, device=images.device)
    x = (places[None, None, :] - centre[:, 0, None, None]) / radius[:, 0, None, None]
    y = (places[None, :, None] - centre[:, 1, None, None]) / radius[:, 1, None, None]
    blob = x * x + y * y + edge < 1  # (B, S, S)
    soft = F.avg_pool2d(blob[:, None].float(), 3, 1, 1)
    texture = 0.05 * torch.randn(images.shape, generator=generator, device=images.device)
    share = 0.4 + 0.6 * draw(count, 1, 1, 1)
    brightness = draw(count, 1, 1, 1) + texture
    painted = images + share * soft * (brightness - images)
    return painted.clamp(0, 1), blob


class Task(NamedTuple):
    """Objects to outline.

    `images` is (B or N, 1, S, S), 0 to 1; `masks` (N, S, S) bool; `is_asked` (N,) bool, which
    objects can be asked about.
    """

    images: Tensor
    masks: Tensor
    is_asked: Tensor


def close_ups(task: Task, saying: Saying, side: int, generator: torch.Generator) -> Task:
    """Show each object (of B images, pixels of 1 mm) on its own, as the teacher looks at it.

    What a box or a mask tells of its place and size decides how near; a click tells its place.
    """
    images, masks, is_asked = task
    count, before = len(masks), masks.shape[-1]
    draw = _drawer(generator)
    if saying.box or saying.mask:
        boxes = jittered_boxes(masks, generator)  # (N, 2, 2)
        centre = boxes.mean(1)
        field = (boxes[:, 1] - boxes[:, 0]).amax(1) * CLOSE_UP * (0.75 + 0.5 * draw(count))
        field = field.clamp_min(LEAST_FIELD_MM)
    else:
        centre = draw_pixels(masks, generator)
        field = CLICK_FIELD_MM * (0.75 + 0.75 * draw(count))
    centre = centre + 0.1 * field[:, None] * (2 * draw(count, 2) - 1)
    turn = torch.zeros(count, 2, 3, device=masks.device)
    turn[:, 0, 0] = turn[:, 1, 1] = field / before
    turn[:, :, 2] = (2 * centre + 1) / before - 1
    grid = F.affine_grid(turn, [count, 1, side, side], align_corners=False)
    own = images.repeat_interleave(count // len(images), 0)
    near = F.grid_sample(own, grid, align_corners=False)
    seen = F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0] > 0.5
    share = seen.flatten(1).float().mean(1)
    return Task(near, seen, is_asked & (share > SMALLEST) & (share < 0.9))


def draw_objects(
    labels: Tensor, blobs: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose objects in images with `labels` and `blobs`, both (B, S, S).

    Returns masks (N, S, S) bool, and which of them can be asked about (N,) bool.
    """
    images, side = len(labels), labels.shape[-1]
    draw = _drawer(generator)
    weights = torch.zeros(images, int(labels.max()) + 1, device=labels.device)
    weights.scatter_(1, labels.flatten(1), 1.0)
    weights[:, 0] = 1e-6  # chosen where nothing else is shown; not asked about
    classes = torch.multinomial(weights, count * 2, replacement=True, generator=generator)
    classes = classes.reshape(images, count, 2, 1, 1)
    pairs = (labels[:, None, None] == classes) & (classes > 0)  # (B, K, 2, S, S)
    one, two = pairs.flatten(0, 1).unbind(1)  # (N, S, S)
    halves = one & _half_plane(one, generator)
    kind = draw(images * count)[:, None, None]
    masks = torch.where(kind < 0.15, one | two, one)
    masks = torch.where((kind >= 0.15) & (kind < 0.35), halves, masks)
    masks = torch.where(kind >= 0.8, blobs.repeat_interleave(count, 0), masks)
    area = masks.flatten(1).sum(1) / side**2
    return masks, (area > SMALLEST) & (area < LARGEST)


def _half_plane(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return one side (N, S, S) of a line through each mask."""
    through = draw_pixels(masks, generator)
    angle = 2 * math.pi * _drawer(generator)(len(masks), 1, 1)
    places = torch.arange(masks.shape[-1], device=masks.device)
    x = places[None, None, :] - through[:, 0, None, None]
    y = places[None, :, None] - through[:, 1, None, None]
    return x * angle.cos() + y * angle.sin() <= 0


def draw_pixels(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Choose a pixel (N, 2), x and y, of each mask (N, S, S), rather inside than at the edge.

    Of an empty mask it is any pixel of the image.
    """
    side = masks.shape[-1]
    shown = masks | ~masks.flatten(1).any(1)[:, None, None]
    depth = F.avg_pool2d(shown[:, None].float(), 9, 1, 4)[:, 0]
    chance = torch.rand(masks.shape, generator=generator, device=masks.device)
    best = (shown * (0.2 + depth) * (0.01 + chance)).flatten(1).argmax(1)
    return torch.stack([best % side, best // side], 1).float()


def first_prompts(masks: Tensor, saying: Saying, generator: torch.Generator) -> Prompts:
    """Say something about objects (N, S, S): the same kind of thing about each."""
    count, side = len(masks), masks.shape[-1]
    small = side // MASK_STRIDE
    prompts = Prompts(
        torch.zeros(count, 0, 2, device=masks.device),
        torch.zeros(count, 0, dtype=torch.int32, device=masks.device),
        torch.zeros(count, 1, small, small, device=masks.device),
        torch.full((count,), saying.mask, device=masks.device),
    )
    if saying.box:
        corners = jittered_boxes(masks, generator)
        says = torch.tensor([FIRST_CORNER, LAST_CORNER], device=masks.device)
        prompts = _with_points(prompts, corners, says.expand(count, 2))
    for number in range(saying.clicks):
        # the first click is inside, unless a box says already where to look
        outside = 0.0 if number == 0 and not saying.box else 0.35
        prompts = _with_click(prompts, masks, outside, generator)
    if saying.mask:
        prompts = prompts._replace(masks=rough_masks(masks, generator))
    return prompts


def corrected_prompts(
    prompts: Prompts, masks: Tensor, logits: Tensor, generator: torch.Generator
) -> Prompts:
    """Add a click where an answer is wrong, and the answer itself as a mask.

    `masks` (N, S, S) is the truth, `logits` (N, 1, S/4, S/4) the answer.
    """
    side = masks.shape[-1]
    shown = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)[:, 0] > 0
    wrong = shown != masks
    where = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, masks)
    places = draw_pixels(where, generator)
    index = (places[:, 1] * side + places[:, 0]).long()[:, None]
    says = masks.flatten(1).gather(1, index).int()  # (N, 1): INSIDE or OUTSIDE
    return _with_points(prompts, places[:, None], says)._replace(
        masks=logits.clamp(-32, 32), has_mask=torch.ones_like(prompts.has_mask)
    )


def _with_points(prompts: Prompts, points: Tensor, says: Tensor) -> Prompts:
    return prompts._replace(
        points=torch.cat([prompts.points, points], 1),
        says=torch.cat([prompts.says, says.int()], 1),
    )


def _with_click(
    prompts: Prompts, masks: Tensor, outside: float, generator: torch.Generator
) -> Prompts:
    """Add one click to each object; with the chance `outside`, one just beside it."""
    near = F.max_pool2d(masks[:, None].float(), 21, 1, 10)[:, 0] > 0
    is_outside = _drawer(generator)(len(masks)) < outside
    places = draw_pixels(torch.where(is_outside[:, None, None], near & ~masks, masks), generator)
    says = torch.where(is_outside, OUTSIDE, INSIDE)
    return _with_points(prompts, places[:, None], says[:, None])


def jittered_boxes(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return two corners (N, 2, 2), x and y, of a box around each mask, as a hand draws it."""
    side = masks.shape[-1]
    ends = []
    for axis in (1, 2):  # x: over rows; y: over columns
        lines = masks.any(axis).float()  # (N, S)
        first, last = lines.argmax(1), side - 1 - lines.flip(1).argmax(1)
        ends.append(torch.stack([first, last], 1).float())
    boxes = torch.stack(ends, 2)  # (N, 2, 2)
    size = boxes[:, 1:] - boxes[:, :1]
    noise = torch.randn(boxes.shape, generator=generator, device=masks.device)
    jitter = (0.08 * size * noise).clamp(-0.08 * side, 0.08 * side)
    return (boxes + jitter).clamp(0, side - 1)


def rough_masks(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return logits (N, 1, S/4, S/4) of what a network that errs might say about masks (N, S, S).

    Moved, grown or shrunk, with another edge, a third of them coarse.
    """
    count, side = len(masks), masks.shape[-1]
    draw = _drawer(generator)
    area = masks.flatten(1).sum(1).float()
    reach = (area.sqrt() / side)[:, None]  # about the object's size, of the image's
    identity = torch.eye(2, 3, device=masks.device).repeat(count, 1, 1)
    identity[:, :, 2] = 0.5 * reach * (draw(count, 2) - 0.5) * 2 * draw(count, 1)
    grid = F.affine_grid(identity, [count, 1, side, side], align_corners=False)
    moved = F.grid_sample(masks[:, None].float(), grid, align_corners=False)
    soft = F.avg_pool2d(F.avg_pool2d(moved, 5, 1, 2), 3, 1, 1)
    limit = 0.5 + 0.25 * (2 * draw(count, 1, 1, 1) - 1)
    edge = 0.2 * _smooth_noise(count, side, 16, generator)[:, None]
    drawn = soft > (limit + edge).clamp(0.05, 0.95)
    is_lost = ~drawn.flatten(1).any(1)[:, None, None, None]
    rough = torch.where(is_lost, moved > 0.5, drawn).float()
    fine = F.avg_pool2d(rough, MASK_STRIDE)
    blocks = F.interpolate(F.avg_pool2d(rough, 4 * MASK_STRIDE), fine.shape[-2:], mode="nearest")
    return mask_logits(torch.where(draw(count, 1, 1, 1) < 1 / 3, blocks, fine))


def _smooth_noise(count: int, side: int, knots: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(count, 1, knots, knots, generator=generator, device=generator.device)
    return F.interpolate(noise, (side, side), mode="bicubic", align_corners=True)[:, 0]


def _drawer(generator: torch.Generator) -> Callable[..., Tensor]:
    """Return a function that draws numbers from 0 to 1 in any shape."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    return draw
