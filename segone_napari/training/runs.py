"""A training run: a loop that can be killed at any moment and goes on where it was.

Every random number of a step comes from the seed and the step's number, so that a run that was
interrupted ends with the same weights as one that wasn't. `accelerate` runs the loop on a CPU, a
GPU or several. Slabs are made on the GPU where there is one, otherwise in a process beside. Knows
nothing of what is trained: `training.base` and `training.teacher` say that by a `Course`.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from accelerate import Accelerator
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
from segone_napari.models.checkpoint import replace_folder, restore_folder
from segone_napari.models.weights import disk_errors
from segone_napari.runtime import BadInput, has_fast_bfloat16, keep_freed_memory
from segone_napari.training.bookmarks import packed_optimizer, unpack_optimizer
from segone_napari.training.optimizer import MuonAdamW


class RunConfig(Protocol):
    """What the config of every training says; `TrainConfig` has the words for each."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def batch(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def warmup_steps(self) -> int: ...  # noqa: D102
    @property
    def decay_share(self) -> float: ...  # noqa: D102
    @property
    def ema_steps(self) -> int: ...  # noqa: D102
    @property
    def easy_until(self) -> float: ...  # noqa: D102
    @property
    def varied_from(self) -> float: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def synthetic(self) -> SyntheticConfig: ...  # noqa: D102


@dataclass
class RunState:
    """What changes while training, beside the weights."""

    step: int = 0
    seconds: float = 0.0
    dice: float | None = None


@dataclass(frozen=True, eq=False)
class Course:
    """What is trained, and how.

    Attributes
    ----------
    config : saved with the run, which goes on with the same one only.
    model : what is saved, and averaged.
    loss : a module that holds the model: called with a batch's inputs, labels and the step's
        number, it returns the loss.
    groups : parameter groups for `MuonAdamW`; each has its "share" of the learning rate.
    maps : label maps to train on.
    measure : called with the model in evaluation mode, with the averaged weights in it; returns
        the Dice on what is kept out, or None where nothing is.
    save : called with the averaged weights in the model; writes the checkpoint to a folder.
    """

    config: RunConfig
    model: nn.Module
    loss: nn.Module
    groups: list[dict[str, Any]]
    maps: LabelMaps
    measure: Callable[[torch.device], float | None]
    save: Callable[[RunState, Path], None]


@dataclass(frozen=True)
class Report:
    """How training stands, for whoever shows it. `validation_dice` is None until first measured."""

    step: int
    steps: int
    loss: float
    validation_dice: float | None
    seconds: float
    seconds_left: float


def split_maps(
    folder: Path, vocabulary: Vocabulary, kept_out: int, lesions: Path | None = None
) -> tuple[LabelMaps, LabelMaps]:
    """Read label maps to train on, and those to measure on: the last ones by name.

    Raises
    ------
    BadInput
        If none would be left to train on, or a map can't be used.
    """
    maps = load_label_maps(folder, vocabulary, lesions)
    split = len(maps.tissues) - kept_out
    if split < 1:
        raise BadInput(
            f"{folder} holds {len(maps.tissues)} label maps, of which {kept_out} are kept out to "
            "measure on; give more maps or a smaller --validation-maps"
        )
    held_out = maps.select(list(range(split, len(maps.tissues))))
    return maps.select(list(range(split))), held_out


def follow_course(
    course: Course,
    run: Path,
    *,
    minutes: float | None = None,
    save_every_s: float = 180.0,
    report: Callable[[Report], None] = lambda _: None,
) -> Path:
    """Train until the last step, or for so many minutes, and return the checkpoint folder.

    `run` keeps the state to go on from and ``checkpoint/``, the averaged weights so far. A call
    with a `run` that exists goes on from there.
    """
    keep_freed_memory()
    accelerator = Accelerator(
        mixed_precision="bf16" if _is_bfloat16_fast() else "no", step_scheduler_with_optimizer=False
    )
    config, device = course.config, accelerator.device
    model = course.model.to(device)
    optimizer: torch.optim.Optimizer = MuonAdamW(course.groups)
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    if accelerator.is_main_process:
        restore_folder(run / "state")
    accelerator.wait_for_everyone()
    state = _load_state(run, config, model, optimizer, average)
    wrapped, optimizer = accelerator.prepare(course.loss, optimizer)

    started, saved = time.monotonic(), time.monotonic()
    first = state.step
    loss_now = torch.zeros((), device=device)
    for step, slabs in _batches(course.maps, config, accelerator, first):
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
                _measure_and_save(course, run, state, optimizer, average, device)
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


def learning_rate_share(step: int, config: RunConfig) -> float:
    """Share of the full learning rate at a step: warm-up, constant, then down by a cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay = max(1, round(config.steps * config.decay_share))
    share = max(0.0, (step - (config.steps - decay)) / decay)
    return 0.5 * (1 + math.cos(math.pi * share))


def synthetic_at(step: int, config: RunConfig) -> SyntheticConfig:
    """How images vary at a step: like a T1 at the start, then more and more as configured."""
    done, span = step / config.steps, config.varied_from - config.easy_until
    share = 1.0 if done >= config.varied_from else max(0.0, (done - config.easy_until) / span)
    t1_share = 1 + share * (config.synthetic.t1_share - 1)
    return replace(config.synthetic, t1_share=t1_share)


def generator_for(seed: int, step: int, purpose: int, device: torch.device) -> torch.Generator:
    """Return the random numbers of one step: the same whether the run was interrupted or not."""
    mixed = (seed * 1_000_003 + step) * 16 + purpose
    return torch.Generator(device).manual_seed(mixed)


class _SlabDataset(Dataset[Slabs]):
    """Item n is the batch of step n."""

    def __init__(self, maps: LabelMaps, config: RunConfig, process: int) -> None:
        self.maps, self.config, self.process = maps, config, process

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Slabs:
        seed = self.config.seed + 7919 * self.process
        device = self.maps.tissues.device
        generator = generator_for(seed, step, 0, device)
        synthetic = synthetic_at(step, self.config)
        # a few slabs at a time fit a CPU's cache; slabs made together share some of their draws
        chunk = min(4 if device.type == "cpu" else 128, self.config.batch)
        parts = [
            generate(self.maps, synthetic, count, generator)
            for count in _chunks(self.config.batch, chunk)
        ]
        return Slabs(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _batches(
    maps: LabelMaps, config: RunConfig, accelerator: Accelerator, first: int
) -> Iterator[tuple[int, Slabs]]:
    """Yield each step's number and slabs, from `first` on."""
    steps = range(first, config.steps)
    if accelerator.device.type != "cpu":
        dataset = _SlabDataset(maps.to(accelerator.device), config, accelerator.process_index)
        if accelerator.device.type == "cuda":
            yield from _made_ahead(dataset, steps, accelerator.device)
        else:
            yield from ((step, dataset[step]) for step in steps)
        return
    dataset = _SlabDataset(maps, config, accelerator.process_index)
    loader = DataLoader(dataset, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=4)
    yield from zip(steps, loader, strict=True)


def _made_ahead(
    dataset: _SlabDataset, steps: range, device: torch.device
) -> Iterator[tuple[int, Slabs]]:
    """Make the slabs of the next steps on a stream of their own, while a GPU does a step.

    To make them is many small operations, which keep a processor busier than a GPU.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))

    def make(step: int) -> tuple[Slabs, torch.cuda.Event]:
        with torch.cuda.stream(side):
            return dataset[step], side.record_event()

    with ThreadPoolExecutor(max_workers=1) as maker:
        ahead = deque(maker.submit(make, step) for step in steps[:2])
        for step in steps:
            slabs, made = ahead.popleft().result()
            ahead.extend(maker.submit(make, later) for later in (step + 2,) if later in steps)
            here = torch.cuda.current_stream(device)
            here.wait_event(made)
            for tensor in slabs:
                tensor.record_stream(here)
            yield step, slabs


def _is_bfloat16_fast() -> bool:
    return has_fast_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, step: int, config: RunConfig) -> None:
    """Move the averaged weights a little towards the present ones; faster at the start."""
    share = max(1 / config.ema_steps, 1 / (step + 1))
    pairs = [(average[k], v) for k, v in model.state_dict().items()]
    floats = [(a, v) for a, v in pairs if v.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [v for _, v in floats], share)
    for kept, value in pairs:
        if not value.is_floating_point():
            kept.copy_(value)


def _measure_and_save(
    course: Course,
    run: Path,
    state: RunState,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Write the checkpoint, then the state to go on from; each is whole or not there.

    A run that is killed between the two goes on from an earlier state, and writes both anew.
    """
    model = course.model
    present = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(dict(average))
    model.eval()
    with torch.no_grad():
        state.dice = course.measure(device)
    model.train()
    course.save(state, run / "checkpoint")
    model.load_state_dict(present)
    _save_state(run, state, course.config, model, optimizer, average)


def _save_state(
    run: Path,
    state: RunState,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    tensors |= packed_optimizer(optimizer)
    temporary = run / ".state-new"
    temporary.mkdir(parents=True, exist_ok=True)
    copies = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    with disk_errors():
        save_file(copies, temporary / "state.safetensors")
    document = asdict(state) | {"config": asdict(config)}
    (temporary / "state.json").write_text(json.dumps(document, indent=2) + "\n")
    replace_folder(temporary, run / "state")


def _load_state(
    run: Path,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> RunState:
    """Go on from what `run` holds, if it holds anything.

    Raises
    ------
    BadInput
        If the run was started with other options. The number of steps may change.
    """
    folder = run / "state"
    if not (folder / "state.json").exists():
        return RunState()
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
    unpack_optimizer(optimizer, tensors)
    return RunState(**document)
