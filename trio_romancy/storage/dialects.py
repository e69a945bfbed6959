"""What differs between databases. No other file asks which one it talks to."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Insert, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError


def insert_if_absent(table: Table) -> Insert:
    """An INSERT that leaves a row with the same primary key as it is."""
    return sqlite.insert(table).on_conflict_do_nothing()


_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction can succeed later: the database is away, busy or full."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, sqlite3.Error):
        return False
    # The low byte is the primary code: https://www.sqlite.org/rescode.html
    return getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _SQLITE_AWAY
