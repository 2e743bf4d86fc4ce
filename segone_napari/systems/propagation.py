"""Following the slices that a person drew through the rest of a volume, whatever they drew.

A lesson learns from a few slices and begins with nothing; what an outline does from slice to slice
is the same for most objects. So one small network learnt that once, on synthetic heads
(`training.propagation`): it sees the outline that is expected on a slice, how much each pixel's
brightness speaks for the object, where the image itself leads from slice to slice
(`systems.tracing`), what the base model says there and how far that is right on the drawn slices.
It is a lesson like those that corrections teach (`models.learnt`), of one term that may be
anything.

Dimension key: x y z RAS axes of a scene, N slices, R drawn slices, T terms, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segone_napari.models.checkpoint import BUNDLED, load_lessons
from segone_napari.models.learnt import Lesson, LessonConfig
from segone_napari.systems import lessons as taught
from segone_napari.systems import tracing
from segone_napari.systems.lessons import Drawn, Scene

PROPAGATION = "propagation"
"""The system that its checkpoint names, and the bundled checkpoint's folder."""
CONFIG = LessonConfig(
    terms=("anything",),
    is_known=(True,),
    context=("brightness", "agreement", "base", "from_below", "from_above"),
    planes=("axial",),
    pixel_mm=1.0,
    in_head=False,
    box_mm=((-48.0, 48.0),) * 3,
)
"""What the network is shown; its plane, pixels and box say what it was trained on."""

BASE = CONFIG.context.index("base")
KEPT_LOGIT = 1.5
"""How sure it is of what was changed on both sides of a gap, at the least."""
RING = 5
"""Brightness is compared with that of so many pixels around an outline."""
LEVELS = np.linspace(-0.5, 2.0, 101)
"""Edges of the levels of brightness that are told apart, in a scene's units."""
LEVELS_BLUR = 2.0
MOST_RATIO = 4.0
"""The logarithm of the ratio of brightness counts up to this, and is shown divided by it."""


class Followed(NamedTuple):
    """What the network is shown of one term: a scene of its own, and that term's drawn slices."""

    term: int
    scene: Scene
    drawn: Drawn


@cache
def bundled(device: torch.device) -> Lesson:
    """Load the network that comes with the package, once for a device.

    Raises
    ------
    BadCheckpoint
        If its files are missing or damaged.
    """
    (lesson,) = load_lessons(BUNDLED / PROPAGATION)
    return Lesson(lesson.config, lesson.network.to(device))


def followed(
    scene: Scene, plane: str, drawn: Drawn | None, only: Sequence[int] | None = None
) -> list[Followed]:
    """Prepare every term of which a drawn slice shows something.

    Parameters
    ----------
    only : the slices that will be asked about, if not all.
    """
    if drawn is None:
        return []
    terms = range(drawn.outlines.shape[1])
    seen = [_of_term(scene, plane, drawn, term, only) for term in terms]
    return [one for one in seen if one is not None]


@torch.inference_mode()
def propagated(lesson: Lesson, one: Followed, plane: str, indices: Sequence[int]) -> Tensor:
    """Logits (N, H, W) of a term in some slices of its scene."""
    return taught.slice_logits(lesson, one.scene, plane, indices, one.drawn)[:, 0]


def kept_between(logits: Tensor, one: Followed, plane: str, indices: Sequence[int]) -> Tensor:
    """Let what a person added to the base's answer, or removed from it, at the same place on both
    sides of a gap be so within it, too.

    Parameters
    ----------
    logits : (N, H, W) of a term in some slices of its scene.
    """
    said = taught.by_slice(one.scene.context[BASE], plane) > 0  # (N, H, W)
    if not bool(said.any()):  # nothing was known that could have been changed
        return logits
    drawn, said = one.drawn.outlines[:, 0] > 0, said[one.drawn.indices]
    kept = logits.clone()
    for gap, (first, last) in enumerate(pairwise(one.drawn.indices.tolist())):
        within = [place for place, index in enumerate(indices) if first < index < last]
        added, removed = (change[gap : gap + 2].all(0) for change in (drawn & ~said, said & ~drawn))
        for place in within:
            kept[place][added] = kept[place][added].clamp_min(KEPT_LOGIT)
            kept[place][removed] = kept[place][removed].clamp_max(-KEPT_LOGIT)
    return kept


def _of_term(
    scene: Scene, plane: str, drawn: Drawn, term: int, only: Sequence[int] | None
) -> Followed | None:
    use = drawn.is_known[:, term]
    outlines = drawn.outlines[use, term]  # (R, H, W)
    masks = outlines > 0
    if not bool(masks.any()):
        return None
    indices = drawn.indices[use]
    base = scene.base[term : term + 1].float()  # (1, x, y, z)
    said = taught.by_slice(base, plane)[indices, 0] > 0
    agreement = float(2 * (said & masks).sum() / (said.sum() + masks.sum()))
    slices = taught.by_slice(scene.image, plane)  # (N, H, W)
    ratio = _brightness_ratio(scene.image, slices[indices], outlines)
    wanted = range(len(slices)) if only is None else only
    sides = torch.zeros(2, *scene.image.shape, device=scene.image.device)
    taught.by_slice(sides, plane)[:] = tracing.traced(slices, indices.tolist(), outlines, wanted)
    context = [ratio, torch.full_like(ratio, agreement), base[0] / taught.LOGIT_LIMIT, *sides]
    nowhere = [torch.zeros_like(place) for place in scene.places]
    own = replace(
        scene,
        context=torch.stack(context).half(),
        # a base that is wrong on what was drawn says nothing of what lies between
        base=(base * max(0.0, 2 * agreement - 1)).half(),
        places=(nowhere[0], nowhere[1], nowhere[2]),
    )
    its = [
        values[use, term : term + 1] for values in (drawn.outlines, drawn.is_known, drawn.centres)
    ]
    return Followed(term, own, Drawn(indices, *its))


def _brightness_ratio(image: Tensor, slices: Tensor, outlines: Tensor) -> Tensor:
    """How much the brightness of each voxel (x, y, z) speaks for the object, -1 to 1.

    The logarithm of how frequent it is inside of the outlines (R, H, W) on the drawn slices
    (R, H, W), as a ratio to how frequent it is in a ring around them.
    """
    inside = outlines > 0
    ring = ~inside & (outlines > -RING / taught.REACH)
    ratio = np.log(_frequency(slices[inside]) / _frequency(slices[ring]))
    table = (ratio / MOST_RATIO).clip(-1, 1).astype(np.float32)
    edges = torch.from_numpy(LEVELS[1:-1]).to(image)
    return torch.from_numpy(table).to(image.device)[torch.bucketize(image, edges)]


def _frequency(brightness: Tensor) -> NDArray[np.float64]:
    """How frequent each level is: a smooth histogram, nowhere quite zero, that sums up to 1."""
    counts = np.histogram(brightness.cpu().numpy(), LEVELS)[0].astype(np.float64)
    smooth = ndimage.gaussian_filter1d(counts, LEVELS_BLUR)
    smooth += 0.02 * smooth.sum() / len(smooth) + 1e-6
    return np.asarray(smooth / smooth.sum())
