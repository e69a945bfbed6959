"""A broker that takes CloudEvents by HTTP on a loopback port, and fails on command.

Its network is real: a test under virtual time may use it only through code that holds virtual time meanwhile.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
import trio
from attrs import define, field, frozen

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing sends RST, not FIN."""


@frozen
class Post:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The event, in whatever mode it was sent, as one in structured mode is."""
        if self.headers["content-type"].startswith("application/cloudevents+json"):
            event: dict[str, Any] = json.loads(self.body)
            return event
        attributes = {name[3:]: value for name, value in self.headers.items() if name.startswith("ce-")}
        data = {"data": json.loads(self.body)} if self.body else {}
        return attributes | {"datacontenttype": self.headers["content-type"]} | data

    @property
    def id(self) -> str:
        """The id of the event."""
        return str(self.event["id"])


@frozen
class Answer:
    """What the broker does with a request."""

    status: int = 202
    """0: it closes the connection without an answer."""
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""
    waits_for: trio.Event | None = None
    """It answers when this is set."""
    drips: bool = False
    """Its body never ends."""


TAKE = Answer()
LOSE = Answer(0)


def no(status: int, body: str = "", **headers: str) -> Answer:
    """An answer that does not take the event. Underscores in the names of headers are dashes."""
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


@define(eq=False)
class Broker:
    """What came, and what to answer."""

    port: int
    decide: Callable[[Post], Answer] = lambda _: TAKE
    """Called with each request, in the order in which they come."""
    posts: list[Post] = field(factory=list)
    """All requests."""
    taken: list[str] = field(factory=list)
    """Ids of events for which it decided on 2xx, or on losing the answer, in that order."""
    most_at_once: int = 0
    """The most requests that were open at one time."""
    _open: int = 0
    _changed: trio.Event = field(factory=trio.Event)

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self.port}/events"

    @property
    def ids(self) -> list[str]:
        """The id of each request."""
        return [post.id for post in self.posts]

    def script(self, **answers: list[Answer]) -> None:
        """Answer the requests of some events with these, one after the other; everything else is taken."""
        left = {id: list(listed) for id, listed in answers.items()}

        def decide(post: Post) -> Answer:
            return left[post.id].pop(0) if left.get(post.id) else TAKE

        self.decide = decide

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until that is true, looking after each request."""
        while not condition():
            self._changed = trio.Event()
            await self._changed.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        connection = h11.Connection(h11.SERVER)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            async with stream:
                while (post := await self._receive(stream, connection)) is not None:
                    answer = self._judge(post)
                    self._open += 1
                    self.most_at_once = max(self.most_at_once, self._open)
                    try:
                        if answer.waits_for is not None:
                            await answer.waits_for.wait()
                        if answer.status == 0:
                            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                            return
                        await self._answer(stream, connection, answer)
                    finally:
                        self._open -= 1
                    if connection.our_state is not h11.DONE:
                        return
                    connection.start_next_cycle()

    def _judge(self, post: Post) -> Answer:
        answer = self.decide(post)
        self.posts.append(post)
        if answer.status == 0 or 200 <= answer.status < 300:
            self.taken.append(post.id)
        self._changed.set()
        return answer

    async def _receive(self, stream: trio.SocketStream, connection: h11.Connection) -> Post | None:
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                headers = {name.decode(): value.decode() for name, value in request.headers}
                return Post(request.target.decode(), headers, body)
            else:
                return None

    async def _answer(self, stream: trio.SocketStream, connection: h11.Connection, answer: Answer) -> None:
        headers = dict(answer.headers)
        if not answer.drips:
            headers["content-length"] = str(len(answer.body))
        head = h11.Response(status_code=answer.status, headers=list(headers.items()), reason=b"")
        await stream.send_all(connection.send(head) or b"")
        if answer.body:
            await stream.send_all(connection.send(h11.Data(data=answer.body)) or b"")
        while answer.drips:
            await stream.send_all(connection.send(h11.Data(data=b"drip ")) or b"")
            await trio.sleep(0.01)
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")


@asynccontextmanager
async def open_broker(port: int = 0) -> AsyncIterator[Broker]:
    """A broker on a loopback port. When the block ends, its connections are cut."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        broker = Broker(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, broker.serve, listeners)
        yield broker
        nursery.cancel_scope.cancel()


def free_port() -> int:
    """A port on 127.0.0.1 that no program listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
