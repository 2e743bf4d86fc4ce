"""Turns what a person types into words that can be looked up: "Outline the L. hippocampi, please".

Knows how prompts are written, not what structures there are.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "both"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LEFT = _words("left l lt lft lefft letf sin sinister sinistra sinistrum sinistri sx lh")
RIGHT = _words("right r rt rght rigth rihgt riht dex dext dexter dextra dextrum dextri dx rh")
BOTH = _words("both bilateral bilaterally bilat lr rl either each bilateralis ambo paired")
SIDE_COMPANIONS = _words("side sides sided hand handed lateralized")
"""Words that say nothing more once a side was named: "left-sided", "on the left hand side"."""

NEGATIONS = _words(
    "no not non none without except excluding exclude excludes minus but ignore ignoring "
    "dont never neither nor absent lacking remove removing"
)

FILLERS = _words(
    # asking
    "please pls kindly segment segmented segmenting segmentation outline outlined outlining "
    "delineate delineation contour contours contouring trace mark highlight label labelled labels "
    "find locate show display draw paint mask masks extract isolate identify detect give get "
    "select annotate map see view measure quantify make create want need like would could can you "
    "do does be should must will may try return produce compute generate add fill pick cut out "
    "colour color located called just only "
    "me i us we let lets to where is are what which whats wheres "
    # articles and the like
    "the a an of in on at for from within this that these those my your its his her their "
    "here there now "
    # what the prompt is about anyway
    "mri mr t1 t2 t1w t2w flair scan scans image images picture volume volumes slice dataset "
    "patient patients subject subjects person persons human structure structures region regions "
    "area areas roi anatomical anatomic anatomy entire complete full proper visible"
)

ALIASES = {
    "gray": "grey", "3rd": "third", "iii": "third", "3": "third", "4th": "fourth", "iv": "fourth",
    "4": "fourth", "1st": "first", "2nd": "second", "tertius": "tertius",
    "hippocampi": "hippocampus", "hippocampuses": "hippocampus", "thalami": "thalamus",
    "amygdalae": "amygdala", "putamina": "putamen", "nuclei": "nucleus", "pallidi": "pallidum",
    "pallida": "pallidum", "globi": "globus", "cortices": "cortex", "plexi": "plexus",
    "ganglia": "ganglion", "cerebella": "cerebellum", "cerebra": "cerebrum", "horns": "horn",
    "striata": "striatum", "ventriculi": "ventriculus", "chiasmata": "chiasma",
    "corpora": "corpus", "center": "centre", "fiber": "fibre", "tumor": "tumour",
    "accumbentes": "accumbens", "matters": "matter", "bodies": "body", "cavities": "cavity",
    "caudati": "caudatus", "caudates": "caudate",
}  # fmt: skip
"""Plurals and spellings that a plain "drop the s" does not mend."""

_CONJUNCTIONS = re.compile(r"[&+]|\b(?:and|or|plus|as well as)\b", re.IGNORECASE)
_JOINERS = re.compile(rf"[/,()\[\]]|{_CONJUNCTIONS.pattern}", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """A prompt taken apart.

    Attributes
    ----------
    words : what is asked for, without side and fillers, in the singular and in lower case.
    side : the side that was named, or None when none was.
    negated : the word that turns the prompt round ("without"), or None.
    """

    words: tuple[str, ...]
    side: Side | None
    negated: str | None


def split_prompts(text: str) -> list[str]:
    """Split a line of prompts at ``;`` and at line breaks; blank ones are left out.

    An empty list means that nothing was asked: the caller says so to the person.
    """
    return [part.strip() for part in re.split(r"[;\n\r]+", text) if part.strip()]


def parse(text: str) -> Request:
    """Take one prompt apart into words, side and negation."""
    tokens = tokenize(text)
    negated = next((t for t in tokens if t in NEGATIONS), None)
    side = _side(tokens)
    tokens = [t for t in tokens if t not in LEFT | RIGHT | BOTH]
    if side is not None:
        tokens = _trim_joiner([t for t in tokens if t not in SIDE_COMPANIONS])
    return Request(key(tokens), side, negated)


def tokenize(text: str) -> list[str]:
    """Lower-case words and numbers without accents, punctuation and possessives."""
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text).lower()
    text = re.sub(r"['\u2018\u2019\u02bc`](?=s\b)", " '", text)
    text = re.sub(r"(?<=\w)['\u2018\u2019\u02bc](?=t\b)", "", text)
    text = re.sub(r"\bw/o\b", "without", text)
    text = text.replace("&", " and ").replace("+", " and ")
    return [t for t in re.findall(r"'s\b|[^\W_]+", text) if t != "'s"]


def key(tokens: list[str]) -> tuple[str, ...]:
    """Words to look up: fillers left out, singular, one spelling."""
    return tuple(singular(t) for t in tokens if t not in FILLERS)


def singular(word: str) -> str:
    """Bring a word to the form that both prompts and the vocabulary are compared in.

    Examples
    --------
    >>> singular("hippocampi"), singular("ventricles"), singular("thalamus")
    ('hippocampus', 'ventricle', 'thalamus')
    """
    if word in ALIASES:
        return ALIASES[word]
    if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is", "ens")):
        return word[:-1]
    return word


def conjuncts(text: str) -> list[str]:
    """Split a prompt where a word joins several structures: "a and b", "a + b"."""
    return _pieces(_CONJUNCTIONS, text)


def parts(text: str) -> list[str]:
    """Split a prompt where anything may join several structures: "a/b", "a, b", "a (b)"."""
    return _pieces(_JOINERS, text)


def edit_distance(a: str, b: str, limit: int) -> int:
    """Count insertions, deletions, changes and swaps of neighbours from `a` to `b`.

    Optimal string alignment (Damerau-Levenshtein without overlapping swaps). Stops at
    ``limit + 1`` when the distance is larger than `limit`.
    """
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        if min(current) > limit:
            return limit + 1
        before, previous = previous, current
    return previous[-1]


def is_swap(a: str, b: str) -> bool:
    """Whether two words differ by two swapped neighbours only: "brian" and "brain"."""
    return sorted(a) == sorted(b) and edit_distance(a, b, 1) == 1


def _side(tokens: list[str]) -> Side | None:
    left = any(t in LEFT for t in tokens)
    right = any(t in RIGHT for t in tokens)
    if (left and right) or any(t in BOTH for t in tokens):
        return "both"
    if left:
        return "left"
    return "right" if right else None


def _trim_joiner(tokens: list[str]) -> list[str]:
    """Drop the "and" that joined two sides: "left and right hippocampus"."""
    while tokens and tokens[0] == "and":
        tokens = tokens[1:]
    while tokens and tokens[-1] == "and":
        tokens = tokens[:-1]
    return tokens


def _pieces(joiner: re.Pattern[str], text: str) -> list[str]:
    return [piece.strip() for piece in joiner.split(text) if piece.strip()]
