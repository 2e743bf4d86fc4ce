"""Tells what a description means: "where new memories are made" is the hippocampus.

A linear model of words and pairs of words, which learnt from ``descriptions.txt``
(`segone_napari.training.descriptions`). Words that it has never seen count for nothing, and one of
the things that it may answer is that nothing known is meant.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

FEATURES = 2**15
"""Places of words and pairs, found by a checksum; few of them share one."""
BEGINNING = 5
"""Letters that words of one family ("memory", "memories", "memorise") share."""
NOTHING = ""
"""The entry that stands for whatever isn't known."""
TEXT, WEIGHTS = "descriptions.txt", "descriptions.safetensors"


def features(words: Sequence[str]) -> NDArray[np.int64]:
    """Places of the words, of how long ones begin, and of neighbouring pairs, each once.

    Words are in the form of `segone_napari.data.prompts.key`.
    """
    texts = [
        *words,
        *(f"{word[:BEGINNING]}-" for word in words if len(word) > BEGINNING),
        *(f"{a} {b}" for a, b in pairwise(words)),
    ]
    return np.unique([zlib.crc32(text.encode()) % FEATURES for text in texts]).astype(np.int64)


def read_descriptions() -> dict[str, list[str]]:
    """Read ``descriptions.txt``: entry to descriptions; `NOTHING` to what is none of them."""
    found: dict[str, list[str]] = {}
    lines = (files(__package__) / TEXT).read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("["):
            found[line.strip("[]")] = some = []
        elif line and not line.startswith("#"):
            some.append(line)
    return found


@dataclass(frozen=True, eq=False)
class Describer:
    """What it learnt.

    Attributes
    ----------
    entries : what a description may mean, E of them; `NOTHING` is one.
    weights : (F, E) float16, F places of `features`.
    offsets : (E,) float32.
    rarity : (F,) float32, how much a feature counts: the rarer, the more.
    """

    entries: tuple[str, ...]
    weights: NDArray[np.float16]
    offsets: NDArray[np.float32]
    rarity: NDArray[np.float32]

    @classmethod
    @cache
    def packaged(cls) -> Self:
        """Return the one that comes with the package, read once."""
        with as_file(files(__package__) / WEIGHTS) as path:
            return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with safe_open(path, "numpy") as file:
            tensors = [file.get_tensor(name) for name in ("weights", "offsets", "rarity")]
            return cls(tuple(json.loads(file.metadata()["entries"])), *tensors)

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        tensors: dict[str, NDArray[Any]] = {
            "weights": self.weights,
            "offsets": self.offsets,
            "rarity": self.rarity,
        }
        path.write_bytes(save(tensors, {"entries": json.dumps(self.entries)}))

    def probabilities(self, words: Sequence[str]) -> Mapping[str, float]:
        """How probably each entry is meant, the likeliest first; all of them add up to 1."""
        places = features(words)
        counts = self.rarity[places]
        counts /= max(float(np.linalg.norm(counts)), 1e-6)
        logits = counts @ self.weights[places].astype(np.float32) + self.offsets
        odds = np.exp(logits - logits.max())
        shares = odds / odds.sum()
        order = np.argsort(-shares, kind="stable")
        return {self.entries[i]: float(shares[i]) for i in order}
