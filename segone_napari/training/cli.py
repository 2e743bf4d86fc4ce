"""The command ``segone train``: options, progress on the terminal. Imports torch only when run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segone_napari.training.base import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone train``."""
    parser.add_argument(
        "label_maps",
        type=Path,
        help="folder of label maps in FreeSurfer's numbering, or with a labels.json of its own",
    )
    parser.add_argument(
        "--run",
        dest="run_folder",
        metavar="DIR",
        type=Path,
        default=Path("runs/base"),
        help="folder of this run; if it exists, training goes on from it (default: %(default)s)",
    )
    parser.add_argument(
        "--system", default="segone", help="segone, or unet: the baseline (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=6_500, help="steps in all (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, help="stop after so many minutes at the latest")
    parser.add_argument("--batch", type=int, default=6, help="slabs a step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--text-in",
        choices=("latent", "skips", "both", "none"),
        default="both",
        help="where a prompt conditions the denoiser (default: %(default)s)",
    )
    parser.add_argument(
        "--planes",
        nargs="+",
        choices=("axial", "coronal", "sagittal"),
        default=["axial"],
        help="planes to train on; scans are cut along these (default: axial)",
    )
    parser.add_argument(
        "--validation-maps",
        type=int,
        default=2,
        help="label maps kept out to measure on, the last by name (default: %(default)s)",
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=180.0,
        metavar="SECONDS",
        help="how often a checkpoint is written (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Train as the options say; returns the exit code."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from segone_napari.data.synthetic import SyntheticConfig
    from segone_napari.models.network import NetworkConfig
    from segone_napari.training.base import TrainConfig, train

    config = TrainConfig(
        system=args.system,
        steps=args.steps,
        batch=args.batch,
        seed=args.seed,
        validation_maps=args.validation_maps,
        network=NetworkConfig(text_in=args.text_in),
        synthetic=SyntheticConfig(planes=tuple(args.planes)),
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the label maps", total=config.steps)
        printed = -1

        def show(report: Report) -> None:
            nonlocal printed
            line = _describe(report)
            bar.update(task, completed=report.step, description=line)
            if not console.is_terminal and report.step // 100 != printed:
                printed = report.step // 100
                console.print(f"{line}, {report.seconds_left / 60:.0f} min left", highlight=False)

        folder = train(
            args.label_maps,
            args.run_folder,
            config,
            minutes=args.minutes,
            save_every_s=args.save_every,
            report=show,
        )
    print(f"checkpoint: {folder}")
    return 0


def _describe(report: Report) -> str:
    dice = "" if report.validation_dice is None else f", Dice {report.validation_dice:.3f}"
    return f"step {report.step}/{report.steps}, loss {report.loss:.3f}{dice}"
