"""Exit codes, and the sentence that an exception becomes."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseError, InvalidDataError, PayloadTooLargeError, RomancyError

NOTHING = 1
"""Exit code: not found, nothing to do, or a problem found."""
UNUSABLE = 2
"""Exit code: bad arguments, or a database that cannot be used."""


class StopError(Exception):
    """Ends the command with this sentence and exit code."""

    def __init__(self, sentence: str, code: int = UNUSABLE) -> None:
        self.code = code
        super().__init__(sentence)


class NoReaderError(Exception):
    """Standard output was closed by its reader."""


def explain(error: BaseException) -> tuple[str, int]:
    """Return the sentence for an exception, and its exit code."""
    if isinstance(error, StopError):
        return str(error), error.code
    # An app refuses its own arguments by a plain ValueError. A subclass may come from anywhere.
    if isinstance(error, DatabaseError | InvalidDataError | PayloadTooLargeError) or type(error) is ValueError:
        return str(error), UNUSABLE
    if isinstance(error, RomancyError):
        return str(error), NOTHING
    if isinstance(error, DBAPIError):
        return f"the database refuses it: {error.orig}", UNUSABLE
    # Every error of typer about arguments has this method, in all versions of typer.
    if (format_message := getattr(error, "format_message", None)) is not None:
        said = str(format_message()).removesuffix(".")
        context = getattr(error, "ctx", None)
        return said if context is None else f"{said}; see {context.command_path} --help", UNUSABLE
    return f"unexpected {type(error).__name__}: {error}; --traceback shows where it came from", NOTHING


def only_leaf(error: BaseException) -> BaseException:
    """Return the only exception in nested groups of one; otherwise the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
