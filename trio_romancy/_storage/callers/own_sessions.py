"""Sessions of activities, and of ``app.transaction()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from ..session import Session
from .connection import CallersConnection, Runs

R = TypeVar("R")


def adapt(given: Any) -> CallersConnection | None:
    """Return what is known of a session of this package; None for anything else."""
    if not isinstance(given, Session):
        return None
    session = given

    async def use(fn: Callable[[Connection], R]) -> R:
        return await session.run_sync(lambda sync: fn(sync.connection()))

    return CallersConnection("this session", Runs.IN_TRIO, "", use, session.after_commit)
