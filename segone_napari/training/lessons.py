"""Teaching a lesson: from corrected slices to a small network (`models.learnt`).

Knows nothing of projects, checkpoints or files; `training.finetune` does.

Dimension key: x y z RAS axes of the lesson's grid, T terms, B batch, C channels, H W pixels.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segone_napari.models.learnt import REFERENCE_CHANNELS, Lesson, LessonConfig, LessonNetwork
from segone_napari.runtime import SegOneError
from segone_napari.systems import lessons as taught

CROP = 96
"""A training example is cut to at most so many pixels in each direction."""


class CantLearn(SegOneError):
    """A training that came to nothing. The model that was used before stays as it is."""


@dataclass(frozen=True)
class LearnConfig:
    """How a lesson is learnt. The defaults were chosen on cases apart from those measured."""

    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    average_steps: int = 40
    """The weights that are kept are averaged over about the last so many steps."""
    references_share: float = 0.6
    """Share of the samples that see what was drawn on other slices of their image."""
    rotation: float = 0.2
    """Standard deviation in radians of the turn of a sample."""
    scaling: float = 0.12
    """The same for the logarithm of its size in each direction."""
    bend: float = 0.05
    """The same for bends, in shares of half a sample."""
    contrast: float = 0.25
    noise: float = 0.05
    shift: float = 0.06
    """Standard deviation of a shift of the positions, in `systems.lessons.LENGTH_MM`."""


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a lesson.

    Attributes
    ----------
    scene : what the lesson sees of it.
    truth : (T, x, y, z) float16 in the scene's box, 0 to 1; a person's voxels are 0 or 1.
    weight : (T, x, y, z) float16, how much a voxel counts; 0 where nothing is known, 1 where a
        person said it, between where a teacher did.
    drawn : by plane, the slices that a person corrected.
    patient : whose image it is.
    """

    scene: taught.Scene
    truth: Tensor
    weight: Tensor
    drawn: dict[str, taught.Drawn]
    patient: str


class Slice(NamedTuple):
    """A slice to learn from: which example, plane and place in the scene's box."""

    example: int
    plane: str
    place: int


@dataclass
class Budget:
    """How long a part of the training may take, in steps and in seconds, whichever is less."""

    steps: int
    seconds: float
    started: float = field(default_factory=time.monotonic)

    def share(self, step: int) -> float:
        """What part is used up, 0 to 1."""
        used_s = (time.monotonic() - self.started) / max(self.seconds, 1e-6)
        return min(1.0, max(step / max(1, self.steps), used_s))


def slices_of(examples: Sequence[Example], planes: Sequence[str]) -> list[Slice]:
    """All slices that say something."""
    found = []
    for number, example in enumerate(examples):
        for plane in planes:
            weight = example.weight > 0
            for index in range(taught.slice_count(example.scene, plane)):
                known = taught.slice_values(weight, plane, index).float().mean((1, 2))
                # of a plane across the corrected slices only lines are known: of little use
                if bool((known > 0.2).any()):
                    found.append(Slice(number, plane, index))
    return found


def learn(
    network: LessonNetwork,
    examples: Sequence[Example],
    slices: Sequence[Slice],
    budget: Budget,
    config: LearnConfig,
    seed: int,
    report: Callable[[float, float], None] = lambda share, loss: None,
) -> int:
    """Train a network in place, until the budget is used up; return the steps that were done.

    `report` is called with the share that is done and the loss; it may raise `Cancelled`.

    Raises
    ------
    CantLearn
        If the loss is no number again and again, or memory doesn't suffice for one sample.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    average = copy.deepcopy(network.state_dict())
    sampler = _Sampler(examples, slices, network.config, config, generator)
    batch, step, failures, slower = config.batch, 0, 0, 1.0
    network.train()
    while (share := budget.share(step)) < 1:
        for group in optimizer.param_groups:
            rate = config.learning_rate * slower
            group["lr"] = rate * _schedule(share, config.warmup_share)
        try:
            loss = _step(network, optimizer, sampler.draw(batch, device))
        except (MemoryError, RuntimeError) as error:
            batch = _smaller(batch, error)
            continue
        if not math.isfinite(loss):
            failures += 1
            if failures > 3:
                raise CantLearn(
                    "training gave no number for its loss again and again, so nothing was "
                    "changed; look for damaged values in the corrected images, then train again"
                )
            network.load_state_dict(average)
            optimizer.state.clear()
            slower /= 4
            continue
        step += 1
        keep = min(1 - 1 / config.average_steps, step / (step + 10))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                average[name].lerp_(value, 1 - keep)
        report(share, loss)
    network.load_state_dict(average)
    network.eval()
    return step


def _schedule(share: float, warmup: float) -> float:
    """Learning rate as a share of the highest: up, then a cosine down to nearly nothing."""
    if share < warmup:
        return 0.1 + 0.9 * share / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _smaller(batch: int, error: Exception) -> int:
    """Halve the batch when memory ran out; any other error goes on its way."""
    if not (isinstance(error, MemoryError) or "memory" in str(error).lower()):
        raise error
    if batch == 1:
        raise CantLearn(
            "there is not enough memory to train, so nothing was changed; close other programs "
            "or images, then train again"
        ) from error
    return batch // 2


def _step(
    network: LessonNetwork, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...]
) -> float:
    inputs, base, truth, weight = batch
    loss = lesson_loss(network(inputs, base), truth, weight)
    value = float(loss.detach())
    if math.isfinite(value):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def lesson_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy and soft Dice of each term where something is known; all (B, T, H, W)."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    total = weight.sum((0, 2, 3))  # (T,)
    entropy = (entropy * weight).sum((0, 2, 3)) / total.clamp_min(1)
    probability = logits.sigmoid()
    overlap = (probability * truth * weight).sum((0, 2, 3))
    sizes = ((probability + truth) * weight).sum((0, 2, 3))
    dice = 1 - (2 * overlap + 5) / (sizes + 5)
    return (entropy + dice).mean()


class _Sampler:
    """Draws slices, with what may be seen beside them, and turns, bends and recolours them."""

    def __init__(
        self,
        examples: Sequence[Example],
        slices: Sequence[Slice],
        lesson: LessonConfig,
        config: LearnConfig,
        generator: torch.Generator,
    ) -> None:
        self.examples, self.slices = examples, slices
        self.lesson, self.config, self.generator = lesson, config, generator
        shows = [self._shows_something(one) for one in slices]
        # empty slices teach where an object ends, but there are many of them
        share = 0.35 * len(slices) / max(1, shows.count(False))
        self.chances = torch.tensor([1.0 if show else min(1.0, share) for show in shows])
        shapes = [self._truth(one).shape[1:] for one in slices]
        self.padded = max(s[0] for s in shapes), max(s[1] for s in shapes)
        block = 2 ** (len(lesson.channels) - 1)
        self.shape = tuple(min(CROP, -(-n // block) * block) for n in self.padded)

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, ...]:
        """Inputs (B, C, H, W), and base logits, truth, weight (B, T, H, W)."""
        chosen = torch.multinomial(self.chances, count, replacement=True, generator=self.generator)
        stacked = [self._slice(self.slices[n]) for n in chosen.tolist()]
        together = self._bent(torch.stack(stacked))
        terms = len(self.lesson.terms)
        inputs, base, truth, weight = together.split(
            [self.lesson.inputs, terms, terms, terms], dim=1
        )
        inputs = self._recoloured(inputs)
        return tuple(t.to(device) for t in (inputs, base, truth.clamp(0, 1), weight))

    def _truth(self, one: Slice) -> Tensor:
        return taught.slice_values(self.examples[one.example].truth, one.plane, one.place)

    def _shows_something(self, one: Slice) -> bool:
        weight = taught.slice_values(self.examples[one.example].weight, one.plane, one.place)
        return bool(((self._truth(one) > 0.5) & (weight > 0)).any())

    def _slice(self, one: Slice) -> Tensor:
        """All channels of a slice (C, H, W), padded to the largest: nothing is known there."""
        example = self.examples[one.example]
        scene, neighbours = example.scene, self.lesson.neighbours
        inputs = taught.slice_inputs(scene, one.plane, one.place, neighbours)
        outlines = self._outlines(example, one).flatten(0, 1)
        base = taught.slice_base(scene, one.plane, one.place)
        weight = taught.slice_values(example.weight, one.plane, one.place).float()
        channels = torch.cat([inputs, outlines, base, self._truth(one).float(), weight])
        height, width = channels.shape[1:]
        return F.pad(channels, (0, self.padded[1] - width, 0, self.padded[0] - height))

    def _outlines(self, example: Example, one: Slice) -> Tensor:
        """What drawn slices let expect, the slice itself left out, and others at random."""
        drawn = example.drawn.get(one.plane)
        nothing = torch.zeros(
            len(self.lesson.terms), REFERENCE_CHANNELS, *self._truth(one).shape[1:]
        )
        if drawn is None or len(drawn.indices) < 2:
            return nothing
        if float(torch.rand((), generator=self.generator)) > self.config.references_share:
            return nothing
        away = (drawn.indices - one.place).abs()
        fewest = float(torch.rand((), generator=self.generator)) ** 2 * 8
        use = (away > fewest) & (away > 0)
        return taught.expected_outlines(drawn, one.place, use)

    def _bent(self, channels: Tensor) -> Tensor:
        """Turn, scale, bend and cut samples (B, C, H, W) in the same way in all channels."""
        count, config, draw = len(channels), self.config, self._normal
        angle, size = draw(count) * config.rotation, (draw(count, 2) * config.scaling).exp()
        crop = torch.tensor(self.shape[::-1]) / torch.tensor(self.padded[::-1])  # x, y
        room = (1 - crop).clamp_min(0)
        shift = (torch.rand(count, 2, generator=self.generator) * 2 - 1) * (room + 0.1)
        shift = torch.where(room > 0, self._towards(channels, room), shift)
        # sizes in pixels, so that turning keeps angles on samples that are not square
        half = torch.tensor(self.padded[::-1], dtype=torch.float32) / 2
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
        matrix = turn.view(count, 2, 2) * size[:, None] * (crop * half) / half[:, None]
        grid = F.affine_grid(
            torch.cat([matrix, shift[..., None]], 2), [count, 1, *self.shape], align_corners=False
        )
        bends = F.interpolate(draw(count, 2, 5, 5) * config.bend, self.shape, mode="bicubic")
        grid = grid + bends.permute(0, 2, 3, 1) * crop
        return F.grid_sample(channels, grid, align_corners=False)

    def _towards(self, channels: Tensor, room: Tensor) -> Tensor:
        """Where to cut (B, 2): about an object, as far as there is room."""
        terms = len(self.lesson.terms)
        truth, weight = channels[:, -2 * terms : -terms], channels[:, -terms:]
        mass = (truth * weight).amax(1) + 1e-6 * weight.amax(1)  # (B, H, W)
        places = []
        for axis in (2, 1):
            line = mass.sum(3 - axis)
            at = torch.linspace(-1, 1, line.shape[1])
            places.append((line * at).sum(1) / line.sum(1).clamp_min(1e-9))
        jitter = 0.3 * self._normal(len(channels), 2)
        return torch.minimum(torch.maximum(torch.stack(places, 1) + jitter, -room), room)

    def _recoloured(self, inputs: Tensor) -> Tensor:
        """Change the contrast, brightness and noise of the slices, and shift the positions."""
        count, config, draw = len(inputs), self.config, self._normal
        slices = 2 * self.lesson.neighbours + 1
        image, places, rest = inputs.split([slices, 3, inputs.shape[1] - slices - 3], dim=1)
        gamma, gain = ((draw(count, 1, 1, 1) * config.contrast).exp() for _ in range(2))
        image = image.clamp(0, 2) ** gamma * gain + 0.4 * config.contrast * draw(count, 1, 1, 1)
        strength = torch.rand(count, 1, 1, 1, generator=self.generator) * config.noise
        image = image + strength * draw(*image.shape)
        return torch.cat([image, places + config.shift * draw(count, 3, 1, 1), rest], 1)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def new_lesson(config: LessonConfig, seed: int) -> Lesson:
    """Make an untrained lesson, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Lesson(config, LessonNetwork(config))
