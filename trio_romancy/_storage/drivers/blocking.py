"""The connection on which the journal writes to MariaDB or MySQL: PyMySQL, in a thread.

A batch is one transaction of a few statements, and the next begins when it is committed. In asyncio each of these
round trips would be several turns of two event loops. Here the trio task waits once, while the thread waits for the
server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import pymysql
import sqlalchemy
import trio
from attrs import define, field
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from ...clock import hold_virtual_time
from ...errors import RomancyError
from ..database import SQLFunction
from . import connections
from .connections import Connections
from .urls import Server

P = ParamSpec("P")
R = TypeVar("R")

_NO_TLS = 2026
"""What PyMySQL says when there is no TLS where it was told how to speak it: CR_SSL_CONNECTION_ERROR."""


@define(eq=False)
class BlockingWriter:
    """Holds a connection for as long as it works.

    No cancellation tears a transaction: it is delivered when that has ended. If that takes too long, the thread is left
    to end by itself, as it does because the socket has timeouts too, and nothing more is written before it has.
    """

    _engine: Engine
    _connections: Connections
    _connection: Connection | None = None
    """Belongs to the thread that has the turn."""
    _turn: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1))
    """Not trio's default limiter: whatever else runs in threads could take all of that."""
    at_once = None

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._in_thread(self._run, lambda connection: fn(connection, *args, **kwargs))

    async def aclose(self) -> None:
        await self._in_thread(self._close)

    async def _in_thread(self, fn: Callable[..., R], *args: Any) -> R:
        turn = self._connections.turn
        with (
            hold_virtual_time(),
            trio.CancelScope(deadline=trio.current_time() + connections.ANSWER_TIMEOUT, shield=True),
        ):
            return await trio.to_thread.run_sync(fn, *args, abandon_on_cancel=True, limiter=self._turn)
        raise self._connections.no_answer(turn)

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self, fn: Callable[[Connection], R]) -> R:
        if self._connection is None:
            self._connection = self._connect()
        try:
            return connections.in_transaction(self._connection, fn)
        except BaseException:
            self._close()
            raise

    def _connect(self) -> Connection:
        try:
            connection = self._engine.connect()
        except RomancyError:
            raise
        except Exception as error:
            raise self._connections.failure(error) from error
        try:
            self._connections.end_abandoned(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def blocking_engine(server: Server, url: URL) -> Engine:
    """Makes connections that block, and no longer than :data:`.connections.ANSWER_TIMEOUT` for one answer."""
    timeout = connections.ANSWER_TIMEOUT
    arguments: dict[str, Any] = server.connect_args | {
        "connect_timeout": min(server.connect_args["connect_timeout"], timeout),
        "read_timeout": timeout,
        "write_timeout": timeout,
        "ssl_disabled": "ssl" not in server.connect_args,  # PyMySQL would try by itself
    }
    return sqlalchemy.create_engine(
        url,
        connect_args=arguments,
        isolation_level="READ COMMITTED",
        poolclass=NullPool,
        pool_reset_on_return=None,  # nothing is given back that was not committed or rolled back
        hide_parameters=True,  # they are the users' data, and errors go to logs
    )


def connect(server: Server, *args: Any, **options: Any) -> Any:
    """Make a connection with PyMySQL. Like the other drivers it goes on without TLS where that is but preferred."""
    try:
        return pymysql.connect(*args, **options)
    except pymysql.OperationalError as error:
        if error.args[0] != _NO_TLS or server.must_encrypt:
            raise
    return pymysql.connect(*args, **options | {"ssl": None, "ssl_disabled": True})
