"""The server is well, and the network is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trio_romancy import App
from trio_romancy._storage.drivers import connections

from ..support.lossy_proxy import LossyProxy, open_app, open_lossy_proxy
from .load import SLACK, Load, open_load

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]


@pytest.fixture(autouse=True)
def is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 0.7)


@asynccontextmanager
async def open_load_through_proxy(database: str) -> AsyncIterator[tuple[LossyProxy, Load]]:
    async with (
        open_app(database) as (proxy, app),
        open_load(app, database, at_once=15) as load,
    ):
        yield proxy, load
        statistics = app.statistics().worker
        assert statistics is not None
        assert statistics.supervisor.restarts == 0


async def test_cut_again_and_again_nothing_fails(database: str) -> None:
    async with open_load_through_proxy(database) as (proxy, load):
        for pause in (0.0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2):
            proxy.cut()
            await trio.sleep(pause)
        assert await load.goes_on() < 2.0 + SLACK


async def test_refused_for_a_while_nothing_fails(database: str) -> None:
    async with open_load_through_proxy(database) as (proxy, load):
        proxy.refuse()
        await trio.sleep(0.2)  # the connections that are open go on working
        proxy.cut()
        await trio.sleep(0.6)
        proxy.accept()
        assert await load.goes_on() < 2.0 + SLACK


@pytest.mark.parametrize("seconds", [0.4, 1.5])
async def test_stalled_and_resumed_nothing_fails(database: str, seconds: float) -> None:
    async with open_load_through_proxy(database) as (proxy, load):
        proxy.stall()
        await trio.sleep(seconds)
        proxy.resume()
        assert await load.goes_on() < 2.0 + SLACK


async def test_stalled_and_then_cut_nothing_fails(database: str) -> None:
    async with open_load_through_proxy(database) as (proxy, load):
        proxy.stall()
        await trio.sleep(1.5)
        proxy.cut()
        proxy.resume()
        assert await load.goes_on() < 2.0 + SLACK


async def test_half_closed_nothing_fails(database: str) -> None:
    async with open_load_through_proxy(database) as (proxy, load):
        for _ in range(2):
            proxy.half_close()
            assert await load.goes_on() < 2.0 + SLACK


async def test_it_can_be_ended_while_its_server_says_nothing(database: str) -> None:
    with trio.CancelScope() as scope:
        async with open_app(database, shutdown_timeout=1) as (proxy, app), open_load(app, database, at_once=15):
            proxy.stall()
            since = trio.current_time()
            scope.cancel()
    assert trio.current_time() - since < 15


async def test_nobody_complains_of_connections_that_were_cut_before_they_are_closed(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_app(database) as (proxy, app):
        async with trio.open_nursery() as nursery:
            for _ in range(8):  # each on a connection of its own
                nursery.start_soon(app.list_instances)
        proxy.cut()
        await trio.sleep(0.05)  # until both ends know
        proxy.refuse()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_whole_pool_connects_over_a_link_that_carries_few_handshakes_in_the_time_that_one_may_take(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 1.0)
    async with (
        open_lossy_proxy(database) as proxy,
        App(proxy.url(database), worker=False, pool_size=20) as app,
    ):
        proxy.carry_one_at_a_time(0.003)
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(app.list_instances)
            proxy.cut()
        proxy.carry_one_at_a_time(0.0)
