"""SegOne as a whole: the network of 1-D convolutions, the text tower, and what ties them.

Dimension key: B batch, S slices of a slab, D features a pixel, H W pixels, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from segone_napari.models.answers import Answers
from segone_napari.models.layers import Down, Up
from segone_napari.models.network import ImageFeatures, NetworkConfig, SegOneNetwork
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
    ) -> Tensor:
        """Pixel features (B, D, H, W) for one prompt a sample.

        share (B,) is the timestep as a share of the last, state (B, 2, H, W) holds x_t and what
        is known; `answer` has P = B prompts.
        """
        return self.network.decoder(seen, share, state, answer.vectors)

    def grown(self, config: NetworkConfig) -> SegOneModel:
        """Return this model with finer pixels or more detail blocks: a start to train on from.

        It answers an image of fine pixels as this one answers their means over the pixels of its
        own size, with the same answer for each of these.

        Raises
        ------
        ValueError
            If the sizes differ in more than that.
        """
        same = replace(config, stem=self.config.stem, detail_blocks=self.config.detail_blocks)
        if same != self.config or config.stem % self.config.stem:
            raise ValueError(f"the network has other sizes: {self.config}")
        model = SegOneModel(config, self.tower)
        weights = self.state_dict()
        for name, module in model.network.named_modules():
            if isinstance(module, Down | Up):
                own = self.network.get_submodule(name)
                assert isinstance(own, Down | Up)
                for key, value in own.finer(module.factor // own.factor).items():
                    weights[f"network.{name}.mix.{key}"] = value
        model.load_state_dict(model.state_dict() | weights)
        return model

    def learn_names(
        self,
        phrases: Sequence[Sequence[str]],
        priors: Sequence[float],
        generator: torch.Generator,
        steps: int = 300,
        kept: Sequence[int] = (),
    ) -> float:
        """Teach the tower which phrases mean the same, before it sees an image.

        Every structure gets a random vector of its own and a bias that is the logarithm of how
        common it is. The tower learns to answer each of the structure's phrases with them, so
        that training on images starts with structures that are told apart, and from the class
        priors. Structures whose indices are in `kept` are known already: their first phrase keeps
        its answer, and the others learn it. Returns the last loss.
        """
        count, features = len(phrases), self.network.config.features
        targets = 0.5 * torch.randn(count, features, generator=generator)
        targets = torch.cat([targets, torch.tensor(priors).log()[:, None]], dim=1)  # (C, D + 1)
        targets = targets.to(self.to_answer.weight.device)
        if kept:
            with torch.no_grad():
                known = self.answers([phrases[index][0] for index in kept])
            targets[list(kept)] = torch.cat([known.vectors, known.biases[:, None]], dim=1)
        parameters = [*self.tower.parameters(), *self.to_answer.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        loss = torch.zeros(())
        if not kept:
            with torch.no_grad():
                self.to_answer.bias.copy_(targets.mean(0))
        for _ in range(steps):
            draws = torch.rand(count, 4, generator=generator)
            draws[:, 0] = 0.0  # one of four is always the first
            chosen = [
                names[int(d * len(names))]
                for names, row in zip(phrases, draws.tolist(), strict=True)
                for d in row
            ]
            read = self.to_answer(self.tower(chosen)).unflatten(0, (count, 4))  # (C, 4, D + 1)
            loss = (read - targets[:, None]).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()  # afterwards: training must not start with gradients of names
            schedule.step()
        return float(loss.detach())


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
