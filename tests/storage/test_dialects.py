"""Which errors mean an outage, and where the package knows which database it talks to."""

from __future__ import annotations

import ast
from pathlib import Path

import asyncpg
import pymysql
import pytest
from sqlalchemy.exc import DBAPIError

import trio_romancy
from trio_romancy._storage.dialects.errors import is_transient
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
