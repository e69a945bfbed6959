"""Entry point of the command line. An error becomes one sentence and an exit code, not a traceback."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from .failures import UNUSABLE, NoReaderError, OutputError, drop_rest, explain, only_leaf, say, writing

INTERRUPTED = 130
"""Exit code that shells report for a process ended by SIGINT."""
NO_READER = 141
"""Exit code that shells report for a process ended by SIGPIPE."""

_STDERR = 2


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
        say(f"the command line needs {' and '.join(missing)}: pip install 'trio_romancy[cli]'")
        return UNUSABLE
    from .program import make_program

    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show becomes an escape
    try:
        code = make_program()(list(arguments), prog_name="trio-romancy", standalone_mode=False)
        with writing():
            sys.stdout.flush()
        return int(code or 0)
    except BaseException as error:
        return _end(only_leaf(error), shows_traceback=_asks_for_traceback(arguments))


def _end(error: BaseException, *, shows_traceback: bool) -> int:
    if isinstance(error, BrokenPipeError | NoReaderError) or isinstance(error.__context__, BrokenPipeError):
        drop_rest(sys.stdout)  # click turns a broken pipe into SystemExit
        return NO_READER
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":  # typer's, at a question
        return INTERRUPTED
    if shows_traceback:
        traceback.print_exception(error)
    sentence, code = explain(error)
    if isinstance(error, OutputError | OSError):
        drop_rest(sys.stdout)
    say(sentence)
    return code


def open_closed_streams() -> None:
    """Open the standard streams that were closed when the process began, on nothing.

    Otherwise the next file that is opened, such as that of a database, would have the number of one of them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or Path(os.devnull).open()  # noqa: SIM115 - open as long as the process
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


def _asks_for_traceback(arguments: Sequence[str]) -> bool:
    return "--traceback" in arguments or os.environ.get("TRIO_ROMANCY_TRACEBACK", "") not in ("", "0")
