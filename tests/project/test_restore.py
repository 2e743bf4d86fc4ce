"""Nothing lost: killed programs, torn and damaged files, disks that are full or read-only."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from segone_napari.project import Case, EditHistory, ImageRef, NotSaved, Project, Row
from segone_napari.project import case as case_module
from segone_napari.project import journal as journal_module
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume
from tests.project.work import Facts, blob, do_something, facts, whole_past_and_future

ROOT = Path(__file__).parents[2]


def worked_on(case: Case, steps: int, seed: int = 0, snapshot_at: int | None = None) -> list[Facts]:
    """Work on a case and let it go as a killed program does; the facts after each record."""
    history = EditHistory.open(case)
    rng = np.random.default_rng(seed)
    states = [facts(history)]
    for step in range(steps):
        before = history._case.records_since_snapshot
        do_something(history, rng)
        if history._case.records_since_snapshot != before:
            states.append(facts(history))
        if step == snapshot_at:
            history._case.sync()
            history._case.write_snapshot(history._case._journal.end)
    died(history)
    return states


def died(history: EditHistory) -> None:
    """What is left when a program is killed: no lock, and nothing done in an orderly way."""
    history._case.close(is_saved=False)


def restored(case: Case) -> tuple[Facts, tuple[str, ...]]:
    history = EditHistory.open(case)
    try:
        return facts(history), history.warnings
    finally:
        died(history)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not known on Windows")
def test_ten_kills_in_the_middle_of_strokes_lose_nothing(
    case: Case, project: Project, tmp_path: Path
) -> None:
    with EditHistory.open(case) as history:
        history.put([(Row("thal", "thalamus"), blob(history.shape, np.random.default_rng(0)))])
    lucky = random.Random(0)
    steps_done = 0
    for seed in range(10):
        model_folder = tmp_path / f"model{seed}"
        shutil.copytree(project.folder, model_folder)
        began_as, steps = _work_until_killed(project.folder, seed, lucky)
        assert case.was_interrupted
        history, model = EditHistory.open(case), EditHistory.open(Project(model_folder).cases()[0])
        assert began_as == facts(model)
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            do_something(model, rng)
        if facts(history) != facts(model):  # one more was saved, but it died before saying so
            do_something(model, rng)
        assert facts(history) == facts(model)
        assert history.warnings == ()
        died(history)
        model.close()
        _assert_same_past_and_future(project.folder, model_folder, tmp_path / f"copy{seed}")
        steps_done += steps
    assert steps_done > 200


def _work_until_killed(folder: Path, seed: int, lucky: random.Random) -> tuple[Facts, int]:
    """The facts that a program began with, and how many steps it said were saved."""
    command = [sys.executable, "-m", "tests.project.worker", str(folder), str(seed)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    began_as = json.loads(child.stdout.readline())
    lines = [child.stdout.readline() for _ in range(lucky.randrange(5, 60))]
    while lines[-1] not in ("stroke\n", ""):
        lines.append(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    child.wait()
    assert child.returncode == -signal.SIGKILL
    return began_as, len(lines) + rest.count("\n")


def _assert_same_past_and_future(folder: Path, model_folder: Path, scratch: Path) -> None:
    shutil.copytree(folder, scratch)
    history = EditHistory.open(Project(scratch).cases()[0])
    model = EditHistory.open(Project(model_folder).cases()[0])
    assert whole_past_and_future(history) == whole_past_and_future(model)
    history.close()
    model.close()


@pytest.mark.parametrize("snapshot_at", [None, 15])
def test_a_record_torn_at_any_byte_is_dropped_and_work_goes_on(
    case: Case, snapshot_at: int | None
) -> None:
    states = worked_on(case, 40, snapshot_at=snapshot_at)
    journal = case.folder / "journal"
    whole = journal.read_bytes()
    ends = [record.end for record in journal_module.read_journal(journal).records]
    for size in range(ends[-2], len(whole), 3):
        journal.write_bytes(whole[:size])
        assert restored(case) == (states[-2], ())
    # Space that the file system had given to the file but never filled.
    journal.write_bytes(whole[: ends[-2]] + bytes(500))
    history = EditHistory.open(case)
    history.add_prompt("after the crash")
    now = facts(history)
    died(history)
    assert restored(case) == (now, ())
    assert now["prompts"] == [*states[-2]["prompts"], "after the crash"]


def test_damage_gives_an_earlier_state_never_a_wrong_one_and_is_told(case: Case) -> None:
    states = worked_on(case, 40)
    journal = case.folder / "journal"
    whole = journal.read_bytes()
    rng = np.random.default_rng(0)
    told = 0
    for at in rng.integers(journal_module.START, len(whole), 60):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(8)
        journal.write_bytes(damaged)
        state, warnings = restored(case)
        assert state in states[:-1]
        is_last = state == states[-2] and not warnings
        assert is_last or "damaged" in warnings[0]
        told += bool(warnings)
    assert told > 40


def test_what_a_damaged_journal_still_holds_is_set_aside(case: Case) -> None:
    states = worked_on(case, 40)
    journal = case.folder / "journal"
    damaged = bytearray(journal.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    journal.write_bytes(damaged)
    history = EditHistory.open(case)
    assert facts(history) in states[1:-1]
    history.add_prompt("on we go")
    now = facts(history)
    died(history)
    assert restored(case) == (now, ())
    assert (case.folder / "journal.damaged-1").read_bytes() == damaged


def test_a_snapshot_saves_masks_and_later_edits_from_damage_before_it(case: Case) -> None:
    states = worked_on(case, 60, snapshot_at=40)
    journal = case.folder / "journal"
    damaged = bytearray(journal.read_bytes())
    damaged[journal_module.START + 40] ^= 255
    journal.write_bytes(damaged)
    history = EditHistory.open(case)
    assert "can't be undone" in history.warnings[0]
    assert _without_undo(facts(history)) in [_without_undo(state) for state in states[-30:]]
    rng = np.random.default_rng(5)
    for _ in range(10):
        do_something(history, rng)
    now = facts(history)
    died(history)
    assert restored(case) == (now, ())


@pytest.mark.parametrize("damage", [b"", b"SEGONE-SNAPSHOT-1\nxx", b"\x80\x04\x95pickle"])
def test_a_damaged_snapshot_is_not_needed(case: Case, damage: bytes) -> None:
    states = worked_on(case, 30, snapshot_at=20)
    (case.folder / "snapshot").write_bytes(damage)
    assert restored(case) == (states[-1], ())


def test_a_journal_that_is_no_journal_is_told_and_kept(case: Case) -> None:
    worked_on(case, 10)
    (case.folder / "journal").write_bytes(b"x" * 1000)
    state, warnings = restored(case)
    assert state["undo"] == 0
    assert "could not be read" in warnings[0]
    worked_on(case, 3)
    assert (case.folder / "journal.damaged-1").read_bytes() == b"x" * 1000


def test_a_snapshot_alone_still_gives_masks_and_rows(case: Case) -> None:
    states = worked_on(case, 30, snapshot_at=29)
    (case.folder / "journal").unlink()
    state, warnings = restored(case)
    assert warnings
    assert _without_undo(state) == _without_undo(states[-1])


def test_closing_and_opening_reads_few_records_and_loses_no_undo(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_module, "SNAPSHOT_RECORDS", 10)
    history = EditHistory.open(case)
    rng = np.random.default_rng(3)
    for _ in range(80):
        do_something(history, rng)
        assert history.sync()
    now, everything = facts(history), whole_past_and_future(history)
    assert history.close()
    assert not case.was_interrupted
    again = EditHistory.open(case)
    assert again._case.records_since_snapshot == 0
    assert facts(again) == now
    assert whole_past_and_future(again) == everything


def test_saving_in_another_thread_never_gets_between_edits(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_module, "SNAPSHOT_RECORDS", 3)
    history = EditHistory.open(case)
    is_over = threading.Event()
    failures: list[Exception] = []

    def save() -> None:
        try:
            while not is_over.is_set():
                history.sync()
        except Exception as error:
            failures.append(error)

    saver = threading.Thread(target=save)
    saver.start()
    rng = np.random.default_rng(7)
    for _ in range(300):
        do_something(history, rng)
    is_over.set()
    saver.join()
    assert not failures
    assert history.sync()
    now, everything = facts(history), whole_past_and_future(history)
    died(history)
    again = EditHistory.open(case)
    assert again._case.records_since_snapshot < len(everything) * 3
    assert facts(again)["masks"] == now["masks"]
    assert whole_past_and_future(again) == everything


def test_a_snapshot_in_the_middle_of_a_stroke_has_none_of_it(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_module, "SNAPSHOT_RECORDS", 1)
    history = EditHistory.open(case)
    row_id = history.put([(Row("x", "x"), blob(history.shape, np.random.default_rng(0)))]).added[0]
    before = facts(history)
    history.masks[row_id][2:4] ^= 1  # the mouse button is still down, so nobody was told
    assert history.sync()
    assert (case.folder / "snapshot").exists()
    died(history)
    assert restored(case) == (before, ())


def test_a_case_that_is_refused_is_not_kept_locked(case: Case) -> None:
    worked_on(case, 5)
    (case.folder / "case.json").write_text('{"format": 99}')
    with pytest.raises(BadInput, match="update"):
        EditHistory.open(case)
    assert not case.is_open


def test_a_case_is_open_in_one_place_only(case: Case, project: Project) -> None:
    worked_on(case, 5)
    history = EditHistory.open(case)
    assert case.is_open
    assert not case.was_interrupted
    with pytest.raises(BadInput, match="open in another window"):
        EditHistory.open(case)
    with pytest.raises(BadInput, match="open in another window"):
        case.set_aside()
    history.close()
    EditHistory.open(case).close()


def test_somebody_who_only_looks_does_not_keep_others_from_opening(case: Case) -> None:
    worked_on(case, 5)
    look = FileLock(case.folder / "lock", thread_local=False)
    look.acquire()
    end = threading.Timer(0.2, look.release)
    end.start()
    EditHistory.open(case).close()
    end.join()


def test_two_that_begin_the_same_case_do_not_mix(case: Case) -> None:
    first, second = EditHistory.open(case), EditHistory.open(case)
    problems: list[NotSaved] = []
    second._on_problem = problems.append
    first.add_prompt("first")
    second.add_prompt("second")
    assert ["another window" in str(problem) for problem in problems] == [True]
    first.close()
    second.add_prompt("third")
    assert not second.close()
    assert restored(case)[0]["prompts"] == ["first"]


def test_setting_aside_begins_anew_and_keeps_what_was(case: Case, project: Project) -> None:
    states = worked_on(case, 20)
    where = case.set_aside()
    assert project.cases() == ()
    assert restored(project.case(case.image))[0]["undo"] == 0
    assert restored(Case(where, case.image))[0] == states[-1]


def test_an_unknown_version_is_refused(case: Case) -> None:
    worked_on(case, 5)
    description = json.loads((case.folder / "case.json").read_bytes())
    (case.folder / "case.json").write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(BadInput, match="format version 99"):
        EditHistory.open(case)


def test_a_folder_that_is_deleted_while_it_is_open_is_told(case: Case) -> None:
    problems: list[NotSaved] = []
    history = EditHistory.open(case, on_problem=problems.append)
    history.add_prompt("before")
    assert history.sync()
    shutil.rmtree(case.folder)
    assert not problems
    history.add_prompt("after")
    assert not history.sync()
    assert ["the folder is gone" in str(problem) for problem in problems] == [True]
    assert history.problem is not None


def test_a_full_disk_is_told_once_and_work_is_saved_when_there_is_room(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[NotSaved] = []
    history = EditHistory.open(case, on_problem=problems.append)
    rng = np.random.default_rng(0)
    for _ in range(10):
        do_something(history, rng)
    saved = facts(history)
    assert history.sync()

    def write_some_then_fail(descriptor: int, content: memoryview) -> int:
        if len(content) > 20:
            return real_write(descriptor, content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    real_write = os.write
    monkeypatch.setattr(journal_module.os, "write", write_some_then_fail)
    for _ in range(20):
        do_something(history, rng)
        history.sync()
    assert not history.is_saved
    assert len(problems) == 1
    assert "the disk is full" in str(problems[0])
    assert "the disk is full" in str(history.problem)
    # A program that died now would have lost what could not be written, and nothing else.
    copy = case.folder.with_name("copy")
    shutil.copytree(case.folder, copy)
    assert restored(Case(copy, case.image)) == (saved, ())

    monkeypatch.undo()
    assert history.sync()
    assert history.is_saved
    assert history.problem is None
    now = facts(history)
    died(history)
    assert restored(case) == (now, ())


@pytest.mark.skipif(os.name == "nt", reason="there is no limit on a file's size on Windows")
def test_a_file_that_may_not_grow_does_not_stop_work(project: Project, image: ImageRef) -> None:
    script = """
        import resource, sys
        import numpy as np
        from pathlib import Path
        from segone_napari.project import EditHistory, Project
        from tests.project.work import do_something, facts

        (case,) = Project(sys.argv[1]).cases()
        problems = []
        history = EditHistory.open(case, on_problem=problems.append)
        size = (case.folder / "journal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300, resource.RLIM_INFINITY))
        rng = np.random.default_rng(0)
        for _ in range(60):
            do_something(history, rng)
            history.sync()
        assert len(problems) == 1 and not history.is_saved, problems
        print(problems[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert history.sync() and history.is_saved and history.problem is None
        before = facts(history)
        history.close()
        assert facts(EditHistory.open(case)) == before
    """
    worked_on(project.case(image), 5)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(project.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "may not grow" in run.stdout


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_told_at_the_first_edit(
    project: Project, image: ImageRef, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(error, os.strerror(error))

    problems: list[NotSaved] = []
    monkeypatch.setattr(Path, "mkdir", refuse)
    history = EditHistory.open(project.case(image), on_problem=problems.append)
    assert not problems
    rng = np.random.default_rng(0)
    for _ in range(20):
        do_something(history, rng)
    assert len(problems) == 1
    assert "choose a" in str(problems[0])
    assert not history.is_saved
    monkeypatch.undo()
    assert history.sync()
    now = facts(history)
    died(history)
    assert restored(project.case(image)) == (now, ())


def test_a_disk_that_fails_while_syncing_is_told(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[NotSaved] = []
    history = EditHistory.open(case, on_problem=problems.append)
    history.add_prompt("x")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal_module.os, "fsync", fail)
    assert not history.sync()
    assert not history.sync()
    assert not history.is_saved
    assert len(problems) == 1
    monkeypatch.undo()
    assert history.sync()
    assert history.is_saved


def test_a_disk_that_fails_at_the_end_leaves_no_case_locked(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    history = EditHistory.open(case)
    history.add_prompt("x")
    monkeypatch.setattr(journal_module.os, "fsync", fail)
    with pytest.raises(NotSaved, match="disk is full"), history:
        pass
    monkeypatch.undo()
    assert not case.is_open
    assert case.was_interrupted
    assert restored(case)[0]["prompts"] == ["x"]


def test_without_somebody_to_tell_the_error_is_raised_after_the_edit(
    tmp_path: Path, image: ImageRef
) -> None:
    case = Project(tmp_path).case(image)
    history = EditHistory.open(case, sync_at_once=True)
    (tmp_path / "cases").write_text("a file where a folder should be")
    with pytest.raises(NotSaved, match="can't save"):
        history.add_prompt("one")
    history.add_prompt("two")
    assert history.prompts == ("one", "two")
    assert not history.is_saved


def test_a_case_is_found_by_its_voxels_and_place_not_by_its_name(
    project: Project, volume: Volume
) -> None:
    image = ImageRef.of(volume, "/somewhere/a.nii.gz")
    worked_on(project.case(image), 5)
    moved = Volume(volume.data, volume.grid, "renamed")
    assert project.case(ImageRef.of(moved, "/elsewhere/b.nii")).exists
    in_fortran_order = volume.with_data(np.asfortranarray(volume.data))
    assert project.case(ImageRef.of(in_fortran_order)).exists
    elsewhere = Volume.from_affine(volume.data, np.diag([-1, 1, 1, 1.0]), volume.name)
    assert not project.case(ImageRef.of(elsewhere)).exists
    brighter = volume.with_data(volume.data + 1)
    assert not project.case(ImageRef.of(brighter)).exists
    worked_on(project.case(ImageRef.of(elsewhere)), 5)
    assert len(project.cases()) == 2
    assert sorted(path.name for path in project.folder.iterdir()) == ["cases"]


def _without_undo(state: Facts) -> Facts:
    return {key: state[key] for key in ("rows", "masks", "prompts", "notes")}
