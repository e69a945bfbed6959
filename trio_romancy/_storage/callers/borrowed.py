"""SQLAlchemy connections over a connection of a driver that belongs to a caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

R = TypeVar("R")


@cache
def _dialect(name: str) -> tuple[sqlalchemy.Dialect, dict[Any, Any]]:
    """Return the dialect of a driver, which the caller has imported, and a cache for its compiled statements."""
    kind = make_url(f"{name}://").get_dialect()
    return kind(dbapi=kind.import_dbapi()), {}  # type: ignore[call-arg]


class _Borrowed:
    """A DBAPI connection whose transaction and whose end are left to its owner."""

    def __init__(self, raw: Any, cursor: Callable[[], Any]) -> None:
        self._raw = raw
        self.cursor = cursor

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def use_borrowed(dialect_name: str, raw: Any, cursor: Callable[[], Any], fn: Callable[[Connection], R]) -> R:
    """Run ``fn(connection)`` on a connection of a driver, and leave its transaction as it is.

    Args:
      dialect_name: SQLAlchemy's names of the database and the driver: ``"postgresql+psycopg"``.
      raw: the connection of the driver.
      cursor: makes a DBAPI cursor whose rows are tuples.

    Raises: the errors of the driver itself, which the caller knows.
    """
    dialect, compiled = _dialect(dialect_name)
    # Made without `create_engine`: that would ask the server for its version, in the caller's transaction.
    borrowed: Any = _Borrowed(raw, cursor)
    pool = NullPool(lambda: borrowed, reset_on_return=None, dialect=dialect)
    engine = Engine(pool, dialect, make_url(f"{dialect_name}://"), hide_parameters=True)
    try:
        with engine.connect() as connection:
            return fn(connection.execution_options(compiled_cache=compiled))
    except DBAPIError as error:
        assert error.orig is not None
        raise error.orig from error.orig.__cause__
