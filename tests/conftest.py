"""Fixtures that tests of every folder share."""

import json
import os
from pathlib import Path

import pytest

import segone_napari

from .fakes import ThresholdSystem, put_in_registry

PACKAGE = Path(segone_napari.__file__).parent


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> ThresholdSystem:
    """A small system that really segments, in the place of every row of the systems' table."""
    system = ThresholdSystem()
    put_in_registry(monkeypatch, system)
    return system


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real scans and label maps that are not part of this project.

    Set SEGONE_DATA to their folder, or keep them in ``shared/data`` beside the checkout.
    """
    beside = PACKAGE.parents[1] / "shared" / "data"
    folder = Path(os.environ.get("SEGONE_DATA", beside))
    if not (folder / "label_maps").is_dir():
        pytest.skip(f"no label maps and scans in {folder}; set SEGONE_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def bundled_checkpoint() -> Path:
    """The folder of the SegOne checkpoint that the package carries."""
    for description in sorted(PACKAGE.glob("checkpoints/*/checkpoint.json")):
        if json.loads(description.read_text(encoding="utf-8"))["system"] == "segone":
            return description.parent
    pytest.fail(f"the package carries no SegOne checkpoint in {PACKAGE / 'checkpoints'}")
