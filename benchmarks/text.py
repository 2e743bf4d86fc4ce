"""How prompts are understood: phrases that are not in the vocabulary, and what must be refused.

    python benchmarks/text.py [--show] [--tower [CHECKPOINT]]

``phrases.tsv`` was written before the matcher was tried on it; ``phrases_by_others.tsv`` by two
others, who knew the canonical names alone. A phrase belongs to one of two halves by a checksum of
its letters: the vocabulary may be improved on the *development* half, and ``--show`` lists what
goes wrong there; of the *check* half only the totals are ever printed. A phrase that has become a
name or a description in the vocabulary since is left out of both.
``--tower`` asks the text tower about what the vocabulary refuses.
"""

from __future__ import annotations

import argparse
import csv
import time
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from segone_napari.data import prompts
from segone_napari.data.descriptions import read_descriptions
from segone_napari.data.vocabulary import Term, Vocabulary
from segone_napari.runtime import BadInput
from segone_napari.session import as_prompts

PHRASES = Path(__file__).with_name("phrases.tsv")
BY_OTHERS = Path(__file__).with_name("phrases_by_others.tsv")
HALVES = ("development", "check")

Outcome = Literal["right", "refused", "wrong side", "wrong"]


@dataclass(frozen=True)
class Phrase:
    """A prompt, its kind, and the canonical names that it means; none when it must be refused."""

    category: str
    text: str
    means: tuple[str, ...]

    @property
    def half(self) -> str:
        """The half that the phrase belongs to."""
        return HALVES[zlib.crc32(self.text.encode()) % 2]


def main() -> None:
    """Print tables of both halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true", help="list the development half's failures")
    parser.add_argument(
        "--tower", nargs="?", const="", metavar="CHECKPOINT", help="also measure the text tower"
    )
    args = parser.parse_args()
    console = Console(width=110)
    vocabulary = Vocabulary.packaged()
    phrases = read_phrases(PHRASES, vocabulary)
    started = time.perf_counter()
    understand("something that nobody knows, near the thalamos", vocabulary)
    first_ms = 1e3 * (time.perf_counter() - started)  # look-up tables are made at the first prompt

    outcomes: dict[Phrase, Outcome] = {}
    times_ms = []
    for whose, some in (("", phrases), (", by others", read_phrases(BY_OTHERS, vocabulary))):
        for phrase in some:
            started = time.perf_counter()
            answer = understand(phrase.text, vocabulary)
            times_ms.append(1e3 * (time.perf_counter() - started))
            outcomes[phrase] = judge(answer, phrase.means, vocabulary)
            if args.show and phrase.half == "development" and outcomes[phrase] != expected(phrase):
                got = "; ".join(t.canonical for t in answer) or "refused"
                console.print(f"{phrase.category}: {phrase.text!r} -> {got}", highlight=False)
        meaning, empty = [p for p in some if p.means], [p for p in some if not p.means]
        console.print(outcome_table(f"Means something{whose}", meaning, outcomes))
        console.print(outcome_table(f"Must be refused{whose}", empty, outcomes))
    console.print(
        f"Names and synonyms of the vocabulary refused: {share_of_names_refused(vocabulary):.1%}. "
        f"The first prompt takes {first_ms:.0f} ms, each further one "
        f"{sorted(times_ms)[len(times_ms) // 2]:.1f} ms (median), {max(times_ms):.1f} ms at most.",
        highlight=False,
    )
    if args.tower is not None:
        for line in measure_tower(phrases, outcomes, vocabulary, args.tower):
            console.print(line, highlight=False)


def read_phrases(path: Path, vocabulary: Vocabulary) -> list[Phrase]:
    """Read the phrases, without those that stand verbatim in what a prompt is looked up in."""
    names = {
        " ".join(prompts.tokenize(name))
        for entry in (*vocabulary.structures, *vocabulary.groups)
        for name in (*entry.names, *entry.synonyms_with_side, *entry.descriptions)
    }
    names |= _described()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    phrases = []
    for row in rows:
        means = tuple(part.strip() for part in row["means"].split(";") if part.strip())
        if not means or " ".join(prompts.tokenize(row["phrase"])) not in names:
            phrases.append(Phrase(row["category"], row["phrase"], means))
    return phrases


@cache
def _described() -> frozenset[str]:
    texts = (text for some in read_descriptions().values() for text in some)
    return frozenset(" ".join(prompts.tokenize(text)) for text in texts)


def understand(text: str, vocabulary: Vocabulary) -> list[Term]:
    """Return what the program would outline; nothing when any part of the prompt is refused."""
    try:
        matches = [vocabulary.match(prompt) for prompt in as_prompts(text)]
    except BadInput:
        return []
    terms = [match.term for match in matches if match.term is not None]
    return terms if len(terms) == len(matches) else []


def judge(answer: list[Term], means: tuple[str, ...], vocabulary: Vocabulary) -> Outcome:
    """Compare the voxels that would be outlined, whether in one mask or in several."""
    if not answer:
        return "refused"
    if not means:
        return "wrong"
    got = {c for term in answer for c in term.classes}
    wanted_terms = [_term(name, vocabulary) for name in means]
    wanted = {c for term in wanted_terms for c in term.classes}
    if got == wanted:
        return "right"
    same_names = {t.name for t in answer} == {t.name for t in wanted_terms}
    return "wrong side" if same_names else "wrong"


def expected(phrase: Phrase) -> Outcome:
    """What should come of a phrase."""
    return "right" if phrase.means else "refused"


def outcome_table(title: str, phrases: list[Phrase], outcomes: dict[Phrase, Outcome]) -> Table:
    """One row a category and one for all; for either half its size and the share of outcomes."""
    shown: tuple[Outcome, ...] = ("right", "refused", "wrong side", "wrong")
    if not phrases[0].means:
        shown = ("refused",)
    table = Table(title=f"{title}: development | check")
    table.add_column("category")
    for _ in HALVES:
        table.add_column("phrases", justify="right")
        for outcome in shown:
            table.add_column(outcome, justify="right")
    for category in (*dict.fromkeys(p.category for p in phrases), "all"):
        cells = []
        for half in HALVES:
            members = [p for p in phrases if p.half == half and category in (p.category, "all")]
            cells.append(str(len(members)))
            counts = [sum(outcomes[p] == outcome for p in members) for outcome in shown]
            cells.extend(f"{count / max(1, len(members)):.1%}" for count in counts)
        table.add_row(category, *cells)
    return table


def share_of_names_refused(vocabulary: Vocabulary) -> float:
    """Share of all terms' names and of all training phrases that get no answer."""
    texts = [term.canonical for term in vocabulary.terms()]
    texts += [n for e in (*vocabulary.structures, *vocabulary.groups) for n in e.names]
    texts += [p for c in vocabulary.class_names[1:] for p in vocabulary.phrases(c)]
    return sum(vocabulary.match(text).term is None for text in texts) / len(texts)


def measure_tower(
    phrases: list[Phrase], outcomes: dict[Phrase, Outcome], vocabulary: Vocabulary, name: str
) -> list[str]:
    """Ask the text tower about what the vocabulary refused; return what to print.

    The tower's answer is the structure whose own answer is nearest by cosine. How near it has to be
    is set on the development half, so that it answers at most 1 % of what must be refused.
    """
    from segone_napari.models.checkpoint import load_checkpoint, resolve_checkpoint  # loads torch

    model = load_checkpoint(resolve_checkpoint(name or None, "segone"))[0]
    nearest = _nearest_structures(model, phrases, vocabulary)
    refused = [p for p in phrases if outcomes[p] == "refused"]
    wrongly = sorted(nearest[p][1] for p in refused if not p.means and p.half == "development")
    limit = wrongly[int(0.99 * len(wrongly))]
    said = [f"Text tower as a fallback, from a cosine of {limit:.3f}:"]
    for half in HALVES:
        lost = [p for p in refused if p.means and p.half == half]
        answered = [p for p in lost if nearest[p][1] > limit]
        right = sum(p.means == (nearest[p][0],) for p in answered)
        none = [p for p in refused if not p.means and p.half == half]
        false = sum(nearest[p][1] > limit for p in none)
        said.append(
            f"  {half}: of {len(lost)} phrases that the vocabulary refuses, {right} right and "
            f"{len(answered) - right} wrong; of {len(none)} to refuse, {false} answered"
        )
    alone = [p for p in phrases if p.half == "check" and _is_one_structure(p, vocabulary)]
    right = sum(p.means == (nearest[p][0],) for p in alone)
    seen = sum(p.means == (nearest[p][0],) and nearest[p][1] > limit for p in alone)
    said.append(
        f"  alone, on the check half's {len(alone)} phrases that mean one structure: the nearest "
        f"is right for {right / len(alone):.1%}, right and near enough for {seen / len(alone):.1%}"
    )
    return said


def _nearest_structures(
    model: Any, phrases: list[Phrase], vocabulary: Vocabulary
) -> dict[Phrase, tuple[str, float]]:
    """The canonical name that the tower finds nearest, on the side that was named; the cosine."""
    import torch
    import torch.nn.functional as F

    names = [n for n in vocabulary.class_names[1:] if not n.startswith("right ")]
    asked = [prompts.parse(phrase.text) for phrase in phrases]
    with torch.inference_mode():
        known = F.normalize(model.answers(names).vectors)
        texts = [f"left {' '.join(request.words)}" for request in asked]
        cosine, index = (F.normalize(model.answers(texts).vectors) @ known.T).max(1)
    found = {}
    for phrase, request, value, i in zip(phrases, asked, cosine, index, strict=True):
        term = vocabulary.term(names[int(i)].removeprefix("left "), request.side)
        found[phrase] = (term.canonical, float(value))
    return found


def _is_one_structure(phrase: Phrase, vocabulary: Vocabulary) -> bool:
    names = {structure.name for structure in vocabulary.structures}
    return len(phrase.means) == 1 and _term(phrase.means[0], vocabulary).name in names


def _term(canonical: str, vocabulary: Vocabulary) -> Term:
    return next(term for term in vocabulary.terms() if term.canonical == canonical)


if __name__ == "__main__":
    main()
