"""What kinds of damage to an image cost how much Dice, on real scans.

    python benchmarks/robustness.py DATA [--preset fast] [--scans …] [--plot FILE.png]

Each validation scan is damaged in one way at a time and segmented again. The reference stays the
scan's own: a damaged copy lies on the same grid, or is compared at the positions of the scan's
voxels that it still shows. Of a head that is cut off, what is left counts, of structures that are
at least half there. Prints the mean Dice over the left/right structures for each scan, and where
lesions or a tumour are seen, although all these heads are healthy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accuracy import PAIRED, SCANS, data_with
from monai.transforms import GibbsNoise, RandBiasField, RandRicianNoise
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter, zoom

from segone_napari.data.synthetic import LESIONS, TUMOUR
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.metrics import dice_by_prompt
from segone_napari.session import Session
from segone_napari.volume import Volume

Image = NDArray[np.float32]
Damage = Callable[[Image, Volume], Image]
"""Changes voxels (i, j, k), 0 to about 1, of an image on a grid; the grid stays."""

PROMPTS = [f"{side} {name}" for name in PAIRED for side in ("left", "right")]


def main() -> None:
    """Damage, segment, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation"))
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--checkpoint")
    parser.add_argument("--scans", nargs="*", default=list(SCANS))
    parser.add_argument("--plot", type=Path, help="draw the figures, too")
    args = parser.parse_args()
    session = Session(preset=args.preset, checkpoint=args.checkpoint)
    vocabulary = Vocabulary.load()
    dice: dict[str, dict[str, float]] = {name: {} for name in DAMAGES}
    seen: dict[str, list[str]] = {LESIONS: [], TUMOUR: []}  # though all heads are healthy
    for scan in args.scans:
        image, classes = SCANS[scan](args.data / "validation" / scan, vocabulary)
        for name, damage in DAMAGES.items():
            values = image.data.astype(np.float32) / np.percentile(image.data, 99.8)
            copy = Volume(damage(values, image), image.grid, image.name)
            left = (
                np.where((values > 0) & (copy.data == 0), 0, classes) if name in CUTS else classes
            )
            prompts = [
                p for p in PROMPTS if _is_half_there(vocabulary.class_names.index(p), left, classes)
            ]
            results = session.segment(copy, prompts)
            for prompt, answer in zip(seen, session.segment(copy, list(seen)), strict=True):
                if answer.found:
                    seen[prompt].append(f"{scan}, {name}: {answer.volume_ml:.1f} mL")
            session.forget(copy)
            dice[name][scan] = float(
                np.mean(list(dice_by_prompt(results, left, vocabulary).values()))
            )
    table = Table("damage", *args.scans, title=f"mean Dice left/right, {args.preset}")
    for name, row in dice.items():
        table.add_row(name, *(f"{row[scan]:.3f}" for scan in args.scans))
    console = Console(width=110)
    console.print(table)
    for prompt, where in seen.items():
        asked = len(args.scans) * len(DAMAGES)
        console.print(f"{prompt} seen in {len(where)} of {asked} healthy images", *where, sep="; ")
    if args.plot:
        _plot(dice, args.plot)


def _is_half_there(index: int, left: NDArray[np.uint8], classes: NDArray[np.uint8]) -> bool:
    whole = np.count_nonzero(classes == index)
    return whole > 0 and 2 * np.count_nonzero(left == index) >= whole


# --- damages ------------------------------------------------------------------------------------


def _noise(share: float) -> Damage:
    def damage(values: Image, _: Volume) -> Image:
        noisy = RandRicianNoise(prob=1.0, std=share, sample_std=False).set_random_state(0)
        return np.asarray(noisy(values), dtype=np.float32)

    return damage


def _bias(values: Image, _: Volume) -> Image:
    field = RandBiasField(prob=1.0, degree=3, coeff_range=(0.25, 0.35)).set_random_state(0)
    return np.asarray(field(values[None])[0], dtype=np.float32)


def _ringing(values: Image, _: Volume) -> Image:
    return np.asarray(GibbsNoise(alpha=0.65)(values[None])[0], dtype=np.float32).clip(0)


def _ghosts(values: Image, _: Volume) -> Image:
    """A head that moved while every other line of k-space was taken."""
    spectrum = np.fft.fftn(values)
    shift = np.exp(-2j * np.pi * 1.5 * np.fft.fftfreq(values.shape[1]))[None, :, None]
    lines = np.arange(values.shape[1]) % 2 == 1
    moved = np.where(lines[None, :, None], spectrum * shift, spectrum)
    return np.abs(np.fft.ifftn(moved)).astype(np.float32)


def _low_field(values: Image, image: Volume) -> Image:
    blurred = gaussian_filter(values, [1.2 / s for s in image.grid.spacing])
    return _noise(0.06)(blurred, image)


def _gamma(power: float) -> Damage:
    return lambda values, _: values.clip(0) ** power


def _inverted(values: Image, _: Volume) -> Image:
    """Dark tissue bright and bright tissue dark inside the head, as a T2 has them to a T1."""
    return np.where(values > 0.1, 1.15 - values.clip(0, 1.1), values).astype(np.float32)


def _thick(ras_axis: int, slice_mm: float) -> Damage:
    """Average slices of a thickness across one RAS axis, and interpolate between them again."""

    def damage(values: Image, image: Volume) -> Image:
        axis = int(np.abs(image.affine[:3, :3])[ras_axis].argmax())
        factor = image.grid.spacing[axis] / slice_mm
        if factor > 0.95:
            return values
        sigma = [0.0, 0.0, 0.0]
        sigma[axis] = 0.42 / factor
        few = zoom(gaussian_filter(values, sigma), _along(axis, factor), order=1)
        back = values.shape[axis] / few.shape[axis]
        out: Image = zoom(few, _along(axis, back), order=1)
        return out

    return damage


def _along(axis: int, factor: float) -> list[float]:
    return [factor if a == axis else 1.0 for a in range(3)]


def _cropped(ras_axis: int, low: float, high: float) -> Damage:
    """Leave away what lies outside two shares of the head's extent along an RAS axis."""

    def damage(values: Image, image: Volume) -> Image:
        linear = image.affine[:3, :3]
        axis = int(np.abs(linear)[ras_axis].argmax())
        lines = np.flatnonzero((values > 0.1).any(axis=tuple(a for a in range(3) if a != axis)))
        share = (np.arange(values.shape[axis]) - lines[0]) / max(1, lines[-1] - lines[0])
        if linear[ras_axis, axis] < 0:
            share = 1 - share
        kept = (share >= low) & (share <= high)
        shape = [-1 if a == axis else 1 for a in range(3)]
        return np.where(kept.reshape(shape), values, 0).astype(np.float32)

    return damage


CUTS: dict[str, Damage] = {
    "lowest third missing": _cropped(2, 0.33, 1.0),
    "top fifth missing": _cropped(2, 0.0, 0.8),
    "left third missing": _cropped(0, 0.33, 1.0),
    "back third missing": _cropped(1, 0.33, 1.0),
}
DAMAGES: dict[str, Damage] = {
    "none": lambda values, _: values,
    "noise 3 %": _noise(0.03),
    "noise 8 %": _noise(0.08),
    "bias field": _bias,
    "ringing": _ringing,
    "ghosts of motion": _ghosts,
    "low field": _low_field,
    "gamma 0.6": _gamma(0.6),
    "gamma 1.6": _gamma(1.6),
    "inverted contrast": _inverted,
    "axial slices of 3 mm": _thick(2, 3),
    "axial slices of 6 mm": _thick(2, 6),
    "coronal slices of 6 mm": _thick(1, 6),
    "sagittal slices of 6 mm": _thick(0, 6),
    **CUTS,
}


def _plot(dice: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    scans = list(next(iter(dice.values())))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    places = np.arange(len(dice))
    for number, scan in enumerate(scans):
        heights = [row[scan] for row in dice.values()]
        axes.barh(places + 0.8 * number / len(scans), heights, 0.8 / len(scans), label=scan)
    axes.set_yticks(places + 0.4 - 0.4 / len(scans), list(dice))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean Dice, left and right structures")
    figure.legend(loc="outside lower center", ncols=len(scans), frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
