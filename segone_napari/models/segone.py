"""SegOne as a whole: the network of 1-D convolutions, the text tower, and what ties them.

Dimension key: B batch, S slices of a slab, D features a pixel, H W pixels, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segone_napari.models.answers import Answers
from segone_napari.models.network import ImageFeatures, NetworkConfig, Phase, SegOneNetwork
from segone_napari.models.text import TextTower


class SegOneModel(nn.Module):
    """Looks at slabs, reads prompts, and denoises masks."""

    def __init__(self, config: NetworkConfig, tower: TextTower) -> None:
        super().__init__()
        self.config = config
        self.network = SegOneNetwork(config)
        self.tower = tower
        self.to_answer = nn.Linear(tower.features, config.features + 1)
        self.slices, self.stride = config.slices, config.stride

    def features(self, slabs: Tensor) -> Tensor:
        """Pixel features (B, D, H, W) that answer every prompt, from slabs (B, S + 3, H, W)."""
        return self.network.dense(slabs)

    def answers(self, prompts: Sequence[str]) -> Answers:
        """Read P prompts."""
        read = self.to_answer(self.tower(prompts))  # (P, D + 1)
        return Answers(read[:, :-1], read[:, -1])

    def denoise(
        self,
        seen: ImageFeatures,
        share: Tensor,
        state: Tensor,
        answer: Answers,
        phase: Phase | None = None,
    ) -> Tensor:
        """Pixel features (B, D, H, W) for one prompt a sample.

        share (B,) is the timestep as a share of the last, state (B, 2, H, W) holds x_t and what
        is known; `answer` has P = B prompts.
        """
        return self.network.decoder(seen, share, state, answer.vectors, phase)  # type: ignore[no-any-return]

    @torch.no_grad()
    def start_from_priors(
        self, phrases: Sequence[Sequence[str]], priors: Sequence[float], ridge: float = 0.1
    ) -> None:
        """Set the answers' biases to the logarithms of how common each structure is.

        The last row of `to_answer` becomes the ridge solution on the tower's present reading of
        every structure's phrases (averaged), so that training starts near the class priors.
        """
        read = torch.stack([self.tower(names).mean(0) for names in phrases])  # (C, T)
        wanted = torch.tensor(priors, device=read.device).log()
        mean = wanted[1:].mean()
        scatter = read.T @ read
        scatter += ridge * scatter.diagonal().mean() * torch.eye(len(scatter), device=read.device)
        self.to_answer.weight[-1] = torch.linalg.solve(scatter, read.T @ (wanted - mean))
        self.to_answer.bias[-1] = mean


def prompt_logit(logits: Tensor, members: Tensor) -> Tensor:
    """Return the logit (B, H, W) of the union of some classes against all others.

    Parameters
    ----------
    logits : (B, P, H, W) of all classes, the background among them.
    members : (B, P) bool, the classes that make up the prompt of each sample.
    """
    inside = logits.masked_fill(~members[..., None, None], -torch.inf)
    outside = logits.masked_fill(members[..., None, None], -torch.inf)
    return inside.logsumexp(1) - outside.logsumexp(1)
