"""The pictures of the docs are as they are drawn, can be read by everyone, and are shown somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SVG = "{http://www.w3.org/2000/svg}"

pictures = sorted(path.name for path in IMAGES.glob("*.svg"))


def test_pictures_are_as_the_script_draws_them() -> None:
    """Among them the plot of the benchmark, whose numbers are those of its page."""
    drawn = {picture.path.name: str(picture) for picture in runpy.run_path(str(IMAGES / "draw.py"))["pictures"]()}
    assert sorted(drawn) == pictures
    stale = [name for name in pictures if (IMAGES / name).read_text("utf-8") != drawn[name]]
    assert not stale, "run `python docs/images/draw.py`, which draws them"


@pytest.mark.parametrize("name", pictures)
def test_picture_has_title_and_description_and_colours_for_dark_pages(name: str) -> None:
    root = ElementTree.parse(IMAGES / name).getroot()
    assert root.findtext(f"{SVG}title")
    assert len(root.findtext(f"{SVG}desc") or "") > 80
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")


@pytest.mark.parametrize("name", pictures)
def test_picture_is_shown_with_a_text_in_its_place(name: str) -> None:
    texts = [
        text
        for page in PAGES
        for text, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text("utf-8"))
        if (page.parent / path).resolve() == IMAGES / name
    ]
    assert texts
    assert all(len(text) > 30 for text in texts)


def test_every_picture_that_a_page_shows_exists() -> None:
    missing = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8"))
        if not (page.parent / path).exists()
    ]
    assert not missing
