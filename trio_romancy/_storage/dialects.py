"""What differs between databases. No other file but :mod:`.json_paths` asks which one it talks to."""

from __future__ import annotations

import json
import socket as socket_module
import sqlite3
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_KEEPALIVE, SOL_SOCKET
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Insert,
    String,
    Table,
    TableValuedAlias,
    Text,
    Update,
    bindparam,
    cast,
    column,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from ..clock import Microseconds
from ..errors import DatabaseAwayError, DatabaseError

T = TypeVar("T")

_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
"""Seconds, seconds, a number, milliseconds."""

_LARGEST_ROUND = 100_000
"""Characters of text in one UPDATE of several rows."""
_LEAST_PACKET = 16 * 1024 * 1024
"""Bytes that a statement to MariaDB or MySQL may have: enough for one payload of the default limit, escaped.
A longer one would look like a lost connection."""

LOCK_TIMEOUT = 5
"""Seconds that a statement waits for a lock before its transaction is tried again."""

IDLE_TIMEOUT = 5
"""Seconds that a transaction of the engine's may be idle before the server ends it, with its connection: a process
that stands still, or that the network has lost, must not hold locks that others wait for. MySQL has no such limit."""

_MYSQL = ("mysql", "mariadb")

# -- types -------------------------------------------------------------------------------------------------------------


class ExactString(String):
    """Text that is compared byte by byte: case, accents and spaces at the end count."""

    inherit_cache = True


@compiles(ExactString)
def _(type_: ExactString, compiler: Any, **options: Any) -> str:
    return f"VARCHAR({type_.length})"  # SQLite compares bytes anyway


@compiles(ExactString, "postgresql")
def _(type_: ExactString, compiler: Any, **options: Any) -> str:
    return f'VARCHAR({type_.length}) COLLATE "C"'


@compiles(ExactString, *_MYSQL)
def _(type_: ExactString, compiler: Any, **options: Any) -> str:
    # utf8mb4_bin would take "a" and "a " for the same: https://mariadb.com/kb/en/supported-character-sets-and-collations
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return f"VARCHAR({type_.length}) CHARACTER SET utf8mb4 COLLATE {collation}"


def long_text() -> Text:
    """Text of any length."""
    return Text().with_variant(mysql.LONGTEXT(), *_MYSQL)


# -- statements --------------------------------------------------------------------------------------------------------


class InsertIfAbsent(Insert):
    """An INSERT that leaves a row with the same primary key as it is."""

    inherit_cache = True


@compiles(InsertIfAbsent)
def _(insert: InsertIfAbsent, compiler: Any, **options: Any) -> str:
    return f"{compiler.visit_insert(insert, **options)} ON CONFLICT DO NOTHING"


@compiles(InsertIfAbsent, *_MYSQL)
def _(insert: InsertIfAbsent, compiler: Any, **options: Any) -> str:
    # INSERT IGNORE would also store what does not fit, cut.
    key = compiler.preparer.format_column(next(iter(insert.table.primary_key)))
    return f"{compiler.visit_insert(insert, **options)} ON DUPLICATE KEY UPDATE {key} = {key}"


def insert_if_absent(table: Table) -> Insert:
    """An INSERT that leaves a row with the same primary key as it is."""
    return InsertIfAbsent(table)


def update_and_get(connection: Connection, statement: Update, column: Column[T], values: dict[str, Any]) -> T | None:
    """Update one row. Returns what is in the column then; None if there is no such row."""
    if connection.dialect.update_returning:
        return connection.execute(statement.returning(column), values).scalar()
    if not connection.execute(statement, values).rowcount:
        return None
    assert statement.whereclause is not None
    return connection.execute(select(column).where(statement.whereclause), values).scalar()


class _Contains(FunctionElement[bool]):
    """Whether a text contains another, byte by byte."""

    inherit_cache = True
    type = Boolean()


@compiles(_Contains)
def _(element: _Contains, compiler: Any, **options: Any) -> str:
    return f"INSTR({compiler.process(element.clauses, **options)}) > 0"  # LIKE is not exact on SQLite


@compiles(_Contains, "postgresql")
def _(element: _Contains, compiler: Any, **options: Any) -> str:
    return f"STRPOS({compiler.process(element.clauses, **options)}) > 0"


@compiles(_Contains, *_MYSQL)
def _(element: _Contains, compiler: Any, **options: Any) -> str:
    text, part = (compiler.process(clause, **options) for clause in element.clauses)
    return f"INSTR({text}, CAST({part} AS BINARY)) > 0"  # whatever the collation of the column


def contains(column: Column[str], part: str) -> ColumnElement[bool]:
    """Whether a text contains another, byte by byte."""
    return _Contains(column, literal(part, type_=column.type))


class _JsonRows(FunctionElement[Any]):
    """The rows of a JSON array of objects, as a table. For MariaDB and MySQL."""

    inherit_cache = True
    columns_of_rows: dict[str, TypeEngine[Any]]


@compiles(_JsonRows, *_MYSQL)
def _(element: _JsonRows, compiler: Any, **options: Any) -> str:
    types = ((name, compiler.dialect.type_compiler_instance.process(t)) for name, t in element.columns_of_rows.items())
    columns = ", ".join(f"{name} {type_} PATH '$.{name}'" for name, type_ in types)
    (rows,) = element.clauses
    return f"JSON_TABLE({compiler.process(rows, **options)}, '$[*]' COLUMNS ({columns}))"


class UpdateMany:
    """An UPDATE of many rows, each with values of its own, in as few round trips as the database can do.

    Args:
      build: makes the statement, given what stands for each value. The one named ``id`` chooses the row.
      types: of the values, by name.
    """

    def __init__(
        self, build: Callable[[Callable[[str], ColumnElement[Any]]], Update], **types: TypeEngine[Any]
    ) -> None:
        self._one = build(lambda name: bindparam(name, type_=types[name]))
        # aiomysql would take a round trip for each row.
        function = type("_JsonRowsOf", (_JsonRows,), {"columns_of_rows": types, "inherit_cache": True})
        rows = function(bindparam("rows", type_=Text)).table_valued(*(column(n, t) for n, t in types.items()), name="r")
        self._all = build(lambda name: rows.c[name])

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int | None:
        """Update them, in order. Returns how many there were; None if the database does not say."""
        if connection.dialect.name in _MYSQL:
            return sum(self._round(connection, each) for each in _rounds(rows))
        matched = connection.execute(self._one, rows).rowcount
        return None if matched < 0 else matched

    def _round(self, connection: Connection, rows: list[Mapping[str, Any]]) -> int:
        if len(rows) == 1:
            return connection.execute(self._one, rows[0]).rowcount
        return connection.execute(self._all, {"rows": json.dumps(rows)}).rowcount


def _rounds(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """The rows in their order. No id is twice in a round, for a statement updates a row once; and none is too large."""
    gathered: list[Mapping[str, Any]] = []
    ids: set[str] = set()
    size = 0
    for row in rows:
        larger = sum(len(value) for value in row.values() if isinstance(value, str))
        if gathered and (row["id"] in ids or size + larger > _LARGEST_ROUND):
            yield gathered
            gathered, ids, size = [], set(), 0
        gathered.append(row)
        ids.add(row["id"])
        size += larger
    yield gathered


def json_rows(parameter: str, types: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """The rows of a JSON array of objects, given as text, as a table. For PostgreSQL."""
    columns = [column(name, type_) for name, type_ in types.items()]
    function = func.json_to_recordset(cast(bindparam(parameter, type_=Text), JSON))
    return function.table_valued(*columns).render_derived(name=parameter, with_types=True)


def plan_once(connection: Connection) -> None:
    """Have the server plan each statement once, and by keys, for a connection that does the same again and again.

    PostgreSQL would think about it each time, for as long as it then works. Left to itself it might also read the whole
    of a table that is empty yet, and go on doing so for a minute, however many rows come meanwhile.
    """
    if connection.dialect.name == "postgresql":
        settings = {"plan_cache_mode": "force_generic_plan", "jit": "off", **dict.fromkeys(_NOT_BY_KEYS, "off")}
        connection.execute(select(*(func.set_config(name, value, False) for name, value in settings.items())))


_NOT_BY_KEYS = ("enable_seqscan", "enable_mergejoin")


def writes_at_once(dialect: Dialect) -> bool:
    """Whether one statement can write several tables."""
    return dialect.name == "postgresql"


def server_time(connection: Connection) -> Microseconds | None:
    """The time by the server's clock; None if it is our own."""
    if connection.dialect.name == "postgresql":
        now = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)")
    elif connection.dialect.name in _MYSQL:
        now = text("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)")
    else:
        return None
    return int(connection.execute(now).scalar_one())


def describe(connection: Connection) -> str:
    """Which database it is, with its version."""
    dialect = connection.dialect
    names = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    return f"{names[name]} {'.'.join(map(str, dialect.server_version_info or ()))}"


def forgetful_settings(connection: Connection) -> list[str]:
    """Settings with which a crash of its machine can take back what was committed, each as it should be."""
    if connection.dialect.name == "postgresql":
        wanted = {"fsync": "on", "full_page_writes": "on"}
        found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in wanted}
        if connection.execute(text("SHOW synchronous_commit")).scalar_one() == "off":
            wanted["synchronous_commit"] = "on"
    elif connection.dialect.name in _MYSQL:
        wanted = {"innodb_flush_log_at_trx_commit": "1"}
        found = {name: str(connection.execute(text(f"SELECT @@GLOBAL.{name}")).scalar_one()) for name in wanted}
    else:
        wanted = {"journal_mode": "wal"}
        found = {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in wanted}
    return [f"{name} = {value}" for name, value in wanted.items() if found.get(name) != value]


def notify_workers(connection: Connection, owners: Iterable[str | None] = (None,)) -> None:
    """Tell workers, once the transaction commits, that something has become due: see :func:`listen`.

    Where the database cannot, they find it when they look.

    Args:
      owners: the workers that it belongs to; None: whoever takes it.
    """
    if connection.dialect.name == "postgresql":
        for owner in set(owners):
            connection.execute(_notify, {"owner": owner or ""})


_notify = text("SELECT pg_notify('trio_romancy', :owner)")


async def listen(connection: Any, on_notify: Callable[[str], None], on_lost: Callable[[], None]) -> None:
    """Have ``on_notify`` called after each :func:`notify_workers`, until ``on_lost`` is.

    Args:
      on_notify: is told the owner; an empty text means whoever takes it.
      connection: of a driver that :func:`can_listen`, in asyncio. It must not be used for anything else.
    """
    driver = _driver_connection(connection)
    await driver.add_listener("trio_romancy", lambda *heard: on_notify(heard[-1]))
    driver.add_termination_listener(lambda *_: on_lost())


def can_listen(dialect: Dialect) -> bool:
    """Whether the database tells who listens."""
    return dialect.name == "postgresql"


def ddl_commits(connection: Connection) -> bool:
    """Whether a statement that makes a table commits by itself, so that a migration can stop half way."""
    return connection.dialect.name in _MYSQL


def made_by(connection: Connection, prefix: str) -> list[str] | None:
    """The statements that make all tables whose names begin so, with their indexes, if the database keeps them."""
    if connection.dialect.name != "sqlite":
        return None
    kept = text("SELECT sql FROM sqlite_master WHERE substr(tbl_name, 1, :n) = :prefix AND sql IS NOT NULL")
    return list(connection.execute(kept, {"n": len(prefix), "prefix": prefix}).scalars())


@contextmanager
def only_migrator(connection: Connection) -> Iterator[None]:
    """Keep other processes from migrating the same database meanwhile.

    On a cluster it keeps away those on the same node; who is on another one meets what :func:`is_made_already` knows.

    Raises:
      DatabaseAwayError: if another one has not finished after a while.
    """
    name = "trio_romancy migration"
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})
        yield
    elif connection.dialect.name in _MYSQL:
        # Its DDL commits by itself, so only a lock of the session keeps others away. The names are the server's.
        lock = {"name": f"{name} {connection.engine.url.database}"[:64], "seconds": LOCK_TIMEOUT}
        if not connection.execute(text("SELECT GET_LOCK(:name, :seconds)"), lock).scalar():
            raise migrated_elsewhere()
        try:
            yield
        except BaseException:
            with suppress(DBAPIError, PendingRollbackError):  # a lost connection has lost the lock
                connection.execute(text("SELECT RELEASE_LOCK(:name)"), lock)
            raise
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), lock)
    else:
        yield  # SQLite has one writer


def is_made_already(error: DBAPIError) -> bool:
    """Whether a step of a migration failed because another process has just done the same."""
    return error.orig is not None and bool(_MADE_ALREADY.intersection(error.orig.args[:1]))


def migrated_elsewhere() -> DatabaseAwayError:
    """What it means that another process migrates at the same time."""
    return DatabaseAwayError("another process is migrating the database")


_MADE_ALREADY = frozenset(
    {
        1050,  # ER_TABLE_EXISTS_ERROR
        1060,  # ER_DUP_FIELDNAME
        1061,  # ER_DUP_KEYNAME
        1062,  # ER_DUP_ENTRY: the first revision
        1684,  # ER_WARN_I_S_SKIPPED_TABLE: being changed just now
    }
)


# -- connections -------------------------------------------------------------------------------------------------------


def prepare_connection(connection: Any, *, encrypted: bool) -> None:
    """Make a new connection to a server behave the same everywhere.

    Its time zone is UTC, whatever the server says; nothing that does not fit is cut; nobody waits for a lock longer
    than :data:`LOCK_TIMEOUT`; and the server finds out when we are gone.

    Args:
      connection: a connection of PyMySQL, or of aiomysql or asyncpg as SQLAlchemy adapts it.
      encrypted: whether it is of no use without TLS.

    Raises:
      DatabaseError: if the server is too old, or does not encrypt.
    """
    driver = _driver_connection(connection)
    socket, is_encrypted = _socket(driver)
    # The drivers for MySQL may go on without TLS if the server has none.
    if encrypted and not is_encrypted:
        raise DatabaseError("the server does not encrypt connections, and the URL asks for it")
    _keep_alive(socket)
    if _is_asyncpg(driver):
        _set_up_postgresql(connection)
    else:
        _set_up_mysql(connection, driver.get_server_info())
    connection.commit()


def _driver_connection(connection: Any) -> Any:
    """A connection as its driver has made it: SQLAlchemy adapts those of asyncio only."""
    return getattr(connection, "driver_connection", connection)


def _is_asyncpg(driver: Any) -> bool:
    return hasattr(driver, "get_server_pid")


def _socket(driver: Any) -> tuple[Any, bool]:
    """The socket of a driver's connection, and whether TLS is spoken over it."""
    if hasattr(driver, "_sock"):  # PyMySQL
        return driver._sock, isinstance(driver._sock, ssl.SSLSocket)
    transport = driver._transport if _is_asyncpg(driver) else driver._writer.transport
    return transport.get_extra_info("socket"), transport.get_extra_info("ssl_object") is not None


def _keep_alive(socket: Any) -> None:
    """Find out within half a minute that nobody is at the other end any more: see tcp(7)."""
    if socket is None or socket.family not in (AF_INET, AF_INET6):
        return
    socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if (option := getattr(socket_module, name, None)) is not None:  # not every system has all of them
            socket.setsockopt(IPPROTO_TCP, option, value)


def _set_up_postgresql(connection: Any) -> None:
    settings = {
        "TimeZone": "UTC",
        "lock_timeout": f"{LOCK_TIMEOUT}s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT}s",
    }
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
    _execute(connection, f"SELECT {calls}")


def _set_up_mysql(connection: Any, version: str) -> None:
    is_mariadb = "mariadb" in version.lower()
    name, needed = ("MariaDB", (10, 6)) if is_mariadb else ("MySQL", (8, 0))
    if _numbers(version.removeprefix("5.5.5-")) < needed:  # what some versions of MariaDB call themselves
        least = ".".join(map(str, needed))
        raise DatabaseError(f"the server is {name} {version}; trio_romancy needs {name} {least} or newer")
    # A node that has lost its cluster still answers this, and next to nothing else.
    is_node = _is_on(connection, "SHOW VARIABLES LIKE 'wsrep_on'")
    if is_node and not _is_on(connection, "SHOW STATUS LIKE 'wsrep_ready'"):
        raise DatabaseAwayError("this node has no connection to its cluster")
    (packet,) = _execute(connection, "SELECT @@max_allowed_packet")
    if packet < _LEAST_PACKET:
        raise DatabaseError(f"its max_allowed_packet is {packet} bytes; set it to {_LEAST_PACKET} or more")
    settings = {
        "time_zone": "'+00:00'",
        "sql_mode": "CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')",
        "innodb_lock_wait_timeout": str(LOCK_TIMEOUT),
    }
    if is_mariadb:
        settings["idle_transaction_timeout"] = str(IDLE_TIMEOUT)
    if is_node:
        settings["wsrep_sync_wait"] = "1"  # read what was committed before, whichever node that was on
    _execute(connection, "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in settings.items()))


def _is_on(connection: Any, show: str) -> bool:
    row = _execute(connection, show)
    return row is not None and row[1] == "ON"


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _execute(connection: Any, statement: str) -> Any:
    """The first row of the result, if there is one."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None
    finally:
        cursor.close()


def allow_idleness(connection: Connection) -> None:
    """Let the transaction that begins now be idle for as long as its user likes."""
    _set_idle_timeout(connection, 0)


def limit_idleness(connection: Connection) -> None:
    """From now on, limit it as usual."""
    _set_idle_timeout(connection, IDLE_TIMEOUT)


def restore_idleness(connection: Connection) -> None:
    """Limit it as usual for the next transaction, where that does not go without saying."""
    if connection.dialect.name != "postgresql":
        _set_idle_timeout(connection, IDLE_TIMEOUT)


def _set_idle_timeout(connection: Connection, seconds: int) -> None:
    if connection.dialect.name == "postgresql":
        for_this_transaction = text("SELECT set_config('idle_in_transaction_session_timeout', :value, true)")
        connection.execute(for_this_transaction, {"value": f"{seconds}s"})
    elif connection.dialect.name in _MYSQL and connection.dialect.is_mariadb:  # type: ignore[attr-defined]
        connection.execute(text("SET SESSION idle_transaction_timeout = :value"), {"value": seconds})


def connection_id(connection: Any) -> int:
    """What the server calls a connection that :func:`prepare_connection` was told of."""
    driver = _driver_connection(connection)
    return int(driver.get_server_pid() if _is_asyncpg(driver) else driver.thread_id())


def end_connection(connection: Connection, id: int, age: float) -> None:
    """Make the server end another connection of ours, with its transaction.

    Args:
      id: what the server called it.
      age: seconds since it was made. A server that runs for less has given the id to somebody else by now.
    """
    if connection.dialect.name == "postgresql":
        uptime = text("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
        ours = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid = :id AND usename = current_user AND datname = current_database()"
        )
        if connection.execute(uptime).scalar_one() >= age:
            connection.execute(ours, {"id": id})
    else:
        uptime = text("SHOW GLOBAL STATUS LIKE 'Uptime'")
        ours = text(
            "SELECT id FROM information_schema.processlist "
            "WHERE id = :id AND db = DATABASE() AND user = SUBSTRING_INDEX(USER(), '@', 1)"
        )
        if int(connection.execute(uptime).one()[1]) + 1 >= age and connection.execute(ours, {"id": id}).scalar():
            connection.execute(text("KILL :id"), {"id": id})


# -- errors ------------------------------------------------------------------------------------------------------------

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

# https://mariadb.com/kb/en/mariadb-error-code-reference, https://dev.mysql.com/doc/mysql-errors/8.0/en
_MYSQL_AWAY = frozenset(
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
_POSTGRESQL_AWAY = (
    "08",  # connection exception
    "25006",  # read only transaction: during a failover
    "25P03",  # idle in transaction for too long: see IDLE_TIMEOUT
    "40",  # transaction rollback: deadlock, serialization failure
    "53",  # insufficient resources: too many connections, disk full
    "55P03",  # lock not available
    "57P",  # operator intervention: shutdown, starting up
    "58030",  # I/O error
)


_OF_NO_USE = frozenset(
    {
        1047,  # ER_UNKNOWN_COM_ERROR: a node of a cluster that is not ready
        1053,  # ER_SERVER_SHUTDOWN
        1290,  # ER_OPTION_PREVENTS_STATEMENT: --read-only, after a failover
        1792,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
        1836,  # ER_READ_ONLY_MODE
        "25006",  # read only transaction
    }
)


def is_of_no_use(error: BaseException) -> bool:
    """Whether the server that said so will go on saying so, while another one may not."""
    codes = (*error.args[:1], getattr(error, "sqlstate", None))
    return any(isinstance(code, int | str) and code in _OF_NO_USE for code in codes)


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction can succeed later: the database is away, busy or full, or lost a race."""
    if isinstance(error, DatabaseAwayError):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        error = error.orig or error
    if "InternalClientError" in (type(error).__name__, type(error.__cause__).__name__):
        return True  # asyncpg loses the thread when a server dies while a connection to it is being made
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary code: https://www.sqlite.org/rescode.html
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _SQLITE_AWAY
    if type(error).__module__.startswith("pymysql"):
        # Its sqlstate says next to nothing. A broken connection on which the wrong answer came has no code.
        return bool(_MYSQL_AWAY.intersection(error.args[:1])) or str(error).startswith("Packet sequence")
    state = getattr(error, "sqlstate", None)
    return isinstance(state, str) and state.startswith(_POSTGRESQL_AWAY)
