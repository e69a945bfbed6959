"""Which errors are an outage, and which are not."""

from __future__ import annotations

import asyncpg
import pymysql
import pytest
from sqlalchemy.exc import DBAPIError

from trio_romancy._storage.dialects.errors import is_transient
from trio_romancy.errors import DatabaseAwayError, DatabaseError


def wrapped(cause: Exception) -> DBAPIError:
    """As SQLAlchemy raises it: its own error for the driver's, which came from another one."""
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
