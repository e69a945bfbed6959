"""The connection or the session of a caller, whichever library it is of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Protocol, TypeVar

from attrs import frozen
from sqlalchemy import Connection

from ..dialects.dbapi import driver_connection

R = TypeVar("R")

_IN_TRANSACTION = 1
"""The flag in the status of MariaDB and MySQL that says that a transaction is open."""


class Runs(Enum):
    """Where the calls of a library run."""

    HERE = auto()
    """In the calling thread, which they block."""
    IN_ASYNCIO = auto()
    """In a task of asyncio, which awaits them."""
    IN_TRIO = auto()
    """In a task of trio, which awaits them."""


class _Use(Protocol):
    def __call__(self, fn: Callable[[Connection], R], /) -> R | Awaitable[R]: ...


def _ignore(call: Callable[[], Any]) -> None:
    """Do nothing: the library has no hook."""


@frozen(eq=False)
class CallersConnection:
    """The open transaction of a caller. It is never committed, rolled back or closed here."""

    shown: str
    """What the caller has passed, for messages: ``"this connection of psycopg"``."""
    runs: Runs
    """Where :attr:`use` must be called."""
    begin: str
    """How a caller begins a transaction, for messages."""
    use: _Use
    """Runs ``fn(connection)`` in the transaction and returns its result, or an awaitable of it.

    It raises the errors of the caller's own library.
    """
    after_commit: Callable[[Callable[[], Any]], None] = _ignore
    """Has a function called at the next commit, or soon after, if the library offers that. It may be in any thread."""


def is_pipelined(connection: Connection) -> bool:
    """Return whether the connection is in psycopg's pipeline mode, where statements are not answered one by one."""
    raw = driver_connection(connection.connection.dbapi_connection)
    return bool(getattr(getattr(raw, "pgconn", None), "pipeline_status", 0))


def is_in_transaction(connection: Connection) -> bool:
    """Return whether a transaction is open, or the next write begins one. Otherwise each statement commits by itself.

    Some libraries begin a transaction only with the first statement, so there must have been one.
    """
    raw = driver_connection(connection.connection.dbapi_connection)
    if hasattr(raw, "is_in_transaction"):  # asyncpg
        return bool(raw.is_in_transaction())
    if hasattr(raw, "get_autocommit"):  # PyMySQL, aiomysql, mysqlclient
        return not raw.get_autocommit() or bool(getattr(raw, "server_status", 0) & _IN_TRANSACTION)
    if hasattr(raw, "in_transaction"):  # sqlite3, aiosqlite
        begins = raw.isolation_level is not None and getattr(raw, "autocommit", None) is not True
        return bool(raw.in_transaction or begins)
    return int(raw.info.transaction_status) != 0  # psycopg, psycopg2
