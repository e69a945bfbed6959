"""The connection on which the journal writes to MariaDB or MySQL: PyMySQL, in a thread.

A batch is one transaction of a few statements, and the next batch begins when it is committed. In asyncio, each of
these round trips would be several turns of two event loops. Here the trio task waits once, while a thread waits for the
server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from socket import AF_INET, AF_INET6, SO_SNDBUF, SOL_SOCKET
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
from ..dialects.dbapi import driver_connection
from . import connections
from .connections import Connections
from .sockets import find_socket
from .urls import Server

P = ParamSpec("P")
R = TypeVar("R")

_CHUNK = 64 * 1024
"""Bytes that are sent or awaited at once, each with a time limit of its own."""
_SEND_BUFFER = 512 * 1024
"""The most bytes that the system takes and has not sent yet: when it sends the last of them is not known here."""
_REPORT_EVERY = 0.1
"""Least seconds between two reports of progress to the waiting task."""
_NO_TLS = 2026
"""Code of PyMySQL's error if the server has no TLS although the client expects it: CR_SSL_CONNECTION_ERROR."""


@define(eq=False)
class BlockingConnection:
    """A connection that is kept from one transaction to the next, used by one thread at a time: its calls block."""

    _engine: Engine
    _connections: Connections
    _connection: Connection | None = None
    on_progress: Callable[[], None] | None = None
    """Called by the thread, now and then, while a transaction makes progress."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
        if self._connection is None:
            self._connection = self._connect()
        try:
            return connections.in_transaction(self._connection, lambda connection: fn(connection, *args, **kwargs))
        except BaseException:
            self.close()
            raise

    def _connect(self) -> Connection:
        try:
            connection = self._engine.connect()
            driver_connection(connection.connection).on_progress = self.on_progress
        except RomancyError:
            raise
        except Exception as error:
            raise self._connections.connect_error(error) from error
        try:
            self._connections.end_lost(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@define(eq=False)
class BlockingWriter:
    """A :class:`~.database.Writer` that keeps its connection from one transaction to the next.

    Cancellation never tears a transaction: it is delivered when the transaction has ended. A transaction that takes too
    long is left to its thread. That thread ends by itself, because the socket has timeouts too, and the next
    transaction waits for it.
    """

    _connection: BlockingConnection
    _connections: Connections
    _turn: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1))
    """A limiter of its own: other work in threads may use up trio's default limiter."""
    _waiting: trio.CancelScope = field(factory=trio.CancelScope)
    """Scope in which the present transaction is awaited."""
    _token: trio.lowlevel.TrioToken = field(factory=trio.lowlevel.current_trio_token)
    autocommit = None

    def __attrs_post_init__(self) -> None:
        self._connection.on_progress = self._report_progress

    async def run(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._in_thread(lambda: self._connection.run(fn, *args, **kwargs))

    async def aclose(self) -> None:
        await self._in_thread(self._connection.close)

    async def _in_thread(self, fn: Callable[[], R]) -> R:
        with hold_virtual_time(), self._connections.patience() as self._waiting:
            self._waiting.shield = self._connection.is_open  # no transaction runs while the thread connects
            return await trio.to_thread.run_sync(fn, abandon_on_cancel=True, limiter=self._turn)

    def _report_progress(self) -> None:
        """Restart the time limit. Called in the thread."""
        with suppress(trio.RunFinishedError):  # a thread that was left
            self._token.run_sync_soon(lambda: self._connections.renew(self._waiting))


_Base: Any = pymysql.Connection  # whose types do not name its methods


class _PatientConnection(_Base):  # type: ignore[misc]
    """A connection whose time limits are those of progress: of each statement, and of each piece of a large value."""

    on_progress: Callable[[], None] | None = None
    """Called in the thread, now and then while there is progress."""
    _reported_at = 0.0

    def connect(self, sock: Any = None) -> None:
        super().connect(sock)
        socket = find_socket(self)[0]
        if socket.family in (AF_INET, AF_INET6):
            socket.setsockopt(SOL_SOCKET, SO_SNDBUF, _SEND_BUFFER)

    def _execute_command(self, command: int, sql: Any) -> None:
        self._report_progress()
        super()._execute_command(command, sql)

    def _write_bytes(self, data: bytes) -> None:
        if len(data) <= _CHUNK:
            super()._write_bytes(data)
            return
        view = memoryview(data)  # else the limit of the socket would be one for all of it
        for start in range(0, len(data), _CHUNK):
            super()._write_bytes(view[start : start + _CHUNK])
            self._report_progress()

    def _read_bytes(self, num_bytes: int) -> bytes:
        if num_bytes <= _CHUNK:
            data: bytes = super()._read_bytes(num_bytes)
            return data
        pieces = bytearray()
        while len(pieces) < num_bytes:
            pieces += super()._read_bytes(min(num_bytes - len(pieces), _CHUNK))
            self._report_progress()
        return bytes(pieces)

    def _report_progress(self) -> None:
        now = time.monotonic()
        if self.on_progress is not None and now > self._reported_at + _REPORT_EVERY:
            self._reported_at = now
            self.on_progress()


def blocking_engine(server: Server, url: URL) -> Engine:
    """Return an engine whose connections wait for an answer no longer than :data:`.connections.ANSWER_TIMEOUT`."""
    timeout = connections.ANSWER_TIMEOUT
    arguments: dict[str, Any] = server.connect_args | {
        "connect_timeout": min(server.connect_args["connect_timeout"], timeout),
        "read_timeout": timeout,
        "write_timeout": timeout,
        "ssl_disabled": "ssl" not in server.connect_args,  # PyMySQL would try TLS by itself
    }
    return sqlalchemy.create_engine(
        url,
        connect_args=arguments,
        isolation_level="READ COMMITTED",
        poolclass=NullPool,
        pool_reset_on_return=None,  # each connection is returned after a commit or a rollback
        hide_parameters=True,  # they are the users' data, and errors are logged
    )


def connect(server: Server, *args: Any, **options: Any) -> Any:
    """Connect with PyMySQL. Like the other drivers, connect without TLS if TLS is preferred and the server has none."""
    try:
        return _PatientConnection(*args, **options)
    except pymysql.OperationalError as error:
        if error.args[0] != _NO_TLS or server.must_encrypt:
            raise
    return _PatientConnection(*args, **options | {"ssl": None, "ssl_disabled": True})
