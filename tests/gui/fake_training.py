"""Stands for `segone finetune`: a real process with the real lock and events that learns nothing.

    python fake_training.py PROJECT

The folder named by FAKE_TRAINING says how it goes: it works until there is a file ``finish`` with
what comes of it, as JSON, and doesn't hear a *Cancel* while there is a file ``deaf``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.project.versions import Versions
from segone_napari.runtime import Cancelled
from segone_napari.training.jobs import Chronicle


def main(project: Path) -> int:
    control = Path(os.environ["FAKE_TRAINING"])
    chronicle = Chronicle(project)
    with FileLock(project / "training" / "lock", timeout=0):
        chronicle.begin()
        share = 0.1
        try:
            while not (control / "finish").exists():
                if not (control / "deaf").exists():
                    chronicle.progress("learning", share)
                share = min(0.8, share + 0.02)
                time.sleep(0.05)
        except Cancelled:
            chronicle.write({"event": "cancelled"})
            return 130
        outcome = json.loads((control / "finish").read_text())
        if "message" in outcome:
            chronicle.write({"event": "failed", "message": outcome["message"]})
            return 2
        number = add_version(project, outcome["card"], outcome["terms"])
        chronicle.write(
            {"event": "done", "version": number, "used": False, "card": outcome["card"]}
        )
    return 0


def add_version(project: Path, card: dict[str, Any], terms: dict[str, list[str]]) -> int:
    """A version that has everything but weights, and a picture of what it changed."""
    versions = Versions(project)
    new = versions.folder / ".new"
    new.mkdir(parents=True)
    learnt = {"terms": list(terms), "images": 1, "patients": 1}
    manifest = {"format": 1, "system": "segone", "training": {"corrections": learnt}}
    (new / "checkpoint.json").write_text(json.dumps(manifest))
    (new / "card.json").write_text(json.dumps(card))
    vocabulary = Vocabulary.packaged()
    for term, synonyms in terms.items():
        vocabulary = vocabulary.with_term(term, synonyms)
    vocabulary.save(new / "vocabulary.json")
    number = versions.add(new)
    pictures = versions.pictures_of(number)
    pictures.mkdir()
    (pictures / "change_1.png").write_bytes(PICTURE)
    return number


PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364"
    "f80f00010501012718e3660000000049454e44ae426082"
)
"""The smallest PNG."""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
