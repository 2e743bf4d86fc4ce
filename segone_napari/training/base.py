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
from segone_napari.models.answers import Answers
from segone_napari.models.checkpoint import (
    Manifest,
    load_checkpoint,
    read_manifest,
    save_checkpoint,
)
from segone_napari.models.network import NetworkConfig
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel, untaught_answers
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
    steps: int = 4_600
    batch: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    decay_share: float = 0.95
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    weight_decay: float = 0.01
    ema_steps: int = 200
    """The weights that are saved are averaged over about the last so many steps."""
    diffusion_share: float = 0.125
    """Share of each batch that also learns to denoise the mask of one prompt."""
    noise: float = 1.0
    """How much of the noisy mask the denoiser sees; 0 is the control without diffusion."""
    easy_until: float = 0.05
    """Share of the steps, at the start, in which all images look like a T1."""
    varied_from: float = 0.2
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

MUON_SHARE = 5.0
"""Muon's learning rate, as a share of the configured one, which is AdamW's."""


def build_model(config: TrainConfig, vocabulary: Vocabulary, start: Path | None = None) -> Model:
    """Make an untrained model, the same for the same seed, or go on from a checkpoint folder."""
    set_seed(config.seed)
    if start is not None:
        return _start_from(start, config, vocabulary)
    if config.system == "unet":
        return UNetModel(config.unet, vocabulary.class_names)
    if config.system != "segone":
        raise BadInput(f"can't train the system {config.system!r}; use segone or unet")
    tower = TextTower.create(config.text, itertools.chain(*_phrases(vocabulary)), config.seed)
    return SegOneModel(config.network, tower)


def _phrases(vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """Every class by its canonical name, then all its names."""
    return [(name, *vocabulary.phrases(name)) for name in vocabulary.class_names]


class Anchored(nn.Module):
    """SegOne while it learns from images: each class has an answer of its own.

    Images teach these answers, so that a step needs no text tower, and the tower is then taught to
    give them when it reads the classes' names.

    Parameters
    ----------
    known : classes whose answer the tower knows already; the others start at random.
    """

    def __init__(
        self, model: SegOneModel, vocabulary: Vocabulary, known: Sequence[str], seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.phrases = _phrases(vocabulary)
        self.seed = seed
        names = vocabulary.class_names
        generator = torch.Generator().manual_seed(seed)
        priors = [vocabulary.prior(name) for name in names]
        vectors, biases = untaught_answers(priors, model.config.features, generator)
        index = [place for place, name in enumerate(names) if name in known]
        if index:
            with torch.no_grad():
                learnt = model.answers([names[place] for place in index])
            vectors[index], biases[index] = learnt.vectors, learnt.biases
        self.vectors, self.biases = nn.Parameter(vectors), nn.Parameter(biases)
        model.tower.requires_grad_(False)
        model.to_answer.requires_grad_(False)

    @property
    def answers(self) -> Answers:
        """The answers of all classes."""
        return Answers(self.vectors, self.biases)

    def teach_names(self) -> float:
        """Teach the tower the answers as they are now; returns the loss."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.model.learn_names(self.phrases, self.answers, generator)


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
    if isinstance(model, UNetModel) and known.class_names != vocabulary.class_names:
        raise BadInput(f"the U-Net in {folder} has other classes, and can't learn new ones")
    return model.train()


def train(
    label_maps: Path,
    run: Path,
    config: TrainConfig,
    *,
    start: Path | None = None,
    lesions: Path | None = None,
    command: str = "",
    minutes: float | None = None,
    save_every_s: float = 180.0,
    report: Callable[[Report], None] = lambda _: None,
) -> Path:
    """Train until the last step, or for so many minutes, and return the checkpoint folder.

    `run` keeps the state to go on from and ``checkpoint/``, the averaged weights so far. A call
    with a `run` that exists goes on from there. `start` is the checkpoint folder that
    `config.start` names, `lesions` a folder of lesion masks in MNI space. `command` is noted in
    the checkpoint.
    """
    vocabulary = Vocabulary.load()
    maps, held_out = split_maps(label_maps, vocabulary, config.validation_maps, lesions)
    model = build_model(config, vocabulary, start)
    known = () if start is None else Vocabulary.load(start / "vocabulary.json").class_names
    learner = (
        Anchored(model, vocabulary, known, config.seed) if isinstance(model, SegOneModel) else model
    )

    def save(state: RunState, folder: Path) -> None:
        metrics = {"validation_dice_synthetic": state.dice}
        if isinstance(learner, Anchored):
            metrics["names_loss"] = learner.teach_names()
        training = {
            "command": command,
            "before": None if start is None else read_manifest(start).training,
            "steps_done": state.step,
            "seconds": round(state.seconds),
            "config": asdict(config),
        }
        manifest = Manifest(config.system, config.start, training=training, metrics=metrics)
        save_checkpoint(model, vocabulary, manifest, folder)

    course = Course(
        config,
        learner,
        _Step(learner, vocabulary, config),
        _parameter_groups(learner, config.weight_decay),
        maps,
        lambda device: _validate(learner, held_out, vocabulary, config, device),
        save,
    )
    return follow_course(course, run, minutes=minutes, save_every_s=save_every_s, report=report)


class _Step(nn.Module):
    """One training step's loss, as a module, so that accelerate can spread it over GPUs."""

    def __init__(
        self, learner: Anchored | UNetModel, vocabulary: Vocabulary, config: TrainConfig
    ) -> None:
        super().__init__()
        self.learner = learner
        self.config = config
        self.schedule = NoiseSchedule()
        self.names = vocabulary.class_names

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        generator = generator_for(self.config.seed, step, 1, labels.device)
        rows, columns = self._some_pixels(step)
        if isinstance(self.learner, UNetModel):
            features = self.learner.features(inputs)[:, :, rows, columns]
            return dense_loss(features, self.learner.answers(self.names), labels[:, rows, columns])
        model, answers = self.learner.model, self.learner.answers
        seen = model.network.encode(inputs)
        features = model.network.dense_from(seen)[:, :, rows, columns]
        loss = dense_loss(features, answers, labels[:, rows, columns])
        count = round(self.config.diffusion_share * len(labels))
        if count:
            index = torch.arange(count, device=labels.device)
            loss = loss + 0.5 * diffusion_loss(
                model,
                self.schedule,
                seen.select(index),
                answers,
                labels[:count],
                generator,
                self.config.noise,
            )
        return loss

    def _some_pixels(self, step: int) -> tuple[slice, slice]:
        """Every second row, and of fine pixels fewer: neighbours say nearly the same."""
        fine = max(1, self.config.network.stem // 2)
        generator = generator_for(self.config.seed, step, 3, torch.device("cpu"))
        rows, columns = (
            slice(int(torch.randint(every, (), generator=generator)), None, every)
            for every in (2 * fine, fine)
        )
        return rows, columns


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Muon for the network's matrices, which decay; AdamW for vectors and the classes' answers."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim > 1 and name != "vectors"
            (matrices if is_matrix else others).append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay, "share": MUON_SHARE, "is_muon": True},
        {"params": others, "weight_decay": 0.0, "share": 1.0},
    ]


def _validate(
    learner: Anchored | UNetModel,
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
    model: Model
    if isinstance(learner, Anchored):
        model, answers = learner.model, learner.answers
    else:
        model, answers = learner, learner.answers(vocabulary.class_names)
    for batch in range(8):
        generator = generator_for(0, batch, 2, torch.device("cpu"))
        inputs, labels = generate(maps, config.synthetic, 8, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
            features = model.features(inputs.to(device))
        predicted = answers.logits(features.float()).argmax(1).cpu()
        hits += torch.bincount(labels[labels == predicted], minlength=classes)
        sizes += torch.bincount(labels.flatten(), minlength=classes)
        sizes += torch.bincount(predicted.flatten(), minlength=classes)
    dice = (2 * hits / sizes)[1:]
    return float(dice[sizes[1:] > 0].mean())
