"""Runs the command line as its users do: as a process, on a terminal of some width or into a pipe.

The processes are forked from one that has imported the library. A few tests run :data:`COMMAND` itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from ..support.fork_server import COMMANDS, ROOT, Process, fork_server, fork_server_for

COMMAND = (sys.executable, "-m", "trio_romancy")

MODULE = "tests.cli.shop"

WIDTHS = (80, 40)

_STYLING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@frozen
class Answer:
    """What a command has answered."""

    code: int
    text: str
    """On a terminal all that it shows, without styling; else what is on standard output."""
    errors: str = ""

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def document(self) -> Any:
        return json.loads(self.text)


def environment(database: str | None, **others: str) -> dict[str, str]:
    """The environment of a command."""
    unset = ("TRIO_ROMANCY_DATABASE", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    given = {name: value for name, value in os.environ.items() if name not in unset}
    given |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | others
    return given if database is None else given | {"TRIO_ROMANCY_DATABASE": database}


def on_terminal(
    width: int,
    database: str | None,
    *arguments: str,
    when_shown: dict[str, Callable[[Process, int], object]] | None = None,
    styled: bool = False,
    **others: str,
) -> Answer:
    """Run a command on a terminal of so many columns.

    Args:
      when_shown: what to do once some text is shown: it gets the process, and our end of the terminal.
      styled: whether to keep colours and the like.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = start(database, arguments, others, (theirs, theirs, theirs))
    os.close(theirs)
    shown = b""
    waiting = dict(when_shown or {})
    try:
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # nobody has the other end any more
                break
            if not part:
                break
            shown += part
            for text in [text for text in waiting if text.encode() in shown]:
                waiting.pop(text)(process, ours)
        code = process.wait()
    finally:
        process.end()
        os.close(ours)
    text = shown.decode().replace("\r\n", "\n")
    return Answer(code, text if styled else _STYLING.sub("", text))


def through_pipe(database: str | None, *arguments: str, input: str = "", **others: str) -> Answer:
    """Run a command whose output is not shown on a terminal."""
    read_input, write_input = os.pipe()
    read_output, write_output = os.pipe()
    with tempfile.TemporaryFile() as errors:
        files = (read_input, write_output, errors.fileno())
        process = start(database, arguments, others, files)
        os.close(read_input)
        os.close(write_output)
        try:
            with os.fdopen(write_input, "w") as into:
                into.write(input)
            with os.fdopen(read_output) as out_of:
                said = out_of.read()
            code = process.wait()
        finally:
            process.end()
        errors.seek(0)
        return Answer(code, said, errors.read().decode())


def start(
    database: str | None, arguments: Sequence[str], others: Mapping[str, str], files: tuple[int, int, int]
) -> Process:
    """Start a command on these standard files."""
    stdin, stdout, stderr = files
    return fork_server(COMMANDS).start(
        "trio_romancy",
        *arguments,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        environment=environment(database, **others),
    )


def on_both(database: str, *arguments: str, code: int = 0) -> list[Answer]:
    """Run a command on a wide and on a narrow terminal. ``{}`` in an argument is the width."""
    answers = []
    for width in WIDTHS:
        answer = on_terminal(width, database, *(argument.replace("{}", str(width)) for argument in arguments))
        assert answer.code == code, answer.text
        assert "Traceback" not in answer.text
        too_long = [line for line in answer.lines if len(line) > width and "--page-token" not in line]
        assert not too_long
        answers.append(answer)
    return answers


def with_json(database: str, *arguments: str, code: int = 0) -> object:
    """Run a command into a pipe. ``{}`` in an argument is ``json``."""
    answer = through_pipe(database, *(argument.replace("{}", "json") for argument in arguments), "--json")
    assert (answer.code, answer.errors) == (code, "")
    return answer.document


def flat(answer: Answer) -> str:
    """What was said, however it is broken into lines."""
    return " ".join(answer.text.split())


def fill(database: str) -> None:
    """Make the instances of the shop there."""
    with fork_server_for(database).start("tests.cli.shop", database, environment=environment(None)) as process:
        assert process.wait(60) == 0
