"""MariaDB, MySQL and PostgreSQL: SQLAlchemy's asyncio engine on trio-asyncio.

A transaction crosses from trio to asyncio once, however many statements it has. Nothing that happens to the trio
task tears it: a cancellation is delivered when it has ended.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import trio
import trio_asyncio
from attrs import define, field
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from ..clock import hold_virtual_time
from ..errors import DatabaseAwayError, DatabaseError, RomancyError
from . import dialects
from .database import Database, SQLFunction, Transaction, Writer
from .session import tell_sessions
from .urls import Server

P = ParamSpec("P")
R = TypeVar("R")

ANSWER_TIMEOUT = 10.0
"""Seconds in which a transaction of the engine itself must have ended. All of them are short: one that takes longer
talks to a server that is not there any more."""
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
    _engine: AsyncEngine
    _loop: asyncio.AbstractEventLoop
    _turns: trio.Semaphore
    _session_turns: trio.Semaphore
    _abandoned: dict[int, float] = field(factory=dict)
    """Connections that may still hold locks, because the server may not know that we have left them: what it calls
    them, and when they were made, on the monotonic clock."""
    is_exclusive = False
    has_one_writer = False

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turns:
            return await self._cross(self._run, lambda connection: fn(connection, *args, **kwargs))

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        writer = _Writer(self)
        try:
            yield writer
        finally:
            with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                await self._cross(writer.close)

    @asynccontextmanager
    async def open_transaction(self) -> AsyncIterator[Transaction]:
        async with self._session_turns, self._turns:
            transaction = _Transaction(self, await self._cross(self._connect))
            try:
                yield transaction
            finally:
                # Should this fail, the connection is lost, and the transaction with it.
                with trio.CancelScope(shield=True), suppress(DBAPIError, DatabaseAwayError):
                    await self._cross(transaction.close)

    # -- in asyncio ------------------------------------------------------------------------------------------------

    async def _connect(self) -> AsyncConnection:
        try:
            connection = await self._engine.connect()
        except (RomancyError, asyncio.CancelledError):
            raise
        except Exception as error:  # of SQLAlchemy, or of the driver as it is
            if (distrust := _distrust(error)) is not None:
                raise DatabaseError(f"{self.name} is not to be trusted: {distrust}") from error
            away = isinstance(error, OSError) or dialects.is_transient(error)
            kind = DatabaseAwayError if away else DatabaseError
            raise kind(f"{self.name} cannot be used: {getattr(error, 'orig', None) or error}") from error
        try:
            for id, made in list(self._abandoned.items()):
                await connection.run_sync(_end_connection, id, time.monotonic() - made)
                self._abandoned.pop(id, None)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _run(self, fn: Callable[[Connection], R]) -> R:
        connection = await self._connect()
        try:
            return await connection.run_sync(_in_transaction, fn)
        finally:
            await connection.close()

    # -- from trio to asyncio --------------------------------------------------------------------------------------

    async def _cross(self, fn: Callable[..., Coroutine[Any, Any, R]], *args: Any) -> R:
        """Run a coroutine function in asyncio, which must end in time. A cancellation is delivered when it has."""
        with trio.CancelScope(deadline=trio.current_time() + ANSWER_TIMEOUT, shield=True):
            return await self._cross_with_grace(0.0, fn, *args)
        raise DatabaseAwayError(f"{self.name} has not answered for {ANSWER_TIMEOUT:g} s")

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

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._database._cross_with_grace(_GRACE, self._connection.run_sync, fn, *args, **kwargs)

    async def commit(self, last: Callable[[Connection], None]) -> None:
        await self._database._cross(self._commit, last)

    async def _commit(self, last: Callable[[Connection], None]) -> None:
        await self._connection.run_sync(last)
        await self._connection.commit()

    async def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        try:
            await self._connection.rollback()
        finally:
            await self._connection.close()


@define(eq=False)
class _Writer:
    """Holds a connection for as long as it works."""

    _database: AioDatabase
    _connection: AsyncConnection | None = None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._database._cross(self._run, lambda connection: fn(connection, *args, **kwargs))

    async def _run(self, fn: Callable[[Connection], R]) -> R:
        if self._connection is None:
            self._connection = await self._database._connect()
        try:
            return await self._connection.run_sync(_in_transaction, fn)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _distrust(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why the certificate of the server was refused, if that is what it is: aiomysql says no more than 2003."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def _in_transaction(connection: Connection, fn: Callable[..., R], *args: Any) -> R:
    with connection.begin():
        return fn(connection, *args)


def _end_connection(connection: Connection, id: int, age: float) -> None:
    try:
        _in_transaction(connection, dialects.end_connection, id, age)
    except DBAPIError as error:
        if dialects.is_transient(error):
            raise
        # It has ended meanwhile, or we may not end it.


@asynccontextmanager
async def open_aio_database(server: Server, pool_size: int) -> AsyncIterator[Database]:
    """The database on a server, which may be away.

    Args:
      pool_size: the most connections, beside the one of the writer.

    Raises:
      DatabaseError: on the first connection, if the server is too old.
    """
    engine = create_async_engine(
        server.url,
        connect_args=server.connect_args,
        isolation_level="READ COMMITTED",
        pool_size=pool_size + 1,
        max_overflow=1,  # for the moment in which one writer takes over from another
        pool_recycle=_RECYCLE,
        pool_reset_on_return=None,  # nothing is given back that was not committed or rolled back
        hide_parameters=True,  # they are the users' data, and errors go to logs
    )
    database = AioDatabase(
        server.name, engine, trio_asyncio.current_loop.get(), trio.Semaphore(pool_size), trio.Semaphore(pool_size - 1)
    )

    tell_sessions(engine.sync_engine)

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["made"] = time.monotonic()
        try:
            dialects.prepare_connection(connection, encrypted=server.must_encrypt)
        except DatabaseError as error:
            raise DatabaseError(f"{server.name} cannot be used: {error}") from None

    @event.listens_for(engine.sync_engine.pool, "invalidate")
    def invalidated(connection: Any, record: ConnectionPoolEntry, error: BaseException | None) -> None:
        if error is not None:
            database._abandoned[dialects.connection_id(connection)] = record.info["made"]

    try:
        yield database
    finally:
        with trio.CancelScope(shield=True):
            if database._abandoned:
                with suppress(DBAPIError, DatabaseError):
                    await database._cross(database._run, lambda _: None)  # which ends them
            with suppress(DBAPIError, DatabaseError):
                await database._cross(engine.dispose)
