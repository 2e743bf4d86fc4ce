"""Does denoising in more than one step help? On real scans, against the dense head alone.

    python benchmarks/denoising.py DATA [--checkpoint DIR] [--scan stripped_t1_b] [--every 6]

Axial slices `every` so many mm; every left/right structure that a slice shows is sampled with 1
(the dense head), 2 and 4 steps. Prints the Dice over all those slices together, in the working
grid, and the seconds. Choosing a number of steps by this table is choosing on DATA.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from accuracy import PAIRED, SCANS
from rich.console import Console
from rich.table import Table

from segone_napari.data.resample import to_working
from segone_napari.data.slices import cut_slabs, slab_layout
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.checkpoint import load_checkpoint, resolve_checkpoint
from segone_napari.models.pipeline import sample_mask
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel
from segone_napari.runtime import fast_precision
from segone_napari.systems.segone import SegOne
from segone_napari.systems.sliced import NEIGHBOUR_MM


@torch.inference_mode()
def main() -> None:
    """Sample every structure with every number of steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--scan", default="stripped_t1_b", choices=list(SCANS))
    parser.add_argument("--every", type=float, default=6.0)
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 4])
    args = parser.parse_args()
    vocabulary = Vocabulary.load()
    image, reference = SCANS[args.scan](args.data / "validation" / args.scan, vocabulary)
    folder = resolve_checkpoint(args.checkpoint, "segone")
    model, _, _ = load_checkpoint(folder)
    assert isinstance(model, SegOneModel)
    system = SegOne.create(folder, "cpu", "fast", 0)
    working, head = system.locate(image)
    layout = slab_layout(head, "axial", args.every, model.stride)
    truth = torch.stack(
        [to_working(image.with_data((reference == c).astype(np.float32)), working, "cpu") > 0.5
         for c in range(len(vocabulary.class_names))]
    )  # (C, x, y, z)  # fmt: skip
    slabs = cut_slabs(head, layout, layout.indices, model.slices, NEIGHBOUR_MM)
    rows, columns = (_clip(layout.box[a], truth.shape[1 + a]) for a in range(2))
    classes = model.answers(vocabulary.class_names)
    table = Table("steps", "mean Dice", "seconds", title=f"{args.scan}, every {args.every:g} mm")
    for steps in args.steps:
        started = time.perf_counter()
        dice = []
        for name in (f"{side} {n}" for n in PAIRED for side in ("left", "right")):
            index = vocabulary.class_names.index(name)
            wanted = truth[index][rows[0], columns[0]][:, :, list(layout.indices)].permute(2, 0, 1)
            shown = wanted.any((1, 2))
            if not shown.any():
                continue
            with fast_precision(torch.device("cpu")):
                mask = sample_mask(
                    model, NoiseSchedule(), slabs[shown], [index], classes,
                    steps=steps, generator=torch.Generator().manual_seed(0),
                )[:, rows[1], columns[1]] > 0.5  # fmt: skip
            overlap = (mask & wanted[shown]).sum()
            dice.append(float(2 * overlap / (mask.sum() + wanted[shown].sum())))
        seconds = time.perf_counter() - started
        table.add_row(str(steps), f"{np.mean(dice):.3f}", f"{seconds:.0f}")
    Console().print(table)


def _clip(window: slice, size: int) -> tuple[slice, slice]:
    """The part of a window inside the grid, and that part counted from the window's start."""
    start, stop = max(0, window.start), min(size, window.stop)
    return slice(start, stop), slice(start - window.start, stop - window.start)


if __name__ == "__main__":
    main()
