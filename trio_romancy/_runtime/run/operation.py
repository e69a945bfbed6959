"""The operations of one instance that are in flight, and the tasks that wait for them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Protocol

import trio
from attrs import define, field

from ..._storage.sql.entries import JournalEntry
from ..._tasks.light_event import LightEvent
from ..._tasks.trio_internals import is_runnable
from ...clock import Microseconds
from ...model import EntryKind
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
    kinds: frozenset[EntryKind]
    """Kinds of entries that can be its outcome."""
    deliver: Callable[[JournalEntry], None] | None = None
    """Called with the outcome, if no task awaits it."""
    task: trio.lowlevel.Task | None = None
    """The task that awaits the outcome."""
    nurseries: int = 0
    """Number of nurseries that the task had open when its activity began. Later ones belong to the activity."""
    scope: Shield | None = None
    """Shield of an activity against cancellation while it runs."""
    is_executing: bool = False
    """Whether an attempt is running."""
    _waits: bool = field(default=False, alias="waits")
    wake_at: Microseconds | None = None
    """Time at which the wait ends, if that is known."""
    about: Any = None
    """What it is about, for people: a name, or the filter of the messages that it waits for."""
    limit: tuple[str, str] | None = None
    """Name and key of the limit that holds its next attempt back."""
    attempt: int = 0
    """Number of the attempt that runs, or comes next; 0: it has none."""
    attempted_at: Microseconds = 0
    """Start of that attempt."""
    is_in_flight: bool = True
    is_given_up: bool = False
    """Whether the workflow function must not go on, and so is told no outcome any more."""
    outcome: JournalEntry | None = None
    """Its outcome, once the workflow has been told."""
    _changed: LightEvent | None = None
    counted_by: InFlight | None = None
    """The operations in flight that it belongs to, which count what it does."""

    @property
    def waits(self) -> bool:
        """Whether the operation only waits at the moment, so that its run can leave memory."""
        return self._waits

    @waits.setter
    def waits(self, value: bool) -> None:
        if self.counted_by is not None and self.task is not None:
            self.counted_by.waiting += value - self._waits
        self._waits = value

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

    __slots__ = ("_added", "_retries", "_unawaited", "by_id", "main", "waiting")

    def __init__(self) -> None:
        self.by_id: dict[str, Operation] = {}
        """Operations by id, in the order in which they began."""
        self.main: trio.lowlevel.Task | None = None
        """The task that runs the workflow function, while that runs."""
        self._unawaited = 0
        """Number of operations that no task awaits."""
        self.waiting = 0
        """Number of the others that only wait."""
        self._retries: list[tuple[Microseconds, int, Operation]] | None = None
        """Times at which activities are attempted again, as a heap, with those that have passed."""
        self._added: trio.Event | None = None

    def add(self, operation: Operation) -> None:
        """Note that an operation begins. If a task awaits it, that is the current one."""
        self.by_id[operation.id] = operation
        operation.counted_by = self
        if operation.task is None:
            self._unawaited += 1
        elif operation._waits:
            self.waiting += 1
        if self._added is not None:
            self._added.set()

    def remove(self, operation: Operation) -> None:
        """Note that an operation has ended, or was given up."""
        operation.is_in_flight = False
        del self.by_id[operation.id]
        operation.counted_by = None
        if operation.task is None:
            self._unawaited -= 1
        elif operation._waits:
            self.waiting -= 1

    @property
    def awaited(self) -> int:
        """Number of operations that a task awaits."""
        return len(self.by_id) - self._unawaited

    async def added(self) -> None:
        """Wait until another operation begins."""
        self._added = trio.Event()
        await self._added.wait()
        self._added = None

    def asked_for(self, entry: JournalEntry) -> Operation | None:
        """Return the operation whose outcome the entry is; None if the code has not asked for it."""
        operation = self.by_id.get(entry.operation_id)
        return operation if operation is not None and entry.kind in operation.kinds else None

    def give_up_all(self) -> None:
        """Tear down all operations: activities that are shielded, and waits within a shield of the workflow's own."""
        for operation in self.by_id.values():
            operation.give_up()

    @property
    def is_executing(self) -> bool:
        """Whether an attempt of an activity or compensation is running."""
        return any(operation.is_executing for operation in self.by_id.values())

    def first_attempted_at(self) -> Microseconds | None:
        """Return the first start of the last attempts of operations in flight; None without any."""
        return min((one.attempted_at for one in self.by_id.values() if one.attempted_at), default=None)

    def count_executing(self) -> int:
        """Return the number of operations of which an attempt is running."""
        return sum(operation.is_executing for operation in self.by_id.values())

    def executed_by(self, task: trio.lowlevel.Task) -> Operation | None:
        """Return the operation whose attempt a task runs; None without one. May be called in any thread."""
        for operation in [*self.by_id.values()]:
            if operation.is_executing and operation.task is task:
                return operation
        return None

    def only_waits(self) -> bool:
        """Whether there are operations that a task awaits, and each of them only waits."""
        return 0 < self.awaited == self.waiting

    def retry_at(self, operation: Operation, due: Microseconds) -> None:
        """Note when an activity that waits for its next attempt is due."""
        operation.wake_at = due
        if self._retries is None:
            self._retries = []
        heapq.heappush(self._retries, (due, id(operation), operation))

    def next_retry(self) -> Microseconds | None:
        """Return when the first activity that waits for its next attempt is due."""
        while self._retries:
            due, _, operation = self._retries[0]
            if operation.is_in_flight and operation.wake_at == due:
                return due
            heapq.heappop(self._retries)
        return None

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
