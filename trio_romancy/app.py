"""``App``: opens and closes everything, and is the client of the database."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

import trio
import trio_asyncio
from attrs import frozen
from sqlalchemy.exc import DBAPIError

from . import finding, purging
from .clock import Clock, Duration, current_clock, from_datetime
from .conditions import GivenPath, Where, checked_where
from .define import Workflow, find_workflow, workflow_names
from .errors import (
    DatabaseError,
    InstanceNotFoundError,
    InvalidInputError,
    PayloadTooLargeError,
    Problem,
    RomancyError,
)
from .handle import WorkflowHandle
from .hooks import Hooks
from .ids import checked_id, is_id, new_id
from .model import Entry, ErrorInfo, Instance, Page, Sent, Status, WorkerInfo
from .options import as_statuses, check_numbers, checked_duration, checked_token
from .outbox import Outbox
from .retry import RetryPolicy
from .running import Running
from .runtime.broker import ContentMode, require_web
from .runtime.home import Settings
from .runtime.observers import checked_hooks
from .runtime.relay import Relay, RelaySettings, RelayStatistics
from .runtime.supervisor import Ending
from .runtime.timekeeper import keep_time
from .runtime.worker import Limits, Worker, WorkerStatistics
from .sending import DEFAULT_SOURCE, event_row, message_row
from .storage import instances, migrations, retrying, search, workers
from .storage.database import POOL_SIZE, Database, open_database
from .storage.messages import Outgoing
from .storage.patience import patiently_for
from .storage.urls import shown_url

P = ParamSpec("P")
R = TypeVar("R")

_ROOM_IN_BODY = 64 * 1024
"""Bytes of a request's body beside the data of an event."""

ASGIApplication = Callable[[Any, Any, Any], Awaitable[None]]
"""What an ASGI server serves."""


@frozen
class AppStatistics:
    """What an app is doing."""

    worker: WorkerStatistics | None
    """None for a client, and while the worker holds no lease."""
    relay: RelayStatistics | None
    """What has become of the events in the outbox; None without a worker that has a ``broker_url``."""


class App:
    """Durable workflows in one database: runs them, and is their client. Used as ``async with App(...) as app``.

    Args:
      database: a file name, ``":memory:"``, ``sqlite:///file``, or the URL of a server: ``mysql://``, ``mariadb://``,
        ``postgres://`` or ``postgresql://``, with user, password, host and database. Where there are several hosts, as
        in ``mysql://user@one:3306,two:3306/database``, the first is used that can be; when it fails, the next.
      worker_id: the name of this worker, unique among those alive on the database. A process that starts under the id
        of one that died takes its instances over at once. By default a name made of host, process and chance; its
        instances are taken over by the next process on the same machine, or by any worker after the lease.
      worker: False makes a client that starts, awaits and cancels instances, and runs none.
      retry: the retry policy of activities that have none, by default :meth:`RetryPolicy.default`.
      lease: seconds (or a timedelta) that a worker may be silent before others take its instances over.
      idle_timeout: seconds (or a timedelta) that an instance must have waited before it is dropped from memory.
      max_running: the most instances in memory that do not just wait. More are stored, and taken up in turn.
      max_resident: the most instances in memory.
      pool_size: the most connections to a database server, at least 2. One of them is kept free of the sessions of
        activities. The journal has one more of its own, and on PostgreSQL another one listens.
      max_payload: the most bytes that one input, result or message may have as JSON.
      max_recoveries: the most deaths of its worker that an instance may outlive without making progress in between.
        One more, and it is parked as stuck: it probably takes the process down.
      code_version: what code this process runs, such as a commit or a release. An instance whose journal does not fit
        the code of one version is left to workers that run another. By default it is made from the code of all
        workflow functions that are defined in this process; functions that they call do not count in that.
      start_timeout: seconds (or a timedelta) that the database may be away when the block is entered. Later on there is
        no limit to that.
      shutdown_timeout: seconds (or a timedelta) that running activities are given to finish when the block ends.
      message_retention: seconds (or a timedelta) for which events and messages are kept, and for which an event that
        comes a second time is recognised.
      auto_migrate: whether to create or upgrade the tables. If not, they must be there.
      broker_url: the URL that the worker posts the events of the :attr:`outbox` to, with ``user:password@`` if the
        broker wants basic authentication. Without one they stay there. It needs the extra ``trio_romancy[web]``.
      broker_headers: headers that are sent with each event, such as ``Authorization``.
      broker_content_mode: ``"structured"`` posts an event as one JSON object, ``"binary"`` its data only, and the rest
        of it as headers.
      outbox_max_attempts: the most times that an event is posted before it has failed; 0 is without end.
      outbox_max_age: seconds (or a timedelta) after which an event that could not be posted has expired.
      web_token: what clients of :attr:`asgi` must present, as ``Authorization: Bearer ...``, for all but its health.
        Without one it takes events from everybody, and cancels nothing.
      web_body_limit: the most bytes in the body of a request to it, by default ``max_payload`` and some room.
      web_timeout: seconds (or a timedelta) that the database may be away before its clients are told to try again.
      hooks: who is told what happens, see :class:`Hooks`.

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
        code_version: str | None = None,
        start_timeout: Duration = 30.0,
        shutdown_timeout: Duration = 30.0,
        message_retention: Duration = 24 * 3600.0,
        auto_migrate: bool = True,
        broker_url: str | None = None,
        broker_headers: Mapping[str, str] | None = None,
        broker_content_mode: ContentMode = "structured",
        outbox_max_attempts: int = 100,
        outbox_max_age: Duration | None = None,
        web_token: str | None = None,
        web_body_limit: int | None = None,
        web_timeout: Duration = 5.0,
        hooks: Sequence[Hooks] = (),
    ) -> None:
        if worker_id is not None:
            checked_id(worker_id, "a worker id")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry is a RetryPolicy, not {retry!r}")
        check_numbers(max_running=max_running, max_resident=max_resident, max_payload=max_payload)
        check_numbers(least=0, max_recoveries=max_recoveries)
        check_numbers(least=2, pool_size=pool_size)
        self._url = database
        self._shown = shown_url(database)
        self._pool_size = pool_size
        self._worker_id = worker_id or f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._runs_workflows = worker
        self._auto_migrate = auto_migrate
        self._settings = Settings(
            retry=retry or RetryPolicy.default(),
            max_payload=max_payload,
            idle_timeout=checked_duration("idle_timeout", idle_timeout, least=0),
            lease_time=checked_duration("lease", lease, least=1),
            code_version=None if code_version is None else checked_id(code_version, "a code version"),
        )
        self._start_patience = checked_duration("start_timeout", start_timeout, least=0) / 1_000_000
        self._keep_messages = checked_duration("message_retention", message_retention, least=1)
        shutdown_time = checked_duration("shutdown_timeout", shutdown_timeout, least=1)
        self._limits = Limits(max_running, max_resident, max_recoveries, shutdown_time / 1_000_000)
        check_numbers(least=0, outbox_max_attempts=outbox_max_attempts)
        if outbox_max_age is not None:
            outbox_max_age = checked_duration("outbox_max_age", outbox_max_age, least=1) / 1_000_000
        self._relay_settings: RelaySettings | None = None
        if broker_url is not None:
            self._relay_settings = RelaySettings(
                broker_url=broker_url,
                headers=broker_headers or {},
                content_mode=broker_content_mode,
                max_attempts=outbox_max_attempts,
                max_age=outbox_max_age,
            )
            require_web()
        if web_body_limit is not None:
            check_numbers(web_body_limit=web_body_limit)
        self._web_body_limit = max_payload + _ROOM_IN_BODY if web_body_limit is None else web_body_limit
        self._web_timeout = checked_duration("web_timeout", web_timeout, least=1) / 1_000_000
        self._web_token = None if web_token is None else checked_token(web_token)
        self._asgi: ASGIApplication | None = None
        self._observers = checked_hooks(hooks)
        self._running: Running | None = None
        self._worker: Worker | None = None
        self._block: AbstractAsyncContextManager[Running] | None = None

    @property
    def worker_id(self) -> str:
        """The name of this worker."""
        return self._worker_id

    @property
    def runs_workflows(self) -> bool:
        """Whether it is a worker; otherwise it is a client only."""
        return self._runs_workflows

    @property
    def asgi(self) -> ASGIApplication:
        """This app over HTTP, for an ASGI server that runs on trio: CloudEvents, health, and cancelling.

        It is the same object each time, and answers 503 outside of the app's block. It needs the extra
        ``trio_romancy[web]``.

        Raises:
          RomancyError: if that is not installed.
        """
        if self._asgi is None:
            try:
                from .web.application import make_application
            except ModuleNotFoundError as error:
                raise RomancyError(f"{error.name} is missing: pip install 'trio_romancy[web]'") from error
            self._asgi = make_application(
                self,
                token=self._web_token,
                body_limit=self._web_body_limit,
                max_payload=self._settings.max_payload,
                seconds=self._web_timeout,
                runs_workflows=self._runs_workflows,
            )
        return self._asgi

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
    async def _open(self) -> AsyncIterator[Running]:
        clock = current_clock()
        async with _asyncio_loop(), self._open_database() as database, AsyncExitStack() as exits:
            await _prepare(database, self._start_patience, migrate=self._auto_migrate)
            if self._observers is not None:
                self._observers.tell(Hooks.app_opened, self)
                exits.callback(self._observers.tell, Hooks.app_closed, self)
            worker = self._worker = self._make_worker(database, clock) if self._runs_workflows else None
            async with trio.open_nursery() as nursery:
                timekeeping, working = trio.CancelScope(), trio.CancelScope()
                await nursery.start(_run_in, timekeeping, keep_time, database, clock)
                if worker is not None:
                    await nursery.start(_run_in, working, worker.run, self._start_patience)
                # The worker outlives a cancellation of the block, for as long as it may take to stop in order.
                working.shield = True
                try:
                    yield Running(database, clock, worker, self._observers)
                finally:
                    self._running = None
                    timekeeping.cancel()
                    if worker is not None:
                        worker.stop()

    def _make_worker(self, database: Database, clock: Clock) -> Worker:
        relay = None
        if self._relay_settings is not None:
            relay = Relay(database, clock, self._worker_id, self._relay_settings)
        return Worker(
            database,
            clock,
            self._worker_id,
            self._settings,
            self._limits,
            self._keep_messages,
            relay,
            self._observers,
        )

    def _open_database(self) -> AbstractAsyncContextManager[Database]:
        return open_database(self._url, pool_size=self._pool_size)

    def _now_running(self) -> Running:
        if self._running is None:
            raise RomancyError("the app is not running: use it inside `async with App(...) as app:`")
        return self._running

    def hurry(self) -> None:
        """Do not wait any longer for running activities, if the block is ending: hand over what is left as it is.

        What an activity has done and not recorded is done again by whoever takes its instance over.
        """
        if self._worker is not None:
            self._worker.hurry()

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
        trace = None if running.observers is None else running.observers.trace_context(workflow.name, instance_id)
        if running.worker is not None:
            id_is_new = workflow.id is None
            await running.worker.start(instance_id, workflow.name, text, arguments, id_is_new=id_is_new, trace=trace)
        else:
            await running.start_elsewhere(instance_id, workflow.name, text, trace)
        return WorkflowHandle(instance_id, self, workflow, ending)

    def handle(self, instance_id: str) -> WorkflowHandle[Any]:
        """The handle of an instance that was started before, in this process or another."""
        return WorkflowHandle(instance_id, self, None, None)

    def _end_of(
        self, instance_id: str, ending: Ending | None
    ) -> Coroutine[Any, Any, tuple[Status, str | None, ErrorInfo | None]]:
        """Wait until the instance has ended: for :meth:`WorkflowHandle.result`."""
        running = self._now_running()
        running.refuse_in_open_session("await an instance")
        if ending is None or ending.status in (Status.STUCK, Status.FAILED):  # unless it goes on since then
            _refuse_what_is_no_id(instance_id)
            ending = running.ending(instance_id)
        return running.wait(instance_id, ending)

    # -- sending ---------------------------------------------------------------------------------------------------

    async def send_event(
        self,
        type: str,
        data: Any = None,
        *,
        source: str = DEFAULT_SOURCE,
        id: str | None = None,
        subject: str | None = None,
        to: str | None = None,
        time: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sent:
        """Send an event to every instance that waits for its type, or will. It is durable once this returns.

        It reaches each instance that was started before, whenever that comes to wait for it; see
        :meth:`WorkflowContext.wait_event`. It is kept for the app's ``message_retention``.

        If the call is cancelled the event may or may not have been stored; with an ``id`` of your own it is safe to
        send it again.

        Args:
          type: what has happened.
          data: plain JSON data, or a value of a type that can be stored.
          source: who says so.
          id: of the event; one of the same source and id is accepted only once. By default a new one.
          subject: what it has happened to.
          to: the one instance that it is for, in vain if that has ended; None: every one that waits for it.
          time: when it has happened, as an aware datetime; None: now.
          metadata: plain JSON data that go with it, for those who receive it as a :class:`Message`.

        Raises:
          InvalidInputError: naming everything that is wrong with it. Nothing is stored.
          PayloadTooLargeError: if it is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        running = self._now_running()
        row = event_row(
            type,
            data,
            source=source,
            id=new_id() if id is None else id,
            subject=subject,
            to=to,
            time=time,
            metadata=metadata,
            now=running.clock.now(),
            max_payload=self._settings.max_payload,
        )
        running.refuse_in_open_session("send an event")
        return await running.send(Outgoing(row, is_new=id is None, must_exist=True))

    async def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, to: str | None = None
    ) -> Sent:
        """Publish a message to a channel. It is durable once this returns, and kept for ``message_retention``.

        If the call is cancelled the message may or may not have been stored.

        Args:
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that go with it.
          to: the one instance that it is for, as with :meth:`WorkflowContext.send_to`; None: whoever subscribes.

        Raises:
          InvalidInputError: naming everything that is wrong with it. Nothing is stored.
          PayloadTooLargeError: if it is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        running = self._now_running()
        row = message_row(
            channel,
            data,
            metadata=metadata,
            to=to,
            now=running.clock.now(),
            max_payload=self._settings.max_payload,
            id=new_id(),
        )
        running.refuse_in_open_session("publish a message")
        return await running.send(Outgoing(row, is_new=True, must_exist=True))

    # -- looking ---------------------------------------------------------------------------------------------------

    async def get_instance(self, instance_id: str) -> Instance | None:
        """The instance as the database shows it now; None if there is none."""
        running = self._now_running()
        return await running.read(instances.get_instance, instance_id) if is_id(instance_id) else None

    async def list_instances(
        self,
        *,
        workflow: str | None = None,
        status: Status | Collection[Status] | None = None,
        instance_id: str | None = None,
        parent: str | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        page_token: str | None = None,
    ) -> Page:
        """Instances of this and all other workers, the newest first. They match all that is given.

        While instances are being started, going on from page to page neither skips nor repeats one that was there.

        Args:
          workflow: a part of the workflow's name. Also workflows that this process does not know are found.
          status: a status, or several of which it has one.
          instance_id: a part of the instance id.
          parent: the id of the instance that started it as a child.
          created_from, created_before: aware datetimes between which it was started.
          limit: the most instances on the page.
          page_token: of the page before, with all else as it was there.

        Raises:
          InvalidInputError: if the page token is none.
          ValueError: if a datetime has no time zone, a status is none, or the limit is not positive.
        """
        running = self._now_running()
        check_numbers(limit=limit)
        sought = search.Sought(
            workflow=workflow,
            instance_id=instance_id,
            statuses=as_statuses(status),
            parent=parent,
            created_from=None if created_from is None else from_datetime(created_from),
            created_before=None if created_before is None else from_datetime(created_before),
        )
        return await finding.page(running, sought, limit, page_token)

    async def find_instances(
        self,
        where: Where,
        *,
        workflow: str | None = None,
        status: Status | Collection[Status] | None = None,
        limit: int = 100,
    ) -> list[Instance]:
        """The newest instances whose input holds certain values. They match all that is given.

        A path leads into the input as it is stored: ``"customer.id"``, ``"items.0.sku"``. A whole number addresses an
        element where there is an array, and a key where there is an object. Values are compared exactly: text with its
        case, numbers as numbers (1 equals 1.0, and is neither ``"1"`` nor true), null as a null that is there. Every
        database finds the same.

        What no index serves (see :meth:`index_input`) is looked for from instance to instance, in short transactions.
        If the call is cancelled, it ends after one of these.

        Args:
          where: values by path, or pairs of a path and a value. A key that has a dot in it, or is empty, is addressed
            by a path that is a tuple: ``("customer.id", "x")``.
          workflow, status: as in :meth:`list_instances`.
          limit: the most instances to find.

        Raises:
          InvalidInputError: naming each path that is none, and each value that is not text, a number, true, false or
            None.
          ValueError: if a status is none, or the limit is not positive.
        """
        running = self._now_running()
        check_numbers(limit=limit)
        sought = search.Sought(workflow=workflow, statuses=as_statuses(status), conditions=checked_where(where))
        return await finding.newest(running, sought, limit)

    async def index_input(self, path: GivenPath) -> bool:
        """Make :meth:`find_instances` fast for conditions on this path, if it is not already. The index stays.

        Several apps can call it at once, and others can run meanwhile; on SQLite they cannot write. Among a million
        instances it takes some ten seconds. If the call is cancelled or dies, the next one completes what it has begun.

        Args:
          path: as in :meth:`find_instances`.

        Returns:
          Whether there is an index now. False if this database cannot make one for the path.

        Raises:
          InvalidInputError: if the path is none.
          DatabaseError: if the database refuses, such as for want of a right.
        """
        running = self._now_running()
        running.refuse_in_open_session("make an index")
        return await finding.index_input(running, path)

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

    async def list_workers(self) -> list[WorkerInfo]:
        """The workers on this database, in the order of their ids.

        Those that are alive are among them, and dead ones whose lease nobody has ended yet.
        """
        running = self._now_running()
        return await running.read(workers.list_workers, running.clock.now())

    def statistics(self) -> AppStatistics:
        """Numbers about this app."""
        worker = self._now_running().worker
        if worker is None:
            return AppStatistics(None, None)
        return AppStatistics(worker.statistics(), None if worker.relay is None else worker.relay.statistics())

    @property
    def outbox(self) -> Outbox:
        """The events that activities have sent, on their way to the broker."""
        return Outbox(self)

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

        Of instances that recurred, the id of any means the last.

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

    async def retry(self, instance_id: str) -> bool:
        """Have a failed instance start again from its first failed operation.

        Of instances that recurred, the id of any means the last.

        What had succeeded is kept, also what succeeded beside or after that operation. A child that failed is retried
        with its parent. If no operation has failed, but the workflow's own code, that runs again.

        Returns:
          Whether it had failed.

        Raises:
          InstanceNotFoundError: if there is no such instance.
          RomancyError: if something was compensated, so that it cannot be kept; or if it is a child whose parent has
            not ended.
        """
        running = self._now_running()
        running.refuse_in_open_session("retry an instance")
        _refuse_what_is_no_id(instance_id)
        retried = await running.write(retrying.retry, instance_id, running.clock.now())
        if retried is None:
            raise InstanceNotFoundError(instance_id)
        return retried

    async def purge(
        self,
        *,
        older_than: Duration,
        status: Status | Collection[Status] | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> int:
        """Delete instances that have ended, with their journals. Events that they sent stay in the :attr:`outbox`.

        They are deleted some hundred at a time, each of them as a whole or not at all, and workers can run meanwhile. A
        child stays for as long as its parent has not ended, and so does the first instance of a chain that goes on. If
        the call is cancelled, what was deleted until then is.

        Args:
          older_than: seconds (or a timedelta) since they have ended.
          status: a status that ends an instance, or several; None: all of these.
          on_batch: is told after each transaction how many it has deleted.

        Returns:
          How many were deleted.

        Raises:
          ValueError: if an instance with the status has not ended, or the duration is negative.
        """
        running = self._now_running()
        running.refuse_in_open_session("purge instances")
        return await purging.purge(running, older_than, status, on_batch)


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


async def _run_in(
    scope: trio.CancelScope, fn: Callable[..., Awaitable[None]], *args: Any, task_status: trio.TaskStatus[None]
) -> None:
    with scope:
        await fn(*args, task_status=task_status)


async def _prepare(database: Database, patience: float, *, migrate: bool) -> None:
    if not migrate:
        await patiently_for(patience, database, database.read, migrations.check)
    elif not await patiently_for(patience, database, database.read, migrations.is_current):
        await patiently_for(patience, database, database.run_long, migrations.migrate)


def _find(name: str, input: Any, *, id: str | None = None) -> tuple[Workflow[..., Any], str, list[Any]]:
    workflow = find_workflow(name)
    if workflow is None:
        known = ", ".join(sorted(workflow_names())) or "none"
        raise InvalidInputError(
            f"workflow {name!r} cannot be started",
            [Problem("$", f"no workflow of that name is defined in this process (defined: {known})")],
        )
    return workflow if id is None else workflow.options(id=id), *workflow.check_input(input)
