"""The command ``segone compare``: systems, presets and masks of others beside a reference.

One image at a time: Dice, the 95 % Hausdorff distance and the time, of every structure that the
reference has. Knows nothing of how any of them works.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segone_napari.config import PRESETS
from segone_napari.data import formats
from segone_napari.data.vocabulary import BACKGROUND, Vocabulary
from segone_napari.exports.label_map import is_mask, table_beside
from segone_napari.exports.reading import read_segments
from segone_napari.exports.staging import write_together
from segone_napari.exports.tables import check_table_name, csv_text
from segone_napari.runtime import BadInput, Progress
from segone_napari.systems import registry
from segone_napari.volume import Volume

if TYPE_CHECKING:
    from segone_napari.evaluation.metrics import Agreement
    from segone_napari.evaluation.reference import Numbering

NUMBERINGS = ("freesurfer", "gif")
USUAL = ("segone:fast", "segone:balanced")


@dataclass(frozen=True)
class Contender:
    """What is compared: a system with its preset and checkpoint, or masks that are there already.

    Attributes
    ----------
    name : as it was asked for.
    system, preset, checkpoint : None for masks.
    masks : a file or folder that `read_segments` reads; None for a system.
    """

    name: str
    system: str | None = None
    preset: str = "balanced"
    checkpoint: str | None = None
    masks: Path | None = None

    @property
    def title(self) -> str:
        """What to call it where there is little room."""
        return self.name if self.masks is None else "/".join(self.masks.parts[-2:])

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Read ``SYSTEM[:PRESET[:CHECKPOINT]]``, or the path of masks.

        Raises
        ------
        BadInput
            If there is no such file, system or preset.
        """
        system, _, rest = text.partition(":")
        if system not in registry.names() and Path(text).expanduser().exists():
            return cls(text, masks=Path(text).expanduser())
        preset, _, checkpoint = rest.partition(":")
        if "/" in system or "." in system:
            raise BadInput(f"there is no file {text}; check the path")
        registry.check_name(system)
        if preset and preset not in PRESETS:
            raise BadInput(f"unknown preset {preset!r} in {text!r}; use {', '.join(PRESETS)}")
        return cls(text, system, preset or "balanced", checkpoint or None)


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks (i, j, k) bool by class or by name, on the image's grid.

    `is_whole` says that every voxel of the brain was given one of them, so that a group is what is
    there of its parts; else all parts of a group must be there.
    """

    by_name: Mapping[str, NDArray[np.bool_]]
    is_whole: bool

    def of(self, prompt: str, vocabulary: Vocabulary) -> NDArray[np.bool_] | None:
        """The mask that a prompt should get; None where there is nothing, or only a part of it."""
        term = vocabulary.match(prompt).term
        if term is None or term.canonical in self.by_name:
            return self.by_name.get(prompt if term is None else term.canonical)
        found = [self.by_name[name] for name in term.classes if name in self.by_name]
        if not found or (len(found) < len(term.classes) and not self.is_whole):
            return None
        mask: NDArray[np.bool_] = np.any(found, axis=0)
        return mask

    def holds_more(self, prompt: str, vocabulary: Vocabulary) -> bool:
        """Whether a mask holds this structure together with others, so that they can't be compared:
        both hippocampi in one.
        """
        term = vocabulary.match(prompt).term
        wanted = set() if term is None else set(term.classes)
        terms = (vocabulary.match(name).term for name in self.by_name)
        return any(wanted < set(one.classes) for one in terms if one is not None)


@dataclass(frozen=True)
class Outcome:
    """How one contender did.

    Attributes
    ----------
    seconds : for the image and all prompts, with the model loaded; None for masks.
    scores : by prompt; None where masks hold it only together with others.
    """

    contender: Contender
    seconds: float | None
    scores: Mapping[str, Agreement | None]

    @property
    def mean_dice(self) -> float:
        """Mean over the prompts that could be compared; NaN where none could."""
        dice = [score.dice for score in self.scores.values() if score is not None]
        return float(np.mean(dice)) if dice else float("nan")


def read_masks(path: Path, image: Volume, numbering: Numbering = "freesurfer") -> Masks:
    """Read masks on the image's grid.

    A label map without a table beside it has the numbers of FreeSurfer or GIF; anything else names
    its structures itself, a single mask by its file's name.

    Raises
    ------
    BadInput
        If they can't be read, or lie on another grid.
    """
    from segone_napari.evaluation.reference import reference_classes

    vocabulary = Vocabulary.packaged()
    is_label_map = path.is_file() and path.name.lower().endswith(formats.READABLE)
    numbers = formats.read(path, may_be_empty=True) if is_label_map else None
    if numbers is None or table_beside(path).is_file() or is_mask(numbers.data):
        by_name: dict[str, NDArray[np.bool_]] = {}
        for one in read_segments(path, grid=image.grid):
            name = _canonical(one.name, vocabulary)
            by_name[name] = by_name[name] | one.inside if name in by_name else one.inside
        return Masks({name: mask for name, mask in by_name.items() if mask.any()}, False)
    if not numbers.grid.is_same_as(image.grid, tolerance_mm=0.01):
        raise BadInput(f"{path} lies on another grid than the image; bring it there first")
    classes, names = reference_classes(numbers, vocabulary, numbering), vocabulary.class_names
    there = [n for n in np.unique(classes).tolist() if names[n] != BACKGROUND]
    return Masks({names[n]: classes == n for n in there}, True)


def compare(
    image: Volume,
    reference: Masks,
    contenders: Sequence[Contender],
    prompts: Sequence[str],
    *,
    device: str,
    progress: Progress,
    numbering: Numbering = "freesurfer",
) -> list[Outcome]:
    """Ask every contender for the same prompts and measure what it answers.

    Raises
    ------
    BadInput
        If the reference has none of the prompts, or a contender can't be used.
    """
    vocabulary = Vocabulary.packaged()
    truths = {prompt: reference.of(prompt, vocabulary) for prompt in prompts}
    wanted = {prompt: truth for prompt, truth in truths.items() if truth is not None}
    if not wanted:
        raise BadInput(f"the reference has none of: {', '.join(prompts)}")
    outcomes = []
    for number, contender in enumerate(contenders):
        progress(number, len(contenders))
        outcomes.append(_measure(image, contender, wanted, device, numbering))
    progress(len(contenders), len(contenders))
    return outcomes


def _measure(
    image: Volume,
    contender: Contender,
    wanted: Mapping[str, NDArray[np.bool_]],
    device: str,
    numbering: Numbering,
) -> Outcome:
    from segone_napari.evaluation.metrics import agreement

    spacing = image.grid.spacing
    if contender.masks is not None:
        there, vocabulary = read_masks(contender.masks, image, numbering), Vocabulary.packaged()
        nothing = np.zeros(image.grid.shape, dtype=bool)
        found: dict[str, Agreement | None] = {}
        for prompt, truth in wanted.items():
            mask = there.of(prompt, vocabulary)
            is_comparable = mask is not None or not there.holds_more(prompt, vocabulary)
            ours = nothing if mask is None else mask
            found[prompt] = agreement(ours, truth, spacing) if is_comparable else None
        return Outcome(contender, None, found)
    from segone_napari.session import Session

    assert contender.system is not None
    session = Session(
        system=contender.system,
        checkpoint=contender.checkpoint,
        preset=contender.preset,
        device=device,
    )
    _ = session.system  # loaded before the clock runs
    started = time.monotonic()
    results = session.segment(image, list(wanted))
    seconds = time.monotonic() - started
    scores = {
        prompt: agreement(result.mask.data > 0, truth, spacing)
        for result, (prompt, truth) in zip(results, wanted.items(), strict=True)
    }
    return Outcome(contender, seconds, scores)


def _canonical(name: str, vocabulary: Vocabulary) -> str:
    term = vocabulary.match(name).term
    return name if term is None else term.canonical


# --- the command --------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone compare``."""
    parser.epilog = (
        "example: segone compare T1.mgz aseg.mgz --with segone:best "
        "--with unet:balanced:runs/unet/checkpoint --with other_program.nii.gz"
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="an MRI: a file or a folder")
    parser.add_argument(
        "reference",
        metavar="REFERENCE",
        type=Path,
        help="what is right, on the image's grid: a label map, a folder of masks, a .seg.nrrd file "
        "or a DICOM segmentation",
    )
    parser.add_argument(
        "--with",
        dest="contenders",
        metavar="SYSTEM[:PRESET[:CHECKPOINT]]|MASKS",
        action="append",
        help=f"what to compare; repeatable (default: {' and '.join(USUAL)})",
    )
    parser.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        metavar="PROMPT",
        action="append",
        help="what to ask for; repeatable (default: all that the reference has)",
    )
    parser.add_argument(
        "--numbering",
        choices=NUMBERINGS,
        default="freesurfer",
        help="whose numbers a label map without a table has (default: %(default)s)",
    )
    parser.add_argument("--table", metavar="FILE", type=Path, help="write .json or .csv, too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--series", help="which series of a DICOM folder")
    parser.add_argument("--volume", type=int, help="which volume of a 4-D file, counted from 0")
    parser.add_argument("--force", action="store_true", help="overwrite the table")


def run(args: argparse.Namespace, progress: Progress) -> list[Outcome]:
    """Compare as the command line says, and write the table."""
    from segone_napari.session import as_prompts

    # 1. All that can be found wrong without slow work.
    contenders = [Contender.parse(text) for text in args.contenders or USUAL]
    prompts = None if args.prompts is None else as_prompts(args.prompts)
    if args.table is not None:
        args.table = args.table.expanduser()
        check_table_name(args.table)
        formats.check_output(args.table, force=args.force)
    image = formats.read(args.image, volume=args.volume, series=args.series)
    reference = read_masks(args.reference, image, args.numbering)
    if not reference.by_name:
        raise BadInput(f"{args.reference} shows no known structure; is --numbering right?")
    names = [name for name in reference.by_name if as_prompts([name]) == [name]]
    if left_out := reference.by_name.keys() - names:
        print(
            f"segone: warning: left out, since they can't be asked for: {', '.join(left_out)}",
            file=sys.stderr,
        )
    # 2. The slow work.
    outcomes = compare(
        image,
        reference,
        contenders,
        prompts or names,
        device=args.device,
        progress=progress,
        numbering=args.numbering,
    )
    if args.table is not None:
        text = table_text(outcomes, args.table.suffix.lower(), args.image, args.reference)
        write_together(
            {args.table.parent: lambda folder: _write(folder / args.table.name, text)},
            target=args.table,
            force=args.force,
        )
    return outcomes


def table_text(
    outcomes: Sequence[Outcome], ending: str, image: Path | str, reference: Path | str
) -> str:
    """What a ``.json`` or ``.csv`` says of a comparison."""
    rows = [
        {
            "image": str(image),
            "contender": outcome.contender.name,
            "structure": prompt,
            "dice": None if score is None else round(score.dice, 4),
            "hausdorff95_mm": None
            if score is None or score.hausdorff_mm is None
            else round(score.hausdorff_mm, 3),
            "seconds": None if outcome.seconds is None else round(outcome.seconds, 2),
        }
        for outcome in outcomes
        for prompt, score in outcome.scores.items()
    ]
    if ending == ".csv":
        return csv_text(list(rows[0]), rows)
    summary: list[dict[str, Any]] = [
        {
            "contender": outcome.contender.name,
            "mean_dice": None if np.isnan(outcome.mean_dice) else round(outcome.mean_dice, 4),
            "seconds": None if outcome.seconds is None else round(outcome.seconds, 2),
        }
        for outcome in outcomes
    ]
    document = {"image": str(image), "reference": str(reference), "means": summary, "results": rows}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
