"""The commands ``segone correct``, ``finetune`` and ``checkpoints``."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segone_napari.data.prompts import parse
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.runtime import BadCheckpoint, BadInput, Cancelled, SegOneError

if TYPE_CHECKING:
    from segone_napari.project.versions import Version
    from segone_napari.volume import Volume

EXIT_CANCELLED = 130
LONGEST_NAME = 80
MOST_LABELS = 1000
"""A file with more different values is no label map."""


# --- segone correct -----------------------------------------------------------------------------


def add_correct_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone correct``."""
    _add_project(parser)
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the image that was corrected")
    parser.add_argument(
        "-p", "--prompt", required=True, help="what the mask is of: a known structure or a new term"
    )
    parser.add_argument(
        "--mask",
        required=True,
        type=Path,
        help="the right mask, on the image's grid: 0 is outside. An empty one says that it is "
        "not there",
    )
    parser.add_argument("--label", type=int, help="of a mask with several labels: which one it is")
    parser.add_argument(
        "--slices",
        help="the slices that are right, counted from 0, such as 40,52,60 (default: all)",
    )
    parser.add_argument(
        "--axis", choices=("i", "j", "k"), help="array axis of --slices (default: k)"
    )
    parser.add_argument(
        "--synonym", action="append", default=[], help="another word for a new term; repeatable"
    )
    parser.add_argument(
        "--patient",
        default="",
        help="whose image it is: cases are held back by patient (default: as a DICOM header, "
        "BIDS's sub-XX or an earlier correction says)",
    )
    parser.add_argument("--series", help="which series of a DICOM folder")
    parser.add_argument("--volume", type=int, help="which volume of a 4-D file, counted from 0")


def correct(args: argparse.Namespace) -> int:
    """Keep a correction in a project."""
    from segone_napari.data import formats
    from segone_napari.project import ImageRef, Project
    from segone_napari.training.cases import canonical, check_synonym, names_in, with_terms
    from segone_napari.training.patients import patient_of

    if args.axis is not None and args.slices is None:
        raise BadInput("--axis is of --slices; say which slices are right, or leave out --axis")
    if args.patient and not args.patient.strip():
        raise BadInput("--patient is blank; say whose image it is, or leave out --patient")
    slices = None if args.slices is None else _slices(args.slices)
    for name in (args.prompt, *args.synonym):
        _check_name(name)
    project = Project(args.project)
    known = with_terms(Vocabulary.packaged(), names_in(project.corrections().usable))
    _check_spelling(args.prompt, known)
    term = canonical(args.prompt, known)
    for synonym in args.synonym:
        check_synonym(synonym, term, known)
    image = formats.read(args.image, volume=args.volume, series=args.series)
    mask = formats.read(args.mask, may_be_empty=True)
    check_grid(image, mask, args.mask)
    inside = _inside(mask, args.label, args.mask)
    ref = ImageRef.of(image, args.image, volume_index=args.volume, series=args.series)
    kept = project.add_correction(
        args.prompt,
        ref,
        inside,
        axis=None if slices is None else "ijk".index(args.axis or "k"),
        slices=slices,
        synonyms=args.synonym,
        patient=args.patient or patient_of(project, ref),
    )
    voxels = int(np.count_nonzero(kept.mask()))
    name = repr(term) if term == kept.term else f"{term!r} ({kept.term!r})"
    what = f"{_count(voxels, 'voxel')} of {name}" if voxels else f"no {name}"
    where = "all slices" if kept.slices is None else _count(len(kept.slices), "slice")
    print(f"kept correction {kept.id}: {what} in {where} of {ref.name}")
    if voxels == 1:
        print("segone: warning: one voxel alone teaches little", file=sys.stderr)
    return 0


def _check_name(name: str) -> None:
    """Refuse what could not be asked for later."""
    if ";" in name:
        raise BadInput(f"{name!r} holds ';', which separates prompts; correct one at a time")
    if len(name) > LONGEST_NAME:
        raise BadInput(f"a name of {len(name)} letters is too long; use {LONGEST_NAME} or fewer")
    request = parse(name)
    if request.negated or not request.words:
        reason = Vocabulary.packaged().match(name).reason
        raise BadInput(f"{name!r} could not be asked for later: {reason}; choose another name")
    apart = Vocabulary.packaged().separate(name)
    if len(apart) > 1:
        raise BadInput(
            f"{name!r} would be asked for as {' and '.join(map(repr, apart))}; correct one at a "
            "time, or choose a name that isn't made of others"
        )


def _check_spelling(name: str, vocabulary: Vocabulary) -> None:
    """Refuse a new name that is taken for a typing error of a known one."""
    match = vocabulary.match(name)
    if match.term is not None and match.how == "typo":
        raise BadInput(
            f"{name!r} is taken for a typing error of {match.term.canonical!r}; write that if it "
            "is meant, else choose a name that is less like it"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _inside(mask: Volume, label: int | None, name: object) -> NDArray[np.uint8]:
    """The structure in a mask or label map: 1 inside, 0 outside."""
    values = np.unique(mask.data)
    labels = values[values != 0]
    is_whole = len(labels) == 1 or np.array_equal(labels, np.round(labels))
    if len(labels) > MOST_LABELS or not is_whole:
        raise BadInput(
            f"{name} has {len(values)} different values, like an image or probabilities; "
            "give a mask, which is 0 outside of the structure and 1 inside"
        )
    if label is None and len(labels) > 1:
        raise BadInput(f"{name} has the labels {_some(labels)}; say with --label which one it is")
    if label is not None and label not in labels:
        raise BadInput(f"{name} has no label {label}, but {_some(labels) or 'nothing'}")
    return np.asarray(mask.data != 0 if label is None else mask.data == label, dtype=np.uint8)


def _some(labels: NDArray[Any]) -> str:
    """The first labels of a map, for a message."""
    shown = ", ".join(f"{label:.0f}" for label in labels[:8])
    return f"{shown} …" if len(labels) > 8 else shown


def check_grid(image: Volume, mask: Volume, name: object) -> None:
    """Raise `BadInput` if a mask isn't on an image's grid."""
    if not mask.grid.is_same_as(image.grid, tolerance_mm=0.01):
        raise BadInput(
            f"{name} has {mask.grid.shape} voxels of {_mm(mask)} mm and the image "
            f"{image.grid.shape} of {_mm(image)} mm, or lies elsewhere; export the mask on the "
            "image's own grid"
        )


def _mm(volume: Volume) -> str:
    return " x ".join(f"{mm:.2f}" for mm in volume.grid.spacing)


def _slices(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--slices {text!r} can't be read; write numbers such as 40,52") from error


# --- segone finetune ----------------------------------------------------------------------------


def add_finetune_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone finetune``."""
    _add_project(parser)
    parser.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        help="a limit for all of it; a busy computer needs a little longer (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, help="training steps (default: by what was corrected)")
    parser.add_argument(
        "--no-teacher", action="store_true", help="learn from the corrected slices alone"
    )
    parser.add_argument(
        "--teacher", default="", metavar="PATH|NAME", help="another SAM2: a folder or a hub name"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--insist", action="store_true", help="use the new version even if it isn't better"
    )
    which.add_argument(
        "--only-measure", action="store_true", help="don't use the new version even if it is better"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def finetune(args: argparse.Namespace) -> int:
    """Train on a project's corrections."""
    from segone_napari.project import Project
    from segone_napari.training import finetune as training
    from segone_napari.training.jobs import Chronicle
    from segone_napari.training.teaching import FineTuneConfig

    chosen = True if args.insist else False if args.only_measure else None
    config = FineTuneConfig(
        minutes=args.minutes,
        steps=args.steps,
        teacher=None if args.no_teacher else args.teacher,
        promote=chosen,
        device=args.device,
        seed=args.seed,
    )
    project = Project(args.project)
    show = _Shown(as_json=args.json)
    chronicle = Chronicle(project.folder, show)
    try:
        outcome = training.finetune(project, config, chronicle.progress, chronicle.begin)
    except SegOneError as error:
        chronicle.write({"event": "failed", "message": str(error)})
        raise
    except Cancelled:
        chronicle.write({"event": "cancelled"})
        return EXIT_CANCELLED
    chronicle.write(
        {
            "event": "done",
            "version": outcome.version,
            "used": outcome.is_used,
            "card": dict(outcome.card),
        }
    )
    return 0


class _Shown:
    """Shows events on the terminal, or prints them as JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def __call__(self, event: dict[str, Any]) -> None:
        if self.as_json:
            # whoever read them may be gone; the training goes on
            with suppress(OSError):
                print(json.dumps(event), flush=True)
            return
        if event["event"] == "progress" and sys.stderr.isatty():
            left = event["seconds_left"]
            rest = "" if left is None else f", {left:.0f} s left"
            words = f"{event['stage']}: {100 * event['share']:.0f} %{rest}"
            print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)
        elif event["event"] == "done":
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr)
            print(f"version {event['version']}: {event['card']['reason']}")
            for remark in event["card"]["remarks"]:
                print(f"segone: warning: {remark}", file=sys.stderr)
            print("it is used from now on" if event["used"] else "the version in use stays")
        elif event["event"] == "cancelled":
            print("cancelled; the version in use stays", file=sys.stderr)


# --- segone checkpoints -------------------------------------------------------------------------


def add_checkpoints_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone checkpoints``."""
    _add_project(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--use", type=int, metavar="N", help="use version N; 0 is the package's own")
    what.add_argument(
        "--compare", type=int, nargs=2, metavar=("A", "B"), help="two versions' cards"
    )
    what.add_argument("--export", nargs=2, metavar=("N", "FILE.zip"), help="write a version out")
    what.add_argument(
        "--import", dest="import_from", type=Path, metavar="FILE.zip|DIR", help="take a version in"
    )
    what.add_argument("--remove", type=int, metavar="N", help="throw version N away")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--force", action="store_true", help="overwrite the file of --export")


def checkpoints(args: argparse.Namespace) -> int:
    """List a project's versions, or do with them what the options say."""
    from segone_napari.project import Project
    from segone_napari.project.versions import Versions

    if args.import_from is None and not args.project.is_dir():
        raise BadInput(f"there is no project {args.project}; check the path")
    versions = Versions(Project(args.project).folder)
    if args.use is not None:
        versions.use(args.use)
    elif args.export:
        number, archive = args.export
        if not number.isdigit():
            raise BadInput(f"--export {number!r}: give a version's number, then a file")
        print(f"wrote {versions.export(int(number), Path(archive), force=args.force)}")
        return 0
    elif args.import_from:
        print(f"version {import_version(versions, args.import_from)} is new; choose it with --use")
        return 0
    elif args.remove is not None:
        versions.remove(args.remove)
    chosen = versions.all()
    if args.compare:
        for number in args.compare:
            versions.folder_of(number)
        chosen = tuple(v for v in chosen if v.number in args.compare)
    if args.json:
        print(json.dumps([_as_json(v) for v in chosen], indent=2))
    else:
        for version in chosen:
            _print_version(version, in_full=bool(args.compare))
    return 0


def import_version(versions: Any, source: Path) -> int:
    """Take a version in, and throw it out again if it can't be used."""
    from segone_napari.models.checkpoint import read_manifest
    from segone_napari.systems import registry

    number = int(versions.import_from(source))
    try:
        folder = versions.folder_of(number)
        system = read_manifest(folder).system
        if system != "segone":
            raise BadCheckpoint(
                f"{source} is a checkpoint of {system}, and a project's versions are of segone; "
                "give one of segone"
            )
        registry.create("segone", checkpoint=folder, device="cpu")
    except BaseException:
        versions.remove(number)
        raise
    return number


def _as_json(version: Version) -> dict[str, Any]:
    return {"version": version.number, "used": version.is_used, "card": dict(version.card)}


def _print_version(version: Version, *, in_full: bool) -> None:
    mark = "*" if version.is_used else " "
    if not version.number:
        words = "the checkpoint that comes with the package"
    elif not version.card:
        words = "no card"
    else:
        words = f"{version.card['created']}  {version.card['reason']}"
    print(f"{mark} {version.number:3}  {words}")
    if in_full and version.folder is not None and (version.folder / "card.md").is_file():
        print((version.folder / "card.md").read_text(encoding="utf-8"))


def _add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "project", metavar="PROJECT", type=Path, help="folder of the project; made if needed"
    )
