"""Entry point of the command line. An error becomes one sentence and an exit code, not a traceback."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from .failures import UNUSABLE, NoReaderError, explain, only_leaf

INTERRUPTED = 130
"""Exit code that shells report for a process ended by SIGINT."""
NO_READER = 141
"""Exit code that shells report for a process ended by SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the arguments name, and exit.

    Args:
      arguments: the arguments after the name of the program; by default those of this process.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name, and return its exit code."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        _say(f"the command line needs {' and '.join(missing)}: pip install 'trio_romancy[cli]'")
        return UNUSABLE
    from .program import make_program

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show becomes an escape
    try:
        code = make_program()(list(arguments), prog_name="trio-romancy", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except BaseException as error:
        return _end(only_leaf(error), shows_traceback=_asks_for_traceback(arguments))


def _end(error: BaseException, *, shows_traceback: bool) -> int:
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, BrokenPipeError | NoReaderError):
        # The rest of the buffer must not fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # typer's, at a question
        return INTERRUPTED
    if shows_traceback:
        traceback.print_exception(error)
    sentence, code = explain(error)
    _say(sentence)
    return code


def _asks_for_traceback(arguments: Sequence[str]) -> bool:
    return "--traceback" in arguments or os.environ.get("TRIO_ROMANCY_TRACEBACK", "") not in ("", "0")


def _say(sentence: str) -> None:
    line = "trio-romancy: " + " ".join(sentence.split())
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
    if sys.stderr.isatty():
        shown = textwrap.fill(shown, shutil.get_terminal_size().columns, break_on_hyphens=False)
    print(shown, file=sys.stderr)
