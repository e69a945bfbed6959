"""Entries that record an exception: of an attempt, an activity, a compensation or a workflow function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

from attrs import asdict, evolve, field

from ..._tasks.fast_frozen import frozen
from ...errors import ActivityError, ActivityTerminalError, RetryExhaustedError
from ...model import EntryKind, ErrorInfo
from ..codec import dumps

_VERDICTS: dict[str, type[ActivityError]] = {
    "exhausted": RetryExhaustedError,
    "terminal": ActivityTerminalError,
    "gave_up": ActivityError,
}


@frozen
class Failure:
    """An exception as it is recorded. The entries that record one are this, each under its own kind."""

    error_type: str
    """Qualified name of the exception's class; without a module for builtins."""
    message: str
    """Text of the exception, at most 20,000 characters."""
    traceback: str
    """Traceback of the exception with its causes, as Python prints it; the last 20,000 characters."""
    attempts: int
    """Number of attempts so far, this one included."""
    verdict: str = ""
    """Why there is no other attempt: ``exhausted``, ``terminal`` or ``gave_up`` (cancelled before the next one).

    Empty if there is another one, and for a workflow function.
    """
    error_types: tuple[str, ...] = ()
    """Qualified names of the exception's class and its bases, at most 60; missing in entries of version 0.1.

    Of an exception that stands for a recorded one, such as an activity's, also the names recorded of that one.
    """
    details: Any = field(default=None, hash=False)
    """Details of a :class:`~trio_romancy.TerminalError`, as plain JSON data; missing if there are none."""
    arguments: Mapping[str, str] | None = field(default=None, hash=False)
    """Digests of the activity's arguments by name, as of :attr:`.ActivityCompleted.arguments`; missing if not taken."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the failure that this plain JSON data stands for."""
        return cls(
            data["error_type"],
            data["message"],
            data["traceback"],
            data["attempts"],
            data.get("verdict", ""),
            tuple(data.get("error_types", ())),
            data.get("details"),
            data.get("arguments"),
        )

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text. It is the same for every kind that records a failure."""
        payload = {
            "error_type": self.error_type,
            "message": self.message,
            "traceback": self.traceback,
            "attempts": self.attempts,
            "verdict": self.verdict,
        }
        if self.error_types:
            payload["error_types"] = self.error_types
        if self.arguments is not None:
            payload["arguments"] = self.arguments
        if self.details is not None:
            payload["details"] = self.details
        return dumps(payload)

    def with_verdict(self, verdict: str) -> Failure:
        """Return the same failure as the last one of its operation."""
        return evolve(self, verdict=verdict)

    def to_error(self, activity_id: str) -> ActivityError:
        """Return the exception that workflow code sees for it, on the first run and on each replay."""
        cls = _VERDICTS.get(self.verdict, ActivityError)
        return cls(
            activity_id,
            self.error_type,
            self.message,
            self.attempts,
            self.traceback,
            self.error_types,
            self.details,
        )

    def to_info(self) -> ErrorInfo:
        """Return the failure as it is shown with the instance."""
        return ErrorInfo(
            self.error_type,
            self.message,
            self.traceback,
            error_types=list(self.error_types),
            details=self.details,
        )


def error_text(info: ErrorInfo) -> str:
    """Return the JSON text of why an instance failed, as it is stored."""
    data = asdict(info)
    if not info.error_types:
        del data["error_types"]
    if info.details is None:
        del data["details"]
    return dumps(data)


def error_from_data(data: Any) -> ErrorInfo:
    """Return why an instance failed, from plain JSON data. What version 0.1 wrote has no types and no details."""
    return ErrorInfo(
        data["error_type"],
        data["message"],
        data.get("traceback", ""),
        data.get("uncompensated", []),
        data.get("error_types", []),
        data.get("details"),
    )


@final
@frozen
class AttemptFailed(Failure):
    """One attempt of an activity or a compensation failed, and there is another one, or its thread has not ended."""

    KIND: ClassVar[EntryKind] = EntryKind.ATTEMPT_FAILED


@final
@frozen
class ActivityFailed(Failure):
    """An activity failed for good."""

    KIND: ClassVar[EntryKind] = EntryKind.ACTIVITY_FAILED


@final
@frozen
class CompensationFailed(Failure):
    """A compensation failed for good, or a child could not be rolled back."""

    KIND: ClassVar[EntryKind] = EntryKind.COMPENSATION_FAILED


@final
@frozen
class WorkflowFailed(Failure):
    """The workflow function failed. ``attempts`` is 1, and there is no verdict."""

    KIND: ClassVar[EntryKind] = EntryKind.WORKFLOW_FAILED
