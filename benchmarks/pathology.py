"""White matter lesions and tumours that were planted into real scans without any.

    python benchmarks/pathology.py DATA [--checkpoint DIR] [--preset balanced] [--count 3] [--faint]

DATA holds ``validation``, ``lesion_masks`` and ``samples``. Real masks of lesions, and tumours of
another make than those of training, are painted into the white matter of the validation scans.
That stands in for patients with a reference, of whom there are none here: shapes of lesions and
textures of heads are real, brightness is not. Prints the Dice of each, what confidence it was
given, and what the scans answer as they are, where "not found" is right. The samples of a patient
with multiple sclerosis have no reference: only volume and confidence are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from accuracy import SCANS, data_with
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from segone_napari.data import formats
from segone_napari.data.synthetic import LESIONS, TUMOUR
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.session import Session
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

VOCABULARY = Vocabulary.load()
MNI_CEREBRUM_MM = np.array([[-70.0, -105.0, -50.0], [70.0, 72.0, 80.0]])
"""About where the cerebrum lies in MNI space: its lowest and highest corner."""
BRIGHTNESS = {  # as a share of that of white matter
    "T1": {"lesion": (0.72,), "oedema": (0.8,), "core": (0.72, 1.05), "necrosis": (0.45,)},
    "FLAIR": {"lesion": (1.6,), "oedema": (1.7,), "core": (1.45,), "necrosis": (0.55, 1.2)},
}
FAINT = 0.5
"""By how much less faint ones differ from white matter."""


class Planted(NamedTuple):
    """An image, what was put into it, and where (i, j, k)."""

    image: Volume
    kind: str
    mask: NDArray[np.bool_]


def main() -> None:
    """Plant, ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation", "lesion_masks", "samples"))
    parser.add_argument("--checkpoint")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--scans", nargs="*", default=list(SCANS))
    parser.add_argument("--count", type=int, default=3, help="of each kind in each scan")
    parser.add_argument("--faint", action="store_true", help="half as different as usual")
    args = parser.parse_args()
    session = Session(checkpoint=args.checkpoint, preset=args.preset)
    table = Table("scan", "planted", "mL", "Dice", "lesions say", "tumour says")
    means: dict[tuple[str, str], list[float]] = {}
    for scan in args.scans:
        image, classes = SCANS[scan](args.data / "validation" / scan, VOCABULARY)
        look = "FLAIR" if "flair" in scan else "T1"
        answers = session.segment(image, [LESIONS, TUMOUR])
        table.add_row(scan, "nothing", "", "", *map(_words, answers))
        brightness = _faint(BRIGHTNESS[look]) if args.faint else BRIGHTNESS[look]
        for one in _planted(image, classes, brightness, args.data / "lesion_masks", args.count):
            answers = session.segment(one.image, [LESIONS, TUMOUR])
            session.forget(one.image)
            score = _dice(answers[one.kind == TUMOUR], one.mask)
            means.setdefault((one.kind, look), []).append(score)
            volume = one.mask.sum() * image.grid.voxel_volume_ml
            table.add_row(scan, one.kind, f"{volume:.0f}", f"{score:.2f}", *map(_words, answers))
    for path in sorted((args.data / "samples").glob("study2_*.nii*")):
        image = formats.read(path)
        table.add_row(
            path.name,
            "a patient's",
            "",
            "",
            *map(_words, session.segment(image, [LESIONS, TUMOUR])),
        )
    console = Console(width=120)
    console.print(table)
    for (kind, look), scores in means.items():
        console.print(f"{kind}, {look}: mean Dice {np.mean(scores):.2f} of {len(scores)}")


def _words(result: Result) -> str:
    if not result.found:
        return f"not found ({result.confidence:.2f})"
    return f"{result.volume_ml:.0f} mL ({result.confidence:.2f})"


def _dice(result: Result, truth: NDArray[np.bool_]) -> float:
    """Dice of a result's mask; 0 where it says "not found"."""
    mask = np.zeros(truth.shape, dtype=bool)
    if result.found:
        mask[result.box] = result.probability > 0.5
    return float(2 * np.count_nonzero(mask & truth) / (mask.sum() + truth.sum()))


# --- planting -----------------------------------------------------------------------------------


def _planted(
    image: Volume,
    classes: NDArray[np.uint8],
    brightness: dict[str, tuple[float, ...]],
    masks: Path,
    count: int,
) -> Iterator[Planted]:
    scan = _Scan(image, classes)
    files = sorted(masks.glob("*.nii*"))
    for number in range(count):
        yield scan.with_lesions(files[(8 * number + 3) % len(files)], brightness)
    for number in range(count):
        yield scan.with_tumour(number, brightness)


def _faint(brightness: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(1 + FAINT * (level - 1) for level in levels)
        for name, levels in brightness.items()
    }


class _Scan:
    """A scan and what is needed to paint into it."""

    def __init__(self, image: Volume, classes: NDArray[np.uint8]) -> None:
        self.image = image
        names = VOCABULARY.class_names
        self.white = [names.index(f"{side} cerebral white matter") for side in ("left", "right")]
        grey = [names.index(f"{side} cerebral cortex") for side in ("left", "right")]
        ventricles = [n for n, name in enumerate(names) if "ventricle" in name]
        self.classes = classes
        self.is_white = np.isin(classes, self.white)
        self.is_cerebrum = self.is_white | np.isin(classes, grey)
        self.may_grow = (classes > 0) & ~np.isin(classes, ventricles)
        voxels = np.indices(image.data.shape).reshape(3, -1).T
        self.places = nib.affines.apply_affine(image.affine, voxels).reshape(*image.data.shape, 3)
        self.level = float(np.median(image.data[self.is_white]))

    def with_lesions(self, path: Path, brightness: dict[str, tuple[float, ...]]) -> Planted:
        """Lesions of a patient's mask, at their place in the cerebrum, where white matter is."""
        source = nib.load(path)
        points = self.places[self.is_cerebrum]
        low, high = points.min(0), points.max(0)
        share = (self.places - low) / (high - low)
        in_mni = MNI_CEREBRUM_MM[0] + share * (MNI_CEREBRUM_MM[1] - MNI_CEREBRUM_MM[0])
        voxels = nib.affines.apply_affine(np.linalg.inv(source.affine), in_mni)
        mask = (np.asarray(source.dataobj) > 0).astype(np.float32)
        part = ndimage.map_coordinates(mask, np.moveaxis(voxels, -1, 0), order=1) * self.is_white
        data = self.image.data * (1 - part) + part * brightness["lesion"][0] * self.level
        return Planted(self.image.with_data(data.astype(np.float32)), LESIONS, part > 0.5)

    def with_tumour(self, number: int, brightness: dict[str, tuple[float, ...]]) -> Planted:
        """A bumpy core with necrosis, and oedema that spreads in the white matter."""
        draw = np.random.default_rng(number)
        deep = ndimage.distance_transform_edt(self.is_white, sampling=self.image.grid.spacing) > 3
        candidates = np.argwhere(deep & (self.classes == self.white[number % 2]))
        centre = self.places[tuple(candidates[draw.integers(len(candidates))])]
        radius = draw.uniform(13, 20)
        away = np.linalg.norm(self.places - centre, axis=-1) + 3 * self._noise(6, draw)
        core = (away < radius) & self.may_grow
        reach = radius + 12 + 5 * self._noise(8, draw)
        oedema = (away < reach) & self.is_white & ~core
        texture = 1 + 0.06 * self._noise(2, draw)
        data = self.image.data.astype(np.float32)
        inside = (away < radius / 2) & core
        for mask, name in ((oedema, "oedema"), (core, "core"), (inside, "necrosis")):
            levels = brightness[name]
            soft = ndimage.gaussian_filter(mask.astype(np.float32), self._voxels(0.7))
            data = data * (1 - soft) + soft * levels[number % len(levels)] * self.level * texture
        return Planted(self.image.with_data(data), TUMOUR, core | oedema)

    def _noise(self, smooth_mm: float, draw: np.random.Generator) -> NDArray[np.float64]:
        noise = ndimage.gaussian_filter(
            draw.standard_normal(self.image.data.shape), self._voxels(smooth_mm)
        )
        return noise / noise.std()

    def _voxels(self, mm: float) -> list[float]:
        return [mm / spacing for spacing in self.image.grid.spacing]


if __name__ == "__main__":
    main()
