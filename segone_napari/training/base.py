"""Training from label maps: a loop that can be killed at any moment and goes on where it was.

Every random number of a step comes from the seed and the step's number, so that a run that was
interrupted ends with the same weights as one that wasn't. `accelerate` runs the loop on a CPU, a
GPU or several. Slabs are made on the GPU where there is one, otherwise in a process beside.

Dimension key: B batch, C classes, D features a pixel, H W pixels.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segone_napari.data.synthetic import (
    LabelMaps,
    Slabs,
    SyntheticConfig,
    generate,
    load_label_maps,
)
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import (
    Manifest,
    load_checkpoint,
    read_manifest,
    replace_folder,
    restore_folder,
    save_checkpoint,
)
from segone_napari.models.network import NetworkConfig
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel
from segone_napari.models.text import TextConfig, TextTower
from segone_napari.models.unet import UNetConfig, UNetModel
from segone_napari.runtime import BadInput, has_fast_bfloat16, keep_freed_memory
from segone_napari.training.objectives import dense_loss, diffusion_loss


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


@dataclass(frozen=True)
class Report:
    """How training stands, for whoever shows it. `validation_dice` is None until first measured."""

    step: int
    steps: int
    loss: float
    validation_dice: float | None
    seconds: float
    seconds_left: float


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
    keep_freed_memory()
    accelerator = Accelerator(
        mixed_precision="bf16" if _is_bfloat16_fast() else "no", step_scheduler_with_optimizer=False
    )
    device = accelerator.device
    vocabulary = Vocabulary.load()
    maps = load_label_maps(label_maps, vocabulary)
    split = len(maps.tissues) - config.validation_maps
    if split < 1:
        raise BadInput(
            f"{label_maps} holds {len(maps.tissues)} label maps, of which {config.validation_maps} "
            "are kept out to measure on; give more maps or a smaller --validation-maps"
        )
    training = maps.select(list(range(split)))
    held_out = maps.select(list(range(split, len(maps.tissues))))

    model = build_model(config, vocabulary, start).to(device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), betas=(0.9, 0.98))
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    if accelerator.is_main_process:
        restore_folder(run / "state")
    accelerator.wait_for_everyone()
    state = _load_state(run, config, model, optimizer, average)
    wrapped, optimizer = accelerator.prepare(_Step(model, vocabulary, config), optimizer)

    started, saved = time.monotonic(), time.monotonic()
    first = state.step
    loss_now = torch.zeros((), device=device)
    for step, slabs in _batches(training, config, accelerator, first):
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * config.learning_rate * learning_rate_share(step, config)
        loss = wrapped(slabs.inputs, slabs.labels, step)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _follow(average, model, step, config)
        loss_now = loss.detach() if step == first else torch.lerp(loss_now, loss.detach(), 0.05)

        done, now = step + 1, time.monotonic()
        is_last = done == config.steps or (minutes is not None and now - started > 60 * minutes)
        if is_last or now - saved > save_every_s:
            state.step, state.seconds = done, state.seconds + now - saved
            saved = now
            if accelerator.is_main_process:
                state.dice = _validate(model, average, held_out, vocabulary, config, device)
                _save(run, state, config, model, optimizer, average, vocabulary, command, start)
                saved = time.monotonic()
            accelerator.wait_for_everyone()
        if is_last or done % 10 == 0:
            seconds = now - started
            left = seconds / (done - first) * (config.steps - done)
            if minutes is not None:
                left = min(left, 60 * minutes - seconds)
            report(Report(done, config.steps, float(loss_now), state.dice, seconds, max(0.0, left)))
        if is_last:
            break
    return run / "checkpoint"


def learning_rate_share(step: int, config: TrainConfig) -> float:
    """Share of the full learning rate at a step: warm-up, constant, then down by a cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay = max(1, round(config.steps * config.decay_share))
    share = max(0.0, (step - (config.steps - decay)) / decay)
    return 0.5 * (1 + math.cos(math.pi * share))


def synthetic_at(step: int, config: TrainConfig) -> SyntheticConfig:
    """How images vary at a step: like a T1 at the start, then more and more as configured."""
    done, span = step / config.steps, config.varied_from - config.easy_until
    share = 1.0 if done >= config.varied_from else max(0.0, (done - config.easy_until) / span)
    t1_share = 1 + share * (config.synthetic.t1_share - 1)
    return replace(config.synthetic, t1_share=t1_share)


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


def generator_for(seed: int, step: int, purpose: int, device: torch.device) -> torch.Generator:
    """Return the random numbers of one step: the same whether the run was interrupted or not."""
    mixed = (seed * 1_000_003 + step) * 16 + purpose
    return torch.Generator(device).manual_seed(mixed)


class _SlabDataset(Dataset[Slabs]):
    """Item n is the batch of step n."""

    def __init__(self, maps: LabelMaps, config: TrainConfig, process: int) -> None:
        self.maps, self.config, self.process = maps, config, process

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Slabs:
        seed = self.config.seed + 7919 * self.process
        device = self.maps.tissues.device
        generator = generator_for(seed, step, 0, device)
        synthetic = synthetic_at(step, self.config)
        # a few slabs at a time fit a CPU's cache
        chunk = min(4, self.config.batch) if device.type == "cpu" else self.config.batch
        parts = [
            generate(self.maps, synthetic, count, generator)
            for count in _chunks(self.config.batch, chunk)
        ]
        return Slabs(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _batches(
    maps: LabelMaps, config: TrainConfig, accelerator: Accelerator, first: int
) -> Iterator[tuple[int, Slabs]]:
    """Yield each step's number and slabs, from `first` on."""
    steps = range(first, config.steps)
    if accelerator.device.type != "cpu":
        dataset = _SlabDataset(maps.to(accelerator.device), config, accelerator.process_index)
        for step in steps:
            yield step, dataset[step]
        return
    dataset = _SlabDataset(maps, config, accelerator.process_index)
    loader = DataLoader(dataset, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=4)
    yield from zip(steps, loader, strict=True)


def _is_bfloat16_fast() -> bool:
    return has_fast_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


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


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, step: int, config: TrainConfig) -> None:
    """Move the averaged weights a little towards the present ones; faster at the start."""
    share = max(1 / config.ema_steps, 1 / (step + 1))
    pairs = [(average[k], v) for k, v in model.state_dict().items()]
    floats = [(a, v) for a, v in pairs if v.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [v for _, v in floats], share)
    for kept, value in pairs:
        if not value.is_floating_point():
            kept.copy_(value)


@torch.no_grad()
def _validate(
    model: Model,
    average: Mapping[str, Tensor],
    maps: LabelMaps,
    vocabulary: Vocabulary,
    config: TrainConfig,
    device: torch.device,
) -> float | None:
    """Mean Dice over classes of the averaged weights, on fixed slabs of the held-out maps."""
    if not len(maps.tissues):
        return None
    present = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(dict(average))
    model.eval()
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
    model.load_state_dict(present)
    model.train()
    dice = (2 * hits / sizes)[1:]
    return float(dice[sizes[1:] > 0].mean())


@dataclass
class _State:
    """What changes while training, beside the weights."""

    step: int = 0
    seconds: float = 0.0
    dice: float | None = None


def _save(
    run: Path,
    state: _State,
    config: TrainConfig,
    model: Model,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    command: str,
    start: Path | None,
) -> None:
    """Write the state to go on from, then the checkpoint; each is whole or not there."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
    temporary = run / ".state-new"
    temporary.mkdir(parents=True, exist_ok=True)
    copies = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    save_file(copies, temporary / "state.safetensors")
    document = asdict(state) | {"config": asdict(config)}
    (temporary / "state.json").write_text(json.dumps(document, indent=2) + "\n")
    replace_folder(temporary, run / "state")

    present = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(dict(average))
    training = {
        "command": command,
        "before": None if start is None else read_manifest(start).training,
        "steps_done": state.step,
        "seconds": round(state.seconds),
        "config": asdict(config),
    }
    metrics = {"validation_dice_synthetic": state.dice}
    manifest = Manifest(config.system, config.start, training=training, metrics=metrics)
    save_checkpoint(model, vocabulary, manifest, run / "checkpoint")
    model.load_state_dict(present)


def _load_state(
    run: Path,
    config: TrainConfig,
    model: Model,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> _State:
    """Go on from what `run` holds, if it holds anything.

    Raises
    ------
    BadInput
        If the run was started with other options. The number of steps may change.
    """
    folder = run / "state"
    if not (folder / "state.json").exists():
        return _State()
    document = json.loads((folder / "state.json").read_text())
    before, now = document.pop("config"), json.loads(json.dumps(asdict(config)))
    changed = [k for k in now if k != "steps" and now[k] != before.get(k)]
    if changed:
        raise BadInput(
            f"{run} was started with another {changed[0]} ({before.get(changed[0])}); "
            "use the same options to go on, or another --run folder"
        )
    tensors = load_file(folder / "state.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model."))
    for key, value in part("average.").items():
        average[key].copy_(value)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return _State(**document)
