"""SegOne as a whole: the network of 1-D convolutions, the text tower, and what ties them.

Dimension key: B batch, S slices of a slab, D features a pixel, H W pixels, P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from segone_napari.models.answers import Answers
from segone_napari.models.layers import Down, ScanBlock, Up
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

    def overview(self, slabs: Tensor) -> Tensor:
        """As `features`, of blocks of pixels, roughly and quickly: (B, D, H / stem, W / stem)."""
        return self.network.overview(slabs)

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
        """Return this model with finer pixels or more blocks: a start to train on from.

        Where a prompt conditions the denoiser may change, too.

        It answers an image of fine pixels as this one answers their means over the pixels of its
        own size, with the same answer for each of these. Blocks that are added change nothing yet.

        Raises
        ------
        ValueError
            If the sizes differ in more than that, or are smaller.
        """
        own = self.config
        may_grow = {
            name: getattr(own, name)
            for name in ("stem", "encoder_blocks", "decoder_blocks", "detail_blocks", "text_in")
        }
        before = (*own.encoder_blocks, *own.decoder_blocks, own.detail_blocks)
        after = (*config.encoder_blocks, *config.decoder_blocks, config.detail_blocks)
        if (
            replace(config, **may_grow) != own
            or config.stem % own.stem
            or any(more < fewer for fewer, more in zip(before, after, strict=True))
        ):
            raise ValueError(f"the network has other sizes: {own}")
        model = SegOneModel(config, self.tower)
        weights = self.state_dict()
        for name, module in model.network.named_modules():
            if isinstance(module, ScanBlock):
                module.do_nothing()
            elif isinstance(module, Down | Up):
                known = self.network.get_submodule(name)
                assert isinstance(known, Down | Up)
                for key, value in known.finer(module.factor // known.factor).items():
                    weights[f"network.{name}.mix.{key}"] = value
        model.load_state_dict(model.state_dict() | weights)
        return model

    def learn_names(
        self,
        phrases: Sequence[Sequence[str]],
        answers: Answers,
        generator: torch.Generator,
        steps: int = 300,
    ) -> float:
        """Teach the tower what each structure is called; returns the last loss.

        Parameters
        ----------
        phrases : of each of P structures, its canonical name and then all its names.
        answers : what each structure is to be answered with. The canonical names end up answered
            with exactly that (up to rounding), the other names nearly.
        """
        count = len(phrases)
        targets = torch.cat([answers.vectors, answers.biases[:, None]], 1).detach()  # (P, D + 1)
        parameters = [*self.tower.parameters(), *self.to_answer.parameters()]
        was_frozen = [not parameter.requires_grad for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        with torch.no_grad():  # start from the right mean
            read = self.to_answer(self.tower([names[0] for names in phrases]))
            self.to_answer.bias.add_((targets - read).mean(0))
        loss = torch.zeros(())
        for _ in range(steps):
            draws = torch.rand(count, 4, generator=generator)
            draws[:, 0] = 0.0  # one of four is always the first
            chosen = [
                names[int(d * len(names))]
                for names, row in zip(phrases, draws.tolist(), strict=True)
                for d in row
            ]
            read = self.to_answer(self.tower(chosen)).unflatten(0, (count, 4))  # (P, 4, D + 1)
            loss = (read - targets[:, None]).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        for parameter, is_frozen in zip(parameters, was_frozen, strict=True):
            parameter.requires_grad_(not is_frozen)
        self._answer_exactly([names[0] for names in phrases], targets)
        return float(loss.detach())

    @torch.no_grad()
    def _answer_exactly(self, names: Sequence[str], targets: Tensor) -> None:
        """Change the last layer as little as is needed for P names to get their targets."""
        read = self.tower(names).double()  # (P, T)
        known = torch.cat([read, torch.ones_like(read[:, :1])], 1)  # (P, T + 1)
        missing = targets.double() - self.to_answer(self.tower(names)).double()  # (P, D + 1)
        # a little slack: names whose embeddings are nearly equal must not need huge weights
        gram = known @ known.mT + 1e-4 * torch.eye(len(names), device=known.device)
        change = (known.mT @ torch.linalg.solve(gram, missing)).to(targets.dtype)  # (T + 1, D + 1)
        self.to_answer.weight.add_(change[:-1].mT)
        self.to_answer.bias.add_(change[-1])


def untaught_answers(priors: Sequence[float], features: int, generator: torch.Generator) -> Answers:
    """Where structures start from: a random vector each, a bias that says how common it is."""
    vectors = 0.5 * torch.randn(len(priors), features, generator=generator)
    return Answers(vectors, torch.tensor(priors).log())


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
