"""Check that every commit to SQLite waits for the disk: WAL mode with ``synchronous=FULL``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define
from sqlalchemy import event
from sqlalchemy.pool import Pool

_LEVELS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}


@define
class Pragmas:
    """Settings of the connections of a system."""

    journal_mode: set[str]
    synchronous: set[str]
    connections: int = 0
    """Number of connections that were checked, each when it was closed."""


@contextmanager
def watched(*, force: bool) -> Iterator[Pragmas]:
    """Record the settings of every connection that SQLAlchemy opens inside the block, when it is closed.

    Args:
      force: whether to apply the settings, too. Otherwise the system must have done so itself.

    Raises:
      RuntimeError: when the block ends, if a commit may not have waited for the disk.
    """
    pragmas = Pragmas(set(), set())

    def opened(connection: Any, _: object) -> None:
        _ask(connection, "journal_mode = WAL")
        _ask(connection, "synchronous = FULL")

    def closing(connection: Any, _: object) -> None:
        pragmas.journal_mode.add(_ask(connection, "journal_mode"))
        pragmas.synchronous.add(_LEVELS[_ask(connection, "synchronous")])
        pragmas.connections += 1

    if force:
        event.listen(Pool, "connect", opened)
    event.listen(Pool, "close", closing)
    try:
        yield pragmas
    finally:
        event.remove(Pool, "close", closing)
        if force:
            event.remove(Pool, "connect", opened)
    if pragmas.journal_mode != {"wal"} or pragmas.synchronous != {"FULL"}:
        raise RuntimeError(f"not every commit waited for the disk: {pragmas}")


def _ask(connection: Any, pragma: str) -> Any:
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA {pragma}")
        row = cursor.fetchone()
        return None if row is None else row[0]
    finally:
        cursor.close()
