"""Connections and sessions of SQLAlchemy, synchronous or for asyncio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event

from .connection import CallersConnection, Runs
from .libraries import is_instance

_BEGIN = "use an engine, or execution options, without isolation_level='AUTOCOMMIT'"
_SCOPED = (("sqlalchemy.orm", "scoped_session"), ("sqlalchemy.ext.asyncio", "async_scoped_session"))


def adapt(given: Any) -> CallersConnection | None:
    """Return what is known of a connection or a session of SQLAlchemy; None for anything else."""
    if is_instance(given, "sqlalchemy.orm", "scoped_session") or is_instance(
        given, "sqlalchemy.ext.asyncio", "async_scoped_session"
    ):
        given = given()
    if isinstance(given, Connection):
        return _adapted("connection", Runs.HERE, lambda fn: fn(given), given, "commit")
    if is_instance(given, "sqlalchemy.orm", "Session"):
        return _adapted("session", Runs.HERE, lambda fn: fn(given.connection()), given, "after_commit")
    if is_instance(given, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        return _adapted("connection", Runs.IN_ASYNCIO, given.run_sync, given.sync_connection, "commit")
    if is_instance(given, "sqlalchemy.ext.asyncio", "AsyncSession"):

        def use(fn: Callable[[Connection], Any]) -> Any:
            return given.run_sync(lambda session: fn(session.connection()))

        return _adapted("session", Runs.IN_ASYNCIO, use, given.sync_session, "after_commit")
    return None


def _adapted(
    kind: str, runs: Runs, use: Callable[[Callable[[Connection], Any]], Any], target: Any, at_commit: str
) -> CallersConnection:
    def after_commit(call: Callable[[], Any]) -> None:
        event.listen(target, at_commit, lambda _: call(), once=True)

    return CallersConnection(f"this {kind} of SQLAlchemy", runs, _BEGIN, use, after_commit)
