"""The structures that the model knows: names, synonyms, colours, label values, and prompt matching.

A *class* is what the network tells apart ("left hippocampus"); a *term* is what a person can ask
for: a class, a pair of them, or a group ("basal ganglia"). All of it is read from
``vocabulary.json``. Knows nothing of images or networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from segone_napari.data import prompts
from segone_napari.data.prompts import Side, split_prompts
from segone_napari.runtime import BadCheckpoint

__all__ = ["Colour", "How", "Match", "Side", "Structure", "Term", "Vocabulary", "split_prompts"]

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

How = Literal["exact", "synonym", "typo"]

BACKGROUND = "background"
FORMAT = 1
FIELD_OF_VIEW_ML = 12_000.0
"""About what a whole-head scan of 256 x 256 x 180 mm shows."""

# Sides in training phrases, as people and atlases write them.
_SIDE_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "left": ("left {}", "{} left", "{} on the left side", "lt {}", "L {}", "{} sinistra"),
    "right": ("right {}", "{} right", "{} on the right side", "rt {}", "R {}", "{} dextra"),
}


@dataclass(frozen=True)
class Structure:
    """One entry of the vocabulary.

    Attributes
    ----------
    name : the canonical name, without a side.
    sides : whether it exists left and right.
    colour : the base colour; a side is a little lighter or darker.
    synonyms : other names, unique in the whole vocabulary.
    synonyms_with_side : names that mean this only when a side is named ("left ventricle").
    parts : known anatomy inside it that is not told apart.
    volume_ml : the usual range in an adult, one side.
    labels : FreeSurfer values: side ("left", "right", "midline", or "split": both sides under one
        value, told apart by the midline) to values.
    members : names of the structures that a group consists of; empty for a structure.
    """

    name: str
    sides: bool
    colour: Colour
    synonyms: tuple[str, ...]
    synonyms_with_side: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    volume_ml: tuple[float, float] = (0.0, 0.0)
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    members: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name and all synonyms that need no side."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Term:
    """What a prompt can be understood as.

    Attributes
    ----------
    name : the canonical name without a side ("hippocampus").
    side : "left", "right", "both", or None for what has no side.
    classes : the classes whose union it is.
    colour : for display.
    """

    name: str
    side: Side | None
    classes: tuple[str, ...]
    colour: Colour

    @property
    def canonical(self) -> str:
        """The name with its side: "left hippocampus"; both sides are just "hippocampus"."""
        return f"{self.side} {self.name}" if self.side in ("left", "right") else self.name


@dataclass(frozen=True)
class Match:
    """What a prompt was understood as.

    Attributes
    ----------
    term : None when the prompt is refused.
    how : "exact" (the canonical name), "synonym" or "typo"; None when refused.
    suggestions : up to three prompts that would be understood, nearest first; empty when matched.
    reason : one clause that says why it is refused; empty when matched.
    """

    term: Term | None
    how: How | None
    suggestions: tuple[str, ...] = ()
    reason: str = ""


class Vocabulary:
    """All structures and groups, in a fixed order of classes.

    Two vocabularies with the same `class_names` fit the same weights.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.structures = tuple(_structure(entry) for entry in document["structures"])
        self.groups = tuple(_structure(entry) for entry in document["groups"])
        self.class_names: tuple[str, ...] = (
            BACKGROUND,
            *(name for structure in self.structures for name in _class_names(structure)),
        )
        self._by_name = {entry.name: entry for entry in (*self.structures, *self.groups)}
        self._structure_of = {c: s for s in self.structures for c in _class_names(s)}

    @classmethod
    def load(cls, path: str | Path | None = None) -> Vocabulary:
        """Read a vocabulary file; without a path, the one that comes with the package.

        Raises
        ------
        BadCheckpoint
            If the file is missing, damaged or of another format version.
        """
        source = files("segone_napari.data") / "vocabulary.json" if path is None else Path(path)
        try:
            document = json.loads(source.read_text(encoding="utf-8"))
            if document["format"] != FORMAT:
                raise BadCheckpoint(
                    f"{source} is a vocabulary of format {document['format']!r}, and this program "
                    f"reads format {FORMAT}; update segone-napari or use another checkpoint"
                )
            return cls(document)
        except OSError as error:
            raise BadCheckpoint(f"can't read the vocabulary {source}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadCheckpoint(
                f"the vocabulary {source} is damaged ({error}); copy the checkpoint anew"
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the vocabulary so that `load` gives the same one back."""
        text = json.dumps(self._document, indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    # Classes -------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """FreeSurfer value to class name. A value that is not in it is background.

        Values in `split_labels` are left out.
        """
        table = {0: BACKGROUND}
        for structure in self.structures:
            for side, values in structure.labels.items():
                if side == "split":
                    continue
                name = structure.name if side == "midline" else f"{side} {structure.name}"
                table.update(dict.fromkeys(values, name))
        return table

    @cached_property
    def split_labels(self) -> Mapping[int, str]:
        """FreeSurfer value to the name of a paired structure whose sides share that value.

        The reader of the label map tells the sides apart by the head's midline.
        """
        return {v: s.name for s in self.structures for v in s.labels.get("split", ())}

    def swap_side(self, class_name: str) -> str:
        """Return the class on the other side; what has no side stays.

        Examples
        --------
        >>> Vocabulary.load().swap_side("left thalamus")
        'right thalamus'
        """
        side, _, rest = class_name.partition(" ")
        if self._structure(class_name) is None or side not in ("left", "right"):
            return class_name
        return f"{'right' if side == 'left' else 'left'} {rest}"

    def prior(self, class_name: str) -> float:
        """Rough share of the voxels of a whole-head scan, 0 to 1; all classes add up to 1."""
        structure = self._structure(class_name)
        if structure is None:
            return 1.0 - sum(self.prior(name) for name in self.class_names[1:])
        low, high = structure.volume_ml
        return float((low * high) ** 0.5 / FIELD_OF_VIEW_ML)

    def colour(self, class_name: str) -> Colour:
        """Display colour of a class: left a little lighter than right, the same hue."""
        structure = self._structure(class_name)
        if structure is None:
            return (0, 0, 0)
        return _sided_colour(structure, class_name.split(" ")[0])

    def volume_range_ml(self, class_name: str) -> tuple[float, float]:
        """Usual volume of a class in an adult in mL, for sanity checks; (0, 0) for background."""
        structure = self._structure(class_name)
        return structure.volume_ml if structure else (0.0, 0.0)

    def phrases(self, class_name: str) -> tuple[str, ...]:
        """Return the names that a text model is trained on, the canonical one first."""
        structure = self._structure(class_name)
        if structure is None:
            return (BACKGROUND, *self._document["background"]["synonyms"])
        if not structure.sides:
            return structure.names
        side = class_name.split(" ")[0]
        names = (*structure.names, *structure.synonyms_with_side)
        return tuple(p.format(name) for name in names for p in _SIDE_PATTERNS[side])

    # Terms ---------------------------------------------------------------------------------

    def terms(self) -> tuple[Term, ...]:
        """Return everything that can be asked for: both sides, left, right of each, then groups."""
        return tuple(
            self.term(entry.name, side)
            for entry in (*self.structures, *self.groups)
            for side in (("both", "left", "right") if entry.sides else (None,))
        )

    def term(self, name: str, side: Side | None = None) -> Term:
        """Return the term of a canonical name without side ("hippocampus") and a side.

        Without a side, what is paired means both sides.
        """
        entry = self._by_name[name]
        if entry.sides and side is None:
            side = "both"
        if not entry.sides:
            side = None
        members = [self._by_name[m] for m in entry.members] or [entry]
        classes = tuple(c for m in members for c in _class_names(m) if _is_on(side, c, m))
        return Term(name, side, classes, _sided_colour(entry, side))

    def synonyms(self, name: str) -> tuple[str, ...]:
        """Other names of a structure or group, given its canonical name without side."""
        return self._by_name[name].synonyms

    # Matching ------------------------------------------------------------------------------

    def match(self, text: str) -> Match:
        """Understand one prompt, or refuse it and say what comes near.

        Names the side in any usual way; a paired structure without a side means both. Nothing of
        the prompt is dropped silently: an unknown word, a negation or a side of what has none
        refuses it. Several structures in one prompt are refused too: the first suggestion gives
        each its own mask ("caudate; putamen"), the second is their union where it has a name
        ("dorsal striatum").
        """
        request = prompts.parse(text)
        if not request.words:
            reason = "no structure is named" if text.strip() else "the prompt is empty"
            return Match(None, None, (), reason)
        if several := self._several(prompts.conjuncts(text)):
            return several
        for words in _readings(request):
            found = self._exact.get((words, request.side is not None)) or self._sorted.get(
                (tuple(sorted(words)), request.side is not None)
            )
            if found:
                how: How = "exact" if words == prompts.parse(found).words else "synonym"
                return self._answer(found, request.side, how)
        return self._refuse_or_mend(text, request)

    def _refuse_or_mend(self, text: str, request: prompts.Request) -> Match:
        """Answer a prompt that is in no list: a negation, several structures, a typo, unknown."""
        if request.negated:
            reason = f"{request.negated!r} can't be understood; name only what is wanted"
            return Match(None, None, self._suggest(request), reason)
        if several := self._several(prompts.parts(text)):
            return several
        if part := self._parts.get(request.words):
            reason = f"it is a part of the {part}, which is known as a whole only"
            return Match(None, None, (self._sided(part, request.side).canonical,), reason)
        for words in _readings(request):
            if mended := self._mend(words):
                found, distance = mended
                return self._answer(found, request.side, "typo" if distance else "synonym")
        elsewhere = next((w for w in request.words if w in self._elsewhere), None)
        if elsewhere:
            return Match(None, None, (), f"{elsewhere!r} is not a structure of the brain")
        return Match(None, None, self._suggest(request), "no known structure has this name")

    def _answer(self, name: str, side: Side | None, how: How) -> Match:
        if side in ("left", "right") and not self._by_name[name].sides:
            return Match(None, None, (name,), f"the {name} is known as a whole, without sides")
        return Match(self.term(name, side), how)

    def _sided(self, name: str, side: Side | None) -> Term:
        return self.term(name, side if self._by_name[name].sides else None)

    def _several(self, pieces: list[str]) -> Match | None:
        """Refuse "a and b" with "a; b" as the suggestion, when each of them is known."""
        if not 2 <= len(pieces) <= 12:
            return None
        terms = [match.term for piece in pieces if (match := self.match(piece)).term]
        if len(terms) < len(pieces):
            return None
        terms = self._share_side([t for t in terms if t], pieces)
        union = {c for term in terms for c in term.classes}
        whole = next((t for t in self.terms() if set(t.classes) == union), None)
        if whole and len({t.name for t in terms}) == 1:
            return Match(whole, "synonym")
        suggestion = "; ".join(dict.fromkeys(t.canonical for t in terms))
        suggestions = (suggestion, whole.canonical) if whole else (suggestion,)
        return Match(None, None, suggestions, "it names several structures; separate them by ';'")

    def _share_side(self, terms: list[Term], pieces: list[str]) -> list[Term]:
        """Read "left caudate and putamen" as the left one of each."""
        sides = [prompts.parse(piece).side for piece in pieces]
        if sides[0] is None or any(sides[1:]):
            return terms
        return [self._sided(term.name, sides[0]) for term in terms]

    def _mend(self, words: tuple[str, ...]) -> tuple[str, int] | None:
        """Return the one entry whose name differs by a typo only and by how much, or None."""
        text = "".join(words)
        if len(text) > 80:
            return None
        best: dict[str, int] = {}
        for known, name in self._spellings:
            distance = _typo_distance(words, text, known)
            if distance is not None:
                best[name] = min(distance, best.get(name, distance))
        least = min(best.values(), default=0)
        nearest = [name for name, distance in best.items() if distance == least]
        return (nearest[0], least) if len(nearest) == 1 else None

    def _suggest(self, request: prompts.Request) -> tuple[str, ...]:
        """Up to three known terms that look like the prompt, nearest first."""
        text = " ".join(request.words)[:80]
        scores: dict[str, float] = {}
        for known, name in self._spellings:
            score = _likeness(request.words, text, known)
            scores[name] = max(score, scores.get(name, 0.0))
        names = sorted((n for n in scores if scores[n] >= 0.65), key=lambda n: -scores[n])[:3]
        return tuple(self._sided(name, request.side).canonical for name in names)

    # Look-up tables ------------------------------------------------------------------------

    @cached_property
    def _exact(self) -> Mapping[tuple[tuple[str, ...], bool], str]:
        """(words, whether a side is named) to the entry's name."""
        table: dict[tuple[tuple[str, ...], bool], str] = {}
        for words, name, needs_side in self._names():
            for has_side in (True,) if needs_side else (False, True):
                # What needs a side is the more particular reading, so it comes first.
                if needs_side or (words, has_side) not in table:
                    table[words, has_side] = name
        return table

    @cached_property
    def _sorted(self) -> Mapping[tuple[tuple[str, ...], bool], str]:
        """Like `_exact` for words in any order: "ventricle, lateral"."""
        return {(tuple(sorted(w)), side): name for (w, side), name in self._exact.items()}

    @cached_property
    def _spellings(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        return tuple((words, name) for words, name, needs_side in self._names() if not needs_side)

    @cached_property
    def _parts(self) -> Mapping[tuple[str, ...], str]:
        return {prompts.parse(p).words: s.name for s in self.structures for p in s.parts}

    @cached_property
    def _elsewhere(self) -> frozenset[str]:
        return frozenset(prompts.singular(word) for word in self._document["elsewhere"])

    def _names(self) -> Iterator[tuple[tuple[str, ...], str, bool]]:
        """All (words, entry's name, whether a side must be named)."""
        for entry in (*self.structures, *self.groups):
            for name in entry.names:
                yield prompts.parse(name).words, entry.name, False
            for name in entry.synonyms_with_side:
                yield prompts.parse(name).words, entry.name, True

    def _structure(self, class_name: str) -> Structure | None:
        """Return the structure of a class; None for background."""
        if class_name == BACKGROUND:
            return None
        return self._structure_of[class_name]


def _structure(entry: Mapping[str, Any]) -> Structure:
    red, green, blue = entry["colour"]
    low, high = entry.get("volume_ml", (0.0, 0.0))
    return Structure(
        name=entry["name"],
        sides=bool(entry["sides"]),
        colour=(int(red), int(green), int(blue)),
        synonyms=tuple(entry["synonyms"]),
        synonyms_with_side=tuple(entry.get("synonyms_with_side", ())),
        parts=tuple(entry.get("parts", ())),
        volume_ml=(float(low), float(high)),
        labels={side: _values(ranges) for side, ranges in entry.get("labels", {}).items()},
        members=tuple(entry.get("members", ())),
    )


def _values(ranges: Iterable[int | list[int]]) -> tuple[int, ...]:
    """Write out label values: ``[2, [10, 12]]`` is 2, 10, 11, 12."""
    values: list[int] = []
    for item in ranges:
        first, last = (item, item) if isinstance(item, int) else item
        values.extend(range(first, last + 1))
    return tuple(values)


def _class_names(structure: Structure) -> tuple[str, ...]:
    if not structure.sides:
        return (structure.name,)
    return (f"left {structure.name}", f"right {structure.name}")


def _is_on(side: Side | None, class_name: str, structure: Structure) -> bool:
    """Whether a class belongs to a side; what has no side belongs to the whole only."""
    return side in (None, "both") or (structure.sides and class_name.startswith(f"{side} "))


def _sided_colour(structure: Structure, side: str | None) -> Colour:
    red, green, blue = structure.colour
    if not structure.sides or side not in ("left", "right"):
        return structure.colour
    if side == "left":
        return (red + (255 - red) // 5, green + (255 - green) // 5, blue + (255 - blue) // 5)
    return (red * 4 // 5, green * 4 // 5, blue * 4 // 5)


def _readings(request: prompts.Request) -> Iterator[tuple[str, ...]]:
    """Yield the words, then without "all" and without where the brain is anyway."""
    words = request.words
    yield words
    if len(words) > 1 and words[0] in ("all", "whole", "total"):
        words = words[1:]
        yield words
    if len(words) > 1 and words[-1] == "brain":
        words = words[:-1]
        yield words
    elif len(words) > 1 and words[0] == "brain":
        yield words[1:]
    if request.side and len(words) > 1 and "hemisphere" in words:
        yield tuple(w for w in words if w not in ("hemisphere", "cerebral", "brain"))


def _typo_distance(words: tuple[str, ...], text: str, known: tuple[str, ...]) -> int | None:
    """Count edits between a prompt and a known name, or None when it is more than a typo.

    Each word may differ by as much as its length allows, a short name by two swapped letters; a
    space may be missing or too many.
    """
    whole = "".join(known)
    if len(whole) < 5:
        return None
    if text == whole:
        return 0
    if len(words) == len(known):
        total = 0
        for word, right in zip(words, known, strict=True):
            limit = _allowed_edits(right) if word[0] == right[0] or len(right) > 8 else 0
            if len(whole) < 7:
                limit = int(prompts.is_swap(word, right))
            distance = prompts.edit_distance(word, right, limit)
            if distance > limit:
                return None
            total += distance
        return total if total <= 3 else None
    limit = int(len(whole) > 8)
    distance = prompts.edit_distance(text, whole, limit)
    return distance + 1 if distance <= limit and text[0] == whole[0] else None


def _allowed_edits(word: str) -> int:
    """A short word is another word after one change, so it must be right."""
    if len(word) < 6:
        return 0
    return 1 if len(word) < 9 else 2


def _likeness(words: tuple[str, ...], text: str, known: tuple[str, ...]) -> float:
    """How much a name looks like the prompt, 0 to 1: by letters, or by the words they share."""
    shared = len(set(words) & set(known))
    by_words = max(0.9 * shared / len(known), 0.7 * (shared == len(words)))
    if len(text) < 4:
        return by_words
    matcher = SequenceMatcher(None, text, " ".join(known), autojunk=False)
    if matcher.real_quick_ratio() < 0.65 or matcher.quick_ratio() < 0.65:
        return by_words
    return max(by_words, matcher.ratio())
