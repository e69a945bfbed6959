"""MariaDB, MySQL and PostgreSQL: SQLAlchemy's asyncio engine on trio-asyncio.

A transaction crosses from trio to asyncio once, however many statements it has. Nothing that happens to the trio
task tears it: a cancellation is delivered when it has ended. What the journal writes to MariaDB and MySQL does not
come this way: see :mod:`.blocking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

import trio
import trio_asyncio
from attrs import define
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ...clock import hold_virtual_time
from ...errors import DatabaseAwayError, DatabaseError, RomancyError
from .. import dialects
from ..database import Database, SQLFunction, Transaction, Writer
from ..outages import retry_while_away
from ..session import tell_sessions
from . import connections
from .blocking import BlockingWriter, blocking_engine, connect
from .connections import Connections
from .urls import Server

P = ParamSpec("P")
R = TypeVar("R")

_GRACE = 5.0
"""Seconds that a statement of an activity's session may go on after the activity was cancelled."""
_RECYCLE = 1800
"""Seconds after which a pooled connection is replaced, before some firewall forgets it."""


@define(eq=False)
class AioDatabase:
    """A database server, through a pool of connections.

    The sessions of activities leave one connection of the pool to the rest, so that the status of an instance can be
    asked for however many activities wait for a connection.
    """

    name: str
    _connections: Connections
    _engine: AsyncEngine
    _writing_engine: Engine | AsyncEngine
    """For the journal: of a driver that blocks, where that is the faster one."""
    _loop: asyncio.AbstractEventLoop
    _turns: trio.Semaphore
    _session_turns: trio.Semaphore
    is_exclusive = False
    has_one_writer = False

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            return await self._cross(self._run, lambda connection: fn(connection, *args, **kwargs))

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            return await self._cross_with_grace(0.0, self._run, lambda connection: fn(connection, *args, **kwargs))

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            return await self._cross_with_grace(0.0, self._alter, lambda connection: fn(connection, *args, **kwargs))

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        engine = self._writing_engine
        writer: BlockingWriter | _Writer
        writer = BlockingWriter(engine, self._connections) if isinstance(engine, Engine) else _Writer(self, engine)
        try:
            yield writer
        finally:
            with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                await writer.aclose()

    @property
    def can_listen(self) -> bool:
        return dialects.can_listen(self._engine.dialect)

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        lost = trio.Event()

        async def open_ears() -> AsyncConnection:
            connection = await self._connect()
            try:
                raw = await connection.get_raw_connection()
                await dialects.listen(raw.driver_connection, on_notify, lost.set)
            except BaseException as error:
                await connection.invalidate()
                if isinstance(error, Exception):
                    raise DatabaseAwayError(f"{self.name} cannot be listened to: {error}") from error
                raise
            return connection

        while True:
            lost = trio.Event()
            connection = await retry_while_away(self, self._cross, open_ears)
            try:
                on_notify("")  # while nobody listened, something may have been missed
                await lost.wait()
            finally:
                # It must not go back to the pool: it would go on listening.
                with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                    await self._cross(connection.invalidate)
                    await self._cross(connection.close)

    @asynccontextmanager
    async def open_transaction(self) -> AsyncIterator[Transaction]:
        async with self._session_turns, self._turns:
            transaction = _Transaction(self, await self._cross(self._begin))
            try:
                yield transaction
            finally:
                # Should this fail, the connection is lost, and the transaction with it.
                with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                    await self._cross(transaction.close)

    # -- in asyncio ------------------------------------------------------------------------------------------------

    async def _connect(self, engine: AsyncEngine | None = None) -> AsyncConnection:
        try:
            connection = await (engine or self._engine).connect()
        except (RomancyError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise self._connections.failure(error) from error
        try:
            await connection.run_sync(self._connections.end_abandoned)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _run(self, fn: Callable[[Connection], R]) -> R:
        connection = await self._connect()
        try:
            return await connection.run_sync(connections.in_transaction, fn)
        finally:
            await connection.close()

    async def _alter(self, fn: Callable[[Connection], R]) -> R:
        connection = await self._connect()
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return await connection.run_sync(fn)
        finally:
            await connection.invalidate()  # with the locks and settings that it has by now
            await connection.close()

    async def _begin(self) -> AsyncConnection:
        connection = await self._connect()
        try:
            await connection.run_sync(dialects.allow_idleness)
        except BaseException:
            await connection.close()
            raise
        return connection

    # -- from trio to asyncio --------------------------------------------------------------------------------------

    async def _cross(self, fn: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> R:
        """Run a coroutine function in asyncio, which must end in time. A cancellation is delivered when it has."""
        turn = self._connections.turn
        with trio.CancelScope(deadline=trio.current_time() + connections.ANSWER_TIMEOUT, shield=True):
            return await self._cross_with_grace(0.0, fn, *args)
        raise self._connections.no_answer(turn)

    async def _cross_with_grace(
        self, grace: float, fn: Callable[..., Coroutine[Any, Any, R]], *args: Any, **kwargs: Any
    ) -> R:
        """Run a coroutine function in asyncio. A cancellation is delivered when it has ended.

        Args:
          grace: seconds after a cancellation at which the coroutine is cancelled too.
        """
        waiting = trio.lowlevel.current_task()

        def cancelled(_: object) -> trio.lowlevel.Abort:
            self._loop.call_later(grace, crossing.cancel)
            return trio.lowlevel.Abort.FAILED

        with hold_virtual_time():
            crossing = self._loop.create_task(fn(*args, **kwargs))
            crossing.add_done_callback(lambda _: trio.lowlevel.reschedule(waiting))
            await trio.lowlevel.wait_task_rescheduled(cancelled)
        if crossing.cancelled():
            await trio.lowlevel.checkpoint_if_cancelled()
        return crossing.result()


@define(eq=False)
class _Transaction:
    """An open transaction of an activity."""

    _database: AioDatabase
    _connection: AsyncConnection
    _is_limited: bool = False
    """Whether the time is limited again for which it may be idle."""

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._database._cross_with_grace(_GRACE, self._connection.run_sync, fn, *args, **kwargs)

    async def commit(self, last: Callable[[Connection], None]) -> None:
        await self._database._cross(self._commit, last)

    async def _commit(self, last: Callable[[Connection], None]) -> None:
        await self._connection.run_sync(last)
        self._is_limited = True  # by the session
        await self._connection.commit()

    async def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        try:
            await self._connection.rollback()
            if not self._is_limited and not self._connection.invalidated:
                await self._connection.run_sync(connections.in_transaction, dialects.restore_idleness)
        finally:
            await self._connection.close()


@define(eq=False)
class _Writer:
    """Holds a connection for as long as it works."""

    _database: AioDatabase
    _engine: AsyncEngine
    _connection: AsyncConnection | None = None
    _isolation: str = ""
    """Of the connection."""

    @property
    def at_once(self) -> Writer | None:
        return _AtOnce(self) if dialects.writes_at_once(self._engine.dialect) else None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run("READ COMMITTED", lambda connection: fn(connection, *args, **kwargs))

    async def _run(self, isolation: str, fn: Callable[[Connection], R]) -> R:
        return await self._database._cross(self._run_in_asyncio, isolation, fn)

    async def _run_in_asyncio(self, isolation: str, fn: Callable[[Connection], R]) -> R:
        try:
            if self._connection is None:
                self._connection = await self._database._connect(self._engine)
                await self._connection.run_sync(connections.in_transaction, dialects.plan_once)
            if self._isolation != isolation:
                await self._connection.execution_options(isolation_level=isolation)
                self._isolation = isolation
            return await self._connection.run_sync(connections.in_transaction, fn)
        except BaseException:
            await self._close()
            raise

    async def aclose(self) -> None:
        await self._database._cross(self._close)

    async def _close(self) -> None:
        connection, self._connection, self._isolation = self._connection, None, ""
        if connection is not None:
            await connection.close()


@define(eq=False)
class _AtOnce:
    """The connection of a writer, where each statement is a transaction of its own."""

    _writer: _Writer
    at_once = None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._writer._run("AUTOCOMMIT", lambda connection: fn(connection, *args, **kwargs))


@asynccontextmanager
async def open_aio_database(server: Server, pool_size: int) -> AsyncIterator[Database]:
    """The database on a server, which may be away.

    Args:
      pool_size: the most connections, beside the one of the writer.

    Raises:
      DatabaseError: on the first connection, if the server is too old.
    """
    options: dict[str, Any] = {
        "connect_args": server.connect_args,
        "isolation_level": "READ COMMITTED",
        "pool_reset_on_return": None,  # nothing is given back that was not committed or rolled back
        "hide_parameters": True,  # they are the users' data, and errors go to logs
    }
    engine = create_async_engine(
        server.url,
        pool_size=pool_size + 1,  # one only listens
        max_overflow=0,
        pool_recycle=_RECYCLE,
        **options,
    )
    ours = Connections(server)
    ours.watch(engine.sync_engine)
    tell_sessions(engine.sync_engine)
    writing: Engine | AsyncEngine
    if server.blocking_url is not None:
        writing = blocking_engine(server, server.blocking_url)
        ours.watch(writing, partial(connect, server))
    else:
        writing = create_async_engine(server.url, poolclass=NullPool, **options)
        ours.watch(writing.sync_engine)
    loop = trio_asyncio.current_loop.get()
    turns, session_turns = trio.Semaphore(pool_size), trio.Semaphore(pool_size - 1)
    database = AioDatabase(server.name, ours, engine, writing, loop, turns, session_turns)
    try:
        yield database
    finally:
        with trio.CancelScope(shield=True):
            if ours.has_abandoned:
                with suppress(DBAPIError, DatabaseError):
                    await database._cross(database._run, lambda _: None)  # which ends them
            with suppress(DBAPIError, DatabaseError):
                await database._cross(engine.dispose)
