"""MariaDB, MySQL and PostgreSQL: SQLAlchemy's asyncio engine on trio-asyncio.

A transaction crosses from trio to asyncio once, however many statements it has. Cancellation never tears a transaction:
it is delivered when the transaction has ended. The journal writes to MariaDB and MySQL another way: see
:mod:`.blocking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

import trio
from attrs import define, field
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from ..._tasks.asyncio_cancel import cancel_until_done
from ..._tasks.asyncio_loop import open_asyncio_loop
from ...clock import hold_virtual_time
from ...errors import DatabaseAwayError, DatabaseError, RomancyError
from ..database import Database, SQLFunction, ThreadConnection, Transaction, Writer
from ..dialects import server_dialect_of
from ..dialects.dialect import ServerDialect
from ..outages import retry_while_away
from ..session import report_lost_transactions
from . import connections
from .asyncio_thread import AsyncioThreadConnection
from .blocking import BlockingConnection, BlockingWriter, blocking_engine, connect
from .connections import Connections
from .sockets import carried_bytes
from .urls import Server

P = ParamSpec("P")
R = TypeVar("R")

_GRACE = 5.0
"""Time that a statement of a session may go on after its activity was cancelled, in seconds."""
_GRACE_OF_ENGINE = 1.0
"""The same for a transaction of the engine. Those end in milliseconds, unless the server is gone."""
_CONNECTING = 2
"""Connections of the pool that are made at once.

On a busy machine or a slow link, a whole pool that is made at once may take longer than any connection may take. Then
all of them would be given up, again and again.
"""
_LOOKS = 10
"""How often the progress of a transaction is looked at within its time limit."""
_RECYCLE = 1800
"""Age at which a pooled connection is replaced, in seconds: firewalls forget idle connections after a while."""


@define(eq=False)
class _Wait:
    """The wait of a trio task for a coroutine in asyncio."""

    may_be_torn: bool
    """Whether no transaction has begun yet, so that cancellation is delivered at once."""
    longest_grace: float = _GRACE_OF_ENGINE
    """Longest time that the coroutine may go on after a cancellation otherwise, in seconds."""
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    """Scope around the wait, which is cancelled when the server has taken too long."""
    connection: AsyncConnection | None = None
    """The connection of the transaction, once it has begun."""
    _carried: int | None = None
    """Bytes that the connection had carried when :meth:`makes_progress` was called last."""

    def makes_progress(self) -> bool:
        """Return whether the connection has carried bytes since the last call."""
        before, self._carried = self._carried, carried_bytes(self.connection)
        return before is not None and self._carried != before

    def grace(self) -> float:
        """Return for how many seconds the coroutine may go on after a cancellation."""
        if self.may_be_torn:
            return 0.0
        return min(self.longest_grace, max(self.scope.deadline - trio.current_time(), 0.0))  # 0.0: it was too long


_wait: ContextVar[_Wait | None] = ContextVar("trio_romancy_wait", default=None)
"""The wait for the coroutine in asyncio that runs now."""


def _transaction_begins(connection: AsyncConnection) -> None:
    """Keep cancellation away from now on."""
    if (wait := _wait.get()) is not None:
        wait.may_be_torn = False
        wait.connection = connection


@define(eq=False)
class ServerDatabase:
    """A :class:`~.database.Database` on a server, through a pool of connections.

    The sessions of activities leave one connection of the pool free. So the status of an instance can be read however
    many activities wait for a connection.
    """

    name: str
    _connections: Connections
    _dialect: ServerDialect
    _engine: AsyncEngine
    _writing_engine: Engine | AsyncEngine
    """Engine for the journal, with a driver that blocks where that is faster."""
    _make_engine: Callable[[], AsyncEngine]
    """Makes an engine without a pool. Threads must not share one: its first connection holds a lock of the thread."""
    _loop: asyncio.AbstractEventLoop
    _turns: trio.Semaphore
    """Free connections of the pool. Waiting for one here is fair, and can be cancelled."""
    _session_turns: trio.Semaphore
    """Those of them that sessions may take."""
    _direct: _Direct | None
    """The way to the server itself, past a pooler; None: there is no pooler, or no such way."""
    _waits: set[_Wait] = field(factory=set, init=False)
    """The waits under way that have a time limit."""
    _watches: bool = field(default=False, init=False)
    """Whether :meth:`_renew_waits` is about to be called."""
    is_exclusive = False
    has_one_writer = False

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            run = partial(self._run, lambda connection: fn(connection, *args, **kwargs))
            return await self._cross_to_connect(run)

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            read = partial(self._read, lambda connection: fn(connection, *args, **kwargs))
            return await self._cross_to_connect(read)

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            return await self._cross_with_grace(
                _Wait(may_be_torn=True), lambda: self._run(lambda connection: fn(connection, *args, **kwargs))
            )

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            return await self._cross_with_grace(
                _Wait(may_be_torn=True), lambda: self._alter(lambda connection: fn(connection, *args, **kwargs))
            )

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        engine = self._writing_engine
        writer: BlockingWriter | _Writer
        if isinstance(engine, Engine):
            writer = BlockingWriter(BlockingConnection(engine, self._connections), self._connections)
        else:
            writer = _Writer(self, engine)
        try:
            yield writer
        finally:
            with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                await writer.aclose()

    def end_by(self, deadline: float) -> None:
        self._connections.end_by(deadline)

    @property
    def is_pooled(self) -> bool:
        return bool(self._connections.is_pooled)

    @property
    def can_listen(self) -> bool:
        return self._dialect.has_notifications and (self._direct is not None or not self.is_pooled)

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        lost = trio.Event()

        async def open_listener() -> AsyncConnection:
            connection = await (self._connect() if self._direct is None else self._direct.connect())
            try:
                raw = await connection.get_raw_connection()
                await self._dialect.listen(raw.driver_connection, on_notify, lost.set)
            except BaseException as error:
                await connection.invalidate()
                if isinstance(error, Exception):
                    raise DatabaseAwayError(f"{self.name} cannot be listened to: {error}") from error
                raise
            return connection

        while True:
            lost = trio.Event()
            connection = await retry_while_away(self, self._cross_to_connect, open_listener)
            try:
                on_notify("")  # a notification may have been missed before
                await lost.wait()
            finally:
                # Not returned to the pool, where it would go on listening.
                with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                    await self._cross(_discard, connection)

    def thread_connection(self) -> ThreadConnection:
        if isinstance(self._writing_engine, Engine):
            return BlockingConnection(self._writing_engine, self._connections)
        return AsyncioThreadConnection(self._make_engine(), self._connect)

    @asynccontextmanager
    async def open_transaction(self) -> AsyncIterator[Transaction]:
        async with self._session_turns, self._turns:
            transaction = _Transaction(self, await self._cross_to_connect(self._begin))
            try:
                yield transaction
            finally:
                # If this fails, the connection is lost, and the transaction with it.
                with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                    await self._cross(transaction.close)

    # -- in asyncio ------------------------------------------------------------------------------------------------

    async def _connect(self, engine: AsyncEngine | None = None) -> AsyncConnection:
        try:
            connection = await (engine or self._engine).connect()
        except (RomancyError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise self._connections.connect_error(error) from error
        try:
            await connection.run_sync(self._connections.end_lost)
        except BaseException:
            await _discard(connection)
            raise
        _transaction_begins(connection)
        return connection

    async def _run(self, fn: Callable[[Connection], R]) -> R:
        connection = await self._connect()
        try:
            return await connection.run_sync(connections.in_transaction, fn)
        finally:
            await connection.close()

    async def _read(self, fn: Callable[[Connection], R]) -> R:
        connection = await self._connect()
        try:
            if self.is_pooled or not self._dialect.has_free_autocommit:
                return await connection.run_sync(connections.in_transaction, fn)
            # Without a transaction that would be idle, and so end, while a slow link carries a large answer.
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return await connection.run_sync(fn)
        finally:
            await connection.close()

    async def _alter(self, fn: Callable[[Connection], R]) -> R:
        connection = await (self._connect() if self._direct is None else self._direct.connect())
        try:
            if self.is_pooled and self._direct is None:
                raise DatabaseError(
                    f"{self.name} is behind a pooler of connections, and this change of a table needs a session of its "
                    f"own; give the app a direct_url that leads to the server itself"
                )
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return await connection.run_sync(fn)
        finally:
            await _discard(connection)  # ends its locks, and keeps its settings out of the pool

    async def _begin(self) -> AsyncConnection:
        connection = await self._connect()
        try:
            await connection.run_sync(self._dialect.allow_idleness)
        except BaseException:
            await _discard(connection)
            raise
        return connection

    # -- from trio to asyncio --------------------------------------------------------------------------------------

    async def _cross(self, fn: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> R:
        """Run a coroutine function in asyncio. Cancellation is delivered when it has ended.

        Raises:
          DatabaseAwayError: if it has not ended after :data:`.connections.ANSWER_TIMEOUT`.
        """
        return await self._cross_from(_Wait(may_be_torn=False), fn, *args)

    async def _cross_to_connect(self, fn: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> R:
        """Run a coroutine function like :meth:`_cross`. Cancellation is delivered at once until it has a connection."""
        return await self._cross_from(_Wait(may_be_torn=True), fn, *args)

    async def _cross_from(self, wait: _Wait, fn: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> R:
        with self._connections.patience() as wait.scope:
            token = _wait.set(wait)
            self._waits.add(wait)
            if not self._watches:
                self._watch()
            try:
                return await self._cross_with_grace(wait, fn, *args)
            finally:
                self._waits.discard(wait)
                _wait.reset(token)

    def _watch(self) -> None:
        self._watches = True
        self._loop.call_later(connections.ANSWER_TIMEOUT / _LOOKS, self._renew_waits)

    def _renew_waits(self) -> None:
        """Restart the time limits of waits that make progress, and look again later while there are waits."""
        self._watches = False
        for wait in self._waits:
            if wait.makes_progress():
                self._connections.renew(wait.scope)
        if self._waits:
            self._watch()

    async def _cross_with_grace(
        self, wait: _Wait, fn: Callable[..., Coroutine[Any, Any, R]], *args: Any, **kwargs: Any
    ) -> R:
        """Run a coroutine function in asyncio. Cancellation is delivered when it has ended, or its grace is over."""
        waiting = trio.lowlevel.current_task()

        def cancelled(_: object) -> trio.lowlevel.Abort:
            if seconds := wait.grace():
                self._loop.call_later(seconds, cancel_until_done, crossing)
            else:
                cancel_until_done(crossing)
            return trio.lowlevel.Abort.FAILED

        with hold_virtual_time():
            crossing = self._loop.create_task(fn(*args, **kwargs))
            crossing.add_done_callback(lambda _: trio.lowlevel.reschedule(waiting))
            await trio.lowlevel.wait_task_rescheduled(cancelled)
        if crossing.cancelled():
            await trio.lowlevel.checkpoint_if_cancelled()
        return crossing.result()


async def _discard(connection: AsyncConnection) -> None:
    """Close a connection for good, without waiting for the server: it does not return to the pool."""
    try:
        await connection.invalidate()
    finally:
        await connection.close()


@define(eq=False)
class _Direct:
    """Connections past a pooler to the server itself, without a pool: for what a session is needed for."""

    _connections: Connections
    _engine: AsyncEngine

    def attach(self) -> None:
        self._connections.attach(self._engine.sync_engine)

    async def connect(self) -> AsyncConnection:
        try:
            connection = await self._engine.connect()
        except (RomancyError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise self._connections.connect_error(error) from error
        if self._connections.is_pooled:
            await connection.invalidate()
            raise DatabaseError(f"{self._connections.name}, the direct_url, leads to a pooler of connections as well")
        return connection


@define(eq=False)
class _Transaction:
    """An open transaction of an activity, which may be idle without a limit until it commits."""

    _database: ServerDatabase
    _connection: AsyncConnection
    _is_limited: bool = False
    """Whether its idleness is limited again."""

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def run() -> Coroutine[Any, Any, R]:
            return self._connection.run_sync(fn, *args, **kwargs)

        return await self._database._cross_with_grace(_Wait(may_be_torn=False, longest_grace=_GRACE), run)

    async def commit(self, last: Callable[[Connection], None]) -> None:
        await self._database._cross(self._commit, last)

    async def _commit(self, last: Callable[[Connection], None]) -> None:
        await self._connection.run_sync(last)
        self._is_limited = True  # by the session, in ``last``
        await self._connection.commit()

    async def close(self) -> None:
        """Roll back what was not committed, and return the connection to the pool."""
        try:
            await self._connection.rollback()
            if not self._is_limited and not self._connection.invalidated:
                restore_idleness = self._database._dialect.restore_idleness
                await self._connection.run_sync(connections.in_transaction, restore_idleness)
        finally:
            await self._connection.close()


@define(eq=False)
class _Writer:
    """A :class:`~.database.Writer` that keeps its connection from one transaction to the next."""

    _database: ServerDatabase
    _engine: AsyncEngine
    _connection: AsyncConnection | None = None
    _isolation: str = ""
    """Isolation level of the connection."""

    @property
    def autocommit(self) -> Writer | None:
        if self._database.is_pooled:  # which needs a transaction around the round trips of a statement
            return None
        return _AutocommitWriter(self) if self._database._dialect.writes_tables_together else None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def run(connection: Connection) -> R:
            if self._database.is_pooled:
                self._database._dialect.plan_once(connection, is_local=True)
            return fn(connection, *args, **kwargs)

        return await self._run("READ COMMITTED", run)

    async def _run(self, isolation: str, fn: Callable[[Connection], R]) -> R:
        return await self._database._cross_to_connect(self._run_in_asyncio, isolation, fn)

    async def _run_in_asyncio(self, isolation: str, fn: Callable[[Connection], R]) -> R:
        try:
            if self._connection is not None:
                _transaction_begins(self._connection)
            else:
                self._connection = await self._database._connect(self._engine)
                if not self._database.is_pooled:
                    await self._connection.run_sync(connections.in_transaction, self._database._dialect.plan_once)
            if self._isolation != isolation:
                await self._connection.execution_options(isolation_level=isolation)
                self._isolation = isolation
            return await self._connection.run_sync(connections.in_transaction, fn)
        except BaseException:
            if (connection := self._given_up()) is not None:
                await _discard(connection)
            raise

    async def aclose(self) -> None:
        await self._database._cross(self._close)

    async def _close(self) -> None:
        if (connection := self._given_up()) is not None:
            await connection.close()

    def _given_up(self) -> AsyncConnection | None:
        """Return the connection, if there is one. The next transaction makes another."""
        connection, self._connection, self._isolation = self._connection, None, ""
        return connection


@define(eq=False)
class _AutocommitWriter:
    """The connection of a writer, with each statement as a transaction of its own."""

    _writer: _Writer
    autocommit = None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._writer._run("AUTOCOMMIT", lambda connection: fn(connection, *args, **kwargs))


@define(eq=False)
class _TurnToConnect:
    """Entered by code of SQLAlchemy that runs in asyncio, while it makes a connection.

    Who has waited for half of the time that a transaction has gives up: a connection would be made for nothing.
    """

    _turns: asyncio.Semaphore = field(factory=lambda: asyncio.Semaphore(_CONNECTING))

    def __enter__(self) -> None:
        if self._turns.locked():
            try:
                await_only(asyncio.wait_for(self._turns.acquire(), connections.ANSWER_TIMEOUT / 2))
            except TimeoutError:
                raise DatabaseAwayError("other connections took too long to be made") from None
        else:
            await_only(self._turns.acquire())

    def __exit__(self, *_: object) -> None:
        self._turns.release()


@asynccontextmanager
async def open_server_database(server: Server, pool_size: int, direct: Server | None = None) -> AsyncIterator[Database]:
    """Open a database on a server, without connecting yet. It opens a trio-asyncio loop unless one runs.

    The first connection raises :class:`DatabaseError` if the server is too old or its settings make it unfit.

    Args:
      server: the server, as :func:`.urls.parse_server` returns it.
      pool_size: the most connections, besides those of the writer and the listener.
      direct: the same server past a pooler, for the listener.
    """
    async with open_asyncio_loop() as loop, _open_in(loop, server, pool_size, direct) as database:
        yield database


@asynccontextmanager
async def _open_in(
    loop: asyncio.AbstractEventLoop, server: Server, pool_size: int, direct: Server | None
) -> AsyncIterator[Database]:
    options: dict[str, Any] = {
        "connect_args": server.connect_args,
        "isolation_level": "READ COMMITTED",
        "pool_reset_on_return": None,  # each connection is returned after a commit or a rollback
        "hide_parameters": True,  # they are the users' data, and errors are logged
    }
    engine = create_async_engine(
        server.url,
        pool_size=pool_size + 1,  # one listens
        max_overflow=0,
        pool_recycle=_RECYCLE,
        **options,
    )
    ours = Connections(server)
    ours.attach(engine.sync_engine, turn_to_connect=_TurnToConnect())
    report_lost_transactions(engine.sync_engine)

    def make_engine() -> AsyncEngine:
        made = create_async_engine(server.url, poolclass=NullPool, **options)
        ours.attach(made.sync_engine)
        return made

    past_pooler = None
    if direct is not None:
        direct_options = options | {"connect_args": direct.connect_args}
        past_pooler = _Direct(
            Connections(direct), create_async_engine(direct.url, poolclass=NullPool, **direct_options)
        )
        past_pooler.attach()
    writing: Engine | AsyncEngine
    if server.blocking_url is not None:
        writing = blocking_engine(server, server.blocking_url)
        ours.attach(writing, partial(connect, server))
    else:
        writing = make_engine()
    turns, session_turns = trio.Semaphore(pool_size), trio.Semaphore(pool_size - 1)
    dialect = server_dialect_of(engine.sync_engine)
    database = ServerDatabase(
        server.name, ours, dialect, engine, writing, make_engine, loop, turns, session_turns, past_pooler
    )
    try:
        yield database
    finally:
        with trio.CancelScope(shield=True):
            if ours.has_lost:
                with suppress(DBAPIError, DatabaseError):
                    await database._cross(database._run, lambda _: None)  # a new connection ends them
            try:
                await database._cross(engine.dispose)
            except (DBAPIError, DatabaseError):
                ours.closes_by_force = True
                with suppress(DBAPIError, DatabaseError):
                    await database._cross(engine.dispose)
