"""Label maps with their table, and folders of one mask a structure; also how they are read again.

The table ``OUT.tsv`` beside ``OUT.nii.gz`` has the columns index, name and colour.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segone_napari.data import formats
from segone_napari.exports.content import (
    Colour,
    Content,
    Segment,
    file_name,
    known_colour,
    labels_of,
    numbered_names,
)
from segone_napari.runtime import BadInput

TABLE_ENDING = ".tsv"
MASKS_TABLE = "masks.tsv"
_MOST_LABELS = 1000
# Of more labels than this it is asked whether they lie in patches, as an image's values don't.
_MANY_LABELS = 30
# What programs call label maps and masks.
_LABEL_NAME = re.compile(
    r"(^|[._+-])(dseg|seg|segmentation|masks?|labels?|label-?map|aseg|aparc|wmparc|lesions?)([._+-]|$)"
)
# A value of a label map, its name and its colour.
Row = tuple[int, str, Colour]


def write_label_map(content: Content, path: Path) -> None:
    """Write one integer image, label *i* for the *i*-th segment, and its table beside it."""
    formats.write(labels_of(content.segments), path)
    table_beside(path).write_text(table_of(_named(content.segments)), encoding="utf-8")


def write_masks(content: Content, folder: Path) -> None:
    """Write one uint8 image a segment, overlaps kept, and a table of their names and colours."""
    for name, segment in zip(numbered_names(content.names), content.segments, strict=True):
        mask = segment.mask.with_data(segment.inside.astype(np.uint8))
        formats.write(mask, folder / f"{name}.nii.gz")
    (folder / MASKS_TABLE).write_text(table_of(_named(content.segments)), encoding="utf-8")


def table_of(rows: Iterable[tuple[str, Colour]], columns: str = "index\tname\tcolour") -> str:
    """Give the lines of a label map's table: index from 1, name, and colour as ``#rrggbb``.

    Parameters
    ----------
    rows : the name and the colour of each label.
    """
    lines = [columns]
    for index, (name, (red, green, blue)) in enumerate(rows, start=1):
        lines.append(f"{index}\t{' '.join(name.split())}\t#{red:02x}{green:02x}{blue:02x}")
    return "\n".join(lines) + "\n"


def table_beside(path: Path) -> Path:
    """Name the table of a label map: ``OUT.nii.gz`` to ``OUT.tsv``."""
    return path.with_name(stem_of(path) + TABLE_ENDING)


def stem_of(path: Path) -> str:
    """Give a file's name without its ending: ``OUT.nii.gz`` to ``OUT``."""
    return re.sub(r"(\.nii|\.seg)?\.[^.]+$", "", path.name)


def read_label_map(path: Path, *, table: Path | None = None) -> list[Segment]:
    """Read an integer image as one segment a label, in the order of the labels.

    Parameters
    ----------
    table : names and colours; where not given, the table beside the file, if there is one. Labels
        that it names and the image doesn't have are empty segments.

    Raises
    ------
    BadInput
        If the file can't be read, is not a label map, or the table is damaged.
    """
    volume = formats.read(path, may_be_empty=True)
    labels = _as_labels(path, volume.data)
    table = table or (table_beside(path) if table_beside(path).is_file() else None)
    rows = _read_table(table) if table else []
    named = {index for index, _, _ in rows}
    for index in np.unique(labels[labels > 0]).tolist():
        if index not in named:
            name = stem_of(path) if is_mask(labels) else f"label {index}"
            rows.append((index, name, known_colour(name, index - 1)))
    if not rows:
        name = stem_of(path)
        rows = [(1, name, known_colour(name, 0))]
    return [
        Segment(name, colour, volume.with_data((labels == index).astype(np.uint8)))
        for index, name, colour in sorted(rows)
    ]


def is_label_map(path: Path) -> bool:
    """Whether an image file is a label map or a mask: by its table, or by its name and its voxels.

    Labels are the same in neighbouring voxels; an image that is called a mask is not.
    """
    table = table_beside(path)
    if table.is_file():
        columns = table.read_text(encoding="utf-8", errors="replace").partition("\n")[0].split("\t")
        if {"index", "name"} <= set(columns):
            return True
    if not _LABEL_NAME.search(stem_of(path).lower()):
        return False
    try:
        data = formats.read(path, may_be_empty=True).data
        labels = _as_labels(path, data)
    except BadInput:
        return False
    return _is_in_patches(labels)


def is_mask(data: NDArray[np.generic]) -> bool:
    """Whether an array has no other values than 0 and one more, above it."""
    highest = data.max()
    return bool(highest > 0 and ((data == 0) | (data == highest)).all())


def read_masks(folder: Path) -> list[Segment]:
    """Read a folder of masks, one image a structure, in the order of their names.

    The table says the name and the colour of ``01_left-hippocampus.nii.gz`` where its row 1 is of
    a left hippocampus; a file that no row fits is called as its own name says.

    Raises
    ------
    BadInput
        If there is no image in the folder, or one of them can't be read or is not a mask.
    """
    files = images_in(folder)
    if not files:
        raise BadInput(
            f"{folder} holds no masks; name a folder of files that end in "
            f"{', '.join(formats.WRITABLE)}"
        )
    table = folder / MASKS_TABLE
    rows = _read_table(table) if table.is_file() else []
    told = {(index, file_name(name)): (name, colour) for index, name, colour in rows}
    return [_read_mask(path, number, told) for number, path in enumerate(files)]


def images_in(folder: Path) -> list[Path]:
    """The images in a folder of masks, in the order of their names."""
    return sorted(file for file in folder.iterdir() if file.name.lower().endswith(formats.WRITABLE))


def names_in(folder: Path) -> list[str]:
    """The names in the table of a folder of masks; none where there is none that can be read."""
    try:
        return [name for _, name, _ in _read_table(folder / MASKS_TABLE)]
    except BadInput:
        return []


def _named(segments: Sequence[Segment]) -> list[tuple[str, Colour]]:
    return [(segment.name, segment.colour) for segment in segments]


def _read_mask(
    path: Path, number: int, told: Mapping[tuple[int, str], tuple[str, Colour]]
) -> Segment:
    """Read one mask; `told` has names and colours by the number and the words of a file's name."""
    volume = formats.read(path, may_be_empty=True)
    if np.unique(volume.data).size > 2:
        raise BadInput(f"{path} has more than two values, so it is no mask; name it by itself")
    numbered = re.match(r"(\d+)_(.+)", stem_of(path))
    index, words = (int(numbered[1]), numbered[2]) if numbered else (0, stem_of(path))
    plain = words.replace("-", " ")
    name, colour = told.get((index, words)) or (plain, known_colour(plain, number))
    return Segment(name, colour, volume.with_data((volume.data != 0).astype(np.uint8)))


def _as_labels(path: Path, data: NDArray[np.generic]) -> NDArray[np.int64]:
    labels = np.rint(np.asarray(data, dtype=np.float64)).astype(np.int64)
    if not np.array_equal(labels, data) or labels.min() < 0:
        raise BadInput(
            f"{path} is not a label map: it has values that are not whole numbers of 0 or more; "
            "name a mask or a label map"
        )
    count = np.unique(labels).size
    if count > _MOST_LABELS or (count > _MANY_LABELS and not _is_in_patches(labels)):
        raise BadInput(
            f"{path} has {count} different values, so it looks like an image; "
            "name a mask or a label map"
        )
    return labels


def _is_in_patches(labels: NDArray[np.int64]) -> bool:
    """Whether most neighbours in (i, j, k) that are not 0 have the same value."""
    same = pairs = 0
    for axis in range(labels.ndim):
        along = np.moveaxis(labels, axis, 0)
        both = (along[1:] > 0) & (along[:-1] > 0)
        same += int(np.count_nonzero((along[1:] == along[:-1]) & both))
        pairs += int(np.count_nonzero(both))
    return same >= 0.5 * pairs


def _read_table(path: Path) -> list[Row]:
    """Read index, name and colour; BIDS spells the last one "color"."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            (
                int(row["index"]),
                row["name"].strip(),
                _colour(row.get("colour") or row.get("color"), row["name"], number),
            )
            for number, row in enumerate(reader)
            if int(row["index"]) > 0
        ]
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(
            f"the table {path} can't be read; it needs columns index, name and colour (#rrggbb), "
            "separated by tabs"
        ) from error


def _colour(text: str | None, name: str, number: int) -> Colour:
    if not text:
        return known_colour(name, number)
    red, green, blue = bytes.fromhex(text.strip().lstrip("#"))
    return red, green, blue
