"""What importing the package costs, and that no layer reaches where it must not."""

import pkgutil
import subprocess
import sys

import pytest

import segone_napari

GUI_MODULES = {"PyQt5", "PyQt6", "PySide2", "PySide6", "magicgui", "napari", "qtpy", "superqt"}
MAY_IMPORT_TORCH = (
    "segone_napari.models",
    "segone_napari.training",
    "segone_napari.systems",
    "segone_napari.data.resample",
    "segone_napari.data.slices",
    "segone_napari.data.synthetic",
    "segone_napari.data.tumours",
    "segone_napari.data.ventricles",
    "segone_napari.gui",
)


def module_names() -> list[str]:
    """Every module of the package, by its dotted name."""
    found = pkgutil.walk_packages(segone_napari.__path__, "segone_napari.")
    return ["segone_napari", *(module.name for module in found)]


def loaded_after(code: str) -> set[str]:
    """Top-level names in sys.modules after a fresh interpreter has run `code`."""
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    last_line = run.stdout.splitlines()[-1]
    assert last_line.startswith("LOADED ")
    return set(last_line.split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import segone_napari",
        "import segone_napari.cli; segone_napari.cli.main(['--help'])",
        "import segone_napari.cli; segone_napari.cli.main(['segment', '--help'])",
    ],
)
def test_import_and_help_load_neither_torch_nor_gui(code: str) -> None:
    assert not loaded_after(code) & (GUI_MODULES | {"torch", "transformers", "monai"})


def test_help_names_every_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "segone_napari.cli", "--help"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0
    for command in ("segment", "view", "demo", "vocabulary", "train", "train-teacher", "doctor"):
        assert command in run.stdout


def test_an_interrupt_while_the_command_is_loaded_ends_it_in_words() -> None:
    code = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "segone_napari.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from segone_napari.__main__ import main
sys.exit(main())
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 130
    assert run.stderr.strip() == "segone: stopped before it began"


def test_core_modules_load_no_gui_library() -> None:
    core = [name for name in module_names() if not name.startswith("segone_napari.gui")]
    assert not loaded_after(f"import {', '.join(core)}") & GUI_MODULES


def test_light_modules_load_no_torch() -> None:
    light = [name for name in module_names() if not name.startswith(MAY_IMPORT_TORCH)]
    assert "segone_napari.volume" in light
    assert "torch" not in loaded_after(f"import {', '.join(light)}")


def test_every_public_name_can_be_imported() -> None:
    for name in segone_napari.__all__:
        assert getattr(segone_napari, name) is not None
