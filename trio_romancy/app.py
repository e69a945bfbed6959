"""``App``: opens and closes everything."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any

import trio
import trio_asyncio
from attrs import frozen
from sqlalchemy.exc import DBAPIError

from ._client.client import Client
from ._client.engine import Engine
from ._data.ids import checked_id
from ._observe.dispatcher import checked_hooks
from ._outbox.broker import require_web
from ._outbox.relay import Relay, RelayStatistics
from ._runtime.worker.clock_sync import keep_time
from ._runtime.worker.worker import Worker, WorkerStatistics
from ._settings import ContentMode, Limits, RelaySettings, Settings, check_numbers, checked_duration, checked_token
from ._storage import migrations
from ._storage.database import Database
from ._storage.drivers.urls import shown_url
from ._storage.open import POOL_SIZE, open_database
from ._storage.outages import retry_while_away_for
from .clock import Clock, Duration, current_clock
from .errors import DatabaseError, RomancyError
from .hooks import Hooks
from .retry import RetryPolicy

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


class App(Client):
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
        self._dispatcher = checked_hooks(hooks)
        self._engine: Engine | None = None
        self._worker: Worker | None = None
        self._block: AbstractAsyncContextManager[Engine] | None = None

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
                may_work=self._may_work,
            )
        return self._asgi

    def _may_work(self) -> bool:
        """Whether this app is a client, or its worker holds a lease."""
        return not self._runs_workflows or self.statistics().worker is not None

    async def __aenter__(self) -> App:
        if self._block is not None:
            raise RomancyError("this app has been used; make a new App for each block")
        self._block = self._open()
        try:
            self._engine = await self._block.__aenter__()
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
    async def _open(self) -> AsyncIterator[Engine]:
        clock = current_clock()
        async with _asyncio_loop(), self._open_database() as database, AsyncExitStack() as exits:
            await _prepare(database, self._start_patience, migrate=self._auto_migrate)
            if self._dispatcher is not None:
                self._dispatcher.tell(Hooks.app_opened, self)
                exits.callback(self._dispatcher.tell, Hooks.app_closed, self)
            worker = self._worker = self._make_worker(database, clock) if self._runs_workflows else None
            async with trio.open_nursery() as nursery:
                timekeeping, working = trio.CancelScope(), trio.CancelScope()
                await nursery.start(_run_in, timekeeping, keep_time, database, clock)
                if worker is not None:
                    await nursery.start(_run_in, working, worker.run, self._start_patience)
                # The worker outlives a cancellation of the block, for as long as it may take to stop in order.
                working.shield = True
                try:
                    yield Engine(database, clock, worker, self._dispatcher)
                finally:
                    self._engine = None
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
            self._dispatcher,
        )

    def _open_database(self) -> AbstractAsyncContextManager[Database]:
        return open_database(self._url, pool_size=self._pool_size)

    def hurry(self) -> None:
        """Do not wait any longer for running activities, if the block is ending: hand over what is left as it is.

        What an activity has done and not recorded is done again by whoever takes its instance over.
        """
        if self._worker is not None:
            self._worker.hurry()

    def statistics(self) -> AppStatistics:
        """Numbers about this app."""
        worker = self._require_engine().worker
        if worker is None:
            return AppStatistics(None, None)
        return AppStatistics(worker.statistics(), None if worker.relay is None else worker.relay.statistics())


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
        await retry_while_away_for(patience, database, database.read, migrations.check)
    elif not await retry_while_away_for(patience, database, database.read, migrations.is_current):
        await retry_while_away_for(patience, database, database.run_long, migrations.migrate)
