"""A cancellation that comes together with what a driver waits for is not lost: the call ends in time."""

from __future__ import annotations

import asyncio
from typing import Any

import aiomysql.connection
import asyncpg
import pytest
import trio
from sqlalchemy import select

from trio_romancy._storage.drivers import connections
from trio_romancy._storage.drivers.asyncio_server import ServerDatabase
from trio_romancy._storage.drivers.asyncio_thread import AsyncioThreadConnection
from trio_romancy._storage.open import open_database
from trio_romancy.errors import DatabaseAwayError

pytestmark = pytest.mark.real_clock


async def stay_silent(stream: trio.SocketStream) -> None:
    """Serve a connection without ever greeting its client."""
    async with stream:
        await trio.sleep_forever()


async def test_a_cancellation_in_the_moment_of_connecting_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = aiomysql.connection._open_connection
    connected = trio.Event()

    async def connect_and_cancel(*args: Any, **kwargs: Any) -> Any:
        streams = await connect(*args, **kwargs)
        # Before asyncio hears that this has ended: its wait_for() then drops the cancellation, on Python 3.11.
        asyncio.get_running_loop().call_soon(calling.cancel)
        connected.set()
        return streams

    monkeypatch.setattr(aiomysql.connection, "_open_connection", connect_and_cancel)
    with trio.fail_after(8):  # of the ten seconds after which any call gives up
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, stay_silent, [listener])
            port = listener.socket.getsockname()[1]
            async with open_database(f"mysql://user@127.0.0.1:{port}/shop", pool_size=2) as database:
                with trio.CancelScope() as calling:
                    await database.read(lambda _: None)
                assert calling.cancelled_caught
                assert connected.is_set()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_a_pool_stays_whole_if_the_closing_of_a_connection_is_cancelled(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closing = trio.Event()

    async def close_slowly(*_: Any, **__: Any) -> None:
        closing.set()
        await asyncio.sleep(1000)

    async with open_database(database, pool_size=2) as opened:
        assert isinstance(opened, ServerDatabase)
        assert await opened.read(lambda connection: connection.scalar(select(1))) == 1
        with monkeypatch.context() as patch, trio.move_on_after(0.01):
            patch.setattr(asyncpg.Connection, "close", close_slowly)
            await opened._cross(opened._engine.dispose)
        assert closing.is_set()
        assert await opened.read(lambda connection: connection.scalar(select(1))) == 1
    assert [record.getMessage() for record in caplog.records if record.name.startswith("sqlalchemy")] == []


def test_a_call_of_a_thread_ends_though_it_drops_the_first_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 0.01)

    async def connect(_: Any) -> Any:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1000)

    connection = AsyncioThreadConnection(None, connect)  # type: ignore[arg-type]
    with pytest.raises(DatabaseAwayError, match="has not answered"):
        connection.run(lambda _: None)
    connection.close()
