"""The optimizer of every training here: Muon for the matrices of a network, AdamW for the rest.

Which parameters are which, the groups say; all are AdamW's unless a group asks for Muon. Muon makes
the momentum of a weight matrix nearly orthogonal before it is applied, so that rare directions
learn as fast as common ones.

Sources: Jordan et al., *Muon: An optimizer for hidden layers in neural networks* (2024), for
`orthogonal`; Loshchilov and Hutter, *Decoupled weight decay regularization*, ICLR 2019, for AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segone_napari.runtime import has_fast_bfloat16

MOMENTUM = 0.95
"""Muon's, of which it also looks ahead (Nesterov)."""

Group = dict[str, Any]

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
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            update = self._muon if group["is_muon"] else self._adam
            update(parameters, [p.grad for p in parameters], group)

    def _muon(self, parameters: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        momenta = self._kept("momentum", parameters)
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        directions = orthogonal_taps(torch._foreach_lerp(gradients, momenta, MOMENTUM))
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])

    def _adam(self, parameters: list[Tensor], gradients: list[Tensor], group: Group) -> None:
        first, second = group["betas"]
        means, squares = self._kept("mean", parameters), self._kept("square", parameters)
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - second)
        counts = []
        for parameter in parameters:
            step = self.state[parameter].setdefault("step", torch.zeros(()))
            step += 1
            counts.append(float(step))
        sizes = torch._foreach_div(squares, [1 - second**count for count in counts])
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, group["eps"])
        shares = [-group["lr"] / (1 - first**count) for count in counts]
        torch._foreach_addcdiv_(parameters, means, sizes, scalars=shares)

    def _kept(self, name: str, parameters: list[Tensor]) -> list[Tensor]:
        """What is kept of each parameter under a name; zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def orthogonal_taps(weights: Sequence[Tensor]) -> list[Tensor]:
    """Orthogonalise weights (out, in, …), each tap of a convolution of kernel 3 by itself.

    Other weights are one matrix (out, the rest): those of a pixel-unshuffle see all their pixels
    together. The result is scaled so that a tall matrix moves its outputs as far as a square one.
    Matrices of one shape are done together, which saves many small operations.
    """
    taps = [
        weight.flatten(2).permute(2, 0, 1)  # (K, out, in)
        if weight.ndim > 2 and max(weight.shape[2:]) > 1
        else weight.flatten(1)[None]  # (1, out, rest)
        for weight in weights
    ]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (_, rows, columns) in enumerate(matrices.shape for matrices in taps):
        alike.setdefault((rows, columns), []).append(place)
    results = list(weights)
    for (rows, columns), places in alike.items():
        together = orthogonal(torch.cat([taps[place] for place in places]))
        together = together * max(1.0, rows / columns) ** 0.5
        for place, result in zip(
            places, together.split([len(taps[place]) for place in places]), strict=True
        ):
            results[place] = result.permute(1, 2, 0).reshape(weights[place].shape)
    return results


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
