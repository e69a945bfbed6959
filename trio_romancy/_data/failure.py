"""An exception as it is recorded, and the exception that workflow code sees for it.

The first run and every replay make it from the record, so they see the same.
"""

from __future__ import annotations

import traceback
from typing import Any

from attrs import asdict, evolve, frozen

from ..errors import ActivityError, ActivityTerminalError, RetryExhaustedError
from .codec import dumps

_LONGEST_TEXT = 20_000
"""Characters that are recorded of a message or a traceback."""

_VERDICTS: dict[str, type[ActivityError]] = {
    "exhausted": RetryExhaustedError,
    "terminal": ActivityTerminalError,
    "gave_up": ActivityError,
}


@frozen
class Failure:
    """A failed attempt, or a failed activity if there is a verdict."""

    error_type: str
    message: str
    traceback: str
    attempts: int
    verdict: str = ""
    """``exhausted``, ``terminal``, ``gave_up`` (cancelled before another attempt); empty: to be tried again."""

    @classmethod
    def from_payload(cls, payload: Any) -> Failure:
        """Read it from plain JSON data."""
        return cls(**payload)

    def as_payload(self) -> str:
        """It as JSON text."""
        return dumps(asdict(self))

    def as_final(self, verdict: str) -> str:
        """It as JSON text, with this verdict."""
        return evolve(self, verdict=verdict).as_payload()

    def to_error(self, activity_id: str) -> ActivityError:
        """The exception that workflow code sees."""
        cls = _VERDICTS.get(self.verdict, ActivityError)
        return cls(activity_id, self.error_type, self.message, self.attempts, self.traceback)


def describe(error: BaseException, *, attempts: int = 1, verdict: str = "") -> Failure:
    """Record an exception. A group of one, as a nursery makes it, is recorded as that one."""
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
    """The name of a class with its module, without one for builtins. Those of trio_romancy go by their public name."""
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
