"""When the sides of a brain can't be known from its middle."""

import pytest
import torch

from segone_napari.data.slices import Head
from segone_napari.systems.finding import MARGIN_MM, is_cut_in_width


def head_with_brain(width_mm: float, length_mm: float, start_mm: float = 40.0) -> Head:
    """A head of 2 mm voxels whose brain is so wide and so long, margins included in its box."""
    spacing = (2.0, 2.0, 2.0)
    margin = round(MARGIN_MM / 2)

    def lines(start: float, extent: float, size: int) -> slice:
        first, last = round(start / 2), round((start + extent) / 2)
        return slice(max(0, first - margin), min(size, last + margin))

    image = torch.zeros(110, 120, 90)
    box = (lines(start_mm, width_mm, 110), lines(30.0, length_mm, 120), slice(10, 80))
    return Head(image, spacing, (50.0, 60.0, 45.0), box)


@pytest.mark.parametrize(("width", "length"), [(140, 170), (120, 170), (100, 130)])
def test_a_whole_brain_is_not_called_cut(width, length):
    assert not is_cut_in_width(head_with_brain(width, length))


@pytest.mark.parametrize("width", [70, 100])
def test_a_part_of_a_brain_is_called_cut(width):
    assert is_cut_in_width(head_with_brain(width, 170))


def test_half_a_brain_at_the_border_of_the_image_is_called_cut():
    assert is_cut_in_width(head_with_brain(70, 170, start_mm=0.0))
