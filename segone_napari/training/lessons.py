"""Teaching a lesson: from corrected slices to a small network (`models.learnt`).

Knows nothing of projects, checkpoints or files; `training.teaching` does.

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

from segone_napari.models.learnt import (
    REFERENCE_CHANNELS,
    Lesson,
    LessonConfig,
    LessonMember,
    LessonNetwork,
)
from segone_napari.runtime import SegOneError, fast_precision, is_out_of_memory
from segone_napari.systems import lessons as taught
from segone_napari.training.bookmarks import (
    Bookmarks,
    Stretch,
    packed_optimizer,
    unpack_optimizer,
)

CROP = 96
"""A training example is cut to at most so many pixels in each direction."""

MOST_DRIFT = 0.4
"""An expected outline is displaced by at most so much of the distance to an object's middle."""


class CantLearn(SegOneError):
    """A training that came to nothing. The model that was used before stays as it is."""


NO_MEMORY = (
    "there is not enough memory to train, so nothing was changed; close other programs or images, "
    "then train again"
)


@dataclass(frozen=True)
class LearnConfig:
    """How a lesson is learnt. The defaults were chosen on cases apart from those measured."""

    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    weighing_times: float = 4.0
    """How much faster than the layers the weights of the base and the expected outline move."""
    warmup_share: float = 0.1
    average_steps: int = 40
    """The weights that are kept are averaged over about the last so many steps."""
    checks: int = 8
    """How often it is looked at what was held back."""
    patience: int = 3
    """After so many looks in a row without getting better, it ends."""
    references_share: float = 0.9
    """Share of the samples of one patient that see what was drawn on other slices of their
    image, as they do when the image is answered: only its own slices are drawn."""
    references_share_of_many: float = 0.35
    """The same where there are more patients: most images will have no drawn slices."""
    misled_share: float = 0.6
    """Share of those that are shown their own outline instead, displaced as if it had been
    expected from slices as far away as those between which the lesson will answer."""
    drift: float = 0.25
    """Standard deviation of such a displacement in pixels for each slice of that distance."""
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
    followed_weight: float = 0.5
    """How much a pixel counts that drawn slices surely lead to on those beside them, where several
    patients teach (`training.continuing`); 0: these aren't learnt from."""
    shift_of_one: float = 0.3
    """The same, of the box, where there is one patient: else the places of the drawn slices
    would be learnt by heart."""


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


Check = Callable[[LessonNetwork], float]
"""How far a network is from right on what was held back: a loss."""


def learn(
    network: LessonNetwork,
    examples: Sequence[Example],
    slices: Sequence[Slice],
    budget: Budget,
    config: LearnConfig,
    seed: int,
    report: Callable[[float, float], None] = lambda share, loss: None,
    *,
    check: Check | None = None,
    bookmarks: Bookmarks | None = None,
    name: str = "learning",
) -> int:
    """Train a network in place, until the budget is used up; return how many steps were best.

    `report` is called with the share that is done and the loss; it may raise `Cancelled`. With
    `check`, the weights that were best on what was held back are kept, and training ends early
    when they don't get better. With `bookmarks`, it goes on where one of this name was ended.

    Raises
    ------
    CantLearn
        If the loss is no number again and again, or memory doesn't suffice for one sample.
    """
    course = _Course(network, budget, config, seed, bookmarks or Bookmarks(), name)
    if course.is_over:
        return course.best_step
    sampler = _Sampler(examples, slices, network.config, config, course.generator)
    device = next(network.parameters()).device
    network.train()
    while (share := budget.share(course.step)) < 1:
        course.set_rate(share)
        try:
            loss = _step(network, course.optimizer, sampler.draw(course.batch, device))
        except (MemoryError, RuntimeError) as error:
            course.batch = _smaller(course.batch, error)
            continue
        if not math.isfinite(loss):
            course.go_back()
            continue
        course.count()
        if check is not None and course.is_worse_for_long(share, check):
            break
        course.keep()
        report(share, loss)
    course.end(is_checked=check is not None)
    network.eval()
    return course.best_step


class _Course:
    """The state of a training: weights, their average, the best of them, and all that moves."""

    def __init__(
        self,
        network: LessonNetwork,
        budget: Budget,
        config: LearnConfig,
        seed: int,
        bookmarks: Bookmarks,
        name: str,
    ) -> None:
        self.network, self.budget, self.config = network, budget, config
        self.bookmarks, self.name = bookmarks, name
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = _optimizer(network, config)
        self.average = copy.deepcopy(network.state_dict())
        self.best, self.best_loss, self.best_step = self.average, math.inf, 0
        self.batch, self.step, self.failures, self.slower = config.batch, 0, 0, 1.0
        self.checked_at, self.worse = 0.0, 0
        self.is_over = False
        self._go_on()

    def set_rate(self, share: float) -> None:
        """Set the learning rate for a share of the budget."""
        rate = self.config.learning_rate * self.slower
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["times"] * _schedule(share, self.config.warmup_share)

    def go_back(self) -> None:
        """The loss was no number: back to the averaged weights, and slower."""
        self.failures += 1
        if self.failures > 3:
            raise CantLearn(
                "training gave no number for its loss again and again, so nothing was "
                "changed; look for damaged values in the corrected images, then train again"
            )
        self.network.load_state_dict(self.average)
        self.optimizer.state.clear()
        self.slower /= 4

    def count(self) -> None:
        """A step was done: average the weights."""
        self.step += 1
        keep = min(1 - 1 / self.config.average_steps, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)

    def is_worse_for_long(self, share: float, check: Check) -> bool:
        """Look at what was held back, now and then; whether it has got worse often enough."""
        if share < self.checked_at + 1 / self.config.checks:
            return False
        self.checked_at = share
        weights = copy.deepcopy(self.network.state_dict())
        self.network.load_state_dict(self.average)
        self.network.eval()
        loss = check(self.network)
        self.network.load_state_dict(weights)
        self.network.train()
        if loss < self.best_loss:
            self.best, self.best_loss = copy.deepcopy(self.average), loss
            self.best_step, self.worse = self.step, 0
        else:
            self.worse += 1
        return self.worse >= self.config.patience

    def end(self, *, is_checked: bool) -> None:
        """Put the best weights into the network, and keep that this is over."""
        if not is_checked or not math.isfinite(self.best_loss):
            self.best, self.best_step = self.average, self.step
        self.network.load_state_dict(self.best)
        numbers = {"best_step": float(self.best_step)}
        tensors = {f"best.{name}": value for name, value in self.best.items()}
        self.bookmarks.save(self.name, Stretch(tensors, numbers, is_over=True))

    def keep(self) -> None:
        """Keep the state now and then, for the case of a kill."""
        if not self.bookmarks.is_due(self.name, self.step):
            return
        tensors = {"generator": self.generator.get_state(), **packed_optimizer(self.optimizer)}
        parts = {"network": self.network.state_dict(), "average": self.average, "best": self.best}
        for part, weights in parts.items():
            tensors |= {f"{part}.{name}": value.clone() for name, value in weights.items()}
        numbers = {name: float(getattr(self, name)) for name in COUNTERS}
        numbers["seconds"] = time.monotonic() - self.budget.started
        self.bookmarks.save(self.name, Stretch(tensors, numbers, is_over=False))

    def _go_on(self) -> None:
        kept = self.bookmarks.load(self.name)
        if kept is None:
            return

        def part(name: str) -> dict[str, Tensor]:
            start = f"{name}."
            found = {k: v for k, v in kept.tensors.items() if k.startswith(start)}
            device = next(self.network.parameters()).device
            return {k.removeprefix(start): v.to(device) for k, v in found.items()}

        if kept.is_over:
            self.network.load_state_dict(part("best"))
            self.network.eval()
            self.best_step, self.is_over = int(kept.numbers["best_step"]), True
            return
        self.network.load_state_dict(part("network"))
        self.average, self.best = part("average"), part("best")
        unpack_optimizer(self.optimizer, kept.tensors)
        self.generator.set_state(kept.tensors["generator"])
        for name in COUNTERS:
            setattr(self, name, type(getattr(self, name))(kept.numbers[name]))
        self.budget.started -= kept.numbers["seconds"]


COUNTERS = (
    "best_loss", "best_step", "batch", "step", "failures", "slower", "checked_at", "worse"
)  # fmt: skip


def held_back_check(
    lesson: LessonConfig, shown: Sequence[Example], truth: Sequence[Example], held: Sequence[Slice]
) -> Check:
    """Measure a loss on slices that were held back.

    Parameters
    ----------
    shown : the examples as they are seen, without what was held back.
    truth : the same with it.
    """

    def check(network: LessonNetwork) -> float:
        losses = []
        for one in held:
            drawn = shown[one.example].drawn.get(one.plane)
            scene = shown[one.example].scene
            with torch.inference_mode(), fast_precision(scene.image.device):
                logits = taught.slice_logits(
                    Lesson(lesson, network), scene, one.plane, [one.place], drawn, [()]
                )
            answer, weight = (
                taught.slice_values(v, one.plane, one.place)[None].float()
                for v in (truth[one.example].truth, truth[one.example].weight)
            )
            losses.append(float(lesson_loss(logits, answer, weight)))
        return math.fsum(losses) / len(losses)

    return check


def _optimizer(network: LessonNetwork, config: LearnConfig) -> torch.optim.Optimizer:
    """AdamW; the few numbers that weigh the base and the expected outline move faster."""
    weighing = [one for m in network.members for one in (m.trust, m.gain, m.floor)]
    layers = [p for p in network.parameters() if all(p is not one for one in weighing)]
    groups = [
        {"params": layers, "times": 1.0},
        {"params": weighing, "times": config.weighing_times, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)


def _schedule(share: float, warmup: float) -> float:
    """Learning rate as a share of the highest: up, then a cosine down to nearly nothing."""
    if share < warmup:
        return 0.1 + 0.9 * share / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _smaller(batch: int, error: Exception) -> int:
    """Halve the batch when memory ran out; any other error goes on its way."""
    if not is_out_of_memory(error):
        raise error
    if batch == 1:
        raise CantLearn(NO_MEMORY) from error
    return batch // 2


def _step(
    network: LessonNetwork, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...]
) -> float:
    inputs, base, truth, weight = batch
    total = 0.0
    for member in network.members:  # each learns for itself
        with fast_precision(inputs.device):
            logits = member(inputs, base)
        loss = lesson_loss(logits.float(), truth, weight)
        total += float(loss.detach())
        if math.isfinite(total):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(member.parameters(), 1.0)
    if math.isfinite(total):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total / len(network.members)


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
        is_one = lesson.patients == 1
        self.references_share = (
            config.references_share if is_one else config.references_share_of_many
        )
        self.shift = config.shift
        if is_one:
            largest = max(high - low for low, high in lesson.box_mm)
            self.shift = max(config.shift, config.shift_of_one * largest / taught.LENGTH_MM)
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
        if drawn is None or not len(drawn.indices) or self._chance() > self.references_share:
            return nothing
        own = torch.nonzero(drawn.indices == one.place).flatten()
        if len(own) and (len(drawn.indices) < 2 or self._chance() < self.config.misled_share):
            return self._misled(drawn, int(own[0]))
        away = (drawn.indices - one.place).abs()
        fewest = self._chance() ** 2 * 8
        use = (away > fewest) & (away > 0)
        return taught.expected_outlines(drawn, one.place, use)

    def _misled(self, drawn: taught.Drawn, own: int) -> Tensor:
        """A slice's own outlines (T, R, H, W) as if they came from others: moved, bent, resized.

        How far away those are is drawn up to half the widest gap, so that training sees what use
        will see.
        """
        gaps = drawn.indices.diff()
        half = float(gaps.max()) / 2 if len(gaps) else 2 * taught.FADES_OVER
        away = 1 + max(0.0, half - 1) * self._chance()
        # further away than its own size an object isn't expected anywhere
        inside = float(drawn.outlines[own].max()) * taught.REACH
        error = min(self.config.drift * away, max(0.5, MOST_DRIFT * inside))
        terms, height, width = drawn.outlines.shape[1:]
        out = torch.zeros(terms, REFERENCE_CHANNELS, height, width)
        coarse = error * self._normal(2, 1, 3, 3) + error * self._normal(2, 1, 1, 1)
        bends = F.interpolate(coarse, (height, width), mode="bicubic")[:, 0]
        rows = torch.arange(height)[:, None] + bends[0]
        columns = torch.arange(width)[None, :] + bends[1]
        grid = torch.stack([(columns + 0.5) * 2 / width - 1, (rows + 0.5) * 2 / height - 1], -1)
        outlines = F.grid_sample(
            drawn.outlines[own].float()[None], grid[None], padding_mode="border",
            align_corners=False,
        )[0]  # fmt: skip
        thicker = 0.5 * error / taught.REACH * self._normal(terms, 1, 1)
        known = drawn.is_known[own][:, None, None]
        out[:, 0] = (outlines + thicker).clamp(-1, 1) * known
        out[:, 1] = taught.nearness(away) * known
        return out

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
        if self.lesson.is_mirrored:
            sides = torch.where(torch.rand(count, 2, generator=self.generator) < 0.5, -1.0, 1.0)
            size = size * sides
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
        return torch.cat([image, places + self.shift * draw(count, 3, 1, 1), rest], 1)

    def _chance(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


def start_from_base(
    network: LessonNetwork, examples: Sequence[Example], slices: Sequence[Slice]
) -> None:
    """Let the base's own answer count as much as it is right on corrected slices: by its Dice.

    Not at all where that is under a half: there it hides what was drawn of a thin structure.
    """
    terms = len(network.config.terms)
    both, total = torch.zeros(terms), torch.zeros(terms)
    for one in slices:
        example = examples[one.example]
        truth, weight = (
            taught.slice_values(v, one.plane, one.place).float()
            for v in (example.truth, example.weight)
        )
        mask = (taught.slice_base(example.scene, one.plane, one.place) > 0).float()
        both += 2 * (mask * truth * weight).sum((1, 2))
        total += ((mask + truth) * weight).sum((1, 2))
    with torch.no_grad():
        right = torch.where(total > 0, both / total.clamp_min(1), 1.0)
        right = (2 * right - 1).clamp_min(0)
        for member in network.members:
            assert isinstance(member, LessonMember)
            member.trust.mul_(right.to(member.trust.device))


def new_lesson(config: LessonConfig, seed: int) -> Lesson:
    """Make an untrained lesson, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Lesson(config, LessonNetwork(config))
