"""Finds what a sentence asks for: "82 y/o, memory loss: measure both hippocampi in mL, please".

A sentence is cut into clauses, and names are looked for in each. What a clause with a request
names is asked for; what the others name is why, or for whom. Where that leaves two readings, such
as a side that belongs to nothing or a name among words that may change it, nothing is found. Knows
how requests are written; what is a name, it is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from segone_napari.data import prompts

_PRONOUN = r"(?:i|we|he|she|they|you|it|this|there)\b"
_CONNECTIVE = (
    r"(?:because|since|as|while|when|who|whose|which|before|after|during|due to|given|so|although|"
    r"though|to (?:check|rule|see if|plan|assess|evaluate|compare|monitor|look for)|"
    r"for(?! (?:me|us)\b)|with (?:suspected|known|possible|probable))\s"
)
_CLAUSES = re.compile(
    r"(?<=[a-z0-9)\]])[.](?:\s+|$)|[?!;:\n]+\s*|(,)\s*|/{2,}|\s+[-\u2013\u2014]+\s+|[\u2013\u2014]"
    rf"|[()\[\]\"\u201c\u201d]|\s+(?={_PRONOUN})|(?<!look)\s+(?={_CONNECTIVE})",
    re.IGNORECASE,
)
"""Where a clause may end and another begin; a comma alone may also join what is asked for."""

_NUMBERS_OF_ONE_NOUN = re.compile(
    r"\b(third|3rd)\s*(and|&|\+|/|,)\s*(?:the\s+)?(fourth|4th)\s+(ventricle)s?\b", re.IGNORECASE
)
_RELATIVE = re.compile(
    r"\b(of|in|through|to|from|by|for|with|on|at|into|around|within|over|under) which\b",
    re.IGNORECASE,
)
"""A "which" that begins no question: "the gate through which the senses reach the cortex"."""
_SIDE_IN_BRACKETS = re.compile(
    r"[(\[]\s*(left|right|l|r|lt|rt|both|bilateral|both sides)\.?\s*[)\]]", re.IGNORECASE
)
_ASKS = re.compile(
    r"^\s*(?:is|are|can|could|may|has|have|do|does|how|what|where|which|will|would)\b"
    r"|\b(?:please|pls|plz|kindly|need(?:ed|s)?|wants?|wanted|would (?:like|love)|like to|"
    r"['\u2019]d (?:like|love|want|need)|require[ds]?|appreciate|outlin(?:e|es|ed|ing)|segs?|"
    r"segment(?:ed|ing|ation|ations)?|show|highlight(?:ed)?|delineat(?:e|ed|ion|ing)|"
    r"mark(?:ed|ing)?|label(?:led)?|draw|trace|contour(?:ed|ing|s)?|find|locate|display|extract|"
    r"measur(?:e|ed|ing)|quantif(?:y|ied)|isolate|select|paint|colou?r(?:ed)?|annotate|"
    r"visuali[sz]e|compute|calculate|estimate|report|generate|create|give|get|make|put|save|"
    r"export|overlay|redo|compar(?:e|ing)|point(?:ed)? out|verify|check|see|tell|"
    r"how (?:big|large|thick|heavy|much|many)|what is|what['\u2019]s|masks?|roi|req|use|crop|"
    r"wondering|look(?:ing)? (?:at|for)|volumetry|volumes?|vols?|sizes?|atrophy|asked about|"
    r"(?:of )?interest(?:ed)?)\b",
    re.IGNORECASE,
)
"""What makes a clause a request."""

_UNIT = re.compile(
    r"\b(?:in\s+)?(?:\d+(?:[.,]\d+)?\s*)?(?:ml|mls|cc|ccm|cm3|mm3|cm|mm|percent)\b(?:\^3)?|%"
    r"|\b(?:cm|mm)(?:\^?[23]|[\u00b2\u00b3])",
    re.IGNORECASE,
)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ONE_SIDE = prompts.LEFT | prompts.RIGHT
_SIDES = _ONE_SIDE | prompts.BOTH
_JOINERS = _set("and or plus also")
_SMALL = prompts.FILLERS | _SIDES | prompts.SIDE_COMPANIONS
_NO_NAME = prompts.FILLERS | _SIDES | _JOINERS | {"all"}
_PLAIN = _SMALL | _JOINERS | {"only"}
_BESIDE_SIDES = prompts.FILLERS | prompts.SIDE_COMPANIONS | {"hemisphere"}
_MODEST = _set(
    "seg req put place set drew drawn irradiate provide deliver including include namely ie eg aka "
    "with by that into onto to than against versus vs per about whether how then just only "
    "missing pending requested yields total mean average whole entire patients patient child adult "
    "neonatal healthy normal her his their our my this enlarged dilated atrophic swollen shrunken "
    "first earlier previous current nothing else again exporting"
)
_SAYS_LITTLE = _NO_NAME | _MODEST
"""Words that leave a name beside them what it is."""
_ANIMALS = _set(
    "mouse mice rat rats fish zebrafish dog dogs cat cats monkey macaque pig pigs cow bird horse "
    "rabbit sheep fly worm frog"
)
LONGEST_NAME = 8
"""Words of a name, articles included."""


@dataclass(frozen=True)
class Lookup:
    """What a sentence is searched with.

    Attributes
    ----------
    entry : what words in the form of `prompts.key` name, whether it is known or not; else None.
    is_known : whether an entry can be asked for.
    is_anatomical : whether a word is one of anatomy, which changes a name that it stands beside.
    is_elsewhere : whether a word names what lies elsewhere.
    is_ambiguous : whether a word alone, in lower case, may mean something else in a sentence.
    """

    entry: Callable[[tuple[str, ...]], str | None]
    is_known: Callable[[str], bool]
    is_anatomical: Callable[[str], bool]
    is_elsewhere: Callable[[str], bool]
    is_ambiguous: Callable[[str], bool]


@dataclass(frozen=True)
class _Span:
    """A name in a clause: its first token, the one behind its last, and what it names."""

    start: int
    end: int
    entry: str


@dataclass(frozen=True)
class _Clause:
    """A clause: its tokens, the names in it, whether it asks for something, and whether only a
    comma comes before it.
    """

    tokens: tuple[str, ...]
    spans: tuple[_Span, ...]
    asks: bool
    goes_on: bool

    @property
    def names_only(self) -> bool:
        """Whether it says nothing besides names and their sides."""
        named = {i for span in self.spans for i in range(span.start, span.end)}
        return bool(named) and all(
            token in _PLAIN for i, token in enumerate(self.tokens) if i not in named
        )

    @property
    def begins_with_a_name(self) -> bool:
        """Whether nothing but small words comes before its first name."""
        before = self.tokens[: self.spans[0].start] if self.spans else ("",)
        return all(token in _NO_NAME for token in before)


def asked_for(text: str, lookup: Lookup) -> str | None:
    """Return the names that a sentence asks for, with their sides, joined by "and"; or None.

    Examples of what makes it None: no name, or several in a sentence without a request; a negation
    beside the name; a side that stands apart from it; a name that is part of another ("artery of
    the hippocampus"), or something unknown that is asked for as well.
    """
    text = _SIDE_IN_BRACKETS.sub(r" \1 ", text)
    text = _RELATIVE.sub(r"\1 that", text)
    text = _NUMBERS_OF_ONE_NOUN.sub(r"\1 \4 \2 \3 \4", text)
    pieces = _CLAUSES.split(text)  # texts, and between them a comma or None
    clauses = [
        _clause(part, lookup, goes_on=comma is not None)
        for part, comma in zip(pieces[::2], [None, *pieces[1::2]], strict=True)
        if part.strip()
    ]
    if any(token in _ANIMALS for clause in clauses for token in clause.tokens):
        return None
    with_names = [n for n, clause in enumerate(clauses) if clause.spans]
    asking = [n for n in with_names if clauses[n].asks]
    known = {n for n in with_names if any(lookup.is_known(s.entry) for s in clauses[n].spans)}
    entries = {span.entry for n in known for span in clauses[n].spans}
    if not asking and len(entries) == 1 and any(clause.asks for clause in clauses):
        asking = sorted(known)  # "the left caudate looks odd, mark it"
    chosen = set(asking or (n for n in with_names if clauses[n].names_only))
    for n in with_names:  # "outline a, b and c" is cut at its comma
        is_next = clauses[n].goes_on and clauses[n].begins_with_a_name
        if n - 1 in chosen and (is_next or clauses[n].names_only):
            chosen.add(n)
    if not chosen or (not asking and known - chosen):
        return None
    in_order = sorted(chosen)
    found: list[str] = []
    for n in in_order:
        names = _names_of(clauses[n], lookup)
        if names is None:
            return None
        found += names
    entries = {span.entry for n in chosen for span in clauses[n].spans}
    if len(entries) > 1 and len(chosen) > 1 and not _is_one_list(clauses, in_order):
        return None
    names_side = any(set(prompts.tokenize(name)) & _SIDES for name in found)
    others = {t for n, c in enumerate(clauses) if n not in chosen for t in c.tokens}
    if not names_side and others & _ONE_SIDE:
        return None
    return " and ".join(dict.fromkeys(found))


def _is_one_list(clauses: list[_Clause], chosen: list[int]) -> bool:
    """Whether the chosen clauses are one enumeration: all but the first begin with a name."""
    return all(clauses[n].begins_with_a_name for n in chosen[1:]) and chosen == list(
        range(chosen[0], chosen[0] + len(chosen))
    )


def _clause(text: str, lookup: Lookup, *, goes_on: bool) -> _Clause:
    text = _UNIT.sub(" ", text)
    tokens = tuple(prompts.tokenize(text))
    shouted = {token.lower() for token in re.findall(r"\w+[A-Z]\w*|\b[A-Z][A-Z\d]\w*", text)}
    spans = []
    start = 0
    while start < len(tokens):
        span = _longest_name(tokens, start, shouted, lookup)
        if span is not None:
            spans.append(span)
        start = start + 1 if span is None else span.end
    return _Clause(tokens, tuple(spans), _ASKS.search(text) is not None, goes_on)


def _longest_name(
    tokens: tuple[str, ...], start: int, shouted: set[str], lookup: Lookup
) -> _Span | None:
    """The longest name that begins with a token."""
    if tokens[start] in _NO_NAME:
        return None
    for end in range(min(len(tokens), start + LONGEST_NAME), start, -1):
        inner = tokens[start:end]
        if inner[-1] in _NO_NAME or not _SIDES.isdisjoint(inner):
            continue
        words = prompts.key(list(inner))
        joiner = next((n for n, token in enumerate(inner) if token in _JOINERS), None)
        if joiner is not None and lookup.entry(prompts.key(list(inner[:joiner]))):
            continue  # two names, not one
        if end == start + 1 and lookup.is_ambiguous(words[0]) and tokens[start] not in shouted:
            continue
        if entry := lookup.entry(words):
            return _Span(start, end, entry)
    return None


def _names_of(clause: _Clause, lookup: Lookup) -> list[str] | None:
    """The names of a clause with their sides; None if one can't be asked for or isn't clear."""
    tokens = clause.tokens
    is_but = clause.asks and clause.goes_on and tokens[0] == "but"  # "no rush, but show me the …"
    if any(t in prompts.NEGATIONS or lookup.is_elsewhere(t) for t in tokens[is_but:]):
        return None
    names, attached = [], set()
    for span in clause.spans:
        if not lookup.is_known(span.entry) or not _stands_alone(clause, span, lookup):
            return None
        before = _side_beside(tokens, range(span.start - 1, -1, -1))
        after = _side_beside(tokens, range(span.end, len(tokens)))
        if before is not None and before in attached:
            before = None
        sides = [n for n in (before, after) if n is not None]
        attached.update(sides)
        if len({tokens[n] in prompts.LEFT for n in sides if tokens[n] not in prompts.BOTH}) > 1:
            return None
        name = " ".join(tokens[span.start : span.end])
        front = f"{tokens[before]} " if before is not None else ""
        back = f" {tokens[after]}" if after is not None else ""
        names.append(f"{front}{name}{back}")
    apart = [n for n, t in enumerate(tokens) if t in _ONE_SIDE]
    return None if set(apart) - attached else names


def _side_beside(tokens: tuple[str, ...], places: range) -> int | None:
    """Where the side is that stands beside a name, with nothing but small words between."""
    for place in places:
        if tokens[place] in _SIDES:
            return place
        if tokens[place] not in _BESIDE_SIDES and not _ASKS.search(tokens[place]):
            return None
    return None


def _stands_alone(clause: _Clause, span: _Span, lookup: Lookup) -> bool:
    """Whether nothing beside a name makes it another, and nothing unknown is asked for with it.

    "Hippocampal sulcus", "tip of the putamen", "behind the thalamus", "putamen and something".
    """
    tokens = clause.tokens
    starts, ends = ({getattr(s, end) for s in clause.spans} for end in ("start", "end"))

    # 1. What comes behind it.
    place = span.end
    if place < len(tokens) and place not in starts and _is_anatomical(tokens[place], lookup):
        return False
    while place < len(tokens) and tokens[place] in _SMALL:
        place += 1
    if place < len(tokens) and tokens[place] in _JOINERS:
        while place < len(tokens) and (tokens[place] in _SMALL or tokens[place] in _JOINERS):
            place += 1
        if place < len(tokens) and place not in starts and not _says_little(tokens[place]):
            return False

    # 2. What comes before it, back to what asks for it.
    place = span.start - 1
    while place >= 0 and (tokens[place] in _SIDES or tokens[place] in prompts.SIDE_COMPANIONS):
        place -= 1
    if place < 0 or place + 1 in ends or _ASKS.search(tokens[place]):
        return True
    if tokens[place] in prompts.RELATIONS and tokens[place] not in _SAYS_LITTLE:
        return False
    if not _says_little(tokens[place]):
        is_long = span.end - span.start > 1  # "incidental white matter lesions"
        return is_long and not _is_anatomical(tokens[place], lookup)
    has_of = has_joiner = False
    while place >= 0 and place + 1 not in ends and _says_little(tokens[place]):
        if _ASKS.search(tokens[place]):
            return True
        has_of = has_of or tokens[place] in ("of", "in", "from", "within", "on", "to")
        has_joiner = has_joiner or tokens[place] in _JOINERS
        place -= 1
    if place < 0:
        return True
    if place + 1 in ends:
        return not has_of
    if tokens[place] in prompts.RELATIONS or has_joiner:
        return False
    return not (has_of and _is_anatomical(tokens[place], lookup))


def _says_little(token: str) -> bool:
    """Whether a word beside a name leaves it what it is."""
    return token in _SAYS_LITTLE or _ASKS.search(token) is not None


def _is_anatomical(token: str, lookup: Lookup) -> bool:
    return token not in _SAYS_LITTLE and lookup.is_anatomical(prompts.singular(token))
