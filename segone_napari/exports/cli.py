"""The command ``segone export``: masks in, any of the formats out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segone_napari.data import formats
from segone_napari.exports import label_map, provenance, registry
from segone_napari.exports.content import Content, remarks_on
from segone_napari.exports.dicom_series import files_of
from segone_napari.exports.reading import pick, read_segments
from segone_napari.runtime import BadInput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``segone export``."""
    parser.epilog = (
        "examples: segone export labels.nii.gz -o labels.seg.nrrd | "
        "segone export labels.nii.gz --image SERIES_FOLDER -o seg.dcm | "
        "segone export labels.nii.gz --format stl -o meshes"
    )
    parser.add_argument(
        "masks",
        metavar="MASKS",
        type=Path,
        help="a label map (its names are in MASKS.tsv beside it), a mask, a folder of masks, "
        "a .seg.nrrd file or a DICOM segmentation",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help="the file or folder to write",
    )
    parser.add_argument(
        "--format",
        metavar="NAME",
        help="what to write, where OUT's ending doesn't say it: "
        + ", ".join(row.name for row in registry.FORMATS),
    )
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        type=Path,
        help="the MRI that the masks were made on: for its grid, its intensities, its checksum, "
        "and, as the folder of its DICOM series, for a DICOM segmentation",
    )
    parser.add_argument(
        "--series", metavar="N|UID", help="which series, where IMAGE is a folder of several"
    )
    parser.add_argument(
        "--volume",
        metavar="N",
        type=int,
        help="which volume of a 4-D image or series, counted from 0",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="export this structure alone; give it again for several",
    )
    parser.add_argument(
        "--table",
        metavar="FILE.tsv|.json",
        type=Path,
        help="index, name and colour of a label map; or the JSON table that 'segone segment' wrote "
        "with it: what made the masks goes into the record and into a DICOM segmentation",
    )
    parser.add_argument("--subject", metavar="LABEL", default="", help="who it is, for BIDS")
    parser.add_argument(
        "--deidentify",
        action="store_true",
        help="leave who the patient is out of a DICOM segmentation",
    )
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist")


def run(args: argparse.Namespace) -> None:
    """Do what ``segone export`` says."""
    row = registry.format_for(args.output, args.format)
    _check_options(args, row)
    _check_folder(args, row)
    # A DICOM segmentation takes its place from the series' headers alone.
    wants_image = args.image is not None and not row.needs_series
    image = (
        formats.read(args.image, series=args.series, volume=args.volume) if wants_image else None
    )
    is_told = args.table is not None and args.table.suffix.lower() == ".json"
    segments = read_segments(
        args.masks, grid=image.grid if image else None, table=None if is_told else args.table
    )
    content = Content(
        segments=tuple(pick(segments, args.only) if args.only else segments),
        image=image,
        image_files=files_of(args.image, args.series, args.volume) if args.image else (),
        subject=args.subject,
        deidentify=args.deidentify,
    )
    record = provenance.beside(args.masks)
    if record.is_file():
        content = provenance.remembered(content, record)
    if is_told:
        content = provenance.told_by_table(content, args.table)
    written = registry.write(
        content, args.output, name=row.name, force=args.force, inputs=_inputs(args, row)
    )
    for remark in remarks_on(content):
        print(f"segone: warning: {remark}", file=sys.stderr)
    for path in written:
        print(f"wrote {path}")


def _check_options(args: argparse.Namespace, row: registry.Format) -> None:
    """Refuse options that would have no effect."""
    is_json = args.table is not None and args.table.suffix.lower() == ".json"
    has_own_names = args.masks.is_dir() or not args.masks.name.lower().endswith(formats.READABLE)
    if args.table is not None and not is_json and has_own_names and args.masks.exists():
        raise BadInput(
            f"--table names what is in a label map, and {args.masks} isn't one: its names are its "
            "own; leave out --table"
        )
    if args.image is None and (args.series is not None or args.volume is not None):
        option = "--volume" if args.series is None else "--series"
        raise BadInput(f"{option} says which part of --image; add --image, or leave out {option}")
    if args.deidentify and not row.needs_series:
        raise BadInput(
            f"--deidentify is for a DICOM segmentation, and {args.output} will be {row.name}; "
            "leave it out"
        )
    if args.subject and row.name != "bids":
        raise BadInput(
            f"--subject is for BIDS, and {args.output} will be {row.name}; leave it out, or add "
            "--format bids"
        )


def _check_folder(args: argparse.Namespace, row: registry.Format) -> None:
    """Refuse to write some of a folder's masks in the place of all of them."""
    if args.only and row.name == "masks" and args.output.resolve() == args.masks.resolve():
        raise BadInput(
            f"{args.output} is the folder that is read, and --only would leave the other masks "
            "out of it; choose another folder"
        )


def _inputs(args: argparse.Namespace, row: registry.Format) -> list[Path]:
    """Name the masks and the table that are read; a folder of masks may be written anew."""
    files = [args.masks, *([] if args.table is None else [args.table])]
    if args.masks.is_dir() and not row.is_folder:
        files += label_map.images_in(args.masks)
    return files
