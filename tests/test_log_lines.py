"""The log lines that ``docs/how-to/operate.md`` explains are logged by the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "operate.md"

PLACEHOLDER = re.compile(r"%(?:\.\d+)?[sdfr]")


def explained_lines() -> list[str]:
    table = PAGE.read_text("utf-8").partition("| Line | Level |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE)


def patterns() -> list[re.Pattern[str]]:
    """Return a pattern for each text in the package: what is put into it may be anything."""
    found = []
    for path in (ROOT / "trio_romancy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = PLACEHOLDER.split(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [str(value.value) if isinstance(value, ast.Constant) else "" for value in node.values]
            else:
                continue
            if sum(len(part) for part in parts) > 20:
                found.append(re.compile(".*".join(re.escape(part) for part in parts)))
    return found


@pytest.fixture(scope="module")
def texts() -> list[re.Pattern[str]]:
    return patterns()


def test_the_page_explains_some_lines() -> None:
    assert len(explained_lines()) > 5


@pytest.mark.parametrize("line", explained_lines())
def test_explained_line_is_logged(line: str, texts: list[re.Pattern[str]]) -> None:
    assert any(text.search(line) for text in texts)
