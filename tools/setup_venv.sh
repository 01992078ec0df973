#!/bin/sh
# Fill a virtual environment from a lock file and install Longcase into it, editable.
#
#   usage: tools/setup_venv.sh VENV LOCK        (from the root of the repository)
#   PYTHON=/path/to/python chooses the interpreter; otherwise the first one >= 3.11 is taken.
#
# The lock carries hashes and the build backend, so nothing unpinned is ever fetched. An existing
# environment that still runs is kept and brought up to the lock; a broken one is made anew.
set -eu

FLOOR="3.11"
venv=$1
lock=$2

say() { printf '%s\n' "$*" >&2; }

fail() { # fail MESSAGE HINT
    say "setup: $1"
    say ""
    say "hint: $2"
    exit 1
}

new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$FLOOR'.split('.'))))" >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python $FLOOR or newer" "make setup PYTHON=python3.11"
        return
    fi
    for PYTHON in python3.11 python3.12 python3.13 python3.14 python3; do
        if new_enough "$PYTHON"; then return; fi
    done
    fail "no Python $FLOOR or newer on PATH" "apt-get install python3 python3-venv   (Debian 12 has 3.11), or make setup PYTHON=/path/to/python"
}

# Debian splits the installer of pip out of Python: without python3-venv, `venv` cannot put pip
# into the new environment. Then a pip outside serves (it can install into another interpreter),
# and without that one, root may add the missing package.
make_venv() {
    rm -rf "$venv"
    if "$PYTHON" -m venv "$venv" >/dev/null 2>&1; then return; fi
    rm -rf "$venv"
    if outside_pip && "$PYTHON" -m venv --without-pip "$venv" >/dev/null 2>&1; then return; fi
    rm -rf "$venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "setup: $PYTHON cannot make a virtual environment with pip; installing python3-venv"
        (apt-get install -y python3-venv || (apt-get update && apt-get install -y python3-venv)) >&2 || true
        if "$PYTHON" -m venv "$venv" >/dev/null 2>&1; then return; fi
        rm -rf "$venv"
    fi
    fail "$PYTHON cannot make a virtual environment with pip" "sudo apt-get install python3-venv, then make setup"
}

outside_pip() { "$PYTHON" -m pip --python "$PYTHON" --version >/dev/null 2>&1; } # --python: pip 22.3 or newer

install() {
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    else
        "$PYTHON" -m pip --python "$venv/bin/python" install --quiet --disable-pip-version-check "$@"
    fi
}

find_python
if ! new_enough "$venv/bin/python"; then make_venv; fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 && ! outside_pip; then make_venv; fi
say "setup: installing $lock into $venv ($("$venv/bin/python" --version)); the first time takes about a minute"
install --require-hashes --requirement "$lock"
PATH="$(cd "$venv" && pwd)/bin:$PATH" # without isolation the build backend looks for its binary on PATH
export PATH
install --no-deps --no-build-isolation --editable .
