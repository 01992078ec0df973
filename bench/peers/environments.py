"""Each peer's own environment: a virtual environment with pinned versions, and for Restate its server from npm."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESTATE_SERVER = "@restatedev/restate-server@1.7.12"


class Unavailable(Exception):
    """A peer cannot be had on this machine; the text says why."""


def python_of(peer: str, folder: Path) -> str:
    """Return the Python of a peer's environment, made or brought up to its pins first; Longcase runs in ours."""
    if peer == "longcase":
        return sys.executable
    pins = HERE / f"requirements-{peer}.txt"
    place, python = folder / peer, folder / peer / "bin" / "python"
    mark, wanted = place / "pins", hashlib.sha256(pins.read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text() != wanted:
        print(f"bench-peers: making {place}", file=sys.stderr)
        # pip stays outside: Debian's Python cannot put it into an environment without the package python3-venv.
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(place)])
        quiet = ["--quiet", "--disable-pip-version-check"]
        _run([sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, "-r", str(pins)])
        mark.write_text(wanted)
    return str(python)


def restate_server(folder: Path) -> Path:
    """Return the binary of Restate's server, installed from npm first."""
    place = folder / "restate-server"
    mark = place / "pins"
    if not mark.exists() or mark.read_text() != RESTATE_SERVER:
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("its server comes from npm, and there is no npm on PATH")
        place.mkdir(parents=True, exist_ok=True)
        # The package's own program only looks up the binary for this platform: no install script is needed.
        quiet = ["--no-fund", "--no-audit", "--ignore-scripts", "--loglevel", "error"]
        _run([npm, "install", "--prefix", str(place), *quiet, RESTATE_SERVER])
        mark.write_text(RESTATE_SERVER)
    found = sorted((place / "node_modules" / "@restatedev").glob("restate-server-*/bin/restate-server"))
    if not found:
        raise Unavailable("npm has no binary of its server for this platform")
    return found[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
