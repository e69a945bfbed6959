"""Connections of Django: ``django.db.connection``, or one of ``django.db.connections``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from ...errors import RomancyError
from . import drivers
from .connection import CallersConnection, Runs
from .libraries import is_instance

R = TypeVar("R")


def adapt(given: Any) -> CallersConnection | None:
    """Return what is known of a connection of Django; None for anything else."""
    if is_instance(given, "django.utils.connection", "ConnectionProxy"):
        given = given._connections[given._alias]  # as each of its own methods does
    if not is_instance(given, "django.db.backends.base.base", "BaseDatabaseWrapper"):
        return None
    shown = "this connection of Django"

    def use(fn: Callable[[Connection], R]) -> R:
        given.validate_no_broken_transaction()
        given.ensure_connection()
        inner = drivers.adapt(given.connection)
        if inner is None:
            library = type(given.connection).__module__.partition(".")[0]
            raise RomancyError(f"{shown} uses {library}, which is not supported here; use psycopg, PyMySQL or SQLite")
        with given.wrap_database_errors:
            result: R = inner.use(fn)  # type: ignore[assignment]  # these drivers block
            return result

    begin = "write `with transaction.atomic():` around all that belongs together"
    return CallersConnection(shown, Runs.HERE, begin, use, given.on_commit)
