"""The index over one path of the stored inputs: creating it, and the expressions that make a query use it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, literal, literal_column, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ..._data.codec import dumps
from ..._data.conditions import Path
from . import dialect_of
from .errors import is_transient
from .input_keys import KEY, MOST_READINGS, index_name, readings

_LONGEST_PATH = 1000
"""The longest JSON path that is indexed, in characters."""


class _ScalarKey(FunctionElement[str]):
    """The key of a scalar, given as JSON text."""

    inherit_cache = True
    type = KEY


@compiles(_ScalarKey)
def _(element: _ScalarKey, compiler: Any, **options: Any) -> str:
    return dialect_of(compiler).key_sql(compiler.process(element.clauses, **options), ())


def scalar_key(json_text: str) -> ColumnElement[str]:
    """Return the key of a scalar, given as JSON text."""
    return _ScalarKey(literal(json_text, type_=Text()))


def indexed_key(connection: Connection, path: Path) -> ColumnElement[str]:
    """Return the key at a path of an instance's input, for a SELECT that reads from no other table."""
    return dialect_of(connection).indexed_key(path)


def indexed_paths(connection: Connection, paths: Collection[Path]) -> set[Path]:
    """Return those of the paths that have a complete index."""
    names = {index_name(path): path for path in paths}
    return {names[name] for name in dialect_of(connection).existing_indexes(connection, names)}


def create_index(connection: Connection, path: Path) -> bool | None:
    """Create the index over a path unless it exists. Each statement of the connection must commit by itself.

    Creating an index can take long. Other connections can write meanwhile, except on SQLite. An index that a call which
    died has left incomplete is completed.

    Returns whether the index exists: False if the database cannot create it, None if another process is creating an
    index just now.
    """
    if indexed_paths(connection, [path]):
        return True
    if not _can_index(connection, path):
        return False
    return dialect_of(connection).create_input_index(connection, path) or None


def _can_index(connection: Connection, path: Path) -> bool:
    """Return whether the database finds a value at this path: not every version can address every key."""
    found = readings(path)
    if len(found) > MOST_READINGS or len(found[0]) > _LONGEST_PATH:
        return False
    sample: object = "sample"
    for key in reversed(path):
        sample = {key: sample}
    dialect = dialect_of(connection)
    key = dialect.key_sql(dialect.literal(dumps(sample)), path)
    try:
        return connection.execute(select(literal_column(key))).scalar() == '"sample"'
    except DBAPIError as error:
        if is_transient(error):
            raise
        return False
