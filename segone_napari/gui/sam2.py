"""SAM2 off the GUI thread: it looks at a slice once, and then outlines what is clicked in it.

One thread, one question after the other; a question that is no longer wanted is dropped before
it costs anything. Questions carry values only. Knows nothing of the viewer or of layers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined, unused-ignore]

import segone_napari
from segone_napari.gui import garbage
from segone_napari.gui.keeper import Keeper
from segone_napari.gui.layers import LayerImage, plane_of
from segone_napari.gui.troubles import gpu_trouble, in_words
from segone_napari.gui.workers import Reporter
from segone_napari.runtime import Cancelled

if TYPE_CHECKING:
    from segone_napari.models.spreading import Outliner, Spread
    from segone_napari.models.teacher import Proposal

T = TypeVar("T")
_BUNDLED = Path(segone_napari.__file__).parent / "checkpoints" / "teacher"
LoadTeacher = Callable[[str | None, str], "Outliner"]
"""Loads a teacher, from what a person chose (None: the bundled one) and the name of a device."""


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice of an image, by axis and index of the image's layer."""

    image: LayerImage
    axis: int
    index: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: the layer's other two axes, in their order."""
        rows, columns = (n for axis, n in enumerate(self.image.data.shape) if axis != self.axis)
        return int(rows), int(columns)

    @property
    def spacings(self) -> tuple[float, float, float]:
        """Mm between neighbouring voxels along each axis of the layer."""
        a, b, c = (float(self.image.grid.spacing[axis]) for axis in self.image.layout.axes)
        return a, b, c

    def is_same_as(self, other: Slice | None) -> bool:
        """Whether both are the same slice of the same image."""
        return (
            other is not None
            and self.image is other.image
            and (self.axis, self.index) == (other.axis, other.index)
        )

    def has_the_plane_of(self, other: Slice) -> bool:
        """Whether both are slices of the same image along the same axis."""
        return self.image is other.image and self.axis == other.axis


@dataclass(frozen=True, eq=False)
class Said:
    """What a person said about the object in a slice.

    Attributes
    ----------
    points : rows and columns that were clicked.
    labels : of each point, 1 for inside and 0 for outside.
    box : first row, first column, last row, last column; or None.
    mask : (H, W) what is known of it, 0 to 1; or None.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: NDArray[Any] | None = None


class Sam2(QObject):  # type: ignore[misc, unused-ignore]
    """Asks a teacher in a thread of its own.

    Signals
    -------
    told : words for what is being done.
    warned : a sentence that a person must see.
    progressed : slices done, slices in all.
    """

    told = Signal(str)
    warned = Signal(str)
    progressed = Signal(int, int)

    def __init__(self, load: LoadTeacher, parent: QObject | None = None):
        super().__init__(parent)
        self.source: str | None = None
        self._load = load
        self._thread = Keeper("segone-sam2", self)
        self._teacher: Outliner | None = None
        self._device = "auto"
        self._seen: Slice | None = None
        self._current = 0
        self._is_stopped = False

    def choose(self, source: str | None) -> None:
        """Use another teacher from now on: a folder, a safetensors file or a name on the hub."""
        if source != self.source:
            self.source = source
            self.cancel()
            self._thread.run(self._drop)

    def look(self, where: Slice, failed: Callable[[Exception], None]) -> None:
        """Load the teacher and look at a slice, so that the first click needn't wait."""
        number = self._next()
        self._thread.run(
            partial(self._do, number, where, lambda teacher: None),
            None,
            partial(self._if_current, number, failed),
        )

    def propose(
        self,
        where: Slice,
        said: Said,
        then: Callable[[Proposal], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Outline what a person said."""

        def ask(teacher: Outliner) -> Proposal:
            return teacher.predict(
                box=said.box,
                points=said.points or None,
                labels=said.labels or None,
                mask=said.mask,
            )

        number = self._next()
        self._thread.run(
            partial(self._do, number, where, ask),
            partial(self._if_current, number, then),
            partial(self._if_current, number, failed),
        )

    def spread(
        self,
        where: Slice,
        mask: NDArray[Any],
        settled: Collection[int],
        then: Callable[[Spread], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Carry the mask (H, W) of a slice to its neighbours; `settled` ones stay as they are."""
        number = self._next()

        def ask(teacher: Outliner) -> Spread:
            from segone_napari.models.spreading import spread

            def progress(done: int, of: int, is_due: bool) -> None:
                self._check(number)
                if is_due:
                    self._tell(self.progressed, done, of)

            self._seen = None
            image = where.image
            values = image.layout.to_layer(image.volume.data)
            return spread(
                teacher,
                values,
                where.axis,
                where.index,
                mask,
                where.spacings,
                settled=settled,
                progress=Reporter(progress),
            )

        self._thread.run(
            partial(self._do, number, None, ask, where.image),
            partial(self._if_current, number, then),
            partial(self._if_current, number, failed),
        )

    def cancel(self) -> None:
        """Let nothing come of what was asked."""
        self._current += 1

    def forget(self) -> None:
        """Give the memory of the slice back; the next question looks again."""
        self.cancel()
        self._thread.run(self._forget_slice)

    def stop(self) -> None:
        """Cancel, and end the thread; touches nothing of Qt's."""
        self._current += 1
        self._is_stopped = True
        self._thread.stop()
        self._drop()

    def _next(self) -> int:
        self._current += 1
        return self._current

    def _if_current(self, number: int, then: Callable[[Any], None], value: Any) -> None:
        if number == self._current and value is not None:
            then(value)

    def _check(self, number: int) -> None:
        if number != self._current or self._is_stopped:
            raise Cancelled

    def _do(
        self,
        number: int,
        where: Slice | None,
        ask: Callable[[Outliner], T],
        image: LayerImage | None = None,
    ) -> T | None:
        """Ask the teacher, on the CPU if the GPU fails; None if it isn't wanted any more."""
        try:
            try:
                return self._ask(number, where, ask)
            except Exception as error:
                trouble = gpu_trouble(error)
                if trouble is None or self._device == "cpu":
                    raise
            # behind the handler, where nothing holds on to the error's frames and the GPU's memory
            self._drop()
            self._device = "cpu"
            gc.collect()
            self._tell(self.warned, trouble)
            return self._ask(number, where, ask)
        except Cancelled:
            return None
        except Exception as error:
            about = where.image if where is not None else image
            assert about is not None
            raise in_words(error, about) from error

    def _ask(self, number: int, where: Slice | None, ask: Callable[[Outliner], T]) -> T:
        self._check(number)
        if self._teacher is None:
            self._tell(self.told, "Loading SAM2 …")
            with garbage.while_loading():
                self._teacher = self._load(self.source, self._device)
            self._check(number)
        if where is not None and not where.is_same_as(self._seen):
            self._seen = None
            values = where.image.layout.to_layer(where.image.volume.data)
            pixels = plane_of(values, where.axis, where.index)
            rows, columns = (mm for n, mm in enumerate(where.spacings) if n != where.axis)
            self._teacher.set_slice(pixels, (rows, columns))
            self._seen = where
            self._check(number)
        return ask(self._teacher)

    def _drop(self) -> None:
        self._teacher, self._seen = None, None

    def _forget_slice(self) -> None:
        self._seen = None

    def _tell(self, signal: Any, *values: object) -> None:
        if self._is_stopped:
            return
        try:
            signal.emit(*values)
        except RuntimeError:  # the window was closed, and Qt's half of this object with it
            self._is_stopped = True


def why_none(source: str | None) -> str:
    """Why there is no teacher to ask, in a sentence; empty if there seems to be one."""
    if source is not None or _BUNDLED.is_dir():
        return ""
    return (
        "This copy of SegOne comes without a SAM2; choose one under ⋯ › SAM2 model "
        "(a folder, a .safetensors file, or a name on the hub)"
    )


def load_teacher(source: str | None, device: str) -> Outliner:
    """Load the teacher that comes with the program, or another one.

    Raises
    ------
    BadCheckpoint
        If there is none, or it can't be used.
    """
    from segone_napari.models.teacher import Teacher

    return Teacher.load(source, device)
