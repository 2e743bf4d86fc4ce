"""How long edits, undo, saving and opening take on a mask of 256 × 256 × 256 voxels.

    python benchmarks/journal.py [--folder DIR] [--strokes 200]

Prints the median and the longest time of each, and the size on disk. Strokes are discs of about
10 000 voxels, painted in slices of all three directions. Give a folder on the disk that you want
to know about; without it, the system's temporary folder is measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from segone_napari import editing
from segone_napari.project import EditHistory, ImageRef, Project, Row
from segone_napari.volume import Volume

SIZE = 256
RADIUS = 56  # a disc of about 10 000 voxels
SPACING = (1.0, 1.0, 1.0)

Times = defaultdict[str, list[float]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--strokes", type=int, default=200)
    args = parser.parse_args()
    times: Times = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        sizes = measure(Path(folder), args.strokes, times)
    repairs(times)
    table = Table(title=f"{SIZE} × {SIZE} × {SIZE}, {args.strokes} strokes")
    for column in ("", "times", "median", "longest"):
        table.add_column(column, justify="left" if not column else "right")
    for what, seconds in times.items():
        middle, longest = (f"{1000 * s:.1f} ms" for s in (median(seconds), max(seconds)))
        table.add_row(what, str(len(seconds)), middle, longest)
    Console().print(table)
    for what, size_bytes in sizes.items():
        print(f"{what}: {size_bytes / 1024:.0f} KiB")


def measure(folder: Path, strokes: int, times: Times) -> dict[str, int]:
    """Paint, undo, save and open again."""
    image = Volume.from_affine(head(), np.eye(4), "image")
    with timed(times, "checksum of the image"):
        reference = ImageRef.of(image)
    case = Project(folder).case(reference)
    history = EditHistory.open(case)
    mask = ellipsoid(100)
    with timed(times, f"new row of {mask.sum() / 1e6:.1f} million voxels"):
        row_id = history.put([(Row("white matter", "white matter"), mask)]).added[0]
    for atom in painted(mask, strokes):
        with timed(times, "record a stroke of 10 000 voxels"):
            history.record(row_id, [atom])
        with timed(times, "sync, beside the window"):
            history.sync()
    result = ellipsoid(90)
    with timed(times, "replace by a new result"):
        history.edit(row_id, result, kind="result")
    with timed(times, "undo of that"):
        history.undo()
    recorded = history.undo_count - 1  # a stroke that erased nothing is no edit
    for _ in range(recorded):
        with timed(times, "undo a stroke"):
            history.undo()
    for _ in range(recorded):
        with timed(times, "redo a stroke"):
            history.redo()
    with timed(times, "close"):
        history.close()
    with timed(times, "open again"):
        again = EditHistory.open(case)
    assert np.array_equal(again.masks[row_id], mask)
    again.close()
    files = {name: (case.folder / name).stat().st_size for name in ("journal", "snapshot")}
    return files


def repairs(times: Times) -> None:
    """Time the repairs of a large mask."""
    mask = ellipsoid(100)
    mask[128, 128, 128] = 0
    calls: dict[str, Callable[[], Any]] = {
        "keep the largest part": lambda: editing.keep_largest_part(mask),
        "fill holes in 3-D": lambda: editing.fill_holes(mask),
        "fill holes in each slice": lambda: editing.fill_holes(mask, axis=2),
        "smooth": lambda: editing.smooth(mask, SPACING),
        "interpolate 20 slices": lambda: editing.interpolate(mask, (100, 121), 2, SPACING),
    }
    for what, call in calls.items():
        with timed(times, what):
            call()


@contextmanager
def timed(times: Times, what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times[what].append(time.perf_counter() - started)


def head() -> np.ndarray:
    return np.random.default_rng(0).random((SIZE,) * 3, dtype=np.float32)


def ellipsoid(radius: int) -> np.ndarray:
    i, j, k = np.ogrid[:SIZE, :SIZE, :SIZE]
    middle = SIZE / 2
    inside = (i - middle) ** 2 + 1.5 * (j - middle) ** 2 + 2 * (k - middle) ** 2 <= radius**2
    return inside.astype(np.uint8)


def painted(mask: np.ndarray, strokes: int) -> Iterator[tuple[Any, Any, Any]]:
    """Paint discs on a mask and yield each as napari would tell it."""
    rng = np.random.default_rng(1)
    rows, columns = np.nonzero(
        np.hypot(*np.ogrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]) <= RADIUS
    )
    for n in range(strokes):
        where = [
            rows + rng.integers(0, SIZE - 2 * RADIUS),
            columns + rng.integers(0, SIZE - 2 * RADIUS),
        ]
        where.insert(n % 3, np.full_like(rows, rng.integers(0, SIZE)))
        indices = tuple(where)
        before, after = mask[indices].copy(), n % 2
        mask[indices] = after
        yield indices, before, after


if __name__ == "__main__":
    main()
