"""What the manifest adds to napari's menu *File › IO Utilities*: open, export, and the reader.

napari loads this module when one of its commands is first used, and hands the viewer over.
"""

from __future__ import annotations

from napari import Viewer
from napari.settings import get_settings
from napari.utils.notifications import show_info
from qtpy.QtWidgets import QApplication, QFileDialog

from segone_napari.gui.readers import SUFFIXES
from segone_napari.gui.widget import SegOneWidget

PLUGIN = "segone-napari"
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


def open_files(viewer: Viewer) -> None:
    """Ask for files and open them with our reader, whichever reader napari would take."""
    endings = " ".join(f"*{ending}" for ending in (*SUFFIXES, *DICOM_SUFFIXES))
    kinds = f"MRI ({endings});;All files (*)"  # files of a DICOM CD have no ending
    paths, _ = QFileDialog.getOpenFileNames(
        QApplication.activeWindow(), "Open MRI files", "", kinds
    )
    for path in paths:
        viewer.open(path, plugin=PLUGIN)


def open_folder(viewer: Viewer) -> None:
    """Ask for a folder of DICOM files or of masks and open it with our reader."""
    folder = QFileDialog.getExistingDirectory(QApplication.activeWindow(), "Open a DICOM folder")
    if folder:
        viewer.open(folder, plugin=PLUGIN)


def open_export(viewer: Viewer) -> None:
    """Open the export window of the panel, which is docked first if it isn't."""
    shown = [one for one in viewer.window.dock_widgets.values() if isinstance(one, SegOneWidget)]
    if shown:
        (widget, *_) = shown
    else:
        _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "SegOne")
    widget.open_export()


def use_for_mri() -> None:
    """Make our reader the one that napari takes for MRI files, as a person chose just now.

    It is the same setting as *Remember this choice* in napari's own dialog; folders are left out,
    since napari would give us those of other pictures, too.
    """
    plugins = get_settings().plugins
    ours = {f"*{ending}": PLUGIN for ending in (*SUFFIXES, *DICOM_SUFFIXES)}
    plugins.extension2reader = {**plugins.extension2reader, **ours}
    show_info(
        "SegOne opens MRI files from now on; change it in Preferences › Plugins › File extension "
        "readers"
    )
