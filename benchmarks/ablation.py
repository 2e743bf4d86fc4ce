"""What each part of SegOne is worth, on real scans, in one table.

    python benchmarks/ablation.py DATA [--parts …] [--steps 250] [--run runs/ablation] [--scans …]

DATA holds ``validation``, and ``label_maps`` for the parts that train. Axial slices of 2 mm, one
every so many mm, on the working grid; every left/right structure that a slice shows. Printed for
each variant: mean Dice; the mean 95 % Hausdorff distance in mm; the calibration error of the
probabilities (mean distance between what was said and how often it was so, in ten bins, within 6 mm
of the reference's edge); seconds for all slices.

``views``  the dense head once, with flips, with flips and shifts of the pixels' blocks
``steps``  denoising in 1, 2 and 4 steps, of one seed and the mean of four
``half``   the same where a person outlined half of each structure, and the other half is asked for
``text``   where the prompt conditions the denoiser, and the control that never sees the noisy mask:
           each trained further from the checkpoint for `steps` steps, then asked like ``half``
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accuracy import PAIRED, SCANS, data_with
from monai.metrics import compute_hausdorff_distance
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from torch import Tensor

from segone_napari.data.resample import to_working
from segone_napari.data.slices import cut_slabs, slab_layout
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.answers import Answers
from segone_napari.models.checkpoint import load_checkpoint, read_manifest, resolve_checkpoint
from segone_napari.models.network import TextPlace
from segone_napari.models.pipeline import sample_mask
from segone_napari.models.schedule import NoiseSchedule
from segone_napari.models.segone import SegOneModel
from segone_napari.runtime import fast_precision
from segone_napari.systems.segone import SegOne
from segone_napari.systems.sliced import NEIGHBOUR_MM, trained_on
from segone_napari.training.base import TrainConfig, train

CPU = torch.device("cpu")
PIXEL_MM = 2.0
NEAR_MM = 6.0
VOCABULARY = Vocabulary.load()
STRUCTURES = [f"{side} {name}" for name in PAIRED for side in ("left", "right")]


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices of a scan: slabs (B, S + 3, H, W), and the classes of their pixels (B, H, W)."""

    slabs: Tensor
    truth: Tensor


class Asked(NamedTuple):
    """A structure on the slices that show it: which they are, and its mask (b, H, W)."""

    index: int
    shown: Tensor
    wanted: Tensor


Answer = Callable[[SegOneModel, Slices, Asked, Answers], Tensor]
"""Gives the probability (b, H, W) of a structure on the slices that show it."""


def main() -> None:
    """Measure the parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation"))
    parser.add_argument("--checkpoint")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--scans", nargs="*", default=["stripped_t1_b", "flair_thick"])
    parser.add_argument("--every", type=float, default=6.0)
    parser.add_argument("--steps", type=int, default=250, help="of training, where a part trains")
    parser.add_argument("--run", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    folder = resolve_checkpoint(args.checkpoint, "segone")
    scans = {name: _slices(folder, args.data, name, args.every) for name in args.scans}
    table = Table("", "variant", "Dice", "HD95, mm", "calibration", "seconds")
    for part in args.parts:
        for name, model, answer, hidden in PARTS[part](folder, args):
            for scan, slices in scans.items():
                figures = _measure(model, slices, answer, hidden)
                table.add_row(part, f"{name}, {scan}", *figures)
                print(part, name, scan, *figures, flush=True)
        table.add_section()
    Console(width=120).print(table)


# --- what is measured on ------------------------------------------------------------------------


@torch.inference_mode()
def _slices(folder: Path, data: Path, name: str, every: float) -> Slices:
    image, reference = SCANS[name](data / "validation" / name, VOCABULARY)
    system = SegOne.create(folder, "cpu", "fast", 0)
    working, head = system.locate(image)
    model = system.model
    layout = slab_layout(head, "axial", every, model.stride)
    slabs = cut_slabs(head, layout, layout.indices, model.slices, NEIGHBOUR_MM)
    truth = torch.zeros(len(slabs), *slabs.shape[2:], dtype=torch.long)
    rows, columns = (_clip(layout.box[a], working.shape[a]) for a in range(2))
    for name in STRUCTURES:
        index = VOCABULARY.class_names.index(name)
        share = to_working(image.with_data((reference == index).astype(np.float32)), working, CPU)
        mask = share[rows[0], columns[0]][:, :, list(layout.indices)].permute(2, 0, 1) > 0.5
        truth[:, rows[1], columns[1]][mask] = index
    return Slices(slabs, truth)


def _clip(window: slice, size: int) -> tuple[slice, slice]:
    """The part of a window inside the grid, and that part counted from the window's start."""
    start, stop = max(0, window.start), min(size, window.stop)
    return slice(start, stop), slice(start - window.start, stop - window.start)


def _asked(slices: Slices) -> Iterator[Asked]:
    for name in STRUCTURES:
        index = VOCABULARY.class_names.index(name)
        mask = slices.truth == index
        shown = mask.flatten(1).sum(1) >= 6
        if shown.any():
            yield Asked(index, shown, mask[shown])


def _upper_half(wanted: Tensor) -> Tensor:
    """Rows (b, H, W) on one side of the middle of each mask: what a person has outlined."""
    rows = torch.arange(wanted.shape[1])[None, :, None]
    middle = (wanted * rows).sum((1, 2), keepdim=True) / wanted.sum((1, 2), keepdim=True)
    return (rows < middle).expand_as(wanted)


@torch.inference_mode()
def _measure(
    model: SegOneModel, slices: Slices, answer: Answer, hidden: bool
) -> tuple[str, str, str, str]:
    """Dice, HD95, calibration error and seconds; in the half that is hidden, where one is."""
    classes = model.answers(VOCABULARY.class_names)
    dice, distances, said, was = [], [], [], []
    seconds = 0.0
    for asked in _asked(slices):
        started = time.process_time()
        with fast_precision(CPU):
            probability = answer(model, slices, asked, classes).float()
        seconds += time.process_time() - started
        counts = ~_upper_half(asked.wanted) if hidden else torch.ones_like(asked.wanted)
        mask, wanted = (probability > 0.5) & counts, asked.wanted & counts
        total = int(mask.sum() + wanted.sum())
        dice.append(2 * int((mask & wanted).sum()) / total if total else 1.0)
        both = mask.flatten(1).any(1) & wanted.flatten(1).any(1)
        if both.any():
            hd = compute_hausdorff_distance(
                mask[both, None].float(), wanted[both, None].float(), percentile=95
            )
            distances.append(PIXEL_MM * float(hd.mean()))
        near = counts & _near_edge(asked.wanted)
        said.append(probability[near])
        was.append(asked.wanted[near].float())
    error = _calibration_error(torch.cat(said), torch.cat(was))
    return (
        f"{np.mean(dice):.3f}",
        f"{np.mean(distances):.2f}",
        f"{error:.3f}",
        f"{seconds:.0f}",
    )


def _near_edge(mask: Tensor) -> Tensor:
    """Pixels (b, H, W) within `NEAR_MM` of the edge of each mask."""
    near = []
    for one in mask.numpy():
        away = ndimage.distance_transform_edt(~one) + ndimage.distance_transform_edt(one)
        near.append(torch.from_numpy(away * PIXEL_MM <= NEAR_MM))
    return torch.stack(near)


def _calibration_error(said: Tensor, was: Tensor) -> float:
    bins = (said * 10).long().clamp_max(9)
    error = 0.0
    for number in range(10):
        inside = bins == number
        if inside.any():
            error += float(inside.sum()) * abs(float(said[inside].mean() - was[inside].mean()))
    return error / len(said)


# --- the variants -------------------------------------------------------------------------------


def dense(model: SegOneModel, slices: Slices, asked: Asked, classes: Answers) -> Tensor:
    """The dense head alone."""
    return _softmax(model, slices.slabs[asked.shown], classes)[:, asked.index]


def _softmax(model: SegOneModel, slabs: Tensor, classes: Answers) -> Tensor:
    return classes.logits(model.features(slabs)).float().softmax(1)


def viewed(flips: tuple[bool, ...], shifts: tuple[int, ...]) -> Answer:
    """The mean over mirrored copies and over places of the pixels' blocks."""

    def answer(model: SegOneModel, slices: Slices, asked: Asked, classes: Answers) -> Tensor:
        slabs = slices.slabs[asked.shown]
        name = VOCABULARY.class_names[asked.index]
        other = VOCABULARY.class_names.index(VOCABULARY.swap_side(name))
        found = []
        for is_flipped, shift in itertools.product(flips, shifts):
            moved = slabs.roll((shift, shift), (2, 3))
            if is_flipped:  # rows run from left to right, and so does the first position
                moved = moved.flip(2)
                moved[:, model.slices] = -moved[:, model.slices]
            index = other if is_flipped else asked.index
            one = _softmax(model, moved, classes)[:, index]
            one = one.flip(1) if is_flipped else one
            found.append(one.roll((-shift, -shift), (1, 2)))
        return torch.stack(found).mean(0)

    return answer


def sampled(steps: int, seeds: int, *, half: bool = False, shown: float = 1.0) -> Answer:
    """The mean mask of some seeds, each denoised in so many steps."""

    def answer(model: SegOneModel, slices: Slices, asked: Asked, classes: Answers) -> Tensor:
        slabs, known = slices.slabs[asked.shown], None
        if half:
            value = asked.wanted[:, None].float() * 2 - 1
            known = value * _upper_half(asked.wanted)[:, None]
        found = [
            sample_mask(
                model,
                NoiseSchedule(),
                slabs,
                [asked.index],
                classes,
                steps=steps,
                generator=torch.Generator().manual_seed(seed),
                known=known,
                shown=shown,
            )
            for seed in range(seeds)
        ]
        return torch.stack(found).mean(0)

    return answer


Variant = tuple[str, SegOneModel, Answer, bool]
COUNTS = ((1, 1), (2, 1), (4, 1), (1, 4), (2, 4), (4, 4))


def _loaded(folder: Path) -> SegOneModel:
    model, _, _ = load_checkpoint(folder)
    assert isinstance(model, SegOneModel)
    return model


def views(folder: Path, args: argparse.Namespace) -> Iterator[Variant]:
    """The dense head, alone and averaged."""
    model = _loaded(folder)
    yield "dense head", model, dense, False
    yield "with flips", model, viewed((False, True), (0,)), False
    yield "with flips and shifts", model, viewed((False, True), (0, 3, 5)), False


def steps(folder: Path, args: argparse.Namespace) -> Iterator[Variant]:
    """Denoising of masks of which nothing is known."""
    model = _loaded(folder)
    for count, seeds in COUNTS[1:3] + COUNTS[4:]:
        yield f"{count} steps, {seeds} seeds", model, sampled(count, seeds), False


def half(folder: Path, args: argparse.Namespace) -> Iterator[Variant]:
    """Denoising of masks of which half is known; the dense head doesn't see it."""
    model = _loaded(folder)
    yield "dense head", model, dense, True
    for count, seeds in COUNTS:
        yield f"{count} steps, {seeds} seeds", model, sampled(count, seeds, half=True), True


def text(folder: Path, args: argparse.Namespace) -> Iterator[Variant]:
    """Trained further with the prompt in other places, and without noise."""
    places: tuple[TextPlace, ...] = ("both", "latent", "skips", "none")
    kinds = [(place, 1.0) for place in places] + [("both", 0.0)]
    for place, shown in kinds:
        name = f"prompt in {place}" if shown else "no noise"
        model = _loaded(_trained_further(folder, args, place, shown))
        yield f"{name}, dense head", model, dense, True
        yield f"{name}, 1 step", model, sampled(1, 1, half=True, shown=shown), True
        if shown:
            yield f"{name}, 2 steps", model, sampled(2, 1, half=True), True


def _trained_further(
    folder: Path, args: argparse.Namespace, place: TextPlace, shown: float
) -> Path:
    config = TrainConfig(
        steps=args.steps,
        learning_rate=4e-4,
        diffusion_share=0.5,
        noise=shown,
        easy_until=0.0,
        varied_from=0.0,
        start=folder.name,
    )
    _, pixel_mm = trained_on(read_manifest(folder), folder)
    network = replace(_loaded(folder).config, text_in=place)
    synthetic = replace(config.synthetic.with_pixels(pixel_mm), planes=("axial",))
    config = replace(config, network=network, synthetic=synthetic)
    run = args.run / f"{place}_{'noise' if shown else 'silent'}"
    return train(
        args.data / "label_maps", run, config, start=folder, command="benchmarks/ablation.py"
    )


PARTS: dict[str, Callable[[Path, argparse.Namespace], Iterator[Variant]]] = {
    "views": views,
    "steps": steps,
    "half": half,
    "text": text,
}


if __name__ == "__main__":
    main()
