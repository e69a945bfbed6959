"""An exception as it is recorded: see :class:`~trio_romancy._data.journal_format.Failure`."""

from __future__ import annotations

import traceback

from .journal_format import Failure

__all__ = ["Failure", "describe", "qualified_name"]

_LONGEST_TEXT = 20_000
"""The most characters that are recorded of a message or a traceback."""


def describe(error: BaseException, *, attempts: int = 1, verdict: str = "") -> Failure:
    """Return an exception as it is recorded. A group of one, as a nursery makes it, is recorded as that one.

    Args:
      attempts: number of attempts so far, this one included.
      verdict: why there is no other attempt; empty: there is one.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return Failure(
        error_type=qualified_name(type(error)),
        message=_text_of(error)[:_LONGEST_TEXT],
        traceback=_traceback_of(error)[-_LONGEST_TEXT:],
        attempts=attempts,
        verdict=verdict,
    )


def qualified_name(cls: type) -> str:
    """Return the name of a class with its module, without one for builtins; for the package's own, the public name."""
    if cls.__module__ == "builtins":
        return cls.__qualname__
    module = cls.__module__
    package = __name__.partition(".")[0]
    return f"{package if module == f'{package}.errors' else module}.{cls.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:
        return f"<its text cannot be had: {type(problem).__name__}>"


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as problem:
        return f"<its traceback cannot be had: {type(problem).__name__}>"
