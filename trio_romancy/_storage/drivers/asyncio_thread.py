"""A connection for a thread, over a driver for asyncio: in an event loop of its own, which runs during calls only."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from attrs import define
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..._tasks.asyncio_cancel import cancel_until_done
from ...errors import DatabaseAwayError
from ..database import SQLFunction
from . import connections
from .sockets import carried_bytes

P = ParamSpec("P")
R = TypeVar("R")


@define(eq=False)
class AsyncioThreadConnection:
    """A connection that is kept from one transaction to the next, used by one thread only: its calls block.

    Args:
      engine: an engine without a pool: connections cannot move between event loops.
      connect: makes a connection of the engine.
    """

    _engine: AsyncEngine
    _connect: Callable[[AsyncEngine], Awaitable[AsyncConnection]]
    _loop: asyncio.AbstractEventLoop | None = None
    _connection: AsyncConnection | None = None

    def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result.

        Raises:
          DatabaseAwayError: if that takes longer than :data:`.connections.ANSWER_TIMEOUT`.
        """
        return self._wait(lambda: self._run(lambda connection: fn(connection, *args, **kwargs)))

    def close(self) -> None:
        """Close the connection and the event loop, if there are any."""
        if self._loop is not None:
            try:
                self._wait(self._close)
            finally:
                self._loop.close()
                self._loop = None

    def _wait(self, fn: Callable[[], Coroutine[Any, Any, R]]) -> R:
        # In an empty context: otherwise trio-asyncio would take this for one of its own tasks.
        return contextvars.Context().run(self._run_until_complete, fn)

    def _run_until_complete(self, fn: Callable[[], Coroutine[Any, Any, R]]) -> R:
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
        return self._loop.run_until_complete(self._in_time(fn))

    async def _run(self, fn: Callable[[Connection], R]) -> R:
        try:
            if self._connection is None:
                self._connection = await self._connect(self._engine)
            return await self._connection.run_sync(connections.in_transaction, fn)
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _in_time(self, fn: Callable[[], Coroutine[Any, Any, R]]) -> R:
        task, carried = asyncio.create_task(fn()), None
        while not (await asyncio.wait((task,), timeout=connections.ANSWER_TIMEOUT))[0]:
            before, carried = carried, carried_bytes(self._connection)
            if carried is None or carried == before:
                cancel_until_done(task)
                await asyncio.wait((task,))
                break
        if task.cancelled():
            raise DatabaseAwayError(f"the server has not answered for {connections.ANSWER_TIMEOUT:g} s")
        return task.result()
