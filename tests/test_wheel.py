"""The wheel that users get: built here, installed into an empty environment, and asked."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from segone_napari.data.samples import SAMPLES

PROJECT = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside of the checkout's influence and return what it printed."""
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (PROJECT / "pyproject.toml").is_file():
        pytest.skip("a wheel can be built from a checkout only")
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PROJECT)
    run(sys.executable, *build, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The interpreter of an environment that holds the wheel, and borrows what it depends on."""
    environment = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=wheel.parent)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    run(sys.executable, *install, cwd=wheel.parent)
    print_site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", print_site, cwd=wheel.parent).strip())
    # Downloading two gigabytes again would show nothing about this wheel. An editable install
    # in the borrowed folder stays unseen: its own .pth file is not read from there.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def test_wheel_carries_weights_manifest_vocabulary_and_samples(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = "segone_napari"
    samples = SAMPLES.values()
    wanted = {f"{package}/{name}" for name in ("napari.yaml", "py.typed", "data/vocabulary.json")}
    wanted |= {f"{package}/sample_data/{sample.image}" for sample in samples}
    wanted |= {f"{package}/sample_data/{sample.truth}" for sample in samples}
    assert wanted <= names
    checkpoints = {name for name in names if name.startswith(f"{package}/checkpoints/")}
    assert any(name.endswith("/checkpoint.json") for name in checkpoints)
    assert any(name.endswith(".safetensors") for name in checkpoints)
    assert not any("__pycache__" in name or name.startswith("tests/") for name in names)


def test_wheel_is_small_enough_to_mail(wheel: Path) -> None:
    assert wheel.stat().st_size < 60 * 2**20


def test_installed_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed, "-c", "import segone_napari; print(segone_napari.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(installed.parents[1])


@pytest.mark.parametrize("interpreter", ["installed", "editable"])
def test_manifest_is_valid(
    interpreter: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    python = request.getfixturevalue("installed") if interpreter == "installed" else sys.executable
    printed = run(python, "-m", "npe2", "validate", "segone-napari", cwd=tmp_path)
    assert "SegOne" in printed


def test_samples_are_found_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from segone_napari.data.samples import SAMPLES\n"
        "for sample in SAMPLES.values(): print(sample.image_path.stat().st_size)"
    )
    sizes = [int(line) for line in run(installed, "-c", code, cwd=tmp_path).split()]
    assert len(sizes) == len(SAMPLES)
    assert min(sizes) > 100_000


def test_command_of_the_wheel_answers(installed: Path, tmp_path: Path) -> None:
    printed = run(installed.parent / "segone", "--help", cwd=tmp_path)
    assert "segment" in printed


def test_wheel_segments_its_own_sample(installed: Path, tmp_path: Path) -> None:
    print_path = "from segone_napari.data.samples import SAMPLES; print(SAMPLES['t1'].image_path)"
    image = run(installed, "-c", print_path, cwd=tmp_path).strip()
    options = ("-p", "left hippocampus", "-o", "labels.nii.gz", "--preset", "fast")
    run(installed.parent / "segone", "segment", image, *options, cwd=tmp_path)
    assert (tmp_path / "labels.nii.gz").stat().st_size > 0
