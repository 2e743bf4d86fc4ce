"""The same head in all 48 axis orders and flips, tilted, and with other voxel sizes.

    python benchmarks/orientations.py [--preset fast] [--orders 48]

Each copy of the bundled T1 is segmented and brought back to the first one's world positions. Prints
the mean Dice against the answer for the head as it is stored, over all left/right structures.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import affine_transform

from segone_napari.data import formats
from segone_napari.data.samples import SAMPLES
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.session import Session
from segone_napari.systems.base import Result
from segone_napari.volume import Volume


def main() -> None:
    """Segment every copy and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--orders", type=int, default=48)
    args = parser.parse_args()
    names = [n for n in Vocabulary.load().class_names if n.startswith(("left ", "right "))]
    session = Session(preset=args.preset)
    image = formats.read(SAMPLES["t1"].image_path)
    wanted = answers(session, image, names, image)
    table = Table("copy", "orientation", "mean Dice", "lowest")
    copies = itertools.chain(
        itertools.islice(axis_orders(image), args.orders),
        [
            ("tilted 15°", tilted(image, 15)),
            ("tilted 8°, 0.9 × 0.9 × 1.3", tilted(image, 8, (0.9, 0.9, 1.3))),
        ],
    )
    for name, copy in copies:
        dice = [
            2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
            for a, b in zip(wanted, answers(session, copy, names, image), strict=True)
            if a.any() or b.any()
        ]
        table.add_row(name, copy.grid.orientation, f"{np.mean(dice):.4f}", f"{min(dice):.4f}")
    Console().print(table)


def answers(
    session: Session, copy: Volume, names: list[str], image: Volume
) -> list[NDArray[np.bool_]]:
    """Masks of a copy, at the world positions of the voxels of `image`."""
    results = session.segment(copy, names)
    session.forget(copy)
    return [_at_voxels_of(image, result) for result in results]


def _at_voxels_of(image: Volume, result: Result) -> NDArray[np.bool_]:
    """A result's mask at the voxels of another image; sampled about the structure only."""
    mask = np.zeros(image.grid.shape, dtype=bool)
    if not result.found:
        return mask
    to_copy = np.linalg.inv(result.grid.affine) @ image.affine
    first = [side.start for side in result.box]
    corners = np.array(list(itertools.product(*((s.start, s.stop - 1) for s in result.box))))
    there = nib.affines.apply_affine(np.linalg.inv(to_copy), corners)
    start = np.clip(np.floor(there.min(0)).astype(int), 0, image.grid.shape)
    stop = np.clip(np.ceil(there.max(0)).astype(int) + 1, 0, image.grid.shape)
    sampled = affine_transform(
        result.probability.astype(np.float32),
        to_copy[:3, :3],
        to_copy[:3, :3] @ start + to_copy[:3, 3] - first,
        output_shape=tuple(stop - start),
        order=1,
    )
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = sampled > 0.5
    return mask


def axis_orders(image: Volume) -> Iterator[tuple[str, Volume]]:
    """The head in every axis order and flip; the first is the head itself."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            yield f"{order}, {flips}", reordered(image, order, flips)


def reordered(image: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """Store the same head with its axes in another order and direction."""
    data = image.data.transpose(order)[tuple(slice(None, None, f) for f in flips)]
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        change[old, new] = flip
        change[old, 3] = 0 if flip > 0 else image.data.shape[old] - 1
    return Volume.from_affine(np.ascontiguousarray(data), image.affine @ change, image.name)


def tilted(
    image: Volume,
    degrees: float,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    spline: int = 3,
) -> Volume:
    """Sample the same head, by a spline of some order, on a grid turned about all three axes."""
    turn = np.eye(3)
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        angle = np.radians(degrees) / np.sqrt(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    shape = tuple(round(260 / s) for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    middle = image.affine @ np.array([*(np.array(image.grid.shape) - 1) / 2, 1])
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    data = affine_transform(
        image.data.astype(np.float32),
        np.linalg.inv(image.affine) @ affine,
        output_shape=shape,
        order=spline,
    )
    return Volume.from_affine(np.clip(data, 0, None), affine, f"{image.name}, tilted {degrees}°")


if __name__ == "__main__":
    main()
