"""Training SegOne, or the U-Net that it is measured against, from label maps.

Dimension key: B batch, C classes, D features a pixel, H W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from segone_napari.data.synthetic import LabelMaps, SyntheticConfig, generate
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import (
    Manifest,
    load_checkpoint,
    read_manifest,
    save_checkpoint,
)
from segone_napari.models.network import NetworkConfig
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel
from segone_napari.models.text import TextConfig, TextTower
from segone_napari.models.unet import UNetConfig, UNetModel
from segone_napari.runtime import BadInput, has_fast_bfloat16
from segone_napari.training.objectives import dense_loss, diffusion_loss
from segone_napari.training.runs import (
    Course,
    Report,
    RunState,
    follow_course,
    generator_for,
    split_maps,
)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what comes out of a training run, but for the machine."""

    system: str = "segone"
    steps: int = 40_000
    batch: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    decay_share: float = 0.85
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    weight_decay: float = 0.01
    ema_steps: int = 500
    """The weights that are saved are averaged over about the last so many steps."""
    diffusion_share: float = 0.125
    """Share of each batch that also learns to denoise the mask of one prompt."""
    names_every: int = 4
    """The text tower learns in one of so many steps: it learns slowly, and takes as long."""
    easy_until: float = 0.1
    """Share of the steps, at the start, in which all images look like a T1."""
    varied_from: float = 0.3
    """Share of the steps from which on images look as `synthetic` says; in between, more and more.

    All contrasts mixed from the start teach a network where structures usually lie, and then it
    takes long to look at the image.
    """
    start: str | None = None
    """Name of the checkpoint that training starts from; None starts from nothing."""
    validation_maps: int = 2
    """Label maps kept out of training, the last ones by name."""
    seed: int = 0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    text: TextConfig = field(default_factory=lambda: TextConfig(projection_dim=64))
    unet: UNetConfig = field(default_factory=UNetConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)


Model = SegOneModel | UNetModel

TOWER_SHARE = 0.1
"""The text tower's learning rate, as a share of the network's."""


def build_model(config: TrainConfig, vocabulary: Vocabulary, start: Path | None = None) -> Model:
    """Make an untrained model, the same for the same seed, or go on from a checkpoint folder."""
    set_seed(config.seed)
    if start is not None:
        return _start_from(start, config, vocabulary)
    if config.system == "unet":
        return UNetModel(config.unet, vocabulary.class_names)
    if config.system != "segone":
        raise BadInput(f"can't train the system {config.system!r}; use segone or unet")
    phrases = _phrases(vocabulary)
    tower = TextTower.create(config.text, itertools.chain(*phrases), config.seed)
    model = SegOneModel(config.network, tower)
    _learn_names(model, vocabulary, config, known=())
    return model


def _phrases(vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """Every class by its canonical name, then all its names."""
    return [(name, *vocabulary.phrases(name)) for name in vocabulary.class_names]


def _learn_names(
    model: SegOneModel, vocabulary: Vocabulary, config: TrainConfig, known: Sequence[str]
) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    names = vocabulary.class_names
    priors = [vocabulary.prior(name) for name in names]
    kept = [index for index, name in enumerate(names) if name in known]
    model.learn_names(_phrases(vocabulary), priors, generator, kept=kept)


def _start_from(folder: Path, config: TrainConfig, vocabulary: Vocabulary) -> Model:
    """Load the model that training starts from; a finer one grows out of it where that fits."""
    model, known, manifest = load_checkpoint(folder)
    if manifest.system != config.system:
        raise BadInput(f"{folder} is a checkpoint of {manifest.system}, not of {config.system}")
    try:
        if isinstance(model, SegOneModel):
            model = model.grown(config.network)
        elif model.config != config.unet:
            raise ValueError(f"the network has other sizes: {model.config}")
    except ValueError as error:
        raise BadInput(f"can't start from {folder}: {error}") from error
    if known.class_names != vocabulary.class_names:
        if isinstance(model, UNetModel):
            raise BadInput(f"the U-Net in {folder} has other classes, and can't learn new ones")
        _learn_names(model, vocabulary, config, known.class_names)
    return model.train()


def train(
    label_maps: Path,
    run: Path,
    config: TrainConfig,
    *,
    start: Path | None = None,
    command: str = "",
    minutes: float | None = None,
    save_every_s: float = 180.0,
    report: Callable[[Report], None] = lambda _: None,
) -> Path:
    """Train until the last step, or for so many minutes, and return the checkpoint folder.

    `run` keeps the state to go on from and ``checkpoint/``, the averaged weights so far. A call
    with a `run` that exists goes on from there. `start` is the checkpoint folder that
    `config.start` names. `command` is noted in the checkpoint.
    """
    vocabulary = Vocabulary.load()
    maps, held_out = split_maps(label_maps, vocabulary, config.validation_maps)
    model = build_model(config, vocabulary, start)

    def save(state: RunState, folder: Path) -> None:
        training = {
            "command": command,
            "before": None if start is None else read_manifest(start).training,
            "steps_done": state.step,
            "seconds": round(state.seconds),
            "config": asdict(config),
        }
        metrics = {"validation_dice_synthetic": state.dice}
        manifest = Manifest(config.system, config.start, training=training, metrics=metrics)
        save_checkpoint(model, vocabulary, manifest, folder)

    course = Course(
        config,
        model,
        _Step(model, vocabulary, config),
        _parameter_groups(model, config.weight_decay),
        maps,
        lambda device: _validate(model, held_out, vocabulary, config, device),
        save,
    )
    return follow_course(course, run, minutes=minutes, save_every_s=save_every_s, report=report)


class _Step(nn.Module):
    """One training step's loss, as a module, so that accelerate can spread it over GPUs."""

    def __init__(self, model: Model, vocabulary: Vocabulary, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.schedule = NoiseSchedule()
        self.names = vocabulary.class_names
        self.phrases = _phrases(vocabulary)

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        generator = generator_for(self.config.seed, step, 1, labels.device)
        if isinstance(self.model, UNetModel):
            features = self.model.features(inputs)
            return dense_loss(features, self.model.answers(self.names), labels)
        with torch.set_grad_enabled(step % self.config.names_every == 0):
            answers = self.model.answers(self._read_names(generator))
        seen = self.model.network.encode(inputs)
        features = self.model.network.dense_from(seen)
        some, their_labels = self._some_pixels(features, labels, generator)
        loss = dense_loss(some, answers, their_labels)
        count = round(self.config.diffusion_share * len(labels))
        if count:
            index = torch.arange(count, device=labels.device)
            loss = loss + 0.5 * diffusion_loss(
                self.model, self.schedule, seen.select(index), answers, labels[:count], generator
            )
        return loss

    def _some_pixels(
        self, features: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Keep one of 2 x 2 pixels where they are fine: neighbours say nearly the same."""
        every = max(1, self.config.network.stem // 2)
        draws = torch.randint(every, (2,), generator=generator, device=labels.device).tolist()
        rows, columns = (slice(first, None, every) for first in draws)
        return features[:, :, rows, columns], labels[:, rows, columns]

    def _read_names(self, generator: torch.Generator) -> list[str]:
        """Call each class by its canonical name half of the time, else by any of its names."""
        draws = torch.rand(len(self.names), 2, generator=generator, device=generator.device)
        return [
            phrases[0] if use < 0.5 else phrases[int(which * len(phrases))]
            for phrases, (use, which) in zip(self.phrases, draws.tolist(), strict=True)
        ]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices, not vectors; the text tower, a transformer, learns at a tenth of the rate."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = name.startswith("tower."), parameter.ndim > 1
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if is_matrix else 0.0,
            "share": TOWER_SHARE if is_tower else 1.0,
        }
        for (is_tower, is_matrix), parameters in groups.items()
    ]


def _validate(
    model: Model,
    maps: LabelMaps,
    vocabulary: Vocabulary,
    config: TrainConfig,
    device: torch.device,
) -> float | None:
    """Mean Dice over classes, on fixed slabs of the held-out maps."""
    if not len(maps.tissues):
        return None
    classes = len(vocabulary.class_names)
    hits, sizes = torch.zeros(classes), torch.zeros(classes)
    answers = model.answers(vocabulary.class_names)
    for batch in range(4):
        generator = generator_for(0, batch, 2, torch.device("cpu"))
        inputs, labels = generate(maps, config.synthetic, 16, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
            features = model.features(inputs.to(device))
        predicted = answers.logits(features.float()).argmax(1).cpu()
        hits += torch.bincount(labels[labels == predicted], minlength=classes)
        sizes += torch.bincount(labels.flatten(), minlength=classes)
        sizes += torch.bincount(predicted.flatten(), minlength=classes)
    dice = (2 * hits / sizes)[1:]
    return float(dice[sizes[1:] > 0].mean())
