"""The noise schedule and one deterministic sampling step.

Symbols of the papers and their names here: x_0 the mask in [-1, 1], x_t the mask with noise at
timestep t, ε the noise, ᾱ_t `alphas_cumprod[t]`. Knows nothing of networks.

Sources: Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, equation 4; Nichol &
Dhariwal, *Improved DDPM*, ICML 2021, equation 17; Song et al., *DDIM*, ICLR 2021, equation 12.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class NoiseSchedule:
    """The squared-cosine schedule over `steps` timesteps, 0 (almost clean) to steps - 1 (noise)."""

    def __init__(self, steps: int = 1000) -> None:
        def alpha_bar(share: float) -> float:
            return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [
            min(1 - alpha_bar((t + 1) / steps) / alpha_bar(t / steps), 0.999) for t in range(steps)
        ]
        self.steps = steps
        self.alphas_cumprod = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), dim=0)

    @property
    def last(self) -> int:
        """The timestep T at which x_t says nothing."""
        return self.steps - 1

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t for x_0 and ε of shape (B, …) and t of shape (B,) (DDPM, equation 4)."""
        alpha_bar = self._at(t, x_0)
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise

    def step(self, x_t: Tensor, x_0: Tensor, t: int, t_next: int) -> Tensor:
        """Return x at timestep t_next < t, given the predicted x_0 (DDIM, equation 12, σ = 0).

        t_next = -1 means the end: x_0 itself.
        """
        if t_next < 0:
            return x_0
        alpha_bar, alpha_bar_next = self.alphas_cumprod[t], self.alphas_cumprod[t_next]
        noise = (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
        return alpha_bar_next.sqrt() * x_0 + (1 - alpha_bar_next).sqrt() * noise

    def timesteps(self, count: int) -> list[int]:
        """Return `count` timesteps from the last one downwards, evenly spaced."""
        if not 1 <= count <= self.steps:
            raise ValueError(f"{count} sampling steps asked for; use 1 to {self.steps}")
        return [round(self.last - i * self.steps / count) for i in range(count)]

    def _at(self, t: Tensor, like: Tensor) -> Tensor:
        values = self.alphas_cumprod.to(like.device)[t]
        return values.reshape(-1, *[1] * (like.ndim - 1))  # (B, 1, …)
