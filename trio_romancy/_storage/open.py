"""Chooses the implementation of a database by its URL."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from attrs import evolve
from sqlalchemy.exc import ArgumentError

from ..errors import DatabaseError
from .database import Database
from .drivers.sqlite import open_inline_database, open_threaded_database
from .drivers.urls import Server, backend_of, is_file_name, parse_server, read_url, shown_url

POOL_SIZE = 10
"""Default number of connections to a server."""


def open_database(
    url: str, *, pool_size: int = POOL_SIZE, direct_url: str | None = None, schema: str | None = None
) -> AbstractAsyncContextManager[Database]:
    """Open the database of a URL or a file name.

    Args:
      url: ``":memory:"``, a file name, ``sqlite:///file``, or the URL of a server: ``mysql://``, ``mariadb://``,
        ``postgres://`` or ``postgresql://`` with user, password, host and database. A URL can name several hosts, as in
        ``mysql://user@one:3306,two:3306/database``: the first of them that can be used is used.
      pool_size: the most connections to a server, besides the one that writes the journal.
      direct_url: the URL of the same database past a pooler of connections, for notifications.
      schema: the schema of the tables, on PostgreSQL; None: the usual one.

    Raises:
      DatabaseError: if the database cannot be used. The message names the URL, without its password, and what to do.
        Most causes are found when the block is entered.
    """
    if not isinstance(url, str) or not url.strip():
        raise DatabaseError(f"a database is a file name, ':memory:' or a URL, not {url!r}")
    if schema is not None and backend_of(url) != "postgresql":
        raise DatabaseError(f"{shown_url(url)}: a schema is for PostgreSQL; elsewhere give each app its own database")
    direct = None if direct_url is None else evolve(_direct_server(url, direct_url), schema=schema)
    if url == ":memory:":
        return open_inline_database()
    if is_file_name(url):
        return open_threaded_database(url)
    try:
        parsed, hosts = read_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseError(
            "the database URL cannot be parsed; it looks like sqlite:///orders.db or mysql://user@host/database, "
            "with any @ in a password written as %40"
        ) from None
    shown = shown_url(url)
    if parsed.get_backend_name() != "sqlite":
        from .drivers.asyncio_server import open_server_database  # only now: it imports trio-asyncio

        return open_server_database(evolve(parse_server(parsed, shown, hosts), schema=schema), pool_size, direct)
    if parsed.host or parsed.query or parsed.get_driver_name() not in ("pysqlite", "sqlite"):
        raise DatabaseError(f"{shown}: a SQLite URL is sqlite:///file, with three slashes and no options")
    if parsed.database in (None, "", ":memory:"):
        return open_inline_database()
    return open_threaded_database(parsed.database)


def _direct_server(url: str, direct_url: str) -> Server:
    if backend_of(url) != "postgresql" or backend_of(direct_url) != "postgresql":
        raise DatabaseError("direct_url is for PostgreSQL behind a pooler of connections, and is a postgresql:// URL")
    try:
        parsed, hosts = read_url(direct_url)
    except (ArgumentError, ValueError):
        raise DatabaseError("direct_url cannot be parsed; it looks like postgresql://user@host/database") from None
    return parse_server(parsed, shown_url(direct_url), hosts)
