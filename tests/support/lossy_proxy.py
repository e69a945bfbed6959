"""A proxy that does things to one connection, which a transaction names while it runs on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import pytest
import trio
from attrs import define, field
from sqlalchemy import Connection, make_url

from trio_romancy import App

from .probe import wrap_batch_fence, wrap_single_statement
from .proxy import Proxy, _Link, _Loss, open_proxy

P = ParamSpec("P")
R = TypeVar("R")


@asynccontextmanager
async def open_lossy_proxy(url: str) -> AsyncIterator[LossyProxy]:
    """A proxy for the server of a database URL."""
    server = make_url(url)
    assert server.host is not None and server.port is not None
    async with open_proxy(server.host, server.port, LossyProxy) as proxy:
        yield proxy


@asynccontextmanager
async def open_app(database: str, **options: Any) -> AsyncIterator[tuple[LossyProxy, App]]:
    """An app behind a proxy of its own. When the block ends all is as it was, or the app might not come to its end."""
    async with open_lossy_proxy(database) as proxy, App(proxy.url(database), **options) as app:
        try:
            yield proxy, app
        finally:
            proxy.cut()
            proxy.resume()
            proxy.accept()


def in_trio(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call it in the trio thread, from there or from a thread in which a transaction runs."""
    if trio.lowlevel.in_trio_run():
        return fn(*args, **kwargs)
    return trio.from_thread.run_sync(lambda: fn(*args, **kwargs))


def commits_each(connection: Connection) -> bool:
    """Whether each statement is a transaction of its own there."""
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


def before_commit(hook: Callable[[Connection], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it called with the connection of each batch of the journal, before that is committed."""

    def then_call(fence_batch: Callable[..., bool]) -> Callable[..., bool]:
        def fence_and_call(connection: Connection, *args: Any) -> bool:
            answer = fence_batch(connection, *args)
            hook(connection)
            return answer

        return fence_and_call

    def first_call(write_at_once: Callable[..., Any]) -> Callable[..., Any]:
        def call_and_write(connection: Connection, *args: Any) -> Any:
            hook(connection)
            return write_at_once(connection, *args)

        return call_and_write

    wrap_batch_fence(then_call, monkeypatch)
    wrap_single_statement(first_call, monkeypatch)


def port_of(connection: Connection) -> int:
    """The port of our end of a connection."""
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "_sock"):
        return int(driver._sock.getsockname()[1])
    transport = driver._transport if hasattr(driver, "_transport") else driver._writer
    port: int = transport.get_extra_info("sockname")[1]
    return port


@define(eq=False)
class LossyProxy(Proxy):
    _commits: dict[int, tuple[_Loss, bool]] = field(factory=dict, init=False)
    """By the client's port: the COMMIT whose answer is to be lost, and whether the server shall make it."""
    _forgotten: dict[int, int] = field(factory=dict, init=False)
    """By the client's port: how many more requests reach the server."""

    def lose_commit(self, connection: Connection, *, is_made: bool) -> trio.Event:
        """Reset the connection at its next commit, after or before the server hears of that. Sets the event then.

        Where each statement is a transaction of its own, that is the next statement.
        """
        loss = _LossOfStatement(b"") if commits_each(connection) else _Loss(b"COMMIT")
        self._commits[port_of(connection)] = (loss, is_made)
        return loss.happened

    def forget(self, connection: Connection, *, requests: int = 0) -> None:
        """Carry only so many more requests of the connection, and no more answers. Both ends believe it is open.

        The server is not even told when the client closes it, as when a router has died.
        """
        self._forgotten[port_of(connection)] = requests

    def forget_all(self) -> None:
        """The same for all that are open now. New ones work."""
        self._forgotten.update(dict.fromkeys((_port(link) for link in self._links), 0))

    def end(self, connection: Connection) -> None:
        """End the stream to its client. The server is not told, not even when the client closes its end."""
        port = port_of(connection)
        self._forgotten[port] = 0
        for link in self._links:
            if _port(link) == port:
                link.half_close()

    async def _forward_requests(self, link: _Link, server: trio.SocketStream) -> None:
        port = _port(link)
        try:
            await super()._forward_requests(link, _Gate(self, link, port, server))  # type: ignore[arg-type]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if port not in self._forgotten:
                raise
        if port in self._forgotten:
            await trio.sleep_forever()

    async def _forward_answers(self, link: _Link, server: trio.SocketStream) -> None:
        await super()._forward_answers(link, _Gate(self, link, _port(link), server))  # type: ignore[arg-type]


class _LossOfStatement(_Loss):
    """Of one that the server knows already: to PostgreSQL, a message of Bind."""

    def is_due(self, chunk: bytes) -> bool:
        return chunk.startswith(b"B")


@define(eq=False)
class _Gate:
    """The server's end of one connection, as the proxy sees it."""

    _proxy: LossyProxy
    _link: _Link
    _port: int
    _server: trio.SocketStream

    async def receive_some(self, most: int) -> bytes:
        chunk = await self._server.receive_some(most)
        if self._port in self._proxy._forgotten:
            await trio.sleep_forever()
        return bytes(chunk)

    async def send_all(self, chunk: bytes) -> None:
        if self._port in self._proxy._forgotten:
            if not self._proxy._forgotten[self._port]:
                return
            self._proxy._forgotten[self._port] -= 1
        loss, is_made = self._proxy._commits.get(self._port, (None, False))
        if loss is not None and loss.is_due(chunk):
            del self._proxy._commits[self._port]
            self._link.loss = loss
            if not is_made:
                self._link.cut()
                await trio.sleep_forever()
        await self._server.send_all(chunk)

    async def send_eof(self) -> None:
        if self._port not in self._proxy._forgotten:
            await self._server.send_eof()


def _port(link: _Link) -> int:
    try:
        port: int = link.client.socket.getpeername()[1]
    except OSError:  # it is closed
        return 0
    return port
