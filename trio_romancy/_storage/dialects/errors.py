"""Classifies the errors of databases: an outage, a race that was lost, or a fault that stays."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

from ...errors import DatabaseAwayError

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


def is_of_this_server(error: BaseException) -> bool:
    """Return whether this server will go on raising a driver's error while another host may not."""
    codes = (*error.args[:1], getattr(error, "sqlstate", None))
    return any(isinstance(code, int | str) and code in _OF_THIS_SERVER for code in codes)


def is_already_applied(error: DBAPIError) -> bool:
    """Return whether a step of a migration failed because another process has just done the same step."""
    return error.orig is not None and bool(_ALREADY_APPLIED.intersection(error.orig.args[:1]))


def migrated_elsewhere() -> DatabaseAwayError:
    """Return the error for a migration that another process is doing at the same time."""
    return DatabaseAwayError("another process is migrating the database")
