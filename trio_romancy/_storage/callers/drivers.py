"""Connections of drivers that block: psycopg, PyMySQL and sqlite3."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from .borrowed import use_borrowed
from .connection import CallersConnection, Runs
from .libraries import is_instance

R = TypeVar("R")


def adapt(given: Any) -> CallersConnection | None:
    """Return what is known of a connection of one of these drivers; None for anything else."""
    if isinstance(given, sqlite3.Connection):
        begin = "execute BEGIN IMMEDIATE first"
        return _adapted("sqlite3", "sqlite+pysqlite", given, lambda: _sqlite_cursor(given), begin)
    if is_instance(given, "psycopg", "Connection"):
        begin = "write `with connection.transaction():` around all that belongs together"
        return _adapted("psycopg", "postgresql+psycopg", given, lambda: _psycopg_cursor(given), begin)
    if is_instance(given, "pymysql.connections", "Connection"):
        return _adapted("PyMySQL", "mysql+pymysql", given, lambda: _pymysql_cursor(given), "call connection.begin()")
    return None


def _adapted(library: str, dialect: str, raw: Any, cursor: Callable[[], Any], begin: str) -> CallersConnection:
    def use(fn: Callable[[Connection], R]) -> R:
        return use_borrowed(dialect, raw, cursor, fn)

    return CallersConnection(f"this connection of {library}", Runs.HERE, begin, use)


# Callers may have set another type of rows.


def _sqlite_cursor(raw: sqlite3.Connection) -> sqlite3.Cursor:
    cursor = raw.cursor()
    cursor.row_factory = None
    return cursor


def _psycopg_cursor(raw: Any) -> Any:
    from psycopg.rows import tuple_row

    return raw.cursor(row_factory=tuple_row)


def _pymysql_cursor(raw: Any) -> Any:
    from pymysql.cursors import Cursor

    return raw.cursor(Cursor)
