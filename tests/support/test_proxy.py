"""The proxy that the tests of outages rely on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from .proxy import POSTGRESQL_WANTS_TLS, Proxy, open_proxy

pytestmark = pytest.mark.real_clock

SILENCE = 0.1
"""Seconds without a byte after which none is on its way."""

CUSHION = 0.02
"""Seconds in which the system delivers what was sent on this machine."""


class Server:
    """Answers words with the same words in capitals."""

    def __init__(self) -> None:
        self.heard = b""
        self.reset = trio.Event()
        self.may_answer = trio.Event()
        self.may_answer.set()

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            async for words in stream:
                self.heard += words
                await self.may_answer.wait()
                await stream.send_all(words.upper())
        except trio.BrokenResourceError:
            self.reset.set()


@asynccontextmanager
async def open_server_and_proxy() -> AsyncIterator[tuple[Server, Proxy]]:
    server = Server()
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        async with open_proxy(*listener.socket.getsockname()) as proxy:
            yield server, proxy
        nursery.cancel_scope.cancel()


async def connect(proxy: Proxy) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def ask(client: trio.SocketStream, words: bytes) -> bytes:
    """The answer, or as much of it as comes before the stream ends."""
    await client.send_all(words)
    return await hear(client, len(words))


async def hear(client: trio.SocketStream, length: int) -> bytes:
    heard = b""
    while len(heard) < length and (chunk := await client.receive_some(length - len(heard))):
        heard += chunk
    return heard


async def is_silent(client: trio.SocketStream) -> bool:
    with trio.move_on_after(SILENCE):
        await client.receive_some()
        return False
    return True


async def assert_reset(client: trio.SocketStream) -> None:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await client.receive_some()
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def assert_refused(proxy: Proxy) -> None:
    with trio.socket.socket() as client, pytest.raises(ConnectionRefusedError):
        await client.connect(("127.0.0.1", proxy.port))


async def test_bytes_flow_both_ways_and_connections_are_counted() -> None:
    async with open_server_and_proxy() as (_, proxy):
        first, second = await connect(proxy), await connect(proxy)
        assert (await ask(first, b"one"), await ask(second, b"two")) == (b"ONE", b"TWO")
        assert (proxy.open_connections, proxy.accepted) == (2, 2)
        await first.aclose()
        await wait_all_tasks_blocked(CUSHION)
        assert (proxy.open_connections, proxy.accepted) == (1, 2)
        megabyte = bytes(1 << 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.send_all, megabyte)
            assert await hear(second, 1 << 20) == megabyte


async def test_the_end_of_a_stream_is_passed_on() -> None:
    async with open_server_and_proxy() as (_, proxy):
        client = await connect(proxy)
        assert await ask(client, b"one") == b"ONE"
        await client.send_eof()
        assert await client.receive_some() == b""


async def test_cut_resets_both_sides_of_what_is_open() -> None:
    async with open_server_and_proxy() as (server, proxy):
        client = await connect(proxy)
        assert await ask(client, b"one") == b"ONE"
        proxy.cut()
        await assert_reset(client)
        await server.reset.wait()
        assert await ask(await connect(proxy), b"two") == b"TWO"
        assert (proxy.open_connections, proxy.accepted) == (1, 2)


async def test_while_it_refuses_nobody_can_connect_and_open_connections_live() -> None:
    async with open_server_and_proxy() as (_, proxy):
        client = await connect(proxy)
        assert await ask(client, b"one") == b"ONE"
        port = proxy.port
        for _ in range(3):
            proxy.refuse()
            proxy.refuse()
            await assert_refused(proxy)
            assert await ask(client, b"two") == b"TWO"
            proxy.accept()
            proxy.accept()
            assert await ask(await connect(proxy), b"three") == b"THREE"
        assert proxy.port == port


async def test_it_may_refuse_while_a_client_comes() -> None:
    class RefusesJustBefore(trio.abc.Instrument):
        """Refuses when the client is there and the proxy is about to accept it."""

        has_refused = False

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task.name.endswith("Proxy._serve") and not self.has_refused:
                self.has_refused = True
                proxy.refuse()

    async with open_server_and_proxy() as (_, proxy):
        await wait_all_tasks_blocked()
        early = RefusesJustBefore()
        trio.lowlevel.add_instrument(early)
        with suppress(OSError, trio.BrokenResourceError):  # refused, or accepted and closed
            client = await connect(proxy)
            assert await client.receive_some() == b""
        trio.lowlevel.remove_instrument(early)
        assert (early.has_refused, proxy.accepted) == (True, 0)
        await assert_refused(proxy)
        proxy.accept()
        assert await ask(await connect(proxy), b"one") == b"ONE"


async def test_an_outage_is_cut_and_refuse() -> None:
    async with open_server_and_proxy() as (_, proxy):
        client = await connect(proxy)
        assert await ask(client, b"one") == b"ONE"
        proxy.refuse()
        proxy.cut()
        await assert_reset(client)
        await assert_refused(proxy)
        proxy.accept()
        assert await ask(await connect(proxy), b"two") == b"TWO"


async def test_a_stall_loses_nothing() -> None:
    async with open_server_and_proxy() as (server, proxy):
        old = await connect(proxy)
        assert await ask(old, b"one") == b"ONE"
        proxy.stall()
        proxy.stall()
        new = await connect(proxy)
        await old.send_all(b"two")
        await new.send_all(b"three")
        assert await is_silent(old)
        assert await is_silent(new)
        assert server.heard == b"one"
        proxy.resume()
        proxy.resume()
        assert (await hear(old, 3), await hear(new, 5)) == (b"TWO", b"THREE")


async def test_an_answer_under_way_stalls_too() -> None:
    async with open_server_and_proxy() as (server, proxy):
        server.may_answer = trio.Event()
        client = await connect(proxy)
        await client.send_all(b"one")
        await wait_all_tasks_blocked(CUSHION)
        assert server.heard == b"one"
        proxy.stall()
        server.may_answer.set()
        assert await is_silent(client)
        proxy.resume()
        assert await hear(client, 3) == b"ONE"


async def test_what_stalls_can_be_cut() -> None:
    async with open_server_and_proxy() as (server, proxy):
        client = await connect(proxy)
        proxy.stall()
        await client.send_all(b"one")
        assert await is_silent(client)
        proxy.cut()
        await assert_reset(client)
        proxy.resume()
        assert await ask(await connect(proxy), b"two") == b"TWO"
        assert server.heard == b"two"


async def test_half_closed_the_client_sees_the_end_and_is_heard_no_more() -> None:
    async with open_server_and_proxy() as (server, proxy):
        client = await connect(proxy)
        assert await ask(client, b"one") == b"ONE"
        proxy.half_close()
        proxy.half_close()
        assert await client.receive_some() == b""
        await client.send_all(b"two")
        assert await ask(await connect(proxy), b"three") == b"THREE"
        assert server.heard == b"onethree"
        await client.aclose()
        await wait_all_tasks_blocked(CUSHION)
        assert not server.reset.is_set()


async def test_the_answer_is_lost_but_not_the_request() -> None:
    async with open_server_and_proxy() as (server, proxy):
        bystander, client = await connect(proxy), await connect(proxy)
        assert await ask(client, b"begin") == b"BEGIN"
        lost = proxy.lose_next_answer(b"commit")
        assert await ask(client, b"autocommit") == b"AUTOCOMMIT"
        server.may_answer = trio.Event()
        await client.send_all(b"; commit;")
        assert await is_silent(client)
        assert not lost.is_set()
        server.may_answer.set()
        await assert_reset(client)
        await lost.wait()
        await server.reset.wait()
        assert server.heard == b"beginautocommit; commit;"
        # Once only, and on that connection only.
        assert await ask(bystander, b"commit") == b"COMMIT"


async def test_answers_are_lost_as_often_as_was_asked_for() -> None:
    async with open_server_and_proxy() as (_, proxy):
        losses = [proxy.lose_next_answer(b"commit") for _ in range(2)]
        for expected in ([True, False], [True, True]):
            client = await connect(proxy)
            await client.send_all(b"commit")
            await assert_reset(client)
            await wait_all_tasks_blocked(CUSHION)
            assert [lost.is_set() for lost in losses] == expected
        assert await ask(await connect(proxy), b"commit") == b"COMMIT"


async def test_without_a_server_clients_are_reset() -> None:
    async with open_server_and_proxy() as (_, nobody):
        nobody.refuse()
        async with open_proxy("127.0.0.1", nobody.port) as proxy:
            await assert_reset(await connect(proxy))
            await wait_all_tasks_blocked(CUSHION)
            assert (proxy.open_connections, proxy.accepted) == (0, 1)


async def test_a_reset_is_passed_on() -> None:
    async with open_server_and_proxy() as (server, near_server):
        async with open_proxy("127.0.0.1", near_server.port) as proxy:
            client = await connect(proxy)
            assert await ask(client, b"one") == b"ONE"
            near_server.cut()
            await assert_reset(client)
        await server.reset.wait()


async def test_to_clients_of_postgresql_it_says_that_there_is_no_tls() -> None:
    async with open_server_and_proxy() as (server, proxy):
        client = await connect(proxy)
        await client.send_all(POSTGRESQL_WANTS_TLS)
        assert await client.receive_some() == b"N"
        assert await ask(client, b"one") == b"ONE"
        assert server.heard == b"one"


async def test_it_says_so_even_while_the_server_speaks_unasked() -> None:
    megabytes = bytes(8 << 20)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, lambda stream: stream.send_all(megabytes), [listener])
        async with open_proxy(*listener.socket.getsockname()) as proxy:
            client = await connect(proxy)
            await wait_all_tasks_blocked(CUSHION)  # until nothing more fits into what the system holds for the client
            await client.send_all(POSTGRESQL_WANTS_TLS)
            await wait_all_tasks_blocked(CUSHION)
            heard = await hear(client, len(megabytes) + 1)
        nursery.cancel_scope.cancel()
    assert len(heard) == len(megabytes) + 1
    assert heard.count(b"N") == 1


async def test_it_says_so_even_while_the_server_ends() -> None:
    hung_up = trio.Event()

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.send_eof()
        hung_up.set()
        with suppress(trio.BrokenResourceError):  # the end of the proxy
            await stream.receive_some()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hang_up, [listener])
        async with open_proxy(*listener.socket.getsockname()) as proxy:
            proxy.stall()
            client = await connect(proxy)
            await client.send_all(POSTGRESQL_WANTS_TLS)
            await hung_up.wait()
            await wait_all_tasks_blocked(CUSHION)
            proxy.resume()  # both go on in the same moment
            assert await hear(client, 2) in (b"N", b"")
        nursery.cancel_scope.cancel()


async def test_a_database_url_leads_through_it() -> None:
    async with open_proxy("127.0.0.1", 5432) as proxy:
        assert proxy.url("mysql://me:secret@db:3306/orders") == f"mysql://me:secret@127.0.0.1:{proxy.port}/orders"


async def test_its_end_cuts_what_is_open() -> None:
    async with open_server_and_proxy() as (_, proxy):
        client = await connect(proxy)
        assert await ask(client, b"one") == b"ONE"
    await assert_reset(client)
    await assert_refused(proxy)
