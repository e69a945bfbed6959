"""Exit codes, and an exception as one sentence to whoever has called."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseError, InvalidDataError, PayloadTooLargeError, RomancyError

NOTHING = 1
"""What was asked for is not there, nothing was to be done, or a problem was found."""
UNUSABLE = 2
"""Arguments that mean nothing, or a database that cannot be used."""


class StopError(Exception):
    """The command ends here, with this sentence and exit code."""

    def __init__(self, sentence: str, code: int = UNUSABLE) -> None:
        self.code = code
        super().__init__(sentence)


class NoReaderError(Exception):
    """Whoever reads our output has enough."""


def explain(error: BaseException) -> tuple[str, int]:
    """What to say of an exception, and the exit code that it means."""
    if isinstance(error, StopError):
        return str(error), error.code
    # Its own arguments an app refuses with a plain ValueError. Others may be anything.
    if isinstance(error, DatabaseError | InvalidDataError | PayloadTooLargeError) or type(error) is ValueError:
        return str(error), UNUSABLE
    if isinstance(error, RomancyError):
        return str(error), NOTHING
    if isinstance(error, DBAPIError):
        return f"the database refuses it: {error.orig}", UNUSABLE
    # All that typer raises about arguments has this, in each of its versions.
    if (format_message := getattr(error, "format_message", None)) is not None:
        said = str(format_message()).removesuffix(".")
        context = getattr(error, "ctx", None)
        return said if context is None else f"{said}; see {context.command_path} --help", UNUSABLE
    return f"unexpected {type(error).__name__}: {error}; --traceback shows where it came from", NOTHING


def only_leaf(error: BaseException) -> BaseException:
    """An exception without the nurseries that it came through, if it came alone."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
