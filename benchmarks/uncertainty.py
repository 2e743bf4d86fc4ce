"""How well doubt finds errors, and how well confidence tells Dice, on real scans.

    python benchmarks/uncertainty.py DATA [--presets balanced best] [--plot reliability.png]

DATA is a folder with the validation scans. For every structure and preset: the area under the ROC
curve (AUROC) of the uncertainty for voxels that are wrong, among those within 3 mm of the
boundary of the mask or of the reference; and the confidence beside the Dice that was reached. The
plot shows confidence against Dice. Both are means over structures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from accuracy import OTHERS, PAIRED, SCANS, data_with
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage, stats

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.evaluation.metrics import dice_by_prompt
from segone_napari.session import Session
from segone_napari.systems.base import Result

NEAR_MM = 3.0


def main() -> None:
    """Print a table for each preset, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_with("validation"))
    parser.add_argument("--checkpoint")
    parser.add_argument("--presets", nargs="*", default=["balanced", "best"])
    parser.add_argument("--scans", nargs="*", default=list(SCANS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plot", type=Path, help="draw confidence against Dice here")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    vocabulary = Vocabulary.load()
    names = [f"{side} {name}" for name in PAIRED for side in ("left", "right")] + list(OTHERS)
    figures: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for preset in args.presets:
        session = Session(checkpoint=args.checkpoint, preset=preset, device=args.device)
        figures[preset] = {}
        for scan in args.scans:
            image, classes = SCANS[scan](args.data / "validation" / scan, vocabulary)
            results = session.segment(image, names)
            session.forget(image)
            dice = dice_by_prompt(results, classes, vocabulary)
            figures[preset][scan] = {
                r.prompt: (
                    auroc(r, classes == vocabulary.class_names.index(r.prompt)),
                    r.confidence,
                    dice[r.prompt],
                )
                for r in results
                if r.found and r.prompt in dice
            }
        _print(figures[preset], preset)
    if args.plot:
        _draw(figures, args.plot)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def auroc(result: Result, truth: NDArray[np.bool_]) -> float:
    """AUROC of the uncertainty for errors near a boundary; where nothing is wrong, it is nan.

    Parameters
    ----------
    result : with an uncertainty.
    truth : (i, j, k) on the result's grid.
    """
    assert result.uncertainty is not None
    spacing = nib.affines.voxel_sizes(result.grid.affine)
    margin = np.ceil(NEAR_MM / spacing).astype(int) + 1
    shown = np.zeros(truth.shape, dtype=bool)
    shown[result.box] = result.probability > 0.5
    doubt = np.zeros(truth.shape, dtype=np.float32)
    doubt[result.box] = result.uncertainty
    filled = np.argwhere(shown | truth)
    first = np.maximum(filled.min(0) - margin, 0)
    box = tuple(
        slice(int(a), int(b)) for a, b in zip(first, filled.max(0) + margin + 1, strict=True)
    )
    shown, truth, doubt = shown[box], truth[box], doubt[box]
    near = _near_boundary(shown, spacing) | _near_boundary(truth, spacing)
    wrong = (shown != truth)[near]
    if wrong.all() or not wrong.any():
        return float("nan")
    ranks = stats.rankdata(doubt[near])
    count = int(wrong.sum())
    above = ranks[wrong].sum() - count * (count + 1) / 2
    return float(above / (count * (len(wrong) - count)))


def _near_boundary(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    inside = ndimage.distance_transform_edt(mask, spacing)
    outside = ndimage.distance_transform_edt(~mask, spacing)
    return np.asarray(np.where(mask, inside, outside) <= NEAR_MM)


def _print(scans: dict[str, dict[str, tuple[float, float, float]]], preset: str) -> None:
    table = Table(title=preset)
    for head in ("scan", "AUROC", "worst", "confidence", "Dice", "error", "correlation"):
        table.add_column(head, justify="left" if head == "scan" else "right")
    for scan, rows in scans.items():
        area, confidence, dice = np.array(list(rows.values())).T
        table.add_row(
            scan,
            f"{np.nanmean(area):.3f}",
            f"{np.nanmin(area):.3f}",
            f"{confidence.mean():.3f}",
            f"{dice.mean():.3f}",
            f"{np.abs(confidence - dice).mean():.3f}",
            f"{np.corrcoef(confidence, dice)[0, 1]:.2f}",
        )
    Console(width=110).print(table)


def _draw(figures: dict[str, dict[str, dict[str, tuple[float, float, float]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(figures), figsize=(4.5 * len(figures), 4.5), squeeze=False, sharey=True
    )
    for axes, (preset, scans) in zip(panels[0], figures.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for scan, rows in scans.items():
            _, confidence, dice = np.array(list(rows.values())).T
            axes.scatter(confidence, dice, s=14, label=scan)
        axes.set(title=preset, xlabel="confidence", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panels[0][0].set_ylabel("Dice")
    panels[0][0].legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
