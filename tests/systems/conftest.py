"""Small networks compute on one thread."""

from collections.abc import Iterator

import pytest

from tests.tiny import one_thread


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield
