"""Executes a statement for many rows, without a detour of each value through SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect, Insert, Update
from sqlalchemy.sql.compiler import SQLCompiler

from .sql import Rows


def execute_many(connection: Connection, statement: Insert | Update, rows: Rows) -> CursorResult[Any]:
    """Execute a statement once for each row of parameters, like :meth:`sqlalchemy.Connection.execute`.

    SQLAlchemy makes a dictionary of each row, and looks up each value and its type. Here the order of the values, and
    how the driver takes them, are looked up once for each statement. Without this the benchmark ``throughput`` loses:
    a workflow of three activities takes a sixth more of the processor's instructions on SQLite, with 20 clients.

    Args:
      statement: a constant of a module, with more than one parameter. It is kept.
      rows: at least one. All have the same keys.
    """
    text, parameters_of = _prepare(statement, connection.dialect, tuple(rows[0]))
    return connection.exec_driver_sql(text, parameters_of(rows))


@lru_cache(maxsize=256)
def _prepare(
    statement: Insert | Update, dialect: Dialect, keys: tuple[str, ...]
) -> tuple[str, Callable[[Rows], Sequence[Any]]]:
    """Return a statement as the driver takes it, and a function that returns rows with these keys as it takes them."""
    compiled = statement.compile(dialect=dialect, column_keys=list(keys))
    assert isinstance(compiled, SQLCompiler)
    constants = {name: bind.effective_value for name, bind in compiled.binds.items() if name not in keys}
    converters = {
        name: convert
        for name, bind in compiled.binds.items()
        if (convert := bind.type.dialect_impl(dialect).bind_processor(dialect)) is not None
    }
    in_order = None if compiled.positiontup is None else itemgetter(*compiled.positiontup)

    def parameters_of(rows: Rows) -> Sequence[Any]:
        if constants:
            rows = [{**constants, **row} for row in rows]
        if converters:
            rows = [{**row, **{name: convert(row[name]) for name, convert in converters.items()}} for row in rows]
        return rows if in_order is None else [*map(in_order, rows)]

    return compiled.string, parameters_of
