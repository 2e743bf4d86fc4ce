"""What a lesson answers on an image: its networks, and where the drawn slices lead beside them.

Where slices of a term were drawn in the image itself, the network that follows outlines
(`systems.propagation`) answers beside the lesson. Alone each goes wrong now and then, but hardly
ever at the same place: few slices teach a lesson much about their image, but may also mislead it.
Far beyond the outermost drawn slices the lesson counts more. What was changed alike on both sides
of a gap is changed within it.

Dimension key: x y z RAS axes of a scene, N slices, T terms, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from segone_napari.models.learnt import GENERAL_FROM, Lesson
from segone_napari.systems import propagation
from segone_napari.systems.lessons import Drawn, Scene, by_slice, slice_count, slice_logits

SLICES_AT_ONCE = 16
FOLLOWED_COUNTS, OF_MANY_COUNTS, FAR_COUNTS = 0.7, 0.5, 0.4
"""How much of the answer is what was followed near drawn slices or between them, beside a lesson of
few patients and one of many, and far beyond. Chosen on hippocampi that nothing is measured on."""
FAR = 3
"""More than so many slices beyond the outermost drawn one is far."""


@torch.inference_mode()
def look(
    lesson: Lesson,
    scene: Scene,
    drawn: Mapping[str, Drawn],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    only: Sequence[int] | None = None,
) -> Tensor:
    """Probability (T, x, y, z) of every term in a scene's box, the mean over the planes.

    Parameters
    ----------
    drawn : by plane, what a person corrected in this image; may be empty.
    only : of a lesson with one plane, the slices that are wanted; 0 in the others. All if None.
    """
    config = lesson.config
    device = next(lesson.network.parameters()).device
    wanted = {
        p: list(range(slice_count(scene, p)) if only is None else only) for p in config.planes
    }
    total = sum(len(indices) for indices in wanted.values())
    near = FOLLOWED_COUNTS if config.patients < GENERAL_FROM else OF_MANY_COUNTS
    done = 0
    mean = torch.zeros(len(config.terms), *scene.image.shape, device=scene.image.device)
    for plane, indices in wanted.items():
        slices = by_slice(mean, plane)  # (N, T, H, W), a view
        followed = propagation.followed(scene, plane, drawn.get(plane), indices)
        for start in range(0, len(indices), SLICES_AT_ONCE):
            progress(done, total)
            batch = indices[start : start + SLICES_AT_ONCE]
            logits = slice_logits(lesson, scene, plane, batch, drawn.get(plane))
            for one in followed:
                other = propagation.propagated(propagation.bundled(device), one, plane, batch)
                both = torch.lerp(logits[:, one.term], other, _share_of(one, batch, near).to(other))
                logits[:, one.term] = propagation.kept_between(both, one, plane, batch)
            slices[torch.tensor(batch)] += logits.sigmoid() / len(config.planes)
            done += len(batch)
    return mean


def _share_of(one: propagation.Followed, indices: Sequence[int], near: float) -> Tensor:
    """How much of the answer on some slices is what was followed: (N, 1, 1)."""
    first, last = int(one.drawn.indices[0]), int(one.drawn.indices[-1])
    is_far = [not first - FAR <= index <= last + FAR for index in indices]
    return torch.tensor([FAR_COUNTS if far else near for far in is_far])[:, None, None]
