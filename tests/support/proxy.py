"""A TCP proxy that fails on command, to stand between the library and a database server.

It uses real sockets, so its tests run on the real clock.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from attrs import define, field
from sqlalchemy import make_url

CHUNK = 65_536
"""Bytes that are read at once."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing sends RST, not FIN."""

POSTGRESQL_WANTS_TLS = bytes.fromhex("0000000804d2162f")
"""The first bytes of a client that will speak TLS if the server does; b"N" says that it does not."""


@asynccontextmanager
async def open_proxy(
    host: str, port: int, make: Callable[[str, int, trio.Nursery], Proxy] | None = None
) -> AsyncIterator[Any]:
    """A proxy for a server, on a loopback port of its own. When the block ends, its connections are cut.

    Args:
      make: what makes the proxy, if it is to be of another class.
    """
    async with trio.open_nursery() as nursery:
        proxy = (make or Proxy)(host, port, nursery)
        proxy.accept()
        try:
            yield proxy
        finally:
            proxy.refuse()
            proxy.cut()
            nursery.cancel_scope.cancel()


@define(eq=False)
class Proxy:
    """Forwards bytes between clients and a server until told otherwise.

    All its commands take effect before they return. If the server cannot be reached, or resets a connection, its client
    sees a reset. To PostgreSQL's clients it says that there is no TLS, because :meth:`lose_next_answer` must read.
    """

    _host: str
    _server_port: int
    _nursery: trio.Nursery
    _listener: trio.socket.SocketType = field(factory=lambda: _reserve(0), init=False)
    _accepting: trio.CancelScope | None = field(default=None, init=False)
    _links: set[_Link] = field(factory=set, init=False)
    _flow: trio.Event = field(init=False)
    _seconds_for_each: float = field(default=0.0, init=False)
    _bytes_per_second: float = field(default=0.0, init=False)
    _carrier: trio.Lock = field(factory=trio.Lock, init=False)
    _losses: list[_Loss] = field(factory=list, init=False)
    accepted: int = field(default=0, init=False)
    """How many connections clients have made so far."""

    def __attrs_post_init__(self) -> None:
        self._flow = trio.Event()
        self._flow.set()

    @property
    def port(self) -> int:
        """On 127.0.0.1. It stays the same, and stays ours, while connections are refused."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open now."""
        return len(self._links)

    def url(self, url: str) -> str:
        """The same database URL, led through this proxy."""
        return make_url(url).set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def accept(self) -> None:
        """Accept connections (again)."""
        if self._accepting is None:
            self._accepting = trio.CancelScope()
            self._listener.listen()
            self._nursery.start_soon(self._serve, self._listener, self._accepting)

    def refuse(self) -> None:
        """Refuse new connections. Those that are open stay so."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
            port = self.port
            self._listener.close()
            self._listener = _reserve(port)

    def cut(self) -> None:
        """Reset all open connections, on both sides. New ones are accepted."""
        for link in list(self._links):
            link.cut()

    def stall(self) -> None:
        """Let no more bytes flow, either way, on any connection. New ones are accepted, and stall too."""
        if self._flow.is_set():
            self._flow = trio.Event()

    def resume(self) -> None:
        """Let them flow again. None was lost."""
        self._flow.set()

    def carry_one_at_a_time(self, seconds: float) -> None:
        """Take so many seconds for each piece, and carry that of another connection only then. 0: all at once again."""
        self._seconds_for_each = seconds

    def carry_slowly(self, bytes_per_second: float) -> None:
        """Carry so many bytes in a second, on all connections together. 0: as fast as it goes again.

        On new connections the system takes few bytes from clients that have not been carried yet.
        """
        self._bytes_per_second = bytes_per_second
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)

    def half_close(self) -> None:
        """End the stream to each client, and drop what it still sends. The server does not notice."""
        for link in self._links:
            link.half_close()

    def lose_next_answer(self, trigger: bytes) -> trio.Event:
        """Lose the answer to the next bytes from a client that hold the word ``trigger`` (``b"COMMIT"``).

        ``AUTOCOMMIT`` is another word. The bytes reach the server. What it next sends on that connection is thrown
        away, and the connection is reset. Then the event that this returns is set.
        """
        loss = _Loss(trigger)
        self._losses.append(loss)
        return loss.happened

    async def _may_flow(self, chunk: bytes) -> None:
        if self._bytes_per_second:
            async with self._carrier:
                if self._bytes_per_second:  # it may be as fast as it goes by now
                    await trio.sleep(len(chunk) / self._bytes_per_second)
        if self._seconds_for_each:
            async with self._carrier:
                await trio.sleep(self._seconds_for_each)
        await self._flow.wait()

    async def _serve(self, listener: trio.socket.SocketType, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    client, _ = await listener.accept()
                except OSError:
                    if scope.cancel_called:  # the listener was closed when a client had just come, and was not accepted
                        return
                    raise
                link = _Link(trio.SocketStream(client))
                self._links.add(link)
                self.accepted += 1
                self._nursery.start_soon(self._connect, link)

    async def _connect(self, link: _Link) -> None:
        try:
            with link.scope:
                link.server = await trio.open_tcp_stream(self._host, self._server_port)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward_requests, link, link.server)
                    nursery.start_soon(self._forward_answers, link, link.server)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            link.cut()
        finally:
            self._links.remove(link)
            link.close()
            if link.loss is not None:
                link.loss.happened.set()

    async def _forward_requests(self, link: _Link, server: trio.SocketStream) -> None:
        while chunk := await link.client.receive_some(CHUNK):
            await self._may_flow(chunk)
            if link.is_half_closed:
                continue
            if chunk == POSTGRESQL_WANTS_TLS:
                await link.tell_client(b"N")
                continue
            loss = next((loss for loss in self._losses if loss.is_due(chunk)), None)
            if loss is not None:
                self._losses.remove(loss)
                link.loss = loss
            await server.send_all(chunk)
        await self._flow.wait()
        await server.send_eof()

    async def _forward_answers(self, link: _Link, server: trio.SocketStream) -> None:
        while True:
            chunk = await server.receive_some(CHUNK)
            if link.loss is not None:
                link.cut()
            await self._may_flow(chunk)
            if link.is_half_closed:
                if not chunk:
                    return
                continue
            if not chunk:
                await link.end_client()
                return
            await link.tell_client(chunk)


@define(eq=False)
class _Loss:
    trigger: bytes
    happened: trio.Event = field(factory=trio.Event, init=False)

    def is_due(self, chunk: bytes) -> bool:
        return re.search(rb"(?<!\w)" + re.escape(self.trigger) + rb"(?!\w)", chunk) is not None


@define(eq=False)
class _Link:
    """One client's connection and the one to the server that goes with it."""

    client: trio.SocketStream
    server: trio.SocketStream | None = field(default=None, init=False)
    scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    loss: _Loss | None = field(default=None, init=False)
    is_half_closed: bool = field(default=False, init=False)
    has_ended: bool = field(default=False, init=False)
    _telling: trio.Lock = field(factory=trio.Lock, init=False)

    async def tell_client(self, chunk: bytes) -> None:
        async with self._telling:  # the server may speak unasked, as when it dies, while we say that there is no TLS
            if not self.has_ended:
                await self.client.send_all(chunk)

    async def end_client(self) -> None:
        """End the stream to the client. The server may do so just while we say that there is no TLS."""
        async with self._telling:
            self.has_ended = True
            await self.client.send_eof()

    def half_close(self) -> None:
        if not self.is_half_closed:
            self.is_half_closed = True
            with suppress(OSError):  # the client may have reset it just now
                self.client.socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for stream in self._streams():
            if stream.socket.fileno() != -1:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.close()
        self.scope.cancel()

    def close(self) -> None:
        for stream in self._streams():
            stream.socket.close()

    def _streams(self) -> list[trio.SocketStream]:
        return [self.client] if self.server is None else [self.client, self.server]


def _reserve(port: int) -> trio.socket.SocketType:
    """A socket bound to a port, or to any free one if it is 0.

    While it does not listen, connections are refused, and yet nobody else can take the port.
    """
    reserved = socket.socket()
    # The port may still have connections.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", port))
    return trio.socket.from_stdlib_socket(reserved)
