"""Systems trained for a few seconds to find two balls in a small head."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from segone_napari.systems import registry
from segone_napari.systems.base import System
from tests import tiny

Make = Callable[..., System]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A trained checkpoint of every row of the systems' table.

    They are trained once, by the first of the processes among which the tests are shared out.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    maps, made = folder / "maps", {}
    with FileLock(folder / "checkpoints.lock"):
        for name in registry.SYSTEMS:
            made[name] = folder / name / "checkpoint"
            if not made[name].is_dir():
                tiny.write_label_maps(maps, 2)
                tiny.train(maps, folder / name, tiny.LEARNS[name], name_steps=300)
    return made


@pytest.fixture(params=tuple(registry.SYSTEMS))
def make(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Make:
    """Make one row of the table: ``make(preset=..., seed=...)``."""

    def create(**options: object) -> System:
        options = {"preset": "balanced", "device": "cpu"} | options
        name = request.param
        return registry.create(name, checkpoint=checkpoints[name], **options)  # type: ignore[arg-type]

    return create
