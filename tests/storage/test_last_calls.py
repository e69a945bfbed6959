"""An app whose server is silent ends in time, however many calls are made at its end."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from sqlalchemy import make_url

from trio_romancy._storage.dialects.errors import NoAnswerError
from trio_romancy._storage.drivers.connections import LAST_PATIENCE, LAST_PATIENCE_OF_ALL, Connections
from trio_romancy._storage.drivers.urls import parse_server


def make_connections() -> Connections:
    url = make_url("postgresql://user@127.0.0.1/silent")
    return Connections(parse_server(url, "silent"))


async def wait_in_vain(connections: Connections) -> None:
    with pytest.raises(NoAnswerError), connections.patience():
        await trio.sleep_forever()


async def test_calls_under_way_end_together_when_the_app_has_no_time_left() -> None:
    connections = make_connections()
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(wait_in_vain, connections)
        await trio.testing.wait_all_tasks_blocked()
        connections.end_by(begun + 2)
    assert trio.current_time() - begun == pytest.approx(2)


async def test_calls_that_are_made_after_that_share_the_time_that_is_left() -> None:
    connections = make_connections()
    begun = trio.current_time()
    connections.end_by(begun)
    await wait_in_vain(connections)
    assert trio.current_time() - begun == pytest.approx(LAST_PATIENCE)
    for _ in range(9):
        await wait_in_vain(connections)
    assert trio.current_time() - begun < 2 * LAST_PATIENCE_OF_ALL


async def test_the_last_calls_have_the_time_that_an_answer_takes() -> None:
    connections = make_connections()
    connections.end_by(trio.current_time() - 100)
    with connections.patience():
        await trio.sleep(0.01)
