"""The structures that the model knows: names, synonyms, colours, label values, and prompt matching.

A *class* is what the network tells apart ("left hippocampus"); a *term* is what a person can ask
for: a class, a pair of them, or a group ("basal ganglia"). All of it is read from
``vocabulary.json``. Knows nothing of images or networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from segone_napari.data import prompts, sentences
from segone_napari.data.descriptions import Describer
from segone_napari.data.lexicon import Description, Found, How, Lexicon, Name, is_mistyped, readings
from segone_napari.data.prompts import Side, split_prompts
from segone_napari.runtime import BadCheckpoint

__all__ = ["Colour", "How", "Match", "Side", "Structure", "Term", "Vocabulary", "split_prompts"]

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

BACKGROUND = "background"
FORMAT = 1
PART, UNKNOWN = "part", "unknown"
SEVERAL = "it names several structures; separate them by ';'"
UNHEARD = "no known structure has this name"
ELSEWHERE = "is not a structure of the brain"
LEAST_SURE = 0.35
"""How probably a description must mean something."""
LEAST_SURE_OF = {2: 0.8, 3: 0.6}
"""The same of so many words; one alone doesn't describe anything."""
LEAST_SURE_OF_ELSEWHERE = 0.75
"""The same where it speaks of something that lies elsewhere."""
LEAST_SURE_TO_OVERRULE, WORTH_SUGGESTING = 0.5, 0.15
"""The same to count more than a description in the vocabulary, and to be suggested."""
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
    colour : the base colour; left is lighter, right is darker.
    synonyms : other names, unique in the whole vocabulary.
    synonyms_with_side : names that mean this only when a side is named ("left ventricle").
    also : more names, abbreviations above all, that a text model is not trained on.
    descriptions : what it is, does, or lies beside, as people say it; never trained on. Either of
        "(fluid|cavity) behind the pons" is meant.
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
    also: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
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
    how : "exact" (the canonical name), "synonym", "typo" or "description" ("almond of the temporal
        lobe"); None when refused.
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
        self.learnt = tuple(_structure(entry) for entry in document.get("learnt", ()))
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

    @classmethod
    @cache
    def packaged(cls) -> Vocabulary:
        """Return the vocabulary that comes with the package, read once."""
        return cls.load()

    def brought_up_to_date(self) -> Vocabulary:
        """Return the package's vocabulary if it has the same classes: it may know more names."""
        packaged = self.packaged()
        if packaged.class_names != self.class_names:
            return self
        return packaged.with_learnt(self._document["learnt"]) if self.learnt else packaged

    def with_learnt(self, entries: Sequence[Mapping[str, Any]]) -> Vocabulary:
        """Return a vocabulary with the same classes whose learnt terms are these.

        A *learnt* term is one that corrections taught: no class of the base model.
        """
        other = Vocabulary({**self._document, "learnt": [dict(entry) for entry in entries]})
        # These depend on the base alone, and take a second to fill.
        other._lexicon, other._single_names = self._lexicon, self._single_names
        return other

    def with_term(self, name: str, synonyms: Sequence[str] = ()) -> Vocabulary:
        """Return a vocabulary that knows one learnt term more, or more synonyms of it.

        A synonym that already means something else is left out.
        """
        entries = [dict(entry) for entry in self._document.get("learnt", ())]
        entry = next((e for e in entries if _key(e["name"]) == _key(name)), None)
        if entry is None:
            colour = _LEARNT_COLOURS[len(entries) % len(_LEARNT_COLOURS)]
            entry = {"name": name, "sides": False, "colour": list(colour), "synonyms": []}
            entries.append(entry)
        taken = {_key(word) for word in (entry["name"], *entry["synonyms"])}
        free = [s for s in synonyms if _key(s) not in taken and self.match(s).term is None]
        entry["synonyms"] = list(dict.fromkeys([*entry["synonyms"], *free]))
        return self.with_learnt(entries)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary so that `load` gives the same one back."""
        text = json.dumps(self._document, indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of what is in a head, or near it, and is not known."""
        return tuple(self._document.get("unknown", ()))

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
        """Display colour of a class: left lighter than right, the same hue."""
        structure = self._structure(class_name)
        if structure is None:
            return (0, 0, 0)
        return _sided_colour(structure, class_name.split(" ")[0])

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
        """Return all that can be asked for: both sides, left, right of each, groups, learnt."""
        return tuple(
            self.term(entry.name, side)
            for entry in (*self.structures, *self.groups)
            for side in (("both", "left", "right") if entry.sides else (None,))
        ) + tuple(self.term(entry.name) for entry in self.learnt)

    def term(self, name: str, side: Side | None = None) -> Term:
        """Return the term of a canonical name without side ("hippocampus") and a side.

        Without a side, what is paired means both sides.
        """
        learnt = next((entry for entry in self.learnt if entry.name == name), None)
        if learnt is not None:
            return Term(name, None, (name,), learnt.colour)
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
        learnt = {entry.name: entry for entry in self.learnt}
        return (learnt.get(name) or self._by_name[name]).synonyms

    # Matching ------------------------------------------------------------------------------

    def separate(self, text: str) -> list[str]:
        """Split a prompt that names several known structures into one prompt each.

        Anything else is returned as it came, to be understood or refused as a whole.

        Examples
        --------
        >>> Vocabulary.load().separate("left caudate and putamen")
        ['left caudate', 'left putamen']
        """
        match = self.match(text)
        return match.suggestions[0].split("; ") if match.reason == SEVERAL else [text]

    def match(self, text: str) -> Match:
        """Understand one prompt, or refuse it and say what comes near.

        Names the side in any usual way; a paired structure without a side means both. An unknown
        word, a negation or a side of what has none refuses it; only what a sentence tells around
        its request, for whom or why, is left out. Several structures in one prompt are refused
        too: the first suggestion gives each its own mask ("caudate; putamen"), the second is their
        union where it has a name ("dorsal striatum").
        """
        if prompts.leaves_side_open(text) and not self._match_learnt(text):
            near = self._suggest(prompts.parse(text, self._is_name))
            return Match(None, None, near, "it doesn't say which side; write left, right or both")
        match = self._match_plain(text)
        if match.term or match.reason == SEVERAL:
            return match
        return self._match_sentence(text) or self._match_description(text, match)

    def _match_plain(self, text: str) -> Match:
        """Understand a prompt of which every word counts."""
        text = prompts.both_sides_as_one(text)
        if learnt := self._match_learnt(text):
            return learnt
        match = self._match_known(text)
        return match if match.term else self._nearly_learnt(text) or match

    def named(self, text: str) -> Term | None:
        """Return the term that a text is a name of, neither mistyped nor described."""
        match = self.match(text)
        return match.term if match.how in ("exact", "synonym") else None

    def _match_learnt(self, text: str) -> Match | None:
        """Answer what corrections taught; it comes first, since a person wanted it so."""
        key = _key(text)
        for entry in self.learnt:
            if key in (_key(name) for name in entry.names):
                how: How = "exact" if key == _key(entry.name) else "synonym"
                return Match(self.term(entry.name), how)
        plain = _key(text, kept=frozenset())  # "the cyst on T2" is the cyst
        entry_of = {_key(name): entry for entry in self.learnt for name in entry.names}
        return Match(self.term(entry_of[plain].name), "description") if plain in entry_of else None

    def _match_sentence(self, text: str) -> Match | None:
        """Answer a sentence that asks for something known, and says more around it."""
        if prompts.names_side_of_screen(text) or prompts.names_two_sides_of_one(text):
            return None
        asked = sentences.asked_for(prompts.both_sides_as_one(text), self._lookup)
        match = None if asked is None else self._match_learnt(asked) or self._match_known(asked)
        return match if match and (match.term or match.reason == SEVERAL) else None

    def _match_description(self, text: str, refusal: Match) -> Match:
        """Answer what describes something known in other words than names, unless it was refused
        for a better reason; else the refusal, with what comes nearest.
        """
        request = prompts.parse(text, self._is_name)
        words = request.words
        if len(words) < min(LEAST_SURE_OF) or any(self._whole_of(words[n:]) for n in (1, 2)):
            return refusal
        if refusal.reason == UNHEARD:
            least = LEAST_SURE_OF.get(len(words), LEAST_SURE)
        elif refusal.reason.endswith(ELSEWHERE) and request.side is None:
            least = LEAST_SURE_OF_ELSEWHERE  # "the stalk that runs into the spinal cord"
        else:
            return refusal
        probabilities = Describer.packaged().probabilities(words)
        nearest = sorted(probabilities, key=lambda entry: -probabilities[entry])
        entry = nearest[0]
        is_sure = probabilities[entry] >= least and entry in self._by_name
        if is_sure and self._may_mean(words, entry):
            return self._answer(Found(entry, "description"), request.side)
        if refusal.suggestions or refusal.reason != UNHEARD:
            return refusal
        near = [e for e in nearest if e in self._by_name and probabilities[e] >= WORTH_SUGGESTING]
        suggestions = tuple(self._sided(name, request.side).canonical for name in near[:3])
        return replace(refusal, suggestions=suggestions)

    def _nearly_learnt(self, text: str) -> Match | None:
        """Answer a mistyped learnt term, if it can be only one; suggest one that was learnt without
        the side that is named.
        """
        side, words = _key(text)
        near = self._learnt_like(side, words)
        if len(near) == 1:
            return Match(self.term(near.pop()), "typo")
        whole = self._learnt_like(None, words) if side else set()
        if len(whole) != 1:
            return None
        (name,) = whole
        return Match(None, None, (name,), f"the {name} was taught as a whole, without sides")

    def _learnt_like(self, side: Side | None, words: tuple[str, ...]) -> set[str]:
        """The learnt terms of a side with these words in a name, mistyped or not."""
        spelt_right = {word for e in self.learnt for n in e.names for word in _key(n)[1]}
        return {
            entry.name
            for entry in self.learnt
            for its_side, known in map(_key, entry.names)
            if its_side == side
            and (words == known or is_mistyped(words, known))
            and not any(
                word in spelt_right or self._lexicon.is_spelt_right(word)
                for word in set(words) - set(known)
            )
        }

    def _match_known(self, text: str) -> Match:
        request = prompts.parse(text, self._is_name)
        if not request.words:
            reason = "no structure is named" if text.strip() else "the prompt is empty"
            return Match(None, None, (), reason)
        if prompts.names_side_of_screen(text):
            reason = "a side of the picture may be either side of the patient; name the patient's"
            return Match(None, None, self._suggest(request), reason)
        if prompts.names_two_sides_of_one(text):
            reason = "it names both sides; write 'both', or a prompt for each, separated by ;"
            return Match(None, None, self._suggest(request), reason)
        has_two_sides = request.side == "both" and len(prompts.conjuncts(text)) > 1
        return (
            self._several_sided(text)
            or (None if has_two_sides else self._by_name_of(request))
            or self._several(prompts.conjuncts(text))
            or self._by_name_of(request)
            or self._refuse_or_guess(text, request)
        )

    def _by_name_of(self, request: prompts.Request) -> Match | None:
        """Answer a prompt that is a name, its words in any order."""
        refusal = None
        for words in readings(request.words, request.side is not None):
            if found := self._lexicon.exact(words, request.side is not None):
                how: How = "exact" if words == prompts.parse(found).words else "synonym"
                answer = self._answer(Found(found, how), request.side)
                if answer.term or found not in self._by_name:
                    return answer
                refusal = refusal or answer
        return refusal

    def _refuse_or_guess(self, text: str, request: prompts.Request) -> Match:
        """Answer a prompt that is no name: a negation, several structures, a typo, unknown."""
        if request.negated:
            reason = f"{request.negated!r} can't be understood; name only what is wanted"
            return Match(None, None, self._suggest(request), reason)
        if several := self._several(prompts.parts(text)):
            return several
        for words in readings(request.words, request.side is not None):
            if found := self._look_up(words, request.side is not None):
                return self._answer(found, request.side)
        if whole := self._whole_of(request.words):
            reason = f"only the whole {whole} is known"
            return Match(None, None, (self._sided(whole, request.side).canonical,), reason)
        if found := self._describe(request.words):
            return self._answer(found, request.side)
        if elsewhere := next((w for w in request.words if w in self._elsewhere), None):
            return Match(None, None, (), f"{elsewhere!r} {ELSEWHERE}")
        return Match(None, None, self._suggest(request), UNHEARD)

    def _look_up(self, words: tuple[str, ...], has_side: bool) -> Found | None:
        """Find a name by its concepts, or mistyped."""
        if found := self._lexicon.same_concepts(words, has_side):
            return Found(found, "synonym")
        if mended := self._lexicon.mended(words):
            found = self._lexicon.exact(mended, has_side)
            if found := found or self._lexicon.same_concepts(mended, has_side):
                return Found(found, "typo")
        if misspelt := self._lexicon.misspelt(words):
            return Found(misspelt[0], "typo" if misspelt[1] else "synonym")
        return None

    def _whole_of(self, words: tuple[str, ...]) -> str | None:
        """Return what a part was asked of: "part of the thalamus", "tip of the putamen"."""
        if len(words) < 2 or words[0] not in self._document.get("words", {}).get("parts", ()):
            return None
        found = self._lexicon.exact(words[1:], has_side=False)
        return found if found in self._by_name else None

    def _describe(self, words: tuple[str, ...]) -> Found | None:
        """Find what a description means, with typing errors mended where that is possible.

        What was learnt from descriptions may know better than those in the vocabulary.
        """
        words = self._lexicon.mended(words) or words
        entry = self._lexicon.described(words)
        if entry in self._by_name and len(words) > min(LEAST_SURE_OF):
            probabilities = Describer.packaged().probabilities(words)
            likeliest = max(probabilities, key=lambda entry: probabilities[entry])
            if probabilities[likeliest] >= LEAST_SURE_TO_OVERRULE:
                entry = likeliest
        if entry in self._by_name and not self._may_mean(words, entry):
            return None
        return Found(entry, "description") if entry else None

    def _may_mean(self, words: tuple[str, ...], entry: str) -> bool:
        """Whether words can describe an entry: what begins with a name ("caudate beside the lateral
        ventricle") means nothing else, and nothing at all if that name isn't known.
        """
        starts = (
            (self._lexicon.exact(words[:n], False), n)
            for n in range(len(words) - 1, 0, -1)
            if words[n] in prompts.RELATIONS
        )
        # one word alone may be what a filler left of an unknown name: "red nucleus"
        is_name = (e for e, n in starts if e in self._by_name or (e and n > 1))
        first = next(is_name, entry)
        return first in self._by_name and not set(self.term(first).classes).isdisjoint(
            self.term(entry).classes
        )

    def _answer(self, found: Found, side: Side | None) -> Match:
        kind, _, name = found.entry.rpartition(":")
        if kind == PART:
            whole = self._sided(self._parts[name], side).canonical
            reason = f"it is a part of the {self._parts[name]}, which is known as a whole only"
            return Match(None, None, (whole,), reason)
        if kind == UNKNOWN:
            near = self._suggest(prompts.Request(prompts.parse(name).words, side, None))
            return Match(None, None, near, f"the {name} is not among the structures that are known")
        if side in ("left", "right") and not self._by_name[name].sides:
            return Match(None, None, (name,), f"the {name} is known as a whole, without sides")
        return Match(self.term(name, side), found.how)

    def _sided(self, name: str, side: Side | None) -> Term:
        return self.term(name, side if self._by_name[name].sides else None)

    def _several(self, pieces: list[str]) -> Match | None:
        """Refuse "a and b" with "a; b" as the suggestion, when each of them is known."""
        if not 2 <= len(pieces) <= 12:
            return None
        pieces = self._share_noun(prompts.without_both(_with_lone_sides(pieces)))
        matches = [self._match_plain(piece) for piece in pieces]
        if any(match.term is None or match.how == "description" for match in matches):
            return None
        terms = self._share_side([match.term for match in matches if match.term], pieces)
        union = {c for term in terms for c in term.classes}
        whole = next((t for t in self.terms() if set(t.classes) == union), None)
        if whole and len({t.name for t in terms}) == 1:
            return Match(whole, "synonym")
        suggestion = "; ".join(dict.fromkeys(t.canonical for t in terms))
        suggestions = (suggestion, whole.canonical) if whole else (suggestion,)
        return Match(None, None, suggestions, SEVERAL)

    def _several_sided(self, text: str) -> Match | None:
        """Refuse "left a, right b" as `_several` does: they are not "a b" on both sides."""
        pieces = prompts.parts(text)
        sides = {prompts.parse(piece).side for piece in pieces}
        return self._several(pieces) if {"left", "right"} <= sides else None

    def _share_noun(self, pieces: list[str]) -> list[str]:
        """Read "third and fourth ventricle" as the ventricle of each, and "cerebellar cortex and
        white matter" or "cortex and white matter of the cerebellum" as both of the cerebellum.
        """
        last, of, whole = pieces[-1].rpartition(" of ")
        if self._named_by(last) not in (None, self._named_by(pieces[-1])):
            owned = [f"{piece}{of}{whole}" for piece in pieces[:-1]]
            if all(self._named_by(piece) for piece in owned):
                pieces = [*owned, pieces[-1]]
        noun, adjective = pieces[-1].split()[-1], pieces[0].split()[0]
        pieces = [
            f"{adjective} {piece}" if self._is_one_of(piece, f"{adjective} {piece}") else piece
            for piece in pieces
        ]
        return [
            f"{piece} {noun}"
            if not self._is_answered(piece) and self._is_answered(f"{piece} {noun}")
            else piece
            for piece in pieces
        ]

    def _is_one_of(self, wide: str, narrow: str) -> bool:
        """Whether a text names one of what another names: "cerebellar white matter"."""
        whole, one = (self._named_by(text) for text in (wide, narrow))
        return bool(whole and one and one != whole and one.endswith(f" {whole}"))

    def _named_by(self, text: str) -> str | None:
        return self._lexicon.same_concepts(prompts.parse(text).words, has_side=False)

    def _is_answered(self, text: str) -> bool:
        request = prompts.parse(text, self._is_name)
        return self._lexicon.exact(request.words, request.side is not None) is not None

    def _share_side(self, terms: list[Term], pieces: list[str]) -> list[Term]:
        """Read "left caudate and putamen", and "… on the left", as the left one of each."""
        sides = [prompts.parse(piece).side for piece in pieces]
        if sides[0] is not None and not any(sides[1:]):
            return [self._sided(term.name, sides[0]) for term in terms]
        if sides[-1] is not None and not any(sides[:-1]) and prompts.side_comes_last(pieces[-1]):
            return [self._sided(term.name, sides[-1]) for term in terms]
        return terms

    def _suggest(self, request: prompts.Request) -> tuple[str, ...]:
        """Up to three known terms that look like the prompt, nearest first."""
        entries = [e for e in self._lexicon.nearest(request.words, 6) if e in self._by_name]
        return tuple(self._sided(name, request.side).canonical for name in entries[:3])

    # Look-up tables ------------------------------------------------------------------------

    @cached_property
    def _lexicon(self) -> Lexicon:
        words = self._document.get("words", {})
        return Lexicon(
            self._names(),
            self._descriptions(),
            same=_by_word(words.get("same", {})),
            related=_by_word(words.get("related", {})),
            neutral=words.get("neutral", ()),
            weak=words.get("weak", ()),
            generic=words.get("generic", ()),
            variants=prompts.ALIASES,
            others=(
                *map(prompts.singular, words.get("others", ())),
                *self._elsewhere,
                *prompts.FILLERS,
                *prompts.NEGATIONS,
            ),
        )

    @cached_property
    def _lookup(self) -> sentences.Lookup:
        words = self._document.get("words", {})
        names = {word for name in self._names() if not name.is_abroad for word in name.words}
        plain = (*words.get("neutral", ()), *words.get("weak", ()), *words.get("vague", ()))
        anatomical = (names | {*words.get("parts", ())}) - set(plain)

        learnt = {_key(name, frozenset())[1]: e.name for e in self.learnt for name in e.names}

        def entry(words: tuple[str, ...]) -> str | None:
            known = self._lexicon.exact(words, False) or self._lexicon.same_concepts(words, False)
            return learnt.get(words, known)

        return sentences.Lookup(
            entry,
            {*self._by_name, *learnt.values()}.__contains__,
            anatomical.__contains__,
            lambda word: prompts.singular(word) in self._elsewhere,
            frozenset(words.get("ambiguous", ())).__contains__,
        )

    @cached_property
    def _parts(self) -> Mapping[str, str]:
        """Name of a part to the name of its structure."""
        return {part: s.name for s in self.structures for part in s.parts}

    @cached_property
    def _elsewhere(self) -> frozenset[str]:
        return frozenset(prompts.singular(word) for word in self._document["elsewhere"])

    @cached_property
    def _single_names(self) -> frozenset[str]:
        return frozenset(n.words[0] for n in self._names() if len(n.words) == 1)

    def _is_name(self, word: str) -> bool:
        """Whether one word, perhaps in the plural, names something that can be asked for."""
        return prompts.singular(word) in self._single_names

    def _names(self) -> Iterator[Name]:
        """Every name of what is known and of what isn't."""
        for entry in (*self.structures, *self.groups):
            for name in (*entry.names, *entry.also):
                yield Name(prompts.parse(name).words, entry.name)
            for name in entry.synonyms_with_side:
                yield Name(prompts.parse(name).words, entry.name, needs_side=True)
        for language in self._document.get("languages", {}).values():
            for entry_name, names in language.items():
                for name in names:
                    yield Name(prompts.parse(name).words, entry_name, is_abroad=True)
        for part in self._parts:
            yield Name(prompts.parse(part).words, f"{PART}:{part}")
        for name in self.unknown:
            yield Name(prompts.parse(name).words, f"{UNKNOWN}:{name}")

    def _descriptions(self) -> Iterator[Description]:
        words: dict[str, tuple[str, ...]] = {}
        for entry in (*self.structures, *self.groups):
            for pattern in entry.descriptions:
                places = prompts.alternatives(pattern)
                for text in (text for place in places for text in place):
                    if text not in words:
                        words[text] = prompts.parse(text).words
                yield Description(tuple(tuple(words[t] for t in p) for p in places), entry.name)

    def _structure(self, class_name: str) -> Structure | None:
        """Return the structure of a class; None for background."""
        if class_name == BACKGROUND:
            return None
        return self._structure_of[class_name]


# Far from each other, and from the colours of the structures beside them.
_LEARNT_COLOURS: tuple[Colour, ...] = (
    (255, 215, 0), (0, 200, 255), (255, 0, 170), (120, 255, 60), (255, 130, 0), (150, 110, 255),
)  # fmt: skip


def _key(name: str, kept: frozenset[str] = prompts.TELLING) -> tuple[Side | None, tuple[str, ...]]:
    """Return what the names of learnt terms are compared by: the side, and the words in order."""
    request = prompts.parse(name, kept=kept)
    words = request.words if request.negated is None else (request.negated, *request.words)
    return request.side, words


def _structure(entry: Mapping[str, Any]) -> Structure:
    red, green, blue = entry["colour"]
    low, high = entry.get("volume_ml", (0.0, 0.0))
    return Structure(
        name=entry["name"],
        sides=bool(entry["sides"]),
        colour=(int(red), int(green), int(blue)),
        synonyms=tuple(entry["synonyms"]),
        synonyms_with_side=tuple(entry.get("synonyms_with_side", ())),
        also=tuple(entry.get("also", ())),
        descriptions=tuple(entry.get("descriptions", ())),
        parts=tuple(entry.get("parts", ())),
        volume_ml=(float(low), float(high)),
        labels={side: _values(ranges) for side, ranges in entry.get("labels", {}).items()},
        members=tuple(entry.get("members", ())),
    )


def _with_lone_sides(pieces: list[str]) -> list[str]:
    """Put a piece that says no more than a side to the one before: "a, b, all on the left"."""
    joined: list[str] = []
    for piece in pieces:
        words = prompts.parse(piece).words
        if joined and (not words or words == ("all",)):
            joined[-1] += f" {piece.removeprefix('all ')}"
        else:
            joined.append(piece)
    return joined


def _values(ranges: Iterable[int | list[int]]) -> tuple[int, ...]:
    """Write out label values: ``[2, [10, 12]]`` is 2, 10, 11, 12."""
    values: list[int] = []
    for item in ranges:
        first, last = (item, item) if isinstance(item, int) else item
        values.extend(range(first, last + 1))
    return tuple(values)


def _by_word(groups: Mapping[str, str]) -> dict[str, str]:
    """Each word of ``{"below": "beneath under"}`` to its key."""
    return {prompts.singular(w): stem for stem, words in groups.items() for w in words.split()}


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
        return (red + (255 - red) // 3, green + (255 - green) // 3, blue + (255 - blue) // 3)
    return (red * 3 // 5, green * 3 // 5, blue * 3 // 5)
