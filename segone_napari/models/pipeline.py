"""Sampling: from noise to a mask, with the prompt and what is known of the mask as conditions.

The first step, at t = T, is the dense head; every further step denoises the mask of one prompt.
What is known is put back into the mask at every step.

Dimension key: B batch, S slices of a slab, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segone_napari.models.answers import Answers
from segone_napari.models.network import ImageFeatures
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel, prompt_logit


def sample_mask(
    model: SegOneModel,
    schedule: NoiseSchedule,
    slabs: Tensor,
    members: Sequence[int],
    classes: Answers,
    *,
    steps: int,
    generator: torch.Generator,
    known: Tensor | None = None,
    shown: float = 1.0,
) -> Tensor:
    """Return the probability (B, H, W) of the union of some classes.

    Parameters
    ----------
    slabs : (B, S + 3, H, W).
    members : the classes that the prompt stands for, indices into `classes`.
    classes : the answers of all classes, the background among them.
    steps : 1 is the dense head alone.
    generator : draws the noise that sampling starts from.
    known : (B, 1, H, W), 1 inside, -1 outside, 0 unknown.
    shown : how much of x_t the network sees; 0 for one that was trained without noise.
    """
    seen = model.network.encode(slabs)
    is_member = torch.zeros(len(slabs), len(classes.biases), dtype=torch.bool, device=slabs.device)
    is_member[:, list(members)] = True
    prompt = Answers(
        classes.vectors[list(members)].mean(0).expand(len(slabs), -1),
        classes.biases[list(members)].mean(0).expand(len(slabs)),
    )
    if known is None:
        known = torch.zeros_like(slabs[:, :1])
    x_t = torch.randn(known.shape, generator=generator, device=slabs.device)
    times = schedule.timesteps(steps)
    probability = torch.zeros_like(x_t)
    for t, t_next in zip(times, [*times[1:], -1], strict=True):
        x_t = torch.where(known != 0, known, x_t)
        seen_of_mask = torch.where(known != 0, known, shown * x_t)
        if t == schedule.last and not known.any():
            features = model.network.dense_from(seen)
        else:
            features = _denoise(
                model, schedule, seen, t, torch.cat([seen_of_mask, known], 1), prompt
            )
        logit = prompt_logit(classes.logits(features).float(), is_member)
        probability = logit.sigmoid()[:, None]  # (B, 1, H, W)
        x_t = schedule.step(x_t, 2 * probability - 1, t, t_next)
    return torch.where(known != 0, (known + 1) / 2, probability)[:, 0]


def _denoise(
    model: SegOneModel,
    schedule: NoiseSchedule,
    seen: ImageFeatures,
    t: int,
    state: Tensor,
    prompt: Answers,
) -> Tensor:
    share = torch.full((len(state),), t / schedule.last, device=state.device)
    return model.denoise(seen, share, state, prompt)
