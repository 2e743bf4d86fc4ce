"""Training the network that follows drawn slices through a volume (`systems.propagation`).

Every step draws objects from stacks of synthetic slices: structures, pairs and parts of them. Some
slices of each are drawn, as a person would draw them, a base model is imagined that is wrong
somewhere, or that doesn't know the object, and the network is asked for other slices.

Dimension key: B stacks, S slices of a stack, N slices of an object, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from segone_napari.data.synthetic import LabelMaps, SyntheticConfig, generate
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import Manifest, save_lesson
from segone_napari.models.learnt import Lesson
from segone_napari.systems import lessons as taught
from segone_napari.systems import propagation
from segone_napari.systems.propagation import PROPAGATION, Followed
from segone_napari.training.lessons import new_lesson
from segone_napari.training.runs import (
    Course,
    Report,
    RunState,
    follow_course,
    generator_for,
    split_maps,
)
from segone_napari.volume import Grid, bounding_box

PLANE = "axial"
"""What the slices of a stack are called; which plane they really show doesn't matter."""
FEWEST_SLICES, FEWEST_VOXELS = 5, 60
MARGIN = 12
"""Pixels around an object that are seen with it."""
BEYOND = 4
"""So many slices beyond an object's ends are asked about, too."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PropagationConfig:
    """Everything that decides what comes out of training, but for the machine."""

    steps: int = 5_000
    batch: int = 3
    """Stacks a step."""
    objects: int = 2
    """Objects that are drawn from each stack."""
    asked: int = 3
    """Slices of each object that are asked about."""
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.9
    weight_decay: float = 0.01
    ema_steps: int = 100
    easy_until: float = 0.0
    varied_from: float = 0.0
    validation_maps: int = 2
    seed: int = 0
    synthetic: SyntheticConfig = field(
        default_factory=lambda: SyntheticConfig(
            height=96,
            width=96,
            slices=39,
            pixel_mm=1.0,
            neighbour_mm=1.0,
            planes=("axial", "coronal", "sagittal"),
            shift_mm=40.0,
            thick_share=0.0,
            tumour_share=0.0,
            labels_of_all=True,
        )
    )


class Case(NamedTuple):
    """One object: what is shown of it, its mask (N, H, W) and the slices that are asked about."""

    followed: Followed
    truth: Tensor
    asked: list[int]


def train_propagation(
    label_maps: Path,
    run: Path,
    config: PropagationConfig,
    *,
    command: str = "",
    minutes: float | None = None,
    save_every_s: float = 180.0,
    report: Callable[[Report], None] = lambda _: None,
) -> Path:
    """Train until the last step, or for so many minutes, and return the checkpoint folder.

    `run` and `command` mean what they mean in `base.train`.
    """
    maps, held_out = split_maps(label_maps, Vocabulary.load(), config.validation_maps)
    lesson = new_lesson(propagation.CONFIG, config.seed)

    def measure(device: torch.device) -> float | None:
        return _validate(lesson, held_out, config) if len(held_out.tissues) else None

    def save(state: RunState, folder: Path) -> None:
        training = {
            "command": command,
            "steps_done": state.step,
            "seconds": round(state.seconds),
            "config": asdict(config),
        }
        metrics = {"validation_dice_synthetic": state.dice}
        save_lesson(lesson, Manifest(PROPAGATION, training=training, metrics=metrics), folder)

    parameters = [p for p in lesson.network.parameters() if p.requires_grad]
    groups = [{"params": parameters, "weight_decay": config.weight_decay, "share": 1.0}]
    step = PropagationStep(lesson, config)
    course = Course(config, lesson.network, step, groups, maps, measure, save)
    return follow_course(course, run, minutes=minutes, save_every_s=save_every_s, report=report)


class PropagationStep(nn.Module):
    """One training step's loss, as a module, so that accelerate can wrap it."""

    def __init__(self, lesson: Lesson, config: PropagationConfig) -> None:
        super().__init__()
        self.network, self.lesson, self.config = lesson.network, lesson, config

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return the loss of stacks: inputs (B, S + 3, H, W), labels (B, S, H, W)."""
        random = _random(self.config.seed, step, 1)
        cases = draw_cases(inputs.cpu(), labels.cpu(), self.config, random)
        if not cases:  # stacks of air; nothing moves
            return torch.stack([p.sum() for p in self.network.parameters()]).sum() * 0
        shown = _together([_shown(case, self.lesson, random) for case in cases])
        seen, base, truth, weight = (tensor.to(inputs.device) for tensor in shown)
        return propagation_loss(self.network(seen, base).float(), truth, weight)


def propagation_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy and soft Dice of each slice, so that small objects count; all (B, 1, H, W)."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight
    entropy = entropy.sum((1, 2, 3)) / weight.sum((1, 2, 3))
    probability = logits.sigmoid() * weight
    both, sizes = (probability * truth).sum((1, 2, 3)), (probability + truth).sum((1, 2, 3))
    dice = 1 - (2 * both + 3) / (sizes + 3)
    return (3 * entropy + dice).mean()


# --- objects ------------------------------------------------------------------------------------


def draw_cases(
    inputs: Tensor, labels: Tensor, config: PropagationConfig, random: np.random.Generator
) -> list[Case]:
    """Draw objects from stacks: inputs (B, S + 3, H, W), labels (B, S, H, W)."""
    cases = []
    for stack, classes in zip(inputs[:, : config.synthetic.slices], labels.numpy(), strict=True):
        thick = int(random.choice([1, 1, 1, 1, 2, 3]))
        slices, seen = _thicker(taught.normalised(stack), classes, thick)
        found, counts = np.unique(seen, return_counts=True)
        large = [int(v) for v, n in zip(found, counts, strict=True) if v and n > FEWEST_VOXELS]
        for value in random.permutation(large)[: config.objects]:
            mask = _object(seen, int(value), random)
            case = _case(slices, mask, thick, config, random)
            cases += [] if case is None else [case]
    return cases


def _thicker(
    slices: Tensor, classes: NDArray[np.int64], times: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """Make slices (S, H, W) so many times as thick, labelled as in their middle."""
    whole = len(slices) // times * times
    grouped = slices[:whole].unflatten(0, (-1, times)).mean(1)
    return grouped, classes[times // 2 : whole : times]


def _object(classes: NDArray[np.int64], value: int, random: np.random.Generator) -> Mask:
    """Draw an object of a class: all of it, with a class beside it, a part, or one piece."""
    mask = classes == value
    kind = random.random()
    if kind < 0.15:
        beside = np.unique(classes[ndimage.binary_dilation(mask) & ~mask])
        if beside.any():
            mask = mask | (classes == random.choice(beside[beside > 0]))
    elif kind < 0.4:
        part = mask & (_beyond_a_plane(mask, 1.0, random) > 0)
        mask = part if part.sum() > FEWEST_VOXELS else mask
    if random.random() < 0.35:
        pieces, count = ndimage.label(mask)
        if count > 1:
            mask = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return np.asarray(mask, dtype=bool)


def _case(
    slices: Tensor, mask: Mask, thick: int, config: PropagationConfig, random: np.random.Generator
) -> Case | None:
    """Choose drawn and asked slices of an object; None where it is too small for that."""
    shown = np.flatnonzero(mask.any((1, 2)))
    if len(shown) < FEWEST_SLICES:
        return None
    drawn = _drawn_slices(shown, len(mask), random)
    around = np.arange(max(0, shown[0] - BEYOND), min(len(mask), shown[-1] + BEYOND + 1))
    others = np.setdiff1d(around, drawn)
    if not mask[drawn].any() or len(others) == 0:
        return None
    chances = np.where(mask[others].any((1, 2)), 1.0, 0.5)
    count = min(config.asked, len(others))
    asked = random.choice(others, count, replace=False, p=chances / chances.sum())
    _, rows, columns = bounding_box(mask)
    cut = (
        slice(None),
        slice(max(0, rows.start - MARGIN), rows.stop + MARGIN),
        slice(max(0, columns.start - MARGIN), columns.stop + MARGIN),
    )
    truth = torch.from_numpy(mask[cut])
    base = torch.from_numpy(imagined_base(mask[cut], thick, random))
    is_drawn = torch.zeros_like(truth)
    is_drawn[drawn] = True
    wanted = sorted(asked.tolist())
    followed = _followed(slices[cut], truth, is_drawn, base, wanted)
    return None if followed is None else Case(followed, truth, wanted)


def _drawn_slices(shown: NDArray[np.intp], count: int, random: np.random.Generator) -> list[int]:
    """Choose what is drawn: slices from end to end, or anywhere, also just beyond the ends."""
    wanted = int(random.choice([1, 2, 3, 3, 3, 3, 4, 5]))
    if random.random() < 0.6:
        places = np.linspace(1, len(shown) - 2, wanted).round().astype(int)
        return sorted({int(shown[place]) for place in places})
    near = np.arange(max(0, shown[0] - 1), min(count, shown[-1] + 2))
    return sorted(int(n) for n in random.choice(near, wanted, replace=False))


def imagined_base(mask: Mask, thick: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Logits (N, H, W) of a base model that is more or less wrong about an object.

    Its outline is displaced, too wide or too narrow, a part may be missing; a quarter of the
    objects it doesn't know, and says nothing of.
    """
    if random.random() < 0.25:
        return np.zeros(mask.shape, dtype=np.float32)
    wrong = float(random.choice([0.5, 1.0, 2.0, 3.5]))  # pixels
    depth = taught.signed_distance(mask, (thick, 1, 1))
    places = np.indices(mask.shape).astype(np.float32)
    for axis, mm in enumerate((thick, 1, 1)):
        bends = _smooth(mask.shape, float(random.choice([8.0, 16.0, 40.0])), random)
        places[axis] += wrong / mm * (bends + 0.4 * random.normal())
    depth = ndimage.map_coordinates(depth, places, order=1, mode="nearest")
    depth += 0.6 * wrong * _smooth(mask.shape, 12.0, random) + 0.4 * wrong * random.normal()
    if random.random() < 0.35:
        depth = np.minimum(depth, _beyond_a_plane(mask, thick, random))
    if random.random() < 0.2:
        depth += 1.5 * _smooth(mask.shape, 6.0, random)
    logits = float(random.choice([0.7, 1.2, 2.5])) * depth + 0.3 * random.normal()
    return np.asarray(logits.clip(-taught.LOGIT_LIMIT, taught.LOGIT_LIMIT), dtype=np.float32)


def _beyond_a_plane(mask: Mask, thick: float, random: np.random.Generator) -> NDArray[np.float32]:
    """How far each voxel lies beyond a plane in any direction through a voxel of a mask."""
    direction = random.normal(size=3)
    direction *= np.array([thick, 1, 1]) / np.linalg.norm(direction)
    at = random.choice(np.argwhere(mask))
    places = np.indices(mask.shape).astype(np.float32)
    return np.einsum("a,aijk->ijk", direction.astype(np.float32), places) - float(direction @ at)


def _smooth(
    shape: tuple[int, ...], knots_px: float, random: np.random.Generator
) -> NDArray[np.float32]:
    """Smooth noise of about unit strength; its knots are so many pixels apart."""
    coarse = random.normal(size=[max(2, int(n / knots_px) + 2) for n in shape])
    fine = F.interpolate(torch.from_numpy(coarse)[None, None].float(), shape, mode="trilinear")
    return np.asarray(fine[0, 0].numpy())


# --- what the network is shown ------------------------------------------------------------------


def _followed(
    slices: Tensor, truth: Tensor, is_drawn: Tensor, base: Tensor, asked: list[int]
) -> Followed | None:
    """Show an object as in use: all (N, H, W), as the axial slices of a scene."""
    image, mask, known, logits = (t.permute(1, 2, 0) for t in (slices, truth, is_drawn, base))
    x, y, z = image.shape
    scene = taught.Scene(
        Grid((x, y, z), np.eye(4)),
        (slice(0, x), slice(0, y), slice(0, z)),
        image.contiguous(),
        torch.zeros(0, x, y, z),
        logits[None].half(),
        (torch.zeros(x), torch.zeros(y), torch.zeros(z)),
    )
    drawn = taught.drawn_slices(mask[None], known[None], PLANE)
    return next(iter(propagation.followed(scene, PLANE, drawn, asked)), None)


def _shown(case: Case, lesson: Lesson, random: np.random.Generator) -> tuple[Tensor, ...]:
    """Inputs, the base's logits, truth and weight (N, C, H, W) of the asked slices, turned over."""
    scene, drawn = case.followed.scene, case.followed.drawn
    use = torch.ones(len(drawn.indices), dtype=torch.bool)
    inputs = torch.stack(
        [
            torch.cat(
                [
                    taught.slice_inputs(scene, PLANE, n, lesson.config.neighbours),
                    taught.expected_outlines(drawn, n, use).flatten(0, 1),
                ]
            )
            for n in case.asked
        ]
    )
    base = torch.stack([taught.slice_base(scene, PLANE, n) for n in case.asked])
    truth = case.truth[case.asked][:, None].float()
    axes = [axis for axis in (2, 3) if random.random() < 0.5]
    turned = [t.flip(axes) for t in (inputs, base, truth, torch.ones_like(truth))]
    if random.random() < 0.5:
        turned = [t.transpose(2, 3) for t in turned]
    return tuple(turned)


def _together(shown: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Pad slices of all objects to the largest; a padded pixel has no weight."""
    height = max(parts[0].shape[2] for parts in shown)
    width = max(parts[0].shape[3] for parts in shown)
    out = []
    for tensors in zip(*shown, strict=True):
        padded = [F.pad(t, (0, width - t.shape[3], 0, height - t.shape[2])) for t in tensors]
        out.append(torch.cat(padded))
    return out


def _random(seed: int, step: int, purpose: int) -> np.random.Generator:
    mixed = generator_for(seed, step, purpose, torch.device("cpu")).initial_seed()
    return np.random.default_rng(mixed)


def _validate(lesson: Lesson, maps: LabelMaps, config: PropagationConfig) -> float:
    """Mean Dice of the asked slices of fixed objects of the held-out maps."""
    scores = []
    for number in range(8):
        generator = generator_for(0, number, 2, torch.device("cpu"))
        slabs = generate(maps, config.synthetic, 4, generator)
        cases = draw_cases(*slabs, replace(config, asked=6), _random(0, number, 3))
        for case in cases:
            logits = propagation.propagated(lesson, case.followed, PLANE, case.asked)
            shown, truth = logits > 0, case.truth[case.asked]
            scores.append(
                float(2 * (shown & truth).sum() / (shown.sum() + truth.sum()).clamp_min(1))
            )
    return float(np.mean(scores))
