"""The operations of one instance that are in flight, and the tasks that wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio
from attrs import define

from ..._storage.sql.entries import JournalEntry
from ..._tasks.light_event import LightEvent
from ..._tasks.trio_internals import is_runnable
from ...clock import Microseconds
from ...model import Kind
from .exits import RunGone


class Shield(Protocol):
    """Keeps cancellation away from a running activity. Usually a :class:`trio.CancelScope`."""

    @property
    def shield(self) -> bool: ...
    @shield.setter
    def shield(self, value: bool, /) -> None: ...

    def cancel(self) -> None:
        """Tear the activity down, because its run is gone."""


@define(eq=False)
class Operation:
    """One durable step of an instance, in flight."""

    id: str
    what: str
    """Name of what the code asks for, for messages to the user."""
    kinds: frozenset[Kind]
    """Kinds of entries that can be its outcome."""
    deliver: Callable[[JournalEntry], None] | None = None
    """Called with the outcome, if no task awaits it."""
    task: trio.lowlevel.Task | None = None
    """The task that awaits the outcome."""
    nurseries: int = 0
    """Number of nurseries that the task had open when it began. Later ones belong to what the operation runs."""
    scope: Shield | None = None
    """Shield of an activity against cancellation while it runs."""
    is_executing: bool = False
    """Whether an attempt is running."""
    _waits: bool = False
    wake_at: Microseconds | None = None
    """Time at which the wait ends, if that is known."""
    is_in_flight: bool = True
    is_given_up: bool = False
    """Whether the workflow function must not go on, and so is told no outcome any more."""
    outcome: JournalEntry | None = None
    """Its outcome, once the workflow has been told."""
    _changed: LightEvent | None = None
    _in_flight: InFlight | None = None
    """Where it is counted."""

    @property
    def waits(self) -> bool:
        """Whether the operation only waits at the moment, so that its run can leave memory."""
        return self._waits

    @waits.setter
    def waits(self, waits: bool) -> None:
        if self._in_flight is not None and waits is not self._waits:
            self._in_flight.waiting += 1 if waits else -1
        self._waits = waits

    def count_in(self, in_flight: InFlight | None) -> None:
        """Count among the operations that a task awaits; None: no longer."""
        by, before = (-1, self._in_flight) if in_flight is None else (1, in_flight)
        self._in_flight = in_flight
        if before is not None:
            before.awaited += by
            if self._waits:
                before.waiting += by

    @property
    def is_open(self) -> bool:
        """Whether the operation can still get an outcome. A timeout has one before its block ends."""
        return self.is_in_flight and self.outcome is None

    def tell(self, outcome: JournalEntry) -> None:
        """Tell the workflow the outcome."""
        self.outcome = outcome
        self.wake_at = None
        if self.deliver is not None:
            self.deliver(outcome)
        else:
            self.notify()

    def notify(self) -> None:
        """Wake the task that awaits the outcome, without one."""
        if self._changed is not None:
            self._changed.set()

    def give_up(self) -> None:
        """Tear the operation down: the workflow function must not go on.

        A cancellation of the workflow function may have reached its task already. It does not reach a task that
        shields itself.
        """
        self.is_given_up = True
        if self.scope is not None:
            self.scope.cancel()
        self.notify()

    async def wait(self) -> JournalEntry | None:
        """Wait for the outcome. Returns None after :meth:`notify`: the task has something to do first.

        Raises:
          RunGone: if the operation is given up.
        """
        if not self.is_given_up:
            self._changed = LightEvent()
            await self._changed.wait()
            self._changed = None
        if self.is_given_up:
            raise RunGone
        return self.outcome


class InFlight:
    """The operations of one instance that have begun and not ended.

    An outcome is told to the workflow only when all its tasks rest: then the next outcome finds the same state on
    the first run and on each replay, and code that depends on which of two activities ended first sees it again.
    """

    __slots__ = ("_added", "awaited", "by_id", "main", "waiting")

    def __init__(self) -> None:
        self.by_id: dict[str, Operation] = {}
        """Operations by id, in the order in which they began."""
        self.main: trio.lowlevel.Task | None = None
        """The task that runs the workflow function, while that runs."""
        self._added: trio.Event | None = None
        self.awaited = 0
        """Number of operations that a task awaits. A task that is alone with its activity does not count."""
        self.waiting = 0
        """Number of those that only wait."""

    def add(self, operation: Operation) -> None:
        """Note that an operation begins. If a task awaits it, that is the current one."""
        self.by_id[operation.id] = operation
        if self._added is not None:
            self._added.set()
        if operation.task is not None:
            operation.nurseries = len(operation.task.child_nurseries)
            operation.count_in(self)

    def remove(self, operation: Operation) -> None:
        """Note that an operation has ended, or was given up."""
        operation.is_in_flight = False
        operation.count_in(None)
        del self.by_id[operation.id]

    async def added(self) -> None:
        """Wait until another operation begins."""
        self._added = trio.Event()
        await self._added.wait()
        self._added = None

    def asked_for(self, entry: JournalEntry) -> Operation | None:
        """Return the operation whose outcome the entry is; None if the code has not asked for it."""
        operation = self.by_id.get(entry.operation_id)
        return operation if operation is not None and entry.kind in operation.kinds else None

    def notify_all(self) -> None:
        """Wake all tasks that await an outcome, without one."""
        for operation in self.by_id.values():
            operation.notify()

    def give_up_all(self) -> None:
        """Tear down all operations: activities that are shielded, and waits within a shield of the workflow's own."""
        for operation in self.by_id.values():
            operation.give_up()

    @property
    def is_executing(self) -> bool:
        """Whether an attempt of an activity or compensation is running."""
        return any(operation.is_executing for operation in self.by_id.values())

    def only_waits(self) -> bool:
        """Whether there are operations that a task awaits, and each of them only waits."""
        return 0 < self.awaited == self.waiting

    def next_wake(self, after: Microseconds = 0) -> Microseconds | None:
        """Return when the first of the timers is due that is due after that time."""
        wakes = (operation.wake_at for operation in self.by_id.values())
        return min((wake for wake in wakes if wake is not None and wake > after), default=None)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def is_alone(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task is the only one of the workflow."""
        return task is self.main and not task.child_nurseries

    def has_task(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether the task runs the workflow function, or was started by it."""
        while task is not None and task is not self.main:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is not None

    def can_go_on(self) -> bool:
        """Whether the only task of the workflow is runnable, and not because of what an activity does."""
        return self.main is not None and is_runnable(self.main) and not self.is_executing
