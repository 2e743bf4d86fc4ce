"""The teacher: SAM2 asked about one slice at a time, in the slice's own pixels.

`Teacher.set_slice` is told a slice once; `Teacher.predict` is cheap for every object in it. SAM2
sees a square: the slice lies in its upper left corner, scaled so that a pixel is as long as it is
wide in mm, and the rest is black. The small one that is trained here sees a close-up instead, a
part of the slice around what it is asked about, since it looks at few pixels. Knows nothing of
volumes or of what is done with its answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from segone_napari.data.synthetic import SPIKE, bright_end
from segone_napari.models.sam2 import (
    FIRST_CORNER,
    LAST_CORNER,
    MASK_STRIDE,
    Prompts,
    drawn,
    load_sam2,
    mask_logits,
)
from segone_napari.models.torchvision_ops import mend_torchvision
from segone_napari.runtime import BadInput, choose_device, fast_precision

WHITE = 0.8
"""How bright the bright end of a slice is shown, of 1."""


CLOSE_UP, LEAST_FIELD_MM, CLICK_FIELD_MM = 1.8, 24.0, 64.0
"""A close-up is so many times as wide as what is asked about, and so wide at least; around clicks
alone it shows so much."""


class Window(NamedTuple):
    """A rectangle of a slice, in pixels; it may reach beyond the slice."""

    first_row: int
    first_column: int
    rows: int
    columns: int


class _Slice(NamedTuple):
    pixels: Tensor
    spacing: NDArray[np.float64]


class Proposal(NamedTuple):
    """An answer: `probability` (H, W) float32 of each pixel, and the teacher's own `quality`.

    `quality` is its estimate of the intersection over union with the truth, 0 to 1.
    """

    probability: NDArray[np.float32]
    quality: float


class Teacher:
    """Turns boxes, points and rough masks into masks. Not for use by several threads at once.

    Coordinates are (row, column) in pixels, whole numbers at the pixels' centres.
    """

    def __init__(self, model: Any, device: torch.device, *, is_close_up: bool = False) -> None:
        mend_torchvision()
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        self._predictor = SAM2ImagePredictor(model.to(device).eval())
        self._side = int(model.image_size)
        self._predictor._bb_feat_sizes = [
            (self._side // stride, self._side // stride) for stride in (4, 8, 16)
        ]
        self._device = device
        self._is_close_up = is_close_up
        self._slice: _Slice | None = None
        self._window: Window | None = None
        self._content = (0, 0)

    @classmethod
    def load(cls, source: str | Path | None = None, device: str = "auto") -> Teacher:
        """Load the teacher that `load_sam2` finds under `source`.

        Raises
        ------
        BadCheckpoint
            If there is no such checkpoint or it can't be used.
        """
        model, config = load_sam2(source)
        return cls(model, choose_device(device), is_close_up=config.is_close_up)

    def set_slice(self, image: ArrayLike, spacing: tuple[float, float] = (1.0, 1.0)) -> None:
        """Look at a slice: (H, W) of any brightness; `spacing` in mm between rows, columns.

        Raises
        ------
        BadInput
            If the image isn't a slice.
        """
        pixels = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
        if pixels.ndim != 2 or not pixels.size or min(spacing) <= 0:
            raise BadInput(
                f"the teacher got an image of shape {pixels.shape} with a spacing of {spacing} mm; "
                "give one slice, rows by columns, and positive distances"
            )
        self._slice = _Slice(torch.from_numpy(normalised(pixels)), np.array(spacing, dtype=float))
        self._window = None
        if not self._is_close_up:
            self._look_at(Window(0, 0, *pixels.shape))

    def predict(
        self,
        box: ArrayLike | None = None,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Proposal:
        """Outline one object in the slice.

        Parameters
        ----------
        box : (4,) first row, first column, last row, last column.
        points : (P, 2) rows and columns.
        labels : (P,) 1 for a point inside the object, 0 for one outside; all inside when left out.
        mask : (H, W) a rough mask, or a probability from 0 to 1.

        Raises
        ------
        BadInput
            If nothing is given, or something of another shape.
        """
        shape = tuple(self._seen_slice().pixels.shape)
        if box is None and points is None and mask is None:
            raise BadInput("the teacher was asked about nothing; give a box, points or a mask")
        places = None if points is None else np.asarray(points, dtype=np.float64).reshape(-1, 2)
        says = None
        if places is not None:
            says = np.ones(len(places)) if labels is None else np.asarray(labels).reshape(-1)
            if len(says) != len(places):
                raise BadInput(f"{len(places)} points have {len(says)} labels; give one a point")
        rough = None if mask is None else torch.as_tensor(np.asarray(mask, dtype=np.float32))
        if rough is not None and tuple(rough.shape) != shape:
            raise BadInput(f"the mask has shape {tuple(rough.shape)} and the slice {shape}")
        # one point alone may mean a part or the whole: of three readings, the best is taken
        is_ambiguous = box is None and mask is None and places is not None and len(places) == 1
        if self._is_close_up:
            self._look_at(self._window_around(box, places, rough))
        clicks = None if places is None else self._to_xy(places)
        corners = None if box is None else self._to_xy(np.reshape(box, (2, 2)))
        shown = None if rough is None else self._to_mask_input(rough)
        if self._is_close_up:
            shown = self._drawn(corners, clicks, says, shown)
        with torch.inference_mode(), fast_precision(self._device):
            logits, quality, _ = self._predictor.predict(
                point_coords=clicks,
                point_labels=says,
                box=None if corners is None else corners.reshape(4),
                mask_input=shown,
                multimask_output=is_ambiguous,
                return_logits=True,
            )
        best = int(np.argmax(quality))
        return Proposal(self._to_slice(logits[best]), float(np.clip(quality[best], 0, 1)))

    def _seen_slice(self) -> _Slice:
        if self._slice is None:
            raise RuntimeError("call set_slice before predict")
        return self._slice

    def _window_around(
        self, box: ArrayLike | None, places: NDArray[np.float64] | None, mask: Tensor | None
    ) -> Window:
        """Choose the square that a close-up shows: about twice as wide as what is asked about."""
        pixels, spacing = self._seen_slice()
        corners = [] if box is None else [np.reshape(np.asarray(box, dtype=float), (2, 2))]
        if mask is not None and (mask > 0.5).any():
            corners.append(np.reshape(box_around(mask > 0.5), (2, 2)))
        is_known = bool(corners)
        ends = np.concatenate([*corners, *([] if places is None else [places])])
        if not len(ends):
            return Window(0, 0, *pixels.shape)
        low, high = ends.min(0) * spacing, (ends.max(0) + 1) * spacing
        side_mm = CLOSE_UP * (high - low).max() if is_known else (high - low).max() + CLICK_FIELD_MM
        side = np.maximum(1, np.rint(max(side_mm, LEAST_FIELD_MM) / spacing)).astype(int)
        first = np.rint((low + high) / 2 / spacing - side / 2).astype(int)
        return Window(int(first[0]), int(first[1]), int(side[0]), int(side[1]))

    def _look_at(self, window: Window) -> None:
        """Show SAM2 a window of the slice, unless it sees that already."""
        if window == self._window:
            return
        _, spacing = self._seen_slice()
        lengths = np.array([window.rows, window.columns]) * spacing
        rows, columns = np.maximum(1, np.rint(self._side * lengths / lengths.max())).astype(int)
        self._window, self._content = window, (int(rows), int(columns))
        square = self._to_square(self._cut(self._seen_slice().pixels))
        with torch.inference_mode(), fast_precision(self._device):
            self._predictor.set_image(square.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy())

    def _cut(self, pixels: Tensor) -> Tensor:
        """Cut the window out of (H, W); zero beyond the slice."""
        assert self._window is not None
        first_row, first_column, rows, columns = self._window
        before = (max(0, -first_row), max(0, -first_column))
        inner = pixels[
            max(0, first_row) : max(0, first_row + rows),
            max(0, first_column) : max(0, first_column + columns),
        ]
        after = (rows - before[0] - inner.shape[0], columns - before[1] - inner.shape[1])
        return F.pad(inner, (before[1], after[1], before[0], after[0]))

    def _to_square(self, pixels: Tensor) -> Tensor:
        """The window's pixels to (S, S), black beyond it."""
        scaled = F.interpolate(
            pixels[None, None], self._content, mode="bilinear", antialias=True, align_corners=False
        )[0, 0]
        rows, columns = self._content
        return F.pad(scaled, (0, self._side - columns, 0, self._side - rows))

    def _to_xy(self, places: NDArray[Any]) -> NDArray[np.float32]:
        """(P, 2) rows and columns of the slice to x and y of the square."""
        assert self._window is not None
        first_row, first_column, rows, columns = self._window
        scale = np.array(self._content) / (rows, columns)
        inside = np.asarray(places) - (first_row, first_column)
        return np.asarray(((inside + 0.5) * scale - 0.5)[:, ::-1], dtype=np.float32)

    def _to_mask_input(self, mask: Tensor) -> NDArray[np.float32]:
        square = self._to_square(self._cut(mask.clamp(0, 1)))[None, None]
        coarse = F.avg_pool2d(square, MASK_STRIDE)[0]  # (1, S/4, S/4)
        return np.asarray(mask_logits(coarse).numpy())

    def _drawn(
        self,
        corners: NDArray[np.float32] | None,
        clicks: NDArray[np.float32] | None,
        says: NDArray[Any] | None,
        mask: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """Draw what is given into a mask (1, S/4, S/4)."""
        small = self._side // MASK_STRIDE
        points = [places for places in (corners, clicks) if places is not None]
        meanings = [] if corners is None else [FIRST_CORNER, LAST_CORNER]
        meanings += [] if says is None else [int(said) for said in says]
        prompts = Prompts(
            torch.from_numpy(np.concatenate([*points, np.zeros((0, 2), np.float32)]))[None],
            torch.tensor(meanings, dtype=torch.int32)[None],
            torch.zeros(1, 1, small, small) if mask is None else torch.from_numpy(mask)[None],
            torch.tensor([mask is not None]),
        )
        return np.asarray(drawn(prompts).masks[0].numpy())

    def _to_slice(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (S, S) of the square to probabilities (H, W) of the slice."""
        assert self._window is not None
        first_row, first_column, height, width = self._window
        rows, columns = self._content
        inside = torch.from_numpy(logits[:rows, :columns].copy())[None, None]
        fine = F.interpolate(
            inside, (height, width), mode="bilinear", antialias=True, align_corners=False
        )[0, 0]
        whole = np.zeros(self._seen_slice().pixels.shape, dtype=np.float32)
        top, left = max(0, first_row), max(0, first_column)
        bottom = min(whole.shape[0], first_row + height)
        right = min(whole.shape[1], first_column + width)
        shown = fine.sigmoid().numpy()
        whole[top:bottom, left:right] = shown[
            top - first_row : bottom - first_row, left - first_column : right - first_column
        ]
        return whole


def normalised(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and scale brightness (H, W): dark is 0 and the bright end `WHITE`."""
    positive = torch.from_numpy(pixels - min(0.0, float(pixels.min())))
    if not bool(positive.any()):
        return np.zeros_like(pixels)
    # one damaged pixel must not make the others dark
    highest = float(SPIKE * positive[positive > 0].quantile(0.999))
    positive = positive.clamp_max(highest)
    highest = float(positive.max())
    white = bright_end(positive[None, None] / highest)[0, 0]
    return np.asarray((positive / highest * (WHITE / white)).numpy())


def box_around(mask: ArrayLike) -> tuple[int, int, int, int]:
    """Return first row, first column, last row and last column of a mask (H, W), not empty."""
    rows, columns = np.nonzero(np.asarray(mask))
    return int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max())
