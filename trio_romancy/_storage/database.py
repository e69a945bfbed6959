"""One interface to every database, and the choice of its implementation by URL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import ArgumentError

from ..errors import DatabaseError
from .drivers.urls import parse_server, read_url, shown_url

P = ParamSpec("P")
R = TypeVar("R")

POOL_SIZE = 10
"""Connections to a server, if nothing else is said."""

SQLFunction = Callable[Concatenate[Connection, P], R]
"""A plain function over a SQLAlchemy connection. All SQL of this package is written as such functions."""


class Transaction(Protocol):
    """An open transaction. It is rolled back unless :meth:`commit` is called."""

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` inside the transaction and return its result."""
        ...

    async def commit(self, last: Callable[[Connection], None]) -> None:
        """Run ``last(connection)``, and commit.

        When it raises, the fate of the transaction is unknown unless the database said otherwise.
        """
        ...


class Writer(Protocol):
    """A connection that is held by one task which writes all the time."""

    @property
    def at_once(self) -> Writer | None:
        """The same connection, where each statement is a transaction of its own.

        None: the database cannot write several tables with one, so there is no use for it. See :mod:`.at_once`.
        """
        ...

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
        ...


class Database(Protocol):
    """Runs plain functions over a connection, each in a transaction.

    Cancellation never tears a transaction: it is delivered before one begins or after it has ended.
    """

    @property
    def name(self) -> str:
        """What to call it in messages. Never holds a password."""
        ...

    @property
    def is_exclusive(self) -> bool:
        """Whether nobody outside this process can reach it, so that there is nobody to poll for."""
        ...

    @property
    def has_one_writer(self) -> bool:
        """Whether an open transaction keeps everybody else from writing."""
        ...

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
        ...

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Like :meth:`run` for a function that only reads: it does not wait for writers."""
        ...

    async def run_long(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Like :meth:`run`, however long that takes: an index over a large table is a matter of minutes.

        A cancellation is delivered at once, in the middle of a statement, and nothing is committed.
        """
        ...

    async def alter(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)``, which changes tables, however long that takes.

        On a server each statement commits by itself, on a connection that is closed afterwards; and a cancellation is
        delivered at once, in the middle of a statement, which the server may go on with.
        """
        ...

    @property
    def can_listen(self) -> bool:
        """Whether :meth:`listen` tells what other processes have made due, so that there is less need to look."""
        ...

    async def listen(self, on_notify: Callable[[str], None]) -> None:
        """Call ``on_notify`` when some process has made something due, and when that may have been missed.

        It is told the worker that this belongs to; an empty text means whoever takes it.

        It holds a connection of its own, and makes another one when that is lost, until it is cancelled.
        """
        ...

    def open_writer(self) -> AbstractAsyncContextManager[Writer]:
        """A connection apart, which waits for nobody who uses the others."""
        ...

    def open_transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that lasts until the block ends."""
        ...


def open_database(url: str, *, pool_size: int = POOL_SIZE) -> AbstractAsyncContextManager[Database]:
    """The database that a URL or a file name means.

    Args:
      url: ``":memory:"``, a file name, ``sqlite:///file``, or the URL of a server:
        ``mysql://``, ``mariadb://``, ``postgres://`` or ``postgresql://`` with user, password, host and database.
        Of several hosts, as in ``mysql://user@one:3306,two:3306/database``, the first is used that can be.
      pool_size: the most connections to a server, beside one that only writes the journal.

    Raises:
      DatabaseError: naming the URL (without its password) and what to do, if it cannot be used. Most causes show
        when the block is entered.
    """
    from .drivers.sqlite import open_inline_database, open_threaded_database

    if not isinstance(url, str) or not url.strip():
        raise DatabaseError(f"a database is a file name, ':memory:' or a URL, not {url!r}")
    if url == ":memory:":
        return open_inline_database()
    if "://" not in url:
        return open_threaded_database(url)
    try:
        parsed, hosts = read_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseError(
            "the database URL cannot be parsed; it looks like sqlite:///orders.db or mysql://user@host/database"
        ) from None
    shown = shown_url(url)
    if parsed.get_backend_name() != "sqlite":
        from .drivers.asyncio_server import open_aio_database

        return open_aio_database(parse_server(parsed, shown, hosts), pool_size)
    if parsed.host or parsed.query or parsed.get_driver_name() not in ("pysqlite", "sqlite"):
        raise DatabaseError(f"{shown}: a SQLite URL is sqlite:///file, with three slashes and no options")
    if parsed.database in (None, "", ":memory:"):
        return open_inline_database()
    return open_threaded_database(parsed.database)
