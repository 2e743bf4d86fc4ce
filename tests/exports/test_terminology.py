"""Codes: every structure has one, and each is what the standard's own dictionary says."""

import json
from importlib.resources import files

import pytest
from pydicom.sr._concepts_dict import concepts

from segone_napari.data.vocabulary import Vocabulary
from segone_napari.exports.terminology import PRIVATE_SCHEME, Code, coding_of

VOCABULARY = Vocabulary.load()
TABLE = json.loads((files("segone_napari.exports") / "terminology.json").read_text("utf-8"))
ALL_MEANINGS = {
    (scheme, code, meaning.lower().removesuffix(" (body structure)"))
    for scheme in ("SCT", "DCM", "FMA")
    for concept in concepts[scheme].values()
    for code, (meaning, _) in concept.items()
}
# Concepts that DICOM's context groups leave out: names and numbers as SNOMED CT has them, and for
# lentiform nucleus and striatum the numbers that Uberon refers to (UBERON:0002263, UBERON:0002435).
NOT_IN_DICOM = {
    ("SCT", "279319002", "lentiform nucleus"),
    ("FMA", "77618", "striatum"),
    ("SCT", "32610002", "basal ganglion structure"),
    ("SCT", "21031007", "infratentorial brain structure"),
    ("SCT", "222036002", "supratentorial brain structure"),
}
# No code system that DICOM names has a code for these groups.
WITHOUT_STANDARD_CODE = {
    "dorsal striatum",
    "deep grey matter",
    "amygdalohippocampal complex",
    "brain parenchyma",
}


@pytest.mark.parametrize("structure", [s.name for s in VOCABULARY.structures])
def test_every_structure_has_a_standard_code(structure: str) -> None:
    assert coding_of(structure).type.scheme in ("SCT", "DCM")


def test_codes_and_meanings_are_the_dictionary_s() -> None:
    for term in VOCABULARY.terms():
        coding = coding_of(term.canonical)
        for code in (coding.category, coding.type, coding.side, coding.region):
            if code is not None:
                check(code)


def test_every_row_of_the_table_has_codes_of_the_dictionary() -> None:
    rows = {row["name"]: row for row in TABLE["terms"]}
    for row in rows.values():
        for entry in (row, row.get("region", row)):
            check(Code(entry["scheme"], entry["code"], entry["meaning"]))
    assert (rows["tumour"]["code"], rows["tumour"]["region"]["meaning"]) == ("108369006", "Brain")


def check(code: Code) -> None:
    if code.scheme == PRIVATE_SCHEME:
        return
    assert (code.scheme, code.value, code.meaning.lower()) in ALL_MEANINGS | NOT_IN_DICOM, code
    assert code.scheme != "SCT" or has_valid_check_digit(code.value), code


def has_valid_check_digit(number: str) -> bool:
    """Whether the last digit of a SNOMED CT identifier fits the others (Verhoeff's code)."""
    # Of the dihedral group D5: 0 to 4 are rotations, 5 to 9 reflections.
    turn = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    check = 0
    for place, sign in enumerate(reversed(number)):
        digit = int(sign)
        for _ in range(place % 8):
            digit = turn[digit]
        rotation = (check + (digit if check < 5 else -digit)) % 5
        check = rotation if (check < 5) == (digit < 5) else 5 + rotation
    return check == 0


def test_check_digit_finds_a_mistyped_code() -> None:
    assert has_valid_check_digit("12738006")
    assert not has_valid_check_digit("12738066")
    assert not has_valid_check_digit("17238006")


def test_groups_are_coded_or_marked_as_private() -> None:
    codings = {group.name: coding_of(group.name) for group in VOCABULARY.groups}
    for coding in codings.values():
        assert len(coding.type.meaning) <= 64
        assert coding.type.scheme in ("SCT", "FMA", PRIVATE_SCHEME)
    private = {name for name, c in codings.items() if c.type.scheme == PRIVATE_SCHEME}
    assert private == WITHOUT_STANDARD_CODE
    assert coding_of("left cerebrum").type == Code("SCT", "11628009", "Telencephalon")


def test_group_without_a_standard_code_lies_in_a_region_that_has_one() -> None:
    for name in WITHOUT_STANDARD_CODE:
        region = coding_of(name).region
        assert region is not None, name
        assert region.scheme == "SCT", name
    region = coding_of("left dorsal striatum").region
    assert region is not None
    assert region.meaning == "Corpus striatum"


def test_sides_are_coded() -> None:
    left, right, both = (coding_of(f"{side}caudate") for side in ("left ", "right ", ""))
    assert left.type == right.type == both.type
    assert [c.side.meaning for c in (left, right, both) if c.side] == ["Left", "Right", "Bilateral"]
    assert coding_of("brainstem").side is None


def test_unknown_structure_gets_a_private_code_of_its_name() -> None:
    assert coding_of("Koch's cyst").type == Code(PRIVATE_SCHEME, "koch-s-cyst", "Koch's cyst")
