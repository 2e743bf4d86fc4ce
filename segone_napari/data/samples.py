"""The scans that come with the program: where they lie, what is in them, who made them.

Knows nothing of how a file is read; `segone_napari.data.formats` does that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from segone_napari.runtime import BadInput


@dataclass(frozen=True)
class Sample:
    """One scan under `sample_data_folder`, with a reference segmentation.

    Attributes
    ----------
    title : what a person sees in a menu.
    image, truth : paths inside the sample data folder.
    truth_labels : the numbering of `truth`: FreeSurfer's, or that of the GIF parcellation.
    licence : its short name; the text lies beside the image as ``LICENCE.txt``.
    origin : who published it.
    """

    title: str
    image: str
    truth: str
    truth_labels: Literal["freesurfer", "gif"]
    licence: str
    origin: str

    @property
    def image_path(self) -> Path:
        """Where the image lies on this machine."""
        return sample_data_folder() / self.image

    @property
    def truth_path(self) -> Path:
        """Where the reference segmentation lies on this machine."""
        return sample_data_folder() / self.truth


SAMPLES: Mapping[str, Sample] = MappingProxyType(
    {
        "t1": Sample(
            title="T1, skull-stripped, 1 mm",
            image="stripped_t1/norm.mgz",
            truth="stripped_t1/aparc.a2009s+aseg.mgz",
            truth_labels="freesurfer",
            licence="BSD-2-Clause",
            origin="NiiVue's demonstration images",
        ),
        "flair": Sample(
            title="FLAIR, whole head, 5.5 mm slices",
            image="flair_thick/flair.nii.gz",
            truth="flair_thick/t1_seg_gif.nii.gz",
            truth_labels="gif",
            licence="MIT",
            origin="TorchIO's test data",
        ),
    }
)


def sample_data_folder() -> Path:
    """Find the folder of the bundled scans.

    Raises
    ------
    BadInput
        If this installation came without them.
    """
    package = Path(__file__).parents[1]
    # A wheel carries the scans inside the package; in a checkout they lie beside it.
    for folder in (package / "sample_data", package.parent / "sample_data"):
        if folder.is_dir():
            return folder
    raise BadInput(
        f"the sample scans are missing from this installation ({package}); "
        "install segone-napari again, or open a scan of your own"
    )
