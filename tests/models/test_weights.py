"""Files of weights on a disk that refuses."""

import errno
import signal

import pytest
import torch
from safetensors.torch import save_file

from segone_napari.models.weights import disk_errors

resource = pytest.importorskip("resource")


@pytest.fixture
def little_room():
    """Let files grow to 1000 bytes only, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, former)


def test_disk_without_room_is_the_system_s_own_error(little_room, tmp_path):
    with pytest.raises(OSError, match="File too large") as told, disk_errors():
        save_file({"weights": torch.zeros(10_000)}, tmp_path / "weights.safetensors")
    assert told.value.errno == errno.EFBIG


def test_other_errors_of_safetensors_stay_what_they_are(tmp_path):
    shared = torch.zeros(3)
    with pytest.raises(RuntimeError, match="share memory"), disk_errors():
        save_file({"a": shared, "b": shared}, tmp_path / "weights.safetensors")
