"""The file map in ``docs/explanation/architecture.md`` names every file of the package, and no other."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "explanation" / "architecture.md"

CURE = "run `python docs/file_map.py`, which writes the map"


def map_lines() -> list[tuple[str, str]]:
    """Return the path and the description of each file, and of each folder, in the map."""
    folder = ""
    found = []
    lines = PAGE.read_text("utf-8").partition("\n## File map\n")[2].splitlines()
    for number, line in enumerate(lines):
        if heading := re.fullmatch(r"### `([\w/]+)`", line):
            folder = heading[1]
            found.append((f"{folder}/", lines[number + 2]))
        elif row := re.fullmatch(r"\| `(\w+\.py)` \| (.*) \|", line):
            found.append((f"{folder}/{row[1]}", row[2]))
    return found


def holds_code(path: Path) -> bool:
    return any(not isinstance(statement, ast.Expr) for statement in ast.parse(path.read_text("utf-8")).body)


def test_every_file_of_the_package_is_in_the_map() -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "trio_romancy").rglob("*.py")
        if path.name != "__init__.py" or holds_code(path)
    }
    assert not files - {path for path, _ in map_lines()}, CURE


def test_every_file_of_the_map_is_in_the_package() -> None:
    assert not [path for path, _ in map_lines() if not (ROOT / path).exists()], CURE


def test_the_map_names_each_file_once_and_says_what_it_holds() -> None:
    lines = map_lines()
    assert len(lines) > 100
    assert set(Counter(path for path, _ in lines).values()) == {1}, CURE
    assert not [path for path, what in lines if not what], "the module needs a docstring; then " + CURE
