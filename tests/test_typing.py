"""What users write is checked by their type checker: mypy accepts the right calls and refuses each wrong one.

So is what the library writes itself: mypy refuses a column that a row does not have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import mypy.api
import pytest

CASES = Path(__file__).parent / "typing_cases"
_ERROR = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): error: (?P<message>.*)")

Errors = Mapping[str, Mapping[int, list[str]]]


@pytest.fixture(scope="module")
def errors(request: pytest.FixtureRequest) -> Errors:
    """What mypy has against each file, by line."""
    names = [str(path) for path in sorted(CASES.glob("*.py"))]
    options = ["--strict", "--follow-imports=silent", "--hide-error-context", "--no-pretty", "--no-color-output"]
    cache = Path(os.environ.get("MYPY_CACHE_DIR", request.config.rootpath / ".mypy_cache"), CASES.name)
    places = [f"--cache-dir={cache}", "--config-file="]
    output, complaints, _ = mypy.api.run([*options, *places, *names])
    assert not complaints, complaints
    found: dict[str, dict[int, list[str]]] = {Path(name).name: {} for name in names}
    for match in _ERROR.finditer(output):
        found[Path(match["file"]).name].setdefault(int(match["line"]), []).append(match["message"])
    return found


def _expected(name: str) -> dict[int, str]:
    lines = (CASES / name).read_text().splitlines()
    return {number: line.partition("# E: ")[2] for number, line in enumerate(lines, 1) if "# E: " in line}


@pytest.mark.parametrize("name", ["right.py", "right_elsewhere.py"])
def test_right_calls_have_no_type_errors(errors: Errors, name: str) -> None:
    assert errors[name] == {}


WRONG = ("wrong.py", "wrong_columns.py", "wrong_elsewhere.py")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_lines_are_the_only_ones_with_errors(errors: Errors, name: str) -> None:
    assert sorted(errors[name]) == sorted(_expected(name))


@pytest.mark.parametrize(("name", "line"), [(name, line) for name in WRONG for line in _expected(name)])
def test_a_wrong_line_gets_the_one_error_that_it_deserves(errors: Errors, name: str, line: int) -> None:
    (message,) = errors[name].get(line, ["no error"])
    assert _expected(name)[line] in message
