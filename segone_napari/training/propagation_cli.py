"""The command ``segone train-propagation``. Imports torch only when run."""

from __future__ import annotations

import argparse

from segone_napari.training.cli import (
    add_run_arguments,
    follow_training,
    given,
    run_options,
    whole_number,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone train-propagation``."""
    add_run_arguments(parser, "runs/propagation")
    parser.add_argument(
        "--objects", type=whole_number, help="objects that are drawn from each stack"
    )
    parser.add_argument(
        "--asked", type=whole_number, help="slices of each object that are asked about"
    )


def run(args: argparse.Namespace) -> int:
    """Train as the options say; returns the exit code."""
    from segone_napari.training.propagation import PropagationConfig, train_propagation

    config = PropagationConfig(**run_options(args), **given(objects=args.objects, asked=args.asked))
    return follow_training(args, config, train_propagation)
