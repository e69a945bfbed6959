"""Implements the dialect for MariaDB and MySQL, alone or as a Galera cluster."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, literal_column, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.compiler import compiles

from ..._data.conditions import Path
from ...clock import Microseconds
from ...errors import DatabaseAwayError, DatabaseError
from . import limits, start_routine
from .dbapi import driver_connection, execute
from .errors import is_already_applied, is_denied, migrated_elsewhere
from .input_keys import KEY, column_name, first_key, index_name, plain_sql, readings
from .sql import Contains, ExactString, InsertIfAbsent, JsonTable, Rows, TextRows, UpdateMany

_logger = logging.getLogger("trio_romancy.database")

_NAMES = ("mysql", "mariadb")
"""Names by which SQLAlchemy's compiler knows them."""

_LARGEST_ROUND = 100_000
"""The most text in one UPDATE of several rows, in characters."""

_LEAST_PACKET = 16 * 1024 * 1024
"""The size that the server must allow for a statement, in bytes: room for one payload of the default limit, escaped.

A statement that is longer than allowed would look like a lost connection.
"""

_ESCAPED = 4
"""Bytes of a statement that one byte of a payload may take: a backslash within JSON within SQL."""

# -- constructs --------------------------------------------------------------------------------------------------------


@compiles(ExactString, *_NAMES)
def _(type_: ExactString, compiler: Any, **options: Any) -> str:
    # For utf8mb4_bin "a" equals "a ": https://mariadb.com/kb/en/supported-character-sets-and-collations
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return f"VARCHAR({type_.length}) CHARACTER SET utf8mb4 COLLATE {collation}"


@compiles(InsertIfAbsent, *_NAMES)
def _(insert: InsertIfAbsent, compiler: Any, **options: Any) -> str:
    # INSERT IGNORE would also cut what does not fit, and store it.
    key = compiler.preparer.format_column(next(iter(insert.table.primary_key)))
    return f"{compiler.visit_insert(insert, **options)} ON DUPLICATE KEY UPDATE {key} = {key}"


@compiles(Contains, *_NAMES)
def _(element: Contains, compiler: Any, **options: Any) -> str:
    text, part = (compiler.process(clause, **options) for clause in element.clauses)
    return f"INSTR({text}, CAST({part} AS BINARY)) > 0"  # whatever the collation of the column


@compiles(JsonTable, *_NAMES)
def _(element: JsonTable, compiler: Any, **options: Any) -> str:
    types = (
        (name, compiler.dialect.type_compiler_instance.process(type_)) for name, type_ in element.row_types.items()
    )
    columns = ", ".join(f"{name} {type_} PATH '$.{name}'" for name, type_ in types)
    (rows,) = element.clauses
    return f"JSON_TABLE({compiler.process(rows, **options)}, '$[*]' COLUMNS ({columns}))"


@compiles(TextRows, *_NAMES)
def _(element: TextRows, compiler: Any, **options: Any) -> str:
    type_ = compiler.dialect.type_compiler_instance.process(ExactString(255))
    return f"JSON_TABLE({compiler.process(element.clauses, **options)}, '$[*]' COLUMNS (value {type_} PATH '$'))"


# -- the database ------------------------------------------------------------------------------------------------------

_now = text("SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)")
_packet = text("SELECT @@max_allowed_packet")
_flush_at_commit = text("SELECT @@GLOBAL.innodb_flush_log_at_trx_commit")


def _is_mariadb(connection: Connection) -> bool:
    return bool(connection.dialect.is_mariadb)  # type: ignore[attr-defined]


def product_name(connection: Connection) -> str:
    return "MariaDB" if _is_mariadb(connection) else "MySQL"


def server_time(connection: Connection) -> Microseconds | None:
    return int(connection.execute(_now).scalar_one())


def file_name(connection: Connection) -> str | None:
    return None


def unsafe_settings(connection: Connection) -> list[str]:
    is_safe = str(connection.execute(_flush_at_commit).scalar_one()) == "1"
    return [] if is_safe else ["innodb_flush_log_at_trx_commit = 1"]


def loses_by_fail_over(connection: Connection) -> str | None:
    return None  # a server does not tell whether its replicas take over


def payload_problem(connection: Connection, largest: int) -> str | None:
    packet = int(connection.execute(_packet).scalar_one())
    if packet >= _ESCAPED * largest:
        return None
    return (
        f"max_allowed_packet of the server is {packet} bytes, less than {_ESCAPED} times max_payload, which is "
        f"{largest}; set max_allowed_packet to {_ESCAPED * largest} or more, or Limits(max_payload=...) to "
        f"{packet // _ESCAPED} or less"
    )


# -- statements --------------------------------------------------------------------------------------------------------

has_free_autocommit = False
writes_tables_together = False


def update_many(connection: Connection, statement: UpdateMany, rows: Rows) -> int | None:
    # The drivers would take a round trip for each row.
    matched = 0
    for round in _rounds(rows):
        if len(round) == 1:
            matched += connection.execute(statement.one, round[0]).rowcount
        else:
            matched += connection.execute(statement.from_json, {"rows": json.dumps(round)}).rowcount
    return matched


def _rounds(rows: Rows) -> Iterator[list[Mapping[str, Any]]]:
    """Split rows, in their order, so that no round is too large or has an id twice: a statement updates a row once."""
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


def plan_once(connection: Connection, *, is_local: bool = False) -> None:
    pass


# -- notifications -----------------------------------------------------------------------------------------------------

has_notifications = False


def notify_workers(connection: Connection, owners: Iterable[str | None]) -> None:
    pass


async def listen(connection: Any, on_notify: Callable[[str], None], on_lost: Callable[[], None]) -> None:
    raise NotImplementedError("MariaDB and MySQL have no notifications")


# -- migrations --------------------------------------------------------------------------------------------------------

ddl_commits = True
has_loose_index_scans = True

_has_table = text("SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = :name")

_get_lock = text("SELECT GET_LOCK(:name, :seconds)")
_release_lock = text("SELECT RELEASE_LOCK(:name)")


def use_schema(connection: Connection, schema: str) -> AbstractContextManager[None]:
    raise NotImplementedError("a schema of MariaDB and MySQL is a database")


def make_schema(connection: Connection, schema: str) -> None:
    raise NotImplementedError("a schema of MariaDB and MySQL is a database")


def has_table(connection: Connection, name: str, schema: str | None = None) -> bool:
    return connection.execute(_has_table, {"name": name}).first() is not None


def table_definitions(connection: Connection, prefix: str) -> list[str] | None:
    return None


@contextmanager
def migration_lock(connection: Connection) -> Iterator[None]:
    # DDL commits by itself, so only a lock of the session excludes others. Names of locks are shared by the server's
    # databases, and have at most 64 characters.
    name = f"trio_romancy migration {connection.engine.url.database}"[:64]
    if not connection.execute(_get_lock, {"name": name, "seconds": limits.LOCK_TIMEOUT}).scalar():
        raise migrated_elsewhere()
    try:
        yield
    except BaseException:
        with suppress(DBAPIError, PendingRollbackError):  # a lost connection has lost the lock
            connection.execute(_release_lock, {"name": name})
        raise
    connection.execute(_release_lock, {"name": name})


def create_start_routine(connection: Connection) -> None:
    name = connection.dialect.type_compiler_instance.process(ExactString(255))
    try:
        connection.exec_driver_sql("DROP PROCEDURE IF EXISTS romancy_start")
        connection.exec_driver_sql(start_routine.MYSQL.format(at_once=start_routine.AT_ONCE, name=name))
    except DBAPIError as error:
        if not is_denied(error):
            raise
        _logger.warning(
            "the user of the database may not create procedures, so other programs cannot call romancy_start: %s",
            error.orig,
        )


# -- connections -------------------------------------------------------------------------------------------------------


def set_up_connection(connection: Any, schema: str | None = None) -> None:
    _set_up(connection, driver_connection(connection).get_server_info())


def _set_up(connection: Any, version: str) -> None:
    is_mariadb = "mariadb" in version.lower()
    name, needed = ("MariaDB", (10, 6)) if is_mariadb else ("MySQL", (8, 0))
    if _numbers(version.removeprefix("5.5.5-")) < needed:  # some versions of MariaDB put this before their own
        least = ".".join(map(str, needed))
        raise DatabaseError(f"the server is {name} {version}; trio_romancy needs {name} {least} or newer")
    # A node that has lost its cluster still answers this, and next to nothing else.
    is_node = _is_on(connection, "SHOW VARIABLES LIKE 'wsrep_on'")
    if is_node and not _is_on(connection, "SHOW STATUS LIKE 'wsrep_ready'"):
        raise DatabaseAwayError("this node has no connection to its cluster")
    (packet,) = execute(connection, "SELECT @@max_allowed_packet")
    if packet < _LEAST_PACKET:
        raise DatabaseError(f"its max_allowed_packet is {packet} bytes; set it to {_LEAST_PACKET} or more")
    settings = {
        "time_zone": "'+00:00'",
        "sql_mode": "CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')",
        "innodb_lock_wait_timeout": str(limits.LOCK_TIMEOUT),
    }
    if is_mariadb:
        settings["idle_transaction_timeout"] = str(limits.IDLE_TIMEOUT)
    if is_node:
        settings["wsrep_sync_wait"] = "1"  # read what was committed before, whichever node that was on
    execute(connection, "SET SESSION " + ", ".join(f"{name} = {value}" for name, value in settings.items()))


options_behind_pooler: Mapping[str, Any] = {}


def is_behind_pooler(connection: Any) -> bool:
    return False  # a proxy for MariaDB keeps the session of a client that has changed it


def set_up_behind_pooler(connection: Any) -> None:
    raise NotImplementedError("each connection to MariaDB and MySQL is set up")


def set_up_transaction(connection: Connection, schema: str | None) -> None:
    raise NotImplementedError("each connection to MariaDB and MySQL is set up")


def _is_on(connection: Any, show: str) -> bool:
    row = execute(connection, show)
    return row is not None and row[1] == "ON"


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


_set_idle_timeout = text("SET SESSION idle_transaction_timeout = :value")


def allow_idleness(connection: Connection) -> None:
    if _is_mariadb(connection):
        connection.execute(_set_idle_timeout, {"value": 0})


def limit_idleness(connection: Connection) -> None:
    if _is_mariadb(connection):
        connection.execute(_set_idle_timeout, {"value": limits.IDLE_TIMEOUT})


_isolation = text(
    "SHOW VARIABLES WHERE variable_name IN ('tx_isolation', 'transaction_isolation', 'innodb_snapshot_isolation')"
)


def misses_commits(connection: Connection) -> bool:
    found = {row[0]: row[1] for row in connection.execute(_isolation)}
    level = found.get("transaction_isolation", found.get("tx_isolation"))
    # With snapshot isolation, a statement that writes what such a query has missed is an error.
    return level == "REPEATABLE-READ" and found.get("innodb_snapshot_isolation") != "ON"


def is_in_transaction(connection: Connection) -> bool:
    return True  # a statement that alters a table commits, and leaves no trace that tells it from COMMIT


restore_idleness = limit_idleness


def connection_id(connection: Any) -> int:
    return int(driver_connection(connection).thread_id())


_uptime = text("SHOW GLOBAL STATUS LIKE 'Uptime'")
_own = text(
    "SELECT id FROM information_schema.processlist "
    "WHERE id = :id AND db = DATABASE() AND user = SUBSTRING_INDEX(USER(), '@', 1)"
)
_kill = text("KILL :id")


def end_connection(connection: Connection, id: int, age: float) -> None:
    has_restarted = int(connection.execute(_uptime).one()[1]) + 1 < age
    if not has_restarted and connection.execute(_own, {"id": id}).scalar():
        connection.execute(_kill, {"id": id})


# -- the index over a path of the inputs -------------------------------------------------------------------------------


def literal(ascii_text: str) -> str:
    # Not X'5c': MariaDB writes that in a column's definition as '\\', and then cannot read it.
    return f"CONVERT(UNHEX('{ascii_text.encode('ascii').hex()}') USING utf8mb4)"


def key_sql(document: str, path: Path) -> str:
    document = plain_sql(document, literal)
    values = [f"JSON_EXTRACT({document}, {literal(reading)})" for reading in readings(path)]
    return first_key(document, values, literal)


def indexed_key(path: Path) -> ColumnElement[str]:
    return literal_column(column_name(path), KEY)


_complete = text(
    "SELECT DISTINCT index_name FROM information_schema.statistics "
    "WHERE table_schema = DATABASE() AND table_name = 'romancy_instances' AND index_name IN :names"
).bindparams(bindparam("names", expanding=True))

_column_exists = text(
    "SELECT 1 FROM information_schema.columns "
    "WHERE table_schema = DATABASE() AND table_name = 'romancy_instances' AND column_name = :column"
)


def existing_indexes(connection: Connection, names: Collection[str]) -> set[str]:
    return set(connection.execute(_complete, {"names": list(names)}).scalars())


def create_input_index(connection: Connection, path: Path) -> bool:
    # A statement that waits for the table makes all others wait. If some transaction does not end, they must not wait
    # longer than for any other lock.
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {limits.LOCK_TIMEOUT}")
    column = column_name(path)
    try:
        if connection.execute(_column_exists, {"column": column}).first() is None:
            generated = (
                f"{connection.dialect.type_compiler_instance.process(KEY)} AS ({key_sql('input', path)}) VIRTUAL"
            )
            connection.exec_driver_sql(f"ALTER TABLE romancy_instances ADD COLUMN {column} {generated}")
        connection.exec_driver_sql(f"CREATE INDEX {index_name(path)} ON romancy_instances ({column}, created_at)")
    except DBAPIError as error:
        if is_already_applied(error):
            return False
        raise
    return True
