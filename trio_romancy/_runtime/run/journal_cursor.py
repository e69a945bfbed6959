"""The journal of one instance as its workflow function meets it: ids, order, and what it says next.

An outcome is told to the workflow only when every task of the instance has come to rest after the one before. The
same holds on the first run, so a replay runs through the same states in the same order, whatever trio's scheduler
did: code that depends on which of two activities ended first sees it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from typing import Protocol

import trio
from attrs import define, evolve, field

from ..._data.ids import checked_id
from ..._storage.sql.instances import JournalEntry
from ..._tasks.light_event import LightEvent
from ..._tasks.trio_internals import is_runnable
from ...clock import Microseconds
from ...errors import NonDeterminismError, OperationIdError
from ...model import Kind


class Shield(Protocol):
    """What keeps cancellation away from a running activity: mostly a :class:`trio.CancelScope`."""

    shield: bool

    def cancel(self) -> None:
        """Tear the activity down, because its actor is dropped."""


@define(eq=False)
class Operation:
    """One durable step of an instance, in flight."""

    id: str
    what: str
    """What the code asks for, in words."""
    kinds: frozenset[Kind]
    """Which entries can be its outcome."""
    deliver: Callable[[JournalEntry], None] | None = None
    """Tells the workflow, if no task awaits it."""
    task: trio.lowlevel.Task | None = None
    """The task that waits for it."""
    nurseries: int = 0
    """How many nurseries the task had open when it began; later ones belong to what the operation runs."""
    scope: Shield | None = None
    """Shields an activity from cancellation while it runs."""
    is_executing: bool = False
    """Whether an attempt runs now."""
    waits: bool = False
    """Whether it only waits now, so that its actor can be dropped meanwhile."""
    wake_at: Microseconds | None = None
    """When what it waits for happens, if that is known."""
    is_in_flight: bool = True
    record: JournalEntry | None = None
    """Its outcome, once the workflow has been told."""
    _news: LightEvent | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can still get an outcome. A timeout has one before its block ends."""
        return self.is_in_flight and self.record is None

    def tell(self, record: JournalEntry) -> None:
        """Tell the workflow its outcome."""
        self.record = record
        self.wake_at = None
        if self.deliver is not None:
            self.deliver(record)
        else:
            self.stir()

    def stir(self) -> None:
        """Wake the task that awaits it, without an outcome."""
        if self._news is not None:
            self._news.set()

    async def news(self) -> JournalEntry | None:
        """Wait for the outcome. None if there is something to do first: see :meth:`stir`."""
        self._news = LightEvent()
        await self._news.wait()
        self._news = None
        return self.record


@define(eq=False)
class Branch:
    """The automatic ids of one task."""

    prefix: str
    task: trio.lowlevel.Task | None
    seed: str
    counters: dict[str, int] = field(factory=dict)
    _random: Random | None = None

    @property
    def random(self) -> Random:
        """Its random generator."""
        if self._random is None:
            self._random = Random(self.seed)
        return self._random


current_branch: ContextVar[Branch | None] = ContextVar("trio_romancy_current_branch", default=None)
"""What was opened with ``ctx.branch``; None: the trunk, on which every workflow function begins."""


class Replay:
    """The operations of one instance, and its journal up to where it went on from."""

    def __init__(self, instance_id: str, created_at: Microseconds, records: Sequence[JournalEntry]) -> None:
        self.instance_id = instance_id
        self.now = created_at
        """Time of the entry last told to the workflow."""
        self.in_flight: dict[str, Operation] = {}
        self.taken = 0
        """How many records the workflow has been told."""
        self.is_live = False
        """Whether the journal is used up, so that operations are really carried out."""
        self._untold = deque(record for record in records if record.kind.is_delivered) if records else None
        self._failures: dict[str, list[JournalEntry]] | None = None
        """Failed attempts, by operation id."""
        self.kept: dict[str, JournalEntry] | None = None
        """Outcomes from before a retry, which count again when they are asked for, by operation id."""
        self._used: set[str] = set()
        self._added: trio.Event | None = None
        self._patches: dict[str, bool] | None = None
        """Changes of the code, and whether the instance goes their way."""
        self._unasked: set[str] | None = None
        """Those of them that the code has not asked for since the replay began; None: there were none."""
        self.main: trio.lowlevel.Task | None = None
        """The task that runs the workflow function."""
        self._trunk: Branch
        for record in records:
            if record.kind is Kind.ATTEMPT_FAILED:
                self.add_failure(record)
            elif record.kind is Kind.PATCHED:
                self.patch(record.operation_id, is_patched=True)
            elif record.kind is Kind.KEPT:
                self.kept = (self.kept or {}) | {record.operation_id: record}
            elif self.kept is not None:
                self.kept.pop(record.operation_id, None)  # it has been asked for
        if self._patches is not None:
            self._unasked = set(self._patches)

    def begin(self) -> None:
        """The workflow function begins, in the current task."""
        self.main = trio.lowlevel.current_task()
        self._trunk = Branch("", self.main, self.instance_id)
        if current_branch.get() is not None:  # the app was opened inside a branch of some other instance
            current_branch.set(None)

    def end(self) -> None:
        """The workflow function has ended."""
        self.main = None

    # -- failed attempts -------------------------------------------------------------------------------------------

    def failures_of(self, operation_id: str) -> Sequence[JournalEntry]:
        """The failed attempts of an operation, in order."""
        return () if self._failures is None else self._failures.get(operation_id, ())

    def add_failure(self, record: JournalEntry) -> None:
        """An attempt has failed."""
        if self._failures is None:
            self._failures = {}
        self._failures.setdefault(record.operation_id, []).append(record)

    def forget_failures(self, operation_id: str, until: int) -> None:
        """Attempts up to that entry do not count any more."""
        if self._failures is not None and operation_id in self._failures:
            kept = [record for record in self._failures[operation_id] if record.seq > until]
            self._failures[operation_id] = kept

    def take_kept(self, operation_id: str, kinds: frozenset[Kind]) -> JournalEntry | None:
        """The outcome that an operation had before the instance was retried, if it can have that again."""
        record = None if self.kept is None else self.kept.pop(operation_id, None)
        if record is None or record.payload["kind"] not in kinds:
            return None
        return evolve(record, kind=Kind(record.payload["kind"]), payload=record.payload["payload"])

    # -- changes of the code ---------------------------------------------------------------------------------------

    def is_patched(self, change_id: str) -> tuple[str, bool | None]:
        """Whether the branch that asks goes the way of a change; None: it does, if that is recorded.

        One that is in the midst of its journal has been here before, and has gone the old way.

        Returns also the id of the change in this branch.
        """
        prefix = (current_branch.get() or self._trunk).prefix
        id = f"{prefix}{change_id}"
        try:
            checked_id(change_id, "a change id")
            checked_id(id, "a change id, with its branch,")
        except ValueError as error:
            raise OperationIdError(f"instance {self.instance_id!r}: {error}") from None
        if self._unasked is not None:
            self._unasked.discard(id)
        if id not in (self._patches or ()) and self._has_passed(prefix):
            self.patch(id, is_patched=False)
        return id, (self._patches or {}).get(id)

    def patch(self, id: str, *, is_patched: bool) -> None:
        """The instance goes the way of a change of the code, or not."""
        if self._patches is None:
            self._patches = {}
        self._patches[id] = is_patched

    def _has_passed(self, prefix: str) -> bool:
        """Whether the branch that the current task is in goes on in the journal, as far as ids can tell."""
        if not prefix:
            return self.next_record() is not None
        ids = (record.operation_id for record in self._untold or ())
        return any(id.startswith(prefix) or "/" not in id for id in ids)  # ids of the user's own have no prefix

    def unknown_change(self) -> NonDeterminismError | None:
        """The journal is used up, and the instance has gone the way of a change that the code has not asked for."""
        if not self._unasked:
            return None
        return self.mismatch_of(min(self._unasked), "is a change whose way it goes", "does not ask for that change")

    # -- operation ids ---------------------------------------------------------------------------------------------

    def new_id(self, task: trio.lowlevel.Task, name: str, explicit: str | None) -> str:
        """The id of the next operation: the given one, or ``name:n`` counted in the branch that it is in.

        Raises:
          OperationIdError: if it has neither, or the id has been used.
        """
        branch = current_branch.get() or self._trunk
        if explicit is not None:
            id = explicit
            try:
                checked_id(id, "an operation id")
            except ValueError as error:
                raise OperationIdError(f"instance {self.instance_id!r}: {error}") from None
        elif branch.task is task:
            number = branch.counters.get(name, 0) + 1
            branch.counters[name] = number
            id = f"{branch.prefix}{name}:{number}"
        else:
            raise self._in_child_task(
                f"{name!r} is called", f"with .options(id=...) on an activity or a child, or id=... on ctx.{name}"
            )
        if id in self._used:
            raise OperationIdError(
                f"instance {self.instance_id!r}: the operation id {id!r} is used a second time; every operation of an "
                f"instance needs its own"
            )
        self._used.add(id)
        return id

    def random(self) -> Random:
        """The random generator of the branch that the current task is in."""
        branch = current_branch.get() or self._trunk
        if branch.task is not trio.lowlevel.current_task():
            raise self._in_child_task("ctx.random or ctx.uuid4 is used", "drawing in the parent task")
        return branch.random

    @contextmanager
    def branch(self, name: str) -> Iterator[None]:
        """Prefix the ids of the current task's operations."""
        prefix = f"{(current_branch.get() or self._trunk).prefix}{name}/"
        if not name or prefix in self._used:
            problem = "has been opened before; each branch needs its own name" if name else "needs a name"
            raise OperationIdError(f"instance {self.instance_id!r}: the branch {name!r} {problem}")
        self._used.add(prefix)
        branch = Branch(prefix, trio.lowlevel.current_task(), f"{self.instance_id}/{prefix}")
        token = current_branch.set(branch)
        try:
            yield
        finally:
            current_branch.reset(token)

    def _in_child_task(self, what: str, or_else: str) -> OperationIdError:
        return OperationIdError(
            f"instance {self.instance_id!r}: {what} in a child task, whose turn among its siblings can differ on "
            f"replay; put the task's code inside `with ctx.branch('name'):`, or avoid the automatic order {or_else}"
        )

    # -- operations in flight --------------------------------------------------------------------------------------

    def add(self, operation: Operation) -> None:
        """An operation begins. If a task awaits it, that is the current one."""
        self.in_flight[operation.id] = operation
        if self._added is not None:
            self._added.set()
        if operation.task is not None:
            operation.nurseries = len(operation.task.child_nurseries)

    async def added(self) -> None:
        """Wait for the next operation to begin."""
        self._added = trio.Event()
        await self._added.wait()
        self._added = None

    def remove(self, operation: Operation) -> None:
        """An operation has ended, or is given up."""
        operation.is_in_flight = False
        del self.in_flight[operation.id]

    def is_alone(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task is the only one of the workflow."""
        return task is self.main and not task.child_nurseries

    def is_settled(self) -> bool:
        """Whether no task of the workflow can go on by itself: each waits for an operation or for another task."""
        for task, operation in self._tasks():
            if (operation is None or not operation.is_executing) and is_runnable(task):
                return False
        return True

    def waits_outside(self) -> bool:
        """Whether some task waits for something that is no operation, and no child task of its own."""
        return any(operation is None and not task.child_nurseries for task, operation in self._tasks())

    def _tasks(self) -> Iterator[tuple[trio.lowlevel.Task, Operation | None]]:
        """All tasks of the workflow function, each with the operation that it awaits."""
        if self.main is None:
            return
        awaiting = {operation.task: operation for operation in self.in_flight.values()}
        tasks = [self.main]
        while tasks:
            task = tasks.pop()
            operation = awaiting.get(task)
            yield task, operation
            nurseries = task.child_nurseries
            for nursery in nurseries if operation is None else nurseries[: operation.nurseries]:
                tasks.extend(nursery.child_tasks)

    # -- the journal -----------------------------------------------------------------------------------------------

    def next_record(self) -> JournalEntry | None:
        """What the journal tells next; None if it is used up."""
        return self._untold[0] if self._untold else None

    def take(self, id: str, kinds: frozenset[Kind]) -> JournalEntry | None:
        """The next record, if it is the outcome of this operation."""
        record = self.next_record()
        if record is None or record.operation_id != id or record.kind not in kinds:
            return None
        self._advance(record)
        return record

    def _advance(self, record: JournalEntry) -> None:
        assert self._untold
        self._untold.popleft()
        self.taken += 1
        self.now = record.recorded_at

    def tell_next(self) -> None:
        """Tell the workflow the next record, which must be the outcome of an operation in flight.

        Raises:
          NonDeterminismError: if the code has not asked for it.
        """
        record = self.next_record()
        assert record is not None
        operation = self.asked_for(record)
        if operation is None:
            raise self.mismatch()
        self._advance(record)
        operation.tell(record)

    @property
    def was_cancelled(self) -> bool:
        """Whether the journal holds a cancel request that the workflow has not been told of yet."""
        return self._untold is not None and any(record.kind is Kind.CANCEL_REQUESTED for record in self._untold)

    def go_live(self) -> None:
        """The journal is used up: from now on operations are carried out."""
        self.is_live = True
        for operation in self.in_flight.values():
            operation.stir()

    def asked_for(self, record: JournalEntry) -> Operation | None:
        """The operation in flight whose outcome this is."""
        operation = self.in_flight.get(record.operation_id)
        return operation if operation is not None and record.kind in operation.kinds else None

    def mismatch(self) -> NonDeterminismError:
        """The journal holds something that the code does not ask for. Shows both sides."""
        record = self.next_record()
        assert record is not None
        asks = [f"{operation.what} {operation.id!r}" for operation in self.in_flight.values() if operation.task]
        code = f"asks for {', '.join(asks)}" if asks else "has ended or asks for nothing"
        return NonDeterminismError(
            f"instance {self.instance_id!r}: the journal goes on with {record.kind} of {record.operation_id!r} "
            f"(entry {record.seq}), but the workflow code {code}; deploy code that fits the journal, then resume it"
        )

    def mismatch_of(self, operation_id: str, journal_says: str, code: str) -> NonDeterminismError:
        """The journal says something of an operation that cannot be in the code as it is."""
        return NonDeterminismError(
            f"instance {self.instance_id!r}: the journal says that {operation_id!r} {journal_says}, but the workflow "
            f"code {code}; deploy code that fits the journal, then resume it"
        )
