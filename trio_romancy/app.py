"""``App``: opens and closes everything, and is the client of the database."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

import trio
import trio_asyncio
from attrs import frozen
from sqlalchemy.exc import DBAPIError

from .clock import Clock, Duration, current_clock, microseconds, seconds
from .context import ActivityContext, current_execution
from .define import Workflow, find_workflow, workflow_names
from .errors import (
    DatabaseError,
    InstanceNotFoundError,
    InvalidInputError,
    PayloadTooLargeError,
    Problem,
    RomancyError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowStuckError,
)
from .handle import WorkflowHandle
from .ids import checked_id, is_id, new_id
from .model import Entry, ErrorInfo, Instance, Status
from .retry import RetryPolicy
from .runtime.actor import Settings
from .runtime.supervisor import Ending
from .runtime.worker import Limits, Worker, WorkerStatistics
from .serialization import loads
from .storage import instances, migrations
from .storage.database import POOL_SIZE, Database, SQLFunction, open_database, shown_url
from .storage.patience import patiently, patiently_for

P = ParamSpec("P")
R = TypeVar("R")

_FIRST_LOOK = 0.02
_LONGEST_LOOK = 1.0
"""Seconds between two looks at an instance that another process may run."""


@frozen
class AppStatistics:
    """What an app is doing."""

    worker: WorkerStatistics | None
    """None for a client, and while the worker holds no lease."""


class App:
    """Durable workflows in one database: runs them, and is their client. Used as ``async with App(...) as app``.

    Args:
      database: a file name, ``":memory:"``, ``sqlite:///file``, or the URL of a server: ``mysql://``, ``mariadb://``,
        ``postgres://`` or ``postgresql://``, with user, password, host and database.
      worker_id: the name of this worker, unique among those alive on the database. A process that starts under the id
        of one that died takes its instances over at once. By default a name made of host, process and chance; its
        instances are taken over by the next process on the same machine, or by any worker after the lease.
      worker: False makes a client that starts, awaits and cancels instances, and runs none.
      retry: the retry policy of activities that have none, by default :meth:`RetryPolicy.default`.
      lease: seconds (or a timedelta) that a worker may be silent before others take its instances over.
      idle_timeout: seconds (or a timedelta) that an instance must have waited before it is dropped from memory.
      max_running: the most instances in memory that do not just wait. More are stored, and taken up in turn.
      max_resident: the most instances in memory.
      pool_size: the most connections to a database server, at least 2; the journal has one more of its own. One of
        them is kept free of the sessions of activities.
      max_payload: the most bytes that one input, result or message may have as JSON.
      max_recoveries: the most deaths of its worker that an instance may outlive without making progress in between.
        One more, and it is parked as stuck: it probably takes the process down.
      start_timeout: seconds (or a timedelta) that the database may be away when the block is entered. Later on there is
        no limit to that.
      shutdown_timeout: seconds (or a timedelta) that running activities are given to finish when the block ends.
      auto_migrate: whether to create or upgrade the tables. If not, they must be there.

    When the block ends, also by an exception or a cancellation, running activities may finish and are recorded; then
    everything is given back to the database, for the next worker.

    Raises:
      DatabaseError: on entering, if the database cannot be used.
    """

    def __init__(
        self,
        database: str = "romancy.db",
        *,
        worker_id: str | None = None,
        worker: bool = True,
        retry: RetryPolicy | None = None,
        lease: Duration = 10.0,
        idle_timeout: Duration = 10.0,
        max_running: int = 1_000,
        max_resident: int = 10_000,
        pool_size: int = POOL_SIZE,
        max_payload: int = 4 * 1024 * 1024,
        max_recoveries: int = 3,
        start_timeout: Duration = 30.0,
        shutdown_timeout: Duration = 30.0,
        auto_migrate: bool = True,
    ) -> None:
        if worker_id is not None:
            checked_id(worker_id, "a worker id")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry is a RetryPolicy, not {retry!r}")
        _check_numbers(max_running=max_running, max_resident=max_resident, max_payload=max_payload)
        _check_numbers(least=0, max_recoveries=max_recoveries)
        _check_numbers(least=2, pool_size=pool_size)
        self._url = database
        self._shown = shown_url(database)
        self._pool_size = pool_size
        self._worker_id = worker_id or f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._runs_workflows = worker
        self._auto_migrate = auto_migrate
        self._settings = Settings(
            retry=retry or RetryPolicy.default(),
            max_payload=max_payload,
            idle_timeout=_checked_duration("idle_timeout", idle_timeout, least=0),
            lease_time=_checked_duration("lease", lease, least=1),
        )
        self._start_patience = _checked_duration("start_timeout", start_timeout, least=0) / 1_000_000
        shutdown_time = _checked_duration("shutdown_timeout", shutdown_timeout, least=1)
        self._limits = Limits(max_running, max_resident, max_recoveries, shutdown_time / 1_000_000)
        self._running: _Running | None = None
        self._block: AbstractAsyncContextManager[_Running] | None = None

    @property
    def worker_id(self) -> str:
        """The name of this worker."""
        return self._worker_id

    async def __aenter__(self) -> App:
        if self._block is not None:
            raise RomancyError("this app has been used; make a new App for each block")
        self._block = self._open()
        try:
            self._running = await self._block.__aenter__()
        except (BaseExceptionGroup, DBAPIError) as error:
            first, *others = _leaves(error)
            if isinstance(first, DBAPIError):
                raise DatabaseError(f"{self._shown} cannot be used: {first.orig}") from first
            if others:
                raise
            raise first from first.__cause__  # without the nurseries that it came through
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None
        try:
            return await self._block.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as group:
            # The nurseries inside are no business of the caller, whose own exception comes out as it went in.
            if exc is not None and all(leaf is exc for leaf in _leaves(group)):
                return False
            raise

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[_Running]:
        clock = current_clock()
        async with _asyncio_loop(), self._open_database() as database:
            await _prepare(database, self._start_patience, migrate=self._auto_migrate)
            if not self._runs_workflows:
                try:
                    yield _Running(database, clock, None)
                finally:
                    self._running = None
                return
            worker = Worker(database, clock, self._worker_id, self._settings, self._limits)
            async with trio.open_nursery() as nursery:
                # The worker outlives a cancellation of the block, for as long as it may take to stop in order.
                shield = trio.CancelScope(shield=True)
                await nursery.start(_run_shielded, shield, worker)
                try:
                    yield _Running(database, clock, worker)
                finally:
                    self._running = None
                    worker.stop()

    def _open_database(self) -> AbstractAsyncContextManager[Database]:
        return open_database(self._url, pool_size=self._pool_size)

    def _now_running(self) -> _Running:
        if self._running is None:
            raise RomancyError("the app is not running: use it inside `async with App(...) as app:`")
        return self._running

    # -- starting and awaiting -------------------------------------------------------------------------------------

    @overload
    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str, input: Any, /, *, id: str | None = None) -> WorkflowHandle[Any]: ...
    async def start(self, workflow: Workflow[..., Any] | str, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance. It is durable once this returns: a crash from here on does not lose it.

        If the call is cancelled the instance may or may not have been stored; with an id of your own
        (``workflow.options(id=...)``) it is safe to start it again.

        Args:
          workflow: the workflow; or its name, and then the input as plain JSON data, and ``id=...`` if it shall have
            an id of its own.
          args, kwargs: what the workflow takes after its context.

        Raises:
          InvalidInputError: naming every bad field. Nothing is stored.
          PayloadTooLargeError: if the input is larger than ``max_payload``. Nothing is stored.
          InstanceExistsError: if the id is taken by another workflow or input. With the same, it is the same
            instance, and its handle is returned.
        """
        running = self._now_running()
        if isinstance(workflow, str):
            if len(args) != 1 or kwargs.keys() - {"id"}:
                raise TypeError(
                    "by name, a workflow is started with app.start(name, input) or app.start(name, input, id=...)"
                )
            workflow, text, arguments = _find(workflow, *args, **kwargs)
        elif not isinstance(workflow, Workflow):
            raise TypeError(f"app.start takes a workflow made with @workflow, or its name, not {workflow!r}")
        else:
            text, arguments = workflow.encode_input(args, kwargs)
        if len(text) > self._settings.max_payload:
            raise PayloadTooLargeError(
                f"the input of workflow {workflow.name!r} is {len(text)} bytes of JSON, and max_payload is "
                f"{self._settings.max_payload}; store it elsewhere and pass a reference"
            )
        running.refuse_in_open_session("start an instance")
        instance_id = workflow.id or new_id()
        ending = running.ending(instance_id)
        if running.worker is not None:
            id_is_new = workflow.id is None
            await running.worker.start(instance_id, workflow.name, text, arguments, id_is_new=id_is_new)
        else:
            await running.start_elsewhere(instance_id, workflow.name, text)
        return WorkflowHandle(instance_id, self, workflow, ending)

    def handle(self, instance_id: str) -> WorkflowHandle[Any]:
        """The handle of an instance that was started before, in this process or another."""
        return WorkflowHandle(instance_id, self, None, None)

    async def _result(
        self,
        instance_id: str,
        workflow: Workflow[..., Any] | None,
        ending: Ending | None,
        timeout: Duration | None,
    ) -> Any:
        running = self._now_running()
        running.refuse_in_open_session("await an instance")
        _refuse_what_is_no_id(instance_id)
        if ending is None or ending.status is Status.STUCK:
            ending = running.ending(instance_id)
        if timeout is None:
            return _unpack(instance_id, workflow, *await running.wait(instance_id, ending))
        with trio.fail_after(seconds(timeout)):
            return _unpack(instance_id, workflow, *await running.wait(instance_id, ending))

    # -- looking ---------------------------------------------------------------------------------------------------

    async def get_instance(self, instance_id: str) -> Instance | None:
        """The instance as the database shows it now; None if there is none."""
        running = self._now_running()
        return await running.read(instances.get_instance, instance_id) if is_id(instance_id) else None

    async def history(self, instance_id: str) -> list[Entry]:
        """The journal of an instance, in order.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        running = self._now_running()
        _refuse_what_is_no_id(instance_id)
        entries = await running.read(instances.load_history, instance_id)
        if not entries and await running.read(instances.get_instance, instance_id) is None:
            raise InstanceNotFoundError(instance_id)
        return entries

    def statistics(self) -> AppStatistics:
        """Numbers about this app."""
        worker = self._now_running().worker
        return AppStatistics(None if worker is None else worker.statistics())

    # -- steering --------------------------------------------------------------------------------------------------

    async def cancel(self, instance_id: str, reason: str | None = None) -> bool:
        """Ask for an instance's cancellation. The request is durable once this returns.

        The workflow function is cancelled, activities that run go on to their outcome, and everything that completed
        is compensated. The instance never runs forward again.

        Returns:
          Whether the instance will end as cancelled (or has). False if its workflow function had ended before, which
          then counts.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        running = self._now_running()
        running.refuse_in_open_session("cancel an instance")
        _refuse_what_is_no_id(instance_id)
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"the reason of a cancellation is text, not {reason!r}")
        answer = await running.write(instances.request_cancel, instance_id, reason, running.clock.now())
        if answer is None:
            raise InstanceNotFoundError(instance_id)
        return answer.accepted

    async def resume(self, instance_id: str) -> bool:
        """Set a stuck instance going again, or try again the compensations that failed for good.

        Returns:
          Whether there was something to resume.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        running = self._now_running()
        running.refuse_in_open_session("resume an instance")
        _refuse_what_is_no_id(instance_id)
        resumed = await running.write(instances.resume, instance_id, running.clock.now())
        if resumed is None:
            raise InstanceNotFoundError(instance_id)
        return resumed


@frozen(eq=False)
class _Running:
    """An app inside its block."""

    database: Database
    clock: Clock
    worker: Worker | None

    def ending(self, instance_id: str) -> Ending:
        return self.worker.ending(instance_id) if self.worker is not None else Ending()

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await patiently(self.database, lambda: self.database.read(fn, *args, **kwargs))

    async def write(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Write, and let the worker look at what has become due."""
        answer = await patiently(self.database, lambda: self.database.run(fn, *args, **kwargs))
        if self.worker is not None:
            self.worker.nudge()
        return answer

    async def start_elsewhere(self, instance_id: str, workflow: str, text: str) -> None:
        row = instances.new_row(instance_id, workflow, text, self.clock.now(), owner=None)
        await self.write(instances.start_instance, row)

    async def wait(self, instance_id: str, ending: Ending) -> tuple[Status, str | None, ErrorInfo | None]:
        """Wait until the instance has ended here, or is seen to have ended somewhere else."""
        interval = _FIRST_LOOK
        while ending.status is None:
            if self.worker is not None and self.worker.is_resident(instance_id):
                await ending.changed()
                continue
            found = await self.read(instances.get_ending, instance_id)
            if found is None:
                raise InstanceNotFoundError(instance_id)
            if ending.status is None and (found[0].is_final or found[0] is Status.STUCK):
                return found
            if self.worker is not None and self.worker.is_resident(instance_id):
                continue
            with trio.CancelScope() as scope:
                if not self.database.is_exclusive or self.worker is None:
                    scope.deadline = trio.current_time() + interval
                await ending.changed()
            interval = min(interval * 2, _LONGEST_LOOK)
        return ending.status, ending.output, ending.error

    def refuse_in_open_session(self, what: str) -> None:
        """It would wait for the transaction of the very activity that asks."""
        activity = current_execution.get()
        if not isinstance(activity, ActivityContext) or not self.database.has_one_writer:
            return
        if activity.used_session is not None and activity.used_session.is_open:
            raise RomancyError(
                f"instance {activity.instance_id!r}: activity {activity.activity_id!r} cannot {what} while its session "
                f"is open, because {self.database.name} has one writer; do it before the first statement, or in "
                f"another activity"
            )


def _refuse_what_is_no_id(instance_id: str) -> None:
    """What could not be stored is not there; and some databases would not even be asked for it."""
    if not is_id(instance_id):
        raise InstanceNotFoundError(instance_id)


def _leaves(group: BaseException) -> list[BaseException]:
    if not isinstance(group, BaseExceptionGroup):
        return [group]
    return [leaf for part in group.exceptions for leaf in _leaves(part)]


@asynccontextmanager
async def _asyncio_loop() -> AsyncIterator[None]:
    """A trio-asyncio loop, so that activities can call asyncio libraries; the one that runs, if one does."""
    if trio_asyncio.current_loop.get() is not None:
        yield
    else:
        async with trio_asyncio.open_loop():
            yield


async def _run_shielded(scope: trio.CancelScope, worker: Worker, task_status: trio.TaskStatus[None]) -> None:
    with scope:
        await worker.run(task_status=task_status)


async def _prepare(database: Database, patience: float, *, migrate: bool) -> None:
    await patiently_for(patience, database, database.run, migrations.migrate if migrate else migrations.check)


def _find(name: str, input: Any, *, id: str | None = None) -> tuple[Workflow[..., Any], str, list[Any]]:
    workflow = find_workflow(name)
    if workflow is None:
        known = ", ".join(sorted(workflow_names())) or "none"
        raise InvalidInputError(
            f"workflow {name!r} cannot be started",
            [Problem("$", f"no workflow of that name is defined in this process (defined: {known})")],
        )
    return workflow if id is None else workflow.options(id=id), *workflow.check_input(input)


def _unpack(
    instance_id: str, workflow: Workflow[..., Any] | None, status: Status, output: str | None, error: ErrorInfo | None
) -> Any:
    if status is Status.COMPLETED:
        value = loads(output or "null")
        return value if workflow is None else workflow.codec.decode(value)
    assert error is not None
    if status is Status.STUCK:
        raise WorkflowStuckError(instance_id, error.error_type, error.message)
    if status is Status.CANCELLED:
        raise WorkflowCancelledError(instance_id, error.message or None, error.uncompensated)
    raise WorkflowFailedError(instance_id, error.error_type, error.message, error.traceback, error.uncompensated)


def _checked_duration(name: str, value: Duration, *, least: int) -> int:
    """A duration in microseconds."""
    try:
        duration = microseconds(value)
    except (TypeError, ValueError):
        duration = -1
    if duration < least:
        than = "longer than" if least else "at least"
        raise ValueError(f"{name} is a number of seconds (or a timedelta) {than} zero, not {value!r}")
    return duration


def _check_numbers(*, least: int = 1, **numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < least:
            raise ValueError(f"{name} is a whole number, at least {least}, not {number!r}")
