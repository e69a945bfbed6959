"""What differs between databases about the index over one path of the stored inputs.

Like :mod:`.dialects`, this file knows which database it talks to.

An index holds a *key* for each instance: the beginning of the JSON text that is at the path. Equal values have equal
keys, whatever the database makes of JSON; the reverse need not hold, so whoever finds something by its key compares the
value itself. That is why no quirk of a database can make it find more or less than another one:

* No database ever sees an escape, or a character that is not ASCII: see :func:`_plain`. Some refuse ``\\u0000`` and
  lone surrogates, or take them for something else; then an instance with such an input could not even be stored.
* The key is short, for no database has an index over megabytes.
* An input that the database cannot read all the same (MariaDB reads no more than 32 levels) has a key of its own,
  :data:`UNREADABLE`, and is always looked at.

A path is no part of a name: names are made of a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from itertools import islice, product
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, bindparam, literal, literal_column, select, text
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from .._data.codec import dumps
from .._data.conditions import Path, is_index
from .dialects import LOCK_TIMEOUT, ExactString, is_made_already, is_transient

UNREADABLE = "?"
"""The key of an input that the database cannot read. No JSON text begins like this."""

_KEY = ExactString(200)
_MOST_READINGS = 16
_LONGEST_PATH = 1000
"""Characters."""
_MYSQL = ("mysql", "mariadb")

_CHANGES = {"\\\\": "\\u005c", '\\"': "\\u0022", "~": "\\u007e", "\\": "~"}
"""What becomes of what, one after the other. After the first, each backslash begins an escape."""


# -- keys --------------------------------------------------------------------------------------------------------------


def _plain(json_text: str) -> str:
    r"""JSON text with a ``~`` for each backslash, so that what was an escape is plain text. No two become the same.

    ``"a\u00e9\"~"`` becomes ``"a~u00e9~u0022~u007e"``. :func:`_plain_sql` does the same.
    """
    for old, new in _CHANGES.items():
        json_text = json_text.replace(old, new)
    return json_text


def _plain_sql(dialect: Dialect, document: str) -> str:
    for old, new in _CHANGES.items():
        document = f"REPLACE({document}, {_literal(dialect, old)}, {_literal(dialect, new)})"
    return document


def _key_sql(dialect: Dialect, document: str, path: Path) -> str:
    """The key of what is at the path in a document: NULL if nothing is.

    Args:
      document: SQL.
    """
    document = _plain_sql(dialect, document)
    if dialect.name == "postgresql":
        keys = ", ".join(_literal(dialect, _plain_key(key)) for key in path)
        return f"LEFT(CAST(CAST({document} AS JSONB) #> CAST(ARRAY[{keys}] AS TEXT[]) AS TEXT), {_KEY.length})"
    readings = [_literal(dialect, reading) for reading in _readings(path)]
    if dialect.name in _MYSQL:
        readings = [f"JSON_EXTRACT({document}, {reading})" for reading in readings]
    else:
        readings = [f"{document} -> {reading}" for reading in readings]
    found = readings[0] if len(readings) == 1 else f"COALESCE({', '.join(readings)})"
    unreadable = _literal(dialect, UNREADABLE)
    return f"CASE WHEN JSON_VALID({document}) THEN SUBSTR({found}, 1, {_KEY.length}) ELSE {unreadable} END"


def _readings(path: Path) -> list[str]:
    """All that the path can mean, in the language for it that is not PostgreSQL's. At most one is there.

    Except that MariaDB takes a value that is no array for the only element of one: the key is asked for first.
    """
    steps = [[f'."{_plain_key(key)}"', f"[{key}]"] if is_index(key) else [f'."{_plain_key(key)}"'] for key in path]
    return ["$" + "".join(reading) for reading in islice(product(*steps), _MOST_READINGS + 1)]


def _plain_key(key: str) -> str:
    return _plain(dumps(key))[1:-1]


def _literal(dialect: Dialect, ascii_text: str) -> str:
    """A literal that has nothing of the text in it, and means the same whatever the settings of a server are."""
    digits = ascii_text.encode("ascii").hex()
    if dialect.name == "postgresql":  # what is called "escape" doubles backslashes, and no more, in ASCII
        return f"REPLACE(ENCODE(DECODE('{digits}', 'hex'), 'escape'), CHR(92) || CHR(92), CHR(92))"
    if dialect.name in _MYSQL:  # MariaDB writes X'5c' in a column's definition as '\\', and cannot read that
        return f"CONVERT(UNHEX('{digits}') USING utf8mb4)"
    return f"CAST(X'{digits}' AS TEXT)"


class _KeyOf(FunctionElement[str]):
    """The key of a scalar, given as JSON text."""

    inherit_cache = True
    type = _KEY


@compiles(_KeyOf)
def _(element: _KeyOf, compiler: Any, **options: Any) -> str:
    return _key_sql(compiler.dialect, compiler.process(element.clauses, **options), ())


def key_of(json_text: str) -> ColumnElement[str]:
    """The key of a scalar, given as JSON text."""
    return _KeyOf(literal(json_text, type_=Text()))


def indexed_key(dialect: Dialect, path: Path) -> ColumnElement[str]:
    """The key at a path of an instance's input, as the index has it. For a SELECT from no other table."""
    if dialect.name in _MYSQL:
        return literal_column(_name("input", path), _KEY)
    return literal_column(_key_sql(dialect, "input", path), _KEY)


# -- indexes -----------------------------------------------------------------------------------------------------------


def index_name(path: Path) -> str:
    """What the index over a path is called."""
    return _name("ix_romancy_input", path)


def _name(prefix: str, path: Path) -> str:
    return f"{prefix}_{hashlib.sha256(dumps(path).encode()).hexdigest()[:16]}"


_made = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index' AND name IN :names",
    "postgresql": (
        "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid "
        "WHERE indrelid = to_regclass('romancy_instances') AND indisvalid AND relname IN :names"
    ),
} | dict.fromkeys(
    _MYSQL,
    "SELECT DISTINCT index_name FROM information_schema.statistics "
    "WHERE table_schema = DATABASE() AND table_name = 'romancy_instances' AND index_name IN :names",
)


def indexed(connection: Connection, paths: Collection[Path]) -> set[Path]:
    """Those of the paths that have an index which is complete."""
    names = {index_name(path): path for path in paths}
    made = text(_made[connection.dialect.name]).bindparams(bindparam("names", list(names), expanding=True))
    return {names[name] for name in connection.execute(made).scalars()}


def make_index(connection: Connection, path: Path) -> bool | None:
    """Make the index over a path, if it is not there. For a connection whose statements each commit by themselves.

    It can take long, and others can write meanwhile, except on SQLite. What a call that died has left is completed.

    Returns whether it is there; False: the database cannot make it; None: somebody else is making one just now.
    """
    if indexed(connection, [path]):
        return True
    if not _can_index(connection, path):
        return False
    if connection.dialect.name == "postgresql":
        return _make_on_postgresql(connection, path)
    if connection.dialect.name in _MYSQL:
        return _make_on_mysql(connection, path)
    key = _key_sql(connection.dialect, "input", path)
    connection.exec_driver_sql(f"CREATE INDEX {index_name(path)} ON romancy_instances ({key}, created_at, instance_id)")
    return True


def _can_index(connection: Connection, path: Path) -> bool:
    """Whether the database finds by this path what it should: not every version can address every key."""
    readings = _readings(path)
    if len(readings) > _MOST_READINGS or len(readings[0]) > _LONGEST_PATH:
        return False
    sample: object = "sample"
    for key in reversed(path):
        sample = {key: sample}
    key = _key_sql(connection.dialect, _literal(connection.dialect, dumps(sample)), path)
    try:
        return connection.execute(select(literal_column(key))).scalar() == '"sample"'
    except DBAPIError as error:
        if is_transient(error):
            raise
        return False


def _make_on_postgresql(connection: Connection, path: Path) -> bool | None:
    # Whoever builds an index waits for all that is going on, so nobody may wait here for the lock of whoever does.
    lock = text("SELECT pg_try_advisory_lock(hashtext('trio_romancy index'))")
    if not connection.execute(lock).scalar():
        return None  # it is held until the connection is closed
    if indexed(connection, [path]):
        return True
    name, key = index_name(path), _key_sql(connection.dialect, "input", path)
    connection.exec_driver_sql("SET lock_timeout = 0")  # nobody else has to wait meanwhile
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # one whose maker died
    connection.exec_driver_sql(
        f"CREATE INDEX CONCURRENTLY {name} ON romancy_instances (({key}), created_at, instance_id)"
    )
    return True


def _make_on_mysql(connection: Connection, path: Path) -> bool | None:
    # Who waits for the table makes all others wait: not for longer than for any lock, if some transaction does not end.
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT}")
    column, name = _name("input", path), index_name(path)
    is_there = text(
        "SELECT 1 FROM information_schema.columns "
        "WHERE table_schema = DATABASE() AND table_name = 'romancy_instances' AND column_name = :column"
    )
    try:
        if connection.execute(is_there, {"column": column}).first() is None:
            type_ = connection.dialect.type_compiler_instance.process(_KEY)
            key = _key_sql(connection.dialect, "input", path)
            connection.exec_driver_sql(f"ALTER TABLE romancy_instances ADD COLUMN {column} {type_} AS ({key}) VIRTUAL")
        connection.exec_driver_sql(f"CREATE INDEX {name} ON romancy_instances ({column}, created_at)")
    except DBAPIError as error:
        if is_made_already(error):
            return None
        raise
    return True
