"""Systems trained for a few seconds to find two balls in a small head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segone_napari.systems import registry
from segone_napari.systems.base import System
from tests import tiny

Make = Callable[..., System]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A trained checkpoint of every row of the systems' table."""
    maps = tiny.write_label_maps(tmp_path_factory.mktemp("data") / "maps", 2)
    return {
        name: tiny.train(maps, tmp_path_factory.mktemp(name), tiny.LEARNS[name])
        for name in registry.SYSTEMS
    }


@pytest.fixture(params=tuple(registry.SYSTEMS))
def make(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Make:
    """Make one row of the table: ``make(preset=..., seed=...)``."""

    def create(**options: object) -> System:
        options = {"preset": "balanced", "device": "cpu"} | options
        name = request.param
        return registry.create(name, checkpoint=checkpoints[name], **options)  # type: ignore[arg-type]

    return create
