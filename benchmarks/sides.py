"""What the check of sides notices: left and right masks on heads whose header is right or wrong.

    python benchmarks/sides.py [--preset fast]

Segments the bundled T1 as it is stored; with its voxels mirrored under the same header, so that the
header names the wrong sides; and with the outer part of one side, or half of the head, cut off.
Prints how many of the left and right structures were found, and how many got a warning. Where half
of the head is cut off, none of that side can be right.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.session import Session
from segone_napari.volume import Volume


def main() -> None:
    """Segment every copy and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--checkpoint")
    args = parser.parse_args()
    classes = Vocabulary.packaged().class_names
    names = [n for n in classes if n.startswith(("left ", "right "))]
    session = Session(preset=args.preset, checkpoint=args.checkpoint)
    image = formats.read(SAMPLES["t1"].image_path)
    table = Table("copy", "left found", "right found", "with a warning of sides")
    for title, copy in copies(image).items():
        found = [result for result in session.segment(copy, names) if result.found]
        session.forget(copy)
        warned = sum(bool(result.warnings) for result in found)
        sides = [sum(result.side == side for result in found) for side in ("left", "right")]
        table.add_row(title, *(f"{n} of {len(names) // 2}" for n in sides), str(warned))
    Console().print(table)


def copies(image: Volume) -> dict[str, Volume]:
    """The head, mirrored and cut; the axis from left to right is found in the affine."""
    axis = int(np.abs(image.grid.affine[0, :3]).argmax())
    voxels = image.data if image.grid.affine[0, axis] > 0 else np.flip(image.data, axis)
    bright = np.flatnonzero((voxels > 0.1 * voxels.max()).any(tuple({0, 1, 2} - {axis})))
    first, last = int(bright[0]), int(bright[-1])

    def cut(share: float) -> Volume:
        kept = voxels.copy()
        index: list[slice] = [slice(None)] * 3
        index[axis] = slice(0, first + round(share * (last - first)))
        kept[tuple(index)] = 0
        return placed(kept)

    def placed(array: NDArray[Any]) -> Volume:
        right_way = image.grid.affine[0, axis] > 0
        return Volume(array if right_way else np.flip(array, axis).copy(), image.grid)

    return {
        "as stored": image,
        "mirrored, the header kept": placed(np.flip(voxels, axis).copy()),
        "left quarter of the width blank": cut(0.25),
        "left half of the width blank": cut(0.5),
    }


if __name__ == "__main__":
    main()
