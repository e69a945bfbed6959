"""Classifies the errors of databases: an outage, a race that was lost, or a fault that stays."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from ...errors import DatabaseAwayError, DatabaseError

# The low byte of an error code of SQLite is the primary code: https://www.sqlite.org/rescode.html
_SQLITE_TRANSIENT = frozenset(
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

# https://mariadb.com/kb/en/mariadb-error-code-reference, https://dev.mysql.com/doc/mysql-errors/8.0/en
_MYSQL_TRANSIENT = frozenset(
    {
        1020,  # ER_CHECKREAD: the row has changed since the snapshot
        1021,  # ER_DISK_FULL
        1037,  # ER_OUTOFMEMORY
        1038,  # ER_OUT_OF_SORTMEMORY
        1040,  # ER_CON_COUNT_ERROR
        1041,  # ER_OUT_OF_RESOURCES
        1047,  # ER_UNKNOWN_COM_ERROR: a node of a cluster that is not ready
        1053,  # ER_SERVER_SHUTDOWN
        1114,  # ER_RECORD_FILE_FULL
        1135,  # ER_CANT_CREATE_THREAD
        1152,  # ER_ABORTING_CONNECTION
        1158,  # ER_NET_READ_ERROR
        1159,  # ER_NET_READ_INTERRUPTED
        1160,  # ER_NET_ERROR_ON_WRITE
        1161,  # ER_NET_WRITE_INTERRUPTED
        1180,  # ER_ERROR_DURING_COMMIT: a cluster has come apart
        1203,  # ER_TOO_MANY_USER_CONNECTIONS
        1205,  # ER_LOCK_WAIT_TIMEOUT
        1206,  # ER_LOCK_TABLE_FULL
        1213,  # ER_LOCK_DEADLOCK
        1226,  # ER_USER_LIMIT_REACHED
        1290,  # ER_OPTION_PREVENTS_STATEMENT: --read-only, during a failover
        1792,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
        1836,  # ER_READ_ONLY_MODE
        1927,  # ER_CONNECTION_KILLED
        2002,  # CR_CONNECTION_ERROR
        2003,  # CR_CONN_HOST_ERROR
        2006,  # CR_SERVER_GONE_ERROR
        2013,  # CR_SERVER_LOST
        2055,  # CR_SERVER_LOST_EXTENDED
        3572,  # ER_LOCK_NOWAIT
        4031,  # ER_CLIENT_INTERACTION_TIMEOUT
    }
)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_TRANSIENT = (
    "08",  # connection exception
    "25006",  # read only transaction: during a failover
    "25P03",  # idle in transaction for too long: see limits.IDLE_TIMEOUT
    "40",  # transaction rollback: deadlock, serialization failure
    "53",  # insufficient resources: too many connections, disk full
    "55P03",  # lock not available
    "57P",  # operator intervention: shutdown, starting up
    "58030",  # I/O error
)

# A statement that was killed, or took longer than the server allows.
_CUT_OFF = frozenset(
    {
        1317,  # ER_QUERY_INTERRUPTED
        1969,  # ER_STATEMENT_TIMEOUT: max_statement_time of MariaDB
        3024,  # ER_QUERY_TIMEOUT: max_execution_time of MySQL
        "25P04",  # transaction timeout
        "57014",  # query canceled: statement_timeout, or pg_cancel_backend
    }
)

# Errors of a row that is written, besides those that drivers call integrity and data errors.
_OF_THE_ROW = frozenset(
    {
        1118,  # ER_TOO_BIG_ROWSIZE
        1153,  # ER_NET_PACKET_TOO_LARGE
        1301,  # ER_WARN_ALLOWED_PACKET_OVERFLOWED
        1644,  # ER_SIGNAL_EXCEPTION: a trigger refuses the row
        3819,  # ER_CHECK_CONSTRAINT_VIOLATED
        4025,  # ER_CONSTRAINT_FAILED
    }
)
_POSTGRESQL_OF_THE_ROW = (
    "22",  # data exception
    "23",  # integrity constraint violation
    "44",  # with check option violation
    "54",  # program limit exceeded: the row is too large for an index
    "P0001",  # raise exception: a trigger refuses the row
)

_OF_THIS_SERVER = frozenset(
    {
        1047,  # ER_UNKNOWN_COM_ERROR: a node of a cluster that is not ready
        1053,  # ER_SERVER_SHUTDOWN
        1290,  # ER_OPTION_PREVENTS_STATEMENT: --read-only, after a failover
        1792,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
        1836,  # ER_READ_ONLY_MODE
        "25006",  # read only transaction
    }
)

# Codes of MariaDB and MySQL: where each step of a migration commits by itself, two processes can do the same step.
_ALREADY_APPLIED = frozenset(
    {
        1050,  # ER_TABLE_EXISTS_ERROR
        1060,  # ER_DUP_FIELDNAME
        1061,  # ER_DUP_KEYNAME
        1062,  # ER_DUP_ENTRY: the first revision
        1684,  # ER_WARN_I_S_SKIPPED_TABLE: another process is altering the table
    }
)


class NoAnswerError(DatabaseAwayError):
    """The server has not answered in time: it is away, or has too much to do."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same transaction can succeed later: the database is away, busy or full, or a race was lost."""
    if isinstance(error, DatabaseAwayError):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        error = error.orig or error
    if "InternalClientError" in (type(error).__name__, type(error.__cause__).__name__):
        return True  # raised by asyncpg if a server dies while a connection to it is being made
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _SQLITE_TRANSIENT
    if type(error).__module__.startswith("pymysql"):
        # Its sqlstate says next to nothing. A broken connection that received the wrong answer has no code.
        return bool(_MYSQL_TRANSIENT.intersection(error.args[:1])) or str(error).startswith("Packet sequence")
    state = getattr(error, "sqlstate", None)
    return isinstance(state, str) and state.startswith(_POSTGRESQL_TRANSIENT)


def is_cut_off(error: BaseException) -> bool:
    """Return whether a statement was killed, or took longer than the server allows.

    For a statement of the engine that is a short outage. A statement of the user may be too slow each time.
    """
    return not _CUT_OFF.isdisjoint(_codes(error))


def is_slow(error: BaseException) -> bool:
    """Return whether a transaction took too long: for this side, or for the server. A shorter one may succeed."""
    return isinstance(error, NoAnswerError) or is_cut_off(error)


def is_outage(error: BaseException) -> bool:
    """Return whether an error of the engine's own SQL is an outage: a pause, in which no instance has a part.

    So is every error of a database that does not concern the rows that are written, also one that nothing is known of,
    and every one for which no connection can be made.
    """
    if is_transient(error) or isinstance(error, DatabaseError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    return not (
        isinstance(error, IntegrityError | DataError)
        or any(
            code.startswith(_POSTGRESQL_OF_THE_ROW) if isinstance(code, str) else code in _OF_THE_ROW
            for code in _codes(error)
        )
    )


def _codes(error: BaseException) -> list[int | str]:
    """Return the codes by which a driver says what kind of error it raises, for MariaDB, MySQL and PostgreSQL."""
    raw: Any = error.orig or error if isinstance(error, DBAPIError) else error
    codes = [getattr(raw, "sqlstate", None)]
    if type(raw).__module__.startswith("pymysql"):
        codes += raw.args[:1]
    return [code for code in codes if isinstance(code, int | str)]


def is_of_this_server(error: BaseException) -> bool:
    """Return whether this server will go on raising a driver's error while another host may not."""
    return not _OF_THIS_SERVER.isdisjoint(_codes(error))


def is_already_applied(error: DBAPIError) -> bool:
    """Return whether a step of a migration failed because another process has just done the same step."""
    return error.orig is not None and bool(_ALREADY_APPLIED.intersection(error.orig.args[:1]))


_DENIED = frozenset({1044, 1142, 1227, 1370, 1419})
"""Access denied to a database, a table, an operation or a routine; no SUPER while there is a binary log."""


def is_denied(error: DBAPIError) -> bool:
    """Return whether the user of MariaDB or MySQL lacks a privilege."""
    return not _DENIED.isdisjoint(_codes(error))


def migrated_elsewhere() -> DatabaseAwayError:
    """Return the error for a migration that another process is doing at the same time."""
    return DatabaseAwayError("another process is migrating the database")
