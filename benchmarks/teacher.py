"""Dice of the SAM2 teacher per structure on real scans, beside SegOne's own.

    python benchmarks/teacher.py DATA [--teacher DIR|FILE.safetensors|HUB NAME] [--scans ...]

DATA is a folder with the validation scans. For each structure, slices of the scan's own grid along
its thinnest axis that show enough of it are asked about: by the box around the truth, by one click
and by three clicks in it (the second and third where the answer before was wrong, as a person
clicks), and by SegOne's own mask. Dice is counted over those slices, SegOne's as well. "trust" is
the correlation of the teacher's own estimate with its intersection over union.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from accuracy import OTHERS, PAIRED, SCANS, data_with
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models.teacher import Proposal, Teacher, box_around
from segone_napari.session import Session
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

Mask = NDArray[np.bool_]
WAYS = ("box", "one click", "three clicks", "SegOne's mask")
ALL = (*WAYS, "SegOne")
SMALLEST_MM2 = 20.0
"""Slices that show less of a structure are left out: their Dice says little."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation"))
    parser.add_argument("--teacher", help="default: the one that comes with the program")
    parser.add_argument("--checkpoint", help="SegOne's checkpoint")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scans", nargs="*", default=list(SCANS))
    parser.add_argument("--slices", type=int, default=6, help="slices of each structure at most")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    teacher = Teacher.load(args.teacher, args.device)
    session = Session(checkpoint=args.checkpoint, preset=args.preset, device=args.device)
    vocabulary = Vocabulary.load()
    tables = {}
    for scan in args.scans:
        image, classes = SCANS[scan](args.data / "validation" / scan, vocabulary)
        names = [f"{side} {name}" for name in PAIRED for side in ("left", "right")] + list(OTHERS)
        results = session.segment(image, names)
        session.forget(image)
        tables[scan] = _measure(teacher, image, classes, results, vocabulary, args.slices)
        _print(tables[scan], scan)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=2) + "\n")


def _measure(
    teacher: Teacher,
    image: Volume,
    classes: NDArray[np.uint8],
    results: list[Result],
    vocabulary: Vocabulary,
    slices: int,
) -> dict[str, dict[str, float]]:
    """Ask about every structure; slices are looked at once, for all structures."""
    spacing = nib.affines.voxel_sizes(image.affine)
    axis = int(np.argmax(spacing)) if spacing.max() > 1.5 * spacing.min() else _axial(image)
    in_slice = tuple(float(mm) for mm in np.delete(spacing, axis))
    smallest = SMALLEST_MM2 / np.prod(in_slice)
    values = {r.prompt: vocabulary.class_names.index(r.prompt) for r in results}
    wanted = {n: _choose(classes == v, axis, smallest, slices) for n, v in values.items()}
    counts = {name: _Counts() for name in values}
    started = time.monotonic()
    for index in sorted({number for numbers in wanted.values() for number in numbers}):
        teacher.set_slice(np.take(image.data, index, axis), in_slice)
        for result in results:
            if index in wanted[result.prompt]:
                truth = np.take(classes, index, axis) == values[result.prompt]
                _ask(teacher, truth, _own_slice(result, axis, index), counts[result.prompt])
    seconds = time.monotonic() - started
    rows = {name: count.figures() for name, count in counts.items() if wanted[name]}
    mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in ALL}
    trust = np.corrcoef(np.concatenate([c.pairs for c in counts.values() if c.pairs]).T)[0, 1]
    return rows | {"mean": mean | {"trust": float(trust), "seconds": seconds}}


def _axial(image: Volume) -> int:
    """Return the array axis that runs from the feet to the head."""
    return [code in "IS" for code in nib.aff2axcodes(image.affine)].index(True)


def _choose(truth: Mask, axis: int, smallest: float, slices: int) -> list[int]:
    """Return slices, evenly spread between the ends of those that show enough of a structure."""
    shown = np.flatnonzero(truth.sum(tuple({0, 1, 2} - {axis})) >= smallest)
    if not len(shown):
        return []
    spread = np.linspace(0, len(shown) - 1, slices + 2)[1:-1].round().astype(int)
    return [int(index) for index in shown[np.unique(spread)]]


def _own_slice(result: Result, axis: int, index: int) -> Mask:
    """Return SegOne's mask in one slice, without painting the whole volume."""
    shown = np.zeros(np.delete(result.grid.shape, axis), dtype=bool)
    within = result.box[axis]
    if result.found and within.start <= index < within.stop:
        rows, columns = (part for number, part in enumerate(result.box) if number != axis)
        shown[rows, columns] = np.take(result.probability, index - within.start, axis) > 0.5
    return shown


def _ask(teacher: Teacher, truth: Mask, own: Mask, counts: _Counts) -> None:
    """Ask in every way about one structure in the slice that the teacher looks at."""
    points, says = [_deepest(truth)], [1]
    answers = {
        "box": teacher.predict(box=box_around(truth)),
        "one click": teacher.predict(points=points, labels=says),
    }
    shown = answers["one click"].probability > 0.5
    for _ in range(2):
        wrong = shown != truth
        place = _deepest(wrong if wrong.any() else truth)
        points, says = [*points, place], [*says, int(truth[place])]
        answers["three clicks"] = teacher.predict(points=points, labels=says)
        shown = answers["three clicks"].probability > 0.5
    if own.any():
        answers["SegOne's mask"] = teacher.predict(box=box_around(own), mask=own)
    else:
        answers["SegOne's mask"] = Proposal(np.zeros(truth.shape, np.float32), 0.0)
    counts.add("SegOne", own, truth)
    for way, answer in answers.items():
        counts.add(way, answer.probability > 0.5, truth)
        counts.pairs.append((answer.quality, _overlap(answer.probability > 0.5, truth)))


def _deepest(mask: Mask) -> tuple[int, int]:
    """Return the row and column of the pixel that is farthest from a mask's edge."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(row), int(column)


def _overlap(shown: Mask, truth: Mask) -> float:
    return float((shown & truth).sum() / max(1, (shown | truth).sum()))


class _Counts:
    """Voxels of one structure: shared, and in all, for every way of asking."""

    def __init__(self) -> None:
        self.shared: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.pairs: list[tuple[float, float]] = []

    def add(self, way: str, shown: Mask, truth: Mask) -> None:
        self.shared[way] = self.shared.get(way, 0) + int((shown & truth).sum())
        self.sizes[way] = self.sizes.get(way, 0) + int(shown.sum() + truth.sum())

    def figures(self) -> dict[str, float]:
        return {way: 2 * self.shared[way] / self.sizes[way] for way in self.sizes}


def _print(rows: dict[str, dict[str, float]], scan: str) -> None:
    table = Table(title=f"Dice in slices, {scan}")
    table.add_column("structure")
    for way in ALL:
        table.add_column(way, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[way]:.3f}" for way in ALL))
    console = Console(width=110)
    console.print(table)
    mean = rows["mean"]
    better = [n for n, row in rows.items() if n != "mean" and row[WAYS[-1]] > row["SegOne"]]
    console.print(
        f"trust {mean['trust']:.2f}, {mean['seconds']:.0f} s; better than SegOne from "
        f"its own mask: {', '.join(better) or 'nothing'}"
    )


if __name__ == "__main__":
    main()
