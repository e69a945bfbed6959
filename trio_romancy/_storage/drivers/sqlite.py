"""SQLite: a file, which threads read and write, or ``:memory:``, used directly in the trio thread."""

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
from ..database import Database, SQLFunction, ThreadConnection, Transaction, Writer
from ..session import report_lost_transactions
from .sqlite_files import OpenFiles

P = ParamSpec("P")
R = TypeVar("R")

BUSY_TIMEOUT = 5.0
"""Time that SQLite itself waits for a lock of another process before it raises, in seconds."""

_THREADS = 8
"""Most threads at once: one writes, the others read."""


@define(eq=False)
class _Transaction:
    """An open transaction on the connection that writes."""

    _connection: Connection
    _call: Callable[..., Any]
    """Async function that runs a plain function where the connection may be used."""
    _check: Callable[[], None] | None = None
    """Called after a commit, to raise if what was committed is lost."""

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = await self._call(lambda: fn(self._connection, *args, **kwargs))
        return result

    async def commit(self, last: Callable[[Connection], None]) -> None:
        def finish() -> None:
            last(self._connection)
            self._connection.commit()
            if self._check is not None:
                self._check()

        await self._call(finish)


def _turn() -> trio.Semaphore:
    # Not a trio.Lock: one task can begin a transaction and another end it.
    return trio.Semaphore(1, max_value=1)


async def _take(turn: trio.Semaphore) -> None:
    """Wait for the turn. If it is free, take it without a checkpoint, which would delay each commit."""
    try:
        turn.acquire_nowait()
    except trio.WouldBlock:
        await turn.acquire()


@define(eq=False)
class InlineDatabase:
    """A :class:`~.database.Database` of SQLite in memory, used in the trio thread itself.

    It is fast and deterministic, and has no thread that a :class:`trio.testing.MockClock` could overtake. It has one
    connection, so a read while a transaction is open sees what that transaction has written so far.
    """

    _connection: Connection
    _turn: trio.Semaphore = field(factory=_turn)
    name = "the SQLite database in memory"
    is_exclusive = True
    has_one_writer = True
    is_pooled = False
    can_listen = False
    autocommit = None

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

    def end_by(self, deadline: float) -> None:
        pass

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        yield self

    def thread_connection(self) -> ThreadConnection:
        raise RuntimeError("a database in memory has no other connection")

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
    """A :class:`~.database.Database` in a SQLite file in WAL mode: one connection writes, and no reader waits."""

    name: str
    _engine: Engine
    _writer: Connection
    _files: OpenFiles
    _turn: trio.Semaphore = field(factory=_turn)
    """Held while the connection that writes is in use. It is fair; SQLite's own lock is not."""
    _threads: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(_THREADS))
    """A limiter of its own: other work in threads may use up trio's default limiter."""
    is_exclusive = False
    has_one_writer = True
    is_pooled = False
    can_listen = False
    autocommit = None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def transaction() -> R:
            with self._writer.begin():
                result = fn(self._writer, *args, **kwargs)
            self._files.check()  # what was committed to a deleted file is not durable
            return result

        await _take(self._turn)
        try:
            return await self._in_thread(transaction)
        finally:
            self._turn.release()

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def transaction() -> R:
            self._files.check()
            with self._engine.connect() as connection:
                return fn(connection.execution_options(romancy_begin="BEGIN"), *args, **kwargs)

        return await self._in_thread(transaction)

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(fn, *args, **kwargs)

    def end_by(self, deadline: float) -> None:
        pass

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        yield self

    def thread_connection(self) -> ThreadConnection:
        return _ThreadConnection(self._engine, self._files)

    @asynccontextmanager
    async def open_transaction(self) -> AsyncIterator[Transaction]:
        async with self._turn:
            try:
                yield _Transaction(self._writer, self._in_thread, self._files.check)
            finally:
                with trio.CancelScope(shield=True):
                    await self._in_thread(self._writer.rollback)

    async def _in_thread(self, fn: Callable[[], R]) -> R:
        with hold_virtual_time():
            return await trio.to_thread.run_sync(fn, limiter=self._threads)


@define(eq=False)
class _ThreadConnection:
    """A connection for a thread: one of the pool's each time, because it is made quickly."""

    _engine: Engine
    _files: OpenFiles

    def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._files.check()
        with self._engine.connect() as connection, connection.begin():
            result = fn(connection, *args, **kwargs)
        self._files.check()
        return result

    def close(self) -> None:
        pass


@asynccontextmanager
async def open_inline_database() -> AsyncIterator[Database]:
    """Create an empty database in memory, which lasts until the block ends."""
    with _inline_engine().connect() as connection:
        yield InlineDatabase(connection)


@cache
def _inline_engine() -> Engine:
    """Return the engine of all databases in memory, shared for its cache of compiled SQL. Each connection is one."""
    return _engine("sqlite://", poolclass=NullPool, connect_args={"check_same_thread": False})


@asynccontextmanager
async def open_threaded_database(path: str) -> AsyncIterator[Database]:
    """Open the database in a file, and create the file if it does not exist.

    Raises:
      DatabaseError: if the path is a directory, or the file cannot be created or written or is not a SQLite database.
    """
    url = sqlalchemy.URL.create("sqlite", database=await trio.to_thread.run_sync(_check_file, path))
    # SQLite waits for a lock in a thread, and connections move between threads.
    engine = _engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT})
    try:
        writer = await trio.to_thread.run_sync(engine.connect)
        try:
            files = OpenFiles(url.database or path)
            files.check()
            yield ThreadedDatabase(path, engine, writer, files)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(writer.close)
    finally:
        engine.dispose()


def _engine(url: str | sqlalchemy.URL, **options: Any) -> Engine:
    engine = sqlalchemy.create_engine(url, hide_parameters=True, **options)
    report_lost_transactions(engine)

    # By itself, sqlite3 begins transactions too late to take the lock that writing needs:
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#serializable-isolation-savepoints-transactional-ddl
    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        connection.text_factory = _text
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = OFF")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("romancy_begin", "BEGIN IMMEDIATE"))

    return engine


def _text(stored: bytes) -> str | bytes:
    """Return stored text; as it is stored if it is damaged, so that only its own row cannot be read."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


def _check_file(path: str) -> str:
    """Check that a file can be used, so that what is wrong does not show only in the middle of a transaction.

    Returns its absolute path.
    """
    if "\0" in path:
        raise DatabaseError(f"{path!r} is not a file name: it contains a NUL character")
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise DatabaseError(f"{path} is a directory; name a file in it, such as {os.path.join(path, 'romancy.db')}")
    if not os.path.isdir(directory):
        raise DatabaseError(f"{path} cannot be created: there is no directory {directory}; create it first")
    # Root may write anything, so the mode is checked too: a file marked as read-only is left alone.
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
    """Set the journal mode, which the file keeps.

    SQLite ignores the busy timeout here. While another connection writes the new file, SQLite raises "database is
    locked" at once: it holds a shared lock, and waiting for the exclusive one could deadlock.
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
