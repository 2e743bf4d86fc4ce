"""What a preset looks at."""

import pytest

from segone_napari.systems.sliced import View, preset_views

ALL = ("axial", "coronal", "sagittal")


@pytest.mark.parametrize(
    ("through_plane", "plane"), [(None, "axial"), (2, "axial"), (1, "coronal"), (0, "sagittal")]
)
def test_fast_looks_once_along_the_slices_of_the_scan(through_plane, plane):
    assert preset_views("fast", through_plane, ALL) == [View(plane)]


def test_fast_looks_in_a_plane_that_the_model_knows():
    assert preset_views("fast", 0, ("axial", "coronal")) == [View("axial")]


@pytest.mark.parametrize("through_plane", [None, 0, 1, 2])
def test_balanced_looks_in_every_plane(through_plane):
    assert preset_views("balanced", through_plane, ALL) == [View(plane) for plane in ALL]


def test_with_one_plane_balanced_looks_mirrored_too():
    views = preset_views("balanced", None, ("axial",))
    assert views == [View("axial"), View("axial", is_mirrored=True)]


def test_best_looks_in_every_plane_mirrored_and_shifted():
    views = preset_views("best", 2, ALL)
    assert len(views) == len(set(views)) == 12
    assert {(v.plane, v.is_mirrored) for v in views} == {(p, m) for p in ALL for m in (0, 1)}
    assert len({v.shift for v in views}) == 2
