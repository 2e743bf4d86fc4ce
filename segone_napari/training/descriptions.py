"""Trains what tells descriptions: a linear model, from ``descriptions.txt`` and the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from segone_napari.data.descriptions import (
    FEATURES,
    NOTHING,
    Describer,
    features,
    read_descriptions,
)
from segone_napari.data.prompts import alternatives, parse
from segone_napari.data.vocabulary import Vocabulary

STEPS = 120
LEARNING_RATE = 0.5
WEIGHT_DECAY = 1e-5


def examples(vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Every text to learn from and the entry that it means: descriptions, and names as well.

    Parts of what is known, and known names of what isn't, mean `NOTHING`.
    """
    for entry, texts in read_descriptions().items():
        yield from ((text, entry) for text in texts)
    for known in (*vocabulary.structures, *vocabulary.groups):
        yield from ((name, known.name) for name in (*known.names, *known.also))
        yield from ((name, known.name) for name in known.synonyms_with_side)
        yield from ((part, NOTHING) for part in known.parts)
        for places in map(alternatives, known.descriptions):
            for way in range(max(map(len, places))):
                yield " ".join(place[way % len(place)] for place in places), known.name
    yield from ((name, NOTHING) for name in vocabulary.unknown)


def train_descriptions(vocabulary: Vocabulary) -> Describer:
    """Learn what describes what is in a vocabulary, in seconds; nothing in it is random.

    Multinomial logistic regression on the rarity of a text's features, scaled to length 1.
    """
    places, meant = [], []
    for text, entry in examples(vocabulary):
        if words := parse(text).words:
            places.append(torch.from_numpy(features(words)))
            meant.append(entry)
    entries = sorted(set(meant))
    truth = torch.tensor([entries.index(entry) for entry in meant])
    every = torch.cat(places)
    used = torch.bincount(every, minlength=FEATURES)
    rarity = torch.where(used > 0, (1 + len(places) / used.clamp_min(1)).log(), 0.0)
    values = torch.cat([rarity[p] / rarity[p].norm() for p in places])
    starts = torch.tensor([0, *map(len, places[:-1])]).cumsum(0)
    weights = torch.zeros(FEATURES, len(entries), requires_grad=True)
    offsets = torch.zeros(len(entries), requires_grad=True)
    optimizer = torch.optim.Adam([weights, offsets], LEARNING_RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        sums = F.embedding_bag(every, weights, starts, mode="sum", per_sample_weights=values)
        logits = sums + offsets
        loss = F.cross_entropy(logits, truth) + WEIGHT_DECAY * weights.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Describer(
        tuple(entries),
        weights.detach().half().numpy(),
        offsets.detach().numpy(),
        rarity.numpy(),
    )
