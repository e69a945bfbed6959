"""Transactions of callers: on the connections and sessions of other libraries, which are never imported for that.

:func:`callers_connection` finds the adapter for an object by its type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import async_drivers, django, drivers, own_sessions, sqlalchemy_objects
from .connection import CallersConnection

_ADAPTERS: tuple[Callable[[Any], CallersConnection | None], ...] = (
    own_sessions.adapt,
    sqlalchemy_objects.adapt,
    drivers.adapt,
    async_drivers.adapt,
    django.adapt,
)

_KNOWN = (
    "a connection or a session of SQLAlchemy, a connection of psycopg, asyncpg, PyMySQL, aiomysql or sqlite3, or "
    "django.db.connection"
)


def callers_connection(given: object) -> CallersConnection:
    """Return what is known of a connection or a session.

    Raises:
      TypeError: if it is neither, or of a library without an adapter. The message names those with one.
    """
    for adapt in _ADAPTERS:
        if (found := adapt(given)) is not None:
            return found
    kind = type(given)
    shown = f"{kind.__module__}.{kind.__qualname__}"
    if hasattr(given, "acquire") or hasattr(given, "connect"):
        raise TypeError(f"expected {_KNOWN}, got {shown}, which makes connections: pass the one that you have begun")
    raise TypeError(f"expected {_KNOWN}, got {shown}")
