"""Hooks: methods that an app calls for everything that happens in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from attrs import frozen

from .model import EntryKind, ErrorInfo, SkipReason


@frozen
class WorkflowInfo:
    """An instance, as hooks get it."""

    instance_id: str
    workflow: str
    worker_id: str
    """Worker that calls the hook."""
    time: datetime
    """Time of the event, in UTC."""
    created_at: datetime
    """Start of the instance, in UTC."""
    trace: Mapping[str, str]
    """Trace context that :meth:`Hooks.trace_context` returned at the start; empty without one."""
    error: ErrorInfo | None = None
    """Why the instance failed, was cancelled, or is stuck."""
    entries: int = 0
    """For :meth:`Hooks.workflow_replayed`: number of entries of the journal."""
    lag: float = 0.0
    """For :meth:`Hooks.workflow_started` and :meth:`Hooks.workflow_replayed`: seconds since the instance became due."""

    @property
    def age(self) -> float:
        """Seconds from the start of the instance to this event."""
        return (self.time - self.created_at).total_seconds()


@frozen
class ActivityInfo:
    """An attempt or an outcome of an activity or a compensation, as hooks get it."""

    instance_id: str
    workflow: str
    worker_id: str
    operation_id: str
    name: str
    """Name of the activity or compensation."""
    attempt: int
    """Number of the attempt, from 1; for an outcome, the number of attempts."""
    time: datetime
    """Begin of the attempt; for an outcome, the time of its record. In UTC."""
    is_compensation: bool = False
    duration: float = 0.0
    """Seconds that the last attempt took; 0: this process made no attempt."""
    error: ErrorInfo | None = None
    """Why the attempt failed; None: it did not."""


@frozen
class MessageInfo:
    """An event, or a message on a channel, that was sent or received."""

    channel: str
    """Channel of the message; type of the event."""
    time: datetime
    """Time at which it was sent or received, in UTC."""
    sent_at: datetime
    """Time at which it was sent, in UTC."""
    instance_id: str | None = None
    """Instance that has sent or received it; None: it was sent from outside of any workflow."""
    workflow: str | None = None
    """Workflow of that instance."""
    worker_id: str | None = None
    """Worker that runs that instance."""
    operation_id: str | None = None
    """Operation that has sent or received it."""
    id: str | None = None
    """Id of the event; None: it is a message."""
    source: str | None = None
    """Source of the event; None: it is a message."""
    subject: str | None = None
    """Subject of the event, if it has one."""
    to: str | None = None
    """The one instance that it was sent to; None: it was not sent to one instance, or it was received."""
    to_broker: bool = False
    """Whether an activity sent it to the broker, by the outbox."""


@frozen
class TimerInfo:
    """A timer that fired."""

    instance_id: str
    workflow: str
    worker_id: str
    operation_id: str
    kind: EntryKind
    """Kind of the timer: ``timer_fired`` of a sleep, ``timeout_fired`` of a block, ``wait_timed_out`` of a wait."""
    due_at: datetime
    """Time at which the timer was due, in UTC."""
    time: datetime
    """Time of the record, in UTC."""

    @property
    def lag(self) -> float:
        """Seconds by which the timer was late."""
        return max((self.time - self.due_at).total_seconds(), 0.0)


@frozen
class ScheduledRunInfo:
    """An occurrence of a schedule, as hooks get it."""

    schedule: str
    workflow: str
    worker_id: str
    """Worker that calls the hook."""
    due_at: datetime
    """Time of the occurrence, in UTC."""
    time: datetime
    """Time of the event, in UTC."""
    instance_id: str | None
    """Instance of the occurrence; None: it was skipped."""
    reason: SkipReason | None = None
    """Why the occurrence was skipped; None: it was not."""
    until: datetime | None = None
    """End of the time whose occurrences were skipped together, in UTC; None: it is one occurrence."""

    @property
    def lag(self) -> float:
        """Seconds from the time of the occurrence to this event."""
        return (self.time - self.due_at).total_seconds()


@frozen
class BatchInfo:
    """A transaction that the journal has committed."""

    worker_id: str
    writes: int
    """Number of entries, starts and status changes in it; 0: it only renewed the lease."""
    duration: float
    """Seconds that it took, including repetitions while the database was away."""


@frozen
class LeaseInfo:
    """The lease of a worker."""

    worker_id: str
    epoch: int
    """Number of the lease: each one of a worker has a higher epoch."""
    time: datetime
    """Time of the event, in UTC."""


class Hooks:
    """Methods that an app calls for what happens in it. Subclass this, and override some of them.

    Pass them as ``App(..., hooks=(MyHooks(),))``. A method for something that is recorded is called once the record is
    durable, and by one worker never twice for the same record. A replay calls nothing but :meth:`workflow_replayed`.
    The calls for one instance come in the order of its journal. A call can be missed if the process dies, or its lease
    is lost, right after the commit: a program that must not miss anything reads :meth:`App.history`.

    The methods are plain functions, called in the thread of trio between two steps of the runtime: they must be quick,
    and must not block. An exception in a method changes nothing else: it is logged under ``trio_romancy.hooks``, the
    first time with its traceback, and the other hooks are still called.
    """

    # -- workflows -------------------------------------------------------------------------------------------------

    def workflow_started(self, workflow: WorkflowInfo) -> None:
        """Called when an instance runs for the first time.

        If its worker stops before the instance has recorded anything, the next worker may call this, too.
        """

    def workflow_replayed(self, workflow: WorkflowInfo) -> None:
        """Called when an instance is replayed from its journal, because it had left memory, or after a crash."""

    def workflow_completed(self, workflow: WorkflowInfo) -> None:
        """Called when an instance has completed."""

    def workflow_failed(self, workflow: WorkflowInfo) -> None:
        """Called when an instance has failed, after its compensations."""

    def workflow_cancelled(self, workflow: WorkflowInfo) -> None:
        """Called when an instance has ended as cancelled, after its compensations; or was terminated.

        If no worker owned a terminated instance, the app that terminated it calls this, and a client has no
        ``worker_id``.
        """

    def workflow_recurred(self, workflow: WorkflowInfo) -> None:
        """Called when an instance has ended by starting its successor."""

    def instance_stuck(self, workflow: WorkflowInfo) -> None:
        """Called when an instance is parked until the cause is fixed and the instance is resumed."""

    def instance_dropped(self, workflow: WorkflowInfo) -> None:
        """Called when an instance has left the memory of this worker.

        It is called once for each :meth:`workflow_started` and :meth:`workflow_replayed`: when the instance has ended,
        only waits, is left to another worker, or has crashed, and when the lease was lost. Only after a crash may calls
        follow for what had been recorded before.
        """

    # -- activities ------------------------------------------------------------------------------------------------

    def activity_started(self, activity: ActivityInfo) -> None:
        """Called when an attempt begins. An attempt that a crash interrupts begins again under the same number."""

    def activity_completed(self, activity: ActivityInfo) -> None:
        """Called when an activity has completed."""

    def activity_failed(self, activity: ActivityInfo) -> None:
        """Called when an activity has failed for good."""

    def activity_retried(self, activity: ActivityInfo) -> None:
        """Called when an attempt has failed and another one follows."""

    def activity_cancelled(self, activity: ActivityInfo) -> None:
        """Called when a cancellable activity was torn down."""

    def compensation_started(self, compensation: ActivityInfo) -> None:
        """Called when an attempt of a compensation begins."""

    def compensation_completed(self, compensation: ActivityInfo) -> None:
        """Called when an activity has been compensated."""

    def compensation_failed(self, compensation: ActivityInfo) -> None:
        """Called when a compensation has failed for good."""

    def compensation_retried(self, compensation: ActivityInfo) -> None:
        """Called when an attempt of a compensation has failed and another one follows."""

    # -- events, messages, timers ----------------------------------------------------------------------------------

    def event_sent(self, event: MessageInfo) -> None:
        """Called when an event from this app, or from an activity for the broker, was accepted. Not for a duplicate."""

    def event_received(self, event: MessageInfo) -> None:
        """Called when a workflow has received an event."""

    def message_sent(self, message: MessageInfo) -> None:
        """Called when a message from this app, a workflow or an activity was accepted."""

    def message_received(self, message: MessageInfo) -> None:
        """Called when a workflow has received a message from a channel."""

    def timer_fired(self, timer: TimerInfo) -> None:
        """Called when the time of a sleep, of a block with a timeout, or of a wait is over."""

    # -- schedules -------------------------------------------------------------------------------------------------

    def schedule_fired(self, run: ScheduledRunInfo) -> None:
        """Called when this worker has started an occurrence of a schedule."""

    def schedule_late(self, run: ScheduledRunInfo) -> None:
        """Called after :meth:`schedule_fired` if the occurrence began more than ten seconds late, besides its jitter.

        No worker ran at its time, or it has waited for an earlier occurrence.
        """

    def schedule_skipped(self, run: ScheduledRunInfo) -> None:
        """Called when an occurrence is skipped, or several in a row. They are listed by :meth:`Schedules.skipped`."""

    def schedule_failed(self, run: ScheduledRunInfo) -> None:
        """Called when this worker notices that an instance of a schedule has failed. The schedule goes on.

        Another hook, :meth:`workflow_failed`, is told why.
        """

    # -- the worker ------------------------------------------------------------------------------------------------

    def app_opened(self, app: Any) -> None:
        """Called when the block of an app begins, before all other calls. :meth:`App.statistics` works a little later.

        Args:
          app: the :class:`App`. An override may declare it as such: its module is above this one.
        """

    def app_closed(self, app: Any) -> None:
        """Called when the block of an app has ended.

        Args:
          app: the :class:`App`.
        """

    def batch_committed(self, batch: BatchInfo) -> None:
        """Called when the journal has committed a transaction, before the calls for its records."""

    def lease_lost(self, lease: LeaseInfo) -> None:
        """Called when the worker has lost its lease. It has abandoned all its instances, and joins again."""

    # -- traces ----------------------------------------------------------------------------------------------------

    def trace_context(self, workflow: str, instance_id: str) -> Mapping[str, str] | None:
        """Return what to store with an instance that is about to be started: see ``WorkflowInfo.trace``.

        Called in the task that calls :meth:`App.start`. Meant for the W3C trace context (``traceparent`` and
        ``tracestate``). The results of several hooks are merged. A result of more than 8,192 bytes as JSON is logged,
        and not stored.
        """
        return None

    def around_activity(self, activity: ActivityInfo) -> AbstractContextManager[object] | None:
        """Return a context manager around an attempt of an activity or a compensation; None: nothing.

        It is entered in the task of the attempt right before the call of the function, and left with the exception of
        the function, if it raised one: :exc:`trio.Cancelled` if it was torn down. The function sees context variables
        that it sets, also in a thread. It can neither suppress an exception nor delay the attempt; its own exceptions
        are logged. When it is left, the outcome is not recorded yet.
        """
        return None
