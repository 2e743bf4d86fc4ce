"""What a dense model and a prompt have in common: a vector, whose product with a pixel's features
is the prompt's logit in that pixel.

Dimension key: B batch, D features a pixel, H W pixels, P prompts, S slices of a slab.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor


class Answers(NamedTuple):
    """Prompts as a dense model knows them: `vectors` (P, D) and `biases` (P,)."""

    vectors: Tensor
    biases: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (B, P, H, W) of every prompt for pixel features (B, D, H, W)."""
        dtype = features.dtype
        # in channels_last memory, as features are, both permutations are free
        pixels = features.permute(0, 2, 3, 1)  # (B, H, W, D)
        return F.linear(pixels, self.vectors.to(dtype), self.biases.to(dtype)).permute(0, 3, 1, 2)


class DenseModel(Protocol):
    """A network that looks at slabs once and then answers any number of prompts.

    `slices` is S; height and width of a slab must be multiples of `stride`.
    """

    slices: int
    stride: int

    def features(self, slabs: Tensor) -> Tensor:
        """Pixel features (B, D, H, W) of slabs (B, S + 3, H, W)."""
        ...

    def overview(self, slabs: Tensor) -> Tensor:
        """As `features`, of pixels or of square blocks of them, roughly and quickly."""
        ...

    def answers(self, prompts: Sequence[str]) -> Answers:
        """Turn names of structures into what `features` is multiplied with."""
        ...
