"""What a training on corrections gives, and what is left when it goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from segone_napari import cli
from segone_napari.data import formats
from segone_napari.data.vocabulary import Vocabulary
from segone_napari.models import checkpoint
from segone_napari.models.unet import UNetConfig, UNetModel
from segone_napari.project import ImageRef, NotSaved, Project, journal
from segone_napari.project.versions import Versions
from segone_napari.runtime import BadInput, Cancelled
from segone_napari.session import Session
from segone_napari.training import jobs, lessons, promotion
from segone_napari.training.cases import read_cases
from segone_napari.training.finetune import finetune
from segone_napari.training.lessons import CantLearn
from segone_napari.training.teaching import FineTuneConfig
from tests import tiny
from tests.training import phantoms
from tests.training.phantoms import TERM

QUICK = FineTuneConfig(minutes=10, steps=8, teacher=None, device="cpu")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundled checkpoints in which a tiny model that knows nothing is the base."""
    folder = tmp_path_factory.mktemp("bundled")
    tiny.save_untrained(folder / "segone")
    return folder


@pytest.fixture
def _on_an_untrained_base(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lesson needs no more, and no measuring of what the base knew: both would take seconds."""
    monkeypatch.setattr(checkpoint, "BUNDLED", untrained)
    monkeypatch.setattr(promotion, "old_structures", lambda *_: None)


quickly = pytest.mark.usefixtures("_on_an_untrained_base")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with corrections of some slices in four images."""
    made = Project(tmp_path / "project")
    for seed in range(4):
        phantoms.correct(made, tmp_path, seed)
    return made


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was trained until it knows the new term."""
    folder = tmp_path_factory.mktemp("taught")
    project = Project(folder / "project")
    for seed in range(4):
        phantoms.correct(project, folder, seed)
    finetune(project, replace(QUICK, steps=240))
    return project


def test_a_new_term_is_found_in_another_image_by_name_and_by_synonym(taught, tmp_path):
    path, truth = phantoms.save(tmp_path, 11)
    session = Session(project=taught.folder, device="cpu")
    for prompt in (TERM, "the azure stone", "Blue pebbles"):
        result = session.segment(formats.read(path), [prompt])[0]
        assert result.resolved == TERM
        assert result.found
        assert phantoms.dice(result.mask.data, truth) > 0.7


def test_without_the_project_the_new_term_is_still_refused(taught, tmp_path):
    path, _ = phantoms.save(tmp_path, 11)
    result = Session(device="cpu", preset="fast").segment(formats.read(path), [TERM])[0]
    assert result.resolved is None
    assert not result.found


def test_the_command_line_segments_with_the_project(taught, tmp_path, capsys):
    path, truth = phantoms.save(tmp_path, 12)
    out = tmp_path / "out.nii.gz"
    status = cli.main(
        ["segment", str(path), "-p", TERM, "-o", str(out), "--project", str(taught.folder)]
    )
    assert status == 0
    assert phantoms.dice((formats.read(out).data > 0).astype(np.uint8), truth) > 0.7


def test_the_card_says_what_was_held_back_and_that_nothing_old_was_lost(taught):
    version = Versions(taught.folder).all()[-1]
    card = version.card
    assert version.is_used
    assert card["better"]
    assert card["held_back_by"] == "patient"
    assert all(one["after"] > one["before"] + 0.3 for one in card["held_back"])
    old = card["old_structures"]
    assert old["mean_before"] > 0.4
    assert old["mean_after"] == old["mean_before"]
    assert (taught.folder / "training" / "version_1" / "change_1.png").stat().st_size > 500
    assert "Better" in (version.folder / "card.md").read_text()


def test_a_version_holds_weights_and_words_but_nothing_of_an_image(taught):
    folder = Versions(taught.folder).folder_of(1)
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} <= {".json", ".md", ".safetensors"}
    written = " ".join(p.read_text() for p in files if p.suffix in (".json", ".md"))
    for secret in ("phantom", "sha256", str(taught.folder.parent)):
        assert secret not in written


def test_the_base_answers_as_before(taught):
    image = phantoms.phantom(3)[0]
    old = Session(device="cpu", preset="fast").segment(image, ["brain", "left hippocampus"])
    new = Session(device="cpu", preset="fast", project=taught.folder).segment(
        image, ["brain", "left hippocampus"]
    )
    for a, b in zip(old, new, strict=True):
        assert a.box == b.box
        np.testing.assert_array_equal(a.probability, b.probability)


def test_what_a_person_corrected_is_the_answer_there(taught, tmp_path):
    path, truth = phantoms.save(taught.folder.parent, 0)
    image = formats.read(path)
    drawn = truth.copy()
    drawn[2:5, 2:5, 6] = 1
    project = Project(tmp_path / "copy")
    project.add_correction(TERM, ImageRef.of(image, path), drawn, axis=2, slices=(6,))
    Versions(project.folder).import_from(Versions(taught.folder).folder_of(1))
    Versions(project.folder).use(1)
    result = Session(project=project.folder, device="cpu").segment(image, [TERM])[0]
    np.testing.assert_array_equal(result.mask.data[:, :, 6], drawn[:, :, 6])
    assert phantoms.dice(np.delete(result.mask.data, 6, 2), np.delete(truth, 6, 2)) > 0.7


def test_a_correction_of_an_open_image_counts_once_it_is_recalled(taught, tmp_path):
    image, truth = phantoms.phantom(14)
    project = Project(tmp_path / "copy")
    versions = Versions(project.folder)
    versions.use(versions.import_from(Versions(taught.folder).folder_of(1)))
    session = Session(project=project.folder, device="cpu")
    before = session.segment(image, [TERM])[0].mask.data
    wrong = np.zeros_like(truth)
    wrong[2:5, 2:5, 9] = 1
    project.add_correction(TERM, ImageRef.of(image), wrong, axis=2, slices=(9,))
    session.recall(image)
    after = session.segment(image, [TERM])[0].mask.data
    assert before[:, :, 9].sum() > 30
    np.testing.assert_array_equal(after[:, :, 9], wrong[:, :, 9])


def test_any_version_can_be_gone_back_to(taught, capsys):
    run = ["checkpoints", str(taught.folder)]
    assert cli.main([*run, "--use", "0"]) == 0
    assert Session(project=taught.folder).system.checkpoint == "segone"
    assert cli.main([*run, "--use", "1"]) == 0
    assert Session(project=taught.folder).system.checkpoint == "1"
    capsys.readouterr()
    assert cli.main([*run, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(v["version"], v["used"]) for v in listed] == [(0, False), (1, True)]
    assert cli.main([*run, "--use", "7"]) == 2
    assert "there are: 0, 1" in capsys.readouterr().err


def test_the_number_of_a_removed_version_is_not_given_again(taught, tmp_path):
    versions = Versions(tmp_path / "project")
    source = Versions(taught.folder).folder_of(1)
    assert versions.import_from(source) == 1
    versions.pictures_of(1).mkdir(parents=True)
    versions.remove(1)
    assert not versions.pictures_of(1).exists()
    assert versions.import_from(source) == 2


def test_a_version_is_exported_and_works_in_another_project(taught, tmp_path, capsys):
    archive = tmp_path / "pebbles.zip"
    elsewhere = tmp_path / "elsewhere"
    assert cli.main(["checkpoints", str(taught.folder), "--export", "1", str(archive)]) == 0
    assert cli.main(["checkpoints", str(elsewhere), "--import", str(archive)]) == 0
    assert cli.main(["checkpoints", str(elsewhere), "--use", "1"]) == 0
    image, truth = phantoms.phantom(13)
    result = Session(project=elsewhere, device="cpu").segment(image, [TERM])[0]
    assert phantoms.dice(result.mask.data, truth) > 0.7


def _of_a_unet(folder: Path) -> None:
    names = Vocabulary.packaged()
    model = UNetModel(UNetConfig(channels=(4, 8)), names.class_names)
    checkpoint.save_checkpoint(model, names, checkpoint.Manifest("unet"), folder)


def _without_a_lesson_on_what_it_knows(folder: Path) -> None:
    shutil.copytree(checkpoint.resolve_checkpoint(None, "segone"), folder)
    Vocabulary.packaged().with_term(TERM).save(folder / "vocabulary.json")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_of_a_unet, "a checkpoint of unet, and a project's versions are of segone"),
        (_without_a_lesson_on_what_it_knows, f"no lesson on {TERM!r}"),
    ],
)
def test_a_version_that_could_not_answer_is_not_taken_in(make, words, tmp_path, capsys):
    make(tmp_path / "foreign")
    project = tmp_path / "project"
    assert cli.main(["checkpoints", str(project), "--import", str(tmp_path / "foreign")]) == 2
    assert words in capsys.readouterr().err
    assert Versions(project).numbers() == ()


@quickly
def test_one_patient_is_measured_by_slice_and_the_card_says_so(tmp_path):
    project = Project(tmp_path / "project")
    phantoms.correct(project, tmp_path, 0, slices=(5, 7, 9, 11, 13))
    outcome = finetune(project, QUICK)
    assert outcome.card["held_back_by"] == "slice"


@quickly
def test_one_slice_is_too_few_to_measure_and_is_used_only_if_insisted(tmp_path):
    project = Project(tmp_path / "project")
    phantoms.correct(project, tmp_path, 0, slices=(9,))
    outcome = finetune(project, QUICK)
    assert not outcome.is_used
    assert "too few corrections" in outcome.card["reason"]
    assert Versions(project.folder).used() == 0

    def cancel_too_late(stage: str, share: float) -> None:
        if share == 1.0:
            raise Cancelled

    again = finetune(project, replace(QUICK, promote=True), cancel_too_late)
    assert again.is_used
    assert Versions(project.folder).used() == again.version == 2


@quickly
def test_an_empty_mask_teaches_that_it_is_not_there(project, tmp_path):
    image, mask = phantoms.phantom(20)
    path = tmp_path / "without.nii.gz"
    formats.write(image, path)
    project.add_correction(TERM, ImageRef.of(formats.read(path), path), np.zeros_like(mask))
    assert finetune(project, QUICK).version == 1


@quickly
def test_one_voxel_is_learnt_from_without_an_error(tmp_path):
    project = Project(tmp_path / "project")
    path, mask = phantoms.save(tmp_path, 0)
    one = np.zeros_like(mask)
    one[13, 19, 9] = 1
    image = formats.read(path)
    project.add_correction(TERM, ImageRef.of(image, path), one, axis=2, slices=(9,))
    assert finetune(project, replace(QUICK, promote=True)).version == 1
    session = Session(project=project.folder, device="cpu")
    session.recall(image)
    result = session.segment(image, [TERM])[0]
    assert result.found  # a person drew it
    assert result.mask.data[13, 19, 9] == 1


@quickly
def test_a_damaged_correction_is_left_out_and_named(project):
    (project.folder / "corrections" / "0002" / "voxels.npz").write_bytes(b"PK damaged")
    outcome = finetune(project, QUICK)
    assert any("0002" in remark and "damaged" in remark for remark in outcome.card["remarks"])


@quickly
def test_contradictory_corrections_are_named_and_the_later_counts(project, tmp_path):
    path, mask = phantoms.save(tmp_path, 0)
    ref = ImageRef.of(formats.read(path), path)
    project.add_correction(TERM, ref, 1 - mask, axis=2, slices=(8,))
    cases, remarks = read_cases(project, Session(device="cpu").system.vocabulary)
    assert any("the later one counts" in remark for remark in remarks)
    told = next(case for case in cases if case.patient == ref.checksum).told[TERM]
    np.testing.assert_array_equal(told.mask[:, :, 8], 1 - mask[:, :, 8])
    np.testing.assert_array_equal(told.mask[:, :, 10], mask[:, :, 10])


@quickly
def test_an_image_that_is_gone_is_named_and_the_others_are_learnt_from(project, tmp_path):
    (tmp_path / "phantom_1.nii.gz").unlink()
    outcome = finetune(project, QUICK)
    assert any("phantom_1" in remark for remark in outcome.card["remarks"])


def test_without_corrections_it_says_what_to_do(tmp_path, capsys):
    assert cli.main(["finetune", str(tmp_path / "empty")]) == 2
    assert "segone correct" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


def test_a_mask_on_another_grid_is_refused(tmp_path, capsys):
    path, _ = phantoms.save(tmp_path, 0)
    image, mask = phantoms.phantom(0)
    moved = image.affine.copy()
    moved[0, 3] += 5
    other = tmp_path / "mask.nii.gz"
    formats.write(type(image).from_affine(mask, moved), other)
    call = ["correct", str(tmp_path / "p"), str(path), "-p", TERM, "--mask", str(other)]
    assert cli.main(call) == 2
    assert "on the image's own grid" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_the_command_line_keeps_slices_of_a_mask(tmp_path, capsys):
    path, mask = phantoms.save(tmp_path, 0)
    file = tmp_path / "mask.nii.gz"
    formats.write(phantoms.phantom(0)[0].with_data(mask), file)
    call = ["correct", str(tmp_path / "p"), str(path), "-p", TERM, "--mask", str(file)]
    assert cli.main([*call, "--slices", "8,9", "--axis", "k", "--synonym", "stone"]) == 0
    kept = Project(tmp_path / "p").corrections().usable[0]
    assert (kept.axis, kept.slices, kept.synonyms) == (2, (8, 9), ("stone",))
    np.testing.assert_array_equal(kept.mask()[:, :, 8], mask[:, :, 8])


def test_one_label_of_several_is_kept_and_what_is_no_mask_is_refused(tmp_path, capsys):
    path, mask = phantoms.save(tmp_path, 0)
    image = phantoms.phantom(0)[0]
    labels, soft = tmp_path / "labels.nii.gz", tmp_path / "soft.nii.gz"
    twice = mask * 2
    twice[0, 0, 0] = 5
    formats.write(image.with_data(twice), labels)
    formats.write(image.with_data(mask * np.float32(0.5) + (twice == 5)), soft)
    call = ["correct", str(tmp_path / "p"), str(path), "-p", TERM, "--mask"]
    for file, options, words in (
        (labels, [], "the labels 2, 5; say with --label which one it is"),
        (labels, ["--label", "3"], "has no label 3, but 2, 5"),
        (soft, [], "like an image or probabilities"),
        (path, ["--label", "2"], "like an image or probabilities"),
    ):
        assert cli.main([*call, str(file), *options]) == 2
        assert words in capsys.readouterr().err
    assert cli.main([*call, str(labels), "--label", "2"]) == 0
    (kept,) = Project(tmp_path / "p").corrections().usable
    np.testing.assert_array_equal(kept.mask(), mask)


def test_the_command_line_keeps_that_it_is_not_there(tmp_path, capsys):
    path, mask = phantoms.save(tmp_path, 0)
    file = tmp_path / "mask.nii.gz"
    formats.write(phantoms.phantom(0)[0].with_data(np.zeros_like(mask)), file)
    assert (
        cli.main(["correct", str(tmp_path / "p"), str(path), "-p", TERM, "--mask", str(file)]) == 0
    )
    assert f"no {TERM!r} in all slices" in capsys.readouterr().out
    (kept,) = Project(tmp_path / "p").corrections().usable
    assert kept.known().all()
    assert not kept.mask().any()


@pytest.mark.parametrize("name", ["cyst; stone", "x" * 81, "caudate and putamen"])
def test_the_command_line_refuses_what_could_not_be_asked_for(name, tmp_path, capsys):
    path, _ = phantoms.save(tmp_path, 0)
    call = ["correct", str(tmp_path / "p"), str(path), "--mask", str(path)]
    assert cli.main([*call, "-p", name]) == 2
    assert cli.main([*call, "-p", TERM, "--synonym", name]) == 2
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-p", "sac", "--synonym", "abscess"], "'abscess' means the abscess and can't mean 'sac'"),
        (["-p", "abcsess"], "taken for a typing error of 'abscess'; write that"),
        (["-p", "hipocampus"], "taken for a typing error of 'hippocampus'; write that"),
    ],
)
def test_a_name_that_is_taken_already_is_refused(options, words, tmp_path, capsys):
    path, mask = phantoms.save(tmp_path, 0)
    file = tmp_path / "mask.nii.gz"
    formats.write(phantoms.phantom(0)[0].with_data(mask), file)
    call = ["correct", str(tmp_path / "p"), str(path), "--mask", str(file)]
    assert cli.main([*call, "-p", "abscess"]) == 0
    assert cli.main([*call, *options]) == 2
    assert words in capsys.readouterr().err
    assert len(Project(tmp_path / "p").corrections().usable) == 1


def test_a_name_that_would_be_split_is_refused_with_what_to_do(tmp_path, capsys):
    path, _ = phantoms.save(tmp_path, 0)
    call = ["correct", str(tmp_path / "p"), str(path), "--mask", str(path), "-p"]
    assert cli.main([*call, "left caudate and putamen"]) == 2
    said = capsys.readouterr().err
    assert "asked for as 'left caudate' and 'left putamen'; correct one at a time" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-p", "not the thalamus"], "'not' can't be understood"),
        (["-p", "left"], "no structure is named"),
        (["-p", "my bump", "--axis", "i"], "--axis is of --slices"),
        (["-p", "my bump", "--patient", "  "], "--patient is blank"),
        (["-p", "my bump", "--synonym", "hippocampus"], "'hippocampus' means the hippocampus"),
    ],
)
def test_a_name_that_means_nothing_or_something_else_is_refused(options, words, tmp_path, capsys):
    path, _ = phantoms.save(tmp_path, 0)
    call = ["correct", str(tmp_path / "p"), str(path), "--mask", str(path)]
    assert cli.main([*call, *options]) == 2
    assert words in capsys.readouterr().err


def test_a_name_like_a_mistyped_one_is_refused_with_the_right_one(tmp_path, capsys):
    path, _ = phantoms.save(tmp_path, 0)
    call = ["correct", str(tmp_path / "p"), str(path), "--mask", str(path)]
    assert cli.main([*call, "-p", "hipocampus"]) == 2
    assert "hippocampus" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--steps", "0"], ["--steps", "-5"], ["--seed", "-1"]])
def test_the_command_line_refuses_to_train_for_nothing(option, project, capsys):
    assert cli.main(["finetune", str(project.folder), *option]) == 2
    assert "give" in capsys.readouterr().err
    assert _is_untouched(project)


# --- faults -------------------------------------------------------------------------------------


def _is_untouched(project: Project) -> bool:
    """Whether no version, and nothing half-made, is there, and all corrections are."""
    left = [p.name for p in (project.folder / "checkpoints").glob("*")]
    return not left and len(project.corrections().usable) == 4


@quickly
def test_a_loss_that_is_no_number_ends_in_a_sentence(project, monkeypatch):
    monkeypatch.setattr(
        lessons, "lesson_loss", lambda logits, truth, weight: logits.sum() * float("nan")
    )
    with pytest.raises(CantLearn, match="nothing was changed"):
        finetune(project, QUICK)
    assert _is_untouched(project)


@quickly
def test_a_loss_that_is_no_number_once_doesnt_end_it(project, monkeypatch):
    whole, calls = lessons.lesson_loss, []

    def once(logits, truth, weight):
        calls.append(1)
        return whole(logits, truth, weight) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(lessons, "lesson_loss", once)
    outcome = finetune(project, QUICK)
    state = checkpoint.load_lessons(Versions(project.folder).folder_of(outcome.version))
    assert all(torch.isfinite(p).all() for p in state[0].network.parameters())


@quickly
def test_smaller_batches_when_memory_runs_out(project, monkeypatch):
    step, sizes = lessons._step, []

    def short(network, optimizer, batch):
        sizes.append(len(batch[0]))
        if len(batch[0]) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(network, optimizer, batch)

    monkeypatch.setattr(lessons, "_step", short)
    assert finetune(project, QUICK).version == 1
    assert sizes[:3] == [8, 4, 2]


@quickly
@pytest.mark.parametrize("where", [(lessons, "_step"), (promotion, "make_card")])
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_no_memory_at_all_ends_in_a_sentence(project, monkeypatch, where, error):
    def none(*_):
        raise error

    monkeypatch.setattr(*where, none)
    with pytest.raises(CantLearn, match="not enough memory"):
        finetune(project, QUICK)
    assert _is_untouched(project)


@quickly
@pytest.mark.parametrize("where", ["weights", "card"])
def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing(project, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "weights":
        monkeypatch.setattr(checkpoint, "save_file", full)
    else:
        monkeypatch.setattr(promotion, "write_card", full)
    with pytest.raises(NotSaved, match="the disk is full; free some space"):
        finetune(project, QUICK)
    assert _is_untouched(project)


@quickly
def test_cancelled_leaves_everything_as_it_was(project):
    def stop(stage: str, share: float) -> None:
        if stage == "learning":
            raise Cancelled

    with pytest.raises(Cancelled):
        finetune(project, QUICK, stop)
    assert _is_untouched(project)


@quickly
def test_a_second_training_of_the_same_project_is_refused(project):
    def again(stage: str, share: float) -> None:
        if stage == "learning":
            with pytest.raises(BadInput, match="another training of this project is running"):
                finetune(project, QUICK)
            with pytest.raises(BadInput, match="another training of this project is running"):
                jobs.TrainingJob.start(project.folder)
            raise Cancelled

    with pytest.raises(Cancelled):
        finetune(project, QUICK, again)


def test_a_line_torn_while_the_disk_was_full_loses_no_other_event(tmp_path, monkeypatch):
    said = jobs.Chronicle(tmp_path)
    said.folder.mkdir()
    said.begin()
    whole = said.folder / "progress.jsonl"
    add = journal.append_lines

    def full(path, lines):
        add(path, lines[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(journal, "append_lines", full)
        said.progress("learning", 0.5)
    assert not whole.read_bytes().endswith(b"\n")
    said.write({"event": "done", "version": 1, "used": False, "card": {}})
    for _ in range(2):
        events = jobs.TrainingJob(tmp_path).events()
        assert [event["event"] for event in events] == ["started", "progress", "done"]


# --- in a process of its own --------------------------------------------------------------------


def test_of_two_started_at_once_one_trains_and_the_other_says_why_it_does_not(project):
    options = jobs.JobOptions(minutes=10, steps=100_000, teacher=None, device="cpu")
    both = [jobs.TrainingJob.start(project.folder, options) for _ in range(2)]
    ends = {}
    until = time.monotonic() + 120
    while not ends:
        assert time.monotonic() < until
        ends = {n: e for n, job in enumerate(both) for e in job.events() if e["event"] == "failed"}
        time.sleep(0.1)
    (loser,) = ends
    assert "another training of this project is running" in ends[loser]["message"]
    winner = both[1 - loser]
    assert all(event["event"] in ("started", "progress") for event in winner.events())
    watching = jobs.TrainingJob.running(project.folder)
    assert next(event["event"] for event in watching.events()) == "started"
    winner.cancel()
    assert winner.wait(120)[-1] == watching.wait(120)[-1] == {"event": "cancelled"}


def test_killed_in_the_middle_nothing_is_lost_and_it_goes_on_from_there(project):
    steps = 80
    options = jobs.JobOptions(minutes=10, steps=steps, teacher=None, device="cpu")
    job = jobs.TrainingJob.start(project.folder, options)
    state = project.folder / "training" / "state"
    for event in jobs.follow(job):
        assert event["event"] in ("started", "progress"), event
        if list(state.glob("*.safetensors")):
            break
    started = json.loads(
        (project.folder / "training" / "progress.jsonl").read_text().split("\n")[0]
    )
    os.kill(started["pid"], signal.SIGKILL)
    last = job.wait(60)[-1]
    assert last["event"] == "failed"
    assert "ended from outside" in last["message"]
    assert "train again" in last["message"]
    assert not Versions(project.folder).numbers()
    assert len(project.corrections().usable) == 4
    with safe_open(state / "0_drawn.safetensors", framework="pt") as file:
        kept = json.loads(file.metadata()["facts"])["numbers"].get("step", steps)
    assert kept >= 20
    again = jobs.TrainingJob.start(project.folder, options)
    events = list(jobs.follow(again))
    assert events[-1]["event"] == "done", events[-1]
    first = next(event for event in events if event.get("stage") == "learning")
    # learning with a part held back goes from 0.15 to 0.64
    assert first["share"] >= 0.149 + 0.49 * kept / steps
    assert Versions(project.folder).numbers() == (1,)
    assert not list((project.folder / "checkpoints").glob(".training-*"))
    assert not state.exists()


def test_a_job_outlives_the_window_and_is_cancelled_from_another(project):
    # the window is a process that dies as soon as it has started the training
    options = "minutes=10, steps=100_000, teacher=None, device='cpu'"
    window = (
        "from segone_napari.training.jobs import JobOptions, TrainingJob; import os, signal; "
        f"TrainingJob.start({str(project.folder)!r}, JobOptions({options})); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", window]).returncode == -signal.SIGKILL
    until = time.monotonic() + 120
    while (job := jobs.TrainingJob.running(project.folder)) is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    for event in jobs.follow(job):
        assert event["event"] in ("started", "progress"), event
        if event.get("stage") == "learning":
            break
    job.cancel()
    assert job.wait(60)[-1] == {"event": "cancelled"}
    assert jobs.TrainingJob.running(project.folder) is None
    assert not Versions(project.folder).numbers()
