"""The optimizer of every training here: Muon for the matrices of a network, AdamW for the rest.

Which parameters are which, the groups say; all are AdamW's unless a group asks for Muon. Muon makes
the momentum of a weight matrix nearly orthogonal before it is applied, so that rare directions
learn as fast as common ones.

Sources: Jordan et al., *Muon: An optimizer for hidden layers in neural networks* (2024), for
`orthogonal`; Loshchilov and Hutter, *Decoupled weight decay regularization*, ICLR 2019, for AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segone_napari.runtime import has_fast_bfloat16

MOMENTUM = 0.95
"""Muon's, of which it also looks ahead (Nesterov)."""

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer over two kinds of parameter groups.

    Parameters
    ----------
    groups : parameter groups. Those with ``"is_muon": True`` hold weights of two dimensions or
        more (out, in, …); each tap of a convolution of kernel 3 counts as a matrix of its own.
        Each group says its own "lr" and "weight_decay".
    betas : AdamW's.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.98)):
        defaults = {"lr": 1e-3, "weight_decay": 0.0, "is_muon": False, "betas": betas, "eps": 1e-8}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do one step with the gradients that there are."""
        if closure is not None:
            raise ValueError("MuonAdamW calls no closure; compute the gradients before the step")
        for group in self.param_groups:
            update = self._muon if group["is_muon"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, group)

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonal_taps(gradient.lerp(momentum, MOMENTUM))
        parameter.add_(direction, alpha=-group["lr"])

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        count = float(state["step"])
        size = (state["square"] / (1 - second**count)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - first**count))


def orthogonal_taps(weight: Tensor) -> Tensor:
    """Orthogonalise a weight (out, in, …), each tap of a convolution of kernel 3 by itself.

    Other weights are one matrix (out, the rest): those of a pixel-unshuffle see all their pixels
    together. The result is scaled so that a tall matrix moves its outputs as far as a square one.
    """
    taps = (
        weight.flatten(2).permute(2, 0, 1)  # (K, out, in)
        if weight.ndim > 2 and max(weight.shape[2:]) > 1
        else weight.flatten(1)[None]  # (1, out, rest)
    )
    _, rows, columns = taps.shape
    result = orthogonal(taps) * max(1.0, rows / columns) ** 0.5
    if len(taps) == 1:
        return result.view_as(weight)
    return result.permute(1, 2, 0).reshape(weight.shape)


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring all singular values of matrices (K, rows, columns) near 1, by Newton and Schulz.

    They end between about 0.7 and 1.2, which is near enough to learn with.
    """
    a, b, c = _QUINTIC
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if has_fast_bfloat16(x.device):
        x = x.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)
