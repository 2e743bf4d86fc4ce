"""Understands a prompt as a term of the vocabulary, or refuses it and says what comes near.

In this order: what corrections taught, names (`segone_napari.data.lexicon`), several structures,
typing errors, descriptions in the vocabulary, what a sentence asks for
(`segone_napari.data.sentences`), and descriptions in anybody's words
(`segone_napari.data.descriptions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from segone_napari.data import prompts, sentences
from segone_napari.data.descriptions import Describer
from segone_napari.data.lexicon import Description, Found, How, Lexicon, Name, is_mistyped, readings
from segone_napari.data.prompts import Side
from segone_napari.data.terms import Match, Term

if TYPE_CHECKING:
    from segone_napari.data.vocabulary import Vocabulary

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


class Matcher:
    """Understands prompts.

    Parameters
    ----------
    vocabulary : what can be asked for.
    like : the matcher of a vocabulary that differs in what was learnt only; its look-up tables,
        which take a second to fill, serve this one as well.
    """

    def __init__(self, vocabulary: Vocabulary, like: Matcher | None = None) -> None:
        self._vocabulary = vocabulary
        if like is not None:
            self._lexicon, self._single_names = like._lexicon, like._single_names

    def match(self, text: str) -> Match:
        """Understand one prompt: `Vocabulary.match`."""
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

    def _match_learnt(self, text: str) -> Match | None:
        """Answer what corrections taught; it comes first, since a person wanted it so."""
        key = learnt_key(text)
        for entry in self._vocabulary.learnt:
            if key in (learnt_key(name) for name in entry.names):
                how: How = "exact" if key == learnt_key(entry.name) else "synonym"
                return Match(self._vocabulary.term(entry.name), how)
        plain = learnt_key(text, kept=frozenset())  # "the cyst on T2" is the cyst
        entry_of = {
            learnt_key(name): entry for entry in self._vocabulary.learnt for name in entry.names
        }
        return (
            Match(self._vocabulary.term(entry_of[plain].name), "description")
            if plain in entry_of
            else None
        )

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
        if prompts.names_side_of_body(text):
            reason = "a side of the body is mostly the other one of the brain; name the brain's"
            return Match(None, None, self._suggest(prompts.Request(words, None, None)), reason)
        if refusal.reason == UNHEARD:
            least = LEAST_SURE_OF.get(len(words), LEAST_SURE)
        elif refusal.reason.endswith(ELSEWHERE) and request.side is None:
            least = LEAST_SURE_OF_ELSEWHERE  # "the stalk that runs into the spinal cord"
        else:
            return refusal
        probabilities = Describer.packaged().probabilities(words)
        known = {e: p for e, p in probabilities.items() if e in self._vocabulary.entries}
        entry, probability = next(iter(probabilities.items()))
        if entry in known and probability >= least and self._may_mean(words, entry):
            return self._answer(Found(entry, "description"), request.side)
        if refusal.suggestions or refusal.reason != UNHEARD:
            return refusal
        near = [name for name, share in known.items() if share >= WORTH_SUGGESTING]
        suggestions = tuple(self._sided(name, request.side).canonical for name in near[:3])
        return replace(refusal, suggestions=suggestions)

    def _nearly_learnt(self, text: str) -> Match | None:
        """Answer a mistyped learnt term, if it can be only one; suggest one that was learnt without
        the side that is named.
        """
        side, words = learnt_key(text)
        near = self._learnt_like(side, words)
        if len(near) == 1:
            return Match(self._vocabulary.term(near.pop()), "typo")
        whole = self._learnt_like(None, words) if side else set()
        if len(whole) != 1:
            return None
        (name,) = whole
        return Match(None, None, (name,), f"the {name} was taught as a whole, without sides")

    def _learnt_like(self, side: Side | None, words: tuple[str, ...]) -> set[str]:
        """The learnt terms of a side with these words in a name, mistyped or not."""
        spelt_right = {
            word for e in self._vocabulary.learnt for n in e.names for word in learnt_key(n)[1]
        }
        return {
            entry.name
            for entry in self._vocabulary.learnt
            for its_side, known in map(learnt_key, entry.names)
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
                if answer.term or found not in self._vocabulary.entries:
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
        if len(words) < 2 or words[0] not in self._vocabulary.words.get("parts", ()):
            return None
        found = self._lexicon.exact(words[1:], has_side=False)
        return found if found in self._vocabulary.entries else None

    def _describe(self, words: tuple[str, ...]) -> Found | None:
        """Find what a description means, with typing errors mended where that is possible.

        What was learnt from descriptions may know better than those in the vocabulary.
        """
        words = self._lexicon.mended(words) or words
        entry = self._lexicon.described(words)
        if entry in self._vocabulary.entries and len(words) > min(LEAST_SURE_OF):
            probabilities = Describer.packaged().probabilities(words)
            likeliest, probability = next(iter(probabilities.items()))
            if probability >= LEAST_SURE_TO_OVERRULE:
                entry = likeliest
        if entry in self._vocabulary.entries and not self._may_mean(words, entry):
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
        is_name = (e for e, n in starts if e in self._vocabulary.entries or (e and n > 1))
        first = next(is_name, entry)
        return first in self._vocabulary.entries and not set(
            self._vocabulary.term(first).classes
        ).isdisjoint(self._vocabulary.term(entry).classes)

    def _answer(self, found: Found, side: Side | None) -> Match:
        kind, _, name = found.entry.rpartition(":")
        if kind == PART:
            whole = self._sided(self._parts[name], side).canonical
            reason = f"it is a part of the {self._parts[name]}, which is known as a whole only"
            return Match(None, None, (whole,), reason)
        if kind == UNKNOWN:
            near = self._suggest(prompts.Request(prompts.parse(name).words, side, None))
            return Match(None, None, near, f"the {name} is not among the structures that are known")
        if side in ("left", "right") and not self._vocabulary.entries[name].sides:
            return Match(None, None, (name,), f"the {name} is known as a whole, without sides")
        return Match(self._vocabulary.term(name, side), found.how)

    def _sided(self, name: str, side: Side | None) -> Term:
        return self._vocabulary.term(name, side if self._vocabulary.entries[name].sides else None)

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
        whole = next((t for t in self._vocabulary.terms() if set(t.classes) == union), None)
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
        entries = [
            e for e in self._lexicon.nearest(request.words, 6) if e in self._vocabulary.entries
        ]
        return tuple(self._sided(name, request.side).canonical for name in entries[:3])

    # Look-up tables ------------------------------------------------------------------------

    @cached_property
    def _lexicon(self) -> Lexicon:
        words = self._vocabulary.words
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
        words = self._vocabulary.words
        names = {word for name in self._names() if not name.is_abroad for word in name.words}
        plain = (*words.get("neutral", ()), *words.get("weak", ()), *words.get("vague", ()))
        anatomical = (names | {*words.get("parts", ())}) - set(plain)

        learnt = {
            learnt_key(name, frozenset())[1]: e.name
            for e in self._vocabulary.learnt
            for name in e.names
        }

        def entry(words: tuple[str, ...]) -> str | None:
            known = self._lexicon.exact(words, False) or self._lexicon.same_concepts(words, False)
            return learnt.get(words, known)

        return sentences.Lookup(
            entry,
            {*self._vocabulary.entries, *learnt.values()}.__contains__,
            anatomical.__contains__,
            lambda word: prompts.singular(word) in self._elsewhere,
            frozenset(words.get("ambiguous", ())).__contains__,
        )

    @cached_property
    def _parts(self) -> Mapping[str, str]:
        """Name of a part to the name of its structure."""
        return {part: s.name for s in self._vocabulary.structures for part in s.parts}

    @cached_property
    def _elsewhere(self) -> frozenset[str]:
        return frozenset(prompts.singular(word) for word in self._vocabulary.elsewhere)

    @cached_property
    def _single_names(self) -> frozenset[str]:
        return frozenset(n.words[0] for n in self._names() if len(n.words) == 1)

    def _is_name(self, word: str) -> bool:
        """Whether one word, perhaps in the plural, names something that can be asked for."""
        return prompts.singular(word) in self._single_names

    def _names(self) -> Iterator[Name]:
        """Every name of what is known and of what isn't."""
        for entry in (*self._vocabulary.structures, *self._vocabulary.groups):
            for name in (*entry.names, *entry.also):
                yield Name(prompts.parse(name).words, entry.name)
            for name in entry.synonyms_with_side:
                yield Name(prompts.parse(name).words, entry.name, needs_side=True)
        for language in self._vocabulary.languages.values():
            for entry_name, names in language.items():
                for name in names:
                    yield Name(prompts.parse(name).words, entry_name, is_abroad=True)
        for part in self._parts:
            yield Name(prompts.parse(part).words, f"{PART}:{part}")
        for name in self._vocabulary.unknown:
            yield Name(prompts.parse(name).words, f"{UNKNOWN}:{name}")

    def _descriptions(self) -> Iterator[Description]:
        words: dict[str, tuple[str, ...]] = {}
        for entry in (*self._vocabulary.structures, *self._vocabulary.groups):
            for pattern in entry.descriptions:
                places = prompts.alternatives(pattern)
                for text in (text for place in places for text in place):
                    if text not in words:
                        words[text] = prompts.parse(text).words
                yield Description(tuple(tuple(words[t] for t in p) for p in places), entry.name)


def learnt_key(
    name: str, kept: frozenset[str] = prompts.TELLING
) -> tuple[Side | None, tuple[str, ...]]:
    """Return what the names of learnt terms are compared by: the side, and the words in order."""
    request = prompts.parse(name, kept=kept)
    words = request.words if request.negated is None else (request.negated, *request.words)
    return request.side, words


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


def _by_word(groups: Mapping[str, str]) -> dict[str, str]:
    """Each word of ``{"below": "beneath under"}`` to its key."""
    return {prompts.singular(w): stem for stem, words in groups.items() for w in words.split()}
