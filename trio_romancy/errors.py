"""Every exception of trio_romancy.

Each message says what happened, to which instance and operation, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen


class RomancyError(Exception):
    """The root of every error that trio_romancy raises on purpose."""


class DefinitionError(RomancyError):
    """A workflow, activity or compensation was defined wrongly. Raised when its module is imported."""


@frozen
class Problem:
    """One thing that is wrong with a piece of data."""

    path: str
    """Where, as a JSON path: ``$.items[0].quantity``."""
    message: str
    """What: ``expected int, got 'two'``."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidDataError(RomancyError):
    """A value cannot be stored as JSON and read back the same.

    Attributes:
      problems: every bad place, as a list of :class:`Problem`.
    """

    def __init__(self, what: str, problems: Iterable[Problem]) -> None:
        self.what = what
        self.problems = list(problems)
        super().__init__(f"{what}: " + "; ".join(str(problem) for problem in self.problems))


class InvalidInputError(InvalidDataError):
    """The input given for a workflow is not what the workflow takes. Nothing was stored."""


class PayloadTooLargeError(RomancyError):
    """A value is larger, as JSON, than the app's ``max_payload`` (in bytes). Nothing was stored."""


class OperationIdError(RomancyError):
    """An operation has no id that is the same on every replay, or one that is taken already."""


class NonDeterminismError(RomancyError):
    """The workflow code asks for something else than its journal holds.

    The instance is parked as ``stuck``, unharmed. Deploy code that fits the journal and call
    :meth:`App.resume() <trio_romancy.App.resume>`.
    """


class TerminalError(RomancyError):
    """Raise it in an activity to say that trying again is pointless.

    The activity fails at once with :class:`ActivityTerminalError`, whatever its retry policy says. It has
    the same effect inside an exception group.
    """


class ActivityError(RomancyError):
    """An activity failed for good. Workflow code sees it, the same on the first run and on every replay.

    Attributes:
      activity_id: the operation id of the activity, such as ``"process_payment:1"``.
      error_type: the qualified name of the class of the last attempt's exception.
      message: the text of the last attempt's exception.
      attempts: how many attempts were made.
      traceback: the recorded traceback of the last attempt, as text.
    """

    def __init__(self, activity_id: str, error_type: str, message: str, attempts: int, traceback: str = "") -> None:
        self.activity_id = activity_id
        self.error_type = error_type
        self.message = message
        self.attempts = attempts
        self.traceback = traceback
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        return f"activity {self.activity_id!r} failed: {self._cause()}"

    def _cause(self) -> str:
        return f"{self.error_type}: {self.message}" if self.message else self.error_type


class RetryExhaustedError(ActivityError):
    """An activity failed on every attempt that its retry policy allows."""

    def _sentence(self) -> str:
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        return f"activity {self.activity_id!r} failed {times}, its retry policy allows no more: {self._cause()}"


class ActivityTerminalError(ActivityError):
    """An activity failed with an error that is never retried."""

    def _sentence(self) -> str:
        return f"activity {self.activity_id!r} failed and must not be retried: {self._cause()}"


class EventTimeoutError(RomancyError):
    """No event came in time for a ``wait_event``.

    Attributes:
      operation_id: of the wait.
      type: of the event.
      subject: of the event, if it was asked for.
    """

    def __init__(self, instance_id: str, operation_id: str, type: str, subject: str | None) -> None:
        self.instance_id = instance_id
        self.operation_id = operation_id
        self.type = type
        self.subject = subject
        about = f" about {subject!r}" if subject is not None else ""
        super().__init__(f"instance {instance_id!r}: no event {type!r}{about} came in time for {operation_id!r}")


class MessageTimeoutError(RomancyError):
    """No message came in time for a ``receive``.

    Attributes:
      operation_id: of the wait.
      channel: that it waited on.
    """

    def __init__(self, instance_id: str, operation_id: str, channel: str) -> None:
        self.instance_id = instance_id
        self.operation_id = operation_id
        self.channel = channel
        super().__init__(
            f"instance {instance_id!r}: no message came in time on channel {channel!r} for {operation_id!r}"
        )


class ChannelModeConflictError(RomancyError):
    """A channel has another mode than the one that was asked for: its first subscriber has fixed it.

    Attributes:
      channel: the channel.
      mode: what was asked for.
      held: what the channel has.
    """

    def __init__(self, instance_id: str, channel: str, mode: str, held: str) -> None:
        self.instance_id = instance_id
        self.channel = channel
        self.mode = str(mode)
        self.held = str(held)
        super().__init__(
            f"instance {instance_id!r} cannot subscribe to channel {channel!r} as {self.mode!r}: its first subscriber "
            f"made it {self.held!r}; subscribe with mode={self.held!r}, or use another channel"
        )


class ChildWorkflowError(RomancyError):
    """A child workflow failed or was cancelled. Its parent sees it, the same on the first run and on every replay.

    Attributes:
      operation_id: of the parent's step that awaited it.
      child_id: the id under which the child was started.
      workflow: the child's.
      status: how it ended: ``failed`` or ``cancelled``.
      error_type: the qualified name of the exception's class.
      message: its text; of a cancellation, the reason.
      traceback: its recorded traceback, as text.
      uncompensated: operation ids of the child's activities whose compensation failed for good.
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
    ) -> None:
        self.operation_id = operation_id
        self.child_id = child_id
        self.workflow = workflow
        self.status = status
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        self.uncompensated = list(uncompensated)
        how = "was cancelled" if status == "cancelled" else f"failed: {error_type}"
        cause = f"{how}: {message}" if message else how
        super().__init__(f"child {child_id!r} of workflow {workflow!r} {cause}")


class WorkflowError(RomancyError):
    """The root of what :meth:`WorkflowHandle.result() <trio_romancy.WorkflowHandle.result>` raises.

    Attributes:
      instance_id: the instance.
      uncompensated: operation ids of activities whose compensation failed for good. Once the cause is mended,
        :meth:`App.resume() <trio_romancy.App.resume>` tries them again.
    """

    def __init__(self, instance_id: str, sentence: str, uncompensated: Iterable[str] = ()) -> None:
        self.instance_id = instance_id
        self.uncompensated = list(uncompensated)
        if self.uncompensated:
            sentence += f"; not compensated: {', '.join(self.uncompensated)} (mend the cause and resume the instance)"
        super().__init__(sentence)


class WorkflowFailedError(WorkflowError):
    """The workflow failed, and its completed activities were compensated.

    Attributes:
      error_type: the qualified name of the exception's class.
      message: its text.
      traceback: its recorded traceback, as text.
    """

    def __init__(
        self,
        instance_id: str,
        error_type: str,
        message: str,
        traceback: str = "",
        uncompensated: Iterable[str] = (),
    ) -> None:
        self.error_type = error_type
        self.message = message
        self.traceback = traceback
        super().__init__(instance_id, f"instance {instance_id!r} failed: {error_type}: {message}", uncompensated)


class WorkflowCancelledError(WorkflowError):
    """The workflow was cancelled, and its completed activities were compensated.

    Attributes:
      reason: what was given to ``cancel``, or None.
    """

    def __init__(self, instance_id: str, reason: str | None, uncompensated: Iterable[str] = ()) -> None:
        self.reason = reason
        because = f": {reason}" if reason else ""
        super().__init__(instance_id, f"instance {instance_id!r} was cancelled{because}", uncompensated)


class WorkflowStuckError(WorkflowError):
    """The instance is parked, unharmed, until somebody mends the cause and resumes it.

    Attributes:
      error_type: the qualified name of what parked it, such as ``trio_romancy.NonDeterminismError``.
      message: its text.
    """

    def __init__(self, instance_id: str, error_type: str, message: str) -> None:
        self.error_type = error_type
        self.message = message
        super().__init__(
            instance_id,
            f"instance {instance_id!r} is stuck: {error_type}: {message} "
            f"(nothing is lost: mend the cause, then resume the instance)",
        )


class InstanceNotFoundError(RomancyError):
    """There is no instance with this id."""

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id
        super().__init__(f"there is no instance {instance_id!r} in this database")


class InstanceExistsError(RomancyError):
    """An instance with this id exists already, of another workflow or with another input.

    Attributes:
      difference: what the instance has that is not the same.
    """

    def __init__(self, instance_id: str, difference: str) -> None:
        self.instance_id = instance_id
        self.difference = difference
        super().__init__(
            f"instance {instance_id!r} exists already with {difference}; "
            f"the same id is only accepted again for the same workflow and input"
        )


class DatabaseError(RomancyError):
    """The database cannot be used: a bad URL, a missing driver, a file that is no database, a server away."""


class DatabaseAwayError(DatabaseError):
    """The database cannot be reached now. Inside an app nobody sees it: an outage is a pause."""


class SchemaError(DatabaseError):
    """The tables in the database are not those that this version of trio_romancy works with."""


class LeaseLostError(RomancyError):
    """This worker's lease was ended by another worker; nothing of what it wanted to write was written.

    Never seen by workflow code: the worker abandons its actors and joins again under a new epoch.
    """
