"""The command ``segone train-teacher``. Imports torch only when run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from segone_napari.training.cli import (
    add_run_arguments,
    follow_training,
    given,
    run_options,
    whole_number,
)

if TYPE_CHECKING:
    from pathlib import Path

    from segone_napari.training.teacher import TeacherConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone train-teacher``."""
    add_run_arguments(parser, "runs/teacher")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="CHECKPOINT",
        help="train a teacher further: a folder, or the name of a bundled one",
    )
    parser.add_argument(
        "--objects", type=whole_number, help="objects that are asked about in each slab"
    )
    parser.add_argument("--corrections", type=int, help="times that an answer is corrected")
    parser.add_argument(
        "--image-size", type=whole_number, help="side of the square of pixels that it looks at"
    )
    parser.add_argument(
        "--embed-dim", type=whole_number, help="channels of the image encoder's first stage"
    )


def run(args: argparse.Namespace) -> int:
    """Train as the options say; returns the exit code."""
    from segone_napari.models.checkpoint import resolve_checkpoint
    from segone_napari.models.sam2 import TEACHER
    from segone_napari.training.teacher import train_teacher

    start = None if args.start is None else resolve_checkpoint(args.start, TEACHER)
    config = _config(args, start)
    return follow_training(args, config, train_teacher, start=start)


def _config(args: argparse.Namespace, start: Path | None) -> TeacherConfig:
    from segone_napari.models.sam2 import Sam2Config, Trunk
    from segone_napari.training.teacher import TeacherConfig

    sizes = Sam2Config(
        trunk=Trunk(**given(embed_dim=args.embed_dim)), **given(image_size=args.image_size)
    )
    # a checkpoint that is trained further has seen easy images already
    easy: dict[str, Any] = {}
    if start is not None:
        easy = {"start": start.name, "easy_until": 0.0, "varied_from": 0.0}
    return TeacherConfig(
        sam2=sizes,
        **easy,
        **run_options(args),
        **given(objects=args.objects, corrections=args.corrections),
    )
