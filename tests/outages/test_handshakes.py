"""The network fails in the midst of the handshake of a new connection, at any byte of it, and then the app is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
from attrs import define, field
from sqlalchemy import make_url

from trio_romancy import App
from trio_romancy.errors import DatabaseError

from ..support.proxy import Proxy, _Link, open_proxy
from .load import SLACK

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

ROUNDS = int(os.environ.get("TRIO_ROMANCY_HANDSHAKES", "12"))
"""How many handshakes of each kind of server fail. The bytes at which they do are spread evenly."""

LONGEST = 5.0 if "TRIO_ROMANCY_HANDSHAKES" in os.environ else 5.0 + SLACK
"""Seconds in which the block of an app ends, once it is left. A long run measures it, on a machine of its own."""

FAILURES = ("stall", "cut", "refuse")


@define(eq=False)
class Interrupter(Proxy):
    """Carries only the first bytes of each new connection, counted both ways together, once it is told to."""

    _most: int | None = field(default=None, init=False)
    _failure: str = field(default="", init=False)
    carried: dict[_Link, int] = field(factory=dict, init=False)
    """Bytes carried so far, by connection."""

    def fail_after(self, most: int, failure: str) -> None:
        """Stall, cut, or cut and refuse, each new connection at a byte."""
        self._most, self._failure = most, failure

    async def _carry(self, link: _Link, chunk: bytes) -> bytes:
        before = self.carried.get(link, 0)
        self.carried[link] = before + len(chunk)
        if self._most is None or before + len(chunk) <= self._most:
            return chunk
        return chunk[: max(self._most - before, 0)]

    async def _end(self, link: _Link) -> None:
        """Do what was asked for at the byte that is not carried."""
        if self._failure == "stall":
            await trio.sleep_forever()
        if self._failure == "refuse":
            self.refuse()
        link.cut()
        await trio.sleep_forever()  # cut() has cancelled this

    async def _forward_requests(self, link: _Link, server: trio.SocketStream) -> None:
        while chunk := await link.client.receive_some(65536):
            part = await self._carry(link, chunk)
            if part:
                await server.send_all(part)
            if len(part) < len(chunk):
                await self._end(link)
        await server.send_eof()

    async def _forward_answers(self, link: _Link, server: trio.SocketStream) -> None:
        while chunk := await server.receive_some(65536):
            part = await self._carry(link, chunk)
            if part:
                await link.tell_client(part)
            if len(part) < len(chunk):
                await self._end(link)
        await link.end_client()


async def look(app: App) -> None:
    """Use the database, which takes a new connection."""
    await app.list_instances()


async def carried_by_one_connection(database: str) -> int:
    """How many bytes a whole handshake has, with the first question after it."""
    url = make_url(database)
    assert url.host is not None and url.port is not None
    async with open_proxy(url.host, url.port, Interrupter) as proxy:
        async with App(proxy.url(database), worker=False):
            pass  # makes the tables
        proxy.carried.clear()
        async with App(proxy.url(database), worker=False, auto_migrate=False) as app:
            await look(app)
        return int(max(proxy.carried.values()))


def bytes_of(length: int) -> Iterator[tuple[int, str]]:
    """The bytes at which a handshake fails, each with the way in which it does."""
    for number in range(ROUNDS):
        yield number * length // ROUNDS, FAILURES[number % len(FAILURES)]


def too_slow(byte: int, failure: str, seconds: float) -> list[str]:
    """What is wrong with an app that took so long to end; empty if nothing is."""
    print(f"byte {byte}, {failure}: {seconds:.2f} s")
    return [f"byte {byte}, {failure}: {seconds:.1f} s"] if seconds > LONGEST else []


@pytest.mark.time_limit(1200)
async def test_an_app_ends_at_once_whatever_byte_of_a_handshake_is_the_last_one(database: str) -> None:
    url = make_url(database)
    assert url.host is not None and url.port is not None
    slow: list[str] = []
    for byte, failure in bytes_of(await carried_by_one_connection(database)):
        async with open_proxy(url.host, url.port, Interrupter) as proxy:
            async with App(proxy.url(database), shutdown_timeout=1) as app, trio.open_nursery() as nursery:
                proxy.fail_after(byte, failure)
                proxy.cut()
                for _ in range(3):
                    nursery.start_soon(look, app)
                await trio.sleep(0.2)
                since = trio.current_time()
                nursery.cancel_scope.cancel()
            slow.extend(too_slow(byte, failure, trio.current_time() - since))
    assert not slow


@pytest.mark.time_limit(1200)
async def test_an_app_that_never_comes_to_connect_can_be_left_too(database: str) -> None:
    url = make_url(database)
    assert url.host is not None and url.port is not None
    slow: list[str] = []
    for byte, failure in bytes_of(await carried_by_one_connection(database)):
        async with open_proxy(url.host, url.port, Interrupter) as proxy:
            proxy.fail_after(byte, failure)
            begun = trio.current_time()
            with suppress(DatabaseError), trio.move_on_after(0.2):
                async with App(proxy.url(database), shutdown_timeout=1):
                    pass
            slow.extend(too_slow(byte, failure, trio.current_time() - begun - 0.2))
    assert not slow
