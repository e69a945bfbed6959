"""Pages of the docs are written in plain English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

BANNED = re.compile(r"\b(whoever|somebody|nobody|anybody|anew)\b|\bis none\b", re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_has_no_translated_words(page: Path) -> None:
    """See "The house voice" in CONTRIBUTING.md. What a program has printed is a quotation, and ``is None`` is code."""
    text = re.sub(r"^```output\n.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [line for line in text.splitlines() for word in BANNED.finditer(line) if word[0] != "is None"]
    assert not found
