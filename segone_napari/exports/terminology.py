"""Standard codes for structures: SNOMED CT where there is one, and a marked private code where not.

All of it is read from ``terminology.json``. Knows nothing of DICOM's or NRRD's way to write them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from segone_napari.exports.content import file_name, known_term

PRIVATE_SCHEME = "99SEGONE"
"""The scheme of codes that are ours: DICOM keeps names that begin with 99 free for that."""


@dataclass(frozen=True)
class Code:
    """One coded concept.

    Attributes
    ----------
    scheme : "SCT" (SNOMED CT), "DCM" (DICOM's own), "FMA", or `PRIVATE_SCHEME`.
    value : the code in that scheme.
    meaning : the concept's name in that scheme, at most 64 characters.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Coding:
    """How a structure is coded.

    Attributes
    ----------
    category : what kind of thing it is (anatomical structure, body substance ...).
    type : what it is, without its side.
    side : left, right or bilateral; None for what has no side.
    region : the part of the body, where `type` doesn't say it.
    """

    category: Code
    type: Code
    side: Code | None = None
    region: Code | None = None


def coding_of(name: str) -> Coding:
    """Code a structure by its name with its side, such as "left hippocampus".

    What is not in the vocabulary gets a private code made of its name.
    """
    table = _table()
    term = known_term(name)
    if term is None or term.name not in table["terms"]:
        private = Code(PRIVATE_SCHEME, file_name(name)[:64], as_label(name))
        return Coding(table["categories"]["structure"], private)
    entry = table["terms"][term.name]
    return Coding(
        category=table["categories"][entry["category"]],
        type=_code(entry),
        side=table["sides"][term.side] if term.side else None,
        region=_code(entry["region"]) if "region" in entry else None,
    )


def as_label(name: str) -> str:
    """Write a name as DICOM's LO: 64 letters, and no backslash, which separates values."""
    return " ".join(name.replace("\\", "/").split())[:64]


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    source = files("segone_napari.exports") / "terminology.json"
    document = json.loads(source.read_text(encoding="utf-8"))
    return {
        "sides": {name: _code(entry) for name, entry in document["sides"].items()},
        "categories": {name: _code(entry) for name, entry in document["categories"].items()},
        "terms": {entry["name"]: entry for entry in document["terms"]},
    }


def _code(entry: Mapping[str, Any]) -> Code:
    return Code(entry["scheme"], entry["code"], entry["meaning"])
