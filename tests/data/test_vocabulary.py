"""What a prompt is understood as, and what is refused."""

import importlib.util
import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from segone_napari.data.prompts import split_prompts
from segone_napari.data.vocabulary import Term, Vocabulary
from segone_napari.runtime import BadCheckpoint

VOCABULARY = Vocabulary.load()
ENTRIES = (*VOCABULARY.structures, *VOCABULARY.groups)


def understood(text: str) -> str | None:
    term = VOCABULARY.match(text).term
    return term.canonical if term else None


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_name_is_understood_as_its_own_entry(entry):
    for name in entry.names:
        match = VOCABULARY.match(name)
        assert match.term is not None, name
        assert match.term.name == entry.name, name
        assert match.how in ("exact", "synonym"), name
        assert match.term.side == ("both" if entry.sides else None), name


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.sides], ids=lambda entry: entry.name)
def test_every_name_keeps_its_side(entry):
    for name in (*entry.names, *entry.synonyms_with_side):
        assert understood(f"left {name}") == f"left {entry.name}", name
        assert understood(f"{name}, right") == f"right {entry.name}", name


@pytest.mark.parametrize("term", VOCABULARY.terms(), ids=lambda term: f"{term.name}, {term.side}")
def test_every_canonical_name_is_understood_as_itself(term):
    match = VOCABULARY.match(term.canonical)
    assert match.term == term
    assert match.how == "exact"


def test_every_training_phrase_is_understood_as_its_class():
    for class_name in VOCABULARY.class_names[1:]:
        for phrase in VOCABULARY.phrases(class_name):
            term = VOCABULARY.match(phrase).term
            assert term is not None, phrase
            assert term.classes == (class_name,), phrase


def test_no_training_phrase_names_two_classes():
    phrases = [p for c in VOCABULARY.class_names for p in VOCABULARY.phrases(c)]
    assert len(set(phrases)) == len(phrases)


def test_a_part_is_refused_and_the_whole_is_suggested():
    for structure in VOCABULARY.structures:
        for part in structure.parts:
            match = VOCABULARY.match(part)
            assert match.term is None, part
            assert match.suggestions == (structure.name,), part
            assert structure.name in match.reason


@pytest.mark.parametrize(
    "text",
    [
        "left hippocampus",
        "LEFT HIPPOCAMPUS",
        "lt hippocampus",
        "Lt. hippocampus",
        "L hippocampus",
        "l. hippocampus",
        "Hippocampus, L",
        "hippocampus (left)",
        "left hippocampus (HC)",
        "hippocampus [L]",
        "hippocampus: left",
        "hippocampus - left",
        "Left-Hippocampus",
        "left_hippocampus",
        "leftHippocampus",
        "hippocampus sinister",
        "hippocampus sin.",
        "hippocampus sinistra",
        "left-sided hippocampus",
        "hippocampus on the left side",
        "the hippocampus on the left",
        "left hand side hippocampus",
        "hippocampus of the left hemisphere",
        "hippocampus in the left hemisphere of the brain",
        "lh hippocampus",
        "Please outline the left hippocampus!",
        "Can you segment the patient's left hippocampus in this MRI?",
        "I want to see the left hippocampus",
        "  left \t hippocampus  ",
        "left hippocámpus",
        "left hippocampi",
        "left Ammon\u2019s horn",
        "right-handed patient, left hippocampus",
        "Left-handed elderly woman. Outline the left hippocampus",
        "right now the left hippocampus",
        "what is left of the left hippocampus",
        "hippocampus on the left-handed side",
    ],
)
def test_the_left_hippocampus_is_understood_however_it_is_written(text):
    assert understood(text) == "left hippocampus"


@pytest.mark.parametrize(
    "text",
    [
        "right thalamus",
        "R thalamus",
        "rt. thalamus",
        "thalamus dexter",
        "thalamus dx",
        "thalamus, right-sided",
        "the thalamus of the right hemisphere",
    ],
)
def test_the_right_thalamus_is_understood_however_it_is_written(text):
    assert understood(text) == "right thalamus"


@pytest.mark.parametrize(
    "text",
    [
        "caudate",
        "right now the caudate",
        "show me the caudate right away",
        "what is left of the caudate",
        "all right then, caudate",
        "both caudates",
        "bilateral caudate nuclei",
        "caudate nucleus, bilat.",
        "left and right caudate",
        "left/right caudate",
        "L+R caudate",
        "caudate on either side",
        "both sides of the caudate",
        "left caudate and right caudate",
    ],
)
def test_a_paired_structure_is_both_when_no_one_side_is_named(text):
    assert VOCABULARY.match(text).term == Term(
        "caudate",
        "both",
        ("left caudate", "right caudate"),
        VOCABULARY.term("caudate").colour,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hipocampus", "hippocampus"),
        ("left hippocampis", "left hippocampus"),
        ("hippo campus", "hippocampus"),
        ("right amygdela", "right amygdala"),
        ("tahlamus", "thalamus"),
        ("brian", "brain"),
        ("cerebrel cortex", "cerebral cortex"),
        ("cerebeller cortex", "cerebellar cortex"),
        ("lateral ventrical", "lateral ventricle"),
        ("fourth ventrical", "fourth ventricle"),
        ("left globus palidus", "left pallidum"),
    ],
)
def test_a_typo_is_understood_and_said(text, expected):
    match = VOCABULARY.match(text)
    assert match.term is not None
    assert match.term.canonical == expected
    # A missing or extra space alone is just another spelling.
    assert match.how == ("synonym" if text == "hippo campus" else "typo")


@pytest.mark.parametrize("text", ["GP", "gp", "WM", "LV", "NAcc", "CSF", "ICV"])
def test_an_abbreviation_is_understood_in_any_case(text):
    assert VOCABULARY.match(text).how == "synonym"


@pytest.mark.parametrize("text", ["GX", "WN", "LW", "CSP", "TVI", "PUB", "grain", "vortex"])
def test_a_short_word_is_never_taken_for_a_typo(text):
    assert understood(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "?!",
        "left",
        "the",
        "asdf",
        "1",
        "background",
        "liver",
        "left lung",
        "right eye",
        "left hip",
        "spinal cord",
        "elephant",
        "tumour of the liver",
        "left ventricle of the heart",
        "cardiac ventricles",
        "caudate lobe of the liver",
        "renal cortex",
        "adrenal cortex",
        "hippocampus tumour",
        "anterior left hippocampus edge",
        "ipsilateral thalamus",
        "nucleus",
        "matter",
    ],
)
def test_what_is_not_in_the_vocabulary_is_refused_with_a_reason(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert match.how is None
    assert match.reason


@pytest.mark.parametrize(
    "text",
    [
        "no tumour",
        "without hippocampus",
        "brain without ventricles",
        "not the thalamus",
        "don't segment the thalamus",
        "don\u2019t segment the thalamus",
        "everything except the brainstem",
        "hippocampus w/o amygdala",
    ],
)
def test_a_negation_is_refused_and_named(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert "name only what is wanted" in match.reason


@pytest.mark.parametrize(
    ("text", "suggestions"),
    [
        ("caudate and thalamus", ("caudate; thalamus",)),
        ("caudate / thalamus", ("caudate; thalamus",)),
        ("thalamus, putamen, pallidum", ("thalamus; putamen; pallidum",)),
        ("left caudate and putamen", ("left caudate; left putamen", "left dorsal striatum")),
        ("left hippocampus and right amygdala", ("left hippocampus; right amygdala",)),
    ],
)
def test_several_structures_are_refused_and_their_separation_is_suggested(text, suggestions):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert match.suggestions == suggestions
    for prompt in split_prompts(suggestions[0]):
        assert VOCABULARY.match(prompt).how == "exact"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lateral ventricle of left hemisphere and of right hemisphere", "lateral ventricle"),
        ("thalamus on the right side and on the left side", "thalamus"),
        ("cortex of the left hemisphere and the right hemisphere", "cerebral cortex"),
        ("left hemisphere and right hemisphere", "cerebrum"),
    ],
)
def test_sides_that_are_named_one_after_the_other_are_both_of_the_same(text, expected):
    assert VOCABULARY.separate(text) == [text]
    assert understood(text) == expected


@pytest.mark.parametrize("text", ["left brainstem", "right CSF", "left 3rd ventricle"])
def test_a_side_of_what_has_none_is_refused_and_the_whole_is_suggested(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert "without sides" in match.reason
    assert VOCABULARY.match(match.suggestions[0]).how == "exact"


def test_a_refused_prompt_gets_near_terms_on_its_own_side():
    assert "left thalamus" in VOCABULARY.match("left epithalamus").suggestions


@pytest.mark.parametrize("text", ["zzzzqqqq", "elephant", "left elephant", "telephone", "table"])
def test_a_word_that_resembles_nothing_gets_no_suggestions(text):
    assert VOCABULARY.match(text).suggestions == ()


def test_what_only_mentions_a_word_is_not_suggested():
    assert not {"cerebrospinal fluid", "brain"} & {*VOCABULARY.match("skull").suggestions}
    assert "corpus striatum" in VOCABULARY.match("corpus").suggestions


@pytest.mark.parametrize("text", ["left cyst", "cyst on the right", "both cysts"])
def test_a_taught_term_is_suggested_where_a_side_of_it_is_asked_for(text):
    match = VOCABULARY.with_term("cyst").match(text)
    assert (match.term, match.suggestions) == (None, ("cyst",))
    assert "without sides" in match.reason


def test_left_ventricle_is_the_lateral_one_and_ventricles_are_all():
    assert understood("left ventricle") == "left lateral ventricle"
    assert understood("ventricles") == "ventricles"
    classes = VOCABULARY.term("ventricles").classes
    assert {"third ventricle", "fourth ventricle", "right lateral ventricle"} <= set(classes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left-Cerebral-White-Matter", "left cerebral white matter"),
        ("Right-Cerebral-Cortex", "right cerebral cortex"),
        ("Left-Lateral-Ventricle", "left lateral ventricle"),
        ("Left-Inf-Lat-Vent", "left inferior lateral ventricle"),
        ("Right-Cerebellum-White-Matter", "right cerebellar white matter"),
        ("Right-Cerebellum-Cortex", "right cerebellar cortex"),
        ("Left-Thalamus-Proper", "left thalamus"),
        ("Left-Accumbens-area", "left accumbens"),
        ("Right-VentralDC", "right ventral diencephalon"),
        ("Left-choroid-plexus", "left choroid plexus"),
        ("3rd-Ventricle", "third ventricle"),
        ("4th-Ventricle", "fourth ventricle"),
        ("Brain-Stem", "brainstem"),
        ("Optic-Chiasm", "optic chiasm"),
        ("WM-hypointensities", "white matter lesions"),
    ],
)
def test_freesurfer_names_are_understood(text, expected):
    assert understood(text) == expected


def test_groups_are_unions_on_their_side():
    assert VOCABULARY.term("striatum", "left").classes == (
        "left caudate",
        "left putamen",
        "left accumbens",
    )
    assert set(VOCABULARY.term("lentiform nucleus").classes) == {
        "left putamen",
        "right putamen",
        "left pallidum",
        "right pallidum",
    }
    # Lesions have no side, so they belong to the white matter of both sides only.
    assert "white matter lesions" in VOCABULARY.term("white matter").classes
    assert "white matter lesions" not in VOCABULARY.term("white matter", "left").classes


def test_background_is_the_first_class_and_belongs_to_no_term():
    assert VOCABULARY.class_names[0] == "background"
    assert all("background" not in term.classes for term in VOCABULARY.terms())


def test_intracranial_space_is_every_class_but_background():
    assert set(VOCABULARY.term("intracranial space").classes) == set(VOCABULARY.class_names[1:])


def test_swapping_sides_twice_changes_nothing():
    for name in VOCABULARY.class_names:
        assert VOCABULARY.swap_side(VOCABULARY.swap_side(name)) == name
    assert VOCABULARY.swap_side("left putamen") == "right putamen"
    assert VOCABULARY.swap_side("brainstem") == "brainstem"
    assert VOCABULARY.swap_side("background") == "background"


def test_priors_are_shares_that_add_up_to_one():
    priors = [VOCABULARY.prior(name) for name in VOCABULARY.class_names]
    assert sum(priors) == pytest.approx(1.0)
    assert min(priors) > 0.0
    assert VOCABULARY.prior("background") == max(priors)
    assert VOCABULARY.prior("left thalamus") > VOCABULARY.prior("left accumbens")


def test_left_labels_mirror_right_labels():
    labels = VOCABULARY.labels
    assert labels[17] == "left hippocampus"
    assert labels[53] == "right hippocampus"
    assert labels[1035] == "left cerebral cortex"
    assert labels[2035] == "right cerebral cortex"
    assert labels[12100] == "right cerebral cortex"
    assert labels[25] == labels[57] == "white matter lesions"
    assert {labels[v] for v in (31, 136, 137)} == {"left choroid plexus"}
    assert labels[0] == "background"
    assert 507 not in labels
    named = set(labels.values())
    assert named == {VOCABULARY.swap_side(name) for name in named}


def test_every_class_has_a_label_and_no_label_two_classes():
    no_value = {"tumour"}  # FreeSurfer doesn't know tumours
    assert set(VOCABULARY.labels.values()) | no_value == set(VOCABULARY.class_names)
    values = [v for s in VOCABULARY.structures for group in s.labels.values() for v in group]
    assert len(set(values)) == len(values)


def test_labels_without_a_side_name_a_paired_structure():
    assert VOCABULARY.split_labels[251] == "cerebral white matter"
    assert not set(VOCABULARY.split_labels) & set(VOCABULARY.labels)
    for name in VOCABULARY.split_labels.values():
        assert VOCABULARY.term(name).side == "both"


def test_colours_of_terms_differ():
    colours = [term.colour for term in VOCABULARY.terms()]
    assert len(set(colours)) == len(colours)
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    assert VOCABULARY.colour("left caudate") == VOCABULARY.term("caudate", "left").colour


def test_a_saved_vocabulary_is_read_back_the_same(tmp_path):
    path = tmp_path / "vocabulary.json"
    VOCABULARY.save(path)
    again = Vocabulary.load(path)
    assert again.class_names == VOCABULARY.class_names
    assert again.terms() == VOCABULARY.terms()
    assert again.match("Ammon's horn") == VOCABULARY.match("Ammon's horn")


def test_a_bad_vocabulary_file_is_said(tmp_path):
    path = tmp_path / "vocabulary.json"
    with pytest.raises(BadCheckpoint, match="can't read"):
        Vocabulary.load(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="damaged"):
        Vocabulary.load(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="damaged"):
        Vocabulary.load(path)
    path.write_text(json.dumps({"format": 99}), encoding="utf-8")
    with pytest.raises(BadCheckpoint, match="format 99"):
        Vocabulary.load(path)


def test_prompts_are_split_at_semicolons_and_line_breaks_only():
    assert split_prompts("left hippocampus; CSF,\n a and b ;; ") == [
        "left hippocampus",
        "CSF,",
        "a and b",
    ]
    assert split_prompts(" ; \n") == []


def test_a_numbered_list_is_split_at_its_numbers():
    text = "1. hippocampus 2) left amygdala, 3. temporal horn"
    assert split_prompts(text) == ["hippocampus", "left amygdala,", "temporal horn"]
    assert split_prompts("4. Ventrikel") == ["4. Ventrikel"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grey matter anterior to the left hippocampus", "left amygdala"),
        ("cavity behind the pons", "fourth ventricle"),
        ("the two thalami", "thalamus"),
        ("nucleus medial to the right putamen", "right pallidum"),
        ("organ in the middle of the cerebellum", None),
        ("thalamic region on the left", "left thalamus"),
        ("LHipp", "left hippocampus"),
        ("rightputamen", "right putamen"),
        ("RV", None),
        ("She forgets a lot. Please outline the hippocampi.", "hippocampus"),
        ("How big is the right amygdala?", "right amygdala"),
        ("draw a line around the third ventricle", "third ventricle"),
        ("basel ganglia", "basal ganglia"),
        ("basil ganglia", "basal ganglia"),
        ("ventricles 1 to 4", "ventricles"),
        ("internal capsule, posterior limb", None),
        ("Can you draw the cerebrospinal fluid around the brain?", "cerebrospinal fluid"),
        ("my left hippocampus", "left hippocampus"),
        ("show my daughter's left thalamus", "left thalamus"),
        ("compare the right hippocampus with the left hippocampus", "hippocampus"),
    ],
)
def test_people_s_own_words_are_understood(text, expected):
    assert understood(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "posterior amygdala",
        "anterior thalamus",
        "tip of the putamen",
        "part of the hippocampus",
        "amygdala beside the hippocampus",
        "caudate lesion",
        "tumour core",
        "fluid dynamics",
        "grey wolf",
        "outer space",
        "pituitary gland",
        "hippopotamus",
        "brainstorm",
    ],
)
def test_what_is_more_or_less_than_a_name_is_not_taken_for_it(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert match.reason


def test_a_description_is_said_to_be_one():
    assert VOCABULARY.match("almond in front of the hippocampus").how == "description"


@pytest.mark.parametrize(
    "text",
    [
        "hippocampus on the left of the image",
        "right side of the screen",
        "image left caudate",
        "the patient's right, my left, hippocampus",
    ],
)
def test_a_side_of_the_picture_is_not_a_side_of_the_patient(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert "patient" in match.reason


def test_two_sides_with_their_own_structure_are_both():
    term = VOCABULARY.match("L hippocampus R hippocampus").term
    assert (term.canonical, term.side) == ("hippocampus", "both")


@pytest.mark.parametrize(
    "text",
    [
        "left right hippocampus",
        "right-sided left hippocampus",
        "L or R hippocampus?",
        "hippocampus on the affected side",
        "hippocampus of the dominant hemisphere",
        "caudate on one side",
        "the smaller of the two hippocampi",
        "contralateral hippocampus",
        "one of the two hippocampi",
        "only one putamen",
        "either thalamus",
        "putamen (L? R?)",
        "temporal horn, side unknown",
        "the right or maybe left accumbens",
        "the cerebral hemisphere opposite the lesion",
        "the bigger of the lateral ventricles",
        "accumbens on the side of the stroke",
    ],
)
def test_a_side_that_is_left_open_is_refused(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert "which side" in match.reason
    assert VOCABULARY.with_term(text).match(text).term is not None, "a name that a person gave"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the right one of the lateral ventricles", "right lateral ventricle"),
        ("just one structure: the left hippocampus", "left hippocampus"),
        ("only one mask of the hippocampus", "hippocampus"),
        ("either side of the hippocampus", "hippocampus"),
    ],
)
def test_one_of_a_pair_may_be_named_and_one_mask_is_no_side(text, expected):
    assert understood(text) == expected


@pytest.mark.parametrize(
    "text", ["left hippocampus on the right", "hippocampus left amygdala right", "lt caudate rt"]
)
def test_two_sides_that_nothing_joins_are_refused(text):
    match = VOCABULARY.match(text)
    assert match.term is None
    assert "both sides" in match.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("82 y/o with memory loss, measure both hippocampi in mm3", "hippocampus"),
        ("we'd like the right caudate of this Huntington patient", "right caudate"),
        ("DBS planning: need the left globus pallidus", "left pallidum"),
        ("Is the fourth ventricle enlarged? Please delineate it.", "fourth ventricle"),
        ("weakness of the right arm, so please outline the left thalamus", "left thalamus"),
        ("hippocampus (right) in yellow, as a mask for my thesis", "right hippocampus"),
        ("The resident drew the left putamen badly, redo it", "left putamen"),
        ("no rush, but give me the choroid plexus for a study of inflammation", "choroid plexus"),
    ],
)
def test_what_a_sentence_asks_for_is_understood(text, expected):
    assert understood(text) == expected


def test_a_sentence_may_ask_for_what_was_taught():
    vocabulary = VOCABULARY.with_term("left cavernoma")
    match = vocabulary.match("34 y/o with seizures, please measure the left cavernoma in mm3")
    assert match.term is not None
    assert match.term.name == "left cavernoma"
    assert VOCABULARY.match("34 y/o with seizures, please measure the left cavernoma").term is None


@pytest.mark.parametrize(
    "text",
    [
        "seizures on the left, please outline the hippocampus",  # which side?
        "we have seen the thalamus, now outline the pituitary gland",
        "please outline the artery of the hippocampus for my thesis",
        "can you segment the hippocampus and the subiculum for me",
        "could you give me the hippocampus and the flurb",
        "please outline everything without the thalamus, for a study",
        "could we have the hippocampus of this mouse in red",
        "show the third and the fifth ventricle in this patient",
    ],
)
def test_a_sentence_that_may_ask_for_something_else_is_refused(text):
    assert VOCABULARY.match(text).term is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hippocampus links", "left hippocampus"),
        ("l'hippocampe droit", "right hippocampus"),
        ("tálamo izquierdo", "left thalamus"),
        ("linker Seitenventrikel", "left lateral ventricle"),
        ("noyau caudé", "caudate"),
        ("sostanza bianca", "white matter"),
    ],
)
def test_names_in_other_languages_are_understood(text, expected):
    assert understood(text) == expected


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("left caudate and putamen", ["left caudate", "left putamen"]),
        ("caudate and putamen on the right", ["right caudate", "right putamen"]),
        ("3rd and 4th ventricles", ["third ventricle", "fourth ventricle"]),
        ("L/R thalamus and brainstem", ["thalamus", "brainstem"]),
        ("left hippocampus, right amygdala", ["left hippocampus", "right amygdala"]),
        ("left and right hippocampus", ["left and right hippocampus"]),
        ("rt caudate, lt putamen", ["right caudate", "left putamen"]),
        (
            "accumbens, pallidum and thalamus, all left",
            ["left accumbens", "left pallidum", "left thalamus"],
        ),
        ("cerebellar cortex and white matter", ["cerebellar cortex", "cerebellar white matter"]),
        (
            "put the left hippocampus, left amygdala and left thalamus into three files",
            ["left hippocampus", "left amygdala", "left thalamus"],
        ),
        (
            "cortex and white matter of the cerebellum",
            ["cerebellar cortex", "cerebellar white matter"],
        ),
        ("both the left caudate and the left putamen", ["left caudate", "left putamen"]),
        ("both caudate and putamen on the left", ["left caudate", "left putamen"]),
        ("both caudates and the putamen on the left", ["caudate", "left putamen"]),
        ("lateral ventricles with choroid plexus", ["lateral ventricle", "choroid plexus"]),
        (
            "for my thesis I need the outlines of the caudate and the nucleus accumbens",
            ["caudate", "accumbens"],
        ),
        (
            "Teach me: show the third and the fourth ventricle, please",
            ["third ventricle", "fourth ventricle"],
        ),
        ("all cerebral ventricles in one mask", ["all cerebral ventricles in one mask"]),
        ("hippocampus and liver", ["hippocampus and liver"]),
        ("hippocampus but not amygdala", ["hippocampus but not amygdala"]),
    ],
)
def test_several_known_structures_become_one_prompt_each(text, pieces):
    assert VOCABULARY.separate(text) == pieces


def test_an_older_vocabulary_of_the_same_classes_learns_the_newer_names(tmp_path):
    document = json.loads((files("segone_napari.data") / "vocabulary.json").read_text("utf-8"))
    for key in ("words", "unknown"):
        del document[key]
    for entry in (*document["structures"], *document["groups"]):
        entry.pop("descriptions", None)
        entry.pop("also", None)
    older = Vocabulary(document)
    assert older.match("hemicerebellum").term is None
    assert older.brought_up_to_date().match("hemicerebellum").term is not None
    document["structures"].pop()
    document["groups"] = []
    other = Vocabulary(document)
    assert other.brought_up_to_date() is other


@pytest.mark.parametrize(("phrases", "least"), [("PHRASES", 150), ("BY_OTHERS", 330)])
def test_the_text_benchmark_keeps_its_bars(phrases, least):
    path = Path(__file__).parents[2] / "benchmarks" / "text.py"
    spec = importlib.util.spec_from_file_location("text_benchmark", path)
    benchmark = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    right: dict[tuple[str, bool], list[bool]] = {}
    for phrase in benchmark.read_phrases(getattr(benchmark, phrases), VOCABULARY):
        answer = benchmark.understand(phrase.text, VOCABULARY)
        outcome = benchmark.judge(answer, phrase.means, VOCABULARY)
        kind = (phrase.half, bool(phrase.means))
        right.setdefault(kind, []).append(outcome == benchmark.expected(phrase))
    for half in benchmark.HALVES:
        assert len(right[half, True]) > least
        assert sum(right[half, True]) >= 0.9 * len(right[half, True])
        assert sum(right[half, False]) >= 0.95 * len(right[half, False])
    assert benchmark.share_of_names_refused(VOCABULARY) == 0


@pytest.mark.parametrize(
    ("learnt", "asked"),
    [
        ("superior longitudinal fasciculus", "inferior longitudinal fasciculus"),
        ("superior cerebellar peduncle", "inferior cerebellar peduncle"),
        ("anterior cingulate gyrus", "posterior cingulate gyrus"),
        ("internal carotid artery", "external carotid artery"),
        ("hypointense rim", "hyperintense rim"),
        ("enhancing tumour", "nonenhancing tumour"),
        ("macroadenoma", "microadenoma"),
        ("metastasis 1", "metastasis 2"),
        ("nodule b", "nodule c"),
        ("red nucleus", "blue nucleus"),
        ("T1 black hole", "T2 black hole"),
    ],
)
def test_learnt_term_does_not_answer_for_its_opposite(learnt, asked):
    vocabulary = VOCABULARY.with_term(learnt)
    assert vocabulary.match(learnt).how == "exact"
    assert vocabulary.match(asked).term is None
    both = vocabulary.with_term(asked)
    assert [both.match(name).term.name for name in (learnt, asked)] == [learnt, asked]


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        ("superior longitudnal fasciculus", "typo"),
        ("superiorlongitudinal fasciculus", "typo"),
        ("the superior longitudinal fasciculus in red", "description"),
        ("Superior longitudinal fasciculi", "typo"),
    ],
)
def test_mistyped_learnt_term_is_understood(asked, how):
    match = VOCABULARY.with_term("superior longitudinal fasciculus").match(asked)
    assert match.how == how
