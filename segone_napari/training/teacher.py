"""Training the small SAM2 that comes with the program: prompts to masks on synthetic MRI.

Each step asks the same kind of thing (a box, clicks, a rough mask, or several of these) about some
objects of every slab, then corrects the answers by clicks where they are wrong, as a person would.

Source: Kirillov et al., *Segment Anything*, 2023, appendix A; Ravi et al., *SAM 2*, 2024.

Dimension key: B images, K objects an image, N = B·K objects, S side of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import Tensor, nn

from segone_napari.data.synthetic import LabelMaps, SyntheticConfig, generate
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import Manifest, read_manifest
from segone_napari.models.sam2 import (
    TEACHER,
    Prompts,
    Sam2Config,
    Seen,
    answer,
    build_sam2,
    drawn,
    is_for_images,
    load_sam2,
    look,
    save_sam2,
)
from segone_napari.runtime import BadInput, fast_precision
from segone_napari.training.prompts import (
    BOX,
    CLICK,
    CLICKS,
    ROUGH,
    SAYINGS,
    Saying,
    Task,
    close_ups,
    corrected_prompts,
    draw_objects,
    draw_views,
    first_prompts,
    paint_lesions,
)
from segone_napari.training.runs import (
    Course,
    Report,
    RunState,
    follow_course,
    generator_for,
    split_maps,
)

FOCAL_WEIGHT = 20.0
"""How much the focal loss counts against the Dice and the quality, as in SAM 2's training."""
MEASURED = {"box": BOX, "one click": CLICK, "three clicks": CLICKS, "rough mask": ROUGH}
"""What is asked about the label maps that are kept out."""


@dataclass(frozen=True)
class TeacherConfig:
    """Everything that decides what comes out of training a teacher, but for the machine."""

    steps: int = 20_000
    batch: int = 4
    """Slabs a step."""
    objects: int = 4
    """Objects that are asked about in each slab."""
    corrections: int = 2
    """Times that an answer is corrected by a click."""
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    decay_share: float = 0.85
    weight_decay: float = 0.05
    ema_steps: int = 500
    easy_until: float = 0.05
    varied_from: float = 0.15
    start: str | None = None
    """Name of the checkpoint that training starts from; None starts from nothing."""
    validation_maps: int = 2
    seed: int = 0
    sam2: Sam2Config = field(default_factory=Sam2Config)
    synthetic: SyntheticConfig = field(default_factory=lambda: SyntheticConfig().with_pixels(1.0))


def train_teacher(
    label_maps: Path,
    run: Path,
    config: TeacherConfig,
    *,
    start: Path | None = None,
    command: str = "",
    minutes: float | None = None,
    save_every_s: float = 180.0,
    report: Callable[[Report], None] = lambda _: None,
) -> Path:
    """Train until the last step, or for so many minutes, and return the checkpoint folder.

    `run`, `start` and `command` mean what they mean in `base.train`.
    """
    maps, held_out = split_maps(label_maps, Vocabulary.load(), config.validation_maps)
    model = _build(config, start)
    measured: dict[str, float] = {}

    def measure(device: torch.device) -> float | None:
        measured.update(_validate(model, held_out, config, device))
        return sum(measured.values()) / len(measured) if measured else None

    def save(state: RunState, folder: Path) -> None:
        training = {
            "command": command,
            "before": None if start is None else read_manifest(start).training,
            "steps_done": state.step,
            "seconds": round(state.seconds),
            "config": asdict(config),
        }
        metrics = {"validation_dice_synthetic": state.dice, "dice_by_prompt": dict(measured)}
        manifest = Manifest(TEACHER, config.start, training=training, metrics=metrics)
        save_sam2(model, config.sam2, manifest, folder)

    groups = _parameter_groups(model, config.weight_decay)
    course = Course(config, model, TeacherStep(model, config), groups, maps, measure, save)
    return follow_course(course, run, minutes=minutes, save_every_s=save_every_s, report=report)


def _build(config: TeacherConfig, start: Path | None) -> Any:
    set_seed(config.seed)
    try:
        model = build_sam2(config.sam2)
    except ValueError as error:
        raise BadInput(f"can't make this teacher: {error}") from error
    if start is not None:
        before, sizes = load_sam2(start)
        if sizes != config.sam2:
            raise BadInput(f"can't start from {start}: it has other sizes, {sizes}")
        model.load_state_dict(before.state_dict())
    # the memory for videos and the score for hidden objects take no part in a single image
    for name, parameter in model.named_parameters():
        parameter.requires_grad = is_for_images(name) and "pred_obj_score_head" not in name
    return model.train()


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices, not vectors."""
    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [p for p in used if (p.ndim > 1) == is_matrix],
            "weight_decay": weight_decay if is_matrix else 0.0,
            "share": 1.0,
        }
        for is_matrix in (True, False)
    ]


class TeacherStep(nn.Module):
    """One training step's loss, as a module, so that accelerate can spread it over GPUs."""

    def __init__(self, model: Any, config: TeacherConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return the loss of slabs: inputs (B, S + 3, H, W), labels (B, H, W)."""
        generator = generator_for(self.config.seed, step, 1, labels.device)
        which = torch.randint(len(SAYINGS), (1,), generator=generator, device=labels.device)
        saying = SAYINGS[int(which)]
        task = _draw_task(inputs, labels, self.config, generator)
        if self.config.sam2.is_close_up:
            task = close_ups(task, saying, self.config.sam2.image_size, generator)
        images, masks, is_asked = task
        seen = look(self.model, images)
        if len(images) < len(masks):
            seen = seen.repeat(self.config.objects)
        prompts = first_prompts(masks, saying, generator)
        losses = []
        for number in range(1 + self.config.corrections):
            logits, quality = ask(self.model, self.config.sam2, seen, prompts)
            is_ambiguous = saying.is_ambiguous and number == 0
            losses.append(answer_loss(logits, quality, masks, is_asked, is_ambiguous))
            prompts = corrected_prompts(prompts, masks, logits[:, :1].detach(), generator)
        return torch.stack(losses).mean()


def ask(model: Any, sizes: Sam2Config, seen: Seen, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Answer prompts as `sam2.answer` does, drawn first where the model wants that."""
    return answer(model, seen, drawn(prompts) if sizes.is_close_up else prompts)


def _draw_task(
    inputs: Tensor, labels: Tensor, config: TeacherConfig, generator: torch.Generator
) -> Task:
    """Draw objects in views of slabs."""
    middle = inputs[:, config.synthetic.slices // 2]
    side = max(labels.shape[1:]) if config.sam2.is_close_up else config.sam2.image_size
    images, seen = draw_views(middle, labels, side, generator)
    images, blobs = paint_lesions(images, seen, generator)
    masks, is_asked = draw_objects(seen, blobs, config.objects, generator)
    return Task(images, masks, is_asked)


def answer_loss(
    logits: Tensor, quality: Tensor, masks: Tensor, is_asked: Tensor, is_ambiguous: bool
) -> Tensor:
    """Focal loss, Dice and the error of the quality, mean over the objects that are asked about.

    Parameters
    ----------
    logits, quality : (N, 4, S/4, S/4) and (N, 4), as `answer` returns them.
    masks : (N, S, S) bool, the truth.
    is_asked : (N,) bool.
    is_ambiguous : whether the three further readings learn, too: the best of them.
    """
    with torch.autocast(logits.device.type, enabled=False):
        truth = F.avg_pool2d(masks[:, None].float(), 2)  # (N, 1, S/2, S/2)
        size = truth.shape[-2:]
        fine = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        mask_loss = FOCAL_WEIGHT * _focal(fine, truth) + _dice_loss(fine, truth)  # (N, 4)
        error = (quality.float() - _overlap(fine, truth)).abs()  # (N, 4)
        loss = mask_loss[:, 0] + error[:, 0]
        # the zero keeps all weights in the graph, which several GPUs need
        readings = mask_loss[:, 1:].min(1).values + error[:, 1:].mean(1)
        loss = loss + float(is_ambiguous) * readings
        return (loss * is_asked).sum() / is_asked.sum().clamp_min(1)


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy (N, 4) in which pixels that are right already count little."""
    truth = truth.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = (logits.sigmoid() - truth).abs()
    return (entropy * wrong.square()).mean((2, 3))


def _dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Minus the logarithm of the soft Dice (N, 4), whose gradient an empty answer keeps."""
    probability = logits.sigmoid()
    shared = (probability * truth).sum((2, 3))
    size = probability.sum((2, 3)) + truth.sum((2, 3))
    return -((2 * shared + 0.1) / (size + 0.1)).log()


@torch.no_grad()
def _overlap(logits: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union (N, 4) of what is shown with the truth."""
    shown, inside = logits > 0, truth > 0.5
    return (shown & inside).sum((2, 3)) / (shown | inside).sum((2, 3)).clamp_min(1)


def _validate(
    model: Any, maps: LabelMaps, config: TeacherConfig, device: torch.device
) -> dict[str, float]:
    """Mean Dice for each kind of prompt, on fixed objects of the held-out maps."""
    if not len(maps.tissues):
        return {}
    dice: dict[str, list[Tensor]] = {name: [] for name in MEASURED}
    for number in range(4):
        generator = generator_for(0, number, 2, torch.device("cpu"))
        inputs, labels = generate(maps, config.synthetic, 4, generator)
        task = _draw_task(inputs, labels, config, generator)
        for name, saying in MEASURED.items():
            images, masks, is_asked = task
            if config.sam2.is_close_up:
                images, masks, is_asked = close_ups(task, saying, config.sam2.image_size, generator)
            prompts = first_prompts(masks, saying, generator)
            asked = Prompts(*(t.to(device) for t in prompts))
            with fast_precision(device):
                seen = look(model, images.to(device)).repeat(len(masks) // len(images))
                shown = _answered(model, config, seen, asked, saying)
            dice[name].append(_dice(shown.cpu(), masks)[is_asked])
    return {name: float(torch.cat(values).mean()) for name, values in dice.items()}


def _answered(
    model: Any, config: TeacherConfig, seen: Seen, prompts: Prompts, saying: Saying
) -> Tensor:
    """Return the mask (N, S/4, S/4) logits that a person would be shown."""
    logits, quality = ask(model, config.sam2, seen, prompts)
    if not saying.is_ambiguous:
        return logits[:, 0]
    best = 1 + quality[:, 1:].argmax(1)
    return logits[torch.arange(len(logits), device=logits.device), best]


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    fine = F.interpolate(logits[:, None], masks.shape[-2:], mode="bilinear", align_corners=False)
    shown = fine[:, 0] > 0
    both = (shown & masks).sum((1, 2))
    return 2 * both / (shown.sum((1, 2)) + masks.sum((1, 2))).clamp_min(1)
