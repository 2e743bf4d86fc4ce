"""A window that is worked in until something kills it: asks, then paints stroke after stroke.

    python -m tests.gui.killed_window IMAGE

Prints a checksum of the mask's file-order voxels after every stroke that is shown as saved.
"""

import sys
import zlib

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from segone_napari.gui.app import open_viewer
from segone_napari.gui.layers import volume_from_attributes
from tests.gui.conftest import ThresholdSegmenter


def main() -> None:
    viewer, widget = open_viewer(sys.argv[1], make_session=lambda preset, device: Balls())
    widget.ask("left ball; right ball")
    while widget.is_working:
        QApplication.processEvents()
    layer = viewer.layers["left ball"]
    random = np.random.default_rng(0)

    def paint() -> None:
        with layer.block_history():
            for point in random.integers(4, 26, (3, 3)):
                layer.paint(tuple(point), int(random.integers(0, 2)))
        QTimer.singleShot(5, paint)

    def tell() -> None:
        if widget.findChild(object, "saved").text() == "saved just now":
            volume = volume_from_attributes(layer.data, {"metadata": layer.metadata})
            print(zlib.crc32(np.ascontiguousarray(volume.data)), flush=True)

    clock = QTimer()
    clock.timeout.connect(tell)
    clock.start(20)
    paint()
    napari.run()


class Balls(ThresholdSegmenter):
    """Answers without waiting."""


if __name__ == "__main__":
    main()
