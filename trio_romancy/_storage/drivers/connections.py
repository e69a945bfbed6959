"""The parts that connections to servers share, whichever driver makes them."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import sqlalchemy
import trio
from attrs import define, field
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from ...errors import DatabaseAwayError, DatabaseError
from ..dialects import server_dialect_of
from ..dialects.dbapi import driver_connection
from ..dialects.errors import NoAnswerError, is_cut_off, is_of_this_server, is_transient
from .sockets import find_socket, keep_alive
from .urls import Server

R = TypeVar("R")

_logger = logging.getLogger("trio_romancy.database")

Connect = Callable[..., Any]
"""Makes a DBAPI connection from the arguments that SQLAlchemy derives from the URL."""

ANSWER_TIMEOUT = 10.0
"""Longest time that a transaction of the engine may make no progress, in seconds.

All statements are short. One that takes longer waits for a server that is gone, unless bytes go to and fro meanwhile: a
large value over a slow link takes its time.
"""
LAST_PATIENCE = 0.3
"""The same for a call that is made when the app has no time left to end."""
LAST_PATIENCE_OF_ALL = 0.9
"""The same for all of those calls together."""
_LEAST_PATIENCE = 0.1
"""Time that a call gets even then, in seconds: enough to close a connection by force."""


@define(eq=False)
class Connections:
    """All connections of a database to its server, which may be one of several hosts."""

    _server: Server
    _lost: dict[tuple[int, int], float] = field(factory=dict)
    """Connections that this side has lost, which may still hold locks because the server does not know that yet.

    By host and by the server's id of the connection: when it was made, on the monotonic clock.
    """
    turn: int = 0
    """Number of the host to try first, counted round and round."""
    is_pooled: bool | None = None
    """Whether a pooler is between this side and the server; None: no connection has been made."""
    closes_by_force: bool = False
    """Whether to close connections without waiting for the server, which has not answered."""
    _ends_at: float = math.inf
    """When calls must have ended, on trio's clock."""
    _waits: set[trio.CancelScope] = field(factory=set)
    """Scopes of the calls that wait for an answer."""

    @property
    def name(self) -> str:
        """Name of the database in messages."""
        return self._server.name

    @property
    def has_lost(self) -> bool:
        """Whether the server may still have connections that this side has lost."""
        return bool(self._lost)

    def end_by(self, deadline: float) -> None:
        """Have the calls under way end by that time, and later ones within :data:`LAST_PATIENCE_OF_ALL`."""
        self._ends_at = deadline
        for scope in self._waits:
            scope.deadline = min(scope.deadline, deadline)

    @contextmanager
    def patience(self) -> Iterator[trio.CancelScope]:
        """Wait in the block for an answer, for as long as a transaction may take.

        Raises:
          NoAnswerError: if that was not long enough. The next connection tries the next host.
        """
        turn, now = self.turn, trio.current_time()
        last = min(now + LAST_PATIENCE, self._ends_at + LAST_PATIENCE_OF_ALL)
        deadline = min(now + ANSWER_TIMEOUT, max(self._ends_at, last, now + _LEAST_PATIENCE))
        with trio.CancelScope(deadline=deadline) as scope:
            self._waits.add(scope)
            try:
                yield scope
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            self.turn = max(self.turn, turn + 1)
            if trio.current_time() >= self._ends_at:
                self.closes_by_force = True
            seconds = max(trio.current_time() - now, 0.0)
            raise NoAnswerError(f"{self._server.name} has not answered for {seconds:.1f} s")

    def renew(self, scope: trio.CancelScope) -> None:
        """Restart the time limit of a call, which makes progress."""
        if trio.current_time() < self._ends_at:
            scope.deadline = min(trio.current_time() + ANSWER_TIMEOUT, self._ends_at)

    def attach(
        self,
        engine: Engine,
        connect: Connect | None = None,
        turn_to_connect: AbstractContextManager[object] = nullcontext(),  # noqa: B008
    ) -> None:
        """Make an engine use set-up connections to whichever host works, and keep track of those that it loses.

        Args:
          connect: makes a connection, if not the way SQLAlchemy does.
          turn_to_connect: entered while a connection is made.
        """
        dialect = server_dialect_of(engine)

        def make_one(args: Any, options: dict[str, Any]) -> Any:
            if self.is_pooled:
                options = {**options, **dialect.options_behind_pooler}
            connection = (connect or engine.dialect.connect)(*args, **options)
            try:
                self._check_socket(driver_connection(connection))
                if self.is_pooled is None and self._note_pooler(dialect.is_behind_pooler(connection)):
                    engine.dialect.do_close(connection)
                    return make_one(args, options)
                if self.is_pooled:
                    dialect.set_up_behind_pooler(connection)
                else:
                    dialect.set_up_connection(connection, self._server.schema)
                    connection.commit()
            except BaseException as error:
                with suppress(Exception):
                    engine.dialect.do_terminate(connection)
                if isinstance(error, DatabaseError):
                    raise type(error)(f"{self._server.name} cannot be used: {error}") from None
                raise
            return connection

        @event.listens_for(engine, "do_connect")
        def make(_: sqlalchemy.Dialect, record: ConnectionPoolEntry, args: Any, options: dict[str, Any]) -> Any:
            with turn_to_connect:
                made = time.monotonic()
                connection, turn = self._make(make_one, args, options)
            record.info["made"], record.info["host"] = made, self._host(turn)
            return connection

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            if self.is_pooled:
                dialect.set_up_transaction(connection, self._server.schema)

        self._close_quietly(engine.dialect)

        @event.listens_for(engine, "handle_error")
        def failed(context: ExceptionContext) -> None:
            if is_of_this_server(context.original_exception):
                context.is_disconnect = True
                # The next connection tries the next host, unless a later connection has moved on already.
                if context.connection is not None and context.connection.info.get("host") == self._host(self.turn):
                    self.turn += 1

        @event.listens_for(engine.pool, "invalidate")
        def invalidated(connection: Any, record: ConnectionPoolEntry, error: BaseException | None) -> None:
            if error is not None and not self.is_pooled:  # a pooler notices, and its number is no session's
                self._lost[record.info["host"], dialect.connection_id(connection)] = record.info["made"]

    def _note_pooler(self, is_pooled: bool) -> bool:
        self.is_pooled = is_pooled
        if is_pooled:
            _logger.info(
                "%s is behind a pooler of connections: transactions are set up one by one, and workers poll, unless "
                "direct_url of the app leads to the server itself",
                self._server.name,
            )
        return is_pooled

    def _close_quietly(self, dialect: sqlalchemy.Dialect) -> None:
        """Make it no error to close a connection that the server has closed already: a pool would log that.

        aiomysql sends a last message first, and leaves the socket open if it cannot. A connection that is given up is
        closed at once: SQLAlchemy would wait two seconds for each, and the server is probably gone. So is one whose
        closing is cancelled; the cancellation is delivered after it, because a pool must not be left in the middle.
        """
        close = dialect.do_close

        def do_close(connection: Any) -> None:
            try:
                if self.closes_by_force:
                    dialect.do_terminate(connection)
                else:
                    close(connection)
            except BaseException as error:
                if dialect.has_terminate:  # if not, closing is all that it can do
                    dialect.do_terminate(connection)
                if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) is not None:
                    task.cancel()
                elif not isinstance(error, Exception):
                    raise

        dialect.do_close = do_close  # type: ignore[assignment, method-assign]
        if dialect.has_terminate:
            dialect.do_terminate = _close  # type: ignore[assignment, method-assign]

    def _host(self, turn: int) -> int:
        return turn % len(self._server.hosts) if self._server.hosts else 0

    def _make(
        self, make_one: Callable[[Any, dict[str, Any]], Any], args: Any, options: dict[str, Any]
    ) -> tuple[Any, int]:
        """Connect to the host that was used last, or to the next that works. Return the connection and its turn."""
        hosts = self._server.hosts
        failures: list[Exception] = []
        for _ in hosts or (None,):
            turn = self.turn
            if hosts:
                name, port = hosts[self._host(turn)]
                options = options | ({"host": name} if port is None else {"host": name, "port": port})
            try:
                return make_one(args, options), turn
            except BaseException as failure:
                # Also if no time is left for the others: the next connection starts where this one stopped.
                self.turn = max(self.turn, turn + 1)
                if not isinstance(failure, Exception):
                    raise
                failures.append(failure)
        raise next((failure for failure in failures if is_away(failure)), failures[0])

    def _check_socket(self, connection: Any) -> None:
        socket, is_encrypted = find_socket(connection)
        # The drivers for MySQL may go on without TLS if the server has none.
        if self._server.must_encrypt and not is_encrypted:
            raise DatabaseError("the server does not encrypt connections, and the URL asks for it")
        keep_alive(socket)

    def end_lost(self, connection: Connection) -> None:
        """Make the server end lost connections, which may still hold locks.

        Args:
          connection: a connection that has not been used yet.
        """
        for host, id in list(self._lost):
            # Taken out meanwhile: the other new connections need not end it too.
            if host != connection.info["host"] or (made := self._lost.pop((host, id), None)) is None:
                continue
            try:
                age = time.monotonic() - made
                in_transaction(connection, server_dialect_of(connection).end_connection, id, age)
            except BaseException as error:
                if isinstance(error, DBAPIError) and not is_away(error):
                    continue  # it has ended meanwhile, or the user of the database may not end it
                self._lost[host, id] = made
                raise

    def connect_error(self, error: Exception) -> DatabaseError:
        """Return the error to raise if no connection can be made.

        Args:
          error: an error of SQLAlchemy, or of the driver.
        """
        name = self._server.name
        if (refusal := _certificate_refusal(error)) is not None:
            return DatabaseError(f"{name}: the certificate of the server is not trusted: {refusal}")
        kind = DatabaseAwayError if is_away(error) else DatabaseError
        return kind(f"{name} cannot be used: {getattr(error, 'orig', None) or error}")


def is_away(error: BaseException) -> bool:
    """Return whether a connection could not be made because the server is away or busy.

    A server that ends statements after a short time ends those that set up a connection, too.
    """
    return isinstance(error, OSError) or is_transient(error) or is_cut_off(error)


def in_transaction(connection: Connection, fn: Callable[..., R], *args: Any) -> R:
    """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
    with connection.begin():
        return fn(connection, *args)


def _close(connection: Any) -> None:
    """Close a connection without waiting for its server."""
    connection = driver_connection(connection)
    connection.terminate() if hasattr(connection, "terminate") else connection.close()


def _certificate_refusal(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return why the server's certificate was refused, if it was. The drivers for MySQL themselves say only 2003."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
