"""Connections of drivers for asyncio: asyncpg, aiomysql, and psycopg's own.

SQLAlchemy calls a driver as if it blocked. Each call is awaited by a coroutine around it: see SQLAlchemy's
:func:`~sqlalchemy.util.greenlet_spawn`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.util import await_only, greenlet_spawn

from .borrowed import use_borrowed
from .connection import CallersConnection, Runs
from .libraries import is_instance

R = TypeVar("R")


def adapt(given: Any) -> CallersConnection | None:
    """Return what is known of a connection of one of these drivers; None for anything else."""
    if is_instance(given, "asyncpg", "Connection") or is_instance(given, "asyncpg.pool", "PoolConnectionProxy"):
        begin = "write `async with connection.transaction():` around all that belongs together"
        return _adapted("asyncpg", "postgresql+asyncpg", given, lambda: _AsyncpgCursor(given), begin)
    if is_instance(given, "psycopg", "AsyncConnection"):
        begin = "write `async with connection.transaction():` around all that belongs together"
        return _adapted("psycopg", "postgresql+psycopg", given, lambda: _psycopg_cursor(given), begin)
    if is_instance(given, "aiomysql.connection", "Connection"):
        begin = "call `await connection.begin()`"
        return _adapted("aiomysql", "mysql+pymysql", given, lambda: _aiomysql_cursor(given), begin)
    return None


def _adapted(library: str, dialect: str, raw: Any, cursor: Callable[[], Any], begin: str) -> CallersConnection:
    async def use(fn: Callable[[Connection], R]) -> R:
        return await greenlet_spawn(use_borrowed, dialect, raw, cursor, fn)

    return CallersConnection(f"this connection of {library}", Runs.IN_ASYNCIO, begin, use)


def _psycopg_cursor(raw: Any) -> _AwaitingCursor:
    from psycopg.rows import tuple_row

    return _AwaitingCursor(raw.cursor(row_factory=tuple_row))


def _aiomysql_cursor(raw: Any) -> _AwaitingCursor:
    from aiomysql.cursors import Cursor

    return _AwaitingCursor(await_only(raw.cursor(Cursor)))


class _AwaitingCursor:
    """A DBAPI cursor over one whose methods are coroutine functions. All rows are fetched with the statement."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._rows: list[Any] = []

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> Any:
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> Any:
        return self._cursor.lastrowid

    def execute(self, statement: str, parameters: Any = None) -> None:
        await_only(self._cursor.execute(statement, parameters))
        self._rows = list(await_only(self._cursor.fetchall())) if self._cursor.description else []

    def executemany(self, statement: str, parameters: Any) -> None:
        await_only(self._cursor.executemany(statement, parameters))

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        closing = self._cursor.close()
        if closing is not None:
            await_only(closing)


_COUNT = re.compile(r"(?:SELECT|UPDATE|DELETE|INSERT \d+) (\d+)")


class _AsyncpgCursor:
    """A DBAPI cursor over a connection of asyncpg, which has none. All rows are fetched with the statement."""

    description: list[tuple[Any, ...]] | None = None
    rowcount = -1
    _invalidate_schema_cache_asof = 0.0
    """Set by SQLAlchemy, for its own cursor."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._rows: list[Any] = []

    def execute(self, statement: str, parameters: Sequence[Any] | None = None) -> None:
        await_only(self._execute(statement, parameters or ()))

    async def _execute(self, statement: str, parameters: Sequence[Any]) -> None:
        import asyncpg

        # The name, or the lack of one, is that of the connection's own settings, as PgBouncer may need them.
        prepared = await self._raw.prepare(statement, record_class=asyncpg.Record)
        self._rows = [tuple(row) for row in await prepared.fetch(*parameters)]
        columns = [(column.name, column.type.oid, *[None] * 5) for column in prepared.get_attributes()]
        self.description = columns or None
        count = _COUNT.match(prepared.get_statusmsg() or "")
        self.rowcount = -1 if count is None else int(count[1])

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        await_only(self._raw.executemany(statement, rows))

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        self._rows = []
