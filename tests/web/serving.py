"""An app as its HTTP clients meet it: called directly, or through Hypercorn on a loopback port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import trio
from attrs import frozen
from hypercorn.config import Config
from hypercorn.trio import serve
from sqlalchemy import Connection, select

from trio_romancy import App
from trio_romancy._storage.sql import tables

from ..support.probe import probe

STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCHED = {"content-type": "application/cloudevents-batch+json"}
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/tests", "ce-type": "web_nobody_waits"}

EVENT = {"specversion": "1.0", "id": "1", "source": "/tests", "type": "web_nobody_waits"}


def client(app: App, token: str | None = None) -> httpx.AsyncClient:
    """A client that calls the app directly."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app.asgi), base_url="http://app", headers=headers)


@asynccontextmanager
async def open_hypercorn(app: App) -> AsyncIterator[str]:
    """Serves the app. Gives the URL."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 1
    config.errorlog = None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(partial(serve, app.asgi, config, shutdown_trigger=stop.wait))
        try:
            yield urls[0]
        finally:
            stop.set()


@asynccontextmanager
async def open_client(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client that talks HTTP to the app."""
    async with open_hypercorn(app) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


Headers = Mapping[str, str] | Iterable[tuple[bytes, bytes]]


async def call(
    app: App,
    method: str,
    path: str,
    headers: Headers = (),
    parts: Iterable[bytes] = (b"",),
    *,
    ends: bool = True,
    root_path: str = "",
) -> Answer | None:
    """Call the app as a server would, with whatever it may have received. Returns None if it does not answer.

    Args:
      parts: of the body, as they come in.
      ends: whether the body ends, or the client leaves in the middle.
    """
    if isinstance(headers, Mapping):
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": root_path,
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    incoming = iter(parts)
    has_ended = False
    sent: list[Any] = []
    answered = trio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal has_ended
        await trio.lowlevel.checkpoint()
        for part in incoming:
            return {"type": "http.request", "body": part, "more_body": True}
        if ends and not has_ended:
            has_ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if ends:
            await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            answered.set()

    await app.asgi(scope, receive, send)
    if not sent:
        return None
    fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], fields, b"".join(message["body"] for message in sent[1:]))


def _read_stored(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
    kept = tables.instances.c.instance_id, tables.instances.c.input, tables.instances.c.cancel_requested
    sent = tables.messages.c
    messages = sent.source, sent.event_id, sent.channel, sent.subject, sent.addressee, sent.event_time, sent.data
    return {
        "instances": sorted(tuple(row) for row in connection.execute(select(*kept))),
        "messages": [tuple(row) for row in connection.execute(select(*messages).order_by(sent.seq))],
    }


NOTHING: dict[str, list[tuple[Any, ...]]] = {"instances": [], "messages": []}


async def stored(app: App) -> dict[str, list[tuple[Any, ...]]]:
    """What the database holds that a request can have stored."""
    return await probe(app).read(_read_stored)
