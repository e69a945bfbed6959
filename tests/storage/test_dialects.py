"""Which errors mean an outage, and where the package knows which database it talks to."""

from __future__ import annotations

import ast
import sqlite3
from pathlib import Path

import asyncpg
import pymysql
import pytest
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError

import trio_romancy
from trio_romancy._storage.dialects.errors import is_cut_off, is_outage, is_transient
from trio_romancy.errors import DatabaseAwayError, DatabaseError


def wrapped(cause: Exception) -> DBAPIError:
    """Return an error as SQLAlchemy raises it: its own, for one of the driver that another error caused."""
    error = RuntimeError(str(cause))
    error.__cause__ = cause
    return DBAPIError("SELECT 1", {}, error)


AWAY = [
    DatabaseAwayError("no answer"),
    pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"),
    pymysql.err.OperationalError(2013, "Lost connection"),
    pymysql.err.InternalError(1020, "Record has changed"),
    pymysql.err.InternalError("Packet sequence number wrong - got 5 expected 1"),
    DBAPIError("SELECT 1", {}, pymysql.err.OperationalError(1213, "Deadlock found")),
    DBAPIError("SELECT 1", {}, pymysql.err.InterfaceError(0, ""), connection_invalidated=True),
    asyncpg.exceptions.DeadlockDetectedError("deadlock"),
    asyncpg.exceptions.CannotConnectNowError("starting up"),
    asyncpg.exceptions.TooManyConnectionsError("too many"),
    asyncpg.exceptions.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
    wrapped(asyncpg.exceptions.InternalClientError("cannot switch to state 15")),
]
PERMANENT = [
    DatabaseError("unknown database"),
    ConnectionError("of some other service"),
    TimeoutError(),
    pymysql.err.IntegrityError(1062, "Duplicate entry"),
    pymysql.err.IntegrityError(1062, "Duplicate entry 'Packet sequence number wrong'"),
    pymysql.err.OperationalError(1045, "Access denied"),
    asyncpg.exceptions.UniqueViolationError("twice"),
    asyncpg.exceptions.InvalidPasswordError("no"),
    wrapped(ValueError("no")),
]


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_the_same_transaction_can_succeed_later(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_the_same_transaction_would_fail_again(error: Exception) -> None:
    assert not is_transient(error)


def raised(cause: Exception, kind: type[DBAPIError] = OperationalError) -> DBAPIError:
    """Return an error of a driver as SQLAlchemy raises it."""
    return kind("INSERT", {}, cause)


def of_asyncpg(sqlstate: str, kind: type[DBAPIError] = DBAPIError) -> DBAPIError:
    """Return an error of PostgreSQL as SQLAlchemy raises it."""
    error = RuntimeError(sqlstate)
    error.sqlstate = sqlstate  # type: ignore[attr-defined]
    return kind("INSERT", {}, error)


CUT_OFF = [
    raised(pymysql.err.OperationalError(1317, "Query execution was interrupted")),
    raised(pymysql.err.OperationalError(1969, "max_statement_time exceeded")),
    raised(pymysql.err.OperationalError(3024, "maximum statement execution time exceeded")),
    of_asyncpg("57014"),
    of_asyncpg("25P04"),
]
OUR_OWN = [
    *CUT_OFF,
    DBAPIError("SELECT 1", {}, pymysql.err.OperationalError(1213, "Deadlock found")),
    raised(pymysql.err.ProgrammingError(1146, "Table does not exist"), ProgrammingError),
    raised(pymysql.err.OperationalError(9999, "nothing is known of it")),
    raised(sqlite3.OperationalError("no such table")),
    raised(sqlite3.DatabaseError("database disk image is malformed"), DBAPIError),
    of_asyncpg("42P01", ProgrammingError),
    of_asyncpg("25P02"),
    of_asyncpg("XX000"),
]
OF_THE_ROW = [
    raised(pymysql.err.IntegrityError(1062, "Duplicate entry"), IntegrityError),
    raised(pymysql.err.DataError(1406, "Data too long"), DataError),
    raised(pymysql.err.OperationalError(4025, "CONSTRAINT failed")),
    raised(pymysql.err.OperationalError(1644, "a trigger says no")),
    raised(sqlite3.IntegrityError("UNIQUE constraint failed"), IntegrityError),
    raised(sqlite3.DataError("string or blob too big"), DataError),
    of_asyncpg("22003"),
    of_asyncpg("23505", IntegrityError),
    of_asyncpg("P0001"),
    of_asyncpg("22000"),
    OverflowError("Python int too large to convert to SQLite INTEGER"),
]


@pytest.mark.parametrize("error", CUT_OFF, ids=repr)
def test_a_statement_that_was_killed_or_timed_out_is_cut_off(error: Exception) -> None:
    assert is_cut_off(error)
    assert not is_transient(error)  # a statement of the user may be too slow each time


@pytest.mark.parametrize("error", OUR_OWN, ids=repr)
def test_an_error_of_the_engines_own_sql_that_does_not_concern_the_row_is_an_outage(error: Exception) -> None:
    assert is_outage(error)


@pytest.mark.parametrize("error", OF_THE_ROW, ids=repr)
def test_an_error_that_concerns_the_row_is_no_outage(error: Exception) -> None:
    assert not is_outage(error)


# -- where databases differ --------------------------------------------------------------------------------------------

PACKAGE = Path(trio_romancy.__file__).parent


def asks_which_database(node: ast.AST) -> bool:
    """Whether code reads ``dialect.name`` or ``....dialect.name``, or SQLAlchemy's ``is_mariadb``."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = node.value
    is_dialect = (isinstance(owner, ast.Attribute) and owner.attr == "dialect") or (
        isinstance(owner, ast.Name) and owner.id == "dialect"
    )
    return node.attr == "is_mariadb" or (node.attr == "name" and is_dialect)


def test_one_module_chooses_by_the_name_of_the_database() -> None:
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(asks_which_database(node) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert asking == {"_storage/dialects/__init__.py", "_storage/dialects/mysql.py"}  # the second: MariaDB or MySQL
