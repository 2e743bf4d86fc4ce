"""Going on with a training that was ended."""

from __future__ import annotations

import pytest
import torch

from segone_napari.runtime import Cancelled
from segone_napari.training import bookmarks as marks
from segone_napari.training.bookmarks import Bookmarks, Stretch
from segone_napari.training.lessons import Budget, LearnConfig, learn, slices_of
from tests.training import phantoms

KEPT = Stretch({"weights": torch.arange(3.0)}, {"step": 7.0}, is_over=False)


def _opened(folder, key: str = "same") -> Bookmarks:
    opened = Bookmarks(folder / "state", key)
    opened.open()
    return opened


def test_what_was_kept_is_there_for_the_same_training_only(tmp_path):
    _opened(tmp_path).save("drawn", KEPT)
    found = _opened(tmp_path).load("drawn")
    assert found is not None
    assert torch.equal(found.tensors["weights"], KEPT.tensors["weights"])
    assert found.numbers == KEPT.numbers
    assert _opened(tmp_path, "another").load("drawn") is None
    assert _opened(tmp_path).load("drawn") is None


def test_a_damaged_file_is_as_none(tmp_path):
    opened = _opened(tmp_path)
    opened.save("drawn", KEPT)
    (file,) = opened.folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    assert opened.load("drawn") is None


def test_a_full_disk_keeps_what_was_kept_before(tmp_path, monkeypatch):
    opened = _opened(tmp_path)
    opened.save("drawn", KEPT)

    def full(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(marks, "save_file", full)
    opened.save("drawn", KEPT._replace(numbers={"step": 9.0}))
    assert opened.load("drawn").numbers == {"step": 7.0}


def test_lessons_of_one_training_are_kept_apart(tmp_path):
    _opened(tmp_path).save("drawn", KEPT)
    assert Bookmarks(tmp_path / "state", "same", lesson=1).load("drawn") is None


def test_without_a_folder_nothing_is_kept():
    nowhere = Bookmarks()
    nowhere.open()
    nowhere.save("drawn", KEPT)
    nowhere.clear()
    assert nowhere.load("drawn") is None


@pytest.mark.parametrize("steps", [0, 3])
def test_an_optimizer_goes_on_as_if_it_had_not_been_ended(steps):
    def made() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), 0.1)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer, optimizer = made()
    for _ in range(steps):
        step(layer, optimizer)
    again, its_optimizer = made()
    again.load_state_dict(layer.state_dict())
    marks.unpack_optimizer(its_optimizer, marks.packed_optimizer(optimizer))
    for one, its in ((layer, optimizer), (again, its_optimizer)):
        step(one, its)
    assert torch.equal(layer.weight, again.weight)


def test_a_lesson_goes_on_as_if_it_had_not_been_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(marks, "SAVED_EVERY_S", 0.0)
    monkeypatch.setattr(marks, "SAVED_EVERY_STEPS", 3)
    example = phantoms.example(0, (5, 9, 13))
    slices = slices_of([example], ["axial"])

    def taught(bookmarks: Bookmarks, last_step: int) -> dict[str, torch.Tensor]:
        network, steps = phantoms.lesson().network, []

        def report(share: float, loss: float) -> None:
            steps.append(share)
            if round(10 * share) == last_step:
                raise Cancelled

        budget = Budget(10, 1e6)
        learn(
            network, [example], slices, budget, LearnConfig(batch=2), 0, report, bookmarks=bookmarks
        )
        assert len(steps) < 10 or bookmarks.folder is None
        return network.state_dict()

    whole = taught(Bookmarks(), -1)
    with pytest.raises(Cancelled):
        taught(_opened(tmp_path), 8)
    gone_on = taught(_opened(tmp_path), -1)
    for name, value in whole.items():
        torch.testing.assert_close(gone_on[name], value)
    over = taught(_opened(tmp_path), -1)  # at once: it was over
    assert all(torch.equal(over[name], value) for name, value in gone_on.items())
