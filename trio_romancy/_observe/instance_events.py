"""Tells hooks what happens to one instance: entries once they are durable, everything else at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio
from attrs import define, evolve

from .._data.codec import loads
from .._data.journal_format import EventReceived, Failure, MessageReceived, from_text
from .._data.log_fields import about
from .._storage.sql.claims import Claim
from .._storage.sql.incompatible import Parked
from .._storage.sql.rows import EntryRow, MessageRow, OutboxRow
from .._storage.sql.termination import Termination
from ..clock import Clock, Microseconds, to_datetime
from ..hooks import ActivityInfo, Hooks, MessageInfo, TimerInfo, WorkflowInfo
from ..model import EntryKind, ErrorInfo, Status
from .dispatcher import Around, HookDispatcher

if TYPE_CHECKING:
    from .._storage.journal.batch import Batch
    from .._storage.journal.effects import Effects

_logger = logging.getLogger("trio_romancy.supervisor")

P = ParamSpec("P")
T = TypeVar("T")

_OUTCOMES = {
    EntryKind.ACTIVITY_COMPLETED: Hooks.activity_completed,
    EntryKind.ACTIVITY_FAILED: Hooks.activity_failed,
    EntryKind.ACTIVITY_CANCELLED: Hooks.activity_cancelled,
    EntryKind.COMPENSATION_COMPLETED: Hooks.compensation_completed,
    EntryKind.COMPENSATION_FAILED: Hooks.compensation_failed,
}
_TIMERS = frozenset({EntryKind.TIMER_FIRED, EntryKind.TIMEOUT_FIRED, EntryKind.WAIT_TIMED_OUT})
_RECEIVED = {EntryKind.EVENT_RECEIVED: Hooks.event_received, EntryKind.MESSAGE_RECEIVED: Hooks.message_received}
_ENDS = {
    Status.COMPLETED: Hooks.workflow_completed,
    Status.FAILED: Hooks.workflow_failed,
    Status.CANCELLED: Hooks.workflow_cancelled,
    Status.RECURRED: Hooks.workflow_recurred,
    Status.STUCK: Hooks.instance_stuck,
}


@define(eq=False)
class _Attempted:
    """An activity or compensation in flight."""

    name: str
    is_compensation: bool
    number: int
    """Number of the last attempt, from 1; 0 before the first."""
    begun: float = 0.0
    """Start of the last attempt, in seconds on trio's clock."""
    duration: float | None = None
    """Seconds that the last attempt took; None if it has not ended, or ran in another process."""


class InstanceEvents:
    """The hooks' view of one run of an instance.

    Args:
      due_of: returns the time at which a timer in flight is due, by operation id; None if it has no time.
      channel_of: returns the channel that an operation in flight receives from, by operation id.
    """

    def __init__(
        self,
        dispatcher: HookDispatcher,
        claim: Claim,
        worker_id: str,
        clock: Clock,
        *,
        due_of: Callable[[str], Microseconds | None],
        channel_of: Callable[[str], str],
    ) -> None:
        self._dispatcher = dispatcher
        self._claim = claim
        self._worker_id = worker_id
        self._clock = clock
        self._due_of = due_of
        self._channel_of = channel_of
        self._attempted: dict[str, _Attempted] = {}
        """Activities and compensations in flight, by operation id."""

    # -- the instance ----------------------------------------------------------------------------------------------

    @contextmanager
    def over(self, entries: int, *, is_new: bool) -> Iterator[None]:
        """Tell hooks that a run begins and, at the end of the block, that the instance has left memory.

        Args:
          entries: number of entries in the journal.
          is_new: whether nothing of the instance has run before.
        """
        claim = self._claim
        carried = 0 if claim.origin is None else 1  # the entry that the last instance of the chain has left
        is_first = is_new or (entries == carried and claim.status is Status.PENDING)
        now, due = self._clock.now(), claim.due_at
        lag = 0.0 if due is None else max(now - due, 0) / 1_000_000
        info = _workflow_info(claim, self._worker_id, now, entries=entries, lag=lag)
        self._dispatcher.call(Hooks.workflow_started if is_first else Hooks.workflow_replayed, info)
        try:
            yield
        finally:
            self._dispatcher.call(Hooks.instance_dropped, _workflow_info(claim, self._worker_id, self._clock.now()))

    # -- attempts --------------------------------------------------------------------------------------------------

    def attempts(self, operation_id: str, name: str, failures: int = 0, *, is_compensation: bool) -> None:
        """Expect attempts of an operation.

        Args:
          failures: number of attempts that have failed already.
        """
        self._attempted[operation_id] = _Attempted(name, is_compensation, failures)

    def begin_attempt(self, operation_id: str, number: int) -> Around | None:
        """Tell hooks that an attempt begins. Returns the context managers around it, for :meth:`end_attempt`."""
        attempted = self._attempted[operation_id]
        attempted.number, attempted.begun, attempted.duration = number, trio.current_time(), None
        method = Hooks.compensation_started if attempted.is_compensation else Hooks.activity_started
        runs_in_something = self._dispatcher.wants(Hooks.around_activity)
        if not runs_in_something and not self._dispatcher.wants(method):
            return None
        info = self._activity_info(operation_id, attempted, number, self._clock.now())
        self._dispatcher.call(method, info)
        return self._dispatcher.around(info) if runs_in_something else None

    def end_attempt(self, operation_id: str, around: Around | None, error: BaseException | None) -> None:
        """Take the time of an attempt that has ended, and leave its context managers. Only the first call counts."""
        attempted = self._attempted.get(operation_id)
        if attempted is not None and attempted.duration is None:
            attempted.duration = trio.current_time() - attempted.begun
        if around is not None:
            around.leave(error)

    # -- entries ---------------------------------------------------------------------------------------------------

    def recorded(self, batch: Batch | None, entry: EntryRow, effects: Effects | None) -> None:
        """Tell hooks of a new entry and of the messages sent with it, once the batch is durable.

        Args:
          batch: batch of the entry, or the last one before it; None before the first batch.
        """

        def publish(
            method: Callable[[Hooks, T], None], make: Callable[P, T], *args: P.args, **kwargs: P.kwargs
        ) -> None:
            if not self._dispatcher.wants(method):
                return
            info = make(*args, **kwargs)
            if batch is None or batch.durable.is_set():
                self._dispatcher.call(method, info)
            else:
                batch.observe(self._claim.instance_id, partial(self._dispatcher.call, method, info))

        kind, id, at = entry["kind"], entry["operation_id"], entry["recorded_at"]
        if kind is EntryKind.ATTEMPT_FAILED:
            is_compensation = id in self._attempted and self._attempted[id].is_compensation
            method = Hooks.compensation_retried if is_compensation else Hooks.activity_retried
            publish(method, self._outcome, id, entry)
        elif kind in _OUTCOMES:
            publish(_OUTCOMES[kind], self._outcome, id, entry)
            self._attempted.pop(id, None)
        elif kind in _TIMERS:
            publish(Hooks.timer_fired, self._timer_info, id, kind, at)
        elif kind in _RECEIVED:
            publish(_RECEIVED[kind], self._received, id, entry)
        if effects is not None:
            for outgoing in effects.outgoing:
                publish(Hooks.message_sent, self._sent, outgoing.row, id)
            for row in effects.outbox:
                publish(Hooks.event_sent, self._sent_to_broker, row, id)

    def _outcome(self, operation_id: str, entry: EntryRow) -> ActivityInfo:
        attempted = self._attempted[operation_id]
        if entry["kind"] in (
            EntryKind.ACTIVITY_COMPLETED,
            EntryKind.COMPENSATION_COMPLETED,
            EntryKind.ACTIVITY_CANCELLED,
        ):
            return self._activity_info(operation_id, attempted, attempted.number, entry["recorded_at"])
        failure = from_text(entry["kind"], entry["payload"])
        assert isinstance(failure, Failure)
        error = failure.to_info()
        return self._activity_info(operation_id, attempted, failure.attempts, entry["recorded_at"], error)

    def _activity_info(
        self, operation_id: str, attempted: _Attempted, number: int, at: Microseconds, error: ErrorInfo | None = None
    ) -> ActivityInfo:
        return ActivityInfo(
            self._claim.instance_id,
            self._claim.workflow,
            self._worker_id,
            operation_id,
            attempted.name,
            number,
            to_datetime(at),
            attempted.is_compensation,
            attempted.duration or 0.0,
            error,
        )

    def _timer_info(self, operation_id: str, kind: EntryKind, at: Microseconds) -> TimerInfo:
        due = self._due_of(operation_id)
        return TimerInfo(
            self._claim.instance_id,
            self._claim.workflow,
            self._worker_id,
            operation_id,
            kind,
            to_datetime(at if due is None else due),
            to_datetime(at),
        )

    def _received(self, operation_id: str, entry: EntryRow) -> MessageInfo:
        received = from_text(entry["kind"], entry["payload"])
        assert isinstance(received, EventReceived | MessageReceived)
        event = received.event
        return MessageInfo(
            channel=self._channel_of(operation_id),
            time=to_datetime(entry["recorded_at"]),
            sent_at=to_datetime(received.sent_at),
            instance_id=self._claim.instance_id,
            workflow=self._claim.workflow,
            worker_id=self._worker_id,
            operation_id=operation_id,
            id=None if event is None else event.id,
            source=None if event is None else event.source,
            subject=None if event is None else event.subject,
        )

    def _sent(self, row: MessageRow, operation_id: str) -> MessageInfo:
        return evolve(
            sent_info(row),
            instance_id=self._claim.instance_id,
            workflow=self._claim.workflow,
            worker_id=self._worker_id,
            operation_id=operation_id,
        )

    def _sent_to_broker(self, row: OutboxRow, operation_id: str) -> MessageInfo:
        at = to_datetime(row["created_at"])
        return MessageInfo(
            channel=row["type"],
            time=at,
            sent_at=at,
            instance_id=self._claim.instance_id,
            workflow=self._claim.workflow,
            worker_id=self._worker_id,
            operation_id=operation_id,
            id=row["event_id"],
            source=row["source"],
            subject=row["subject"],
            to_broker=True,
        )


def tell_end(
    dispatcher: HookDispatcher,
    claim: Claim | Parked | Termination,
    worker_id: str,
    now: Microseconds,
    status: Status,
    error: ErrorInfo | None,
) -> None:
    """Tell hooks that an instance durably has a status: it has ended, or is stuck."""
    dispatcher.call(_ENDS[status], _workflow_info(claim, worker_id, now, error=error))


def log_termination(termination: Termination) -> None:
    """Log that an instance was terminated."""
    reason = termination.error.message or "no reason was given"
    extra = about(termination.instance_id, termination.workflow)
    _logger.warning("instance %s was terminated: %s", termination.instance_id, reason, extra=extra)


def sent_info(row: MessageRow) -> MessageInfo:
    """Return the description for hooks of a message, or an event, that was stored as a row."""
    at = to_datetime(row["sent_at"])
    return MessageInfo(
        channel=row["channel"],
        time=at,
        sent_at=at,
        id=None if row["source"] is None else row["event_id"],
        source=row["source"],
        subject=row["subject"],
        to=row["addressee"] or None,
    )


def _workflow_info(
    claim: Claim | Parked | Termination,
    worker_id: str,
    now: Microseconds,
    *,
    error: ErrorInfo | None = None,
    entries: int = 0,
    lag: float = 0.0,
) -> WorkflowInfo:
    return WorkflowInfo(
        claim.instance_id,
        claim.workflow,
        worker_id,
        to_datetime(now),
        to_datetime(claim.created_at),
        {} if claim.trace is None else loads(claim.trace),
        error,
        entries,
        lag,
    )
