"""The formats that go out: one table, and the one way to write any of them.

To add a format: one module with a function (content, path) that fills files, and one row here.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from segone_napari.data.formats import check_output
from segone_napari.exports import label_map, provenance
from segone_napari.exports.content import Content, numbered_names, without_overlaps
from segone_napari.exports.staging import check_not_read, write_together
from segone_napari.runtime import BadInput


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes
    ----------
    name : for the command line.
    title : for a menu.
    endings : of its file; none for a format that is written as a folder.
    function : ``"module:function"``, called with the content and a path; its module is loaded
        only when it is used. Of a folder it gets an empty one.
    needs_series : whether it can be written only for an image that was a DICOM series.
    shared : files of a folder that several exports share: not replaced where they exist.
    carries_record : whether the record of where it comes from is inside already.
    holds_overlaps : whether a voxel may belong to several structures.
    numbered : the ending of its files in a folder, one a structure (`content.numbered_names`).
    """

    name: str
    title: str
    endings: tuple[str, ...]
    function: str
    needs_series: bool = False
    shared: tuple[str, ...] = ()
    carries_record: bool = False
    holds_overlaps: bool = True
    numbered: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is written as a folder of files."""
        return not self.endings


_HERE = "segone_napari.exports."
FORMATS = (
    Format(
        "nifti",
        "NIfTI or MGH label map with its table",
        (".nii.gz", ".nii", ".mgz", ".mgh"),
        _HERE + "label_map:write_label_map",
        holds_overlaps=False,
    ),
    Format(
        "masks",
        "Folder of one NIfTI mask a structure",
        (),
        _HERE + "label_map:write_masks",
        numbered=".nii.gz",
    ),
    Format("seg-nrrd", "3D Slicer segmentation", (".seg.nrrd",), _HERE + "seg_nrrd:write"),
    Format(
        "dicom-seg",
        "DICOM segmentation of the source series",
        (".dcm",),
        _HERE + "dicom_seg:write_masks",
        needs_series=True,
    ),
    Format(
        "dicom-seg-probability",
        "DICOM segmentation, probabilities",
        (".dcm",),
        _HERE + "dicom_seg:write_probabilities",
        needs_series=True,
    ),
    Format("stl", "STL mesh of one structure", (".stl",), _HERE + "meshes:write_stl"),
    Format("ply", "PLY mesh in colour", (".ply",), _HERE + "meshes:write_ply"),
    Format("glb", "GLB scene, one object a structure", (".glb",), _HERE + "meshes:write_glb"),
    Format("vtk", "VTK polygons, a label a structure", (".vtk",), _HERE + "meshes:write_vtk"),
    Format(
        "stl-folder",
        "Folder of one STL mesh a structure",
        (),
        _HERE + "meshes:write_stl_folder",
        numbered=".stl",
    ),
    Format(
        "ply-folder",
        "Folder of one PLY mesh a structure",
        (),
        _HERE + "meshes:write_ply_folder",
        numbered=".ply",
    ),
    Format(
        "glb-folder",
        "Folder of one GLB mesh a structure",
        (),
        _HERE + "meshes:write_glb_folder",
        numbered=".glb",
    ),
    Format(
        "vtk-folder",
        "Folder of one VTK mesh a structure",
        (),
        _HERE + "meshes:write_vtk_folder",
        numbered=".vtk",
    ),
    Format("csv", "CSV of measures", (".csv",), _HERE + "measures:write_csv"),
    Format("json", "JSON of measures", (".json",), _HERE + "measures:write_json"),
    Format(
        "provenance",
        "Record of where the masks come from",
        (".provenance.json",),
        _HERE + "provenance:write",
        carries_record=True,
    ),
    Format(
        "bids",
        "Folder of BIDS derivatives",
        (),
        _HERE + "bids:write",
        shared=("dataset_description.json",),
        carries_record=True,
        holds_overlaps=False,
    ),
)


def format_named(name: str) -> Format:
    """Find a format by its name.

    Raises
    ------
    BadInput
        If there is none of that name.
    """
    for row in FORMATS:
        if row.name == name:
            return row
    names = ", ".join(row.name for row in FORMATS)
    raise BadInput(f"there is no format {name!r}; use one of {names}")


def format_for(path: Path, name: str | None = None) -> Format:
    """Choose the format of an export by the ending of its path, or by its name.

    A mesh format that is named for a path without its ending is a folder of meshes.

    Raises
    ------
    BadInput
        If there is no such format, or the ending is not one of its.
    """
    if name is None:
        fitting = [(len(e), row) for row in FORMATS for e in row.endings if _ends(path, e)]
        if fitting:
            return max(fitting, key=lambda pair: pair[0])[1]
        endings = dict.fromkeys(e for row in FORMATS for e in row.endings)
        folders = ", ".join(row.name for row in FORMATS if row.is_folder)
        raise BadInput(
            f"{path} does not say what to write; use a name that ends in {', '.join(endings)}, "
            f"or name a folder and --format ({folders})"
        )
    row = format_named(name)
    if row.is_folder or any(_ends(path, ending) for ending in row.endings):
        return row
    if name in ("stl", "ply", "glb", "vtk") and not path.suffix:
        return format_named(f"{name}-folder")
    raise BadInput(
        f"{path} does not fit the format {name}; use a name that ends in {', '.join(row.endings)}"
    )


def write(
    content: Content,
    path: str | Path,
    *,
    name: str | None = None,
    force: bool = False,
    record: bool = True,
    inputs: Collection[Path] = (),
) -> list[Path]:
    """Write one export, all of its files or none, and return their paths, the main one first.

    What an earlier export into the same folder wrote of other structures goes.

    Parameters
    ----------
    path : the file to write; of a format that is a folder, the folder.
    name : of the format; without it, it is chosen by the path's ending.
    force : whether files that exist are overwritten.
    record : whether where it comes from is written beside it (`provenance.beside`).
    inputs : files that are read beside the image's, and so are not overwritten.

    Raises
    ------
    BadInput
        If a file exists and `force` is not given, if it can't be written or is one that is read,
        or the content lacks what the format needs.
    """
    path = Path(path).expanduser()
    row = format_for(path, name)
    if row.is_folder and path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file, and {row.name} is a folder; choose another name")
    if not row.is_folder:
        check_output(path, force=force)
    former = former_files(path, row)
    check_not_read([path, *former], [*content.image_files, *inputs])

    def fill_all(staging: Path) -> None:
        there = staging if row.is_folder else staging / path.name
        fill(content, there, row, record=record)

    files = write_together(
        {path if row.is_folder else path.parent: fill_all},
        target=path,
        force=force,
        shared=shared_files(path, row),
        former=former,
    )
    return sorted(files, key=lambda file: (file.name != path.name, str(file)))


def fill(content: Content, path: Path, row: Format, *, record: bool = True) -> None:
    """Write one export to where nothing is yet, for a writer of `write_together`.

    Raises
    ------
    BadInput
        If the content lacks what the format needs.
    """
    if row.needs_series and not content.image_files:
        raise BadInput(
            "a DICOM segmentation belongs to a DICOM series; name its folder with --image"
        )
    if not row.holds_overlaps:
        content = without_overlaps(content)  # the record is of the masks that can be read again
    if row.is_folder:
        path.mkdir(exist_ok=True)
    module, _, function = row.function.partition(":")
    getattr(importlib.import_module(module), function)(content, path)
    if record and not row.carries_record:
        provenance.write(content, provenance.beside(path))


def shared_files(path: Path, row: Format) -> list[Path]:
    """The files of an export that several exports share."""
    return [path / name for name in row.shared]


def former_files(path: Path, row: Format) -> list[Path]:
    """The files of single structures that an earlier export wrote there.

    Its record says which they are, and the table that ``segone segment --masks`` writes.
    """
    if not row.numbered or not path.is_dir():
        return []
    lists = provenance.names_in(provenance.beside(path)), label_map.names_in(path)
    files = [path / f"{name}{row.numbered}" for names in lists for name in numbered_names(names)]
    return list(dict.fromkeys(files))


def _ends(path: Path, ending: str) -> bool:
    return path.name.lower().endswith(ending) and len(path.name) > len(ending)
