"""Pages taken apart: their code blocks, their links, and a program put together from its pieces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(r"# ([\w.]+\.py)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page: its language and its text; `line` is where it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The file it belongs to by its first line, `# onboarding.py`; empty if it names none."""
        named = _FILE.match(self.text)
        return named[1] if named else ""


def pages() -> list[Path]:
    """Return every page a reader may open."""
    examples = sorted(ROOT.glob("examples/*/*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")), *examples]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str = "") -> list[Block]:
    """Return the page's code blocks, of one language or of all."""
    text = page.read_text()
    found = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(text)]
    return [block for block in found if not language or block.language == language]


def links(page: Path) -> list[str]:
    return _LINK.findall(_BLOCK.sub("", page.read_text()))


def merged(pieces: list[str]) -> str:
    """Put a program together as the tutorial tells its reader to: a later definition replaces the earlier one."""
    parts: dict[str, str] = {}
    for piece in pieces:
        for defined, text in _definitions(piece):
            parts[defined] = text
    return "\n\n".join(parts.values()) + "\n"


def _definitions(piece: str) -> Iterator[tuple[str, str]]:
    lines = piece.splitlines()
    end = 0
    for node in ast.parse(piece).body:
        assert node.end_lineno is not None
        text = "\n".join(lines[end : node.end_lineno]).strip()
        end = node.end_lineno
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, text
            case ast.Assign(targets=[ast.Name(id=target)]):
                yield target, text
            case _:
                yield ast.unparse(node), text
