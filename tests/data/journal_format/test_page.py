"""``docs/explanation/journal-format.md`` says of each kind what its class says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from attrs import fields, frozen

from trio_romancy import EntryKind
from trio_romancy._data import journal_format

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "journal-format.md"
RELEASES = {"0.1.0", "unreleased"}


@frozen
class Section:
    text: str
    fields: list[str]
    example: Any

    @classmethod
    def read(cls, text: str) -> Section:
        (example,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        return cls(text, re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE), json.loads(example))

    def says(self, what: str) -> str:
        """What follows such a word in the list."""
        (found,) = re.findall(rf"^\* {what}: (.+?)(?=^\*|^\n)", self.text, re.MULTILINE | re.DOTALL)
        return str(found).strip()


_, *parts = re.split(r"^### `(\w+)`$", PAGE.read_text(), flags=re.MULTILINE)
sections = {name: Section.read(text.partition("\n## ")[0]) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def test_the_page_has_a_section_for_each_kind_and_no_other() -> None:
    assert set(sections) == {str(kind) for kind in EntryKind}
    assert len(parts) == 2 * len(EntryKind)


@pytest.mark.parametrize("kind", EntryKind)
def test_a_section_names_the_fields_of_its_class(kind: EntryKind) -> None:
    cls: Any = journal_format.CLASSES[kind]
    stored = {field.name for field in fields(cls) if not field.name.startswith("_")}
    named = sections[kind].fields
    assert set(named) == stored
    assert len(named) == len(stored)


@pytest.mark.parametrize("kind", EntryKind)
def test_an_example_is_a_payload_of_its_kind(kind: EntryKind) -> None:
    section = sections[kind]
    payload = journal_format.from_data(kind, section.example)
    assert json.loads(payload.to_text()) == section.example
    if isinstance(section.example, dict):
        optional = set(section.fields) - set(section.example)
        assert all(re.search(rf"^\| `{name}` \|.*missing if", section.text, re.MULTILINE) for name in optional)


@pytest.mark.parametrize("kind", EntryKind)
def test_a_section_says_who_writes_and_who_reads_it_and_since_when(kind: EntryKind) -> None:
    section = sections[kind]
    assert section.says("Written by")
    assert section.says("Read by")
    assert section.says("Since") in RELEASES
    assert ("Delivered." in section.text) == kind.is_delivered
