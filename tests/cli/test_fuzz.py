"""No argument gives a traceback, an error without a sentence, or an exit code that is not documented."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_romancy.cli.main import run
from trio_romancy.cli.program import COMMANDS, GROUPS, make_program

ENDLESS = {"worker", "bench"}
"""Commands that work for long once their arguments are right."""
NEVER = {"--watch", "--wait", "--traceback", "--install-completion", "--show-completion"}
"""Options that wait for ever, ask for a traceback, or write into the home directory."""

strange = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(max_codepoint=0x1F), max_size=4),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "-", "--", "=", "a=1", "$.a=", "$[=1", "{", "[[", '{"a": 1}', '"\\ud800"', "\udcff", "%s", "@x"]
    ),
    st.sampled_from(["2h", "-2h", "9" * 30 + "d", "2026-13-01", "9999-12-31T23:59:59", "0001-01-01", "1e400", "NaN"]),
)


def _options(command: Any) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("-")]


def _commands() -> dict[str, list[str]]:
    group: Any = typer.main.get_command(make_program())
    found = {}
    for name in sorted(COMMANDS.keys() - ENDLESS) + sorted(GROUPS):
        command = group.get_command(None, name)
        for words, leaf in (
            [(f"{name} {inner}", it) for inner, it in command.commands.items()] if name in GROUPS else [(name, command)]
        ):
            found[words] = [option for option in _options(leaf) if option not in NEVER]
    return found


@pytest.mark.parametrize("words", _commands())
def test_strange_arguments_are_answered_by_a_sentence(words: str, shop: str, tmp_path: Path) -> None:
    database = str(tmp_path / "shop.db")
    shutil.copyfile(shop, database)
    options = _commands()[words]

    @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.lists(
            st.one_of(strange, st.sampled_from(options), st.builds("{}={}".format, st.sampled_from(options), strange)),
            max_size=5,
        )
    )
    def check(arguments: list[str]) -> None:
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            code = run([*words.split(), *arguments, "--database", database])
        said = errors.getvalue()
        assert code in (0, 1, 2), said
        assert "Traceback" not in said
        assert "unexpected" not in said.replace("unexpected extra argument", ""), said
        assert code != 2 or said.startswith("trio-romancy: "), said

    check()
