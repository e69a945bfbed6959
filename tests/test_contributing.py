"""CONTRIBUTING.md names the files and folders that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def section(heading: str) -> str:
    """Return the text under a heading."""
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, without those of heads and rules."""
    found = [re.split(r" \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")]
    return [cells for cells in found if cells[0] not in ("Folder", "To change", "To", "Before")]


def test_the_map_names_existing_files_and_folders() -> None:
    cells = rows(section("Find the file to change"))
    named = [name for first, second in cells for name in re.findall(r"`([\w/]+(?:/|\.py))`", f"{first} {second}")]
    missing = [name for name in named if not any((parent / name).exists() for parent in folders())]
    assert len(named) > 60
    assert not missing


def folders() -> list[Path]:
    """Return the folders from which the page names files: the package, and those inside that hold a whole subject."""
    package = ROOT / "trio_romancy"
    return [package, package / "cli", package / "_data", package / "_storage" / "journal", ROOT]


def test_every_folder_of_the_package_is_in_the_map() -> None:
    text = section("Find the file to change")
    package = ROOT / "trio_romancy"
    names = {path.parent.relative_to(package).as_posix() for path in package.rglob("*.py")}
    unnamed = [name for name in names if f"`{name}/`" not in text and f"{name.rpartition('/')[2]}/`" not in text]
    assert sorted(set(unnamed) - {".", "_runtime", "_storage"}) == []
