"""Runs what takes longer than a blink in a thread, one after the other, and calls back on Qt's.

For checksums, reading and writing cases, repairs and exports: whatever must be finished in turn
once it has begun. Knows nothing of napari or of what it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]

T = TypeVar("T")


class Keeper(QObject):  # type: ignore[misc, unused-ignore]
    """One thread; what is handed to it is done in turn, also after `stop`."""

    _done = Signal(object, object)

    def __init__(self, name: str, parent: QObject | None = None):
        super().__init__(parent)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._is_stopped = False
        self._done.connect(self._call)

    def run(
        self,
        work: Callable[[], T],
        then: Callable[[T], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Do `work` in the thread, then call `then` with its value, or `failed` with its error.

        What is done is finished where a window that wants to know of it was closed meanwhile; its
        method isn't called.
        """
        if self._is_stopped:
            return
        try:
            self._thread.submit(self._run, work, then, failed)
        except RuntimeError:  # Python itself is ending and starts no more threads
            work()

    def stop(self) -> None:
        """Take nothing more, finish what was handed over, and call nobody back."""
        self._is_stopped = True
        self._thread.shutdown(wait=False)

    def _run(
        self,
        work: Callable[[], T],
        then: Callable[[T], None] | None,
        failed: Callable[[Exception], None] | None,
    ) -> None:
        value: Any
        call: Callable[[Any], None] | None
        try:
            value, call = work(), then
        except Exception as error:  # it is told, and the program goes on
            value, call = error, failed
        if call is None or self._is_stopped:
            return
        try:
            self._done.emit(call, value)
        except RuntimeError:  # the window was closed, and Qt's half of this object with it
            self._is_stopped = True

    def _call(self, then: Callable[[Any], None], value: Any) -> None:
        if not self._is_stopped and not _is_gone(getattr(then, "__self__", None)):
            then(value)


def _is_gone(owner: object) -> bool:
    """Whether Qt has deleted its half of an object, such as a window that was closed."""
    return isinstance(owner, QObject) and not isalive(owner)  # type: ignore[no-untyped-call]
