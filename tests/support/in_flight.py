"""Two transactions that are open at the same time."""

from __future__ import annotations

from typing import Any

import trio
from sqlalchemy import Connection

from trio_romancy._storage.database import Database


def end(_: Connection) -> None:
    pass


class InFlight:
    """A function that has done its part in a transaction, or waits for others to end theirs."""

    def __init__(self, database: Database, fn: Any, *args: Any) -> None:
        self._database = database
        self._fn = fn
        self._args = args
        self.done = trio.Event()
        self.may_commit = trio.Event()
        self.committed = trio.Event()
        self.result: Any = None

    async def run(self) -> None:
        async with self._database.open_transaction() as transaction:
            self.result = await transaction.run(self._fn, *self._args)
            self.done.set()
            await self.may_commit.wait()
            await transaction.commit(end)
        self.committed.set()

    async def commit(self) -> None:
        self.may_commit.set()
        await self.committed.wait()

    async def blocks(self) -> bool:
        """Whether it waits for somebody else's transaction, for as long as we care to look."""
        with trio.move_on_after(0.3):
            await self.done.wait()
            return False
        return True


async def cross(database: Database, first: InFlight, second: InFlight) -> bool:
    """Let the second begin when the first has done its part, and commit both. Returns whether the second blocked."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        await first.done.wait()
        nursery.start_soon(second.run)
        blocked = await second.blocks()
        await first.commit()
        await second.commit()
    return blocked
