"""BIDS derivatives: ``sub-01/anat/sub-01_desc-segone_dseg.nii.gz`` with its table and sidecar."""

from __future__ import annotations

import json
import re
from pathlib import Path

from segone_napari import __version__
from segone_napari.data import formats
from segone_napari.exports import provenance
from segone_napari.exports.content import NOT_FOR_DIAGNOSIS, Content, labels_of
from segone_napari.exports.label_map import stem_of, table_of
from segone_napari.runtime import BadInput

DESCRIPTION = "dataset_description.json"

_BIDS_VERSION = "1.10.0"
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9+]+)")


def write(content: Content, folder: Path) -> None:
    """Write one person's label map into a folder of derivatives.

    The names go on from the image's, where that is a BIDS name (``sub-01_ses-2_T1w.nii.gz``).

    Raises
    ------
    BadInput
        If neither the image's name nor `Content.subject` says who it is.
    """
    entities = _entities(content)
    session = [f"ses-{entities['ses']}"] if "ses" in entities else []
    anat = Path(folder, f"sub-{entities['sub']}", *session, "anat")
    anat.mkdir(parents=True)
    stem = "_".join(f"{key}-{value}" for key, value in entities.items()) + "_dseg"
    formats.write(labels_of(content.segments), anat / f"{stem}.nii.gz")
    rows = [(segment.name, segment.colour) for segment in content.segments]
    table = table_of(rows, columns="index\tname\tcolor")
    (anat / f"{stem}.tsv").write_text(table, encoding="utf-8")
    _write_json(anat / f"{stem}.json", _sidecar(content))
    _write_json(folder / DESCRIPTION, _description())


def _entities(content: Content) -> dict[str, str]:
    """Give the parts of the name, in BIDS's order."""
    name = stem_of(content.image_files[0]) if len(content.image_files) == 1 else ""
    source = dict(_ENTITY.findall(name)) if name.startswith("sub-") else {}
    subject = content.subject.removeprefix("sub-") or source.get("sub", "")
    if not re.fullmatch(r"[A-Za-z0-9]+", subject):
        came = f"{subject!r} is no label of a person" if subject else "no person is named"
        raise BadInput(f"{came}; give letters and digits, such as --subject 01")
    kept = {key: source[key] for key in ("ses", "acq", "ce", "rec", "run") if key in source}
    return {"sub": subject, **kept, "desc": "segone"}


def _sidecar(content: Content) -> dict[str, object]:
    return {
        "Description": f"Structures outlined from typed prompts. {NOT_FOR_DIAGNOSIS}",
        "Manual": bool(any(segment.is_edited for segment in content.segments)),
        "SpatialReference": "orig",
        "SegOne": provenance.record(content),
    }


def _description() -> dict[str, object]:
    return {
        "Name": "Structures outlined by segone-napari",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "segone-napari", "Version": __version__}],
    }


def _write_json(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
