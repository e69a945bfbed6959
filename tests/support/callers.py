"""Programs with a transaction of their own, one for each library that ``app.start_in`` takes a connection of.

Each has the same methods, so that one test can be run with all of them. They run in a trio task; those for asyncio need
a loop of trio-asyncio around them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import aiomysql
import asyncpg
import psycopg
import psycopg.rows
import pymysql
import pymysql.cursors
import sqlalchemy as sa
import sqlalchemy.orm
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool
from trio_asyncio import aio_as_trio


class Caller(Protocol):
    """A program that uses one library. What it passes to the app is in ``connection``."""

    connection: Any

    async def open(self, url: str, *, autocommit: bool) -> None:
        """Connect. With ``autocommit``, each statement commits by itself."""
        ...

    async def execute(self, statement: str) -> None:
        """Run a statement without a result, which begins a transaction if the library does not do that by itself."""
        ...

    async def savepoint(self) -> None: ...
    async def roll_back_to_savepoint(self) -> None: ...
    async def commit(self) -> None: ...
    async def roll_back(self) -> None: ...
    async def close(self) -> None: ...


class _WithSavepointsInSQL:
    async def execute(self, statement: str) -> None:
        raise NotImplementedError

    async def savepoint(self) -> None:
        await self.execute("SAVEPOINT here")

    async def roll_back_to_savepoint(self) -> None:
        await self.execute("ROLLBACK TO SAVEPOINT here")


def arguments(url: str, database: str) -> dict[str, Any]:
    """Return the arguments of a driver; ``database`` is what it calls the database."""
    parsed = make_url(url)
    return {"host": parsed.host, "port": parsed.port, "user": parsed.username, database: parsed.database}


class _Blocking(_WithSavepointsInSQL):
    connection: Any

    async def execute(self, statement: str) -> None:
        self.connection.cursor().execute(statement)

    async def commit(self) -> None:
        self.connection.commit()

    async def roll_back(self) -> None:
        self.connection.rollback()

    async def close(self) -> None:
        self.connection.close()


class Sqlite3(_Blocking):
    async def open(self, url: str, *, autocommit: bool) -> None:
        self.connection = sqlite3.connect(url, isolation_level=None if autocommit else "IMMEDIATE")
        self.connection.row_factory = lambda cursor, row: {"unlike": "a tuple"}


class Psycopg(_Blocking):
    async def open(self, url: str, *, autocommit: bool) -> None:
        row_factory: Any = psycopg.rows.dict_row
        connect_to = arguments(url, "dbname")
        self.connection = psycopg.connect(**connect_to, autocommit=autocommit, row_factory=row_factory)


class PyMySQL(_Blocking):
    async def open(self, url: str, *, autocommit: bool) -> None:
        self.connection = pymysql.connect(
            **arguments(url, "database"), autocommit=autocommit, cursorclass=pymysql.cursors.DictCursor
        )
        self.connection.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


class _ForAsyncio(_WithSavepointsInSQL):
    connection: Any

    async def execute(self, statement: str) -> None:
        async def execute() -> None:
            async with self.connection.cursor() as cursor:
                await cursor.execute(statement)

        await in_asyncio(execute)

    async def commit(self) -> None:
        await in_asyncio(self.connection.commit)

    async def roll_back(self) -> None:
        await in_asyncio(self.connection.rollback)

    async def close(self) -> None:
        await in_asyncio(self.connection.close)


class AsyncPsycopg(_ForAsyncio):
    async def open(self, url: str, *, autocommit: bool) -> None:
        connect_to: Any = arguments(url, "dbname")
        self.connection = await aio_as_trio(psycopg.AsyncConnection.connect)(**connect_to, autocommit=autocommit)


class Aiomysql(_ForAsyncio):
    async def open(self, url: str, *, autocommit: bool) -> None:
        connect_to = arguments(url, "db")
        self.connection = await aio_as_trio(aiomysql.connect)(**connect_to, autocommit=autocommit)
        await self.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    async def close(self) -> None:
        self.connection.close()


class Asyncpg(_WithSavepointsInSQL):
    """Commits each statement by itself outside of a transaction that is begun by hand."""

    connection: Any

    async def open(self, url: str, *, autocommit: bool) -> None:
        self.connection = await aio_as_trio(asyncpg.connect)(**arguments(url, "database"))
        self._begins = not autocommit
        self._transaction: Any = None

    async def execute(self, statement: str) -> None:
        if self._transaction is None and self._begins:
            self._transaction = self.connection.transaction()
            await in_asyncio(self._transaction.start)
        await in_asyncio(lambda: self.connection.execute(statement))

    async def commit(self) -> None:
        transaction, self._transaction = self._transaction, None
        await in_asyncio(transaction.commit)

    async def roll_back(self) -> None:
        transaction, self._transaction = self._transaction, None
        await in_asyncio(transaction.rollback)

    async def close(self) -> None:
        await in_asyncio(self.connection.close)


_SYNC = {"mysql": "mysql+pymysql", "mariadb": "mysql+pymysql", "postgresql": "postgresql+psycopg"}
_ASYNC = {"mysql": "mysql+aiomysql", "mariadb": "mysql+aiomysql", "postgresql": "postgresql+asyncpg"}


def sqlalchemy_url(url: str, drivers: dict[str, str], sqlite: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create(sqlite, database=url)
    parsed = make_url(url)
    return parsed.set(drivername=drivers[parsed.drivername])


def _options(url: str, *, autocommit: bool) -> dict[str, Any]:
    if autocommit:
        return {"isolation_level": "AUTOCOMMIT", "poolclass": NullPool}
    return {"poolclass": NullPool} | ({"isolation_level": "READ COMMITTED"} if "://" in url else {})


class SQLAlchemyConnection:
    connection: Any

    async def open(self, url: str, *, autocommit: bool) -> None:
        made = sqlalchemy_url(url, _SYNC, "sqlite")
        self._engine = sa.create_engine(made, **_options(url, autocommit=autocommit))
        self.connection = self._make()

    def _make(self) -> Any:
        return self._engine.connect()

    async def execute(self, statement: str) -> None:
        self.connection.execute(sa.text(statement))

    async def savepoint(self) -> None:
        self._savepoint = self.connection.begin_nested()

    async def roll_back_to_savepoint(self) -> None:
        self._savepoint.rollback()

    async def commit(self) -> None:
        self.connection.commit()

    async def roll_back(self) -> None:
        self.connection.rollback()

    async def close(self) -> None:
        self.connection.close()


class SQLAlchemySession(SQLAlchemyConnection):
    def _make(self) -> Any:
        return sqlalchemy.orm.Session(self._engine)


class SQLAlchemyScopedSession(SQLAlchemyConnection):
    def _make(self) -> Any:
        return sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(self._engine))


class SQLAlchemyAsyncConnection:
    connection: Any

    async def open(self, url: str, *, autocommit: bool) -> None:
        made = sqlalchemy_url(url, _ASYNC, "sqlite+aiosqlite")
        self._engine = create_async_engine(made, **_options(url, autocommit=autocommit))
        self.connection = await self._make()

    async def _make(self) -> Any:
        return await in_asyncio(self._engine.connect().start)

    async def execute(self, statement: str) -> None:
        await in_asyncio(lambda: self.connection.execute(sa.text(statement)))

    async def savepoint(self) -> None:
        self._savepoint = await in_asyncio(self.connection.begin_nested().start)

    async def roll_back_to_savepoint(self) -> None:
        await in_asyncio(self._savepoint.rollback)

    async def commit(self) -> None:
        await in_asyncio(self.connection.commit)

    async def roll_back(self) -> None:
        await in_asyncio(self.connection.rollback)

    async def close(self) -> None:
        await in_asyncio(self.connection.close)


class SQLAlchemyAsyncSession(SQLAlchemyAsyncConnection):
    async def _make(self) -> Any:
        return AsyncSession(self._engine)


async def in_asyncio(fn: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def call() -> Any:
        return await fn()

    return await aio_as_trio(call)()


_EVERYWHERE = (
    SQLAlchemyConnection,
    SQLAlchemySession,
    SQLAlchemyScopedSession,
    SQLAlchemyAsyncConnection,
    SQLAlchemyAsyncSession,
)
LIBRARIES: dict[str, tuple[type[Caller], ...]] = {
    "file": (Sqlite3, *_EVERYWHERE),
    "mariadb": (PyMySQL, Aiomysql, *_EVERYWHERE),
    "postgresql": (Psycopg, AsyncPsycopg, Asyncpg, *_EVERYWHERE),
}
"""The libraries for each kind of database."""
