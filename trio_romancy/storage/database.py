"""One interface to every database, and the choice of its implementation by URL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ..errors import DatabaseError
from .urls import parse_server

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

    def open_writer(self) -> AbstractAsyncContextManager[Writer]:
        """A connection apart, which waits for nobody who uses the others."""
        ...

    def open_transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that lasts until the block ends."""
        ...


def shown_url(url: str) -> str:
    """The URL as it may be shown: without its password and its options."""
    if "://" not in str(url):
        return str(url)
    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "the database URL"


def open_database(url: str, *, pool_size: int = POOL_SIZE) -> AbstractAsyncContextManager[Database]:
    """The database that a URL or a file name means.

    Args:
      url: ``":memory:"``, a file name, ``sqlite:///file``, or the URL of a server:
        ``mysql://``, ``mariadb://``, ``postgres://`` or ``postgresql://`` with user, password, host and database.
      pool_size: the most connections to a server, beside one that only writes the journal.

    Raises:
      DatabaseError: naming the URL (without its password) and what to do, if it cannot be used. Most causes show
        when the block is entered.
    """
    from .sqlite import open_inline_database, open_threaded_database

    if not isinstance(url, str) or not url.strip():
        raise DatabaseError(f"a database is a file name, ':memory:' or a URL, not {url!r}")
    if url == ":memory:":
        return open_inline_database()
    if "://" not in url:
        return open_threaded_database(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseError(
            "the database URL cannot be parsed; it looks like sqlite:///orders.db or mysql://user@host/database"
        ) from None
    shown = shown_url(url)
    if parsed.get_backend_name() != "sqlite":
        from .aio import open_aio_database

        return open_aio_database(parse_server(parsed, shown), pool_size)
    if parsed.host or parsed.query or parsed.get_driver_name() not in ("pysqlite", "sqlite"):
        raise DatabaseError(f"{shown}: a SQLite URL is sqlite:///file, with three slashes and no options")
    if parsed.database in (None, "", ":memory:"):
        return open_inline_database()
    return open_threaded_database(parsed.database)
