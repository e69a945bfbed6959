"""Pages of the docs, and the docstrings and comments of the package, are written in plain English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "trio_romancy").rglob("*.py"))

BANNED = re.compile(r"\b(whoever|somebody|nobody|anybody|anew)\b|\bis none\b", re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_has_no_translated_words(page: Path) -> None:
    """See "The house voice" in CONTRIBUTING.md. What a program has printed is a quotation, and ``is None`` is code."""
    text = re.sub(r"^```output\n.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not _banned(text)


def test_package_has_no_translated_words() -> None:
    found = {str(file): lines for file in SOURCES if (lines := _banned(file.read_text("utf-8")))}
    assert not found


def _banned(text: str) -> list[str]:
    return [line for line in text.splitlines() for word in BANNED.finditer(line) if word[0] != "is None"]
