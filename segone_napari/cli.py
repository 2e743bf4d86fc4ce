"""The command ``segone``: reads arguments, calls the session, and says what came of it.

Nothing heavy is imported at the top: ``segone --help`` answers at once. Knows nothing of Qt.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from segone_napari import __version__
from segone_napari.config import SegmentOptions, help_of
from segone_napari.data.choices import ManySeries
from segone_napari.runtime import (
    BadInput,
    Progress,
    SegOneError,
    is_out_of_memory,
    no_progress,
)

if TYPE_CHECKING:
    from segone_napari.comparison import Outcome
    from segone_napari.data.dicom.study import Study
    from segone_napari.data.vocabulary import Vocabulary
    from segone_napari.session import Session
    from segone_napari.systems.base import Result
    from segone_napari.volume import Volume

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done, "not found" included. 1: ``doctor`` found a problem. 2: something that a person gave
    can't be used; one line on stderr says what and what to do. 130: stopped with Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that can't show "●" or a name shows "?" instead of ending the program.
            stream.reconfigure(errors="replace")
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        args = build_parser(arguments).parse_args(arguments)
        status: int = args.run(args) or 0
        sys.stdout.flush()
        return status
    except SegOneError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nsegone: stopped; nothing half-written was left", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output ("| head") has enough. Python would complain once more when it
        # flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = error.filename or "can't read or write a file"
        return _fail(f"{what}: {error.strerror or error}; see 'segone doctor'")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail("not enough memory for this image; close other programs or use --preset fast")


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Make the parser of every command.

    Only when `arguments` name a command whose own module declares its options is that loaded.
    """
    parser = _Parser(
        prog="segone",
        description="Outline what a prompt names on an MRI, offline. Not a medical device.",
        epilog="'segone COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"segone-napari {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    _add_segment(commands)
    _add_view(commands)
    _add_demo(commands)
    _add_vocabulary(commands)
    _add_export(commands, is_called="export" in arguments[:1])
    _add_compare(commands, is_called="compare" in arguments[:1])
    _add_training(commands, arguments[:1])
    _add_learning(commands, arguments[:1])
    _add_doctor(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, and that takes options in full only."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see '{self.prog} --help')\n")


class _Help(argparse.HelpFormatter):
    """Help with room for the names of our options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def add_argument(self, action: argparse.Action) -> None:
        """Leave room for the indent of commands, which argparse forgets."""
        super().add_argument(action)
        self._action_max_length = max(self._action_max_length, 16)


# --- segone segment -----------------------------------------------------------------------------


def _add_segment(commands: Any) -> None:
    parser = commands.add_parser(
        "segment",
        help="outline what the prompts name on one MRI",
        description="Outline what the prompts name on one MRI: a DICOM file or folder, or a file "
        "that ends in .nii, .nii.gz, .hdr, .img, .mgz, .mgh, .nrrd or .nhdr.",
        epilog="example: segone segment T1w.nii.gz -p 'left hippocampus; right amygdala' "
        "-o labels.nii.gz",
    )
    parser.set_defaults(run=_segment)
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the MRI: a file or a folder")
    parser.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        metavar="PROMPT",
        action="append",
        required=True,
        help="what to outline; give it again, or use ';', for several",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT.nii.gz",
        type=Path,
        help="write one label map on the image's grid: label i is the i-th prompt; "
        "beside it OUT.tsv with index, name and colour",
    )
    parser.add_argument(
        "--masks", metavar="DIR", type=Path, help="write one mask a prompt, overlaps kept"
    )
    parser.add_argument(
        "--table", metavar="FILE.json|.csv", type=Path, help="write the numbers of each prompt"
    )
    parser.add_argument(
        "--uncertainty",
        metavar="FILE.nii.gz",
        type=Path,
        help="write how unsure the system is of each voxel: 0 sure, 1 not at all",
    )
    parser.add_argument(
        "--probabilities",
        metavar="FILE.dcm",
        type=Path,
        help="write the prompts' probabilities as a fractional DICOM segmentation of the series",
    )
    _add_options(parser)
    parser.add_argument(
        "--project",
        metavar="DIR",
        type=Path,
        help="use this project's version of the model, and its corrections of the image",
    )
    _add_choice(parser)
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Add what chooses one image where there are several."""
    parser.add_argument(
        "--series",
        metavar="N|UID",
        help="which series of a DICOM folder: its number in the list that is shown without it",
    )
    parser.add_argument(
        "--volume",
        metavar="N",
        type=int,
        help="which volume of a 4-D file or series, counted from 0",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the fields of `SegmentOptions`; their words are the help."""
    for option in fields(SegmentOptions):
        words = help_of(SegmentOptions, option.name)
        parser.add_argument(
            f"--{option.name}",
            default=option.default,
            type=int if isinstance(option.default, int) else str,
            choices=option.metadata["choices"] or None,
            metavar=option.metadata["metavar"] or None,
            help=words if option.default is None else f"{words} (default: %(default)s)",
        )


def _segment(args: argparse.Namespace) -> None:
    from segone_napari.session import (
        Outputs,
        Session,
        as_prompts,
        losses_by_overlap,
        no_uncertainty,
        write_outputs,
    )

    # 1. All that can be found wrong without slow work.
    prompts = as_prompts(args.prompts)
    outputs = Outputs(args.output, args.masks, args.table, args.uncertainty, args.force)
    outputs.check(args.image)
    if args.probabilities is not None:
        _check_probabilities(args)
    if args.project is not None and not args.project.is_dir():
        raise BadInput(f"there is no project {args.project}; check the path")
    session = Session(**asdict(_options(args)), project=args.project)
    # 2. The image before the model: a wrong file is the commoner mistake.
    image = _read(args)
    system = session.system
    if args.uncertainty and not system.has_uncertainty:
        raise no_uncertainty()
    # 3. The slow work.
    with _progress_bar() as progress:
        results = session.segment(image, prompts, progress=progress)
    written = write_outputs(
        results,
        outputs,
        image=str(args.image),
        system=system.name,
        checkpoint=system.checkpoint,
        options=_how(args),
        others=_probabilities(args, image, results, session),
    )
    print_results(results)
    if outputs.label_map is not None:
        for warning in losses_by_overlap(results):
            print(f"segone: warning: {warning}", file=sys.stderr)
    print_written(written)


def _check_probabilities(args: argparse.Namespace) -> None:
    from segone_napari.data import formats
    from segone_napari.exports.staging import check_not_read

    if args.probabilities.suffix.lower() != ".dcm":
        raise BadInput(f"{args.probabilities} would be a DICOM file; let its name end in .dcm")
    if not formats.is_dicom(args.image):
        raise BadInput(
            f"{args.image} is not DICOM, so there is no series to write probabilities for; "
            "leave out --probabilities"
        )
    formats.check_output(args.probabilities, force=args.force)
    check_not_read([args.probabilities], [args.image])


def _probabilities(
    args: argparse.Namespace, image: Volume, results: Sequence[Result], session: Session
) -> dict[Path, Callable[[Path], None]]:
    """Give what writes the probabilities, where they are wanted."""
    if args.probabilities is None:
        return {}
    from segone_napari.exports import registry
    from segone_napari.exports.content import Content, segments_of
    from segone_napari.exports.dicom_series import files_of

    content = Content(
        tuple(segments_of(results, made_at=datetime.now(UTC).isoformat(timespec="seconds"))),
        image=image,
        image_files=files_of(args.image, args.series, args.volume),
        system=session.system.name,
        checkpoint=session.system.checkpoint,
        options=_how(args),
    )
    row = registry.format_named("dicom-seg-probability")
    return {args.probabilities.expanduser(): partial(registry.fill, content, row=row)}


def _how(args: argparse.Namespace) -> dict[str, Any]:
    return {"preset": args.preset, "seed": args.seed}


def _read(args: argparse.Namespace) -> Volume:
    """Read the image, and say on stderr what is unusual about it or what there is to choose."""
    from segone_napari.data import formats

    try:
        image = formats.read(args.image, volume=args.volume, series=args.series)
    except ManySeries as many:
        print_series(many.study)
        raise
    for warning in image.warnings:
        print(f"segone: warning: {warning}", file=sys.stderr)
    return image


def print_series(study: Study) -> None:
    """Print on stderr the list of series to choose from."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "series", "seems to be", "slices lie", "matrix", "mm", "slices", "volumes"):
        table.add_column(heading, overflow="fold")
    has_many_patients = len({series.patient for series in study.series}) > 1
    for series in study.series:
        patient = f"patient {series.patient}: " if has_many_patients else ""
        cells = (
            *(str(series.number), patient + series.name, series.kind, series.plane),
            *(series.matrix, series.spacing, str(series.slices), str(series.volumes)),
        )
        table.add_row(*(Text(cell) for cell in cells))
    Console(stderr=True, width=None if sys.stderr.isatty() else 160).print(table)
    for remark in study.remarks:
        print(f"segone: warning: {remark}", file=sys.stderr)
    if study.not_listed:
        print(f"not listed: {'; '.join(study.not_listed)}", file=sys.stderr)


def _options(args: argparse.Namespace) -> SegmentOptions:
    return SegmentOptions(**{f.name: getattr(args, f.name) for f in fields(SegmentOptions)})


def print_written(paths: Sequence[Path]) -> None:
    """Name the files that were written, one line each."""
    for path in paths:
        print(f"wrote {path}")


def print_results(results: Sequence[Result], *, dice: Mapping[str, float] | None = None) -> None:
    """Print a table on stdout: prompt, understood as, mL, confidence, seconds; then remarks.

    Parameters
    ----------
    dice : by prompt, where there is a reference to compare with; makes one more column.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("prompt", overflow="fold")
    table.add_column("understood as", overflow="fold")
    for heading in ("mL", "confidence", "seconds", *(["Dice"] if dice else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        dot = Text("● ", style="rgb({},{},{})".format(*result.colour))
        name = Text(result.resolved or "–")
        table.add_row(
            Text(result.prompt),
            dot + name if result.found else Text("  ") + name,
            f"{result.volume_ml:.2f}" if result.found else "not found",
            "–" if result.confidence is None else f"{result.confidence:.2f}",
            f"{result.seconds:.2f}",
            *([f"{dice[result.prompt]:.3f}" if result.prompt in dice else "–"] if dice else []),
        )
    # Into a file or a pipe: no line is broken to fit a terminal that isn't there.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for result in results:
        for remark in remarks_on(result):
            console.print(Text(f"{result.prompt}: {remark}"), soft_wrap=True)


def remarks_on(result: Result) -> list[str]:
    """Say in sentences what a person must know of a result beside its numbers."""
    remarks = list(result.warnings)
    if not result.found and not remarks:
        remarks.append("not found in this image" if result.resolved else "not understood")
    if result.suggestions:
        remarks.append(f"try {' | '.join(result.suggestions)}")
    return remarks


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """Show a bar with the time left on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("segmenting"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("left"),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# --- segone view, demo, vocabulary, train, doctor -----------------------------------------------


def _add_view(commands: Any) -> None:
    words = "open napari with the widget"
    parser = commands.add_parser("view", help=words, description=words.capitalize() + ".")
    parser.set_defaults(run=_view)
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, nargs="?", help="an MRI to open: a file or a folder"
    )
    parser.add_argument(
        "--teacher",
        metavar="SAM2",
        help="what clicks and boxes ask: a checkpoint folder, a .safetensors file of Meta's, or "
        "a name on the hub (default: the one chosen in the panel, or the bundled one)",
    )
    _add_choice(parser)


def _view(args: argparse.Namespace) -> None:
    try:
        open_viewer(args.image, series=args.series, volume=args.volume, teacher=args.teacher)
    except ManySeries as many:
        print_series(many.study)
        raise


def open_viewer(
    image: Path | None,
    results: Sequence[Result] | None = None,
    checkpoint: str = "",
    *,
    series: int | str | None = None,
    volume: int | None = None,
    teacher: str | None = None,
) -> None:
    """Open napari with the widget, and results of a checkpoint, and stay until it is closed.

    Raises
    ------
    BadInput
        If the image can't be read, napari or a Qt binding isn't installed, or there is no display.
    """
    from segone_napari.gui import app

    try:
        app.view(
            image,
            series=series,
            volume=volume,
            results=results,
            checkpoint=checkpoint,
            teacher=teacher,
        )
    except ImportError as error:
        raise BadInput(
            f"napari can't be loaded ({error}); python -m pip install 'segone-napari[qt]', "
            "or see 'segone doctor'"
        ) from error


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="the main job on the bundled sample",
        description="Outline many structures of the bundled head, compare them with the bundled "
        "reference, and show the result in napari if there is a display.",
    )
    parser.set_defaults(run=_demo)
    parser.add_argument("--headless", action="store_true", help="don't open napari")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("segone-demo"),
        help="where to write (default: ./%(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="write into a folder that holds other files"
    )


def _demo(args: argparse.Namespace) -> None:
    from segone_napari import demo
    from segone_napari.doctor import has_display

    with _progress_bar() as progress:
        shown = demo.run(args.out, force=args.force, progress=progress)
    print_results(shown.results, dice=shown.dice)
    print(f"mean Dice against the bundled reference: {shown.mean_dice:.3f}")
    print_written(shown.written)
    if not args.headless and has_display():
        open_viewer(shown.image_path, shown.results, shown.checkpoint)


def _add_vocabulary(commands: Any) -> None:
    words = "list what the model knows, with synonyms"
    parser = commands.add_parser("vocabulary", help=words, description=words.capitalize() + ".")
    parser.set_defaults(run=_vocabulary)
    parser.add_argument("--json", action="store_true", help="as JSON")


def _vocabulary(args: argparse.Namespace) -> None:
    from segone_napari.data.vocabulary import Vocabulary

    entries = _vocabulary_entries(Vocabulary.packaged())
    if args.json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    for entry in entries:
        sides = f"  ({' | '.join(entry['sides'])})" if entry["sides"] else ""
        print(f"{entry['name']}{sides}")
        for words, names in (("is", entry["members"]), ("also", entry["synonyms"])):
            if names:
                print(_wrapped(f"{words}: {', '.join(names)}"))


def _wrapped(text: str) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, initial_indent="    ", subsequent_indent="        ")


def _vocabulary_entries(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """List every structure and group: name, sides, what a group consists of, synonyms."""
    return [
        {
            "name": entry.name,
            "sides": ["left", "right"] if entry.sides else [],
            "members": list(entry.members),
            "synonyms": list(entry.synonyms),
        }
        for entry in (*vocabulary.structures, *vocabulary.groups)
    ]


def _add_export(commands: Any, *, is_called: bool) -> None:
    words = "write masks in the form that another program wants"
    parser = commands.add_parser("export", help=words, description=words.capitalize() + ".")
    if is_called:
        from segone_napari.exports import cli as exports

        exports.add_arguments(parser)
        parser.set_defaults(run=exports.run)


def _add_compare(commands: Any, *, is_called: bool) -> None:
    words = "compare systems, presets and masks with a reference"
    parser = commands.add_parser("compare", help=words, description=words.capitalize() + ".")
    if is_called:
        from segone_napari import comparison

        comparison.add_arguments(parser)
        parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> None:
    from segone_napari import comparison

    with _progress_bar() as progress:
        outcomes = comparison.run(args, progress)
    print_outcomes(outcomes)
    if args.table is not None:
        print_written([args.table])


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print a table on stdout: a row a structure, and of each contender Dice and distance."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("structure", footer="mean Dice; seconds", overflow="fold")
    for outcome in outcomes:
        seconds = "–" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
        name = Text(outcome.contender.title)
        table.add_column(name + " Dice", footer=f"{outcome.mean_dice:.3f}", justify="right")
        table.add_column("95 % mm", footer=seconds, justify="right")
    for prompt in outcomes[0].scores:
        cells = []
        for outcome in outcomes:
            score = outcome.scores[prompt]
            if score is None:
                cells += ["–", "–"]
                continue
            distance = "–" if score.hausdorff_mm is None else f"{score.hausdorff_mm:.1f}"
            cells += [f"{score.dice:.3f}", distance]
        table.add_row(Text(prompt), *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _add_training(commands: Any, called: Sequence[str]) -> None:
    """Add the commands that train what comes with the package."""
    for name, module, words in (
        ("train", "cli", "train a checkpoint from label maps"),
        ("train-teacher", "teacher_cli", "train a SAM2 teacher from label maps"),
        (
            "train-propagation",
            "propagation_cli",
            "train the network that follows drawn slices, from label maps",
        ),
        (
            "train-descriptions",
            "descriptions_cli",
            "train what tells the descriptions that prompts may be",
        ),
    ):
        sentence = words[0].upper() + words[1:] + "."
        parser = commands.add_parser(name, help=words, description=sentence)
        if name in called:
            training = importlib.import_module(f"segone_napari.training.{module}")
            training.add_arguments(parser)
            parser.set_defaults(run=training.run)


def _add_learning(commands: Any, called: Sequence[str]) -> None:
    """Add the commands that are about a project's corrections."""
    for name, words in (
        ("correct", "keep a right mask in a project, to learn from"),
        ("finetune", "train on a project's corrections"),
        ("checkpoints", "list a project's versions of the model, choose, pass on"),
    ):
        parser = commands.add_parser(name, help=words, description=words.capitalize() + ".")
        if name in called:
            from segone_napari.training import learning_cli

            getattr(learning_cli, f"add_{name}_arguments")(parser)
            parser.set_defaults(run=getattr(learning_cli, name))


def _add_doctor(commands: Any) -> None:
    words = "say what is installed, what is missing and how to mend it"
    parser = commands.add_parser("doctor", help=words, description=words.capitalize() + ".")
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from segone_napari import doctor

    return doctor.main()


def _fail(message: str) -> int:
    """Say in one line what is wrong."""
    print(f"segone: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
