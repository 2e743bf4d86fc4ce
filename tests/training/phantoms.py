"""Images that show no head: a bright body with a dim one inside that the model has to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segone_napari.data import formats
from segone_napari.data.resample import working_grid
from segone_napari.models.learnt import Lesson, LessonConfig
from segone_napari.project import ImageRef, Project
from segone_napari.systems import lessons as taught
from segone_napari.training.lessons import Example, new_lesson
from segone_napari.volume import Volume

SHAPE = (30, 34, 20)
TERM = "blue pebble"


def phantom(seed: int) -> tuple[Volume, NDArray[np.uint8]]:
    """An image and the mask of the pebble in it; place and size differ a little by seed."""
    draw = np.random.default_rng(seed)
    centre = np.array([13.0, 19.0, 9.0]) + draw.uniform(-2, 2, 3)
    radius = np.array([6.0, 5.0, 5.0]) * draw.uniform(0.85, 1.15)
    places = np.indices(SHAPE)
    from_pebble = sum(((p - c) / r) ** 2 for p, c, r in zip(places, centre, radius, strict=True))
    middle = (np.array(SHAPE) - 1) / 2
    from_middle = sum(((p - m) / (m + 1)) ** 2 for p, m in zip(places, middle, strict=True))
    image = np.where(from_middle < 1, 100.0, 5.0)
    image[from_pebble < 1] = 55.0
    image += draw.normal(0, 4, SHAPE)
    volume = Volume.from_affine(image.astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0]), "phantom")
    return volume, (from_pebble < 1).astype(np.uint8)


def save(folder: Path, seed: int) -> tuple[Path, NDArray[np.uint8]]:
    """Write a phantom's image; return its file and its mask."""
    image, mask = phantom(seed)
    path = folder / f"phantom_{seed}.nii.gz"
    if not path.exists():
        formats.write(image, path)
    return path, mask


def correct(
    project: Project, folder: Path, seed: int, slices: tuple[int, ...] = (5, 8, 10, 13)
) -> None:
    """Keep a correction of some slices of a phantom."""
    path, mask = save(folder, seed)
    ref = ImageRef.of(formats.read(path), path)
    project.add_correction(TERM, ref, mask, axis=2, slices=slices, synonyms=("azure stone",))


def example(seed: int, slices: tuple[int, ...]) -> Example:
    """A phantom with some corrected slices, as a lesson learns from it."""
    image, mask = phantom(seed)
    grid = working_grid(image.grid, 1.0)
    x, y, z = (slice(0, n) for n in grid.shape)
    weight = torch.zeros(1, *grid.shape, dtype=torch.float16)
    weight[..., list(slices)] = 1
    truth = torch.from_numpy(mask.astype(np.float16)) * weight
    i, j, k = (torch.zeros(n) for n in grid.shape)
    scene = taught.Scene(
        grid,
        (x, y, z),
        taught.normalised(torch.from_numpy(image.data)),
        torch.zeros(0, *grid.shape, dtype=torch.float16),
        torch.zeros(1, *grid.shape, dtype=torch.float16),
        (i, j, k),
    )
    drawn = {"axial": taught.drawn_slices(truth > 0.5, weight > 0, "axial")}
    return Example(scene, truth, weight, drawn, "somebody")


def lesson() -> Lesson:
    """An untrained lesson on the phantoms' term."""
    config = LessonConfig(
        (TERM,), (False,), (), ("axial",), 1.0, in_head=False, box_mm=((-99, 99),) * 3
    )
    return new_lesson(config, 0)


def dice(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Overlap of two masks."""
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
