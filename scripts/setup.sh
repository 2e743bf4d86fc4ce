#!/bin/sh
# Makes .venv with segone-napari in it, and the system libraries that napari needs.
#   scripts/setup.sh system    install missing system libraries, or say which are missing
#   scripts/setup.sh checkers  install the other programs that tests check with, where that is easy
#   scripts/setup.sh python    create .venv and install the project into it, editable
# The Makefile calls both. PYTHON=/path/to/python3 chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

# Qt, OpenGL in software, and a virtual screen for the tests.
libraries="libgl1 libegl1 libopengl0 libgl1-mesa-dri libdbus-1-3 libfontconfig1 libglib2.0-0
    libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0
    libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libxcb-xkb1 xvfb xauth"

# dciodvfy, which compares DICOM files with the standard. Tests that want it are skipped without it.
checkers="dicom3tools"

say() { echo "setup: $*" >&2; }

install_system_libraries() {
    if ! has apt-get || ! has dpkg-query; then
        # Windows and macOS need nothing more; other Linux systems name the libraries differently.
        if [ "$(uname -s)" = Linux ] && ! has Xvfb; then
            say "this is neither Debian nor Ubuntu, so no system libraries were installed."
            say "napari needs OpenGL and Qt's xcb libraries; the tests need Xvfb as well."
        fi
        return 0
    fi
    missing=$(missing_packages $libraries)
    [ -z "$missing" ] || apt_install $missing || say "going on without; napari may not start."
}

# Only as root on Debian and its like, and nothing depends on it: tests say why they are skipped.
install_checkers() {
    if [ "$(id -u)" != 0 ] || ! has apt-get || ! has dpkg-query || has dciodvfy; then
        return 0
    fi
    apt_install $checkers || say "going on without; the tests that want them will be skipped."
}

create_environment() {
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        say "creating .venv with $("$python" --version) ($python)"
        "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_module "$python"
        "$python" -m venv --clear .venv
    fi
    # The build constraint keeps isolated builds from fetching other versions; older pip
    # applies PIP_CONSTRAINT there. Both are relative: a path with spaces would be split.
    # sam2 is built here, and its build needs torch; its CUDA extension is not used.
    say "installing the project and what it needs (some minutes the first time)"
    SAM2_BUILD_CUDA=0 PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[qt,test,dev]"
}

# Prints the first interpreter that really runs and is new enough. A command that exists may
# still not run: pyenv leaves such shims for versions that aren't active.
find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    say "no Python 3.11 or newer was found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11})."
    say "Install one, or name it: make setup PYTHON=/path/to/python3"
    exit 1
}

install_venv_module() {
    package="python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    if has apt-get && apt_install "$package"; then
        return 0
    fi
    say "$1 can't create virtual environments. Install its venv module (Debian: $package)."
    exit 1
}

missing_packages() {
    for package in "$@"; do
        # Newer releases add "t64" to the names of some libraries.
        is_installed "$package" || is_installed "${package}t64" || printf '%s ' "$package"
    done
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_install() {
    if [ "$(id -u)" != 0 ]; then
        say "please run:  sudo apt-get install -y $*"
        return 1
    fi
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null || {
        say "apt-get could not install: $*"
        return 1
    }
}

has() { command -v "$1" >/dev/null 2>&1; }

case "${1:-}" in
    system) install_system_libraries ;;
    checkers) install_checkers ;;
    python) create_environment ;;
    *)
        sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
