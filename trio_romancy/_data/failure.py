"""An exception as it is recorded: see :class:`~trio_romancy._data.journal_format.Failure`.

Nothing that the exception does when it is looked at stops its record: its text, its attributes and its traceback may
raise, and each is then replaced by a sentence that says so.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from itertools import islice
from typing import Any

import trio

from .._exceptions import (
    cause_of,
    class_names,
    is_a,
    leaves,
    qualified_name,
    storable,
    text_of,
    traceback_of,
)
from ..errors import ActivityError, ChildWorkflowError, InvalidDataError, TerminalError, WorkflowFailedError
from .codec import codec
from .journal_format import Failure

__all__ = ["Failure", "describe"]

_LONGEST_TEXT = 20_000
"""The most characters that are recorded of a message, a traceback, or details as JSON."""
_LONGEST_PART = 8_000
"""The most characters of one line or message in a traceback, so that a huge message does not hide the frames."""
_MOST_NAMES = 60
"""The most names of classes that are recorded."""
_MOST_OTHERS = 5
"""The most other members of a group whose types the message names."""
_MOST_CAUSES = 20
"""The most exceptions in a traceback that the traceback module cannot format."""

_FAILED_BY_RECORD = (ActivityError, ChildWorkflowError, WorkflowFailedError)
"""Errors that stand for a recorded exception."""

_details_codec = codec(Any)


def describe(
    error: BaseException, *, attempts: int = 1, verdict: str = "", leaf: BaseException | None = None
) -> Failure:
    """Return an exception as it is recorded. A group, as a nursery makes it, is recorded as its first member.

    The traceback is that of the whole group, and the message says which other members it has.

    Args:
      attempts: number of attempts so far, this one included.
      verdict: why there is no other attempt; empty: there is one.
      leaf: member of the group that the failure is recorded as; None: the first that is an :exc:`Exception`, or else
        the first that is not a cancellation.
    """
    if leaf is None:
        leaf = min(leaves(error), key=_rank)
    names, details, fault = class_names(type(leaf)), None, ""
    if is_a(leaf, *_FAILED_BY_RECORD):
        recorded: Any = leaf
        names += _of(lambda: [str(name) for name in (recorded.error_type, *recorded.error_types)], [])
        details = _of(lambda: recorded.details, None)
    elif is_a(leaf, TerminalError):
        details, fault = _details_of(leaf)
    return Failure(
        error_type=names[0] if names else qualified_name(type(leaf)),
        message=text_of(leaf, _LONGEST_TEXT) + fault + _others(error, leaf),
        traceback=_traceback_of(error),
        attempts=attempts,
        verdict=verdict,
        error_types=tuple(dict.fromkeys(names[:_MOST_NAMES])),
        details=details,
    )


def _rank(error: BaseException) -> int:
    """Return how little an exception says about why its group was raised. An error says most."""
    return 0 if is_a(error, Exception) else 2 if is_a(error, trio.Cancelled) else 1


def _of(get: Callable[[], Any], default: Any) -> Any:
    """Return what ``get`` returns, which looks at an exception; ``default`` if that raises."""
    try:
        return get()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return default


def _others(error: BaseException, leaf: BaseException) -> str:
    """Return a remark about the other members of a group; empty if there are none but cancellations."""
    others = [each for each in leaves(error) if each is not leaf and not is_a(each, trio.Cancelled)]
    if not others:
        return ""
    names = ", ".join(qualified_name(type(each)) for each in others[:_MOST_OTHERS])
    more = ", ..." if len(others) > _MOST_OTHERS else ""
    return f" (and {len(others)} more {'error' if len(others) == 1 else 'errors'} in the group: {names}{more})"


def _details_of(error: BaseException) -> tuple[Any, str]:
    """Return the details of an error as a replay reads them, and a remark if they cannot be stored."""
    try:
        text, details = _details_codec.encode(error.details)  # type: ignore[attr-defined]
        if len(text) <= _LONGEST_TEXT:
            return details, ""
        why = f"they are {len(text)} characters of JSON, and {_LONGEST_TEXT} is the most; pass a reference instead"
    except KeyboardInterrupt:
        raise
    except InvalidDataError as problem:
        why = "; ".join(str(each).replace("; annotate its type", "") for each in problem.problems)  # they have none
    except BaseException as problem:
        why = f"looking at them raises {qualified_name(type(problem))}"
    return None, storable(f" (its details cannot be stored: {why})", _LONGEST_TEXT)


def _traceback_of(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, traceback_of(error))
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        remark = f"<its traceback cannot be had in full: formatting it raises {qualified_name(type(problem))}>\n"
        lines = [remark, *_of(lambda: _plain_traceback(error), [])]
    text = "".join(line if len(line) <= _LONGEST_PART else f"{line[:_LONGEST_PART]}...\n" for line in lines)
    return storable(text[-_LONGEST_TEXT:], _LONGEST_TEXT)


def _plain_traceback(error: BaseException) -> list[str]:
    """Return the frames and the text of an exception and its causes, the first cause first, without asking them."""
    lines: list[list[str]] = []
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen and len(lines) < _MOST_CAUSES:
        seen.add(id(part))
        members = islice(leaves(part), _MOST_CAUSES)
        said = [f"{qualified_name(type(each))}: {text_of(each, _LONGEST_PART)}\n" for each in members]
        lines.append(["Traceback (most recent call last):\n", *traceback.format_tb(traceback_of(part)), *said])
        part = cause_of(part)
    return "\nThis led to the next exception:\n\n".join("".join(each) for each in reversed(lines)).splitlines(True)
