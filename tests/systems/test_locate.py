"""Finding the brain."""

import torch

from segone_napari.systems.sliced import _largest_piece


def test_what_lies_apart_from_the_brain_is_left_out():
    mask = torch.zeros(20, 20, 30, dtype=torch.bool)
    mask[4:16, 4:16, 15:28] = True
    brain = mask.clone()
    mask[8:11, 8:11, 0:6] = True
    assert torch.equal(_largest_piece(mask), brain)


def test_a_single_piece_and_nothing_at_all_stay_as_they_are():
    mask = torch.zeros(5, 5, 5, dtype=torch.bool)
    assert torch.equal(_largest_piece(mask), mask)
    mask[1:3, 1:3, 1:3] = True
    assert torch.equal(_largest_piece(mask), mask)
