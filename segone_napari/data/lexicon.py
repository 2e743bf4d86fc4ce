"""Finds the entry that words name: exactly, in another order, mistyped, or by a description.

Knows neither sides nor classes: an *entry* is any string, and `segone_napari.data.vocabulary` says
what it stands for.

A description is compared as a set of concepts. Each concept weighs as much as it tells entries
apart, log((1 + E) / e), if e of the E entries use it; a word that no entry uses weighs most. So
"fluid between the two thalami" is the third ventricle, and "fluid dynamics" is nothing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rapidfuzz import process
from rapidfuzz.distance import OSA, Indel

Words = tuple[str, ...]
How = Literal["exact", "synonym", "typo", "description"]

LEAST_COVERED = 0.8
"""Share of a prompt's weight that an entry's concepts must cover; the rest may be unheard of."""
LEAST_AGREEMENT = 0.6
"""Least agreement (Dice of weights) of a prompt with one description."""
LEAST_AGREEMENT_OF_NAME_AND_MORE = 0.9
"""The same where the prompt is a name and one more concept, which must be in the description."""
LEAST_LEAD = 0.06
"""How much better than the next entry a description must fit, or it is ambiguous."""
LEAST_LIKENESS = 0.75
"""How much a name must look like a prompt to be suggested, 0 to 1."""
LONGEST = 120
"""Letters of a prompt that are looked at for typing errors."""
OPPOSITES = (
    ("hyper", "hypo"), ("inter", "intra"), ("extra", "intra"), ("ex", "in"), ("af", "ef"),
    ("macro", "micro"), ("infer", "super"), ("infra", "supra"), ("post", "pre"), ("ab", "ad"),
)  # fmt: skip
"""Beginnings of words that mean opposites, however alike they are."""


@dataclass(frozen=True)
class Name:
    """One way to name an entry.

    Attributes
    ----------
    words : in the form of `segone_napari.data.prompts.parse`.
    entry : what it names.
    needs_side : whether it names this only together with a side ("left ventricle").
    is_abroad : whether it is of another language; its words may look like mistyped ones of this.
    """

    words: Words
    entry: str
    needs_side: bool = False
    is_abroad: bool = False


@dataclass(frozen=True)
class Description:
    """Many ways to describe an entry, compared by their concepts only.

    Attributes
    ----------
    places : for each place of the description, the words that may stand there.
    entry : what is described.
    """

    places: tuple[tuple[Words, ...], ...]
    entry: str


@dataclass(frozen=True)
class Found:
    """An entry and how it was found."""

    entry: str
    how: How


class Lexicon:
    """Names and descriptions of entries.

    Parameters
    ----------
    names, descriptions : all of them.
    same : word to what it is another form of ("hippocampal" to "hippocampus", "wm" to "white
        matter").
    related : word to what it stands for in a description ("beneath" to "below"), besides `same`.
    neutral : words that change nothing beside a name ("complex").
    weak : words that tell nothing in a description, besides `neutral` ("part").
    generic : concepts that describe anything; a description needs another one beside them.
    variants : plurals and other spellings, to the words that names are written with.
    others : words that are spelt right but name nothing here, so that they are not taken for
        typing errors.
    """

    def __init__(
        self,
        names: Iterable[Name],
        descriptions: Iterable[Description],
        *,
        same: Mapping[str, str],
        related: Mapping[str, str],
        neutral: Iterable[str],
        weak: Iterable[str],
        generic: Iterable[str],
        variants: Mapping[str, str],
        others: Iterable[str],
    ) -> None:
        self._names = tuple(names)
        self._descriptions = tuple(descriptions)
        self._same = same
        self._related = related
        self._neutral = frozenset(neutral)
        self._weak = self._neutral | frozenset(weak)
        self._generic = frozenset(generic)
        self._variants = variants
        self._others = frozenset(others)

    def exact(self, words: Words, has_side: bool) -> str | None:
        """Return the entry with exactly these words, in any order."""
        return self._table.get((words, has_side)) or self._table.get(
            (("", *sorted(words)), has_side)
        )

    def same_concepts(self, words: Words, has_side: bool) -> str | None:
        """Return the one entry of which some name has the same concepts: "hippocampal region"."""
        return self._by_concepts.get((self._stems(words), has_side))

    def mended(self, words: Words) -> Words | None:
        """Write each unknown word as the one known word that it resembles; None if one can't be."""
        if all(word in self._known_words for word in words):
            return None
        has_context = any(word in self._known_words for word in words)
        mended = [self._mended_word(word, has_context) for word in words]
        return None if None in mended else tuple(word for word in mended if word)

    def is_spelt_right(self, word: str) -> bool:
        """Whether a word is known, and so no typing error of another."""
        return word in self._known_words

    def misspelt(self, words: Words) -> tuple[str, int] | None:
        """Return the one entry whose name has nearly the same letters, and by how many edits.

        For spaces that are missing or too many ("brian stem"): letters are compared without them.
        """
        text = "".join(words)
        if not 5 <= len(text) <= LONGEST:
            return None
        limit = int(len(text) > 8)
        extracted = process.extract(
            text, self._spellings, scorer=OSA.distance, score_cutoff=limit, limit=None
        )
        near = [(found, round(edits)) for found, edits, _ in extracted if found[0] == text[0]]
        least = min((edits for _, edits in near), default=0)
        entries = {e for found, n in near if n == least for e in self._entries_of[found]}
        if len(entries) != 1 or (least and any(word in self._others for word in words)):
            return None
        return entries.pop(), least

    def described(self, words: Words) -> str | None:
        """Return the one entry that the words describe."""
        asked = self._concepts(words)
        if len(asked) < 2:  # "hemicerebellum"
            return self._by_plain_description.get(asked)
        if asked <= self._generic:
            return None
        # "posterior thalamus" names a thing and tells something more, which has to be known.
        more = {c for c in asked if asked - {c} in self._concepts_of_names}
        weight = self._weigh(asked)
        scores: dict[str, float] = {}
        for entry, known in self._concepts_of.items():
            if len(asked & known) < 2 or self._weigh(asked & known) < LEAST_COVERED * weight:
                continue
            agreements = (
                # Dice of the weights; one shared concept is too few.
                2 * self._weigh(asked & description) / (weight + its_weight)
                for description, its_weight in self._descriptions_of[entry].items()
                if more <= description and len(asked & description) >= 2
            )
            scores[entry] = max(agreements, default=0.0)
        best, second = sorted([*scores.values(), 0.0, 0.0], reverse=True)[:2]
        least = LEAST_AGREEMENT_OF_NAME_AND_MORE if more else LEAST_AGREEMENT
        if best < least or best - second < LEAST_LEAD:
            return None
        return max(scores, key=lambda entry: scores[entry])

    def nearest(self, words: Words, count: int = 3) -> list[str]:
        """Up to `count` entries whose names look like the words or share some, nearest first."""
        text = " ".join(words)[:LONGEST]
        scores: dict[str, float] = defaultdict(float)
        if len(text) >= 4:
            for _, score, i in process.extract(
                text,
                self._spaced,
                scorer=Indel.normalized_similarity,
                score_cutoff=LEAST_LIKENESS,
                limit=None,
            ):
                entry = self._spelt_names[i].entry
                scores[entry] = max(scores[entry], score)
        sharing = dict.fromkeys(name for word in words for name in self._names_with.get(word, ()))
        for name in sharing:
            shared = len(set(words) & set(name.words))
            # a name that says much else only mentions the words: "fluid inside the skull"
            is_about = shared == len(words) and 2 * shared >= len(name.words)
            likeness = max(0.9 * shared / len(name.words), 0.8 * is_about)
            scores[name.entry] = max(scores[name.entry], likeness)
        near = (entry for entry in scores if scores[entry] >= LEAST_LIKENESS)
        return sorted(near, key=lambda entry: -scores[entry])[:count]

    # Look-up tables ------------------------------------------------------------------------

    @cached_property
    def _table(self) -> Mapping[tuple[Words, bool], str]:
        """(words, whether a side is named) to the entry; sorted words begin with an empty one."""
        table: dict[tuple[Words, bool], str] = {}
        for name in self._names:
            for words in (name.words, ("", *sorted(name.words))):
                for has_side in (True,) if name.needs_side else (False, True):
                    # What needs a side is the more particular reading, so it comes first.
                    if name.needs_side or (words, has_side) not in table:
                        table[words, has_side] = name.entry
        return table

    @cached_property
    def _by_concepts(self) -> Mapping[tuple[frozenset[str], bool], str]:
        """(stems, whether a side is named) to the entry, where there is only one."""
        entries: dict[tuple[frozenset[str], bool], set[str]] = defaultdict(set)
        for name in self._names:
            stems = self._stems(name.words)
            for has_side in (True,) if name.needs_side else (False, True):
                entries[stems, has_side].add(name.entry)
        return {key: next(iter(es)) for key, es in entries.items() if len(es) == 1 and key[0]}

    @cached_property
    def _spelt_names(self) -> tuple[Name, ...]:
        return tuple(name for name in self._names if not name.needs_side)

    @cached_property
    def _entries_of(self) -> Mapping[str, set[str]]:
        """Letters of a name without spaces, if they are enough to be told apart, to entries."""
        entries: dict[str, set[str]] = defaultdict(set)
        for name in self._spelt_names:
            text = "".join(name.words)
            if len(text) >= 5:
                entries[text].add(name.entry)
        return dict(entries)

    @cached_property
    def _spellings(self) -> tuple[str, ...]:
        return tuple(self._entries_of)

    @cached_property
    def _spaced(self) -> tuple[str, ...]:
        return tuple(" ".join(name.words) for name in self._spelt_names)

    @cached_property
    def _names_with(self) -> Mapping[str, list[Name]]:
        """Word to the names that it is in."""
        names: dict[str, list[Name]] = defaultdict(list)
        for name in self._spelt_names:
            for word in set(name.words):
                names[word].append(name)
        return names

    @cached_property
    def _by_plain_description(self) -> Mapping[frozenset[str], str]:
        """The concepts of a description of one way only, to its entry."""
        found: dict[frozenset[str], str] = {}
        for description in self._descriptions:
            if all(len(place) == 1 for place in description.places):
                concepts = frozenset().union(*self._written_out(description))
                found.setdefault(concepts, description.entry)
        return found

    @cached_property
    def _known_words(self) -> frozenset[str]:
        words = {word for name in self._names for word in name.words}
        words |= {w for d in self._descriptions for place in d.places for ws in place for w in ws}
        return frozenset(words | {*self._same, *self._related} | self._weak | self._others)

    @cached_property
    def _words_to_mend_to(self) -> tuple[str, ...]:
        """Words that a mistyped one may have meant."""
        words = {w for name in self._spelt_names if not name.is_abroad for w in name.words}
        words |= {*self._same, *self._variants}
        return tuple(sorted(word for word in words if len(word) >= 4))

    @cached_property
    def _descriptions_of(self) -> Mapping[str, Mapping[frozenset[str], float]]:
        """Entry to its descriptions, as concepts, and their weights."""
        return {
            entry: {description: self._weigh(description) for description in found}
            for entry, found in self._sets_of.items()
        }

    @cached_property
    def _sets_of(self) -> Mapping[str, set[frozenset[str]]]:
        # Where two entries would share a description, a name comes before what is written out, and
        # a plain description before one of many ways.
        ranked: list[dict[str, set[frozenset[str]]]] = [defaultdict(set) for _ in range(3)]
        for name in self._spelt_names:
            ranked[0][name.entry].add(self._concepts(name.words))
        for description in self._descriptions:
            ways = self._written_out(description)
            ranked[1 if len(ways) == 1 else 2][description.entry] |= ways
        descriptions: dict[str, set[frozenset[str]]] = defaultdict(set)
        taken: set[frozenset[str]] = {frozenset()}
        for rank in ranked:
            for entry, found in rank.items():
                descriptions[entry] |= found - taken
            taken.update(*rank.values())
        return descriptions

    def _written_out(self, description: Description) -> set[frozenset[str]]:
        """The concepts of each way to fill a description's places."""
        ways: set[frozenset[str]] = {frozenset()}
        for place in description.places:
            choices = {self._concepts(words) for words in place}
            ways = {way | choice for way in ways for choice in choices}
        return ways

    @cached_property
    def _concepts_of(self) -> Mapping[str, frozenset[str]]:
        return {e: frozenset().union(*found) for e, found in self._sets_of.items()}

    @cached_property
    def _concepts_of_names(self) -> frozenset[frozenset[str]]:
        return frozenset(self._concepts(name.words) for name in self._spelt_names)

    @cached_property
    def _weights(self) -> Mapping[str, float]:
        used = Counter(c for concepts in self._concepts_of.values() for c in concepts)
        return {c: math.log((1 + len(self._concepts_of)) / n) for c, n in used.items()}

    @cached_property
    def _weight_of_unheard(self) -> float:
        return math.log(1 + len(self._concepts_of))

    def _weigh(self, concepts: frozenset[str]) -> float:
        weights, unheard_of = self._weights, self._weight_of_unheard
        return sum(weights.get(concept, unheard_of) for concept in concepts)

    def _stems(self, words: Iterable[str]) -> frozenset[str]:
        """Words in one form, without those that change nothing beside a name."""
        stems = (stem for word in words for stem in self._same.get(word, word).split())
        return frozenset(stem for stem in stems if stem not in self._neutral)

    def _concepts(self, words: Iterable[str]) -> frozenset[str]:
        """What words stand for, without those that tell nothing."""
        concepts = (self._related.get(stem, stem) for stem in self._stems(words))
        return frozenset(concept for concept in concepts if concept not in self._weak)

    def _mended_word(self, word: str, has_context: bool) -> str | None:
        """Return a word itself if it is known, else the one known word that it resembles."""
        if word in self._known_words:
            return word
        near: dict[str, int] = {}
        for spelling in (word, f"{word}s"):  # what ends in "s" may have lost it as a plural
            for known, edits, _ in process.extract(
                spelling, self._words_to_mend_to, scorer=OSA.distance, score_cutoff=2, limit=None
            ):
                if _is_typo(spelling, known, round(edits), has_context):
                    meant = self._variants.get(known, known)
                    near[meant] = min(round(edits), near.get(meant, 9))
        least = min(near.values(), default=0)
        best = sorted(known for known, edits in near.items() if edits == least)
        return best[0] if len({self._same.get(known, known) for known in best}) == 1 else None


def is_mistyped(words: Words, known: Words) -> bool:
    """Whether words differ from those of a name by slips only, word by word.

    Never so are two digits ("metastasis 1", "metastasis 2") and opposites ("internal", "external").
    """
    if words == known or "".join(words) == "".join(known):
        return words != known
    if len(words) != len(known):
        return False
    differing = [pair for pair in zip(words, known, strict=True) if pair[0] != pair[1]]
    return all(_is_slip(word, meant, has_context=len(words) > 1) for word, meant in differing)


def _is_slip(word: str, meant: str, *, has_context: bool) -> bool:
    if len(meant) < 4 or any(letter.isdigit() for letter in word + meant):
        return False
    for one, other in OPPOSITES:
        if (word.startswith(one) and meant.startswith(other)) or (
            word.startswith(other) and meant.startswith(one)
        ):
            return False
    return _is_typo(word, meant, OSA.distance(word, meant), has_context)


def _is_typo(word: str, known: str, edits: int, has_context: bool) -> bool:
    """Whether `edits` between a typed and a known word are a slip.

    A short word is another word after one change: then two neighbours may be swapped ("brian"),
    or, beside words that are spelt right, one letter may be wrong or the letters out of order.
    """
    if len(known) >= 5 and sorted(word) == sorted(known) and (edits == 1 or has_context):
        return True
    if word[0] != known[0] and len(known) < 8:
        return False
    if len(known) < 6:
        return has_context and edits <= 1
    return edits <= (1 if len(known) < 8 else 2)


def readings(words: Words, has_side: bool) -> Iterator[Words]:
    """Yield the words, then without "all", without where the brain is anyway, without "tissue"."""
    yield words
    if len(words) > 1 and words[0] in ("all", "whole", "total"):
        words = words[1:]
        yield words
    if len(words) > 1 and words[-1] == "brain":
        words = words[:-1]
        yield words
    elif len(words) > 1 and words[0] == "brain":
        yield words[1:]
    if len(words) > 1 and words[-1] in ("tissue", "nucleus", "compartment", "parenchyma"):
        yield words[:-1]
    if has_side and len(words) > 1 and "hemisphere" in words:
        yield tuple(w for w in words if w not in ("hemisphere", "cerebral", "brain"))
