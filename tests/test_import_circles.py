"""No file of the package imports itself through others, counting imports for type checkers and inside functions."""

from __future__ import annotations

import sys
from pathlib import Path

import grimp
import pytest


def largest_circle(package: str) -> set[str]:
    """Return the modules of the largest circle of imports; a single module if there is no circle."""
    graph = grimp.build_graph(package, cache_dir=None, exclude_type_checking_imports=False)
    circles = (
        {module} | (graph.find_upstream_modules(module) & graph.find_downstream_modules(module))
        for module in graph.modules
    )
    return max(circles, key=len)


def test_no_file_of_the_package_imports_itself_through_others() -> None:
    circle = largest_circle("trio_romancy")
    assert len(circle) == 1, sorted(circle)


@pytest.mark.parametrize(
    "text",
    [
        "from . import first",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .first import x",
        "def late() -> None:\n    from . import first",
    ],
    ids=["at the top", "for type checkers", "inside a function"],
)
def test_every_kind_of_import_closes_a_circle(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "circular"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "first.py").write_text("from . import second")
    (package / "second.py").write_text("from . import third")
    (package / "third.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert largest_circle("circular") == {"circular.first", "circular.second", "circular.third"}
