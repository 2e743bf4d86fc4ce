"""A small image, and a project to work on it in."""

from pathlib import Path

import numpy as np
import pytest

from segone_napari.project import Case, ImageRef, Project
from segone_napari.volume import Volume

OBLIQUE = np.array(
    [[0.9, -0.2, 0.1, -30.0], [0.2, 0.9, 0.0, 12.0], [-0.1, 0.0, 2.5, 5.0], [0, 0, 0, 1.0]]
)


@pytest.fixture
def volume() -> Volume:
    voxels = np.random.default_rng(0).random((9, 10, 11)).astype(np.float32)
    return Volume.from_affine(voxels, OBLIQUE, "Ümlaut T1w.nii.gz")


@pytest.fixture
def image(volume: Volume) -> ImageRef:
    return ImageRef.of(volume)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def case(project: Project, image: ImageRef) -> Case:
    return project.case(image)
