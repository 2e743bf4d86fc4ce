"""The bundled scans."""

import nibabel as nib
import numpy as np
import pytest

from segone_napari.data.samples import SAMPLES, sample_data_folder


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_lies_in_the_same_world_as_its_truth(name: str) -> None:
    sample = SAMPLES[name]
    image, truth = nib.load(sample.image_path), nib.load(sample.truth_path)
    # Labels above 4 lie inside the brain in both numberings.
    brain = np.argwhere(np.asarray(truth.dataobj) > 4)[::500]
    world = nib.affines.apply_affine(truth.affine, brain)
    i, j, k = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), world)).astype(int).T
    inside = np.all([(a >= 0) & (a < n) for a, n in zip((i, j, k), image.shape, strict=True)], 0)
    intensity = np.asarray(image.dataobj)[i[inside], j[inside], k[inside]]
    assert inside.mean() > 0.95
    # Where the truth marks brain, the image shows tissue and not air.
    assert (intensity > 0.1 * np.percentile(intensity, 95)).mean() > 0.97


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_has_its_licence_beside_it(name: str) -> None:
    licence = SAMPLES[name].image_path.parent / "LICENCE.txt"
    assert len(licence.read_text(encoding="utf-8")) > 400


def test_samples_take_at_most_eight_mebibytes() -> None:
    files = [path for path in sample_data_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
