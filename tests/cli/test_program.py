"""The list of commands, which are not imported to be listed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from trio_romancy.cli.program import COMMANDS

from ..support.fork_server import ROOT

NEEDLESS = ("trio", "sqlalchemy", "alembic", "rich", "cattrs", "hypercorn", "asyncio")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_with_the_first_sentence_of_its_help(name: str) -> None:
    text = inspect.getdoc(COMMANDS[name].load())
    assert text is not None
    assert text.replace("\n", " ").startswith(COMMANDS[name].help)


def test_help_imports_nothing_that_only_commands_need() -> None:
    program = (
        "import sys; from trio_romancy.cli.main import run; code = run(['--help']); "
        f"print(code, [name for name in {NEEDLESS} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "0 []\n"
    assert "--install-completion" in done.stdout
