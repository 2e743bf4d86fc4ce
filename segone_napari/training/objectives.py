"""What training minimises: dense segmentation of all classes, and denoising of one prompt's mask.

Dimension key: B batch, C classes, D features a pixel, H W pixels, N = B·H·W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.models.answers import Answers
from segone_napari.models.network import ImageFeatures
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel, prompt_logit

SMOOTH = 0.1


def dense_loss(features: Tensor, answers: Answers, labels: Tensor) -> Tensor:
    """Cross-entropy minus the mean log of the soft Dice of the classes present.

    Parameters
    ----------
    features : (B, D, H, W) pixel features.
    answers : the C classes, in the order of their indices.
    labels : (B, H, W) int64 class indices.
    """
    # pixels in one long row, with the classes side by side, is where a softmax is fastest
    logits = answers.logits(features).permute(0, 2, 3, 1).flatten(0, 2).float()  # (N, C)
    flat = labels.flatten()  # (N,)
    log_probability = logits.log_softmax(1)
    cross_entropy = F.nll_loss(log_probability, flat)
    probability = log_probability.exp()
    overlap = probability.gather(1, flat[:, None])[:, 0]  # (N,)
    classes = logits.shape[1]
    hits = torch.zeros(classes, device=labels.device).index_add(0, flat, overlap)  # (C,)
    truth_size = (flat[:, None] == torch.arange(classes, device=labels.device)).sum(0).float()
    dice = (2 * hits + SMOOTH) / (probability.sum(0) + truth_size + SMOOTH)
    # nothing here asks a GPU for a number, so that it need not be waited for
    is_present = truth_size > 0
    is_present[0] = False
    # the logarithm keeps the gradient of a structure that isn't seen at all yet from vanishing
    log_dice = torch.where(is_present, dice.clamp_min(1e-4).log(), 0.0)
    return cross_entropy - log_dice.sum() / is_present.sum().clamp_min(1)


def diffusion_loss(
    model: SegOneModel,
    schedule: NoiseSchedule,
    seen: ImageFeatures,
    answers: Answers,
    labels: Tensor,
    generator: torch.Generator,
    shown: float = 1.0,
) -> Tensor:
    """Predict x_0 of one structure a sample from its noisy mask: cross-entropy plus soft Dice.

    `seen` is of B slabs, `labels` (B, H, W) their classes, `answers` all C classes. A structure
    of the slice is chosen for each sample, or, one time in eight, one that may be absent. One
    time in three some of the mask is known. `shown` says how much of the noisy mask is seen: 0 is
    a network without diffusion, which sees only what is known.
    """
    count, device = len(labels), labels.device
    chosen = _choose_classes(labels, len(answers.biases), generator)  # (B,)
    truth = labels == chosen[:, None, None]
    x_0 = truth[:, None].float() * 2 - 1  # (B, 1, H, W)
    t = torch.randint(schedule.steps, (count,), generator=generator, device=device)
    noise = torch.randn(x_0.shape, generator=generator, device=device)
    known = _reveal(x_0, generator)
    x_t = torch.where(known != 0, known, shown * schedule.add_noise(x_0, noise, t))
    prompt = Answers(answers.vectors[chosen], answers.biases[chosen])
    share = t.float() / schedule.last
    features = model.denoise(seen, share, torch.cat([x_t, known], dim=1), prompt)
    logits = answers.logits(features).float()  # (B, C, H, W)
    members = F.one_hot(chosen, len(answers.biases)).bool()
    logit = prompt_logit(logits, members)  # (B, H, W)
    target = truth.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logit, target)
    probability = logit.sigmoid()
    overlap = (probability * target).sum((1, 2))
    size = (probability + target).sum((1, 2))
    return cross_entropy + 1 - ((2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


def _choose_classes(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Choose a class index (B,) for each sample, most often one that its slice shows."""
    present = torch.zeros(len(labels), classes, device=labels.device)
    present.scatter_(1, labels.flatten(1), 1.0)
    present[:, 0] = 0
    nothing = present.sum(1, keepdim=True) == 0
    anything = torch.ones_like(present)
    anything[:, 0] = 0
    draw = torch.rand(len(labels), 1, generator=generator, device=labels.device)
    weights = torch.where(nothing | (draw < 1 / 8), anything, present)
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def _reveal(x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Return what is known of masks (B, 1, H, W): -1, 1, or 0 where unknown; most often nothing."""
    count, _, height, width = x_0.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=x_0.device)

    rows = torch.linspace(0, 1, height, device=x_0.device)[None, :, None]
    columns = torch.linspace(0, 1, width, device=x_0.device)[None, None, :]
    at, size = draw(count, 2, 1, 1), 0.05 + 0.4 * draw(count, 2, 1, 1)
    is_in_box = ((rows - at[:, 0]).abs() < size[:, 0]) & ((columns - at[:, 1]).abs() < size[:, 1])
    is_shown = is_in_box & (draw(count, 1, 1) < 1 / 3)
    return x_0 * is_shown[:, None]
