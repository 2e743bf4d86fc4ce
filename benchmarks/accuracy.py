"""Dice per structure on real scans, each at its own grid.

    python benchmarks/accuracy.py DATA [--checkpoint DIR] [--preset best] [--system segone]

DATA is a folder with the validation scans (``validation/stripped_t1_a`` and so on). The mean is
over the structures that exist left and right. Scans in DATA are never trained on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

from segone_napari.data import formats
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.metrics import dice_by_prompt
from segone_napari.evaluation.reference import reference_classes
from segone_napari.session import Session
from segone_napari.volume import Volume

PAIRED = (
    "cerebral white matter", "cerebral cortex", "lateral ventricle", "inferior lateral ventricle",
    "cerebellar white matter", "cerebellar cortex", "thalamus", "caudate", "putamen", "pallidum",
    "hippocampus", "amygdala", "accumbens", "ventral diencephalon",
)  # fmt: skip
"""What the mean is over, left and right; of choroid plexus the reference is only rough."""
OTHERS = ("third ventricle", "fourth ventricle", "brainstem")
GROUPS = (
    "brain", "cerebrum", "cerebellum", "cerebral cortex", "white matter", "grey matter",
    "basal ganglia", "ventricular system",
)  # fmt: skip
"""Larger structures, in the table below the others; no mean counts them."""


def data_with(*folders: str) -> Callable[[str], Path]:
    """Make an argument's type: a folder that holds these, or one line says what is missing."""

    def checked(given: str) -> Path:
        missing = [name for name in folders if not Path(given, name).is_dir()]
        if missing:
            raise argparse.ArgumentTypeError(
                f"{given} holds no folder {missing[0]!r}; give the one that holds "
                f"{' and '.join(folders)}"
            )
        return Path(given)

    return checked


def main() -> None:
    """Run the systems and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation"))
    parser.add_argument("--system", default="segone")
    parser.add_argument("--checkpoint")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scans", nargs="*", default=list(SCANS))
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    session = Session(
        system=args.system, checkpoint=args.checkpoint, preset=args.preset, device=args.device
    )
    vocabulary = Vocabulary.load()
    columns = {}
    for scan in args.scans:
        image, classes = SCANS[scan](args.data / "validation" / scan, vocabulary)
        columns[scan] = _measure(session, image, classes, vocabulary)
    _print(columns, f"{args.system}, {args.preset}")
    if args.json:
        args.json.write_text(json.dumps(columns, indent=2) + "\n")


def _measure(
    session: Session, image: Volume, classes: np.ndarray, vocabulary: Vocabulary
) -> dict[str, float]:
    prompts = [f"{side} {name}" for name in PAIRED for side in ("left", "right")] + list(OTHERS)
    started = time.monotonic()
    results = session.segment(image, prompts)
    seconds = time.monotonic() - started
    dice = dice_by_prompt(results, classes, vocabulary)
    groups = dice_by_prompt(session.segment(image, GROUPS), classes, vocabulary)
    session.forget(image)
    paired = [dice[p] for p in prompts if p in dice and p not in OTHERS]
    worst = min(dice, key=lambda p: dice[p])
    return (
        dice
        | groups
        | {
            "mean left/right": float(np.mean(paired)),
            "worst": dice[worst],
            "seconds": seconds,
        }
    )


def _print(columns: dict[str, dict[str, float]], title: str) -> None:
    table = Table(title=title)
    table.add_column("Dice")
    for scan in columns:
        table.add_column(scan, justify="right")
    for row in dict.fromkeys(name for column in columns.values() for name in column):
        cells = [f"{c[row]:.3f}" if row in c else "-" for c in columns.values()]
        table.add_row(row, *cells, end_section=row in (OTHERS[-1], GROUPS[-1]))
    Console(width=110).print(table)


def _stripped_t1_a(folder: Path, vocabulary: Vocabulary) -> tuple[Volume, np.ndarray]:
    arrays = np.load(folder / "test_scan.npz")
    affine = np.array([[-1, 0, 0, 80], [0, 0, 1, -112], [0, -1, 0, 96], [0, 0, 0, 1.0]])
    image = Volume.from_affine(arrays["vol"].astype(np.float32), affine, folder.name)
    truth = Volume.from_affine(arrays["seg"].astype(np.int32), affine, "truth")
    return image, reference_classes(truth, vocabulary)


def _freesurfer(image: str, truth: str) -> Callable[..., tuple[Volume, np.ndarray]]:
    def load(folder: Path, vocabulary: Vocabulary) -> tuple[Volume, np.ndarray]:
        reference = formats.read(folder / truth)
        return formats.read(folder / image), reference_classes(reference, vocabulary)

    return load


def _flair_thick(folder: Path, vocabulary: Vocabulary) -> tuple[Volume, np.ndarray]:
    """The reference lies on the T1's grid: take its nearest voxel for each of the FLAIR's."""
    image = formats.read(folder / "flair.nii.gz")
    truth = formats.read(folder / "t1_seg_gif.nii.gz")
    classes = reference_classes(truth, vocabulary, "gif")
    to_truth = np.linalg.inv(truth.affine) @ image.affine
    voxels = np.indices(image.data.shape).reshape(3, -1).T
    nearest = np.rint(nib.affines.apply_affine(to_truth, voxels)).astype(int)
    inside = ((nearest >= 0) & (nearest < truth.data.shape)).all(1)
    out = np.zeros(len(voxels), dtype=np.uint8)
    out[inside] = classes[tuple(nearest[inside].T)]
    return image, out.reshape(image.data.shape)


SCANS: dict[str, Callable[..., tuple[Volume, np.ndarray]]] = {
    "stripped_t1_a": _stripped_t1_a,
    "stripped_t1_b": _freesurfer("norm.mgz", "aparc.a2009s+aseg.mgz"),
    "wholehead_t1": _freesurfer("T1.mgz", "aseg.mgz"),
    "flair_thick": _flair_thick,
}

if __name__ == "__main__":
    main()
