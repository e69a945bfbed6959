"""The tests that the page on testing shows pass with pytest, pytest-trio and pytest-asyncio, as users run them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "testing.md"

PLUGINS = {
    "trio": ("trio_mode = true", ["test_with_a_clock_that_jumps", "test_with_a_fixture"]),
    "asyncio": ('asyncio_mode = "auto"', ["test_on_asyncio"]),
    "": ("", ["test_without_an_event_loop", "test_patient", "test_shipping"]),
}


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin or "pytest alone")
def test_the_tests_of_the_page_pass(plugin: str, tmp_path: Path) -> None:
    if plugin and importlib.util.find_spec(f"pytest_{plugin}") is None:
        pytest.skip(f"pytest-{plugin} is not installed")
    option, names = PLUGINS[plugin]
    page = PAGE.read_text("utf-8")
    assert option in page
    (tmp_path / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{option}\n")
    (tmp_path / "test_page.py").write_text("\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)))
    others = [f"-pno:{name}" for name in PLUGINS if name and name != plugin]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-pno:cacheprovider",
        *others,
        "-k",
        " or ".join(names),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert f"{len(names)} passed" in done.stdout, done.stdout + done.stderr
