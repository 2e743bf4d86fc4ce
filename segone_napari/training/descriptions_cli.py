"""The command ``segone train-descriptions``. Imports torch only when run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone train-descriptions``."""
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="the .safetensors file to write"
    )


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from segone_napari.data.vocabulary import Vocabulary
    from segone_napari.training.descriptions import train_descriptions

    train_descriptions(Vocabulary.packaged()).save(args.output)
    print(args.output)
    return 0
