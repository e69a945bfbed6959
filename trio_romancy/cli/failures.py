"""Exit codes, and the sentence that an exception becomes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

NOTHING = 1
"""Exit code: not found, nothing to do, or a problem found."""
UNUSABLE = 2
"""Exit code: bad arguments, or a database that cannot be used."""


_NOT_WRITTEN = (errno.ENOSPC, errno.EBADF, errno.EIO)
_PASSWORD = re.compile(r"(\w+:/+)\S*@")
"""User and password in a URL, which may be in the wrong argument."""


class StopError(Exception):
    """Ends the command with this sentence and exit code."""

    def __init__(self, sentence: str, code: int = UNUSABLE) -> None:
        self.code = code
        super().__init__(sentence)


class NoReaderError(Exception):
    """Standard output was closed by its reader."""


class OutputError(StopError):
    """Standard output cannot be written, as on a full disk."""


@contextmanager
def writing() -> Iterator[None]:
    """Turn an error of standard output inside the block into one with a sentence.

    Raises:
      NoReaderError: if its reader has closed it.
      OutputError: if it cannot be written for another reason.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise NoReaderError from error
    except OSError as error:
        raise OutputError(f"the output cannot be written: {error.strerror}") from error


def explain(error: BaseException) -> tuple[str, int]:
    """Return the sentence for an exception, and its exit code."""
    if isinstance(error, StopError):
        return str(error), error.code
    # Every error of typer about arguments has this method, in all versions of typer.
    if (format_message := getattr(error, "format_message", None)) is not None:
        said = str(format_message()).removesuffix(".")
        context = getattr(error, "ctx", None)
        return said if context is None else f"{said}; see {context.command_path} --help", UNUSABLE
    if isinstance(error, OSError) and error.filename is None and error.errno in _NOT_WRITTEN:  # by typer
        return f"the output cannot be written: {error.strerror}", UNUSABLE
    from sqlalchemy.exc import DBAPIError

    from ..errors import DatabaseError, InvalidDataError, PayloadTooLargeError, RomancyError

    # An app refuses its own arguments by a plain ValueError. A subclass may come from anywhere.
    if isinstance(error, DatabaseError | InvalidDataError | PayloadTooLargeError) or type(error) is ValueError:
        return str(error), UNUSABLE
    if isinstance(error, RomancyError):
        return str(error), NOTHING
    if isinstance(error, DBAPIError):
        return f"the database refuses it: {error.orig}", UNUSABLE
    return f"unexpected {type(error).__name__}: {error}; --traceback shows where it came from", NOTHING


def only_leaf(error: BaseException) -> BaseException:
    """Return the only exception in nested groups of one; otherwise the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def say(sentence: str) -> None:
    """Write a sentence on standard error, without control characters and passwords."""
    line = "trio-romancy: " + " ".join(sentence.split())
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
    if sys.stderr.isatty():
        shown = textwrap.fill(shown, shutil.get_terminal_size().columns, break_on_hyphens=False)
    try:
        print(_PASSWORD.sub(r"\1***@", shown), file=sys.stderr, flush=True)
    except OSError:
        drop_rest(sys.stderr)


def drop_rest(stream: TextIO) -> None:
    """Make sure that what a stream has not written yet does not fail again when the interpreter exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
