"""SQLite: a file, written and read in threads; or ``:memory:``, run directly in the trio thread."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import cache
from typing import Any, ParamSpec, TypeVar

import sqlalchemy
import trio
from attrs import define, field
from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import NullPool

from ...clock import hold_virtual_time
from ...errors import DatabaseError
from ..database import Database, SQLFunction, Transaction, Writer
from ..session import tell_sessions

P = ParamSpec("P")
R = TypeVar("R")

BUSY_TIMEOUT = 5.0
"""Seconds that SQLite itself waits for a lock held by another process, before the caller decides."""

_THREADS = 8
"""The most threads at once: one writes, the others read."""


@define(eq=False)
class _Transaction:
    """An open transaction on the connection that writes."""

    _connection: Connection
    _call: Callable[..., Any]
    """Awaitable: runs a plain function where this database's connection lives."""

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = await self._call(lambda: fn(self._connection, *args, **kwargs))
        return result

    async def commit(self, last: Callable[[Connection], None]) -> None:
        def finish() -> None:
            last(self._connection)
            self._connection.commit()

        await self._call(finish)


def _turn() -> trio.Semaphore:
    # No trio.Lock: a transaction can be begun by one task and ended by another.
    return trio.Semaphore(1, max_value=1)


async def _take(turn: trio.Semaphore) -> None:
    """Wait for the turn; not even for a moment if it is free, because each commit would be late by that."""
    try:
        turn.acquire_nowait()
    except trio.WouldBlock:
        await turn.acquire()


@define(eq=False)
class InlineDatabase:
    """SQLite in memory, run in the trio thread itself.

    Fast and deterministic, and there is no thread that a :class:`trio.testing.MockClock` could overtake. It has one
    connection: who reads while a transaction is open sees what that has written so far.
    """

    _connection: Connection
    _turn: trio.Semaphore = field(factory=_turn)
    name = "the SQLite database in memory"
    is_exclusive = True
    has_one_writer = True
    can_listen = False
    at_once = None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._turn:
            with self._connection.begin():
                return fn(self._connection, *args, **kwargs)

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        await trio.lowlevel.checkpoint()
        if self._connection.in_transaction():
            return fn(self._connection, *args, **kwargs)
        with self._connection.begin():
            return fn(self._connection, *args, **kwargs)

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        yield self

    @asynccontextmanager
    async def open_transaction(self) -> AsyncIterator[Transaction]:
        async with self._turn:
            try:
                yield _Transaction(self._connection, _call_inline)
            finally:
                self._connection.rollback()


async def _call_inline(fn: Callable[[], R]) -> R:
    await trio.lowlevel.checkpoint()
    return fn()


@define(eq=False)
class ThreadedDatabase:
    """A SQLite file in WAL mode: one connection that writes, and readers that never wait for it."""

    name: str
    _engine: Engine
    _writer: Connection
    _turn: trio.Semaphore = field(factory=_turn)
    """Who may use the connection that writes. Waiting here is fair; waiting for SQLite's own lock is not."""
    _threads: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(_THREADS))
    """Not trio's default limiter: whatever else runs in threads could take all of that."""
    is_exclusive = False
    has_one_writer = True
    can_listen = False
    at_once = None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def transaction() -> R:
            with self._writer.begin():
                return fn(self._writer, *args, **kwargs)

        await _take(self._turn)
        try:
            return await self._in_thread(transaction)
        finally:
            self._turn.release()

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def transaction() -> R:
            with self._engine.connect() as connection:
                return fn(connection.execution_options(romancy_begin="BEGIN"), *args, **kwargs)

        return await self._in_thread(transaction)

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        yield self

    @asynccontextmanager
    async def open_transaction(self) -> AsyncIterator[Transaction]:
        async with self._turn:
            try:
                yield _Transaction(self._writer, self._in_thread)
            finally:
                with trio.CancelScope(shield=True):
                    await self._in_thread(self._writer.rollback)

    async def _in_thread(self, fn: Callable[[], R]) -> R:
        with hold_virtual_time():
            return await trio.to_thread.run_sync(fn, limiter=self._threads)


@asynccontextmanager
async def open_inline_database() -> AsyncIterator[Database]:
    """A new, empty database in memory. It goes when the block ends."""
    with _inline_engine().connect() as connection:
        yield InlineDatabase(connection)


@cache
def _inline_engine() -> Engine:
    """Each connection is a database of its own. One engine for all of them, for it keeps what it has compiled."""
    return _engine("sqlite://", poolclass=NullPool, connect_args={"check_same_thread": False})


@asynccontextmanager
async def open_threaded_database(path: str) -> AsyncIterator[Database]:
    """The database in a file, made if there is none.

    Raises:
      DatabaseError: if the file is a directory, cannot be made or written, or is no SQLite database.
    """
    url = sqlalchemy.URL.create("sqlite", database=await trio.to_thread.run_sync(_check_file, path))
    # Whoever waits for a lock waits in a thread, and connections move between threads.
    engine = _engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT})
    try:
        writer = await trio.to_thread.run_sync(engine.connect)
        try:
            yield ThreadedDatabase(path, engine, writer)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(writer.close)
    finally:
        engine.dispose()


def _engine(url: str | sqlalchemy.URL, **options: Any) -> Engine:
    engine = sqlalchemy.create_engine(url, hide_parameters=True, **options)
    tell_sessions(engine)

    # sqlite3 would begin transactions by itself, and too late to take the lock that writing needs:
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#serializable-isolation-savepoints-transactional-ddl
    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = OFF")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("romancy_begin", "BEGIN IMMEDIATE"))

    return engine


def _check_file(path: str) -> str:
    """Find out now, and say in words, what would otherwise show in the middle of some transaction.

    Returns the absolute path.
    """
    if "\0" in path:
        raise DatabaseError(f"{path!r} is no file name: it contains a NUL character")
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise DatabaseError(f"{path} is a directory; name a file in it, such as {os.path.join(path, 'romancy.db')}")
    if not os.path.isdir(directory):
        raise DatabaseError(f"{path} cannot be made: there is no directory {directory}; make it first")
    # Root may write anything: what was marked as read-only is left alone all the same.
    if os.path.exists(path) and not (os.access(path, os.W_OK) and os.stat(path).st_mode & 0o222):
        raise DatabaseError(f"{path} cannot be written; give this process write permission on the file")
    if not os.access(directory, os.W_OK):
        raise DatabaseError(
            f"{directory} cannot be written, and SQLite keeps its log beside {path}; "
            f"give this process write permission on the directory"
        )
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as connection:
            _set_wal(connection)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise DatabaseError(f"{path} cannot be used as a SQLite database: {error}") from error
    return os.path.abspath(path)


def _set_wal(connection: sqlite3.Connection) -> None:
    """Set the journal mode, which the file keeps; this alone SQLite does not wait for.

    While another connection writes the new file it says "database is locked" at once, whatever the busy timeout:
    waiting for the exclusive lock with a shared one in hand could be a deadlock.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
