"""Types and SQL constructs that each database compiles its own way.

Statements are composed of them once, at import, for all databases. Each database's module has the hooks by which
SQLAlchemy's compiler writes a construct for that database. A hook in this module serves the databases without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Insert,
    String,
    Table,
    Text,
    Update,
    bindparam,
    column,
    literal,
    select,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

T = TypeVar("T")

Rows = Sequence[Mapping[str, Any]]
"""Rows of parameters: values by name."""


class ExactString(String):
    """Text that is compared byte by byte: case, accents and trailing spaces count."""

    inherit_cache = True


def long_text() -> Text:
    """Return the type of text of any length."""
    return Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


class InsertIfAbsent(Insert):
    """An INSERT that leaves an existing row with the same primary key as it is."""

    inherit_cache = True


@compiles(InsertIfAbsent)
def _(insert: InsertIfAbsent, compiler: Any, **options: Any) -> str:
    return f"{compiler.visit_insert(insert, **options)} ON CONFLICT DO NOTHING"


def insert_if_absent(table: Table) -> Insert:
    """Return an INSERT that leaves an existing row with the same primary key as it is."""
    return InsertIfAbsent(table)


def update_and_get(connection: Connection, statement: Update, column: Column[T], values: dict[str, Any]) -> T | None:
    """Update one row and return the new value of a column. Return None if the row does not exist."""
    if connection.dialect.update_returning:
        return connection.execute(statement.returning(column), values).scalar()
    if not connection.execute(statement, values).rowcount:
        return None
    assert statement.whereclause is not None
    return connection.execute(select(column).where(statement.whereclause), values).scalar()


class Contains(FunctionElement[bool]):
    """The condition that one text contains another, byte by byte."""

    inherit_cache = True
    type = Boolean()


def contains(column: Column[str], part: str) -> ColumnElement[bool]:
    """Return the condition that a column's text contains another text, byte by byte."""
    return Contains(column, literal(part, type_=column.type))


class JsonTable(FunctionElement[Any]):
    """The rows of a JSON array of objects, as a table: for databases whose drivers send each row by itself."""

    inherit_cache = True
    row_types: dict[str, TypeEngine[Any]]
    """Types of the columns, by name."""


class TextRows(FunctionElement[Any]):
    """The texts of a JSON array of texts, as a table with the column ``value``."""

    inherit_cache = True


@compiles(TextRows)
def _(element: TextRows, compiler: Any, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


def text_rows(parameter: str) -> TableValuedAlias:
    """Return the texts of a JSON array, the value of a parameter, as a table with the column ``value``."""
    return TextRows(bindparam(parameter, type_=Text)).table_valued(column("value", ExactString(255)), name=parameter)


class UpdateMany:
    """An UPDATE of many rows, each with values of its own. :func:`~.update_many` executes it.

    Args:
      build: returns the statement, given a function that returns the expression for each named value. The value named
        ``id`` selects the row.
      types: the types of the values, by name.
    """

    one: Update
    """The statement for one row, whose values are parameters."""
    from_json: Update
    """The statement for many rows, given as a JSON array in the parameter ``rows``. Each ``id`` occurs once."""

    def __init__(
        self, build: Callable[[Callable[[str], ColumnElement[Any]]], Update], **types: TypeEngine[Any]
    ) -> None:
        self.one = build(lambda name: bindparam(name, type_=types[name]))
        # SQLAlchemy caches what it has compiled by class, so each set of columns has a class of its own.
        table = type("_JsonTable", (JsonTable,), {"row_types": types, "inherit_cache": True})
        columns = (column(name, type_) for name, type_ in types.items())
        rows = table(bindparam("rows", type_=Text)).table_valued(*columns, name="r")
        self.from_json = build(lambda name: rows.c[name])
