"""What observers of an app may implement: one method for each thing that happens to an instance."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from attrs import frozen

from .model import ErrorInfo, Kind


@frozen
class WorkflowInfo:
    """An instance, as hooks are told of it."""

    instance_id: str
    workflow: str
    worker_id: str
    """The worker that tells it."""
    time: datetime
    """When it happened, in UTC."""
    created_at: datetime
    """When the instance was started, in UTC."""
    trace: Mapping[str, str]
    """What :meth:`Hooks.trace_context` gave when it was started; empty: nothing."""
    error: ErrorInfo | None = None
    """Why it failed, was cancelled, or is stuck."""
    entries: int = 0
    """Of :meth:`Hooks.workflow_replayed`: how many entries its journal has."""
    lag: float = 0.0
    """Of :meth:`Hooks.workflow_started` and :meth:`Hooks.workflow_replayed`: how many seconds ago it became due."""

    @property
    def age(self) -> float:
        """How many seconds after its start this happened."""
        return (self.time - self.created_at).total_seconds()


@frozen
class ActivityInfo:
    """An activity or a compensation, as hooks are told of it."""

    instance_id: str
    workflow: str
    worker_id: str
    operation_id: str
    name: str
    """Of the activity, or of the compensation."""
    attempt: int
    """The number of the attempt, from 1; of an outcome: how many there were."""
    time: datetime
    """When the attempt began; or when its outcome was recorded. In UTC."""
    is_compensation: bool = False
    duration: float = 0.0
    """How many seconds the last attempt took; 0 if it made none in this process."""
    error: ErrorInfo | None = None
    """Why the attempt failed."""


@frozen
class MessageInfo:
    """An event, or a message on a channel, that was sent or received."""

    channel: str
    """Of an event: its type."""
    time: datetime
    """When it was sent, or received, in UTC."""
    sent_at: datetime
    """When it was sent, in UTC."""
    instance_id: str | None = None
    """The instance that has sent or received it; None: it was sent from outside of any workflow."""
    workflow: str | None = None
    """Of that instance."""
    worker_id: str | None = None
    """Of the worker that runs it."""
    operation_id: str | None = None
    """With which operation."""
    id: str | None = None
    """Of an event."""
    source: str | None = None
    """Of an event."""
    subject: str | None = None
    """Of an event."""
    to: str | None = None
    """Sent: the one instance that it is for; None: it is not for one alone."""
    to_broker: bool = False
    """Whether an activity sent it to the broker: it is in the outbox."""


@frozen
class TimerInfo:
    """A timer that fired."""

    instance_id: str
    workflow: str
    worker_id: str
    operation_id: str
    kind: Kind
    """What for: ``timer_fired`` ends a sleep, ``timeout_fired`` a block, ``wait_timed_out`` a wait."""
    due_at: datetime
    """When it was to fire, in UTC."""
    time: datetime
    """When that was recorded, in UTC."""

    @property
    def lag(self) -> float:
        """By how many seconds it was late."""
        return max((self.time - self.due_at).total_seconds(), 0.0)


@frozen
class BatchInfo:
    """A transaction of the journal that was committed."""

    worker_id: str
    writes: int
    """Entries, starts and status changes in it; 0: it only prolonged the lease."""
    duration: float
    """Seconds that it took, with all tries, if the database was away."""


@frozen
class LeaseInfo:
    """The lease of a worker."""

    worker_id: str
    epoch: int
    time: datetime
    """In UTC."""


class Hooks:
    """What happens in an app, for those who want to know: subclass it, and override what is of interest.

    ``App(..., hooks=(MyHooks(),))`` tells them. What is recorded is told when it is durable: never what was not
    committed, and by one worker never the same twice. A replay repeats nothing but :meth:`workflow_replayed`. Of one
    instance all is told in the order of its journal. What was committed the moment before a process died, or lost its
    lease, may never be told: who must not miss anything reads :meth:`App.history`.

    The methods are plain functions, called in the thread of trio between two steps of the runtime: they must be quick,
    and must not block. One that raises does no harm; it is logged under ``trio_romancy.hooks``, the first time with
    its traceback, and the others are still called.
    """

    # -- workflows -------------------------------------------------------------------------------------------------

    def workflow_started(self, workflow: WorkflowInfo) -> None:
        """An instance runs for the first time.

        If its worker stops before anything of it is recorded, the next worker may tell this as well.
        """

    def workflow_replayed(self, workflow: WorkflowInfo) -> None:
        """An instance is taken up again, over its journal: it had been dropped from memory, or something crashed."""

    def workflow_completed(self, workflow: WorkflowInfo) -> None:
        """An instance has completed."""

    def workflow_failed(self, workflow: WorkflowInfo) -> None:
        """An instance has failed, and what it had done is compensated, as far as that could be done."""

    def workflow_cancelled(self, workflow: WorkflowInfo) -> None:
        """An instance has ended as cancelled, and what it had done is compensated, as far as that could be done."""

    def workflow_recurred(self, workflow: WorkflowInfo) -> None:
        """An instance has ended by starting its successor."""

    def instance_stuck(self, workflow: WorkflowInfo) -> None:
        """An instance is parked, unharmed, until the cause is mended and it is resumed."""

    def instance_dropped(self, workflow: WorkflowInfo) -> None:
        """An instance has left the memory of this worker.

        It is told once for each :meth:`workflow_started` and :meth:`workflow_replayed`, whatever the reason: the
        instance has ended, only waits, is left to another worker, has crashed, or the lease was lost. Only after a
        crash something may follow that had been recorded before.
        """

    # -- activities ------------------------------------------------------------------------------------------------

    def activity_started(self, activity: ActivityInfo) -> None:
        """An attempt begins. One that a crash interrupts begins again, under the same number."""

    def activity_completed(self, activity: ActivityInfo) -> None:
        """An activity has completed."""

    def activity_failed(self, activity: ActivityInfo) -> None:
        """An activity has failed for good."""

    def activity_retried(self, activity: ActivityInfo) -> None:
        """An attempt has failed, and there will be another."""

    def activity_cancelled(self, activity: ActivityInfo) -> None:
        """A cancellable activity was torn down."""

    def compensation_started(self, compensation: ActivityInfo) -> None:
        """An attempt of a compensation begins."""

    def compensation_completed(self, compensation: ActivityInfo) -> None:
        """An activity has been compensated."""

    def compensation_failed(self, compensation: ActivityInfo) -> None:
        """A compensation has failed for good."""

    def compensation_retried(self, compensation: ActivityInfo) -> None:
        """An attempt of a compensation has failed, and there will be another."""

    # -- events, messages, timers ----------------------------------------------------------------------------------

    def event_sent(self, event: MessageInfo) -> None:
        """An event was accepted: from this app, or from an activity for the broker. Not one that is a duplicate."""

    def event_received(self, event: MessageInfo) -> None:
        """A workflow has received an event."""

    def message_sent(self, message: MessageInfo) -> None:
        """A message on a channel was accepted: from this app, from a workflow or an activity."""

    def message_received(self, message: MessageInfo) -> None:
        """A workflow has received a message from a channel."""

    def timer_fired(self, timer: TimerInfo) -> None:
        """The time of a sleep, of a block with a timeout, or of a wait is over."""

    # -- the worker ------------------------------------------------------------------------------------------------

    def app_opened(self, app: Any) -> None:
        """The block of an app begins. Called before everything else; :meth:`App.statistics` works a little later.

        Args:
          app: the :class:`App`. An override may declare it as such: its module is above this one.
        """

    def app_closed(self, app: Any) -> None:
        """The block of an app has ended.

        Args:
          app: the :class:`App`.
        """

    def batch_committed(self, batch: BatchInfo) -> None:
        """The journal has committed a transaction. Told before what is in it."""

    def lease_lost(self, lease: LeaseInfo) -> None:
        """The worker could not prolong its lease in time. It has dropped all its instances, and joins again."""

    # -- traces ----------------------------------------------------------------------------------------------------

    def trace_context(self, workflow: str, instance_id: str) -> Mapping[str, str] | None:
        """What to store with an instance that is about to be started, for whoever runs it: see ``WorkflowInfo.trace``.

        Called in the task that calls :meth:`App.start`. Meant for the W3C trace context (``traceparent`` and
        ``tracestate``). Of several hooks, what they return is put together. More than 8,192 bytes as JSON are not
        stored, and logged.
        """
        return None

    def around_activity(self, activity: ActivityInfo) -> AbstractContextManager[object] | None:
        """A context manager to run an attempt of an activity or a compensation in; None: none.

        It is entered in the task of the attempt right before the function is called, and left with the exception, if
        that raised one: :exc:`trio.Cancelled` if it was torn down. Context variables that it sets are seen by the
        function, also in a thread. It cannot hold back an exception, nor hold up the attempt; what it raises itself is
        logged, and does no harm. Whether the outcome is recorded is not known yet.
        """
        return None
