"""``App``: checks the options, opens the engine and closes it."""

from __future__ import annotations

import math
import os
import platform
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, NoReturn

import trio
from attrs import frozen
from sqlalchemy.exc import DBAPIError

from ._client.client import Client
from ._client.engine import Engine
from ._client.forbidden_calls import refuse_in_workflow
from ._client.schedules import checked_schedules, declare
from ._client.wrong_place import current_run
from ._data.ids import checked_id
from ._definitions.schedule import Schedule
from ._earlier_options import takes_earlier_options
from ._exceptions import is_a, leaves
from ._observe.dispatcher import checked_hooks
from ._outbox.broker import require_web
from ._outbox.relay import Relay, RelayStatistics
from ._runtime.worker.clock_sync import keep_time
from ._runtime.worker.worker import Worker, WorkerStatistics
from ._settings import (
    LEAVE_WITHIN,
    Limits,
    OutboxSettings,
    RelaySettings,
    Settings,
    WebSettings,
    WorkerLimits,
    check_numbers,
    checked_duration,
    checked_group,
    checked_limit,
    checked_token,
    in_seconds,
)
from ._storage import migrations
from ._storage.database import Database
from ._storage.dialects import payload_problem
from ._storage.drivers.urls import shown_url
from ._storage.open import POOL_SIZE, open_database
from ._storage.outages import retry_while_away_for
from ._tasks.asyncio_loop import open_loop_of_program
from .clock import Clock, Duration, current_clock
from .errors import DatabaseError, RomancyError
from .hooks import Hooks
from .retry import RetryPolicy
from .web.lifespan import Lifespan

_ROOM_IN_BODY = 64 * 1024
"""Bytes that the body of a request may have beside the data of an event."""

ASGIApplication = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application, for an ASGI server."""


@frozen
class AppStatistics:
    """Numbers of an app."""

    worker: WorkerStatistics | None
    """Numbers of the worker; None: the app is a client, or its worker holds no lease now."""
    relay: RelayStatistics | None
    """Numbers of the relayer; None: the app is a client, or has no ``broker_url``."""


class App(Client):
    """Runs durable workflows in one database, and is their client. Used as ``async with App(...) as app``.

    Args:
      database: a file name, ``":memory:"``, ``sqlite:///file``, or the URL of a server: ``mysql://``, ``mariadb://``,
        ``postgres://`` or ``postgresql://``, with user, password, host and database. With several hosts, as in
        ``mysql://user@one:3306,two:3306/database``, the first usable host is used; when it fails, the next one.
      worker_id: name of this worker, unique among the live workers of the database. A process that starts under the id
        of a dead worker takes over its instances at once. By default the name consists of host, process and random
        digits; the instances are then taken over by the next process on the same machine, or by any worker after the
        lease.
      worker: False makes a client, which starts, awaits and cancels instances, and runs none.
      retry: retry policy of activities that have none, by default :meth:`RetryPolicy.default`.
      lease: seconds (or a timedelta) of silence after which other workers take over the instances of this one. While
        code holds the event loop, the lease is renewed for six times as long.
      idle_timeout: seconds (or a timedelta) that an instance must have waited before it leaves memory.
      max_running: most instances in memory that do not just wait, for messages, time, or other instances. Further ones
        are stored, and run in turn.
      max_resident: most instances in memory.
      pool_size: most connections to a database server, at least 2. One of them is kept free of the sessions of
        activities. The journal and the heartbeat have further ones of their own; on PostgreSQL another one listens.
      direct_url: URL of the same database of PostgreSQL past a pooler such as PgBouncer, which ``database`` leads to.
        Only notifications and :meth:`index_input` use it. Without it, a worker behind a pooler polls.
      schema: schema of PostgreSQL that the tables are in, so that several apps are side by side in one database. It is
        created with the tables. Other names in sessions of activities mean tables in it, too, or in ``public``.
      code_version: version of the code of this process, such as a commit or a release. An instance whose journal does
        not fit the code of one version is left to workers that run another. By default it is made of what this process
        defines: the code of workflow functions, without the functions that they call; the names of all definitions; and
        the types of the data that are stored.
      check_arguments: whether to record digests of the arguments of each activity and child, and to park an instance
        whose replay passes others. Each call takes some 10 microseconds longer. Arguments of an activity that has
        failed are always compared before the next attempt.
      start_timeout: seconds (or a timedelta) that the database may be away when the block is entered. After that there
        is no limit.
      shutdown_timeout: seconds (or a timedelta) that running activities have to finish when the block ends.
      message_retention: seconds (or a timedelta) that events and messages are kept. For the same time a second event of
        the same source and id is recognised.
      auto_migrate: whether to create or upgrade the tables. Otherwise they must exist.
      broker_url: URL that the worker posts the events of the :attr:`outbox` to, with ``user:password@`` for basic
        authentication. Without a URL the events stay in the outbox. Needs the extra ``trio_romancy[web]``.
      limits: most threads of plain ``def`` activities, the largest payload, and most deaths of workers that an instance
        may outlive, see :class:`Limits`.
      outbox: how events are posted to the broker, see :class:`OutboxSettings`.
      web: what clients of :attr:`asgi` must present and may send, see :class:`WebSettings`.
      schedules: schedules that this program declares, see :class:`Schedule`. Entering the block stores what has
        changed. Those of its workflows that were declared before, and are not any more, are paused. None: it declares
        none, and pauses none.
      hooks: hooks to call, see :class:`Hooks`.

    ``math.inf`` as a duration means that there is no limit. Only ``lease`` must have an end.

    At the end of the block, also by an exception or a cancellation, running activities may finish and are recorded.
    Then all instances are given back to the database, for the next worker.

    Raises:
      ValueError, TypeError: if an option is not valid.
      DatabaseError: on entering the block, if the database cannot be used.
    """

    @takes_earlier_options
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
        direct_url: str | None = None,
        schema: str | None = None,
        code_version: str | None = None,
        check_arguments: bool = False,
        start_timeout: Duration = 30.0,
        shutdown_timeout: Duration = 30.0,
        message_retention: Duration = 24 * 3600.0,
        auto_migrate: bool = True,
        broker_url: str | None = None,
        limits: Limits | None = None,
        outbox: OutboxSettings | None = None,
        web: WebSettings | None = None,
        schedules: Sequence[Schedule] | None = None,
        hooks: Sequence[Hooks] = (),
    ) -> None:
        if worker_id is not None:
            checked_id(worker_id, "a worker id")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry is a RetryPolicy, not {retry!r}")
        check_numbers(max_running=max_running, max_resident=max_resident)
        limits = checked_group("limits", limits, Limits)
        outbox = checked_group("outbox", outbox, OutboxSettings)
        self._web = checked_group("web", web, WebSettings)
        check_numbers(least=2, pool_size=pool_size)
        self._url = database
        self._shown = shown_url(database)
        self._pool_size = pool_size
        self._direct_url = direct_url
        self._schema = None if schema is None else checked_id(schema, "a schema")
        self._given_id = worker_id
        self._made_id = "", 0
        self._runs_workflows = worker
        self._auto_migrate = auto_migrate
        idle = checked_limit("idle_timeout", idle_timeout, least=0)
        self._settings = Settings(
            retry=retry or RetryPolicy.default(),
            max_payload=limits.max_payload,
            idle_timeout=math.inf if idle is None else idle,
            lease_time=checked_duration("lease", lease, least=1),
            code_version=None if code_version is None else checked_id(code_version, "a code version"),
            check_arguments=check_arguments,
        )
        self._start_patience = in_seconds(checked_limit("start_timeout", start_timeout, least=0))
        self._keep_messages = checked_limit("message_retention", message_retention, least=1)
        shutdown_time = in_seconds(checked_limit("shutdown_timeout", shutdown_timeout, least=1))
        self._limits = WorkerLimits(max_running, max_resident, limits.max_recoveries, shutdown_time, limits.threads)
        self._relay_settings: RelaySettings | None = None
        if broker_url is not None:
            self._relay_settings = RelaySettings(
                broker_url=broker_url,
                headers=outbox.headers,
                content_mode=outbox.content_mode,
                max_attempts=outbox.max_attempts,
                max_age=outbox.max_age,
            )
            require_web()
        self._declared = None if schedules is None else checked_schedules(schedules, limits.max_payload)
        self._asgi: ASGIApplication | None = None
        self._dispatcher = checked_hooks(hooks)
        self._engine: Engine | None = None
        self._worker: Worker | None = None
        self._block: AbstractAsyncContextManager[Engine] | None = None

    @property
    def worker_id(self) -> str:
        """Name of this worker. If none was given, each process that is forked has a name of its own."""
        if self._given_id is not None:
            return self._given_id
        name, made_in = self._made_id
        if made_in != os.getpid():
            name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
            self._made_id = name, os.getpid()
        return name

    @property
    def runs_workflows(self) -> bool:
        """Whether the app has a worker. Otherwise it is only a client."""
        return self._runs_workflows

    @property
    def asgi(self) -> ASGIApplication:
        """This app over HTTP, for an ASGI server that runs on trio: CloudEvents, health, and cancelling.

        It is always the same object, and answers 503 outside of the app's block. Needs the extra ``trio_romancy[web]``.

        Raises:
          RomancyError: if the extra is not installed.
        """
        if self._asgi is None:
            try:
                from .web.application import make_application
                from .web.body import BodyLimits
            except ModuleNotFoundError as error:
                raise RomancyError(f"{error.name} is missing: pip install 'trio_romancy[web]'") from error
            body_limit = self._web.body_limit or self._settings.max_payload + _ROOM_IN_BODY
            self._asgi = make_application(
                self,
                token=None if self._web.token is None else checked_token(self._web.token),
                body_limits=BodyLimits(body_limit, self._web.body_timeout),
                max_payload=self._settings.max_payload,
                seconds=self._web.timeout,
                webhook_origins=self._web.webhook_origins,
                may_work=self._may_work,
            )
        return self._asgi

    def lifespan(self, application: object) -> AbstractAsyncContextManager[None]:
        """Open the app for as long as a web application runs: ``Starlette(lifespan=app.lifespan)``, on trio."""
        return Lifespan(self)

    def _may_work(self) -> bool:
        """Tell whether the app is a client, or its worker holds a lease."""
        return not self._runs_workflows or self.statistics().worker is not None

    async def __aenter__(self) -> App:
        current_run("async with App")
        refuse_in_workflow("async with App")
        if self._block is not None:
            raise RomancyError("this app has been used; make a new App for each block")
        self._block = self._open()
        try:
            self._engine = await self._block.__aenter__()
        except (BaseExceptionGroup, DBAPIError) as error:
            first, *others = leaves(error)
            if isinstance(first, DBAPIError):
                raise DatabaseError(f"{self._shown} cannot be used: {first.orig}") from first
            if others:
                raise
            raise first from first.__cause__  # without the groups of the nurseries
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None
        try:
            return await self._block.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as group:
            # The caller's own exception, or group, must leave the block as the same object, without the groups of the
            # nurseries inside.
            raised = list(leaves(group))
            own = [] if exc is None else list(leaves(exc))
            if all(any(leaf is one for one in own) for leaf in raised):
                return False
            if all(is_a(leaf, KeyboardInterrupt) for leaf in raised):
                raise raised[0] from None  # has struck in the code of an instance
            raise

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Engine]:
        clock = current_clock()
        async with open_loop_of_program(), self._open_database() as database, AsyncExitStack() as exits:
            try:
                await _prepare(
                    database,
                    self._schema,
                    self._start_patience,
                    migrate=self._auto_migrate,
                    max_payload=self._settings.max_payload,
                )
            except BaseException:
                database.end_by(trio.current_time())
                raise
            if self._declared is not None:
                await declare(database, clock, self._declared, self._start_patience)
            if self._dispatcher is not None:
                self._dispatcher.call(Hooks.app_opened, self)
                exits.callback(self._dispatcher.call, Hooks.app_closed, self)
            worker = self._worker = self._make_worker(database, clock) if self._runs_workflows else None
            async with trio.open_nursery() as nursery:
                timekeeping, working = trio.CancelScope(), trio.CancelScope()
                await nursery.start(_run_in, timekeeping, keep_time, database, clock, self._start_patience)
                if worker is not None:
                    await nursery.start(_run_in, working, worker.run, self._start_patience, partial(_raise_in, nursery))
                # The worker outlives a cancellation of the block for as long as it needs to stop in order.
                working.shield = True
                try:
                    yield Engine(database, clock, worker, self._dispatcher, trio.lowlevel.current_trio_token())
                finally:
                    self._engine = None
                    timekeeping.cancel()
                    if worker is not None:
                        worker.stop()
                    else:
                        database.end_by(trio.current_time() + LEAVE_WITHIN)

    def _make_worker(self, database: Database, clock: Clock) -> Worker:
        relay = None
        if self._relay_settings is not None:
            relay = Relay(database, clock, self.worker_id, self._relay_settings)
        return Worker(
            database,
            clock,
            self.worker_id,
            self._settings,
            self._limits,
            self._keep_messages,
            relay,
            self._dispatcher,
        )

    def _open_database(self) -> AbstractAsyncContextManager[Database]:
        return open_database(self._url, pool_size=self._pool_size, direct_url=self._direct_url, schema=self._schema)

    def hurry(self) -> None:
        """Stop waiting for running activities if the block is ending, and give all instances back at once.

        Activities without a recorded outcome run again on the worker that claims their instance.
        """
        if self._worker is not None:
            self._worker.hurry()

    def statistics(self) -> AppStatistics:
        """Return numbers about this app.

        Raises:
          RomancyError: outside of the app's block.
        """
        worker = self._require_open("app.statistics").worker
        if worker is None:
            return AppStatistics(None, None)
        return AppStatistics(worker.statistics(), None if worker.relay is None else worker.relay.statistics())


async def _run_in(
    scope: trio.CancelScope, fn: Callable[..., Awaitable[None]], *args: Any, task_status: trio.TaskStatus[None]
) -> None:
    with scope:
        await fn(*args, task_status=task_status)


def _raise_in(nursery: trio.Nursery, error: BaseException) -> None:
    """Have a nursery raise an exception, as if it came from one of its tasks."""

    async def fail() -> NoReturn:
        raise error

    nursery.start_soon(fail)


async def _prepare(database: Database, schema: str | None, patience: float, *, migrate: bool, max_payload: int) -> None:
    """Check the server and the tables, or migrate them. An outage may last as many seconds as ``patience``."""
    problem = await retry_while_away_for(patience, database, database.read, payload_problem, max_payload)
    if problem is not None:
        raise DatabaseError(f"{database.name}: {problem}")
    if not migrate:
        await retry_while_away_for(patience, database, database.read, migrations.check, schema)
    elif not await retry_while_away_for(patience, database, database.read, migrations.is_current, schema):
        await retry_while_away_for(patience, database, database.run_long, migrations.migrate, schema)
