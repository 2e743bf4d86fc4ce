"""Corrections and the log: what is kept is what is read, and damage is said in words."""

from __future__ import annotations

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segone_napari.project import ImageRef, NotSaved, Project, merge_corrections
from segone_napari.project import corrections as corrections_module
from segone_napari.runtime import BadInput
from segone_napari.volume import Volume


def random_mask(seed: int, shape: tuple[int, int, int] = (9, 10, 11)) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < 0.4).astype(np.uint8)


@pytest.mark.parametrize(("axis", "letter"), [(0, "i"), (1, "j"), (2, "k")])
def test_chosen_slices_come_back_and_the_rest_is_unknown(
    project: Project, image: ImageRef, axis: int, letter: str
) -> None:
    mask = random_mask(axis) * 3
    project.add_correction("  left   lesion ", image, mask, axis=axis, slices=[7, 2, 7])
    (found,) = Project(project.folder).corrections("left lesion").usable
    assert (found.axis, found.slices, found.author) == (axis, (2, 7), "person")
    expected, known = np.zeros_like(mask), np.zeros(mask.shape, bool)
    for index in (2, 7):
        plane = tuple(index if n == axis else slice(None) for n in range(3))
        expected[plane], known[plane] = mask[plane] != 0, True
    assert np.array_equal(found.mask(), expected)
    assert np.array_equal(found.known(), known)
    assert found.image.is_same_as(image)
    # As another program would read it.
    facts = json.loads((found.folder / "correction.json").read_text())
    assert (facts["axis"], facts["slices"], facts["term"]) == (letter, [2, 7], "left lesion")
    stored = np.load(found.folder / "voxels.npz", allow_pickle=False)["mask"]
    assert stored.sum() == expected.sum()


def test_an_empty_mask_says_that_it_is_not_there(project: Project, image: ImageRef) -> None:
    empty = np.zeros((9, 10, 11), bool)
    project.add_correction("tumour", image, empty, synonyms=("glioma",), patient="A")
    (found,) = project.corrections().usable
    assert not found.mask().any()
    assert found.known().all()
    assert (found.synonyms, found.patient, found.slices) == (("glioma",), "A", None)


def test_the_later_of_contradicting_corrections_wins(project: Project, image: ImageRef) -> None:
    first, second = random_mask(1), random_mask(2)
    project.add_correction("nerve", image, first)
    project.add_correction("nerve", image, second, axis=1, slices=[4])
    project.add_correction("other", image, second)
    corrections = project.corrections("nerve").usable
    assert [correction.id for correction in corrections] == ["0001", "0002"]
    mask, known = merge_corrections(corrections)
    assert known.all()
    assert np.array_equal(mask[:, 4], second[:, 4])
    assert np.array_equal(np.delete(mask, 4, axis=1), np.delete(first, 4, axis=1))
    with pytest.raises(BadInput, match="different terms"):
        merge_corrections(project.corrections().usable)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mask": np.zeros((9, 10, 12))}, "image's own grid"),
        ({"mask": np.zeros((9, 10))}, "image's own grid"),
        ({"term": "  "}, "needs a name"),
        ({"axis": 1, "slices": [3, 10]}, "slice 10 .* 0 to 9"),
        ({"axis": 1, "slices": [-1]}, "slice -1"),
        ({"axis": 1, "slices": []}, "no slice"),
        ({"axis": None, "slices": [1]}, "which axis"),
        ({"axis": 3, "slices": [1]}, "which axis"),
    ],
)
def test_what_is_no_correction_is_refused_in_words(
    project: Project, image: ImageRef, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        project.add_correction(**{"term": "x", "image": image, "mask": random_mask(0), **arguments})
    assert not project.folder.exists()


def test_damaged_corrections_are_told_and_the_others_still_work(
    project: Project, image: ImageRef
) -> None:
    kept = [project.add_correction(f"term {n}", image, random_mask(n)) for n in range(5)]
    (kept[0].folder / "correction.json").write_text('{"term": "term 0", ')
    (kept[1].folder / "voxels.npz").unlink()
    damaged = bytearray((kept[2].folder / "voxels.npz").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (kept[2].folder / "voxels.npz").write_bytes(damaged)
    np.savez(kept[3].folder / "voxels.npz", mask=np.array([print], dtype=object))
    found = project.corrections()
    assert [one.term for one in found.usable] == ["term 2", "term 3", "term 4"]
    assert len(found.problems) == 2
    assert all("is damaged" in problem for problem in found.problems)
    for correction in found.usable[:2]:
        with pytest.raises(BadInput, match="is damaged"):
            correction.mask()
    assert np.array_equal(found.usable[2].mask(), random_mask(4))


def test_a_pickle_is_never_opened(project: Project, image: ImageRef, tmp_path: Path) -> None:
    kept = project.add_correction("x", image, random_mask(0))
    trap = tmp_path / "trap"
    (kept.folder / "voxels.npz").write_bytes(pickle.dumps(_Trap(trap)))
    with pytest.raises(BadInput):
        kept.mask()
    assert not trap.exists()


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_full_disk_leaves_no_half_correction(
    project: Project, image: ImageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corrections_module, "_write_synced", fail)
    with pytest.raises(NotSaved, match="disk is full"):
        project.add_correction("x", image, random_mask(0))
    assert not list((project.folder / "corrections").iterdir())
    monkeypatch.undo()
    assert project.add_correction("x", image, random_mask(0)).id == "0001"


def test_an_image_without_a_file_is_kept(project: Project, volume: Volume) -> None:
    image = ImageRef.of(volume)
    assert project.kept_image(image) is None
    path = project.keep_image(volume, image)
    kept = Project(project.folder).kept_image(image)
    assert kept is not None
    assert np.array_equal(kept.data, volume.data)
    assert kept.data.dtype == volume.data.dtype
    assert kept.grid.is_same_as(volume.grid)
    path.write_bytes(b"nothing")
    with pytest.raises(BadInput):
        project.kept_image(image)


def test_the_log_survives_a_torn_line(project: Project) -> None:
    project.log("segment", prompt="Seitenventrikel ≥ 2", checkpoint="1")
    log = project.folder / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + whole[: len(whole) // 2])
    project.log("train", minutes=5)
    entries = project.log_entries()
    assert [entry["event"] for entry in entries] == ["segment", "train"]
    assert entries[0]["prompt"] == "Seitenventrikel ≥ 2"
    assert entries[0]["time"].endswith("+00:00")


def test_a_later_versions_project_and_a_file_are_refused(project: Project, tmp_path: Path) -> None:
    project.log("begin")
    (project.folder / "project.json").write_text('{"format": 7}')
    with pytest.raises(BadInput, match="format version 7"):
        Project(project.folder)
    (project.folder / "project.json").write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        Project(project.folder)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        Project(tmp_path / "file")
