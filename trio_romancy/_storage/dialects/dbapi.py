"""Connections below SQLAlchemy: what drivers make, before an engine has them."""

from __future__ import annotations

from typing import Any


def driver_connection(connection: Any) -> Any:
    """Return a DBAPI connection as its driver made it. SQLAlchemy adapts only those of asyncio."""
    return getattr(connection, "driver_connection", connection)


def execute(connection: Any, statement: str) -> Any:
    """Execute a statement on a DBAPI connection. Return the first row of the result, or None."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None
    finally:
        cursor.close()
