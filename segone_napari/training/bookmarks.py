"""How far a training had come, kept in a project so that it goes on after a kill.

Each stretch of a training has a name and a file: weights, the optimizer's and the generator's state
while it runs, the weights alone once it is over. They count only for the same corrections and
options (`key`). Knows nothing of lessons.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SAVED_EVERY_S = 2.0
SAVED_EVERY_STEPS = 20
"""What a kill may cost: the longer of the two."""


class Stretch(NamedTuple):
    """What was kept of a stretch: named tensors and numbers, and whether it is over."""

    tensors: dict[str, Tensor]
    numbers: dict[str, float]
    is_over: bool


@dataclass
class Bookmarks:
    """The stretches of one training in a folder; with no folder nothing is kept.

    A disk that refuses doesn't end a training: then it starts anew after a kill.
    """

    folder: Path | None = None
    key: str = ""
    lesson: int = 0
    _saved: dict[str, float] = field(default_factory=dict)

    def open(self) -> None:
        """Throw away what belongs to another training."""
        if self.folder is None:
            return
        with suppress(OSError):
            key = self.folder / "key"
            if self.folder.exists() and (not key.exists() or key.read_text() != self.key):
                self.clear()
            self.folder.mkdir(parents=True, exist_ok=True)
            key.write_text(self.key, encoding="utf-8")

    def clear(self) -> None:
        """Throw all away: the training has ended."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, name: str) -> Stretch | None:
        """What was kept of a stretch; None where that is nothing, or damaged."""
        if self.folder is None:
            return None
        path = self._path(name)
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Stretch(tensors, facts["numbers"], bool(facts["is_over"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def is_due(self, name: str, step: int) -> bool:
        """Whether a running stretch should be kept now."""
        if self.folder is None or step % SAVED_EVERY_STEPS:
            return False
        return time.monotonic() - self._saved.get(name, -math.inf) >= SAVED_EVERY_S

    def save(self, name: str, stretch: Stretch) -> None:
        """Keep a stretch; a kill in the middle leaves what was kept before."""
        if self.folder is None:
            return
        self._saved[name] = time.monotonic()
        facts = json.dumps({"numbers": stretch.numbers, "is_over": stretch.is_over})
        path = self._path(name)
        part = path.with_suffix(".part")
        tensors = {key: value.detach().cpu().contiguous() for key, value in stretch.tensors.items()}
        with suppress(OSError, SafetensorError):
            save_file(tensors, part, metadata={"facts": facts})
            os.replace(part, path)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.lesson}_{name}.safetensors"


def packed_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors."""
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value).clone()
        for number, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put an optimizer's state back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
