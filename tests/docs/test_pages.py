"""The pages agree with the code, with each other, and with the words we use."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.docs.pages import DOCS, ROOT, blocks, links, name, pages
from tests.docs.terminal import commands
from tools import reference

from longcase.engine.incidents import _REPAIRS

SOURCE = ROOT / "src" / "longcase"
# In documents: words that talk down, and praise.
TALK = ("simply", "just", "easily", "obviously", "blazing", "powerful", "seamless", "effortless")
# Anywhere in the repository: what a reader of it has no use for. In halves, so that this file does not hold them.
BANNED = tuple(
    first + second
    for first, second in (
        *(("chat", "gpt"), ("ope", "nai"), ("anthro", "pic"), ("cla", "ude"), ("cop", "ilot"), ("l", "lm"), ("a", "i")),
        *(("age", "nt"), ("age", "nts"), ("pro", "mpt"), ("pro", "mpts")),
    )
)
PATHS = ("/wo" + "rk/", "/tm" + "p/w/")
# Every host that a tracked file may name.
HOSTS = {"www.apache.org", "keepachangelog.com", "semver.org", "localhost", "127.0.0.1", "example.com"}


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_between_pages_resolve(page: Path) -> None:
    inner = [link.partition("#")[0] for link in links(page) if "://" not in link]
    assert [link for link in inner if link and not (page.parent / link).exists()] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    todo, seen = [ROOT / "README.md"], set()
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        found = [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
        todo += [target for target in found if target.suffix == ".md"]
        todo += [inner for target in found if target.is_dir() for inner in target.glob("*.md")]
    assert sorted(name(page) for page in DOCS.rglob("*.md") if page not in seen) == []


# -- reference ---------------------------------------------------------------------------------------------


def test_the_reference_pages_are_current() -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_environment_variable_is_documented() -> None:
    read = {found for path in SOURCE.rglob("*.py") for found in re.findall(r"\bLONGCASE_[A-Z_]+\b", path.read_text())}
    assert read == set(reference.VARIABLES)
    settings = (DOCS / "reference" / "settings.md").read_text()
    assert [variable for variable in read if f"`{variable}`" not in settings] == []


def test_every_view_is_documented_with_its_columns() -> None:
    text = reference.views_sql()
    created = re.findall(r"CREATE VIEW (\w+)", text)
    assert [view for _, view in reference.view_comments(text)] == created


def test_every_kind_of_incident_has_its_repair() -> None:
    page = (DOCS / "howto" / "repair-an-incident.md").read_text()
    raised = set(_REPAIRS)
    for path in (SOURCE / "engine").glob("*.py"):
        raised |= set(re.findall(r'TurnDiscarded\(\s*"(\w+)"', path.read_text()))
    assert {"code_changed", "deadlock", "activity_failed"} <= raised
    assert sorted(kind for kind in raised if f"| `{kind}` |" not in page) == []


@pytest.mark.parametrize("named", ["guarantees.md", "faults.md"])
def test_every_promise_names_tests_that_exist(named: str) -> None:
    page = (DOCS / "explanation" / named).read_text()
    promised = set(re.findall(r"`(test_\w+)`", page))
    defined = {
        found for path in (ROOT / "tests").rglob("*.py") for found in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    assert len(promised) > 20
    assert sorted(promised - defined) == []


# -- commands ------------------------------------------------------------------------------------------------


def unknown_words(line: str, known: dict[str, Any]) -> list[str]:
    """Return the command, or the options, of a `longcase ...` line that do not exist."""
    words = shlex.split(line.partition("longcase ")[2].rstrip("&").strip())
    if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
        return []
    if words[0] not in known:
        return [words[0]]
    options = {option for parameter in known[words[0]].params for option in parameter.opts} | {"--help"}
    given = [word for word in words[1:] if word.startswith("-") and word != "-"]
    return [option for option in given if option.partition("=")[0] not in options]


def test_every_command_in_the_pages_exists_with_its_options() -> None:
    known = reference.cli_commands()
    found = [
        (name(page), line)
        for page in pages()
        for block in blocks(page)
        if block.language in ("sh", "")
        for line in commands(block.text)
        if re.match(r"(\w+=\S+ )*longcase [a-z]", line)
    ]
    assert len(found) > 30
    assert [(page, line) for page, line in found if unknown_words(line, known)] == []


def test_every_hint_that_is_a_command_names_one_that_exists() -> None:
    known = reference.cli_commands()
    hints = [hint for path in SOURCE.rglob("*.py") for hint in _hints(ast.parse(path.read_text()))]
    typed = [hint for hint in hints if hint.startswith("longcase ")]
    assert len(typed) > 10
    assert sorted({hint.split()[1].rstrip(",:;") for hint in typed} - set(known) - {"--help"}) == []
    whole = [hint for hint in typed if not re.search(r"[;|]|, | then ", hint) and hint.count("'") % 2 == 0]
    assert [(hint, wrong) for hint in whole if (wrong := unknown_words(hint, known))] == []


def _hints(tree: ast.AST) -> list[str]:
    """Return the text of every `hint=...`; what is computed in it stands as X."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            match node.value:
                case ast.Constant(str(text)):
                    found.append(text)
                case ast.JoinedStr(values):
                    found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in values))
    return found


# -- words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=name)
def test_the_prose_neither_talks_down_nor_praises(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL).lower()
    assert [word for word in TALK if re.search(rf"\b{word}\b", prose)] == []


def tracked() -> list[tuple[str, list[str]]]:
    """Return the lines of every text file of the repository, by name."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for file in listed.stdout.splitlines():
        if (ROOT / file).is_file():
            data = (ROOT / file).read_bytes()
            if b"\0" not in data:
                found.append((file, data.decode(errors="replace").splitlines()))
    assert len(found) > 100
    return found


def test_no_file_speaks_of_what_is_not_the_project() -> None:
    words = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
    found = [
        f"{file}:{number}: {line.strip()[:80]}"
        for file, lines in tracked()
        for number, line in enumerate(lines, 1)
        if words.search(line) or any(path in line for path in PATHS)
    ]
    assert found == []


def test_no_page_speaks_of_sessions() -> None:
    # The command line has a class of that name; a page has no use for the word.
    pattern = re.compile(r"\bsessions?\b", re.IGNORECASE)
    assert [name(page) for page in pages() if pattern.search(page.read_text())] == []


def test_no_file_names_a_host_we_do_not_know() -> None:
    found = {
        host: file
        for file, lines in tracked()
        for line in lines
        for host in re.findall(r"https?://([\w.-]+)", line)
        if host not in HOSTS
    }
    assert found == {}
