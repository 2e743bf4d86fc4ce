"""Networks of different designs, trained from nothing on the same data for the same time.

    python benchmarks/designs.py DATA [--minutes 6] [--run runs/designs] [--designs …]

DATA holds ``label_maps`` and ``validation``. Each design learns axial slabs that look like a T1 for
so many minutes of one processor core: how long a step takes is measured first, and the number of
steps follows from it, so that other work on the machine doesn't matter. Prints each design's size,
the multiply-adds of a slice, milliseconds a slice, and the mean Dice over the left/right structures
on real T1 scans (one view, edges sharpened as always). A run that was interrupted goes on.

``unet``      MONAI's 2-D U-Net, four levels, two residual units in each
``quarter``   SegOne's design at a quarter of the U-Net's multiply-adds
``aligned``   the same with kernel 1: positions meet by pixel-unshuffle only, as in OneNet
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accuracy import SCANS, _measure, data_with
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from segone_napari.data.synthetic import SyntheticConfig
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import load_checkpoint
from segone_napari.models.network import NetworkConfig
from segone_napari.models.unet import UNetConfig
from segone_napari.session import Session
from segone_napari.training.base import TrainConfig, train
from segone_napari.training.runs import Report

T1S = ("stripped_t1_a", "stripped_t1_b", "wholehead_t1")
QUARTER = NetworkConfig(
    channels=(32, 56, 88, 112),
    encoder_blocks=(1, 1, 1, 1),
    decoder_blocks=(2, 1, 1, 1),
    detail_blocks=0,
    features=24,
)
COMMON = TrainConfig(
    diffusion_share=0.0, synthetic=SyntheticConfig(planes=("axial",), t1_share=1.0, tumour_share=0)
)
DESIGNS = {
    "unet": replace(
        COMMON, system="unet", unet=UNetConfig(channels=(32, 64, 128, 256), residual_units=2)
    ),
    "quarter": replace(COMMON, network=QUARTER),
    "aligned": replace(COMMON, network=replace(QUARTER, scan=1)),
}
PROBED_STEPS = 30


def main() -> None:
    """Train what isn't trained yet, measure all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("label_maps", "validation"))
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--run", type=Path, default=Path("runs/designs"))
    parser.add_argument("--designs", nargs="*", choices=list(DESIGNS), default=list(DESIGNS))
    parser.add_argument("--scans", nargs="*", choices=T1S, default=list(T1S))
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("design", "parameters", "multiply-adds", "steps", "ms a slice", *args.scans)
    for name in args.designs:
        folder = _trained(args.data / "label_maps", args.run / name, DESIGNS[name], args.minutes)
        size, macs, milliseconds = _cost(folder)
        steps = json.loads((folder / "checkpoint.json").read_text())["training"]["steps_done"]
        session = Session(
            system=DESIGNS[name].system, checkpoint=folder, preset="fast", device="cpu"
        )
        dice = []
        for scan in args.scans:
            image, classes = SCANS[scan](args.data / "validation" / scan, Vocabulary.load())
            dice.append(_measure(session, image, classes, Vocabulary.load())["mean left/right"])
        table.add_row(
            name,
            f"{size / 1e6:.2f} M",
            f"{macs / 1e6:.0f} M",
            str(steps),
            f"{milliseconds:.1f}",
            *(f"{d:.3f}" for d in dice),
        )
    Console(width=120).print(table)


def _trained(maps: Path, run: Path, config: TrainConfig, minutes: float) -> Path:
    """Train a design for its share of steps; returns the checkpoint."""
    plan = run / "steps.json"
    if not plan.exists():
        with tempfile.TemporaryDirectory() as folder:
            seconds = _seconds_a_step(maps, Path(folder), replace(config, steps=PROBED_STEPS))
        run.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"steps": round(60 * minutes / seconds)}) + "\n")
    steps = int(json.loads(plan.read_text())["steps"])
    return train(maps, run, replace(config, steps=steps), command="benchmarks/designs.py")


def _seconds_a_step(maps: Path, run: Path, config: TrainConfig) -> float:
    """Seconds of this process's own processor time; images are made in another one."""
    reports: list[tuple[int, float]] = []

    def note(report: Report) -> None:
        reports.append((report.step, time.process_time()))

    train(maps, run, config, report=note)
    first, second = reports[0], reports[1]  # saving comes behind them
    return (second[1] - first[1]) / (second[0] - first[0])


@torch.inference_mode()
def _cost(folder: Path) -> tuple[int, float, float]:
    """Parameters, multiply-adds of a slice of 80 x 96 pixels, and milliseconds a slice."""
    model, _, _ = load_checkpoint(folder)
    network = model.network  # of SegOne without its text tower, which runs once a prompt
    slabs = torch.randn(8, model.slices + 3, 80, 96)
    with FlopCounterMode(display=False) as counter:
        model.features(slabs)
    best = min(_timed(lambda: model.features(slabs)) for _ in range(5))
    size = sum(p.numel() for p in network.parameters())
    return size, counter.get_total_flops() / 2 / len(slabs), best / len(slabs) * 1000


def _timed(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
