"""Pictures of good and of bad results on real scans, beside their references.

    python benchmarks/pictures.py DATA [--preset balanced] [--out docs/results.png]

DATA holds ``validation`` and ``samples``. A row is one slice of one scan: the image, the
reference's outlines, and the model's, with the Dice of each structure in the whole volume. The
slice is the one that shows most of the reference (of the answer, where there is none). Left in the
picture is the patient's right. Also prints where each mask's middle lies, and how large it is.
"""

from __future__ import annotations

import argparse
import itertools
import textwrap
from pathlib import Path
from typing import NamedTuple

import matplotlib
import nibabel as nib
import numpy as np
import torch
from accuracy import SCANS, data_with
from numpy.typing import NDArray

from segone_napari.data import formats
from segone_napari.data.resample import canonical_grid, canonical_tensor
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.metrics import dice_by_prompt
from segone_napari.session import Session
from segone_napari.systems.base import Result
from segone_napari.volume import Volume

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

VOCABULARY = Vocabulary.load()
CPU = torch.device("cpu")
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
MARGIN_MM = 12.0
"""What is shown around the structures."""
BRIGHTEST = 99.8
"""Percentile of the shown slice that is white."""
LETTERS = 52
"""A line of a title has no more."""


class Case(NamedTuple):
    """What is shown of a scan, and why."""

    why: str
    scan: str
    prompts: tuple[str, ...]
    plane: str


def both(*names: str) -> tuple[str, ...]:
    """Names on both sides."""
    return tuple(f"{side} {name}" for name in names for side in ("left", "right"))


CASES = (
    Case("good", "stripped_t1_b", both("hippocampus", "thalamus", "putamen"), "coronal"),
    Case("good", "flair_thick", both("caudate", "putamen", "thalamus"), "axial"),
    Case("a patient", "study2_FLAIR.nii.gz", ("white matter lesions",), "axial"),
    Case("bad", "wholehead_t1", both("pallidum"), "axial"),
    Case("bad", "flair_thick", ("third ventricle",), "axial"),
    Case("bad", "stripped_t1_a", both("inferior lateral ventricle"), "coronal"),
)


def main() -> None:
    """Segment, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation", "samples"))
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--out", type=Path, default=Path("docs/results.png"))
    args = parser.parse_args()
    session = Session(preset=args.preset)
    figure, axes = pyplot.subplots(len(CASES), 3, figsize=(10.5, 3.2 * len(CASES)))
    for row, case in zip(axes, CASES, strict=True):
        image, classes = _read(args.data, case.scan)
        results = session.segment(image, case.prompts)
        session.forget(image)
        _show(row, case, image, classes, results)
    figure.tight_layout()
    figure.savefig(args.out, dpi=72)
    print(f"wrote {args.out}")


def _read(data: Path, scan: str) -> tuple[Volume, NDArray[np.uint8] | None]:
    """A scan, and its classes (i, j, k) where it has a reference."""
    if scan in SCANS:
        image, classes = SCANS[scan](data / "validation" / scan, VOCABULARY)
        return image, classes
    return formats.read(data / "samples" / scan), None


def _show(
    row: NDArray[np.object_],
    case: Case,
    image: Volume,
    classes: NDArray[np.uint8] | None,
    results: list[Result],
) -> None:
    answers = [result.mask.data > 0 for result in results]
    truths: list[NDArray[np.bool_]] = []
    dice: dict[str, float] = {}
    if classes is not None:
        truths = [classes == VOCABULARY.class_names.index(prompt) for prompt in case.prompts]
        dice = dice_by_prompt(results, classes, VOCABULARY)
    for prompt, truth, answer in itertools.zip_longest(case.prompts, truths, answers):
        print(f"{case.scan}, {prompt}:", _place("reference", truth, image), end="")
        print(_place("SegOne", answer, image).rstrip("; "))
    grey, *masks = (
        canonical_tensor(image.with_data(array), CPU).numpy()
        for array in (image.data, *truths, *answers)
    )
    wanted = np.any(masks[: len(truths)] or masks, axis=0)
    spacing = canonical_grid(image.grid).spacing
    axis = PLANES[case.plane]
    across = [a for a in range(3) if a != axis]
    window: list[int | slice] = [0, 0, 0]
    window[axis] = int(wanted.sum(tuple(across)).argmax())
    for a in across:
        lines = np.nonzero(np.any(masks, axis=0).any(tuple({0, 1, 2} - {a})))[0]
        margin = round(MARGIN_MM / spacing[a])
        window[a] = slice(max(0, lines[0] - margin), lines[-1] + margin + 1)
    slice_of_grey, *outlines = (np.flip(volume[tuple(window)].T, 1) for volume in (grey, *masks))
    for ax in row:
        ax.imshow(
            slice_of_grey,
            cmap="gray",
            vmin=0,
            vmax=np.percentile(slice_of_grey, BRIGHTEST),
            origin="lower",
            aspect=spacing[across[1]] / spacing[across[0]],
            interpolation="bilinear",
        )
        ax.set_axis_off()
    _outlines(row[1], outlines[: len(truths)], results)
    _outlines(row[2], outlines[len(truths) :], results)
    row[0].set_title(f"{case.scan.split('.')[0]}, {case.plane}", fontsize=9)
    row[1].set_title("reference" if truths else "(there is no reference)", fontsize=9)
    figures = [
        f"{r.prompt} {dice[r.prompt]:.2f}" if dice else f"{r.prompt} {r.volume_ml:.1f} mL"
        for r in results
    ]
    row[2].set_title(textwrap.fill(f"{case.why}: {', '.join(figures)}", LETTERS), fontsize=8)


def _place(name: str, mask: NDArray[np.bool_] | None, image: Volume) -> str:
    if mask is None or not mask.any():
        return ""
    middle = nib.affines.apply_affine(image.affine, np.argwhere(mask).mean(0))
    x, y, z = (round(float(mm)) for mm in middle)
    return f"{name} {np.count_nonzero(mask)} voxels around ({x}, {y}, {z}) mm RAS; "


def _outlines(ax: Axes, masks: list[NDArray[np.float32]], results: list[Result]) -> None:
    for mask, result in zip(masks, results, strict=False):
        if mask.any():
            colour = np.array(result.colour) / 255
            ax.contour(mask, [0.5], colors=[colour], linewidths=1.2)


if __name__ == "__main__":
    main()
