"""What is raised where there is more than one thing to open: a person must choose.

The message names the command line's option; a dialog reads the attributes instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segone_napari.runtime import BadInput

if TYPE_CHECKING:
    from segone_napari.data.dicom.study import Study


class ManySeries(BadInput):
    """There is more than one series.

    Attributes
    ----------
    study : has the list to choose from.
    """

    def __init__(self, study: Study, what: str) -> None:
        count = len(study.series)
        numbers = "--series 1" if count == 1 else f"--series N, N from 1 to {count}"
        super().__init__(f"{what}; choose one with {numbers}")
        self.study = study


class ManyVolumes(BadInput):
    """There are several volumes in time, or not the one that was asked for.

    Attributes
    ----------
    count : how many there are.
    """

    def __init__(self, name: str, count: int, asked: int | None = None) -> None:
        if asked is None:
            words = (
                f"{name} is a 4-D image of {count} volumes; choose one with --volume N, "
                f"N from 0 to {count - 1}"
            )
        else:
            holds = f"{count} volumes; use 0 to {count - 1}" if count > 1 else "one volume; use 0"
            words = f"there is no volume {asked} in {name}: it holds {holds}"
        super().__init__(words)
        self.count = count


def choose_volume(name: str, count: int, volume: int | None) -> int:
    """Return which of `count` volumes to take, counted from 0.

    Raises
    ------
    ManyVolumes
        If there are several and none is asked for, or there is no such one.
    """
    is_missing = volume is None and count > 1
    if is_missing or not 0 <= (volume or 0) < count:
        raise ManyVolumes(name, count, volume)
    return volume or 0
