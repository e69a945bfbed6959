"""What holds for every connection to a server, whichever driver makes it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from ...errors import DatabaseAwayError, DatabaseError
from .. import dialects
from .urls import Server

R = TypeVar("R")

Connect = Callable[..., Any]
"""Makes a connection with a driver, from what SQLAlchemy makes of the URL."""

ANSWER_TIMEOUT = 10.0
"""Seconds in which a transaction of the engine itself must have ended. All of them are short: one that takes longer
talks to a server that is not there any more."""


@define(eq=False)
class Connections:
    """All connections of a database to its server."""

    _server: Server
    _abandoned: dict[tuple[int, int], float] = field(factory=dict)
    """Those that may still hold locks, because the server may not know that we have left them: of which host, what it
    calls them, and when they were made, on the monotonic clock."""
    turn: int = 0
    """Which of the hosts to begin with, counted round and round."""

    @property
    def has_abandoned(self) -> bool:
        """Whether the server may have connections of ours that are of no use to us."""
        return bool(self._abandoned)

    def watch(self, engine: Engine, connect: Connect | None = None) -> None:
        """Have the engine make connections that are set up, to whichever host can be used; remember each that it loses.

        Args:
          connect: how its driver does it, if not as SQLAlchemy would.
        """

        @event.listens_for(engine, "do_connect")
        def make(dialect: Dialect, record: ConnectionPoolEntry, args: Any, options: dict[str, Any]) -> Any:
            made = time.monotonic()
            connection, turn = self._make(dialect, connect or dialect.connect, args, options)
            record.info["made"], record.info["host"] = made, self._host(turn)
            return connection

        _close_quietly(engine.dialect)

        @event.listens_for(engine, "handle_error")
        def failed(context: ExceptionContext) -> None:
            if dialects.is_of_no_use(context.original_exception):
                context.is_disconnect = True
                # The next connection is to another host, if there is one, and if none has been made meanwhile.
                if context.connection is not None and context.connection.info.get("host") == self._host(self.turn):
                    self.turn += 1

        @event.listens_for(engine.pool, "invalidate")
        def invalidated(connection: Any, record: ConnectionPoolEntry, error: BaseException | None) -> None:
            if error is not None:
                self._abandoned[record.info["host"], dialects.connection_id(connection)] = record.info["made"]

    def _host(self, turn: int) -> int:
        return turn % len(self._server.hosts) if self._server.hosts else 0

    def _make(self, dialect: Dialect, connect: Connect, args: Any, options: dict[str, Any]) -> tuple[Any, int]:
        """A connection to the host that was used last, or to the next that can be; and which one that is."""
        hosts = self._server.hosts
        failures: list[Exception] = []
        for _ in hosts or (None,):
            turn = self.turn
            if hosts:
                name, port = hosts[self._host(turn)]
                options = options | ({"host": name} if port is None else {"host": name, "port": port})
            try:
                return self._make_one(dialect, connect, args, options), turn
            except BaseException as failure:
                # Also if there is no time for more: the next connection begins where this one stopped.
                self.turn = max(self.turn, turn + 1)
                if not isinstance(failure, Exception):
                    raise
                failures.append(failure)
        raise next((failure for failure in failures if is_away(failure)), failures[0])

    def _make_one(self, dialect: Dialect, connect: Connect, args: Any, options: dict[str, Any]) -> Any:
        connection = connect(*args, **options)
        try:
            dialects.prepare_connection(connection, encrypted=self._server.must_encrypt)
        except BaseException as error:
            with suppress(Exception):
                dialect.do_terminate(connection)
            if isinstance(error, DatabaseError):
                raise type(error)(f"{self._server.name} cannot be used: {error}") from None
            raise
        return connection

    def end_abandoned(self, connection: Connection) -> None:
        """Make the server end those that may still hold locks. For a connection that has not been used yet."""
        for (host, id), made in self._abandoned.copy().items():
            if host != connection.info["host"]:
                continue
            try:
                in_transaction(connection, dialects.end_connection, id, time.monotonic() - made)
            except DBAPIError as error:
                if dialects.is_transient(error):
                    raise
                # It has ended meanwhile, or we may not end it.
            self._abandoned.pop((host, id), None)

    def failure(self, error: Exception) -> DatabaseError:
        """What it means that no connection could be made.

        Args:
          error: of SQLAlchemy, or of the driver as it is.
        """
        name = self._server.name
        if (distrust := _distrust(error)) is not None:
            return DatabaseError(f"{name} is not to be trusted: {distrust}")
        kind = DatabaseAwayError if is_away(error) else DatabaseError
        return kind(f"{name} cannot be used: {getattr(error, 'orig', None) or error}")

    def no_answer(self, turn: int) -> DatabaseAwayError:
        """What it means that a transaction has not ended in time.

        Args:
          turn: what it was when that began. The next connection is to another host, if there is one.
        """
        self.turn = max(self.turn, turn + 1)
        return DatabaseAwayError(f"{self._server.name} has not answered for {ANSWER_TIMEOUT:g} s")


def is_away(error: BaseException) -> bool:
    """Whether a connection could not be made because there is nobody to talk to just now."""
    return isinstance(error, OSError) or dialects.is_transient(error)


def in_transaction(connection: Connection, fn: Callable[..., R], *args: Any) -> R:
    """Run ``fn(connection, ...)`` in a transaction of its own, commit, and return its result."""
    with connection.begin():
        return fn(connection, *args)


def _close_quietly(dialect: Dialect) -> None:
    """What the server has closed already can be closed too: a pool would tell of it as of an error.

    aiomysql takes leave of the server first, and leaves the socket open where there is nobody to take leave of.
    """
    close = dialect.do_close

    def do_close(connection: Any) -> None:
        try:
            close(connection)
        except Exception:
            if dialect.has_terminate:  # if it has not, this is all it can do
                dialect.do_terminate(connection)

    dialect.do_close = do_close  # type: ignore[assignment, method-assign]


def _distrust(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why the certificate of the server was refused, if that is what it is: the drivers for MySQL say but 2003."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
