"""The command ``segone train``: options, progress on the terminal. Imports torch only when run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segone_napari.runtime import BadInput, make_folder

if TYPE_CHECKING:
    from segone_napari.training.base import TrainConfig
    from segone_napari.training.runs import Report, RunConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone train``."""
    add_run_arguments(parser, "runs/base")
    parser.add_argument(
        "--system", default="segone", help="segone, or unet: the baseline (default: %(default)s)"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="CHECKPOINT",
        help="train a checkpoint further: a folder, or the name of a bundled one",
    )
    parser.add_argument(
        "--lesions",
        type=Path,
        metavar="DIR",
        help="folder of masks of white matter lesions in MNI space, to put into the label maps",
    )
    parser.add_argument(
        "--text-in",
        choices=("latent", "skips", "both", "none"),
        help="where a prompt conditions the denoiser",
    )
    parser.add_argument(
        "--planes",
        nargs="+",
        choices=("axial", "coronal", "sagittal"),
        help="planes to train on; scans are cut along these. One that is named twice comes twice "
        "as often",
    )
    parser.add_argument(
        "--t1-share",
        type=float,
        help="share of images that look like a T1, once all looks are mixed",
    )
    parser.add_argument(
        "--pixel-mm",
        type=float,
        choices=(1.0, 2.0),
        help="size of a pixel; a checkpoint of 2 mm can be trained further at 1 mm (default: that "
        "of the checkpoint, or 2)",
    )
    parser.add_argument(
        "--window-mm",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="what a slab shows, multiples of 32; a smaller window lies anywhere in the head and "
        "costs less (default: 160 192)",
    )


def add_run_arguments(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add what every training is told; `folder` is where its run is kept."""
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
        default=Path(folder),
        help="folder of this run; if it exists, training goes on from it (default: %(default)s)",
    )
    parser.add_argument("--steps", type=whole_number, help="steps in all")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes at the latest")
    parser.add_argument("--batch", type=whole_number, help="slabs a step")
    parser.add_argument("--learning-rate", type=float, help="the highest learning rate")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--validation-maps",
        type=int,
        help="label maps kept out to measure on, the last by name",
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=180.0,
        metavar="SECONDS",
        help="how often a checkpoint is written (default: %(default)s)",
    )


def whole_number(text: str) -> int:
    """A number of steps, slabs or objects, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Train as the options say; returns the exit code."""
    from segone_napari.models.checkpoint import resolve_checkpoint
    from segone_napari.training.base import train

    start = None if args.start is None else resolve_checkpoint(args.start, args.system)
    config = _config(args, start)
    return follow_training(args, config, train, start=start, lesions=args.lesions)


def follow_training(
    args: argparse.Namespace, config: RunConfig, train: Callable[..., Path], **options: object
) -> int:
    """Train and show how it goes, with what `add_run_arguments` asked for; returns the exit code.

    Parameters
    ----------
    train, options : the training, and what it takes beyond what all take.
    """
    make_folder(args.run_folder, "--run")
    try:
        with progress_shown(config.steps) as show:
            folder = train(
                args.label_maps,
                args.run_folder,
                config,
                command=command_line(),
                minutes=args.minutes,
                save_every_s=args.save_every,
                report=show,
                **options,
            )
    finally:
        with suppress(OSError):  # nothing was begun: an empty folder says nothing
            args.run_folder.rmdir()
    print(f"checkpoint: {folder}")
    return 0


@contextmanager
def progress_shown(steps: int) -> Iterator[Callable[[Report], None]]:
    """Show a bar on a terminal, and now and then a line elsewhere, from what a run reports."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading the label maps", total=steps)
        printed = -1

        def show(report: Report) -> None:
            nonlocal printed
            line = _describe(report)
            bar.update(task, completed=report.step, description=line)
            if not console.is_terminal and report.step // 100 != printed:
                printed = report.step // 100
                console.print(f"{line}, {report.seconds_left / 60:.0f} min left", highlight=False)

        yield show


def command_line() -> str:
    """What was typed, without the places of this machine: it is kept in the checkpoint."""
    typed = [
        Path(part).name if Path(part).is_absolute() or ".." in Path(part).parts else part
        for part in sys.argv[1:]
    ]
    return shlex.join(["segone", *typed])


def _config(args: argparse.Namespace, start: Path | None) -> TrainConfig:
    """Turn the options into a config; what wasn't given keeps the config's own default."""
    from segone_napari.data.synthetic import SyntheticConfig
    from segone_napari.models.network import NetworkConfig
    from segone_napari.training.base import TrainConfig

    whole = SyntheticConfig().with_pixels(1.0)
    whole_mm = whole.height, whole.width
    window_mm = tuple(args.window_mm or whole_mm)
    if any(side <= 0 or side % 32 for side in window_mm):
        raise BadInput(f"--window-mm is {window_mm}; both sides must be multiples of 32")
    pixel_mm = args.pixel_mm or (SyntheticConfig.pixel_mm if start is None else _pixel_mm(start))
    fine = round(SyntheticConfig.pixel_mm / pixel_mm)
    height, width = window_mm
    rows, columns = (max(0, w - side) / 2 for w, side in zip(whole_mm, window_mm, strict=True))
    synthetic = replace(
        SyntheticConfig(height=height, width=width, pixel_mm=1.0).with_pixels(pixel_mm),
        roam_mm=(rows, columns),
        **given(planes=args.planes and tuple(args.planes), t1_share=args.t1_share),
    )
    # a checkpoint that is trained further has seen easy images already
    easy: dict[str, Any] = {}
    if start is not None:
        easy = {"start": start.name, "easy_until": 0.0, "varied_from": 0.0}
    return TrainConfig(
        system=args.system,
        network=NetworkConfig(
            stem=fine * NetworkConfig.stem,
            detail_blocks=fine * NetworkConfig.detail_blocks,
            **given(text_in=args.text_in),
        ),
        synthetic=synthetic,
        **easy,
        **run_options(args),
    )


def _pixel_mm(checkpoint: Path) -> float:
    """The size of a pixel that a checkpoint was trained on."""
    from segone_napari.models.checkpoint import read_manifest
    from segone_napari.systems.sliced import trained_on

    return trained_on(read_manifest(checkpoint), checkpoint)[1]


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a config that `add_run_arguments` asked for and that were given."""
    return given(
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        seed=args.seed,
        validation_maps=args.validation_maps,
    )


def given(**values: object) -> dict[str, Any]:
    """Leave out what is None."""
    return {key: value for key, value in values.items() if value is not None}


def _describe(report: Report) -> str:
    dice = "" if report.validation_dice is None else f", Dice {report.validation_dice:.3f}"
    return f"step {report.step}/{report.steps}, loss {report.loss:.3f}{dice}"
