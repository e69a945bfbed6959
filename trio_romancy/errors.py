"""Exceptions of trio_romancy.

Each message says what happened, to which instance and operation, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import trio
from attrs import frozen

from ._exceptions import qualified_name


class RomancyError(Exception):
    """Base class of every error that trio_romancy raises on purpose."""


class DefinitionError(RomancyError):
    """A workflow, activity or compensation is defined wrongly. Raised by the decorator, when its module is imported."""


@frozen
class DataProblem:
    """One mistake in a piece of data."""

    path: str
    """Place of the mistake as a JSON path, such as ``$.items[0].quantity``."""
    message: str
    """The mistake, such as ``expected int, got 'two'``."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidDataError(RomancyError):
    """A value cannot be stored as JSON and read back unchanged, or data does not match its type.

    Attributes:
      what: the sentence that the problems belong to.
      problems: every mistake, as a list of :class:`DataProblem`.
    """

    def __init__(self, what: str, problems: Iterable[DataProblem]) -> None:
        self.what = what
        self.problems: list[DataProblem] = list(problems)
        super().__init__(f"{what}: " + "; ".join(str(problem) for problem in self.problems))


class InvalidInputError(InvalidDataError):
    """The input of a workflow, an event or a message is not valid. Nothing was stored."""


class PayloadTooLargeError(RomancyError):
    """A value is larger as JSON than the app's ``max_payload``, in bytes. Nothing was stored."""


class OperationIdError(RomancyError):
    """An operation id is not valid, is taken, or would not be the same on every replay."""


class NonDeterminismError(RomancyError):
    """The workflow code asks for another operation than its journal holds, or does what no replay can repeat.

    The instance is parked as ``stuck``, also if the code catches the error, and nothing is lost. Deploy code that fits
    the journal and call :meth:`App.resume() <trio_romancy.App.resume>`.
    """


class TerminalError(RomancyError):
    """Tells the runtime that no further attempt can succeed. Raise it in an activity.

    The activity fails at once with :class:`ActivityTerminalError`, regardless of its retry policy. An exception group
    that contains it has the same effect. Subclasses say what went wrong: workflow code tells them apart by
    :meth:`ActivityError.is_a`.

    Args:
      details: facts for the workflow as plain JSON data, such as ``{"code": "card_expired"}``. They are recorded, and
        are the ``details`` of the :class:`ActivityError`. Details that cannot be stored are left out; the recorded
        message says so.
    """

    details: Any = None

    def __init__(self, *args: object, details: Any = None) -> None:
        super().__init__(*args)
        self.details = details


class _OfRecordedException:
    """What errors have in common that stand for a recorded exception."""

    error_type: str
    message: str
    error_types: list[str]

    def _cause(self) -> str:
        return f"{self.error_type}: {self.message}" if self.message else self.error_type

    def is_a(self, cls: type[Any]) -> bool:
        """Return whether the recorded exception is of this class or a subclass of it.

        The recorded names of its class and their bases are compared. So the answer is the same on every replay, and
        the class need not be the very object that was raised. An entry of version 0.1 has only the name of the class
        itself. If the exception is an :class:`ActivityError`, a :class:`ChildWorkflowError` or a
        :class:`WorkflowFailedError`, the exception that it stands for counts as well.

        Raises:
          TypeError: if ``cls`` is not a class.
        """
        if not isinstance(cls, type):
            raise TypeError(f"is_a takes a class, such as ValueError, not {cls!r}")
        name = qualified_name(cls)
        return cls is BaseException or cls is object or name == self.error_type or name in self.error_types


class ActivityError(_OfRecordedException, RomancyError):
    """An activity failed for good. Workflow code gets the same error on the first run and on every replay.

    Attributes:
      activity_id: operation id of the activity, such as ``"process_payment:1"``.
      error_type: qualified name of the exception class of the last attempt.
      message: text of that exception.
      attempts: number of attempts.
      traceback: recorded traceback of that exception, as text.
      error_types: qualified names of the exception class and its bases: what :meth:`is_a` compares.
      details: what was given as ``details`` to the :class:`TerminalError`, or None.
    """

    def __init__(
        self,
        activity_id: str,
        error_type: str,
        message: str,
        attempts: int,
        traceback: str = "",
        error_types: Iterable[str] = (),
        details: Any = None,
    ) -> None:
        self.activity_id = activity_id
        self.error_type = error_type
        self.message = message
        self.attempts = attempts
        self.traceback = traceback
        self.error_types: list[str] = list(error_types)
        self.details = details
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        return (
            f"activity {self.activity_id!r} failed {self._times()}, and a cancellation came before the next attempt: "
            f"{self._cause()}"
        )

    def _times(self) -> str:
        return "once" if self.attempts == 1 else f"{self.attempts} times"


class RetryExhaustedError(ActivityError):
    """An activity failed at every attempt that its retry policy allows."""

    def _sentence(self) -> str:
        return f"activity {self.activity_id!r} failed {self._times()}, its retry policy allows no more: {self._cause()}"


class ActivityTerminalError(ActivityError):
    """An activity failed with an error that forbids another attempt."""

    def _sentence(self) -> str:
        return f"activity {self.activity_id!r} failed and must not be retried: {self._cause()}"


class ResultTimeoutError(RomancyError, trio.TooSlowError, TimeoutError):
    """An instance has not ended within the time limit of :meth:`WorkflowHandle.result`. It goes on.

    Attributes:
      instance_id: the instance.
      timeout: the time limit, in seconds.
    """

    def __init__(self, instance_id: str, timeout: float) -> None:
        self.instance_id = instance_id
        self.timeout = timeout
        super().__init__(
            f"instance {instance_id!r} has not ended within {timeout:g} s; it goes on, and result() can be called again"
        )


class EventTimeoutError(RomancyError, trio.TooSlowError):
    """No event arrived in time for :meth:`WorkflowContext.wait_event() <trio_romancy.WorkflowContext.wait_event>`.

    It is a :exc:`trio.TooSlowError` as well, as from :meth:`WorkflowContext.fail_after`.

    Attributes:
      instance_id: the instance that waited.
      operation_id: operation id of the wait.
      type: type of the event.
      subject: subject of the event; None if the wait asked for none.
    """

    def __init__(self, instance_id: str, operation_id: str, type: str, subject: str | None) -> None:
        self.instance_id = instance_id
        self.operation_id = operation_id
        self.type = type
        self.subject = subject
        about = f" about {subject!r}" if subject is not None else ""
        super().__init__(
            f"instance {instance_id!r}: no event {type!r}{about} came in time for {operation_id!r}; catch this error "
            f"to go on without it"
        )


class MessageTimeoutError(RomancyError, trio.TooSlowError):
    """No message arrived in time for :meth:`WorkflowContext.receive() <trio_romancy.WorkflowContext.receive>`.

    It is a :exc:`trio.TooSlowError` as well.

    Attributes:
      instance_id: the instance that waited.
      operation_id: operation id of the wait.
      channel: channel of the wait.
    """

    def __init__(self, instance_id: str, operation_id: str, channel: str) -> None:
        self.instance_id = instance_id
        self.operation_id = operation_id
        self.channel = channel
        super().__init__(
            f"instance {instance_id!r}: no message came in time on channel {channel!r} for {operation_id!r}; catch "
            f"this error to go on without it"
        )


class ChannelModeConflictError(RomancyError):
    """A subscription asks for another mode than the channel has. The first subscriber has fixed the mode.

    Attributes:
      instance_id: the instance that wanted to subscribe.
      channel: the channel.
      mode: mode that the subscription asks for.
      held: mode of the channel.
    """

    def __init__(self, instance_id: str, channel: str, mode: str, held: str) -> None:
        self.instance_id = instance_id
        self.channel = channel
        self.mode: str = str(mode)
        self.held: str = str(held)
        super().__init__(
            f"instance {instance_id!r} cannot subscribe to channel {channel!r} as {self.mode!r}: its first subscriber "
            f"made it {self.held!r}; subscribe with mode={self.held!r}, or use another channel"
        )


class ChildWorkflowError(_OfRecordedException, RomancyError):
    """A child workflow failed or was cancelled. Its parent gets the same error on the first run and on every replay.

    Attributes:
      operation_id: operation id of the parent's wait for the child.
      child_id: id under which the child was started.
      workflow: name of the child's workflow.
      status: ``failed`` or ``cancelled``.
      error_type: qualified name of the exception class.
      message: text of the exception; for a cancellation, the reason.
      traceback: recorded traceback, as text.
      uncompensated: operation ids of the child's activities whose compensation failed for good.
      error_types: qualified names that :meth:`is_a` compares, those of an activity's exception included.
      details: details of the :class:`TerminalError` that the child failed by, itself or in an activity; or None.
    """

    def __init__(
        self,
        operation_id: str,
        child_id: str,
        workflow: str,
        status: str,
        error_type: str,
        message: str,
        traceback: str = "",
        uncompensated: Iterable[str] = (),
        error_types: Iterable[str] = (),
        details: Any = None,
    ) -> None:
        self.operation_id = operation_id
        self.child_id = child_id
        self.workflow = workflow
        self.status = status
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.uncompensated: list[str] = list(uncompensated)
        self.error_types: list[str] = list(error_types)
        self.details = details
        how = "was cancelled" if status == "cancelled" else f"failed: {error_type}"
        cause = f"{how}: {message}" if message else how
        super().__init__(f"child {child_id!r} of workflow {workflow!r} {cause}")


class WorkflowError(RomancyError):
    """Base class of what :meth:`WorkflowHandle.result() <trio_romancy.WorkflowHandle.result>` raises for an outcome.

    Attributes:
      instance_id: the instance.
      uncompensated: operation ids of activities whose compensation failed for good. Once the cause is fixed,
        :meth:`App.resume() <trio_romancy.App.resume>` tries them again.
    """

    def __init__(self, instance_id: str, sentence: str, uncompensated: Iterable[str] = ()) -> None:
        self.instance_id = instance_id
        self.uncompensated: list[str] = list(uncompensated)
        if self.uncompensated:
            sentence += f"; not compensated: {', '.join(self.uncompensated)} (fix the cause and resume the instance)"
        super().__init__(sentence)


class WorkflowFailedError(_OfRecordedException, WorkflowError):
    """The workflow failed, and its completed activities were compensated.

    Attributes:
      error_type: qualified name of the exception class.
      message: text of the exception.
      traceback: recorded traceback, as text.
      error_types: qualified names that :meth:`is_a` compares, those of an activity's exception included.
      details: details of the :class:`TerminalError` that the workflow failed by, itself or in an activity; or None.
    """

    def __init__(
        self,
        instance_id: str,
        error_type: str,
        message: str,
        traceback: str = "",
        uncompensated: Iterable[str] = (),
        error_types: Iterable[str] = (),
        details: Any = None,
    ) -> None:
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.error_types: list[str] = list(error_types)
        self.details = details
        super().__init__(instance_id, f"instance {instance_id!r} failed: {self._cause()}", uncompensated)


class WorkflowCancelledError(WorkflowError):
    """The workflow was cancelled, and its completed activities were compensated.

    Attributes:
      reason: reason that was given to ``cancel``, or None.
    """

    def __init__(
        self, instance_id: str, reason: str | None, uncompensated: Iterable[str] = (), *, was: str = "cancelled"
    ) -> None:
        self.reason = reason
        because = f": {reason}" if reason else ""
        super().__init__(instance_id, f"instance {instance_id!r} was {was}{because}", uncompensated)


class WorkflowTerminatedError(WorkflowCancelledError):
    """The instance was terminated. Running code was abandoned, so the outcome of what had begun is not known.

    Attributes:
      reason: reason that was given to ``terminate``, or None.
    """

    def __init__(self, instance_id: str, reason: str | None, uncompensated: Iterable[str] = ()) -> None:
        super().__init__(instance_id, reason, uncompensated, was="terminated")


class WorkflowStuckError(WorkflowError):
    """The instance is parked until the cause is fixed and the instance is resumed. Nothing is lost.

    Attributes:
      error_type: qualified name of the error that parked it, such as ``trio_romancy.NonDeterminismError``.
      message: text of that error.
    """

    def __init__(self, instance_id: str, error_type: str, message: str) -> None:
        self.error_type = error_type
        self.message = message
        super().__init__(
            instance_id,
            f"instance {instance_id!r} is stuck: {error_type}: {message} "
            f"(nothing is lost: fix the cause, then resume the instance)",
        )


class InstanceNotFoundError(RomancyError):
    """The database has no instance with this id."""

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id
        super().__init__(
            f"there is no instance {instance_id!r} in this database: check the id and the URL of the database; an "
            f"instance that was purged is gone"
        )


class ScheduleNotFoundError(RomancyError):
    """The database has no schedule of this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no schedule {name!r} in this database: check the name and the URL of the database")


class InstanceExistsError(RomancyError):
    """An instance with this id exists, of another workflow or with another input.

    Attributes:
      instance_id: the id.
      difference: what differs in the existing instance, such as ``"another input"``.
    """

    def __init__(self, instance_id: str, difference: str) -> None:
        self.instance_id = instance_id
        self.difference = difference
        super().__init__(
            f"instance {instance_id!r} exists already with {difference}; "
            f"the same id is only accepted again for the same workflow and input"
        )


class DatabaseError(RomancyError):
    """The database cannot be used: a bad URL, a missing driver, a file of another format, a server that is away."""


class DatabaseAwayError(DatabaseError):
    """The database cannot be reached now. An open app does not raise it: it waits until the outage is over."""


class SchemaError(DatabaseError):
    """The tables in the database are not those that this version of trio_romancy works with."""


class LeaseLostError(RomancyError):
    """Another worker has ended this worker's lease. The write that met this was not done.

    Workflow code never sees it: the worker abandons its actors and joins again under a new epoch.
    """


class CommitsLostError(LeaseLostError):
    """The database has lost what this worker has committed: a standby took over that did not have it yet.

    Workflow code never sees it. The worker logs it as an error and joins again: its instances go back to what is
    stored.
    """
