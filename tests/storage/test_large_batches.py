"""Large values are written apart from others, and a slow link is no outage: time limits are those of progress."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio_asyncio
from sqlalchemy import Connection

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._storage.database import Database
from trio_romancy._storage.dialects import limits
from trio_romancy._storage.dialects.errors import NoAnswerError
from trio_romancy._storage.drivers import connections
from trio_romancy._storage.journal import journal as journal_module
from trio_romancy._storage.open import open_database
from trio_romancy.hooks import BatchInfo, Hooks

from ..support.databases import SHARED_KINDS
from ..support.lossy_proxy import open_lossy_proxy
from ..support.proxy import Proxy
from ..support.servers import PRODUCTS

runs: list[int] = []
gate = trio.Event()


@pytest.fixture(autouse=True)
def begin_again() -> None:
    global gate
    runs.clear()
    gate = trio.Event()


@activity(name="large_report")
async def report(number: int, size: int) -> str:
    runs.append(number)
    await gate.wait()
    return "x" * size


@workflow(name="large_reporting")
async def reporting(ctx: WorkflowContext, number: int, size: int) -> int:
    return len(await report(number, size))


class Sizes(Hooks):
    """The sizes of the batches, in writes."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def batch_committed(self, batch: BatchInfo) -> None:
        self.seen.append(batch.writes)


async def until_running(many: int) -> None:
    while len(runs) < many:  # noqa: ASYNC110 - the last of them has no event of its own
        await trio.sleep(0.01)


async def end_together(app: App, many: int, size: int) -> None:
    """Let that many activities end at once, each with a large result, and await their workflows."""
    handles = [await app.start(reporting, number, size) for number in range(many)]
    with trio.fail_after(100):
        await until_running(many)
        gate.set()
        for handle in handles:
            assert await handle.result() == size
    assert sorted(runs) == list(range(many)), "each activity has run once"


async def test_a_batch_holds_few_large_values_and_many_small_ones(database: str) -> None:
    hooks = Sizes()
    async with App(database, hooks=[hooks]) as app:
        await end_together(app, 30, 10)
        assert max(hooks.seen) >= 20


async def test_large_values_that_come_together_are_written_one_after_another(database: str) -> None:
    hooks = Sizes()
    async with App(database, hooks=[hooks]) as app:
        handles = [await app.start(reporting, number, 600_000) for number in range(8)]
        with trio.fail_after(100):
            await until_running(8)
            hooks.seen.clear()
            gate.set()
            for handle in handles:
                assert await handle.result() == 600_000
    assert len(hooks.seen) >= 8


# -- slow links --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_slow_link(database: str, bytes_per_second: float) -> AsyncIterator[Proxy]:
    async with open_lossy_proxy(database) as proxy:
        proxy.carry_slowly(bytes_per_second)
        try:
            yield proxy
        finally:
            proxy.carry_slowly(0)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    async with trio_asyncio.open_loop(), open_database(url) as database:
        yield database


def echo_length(connection: Connection, value: str) -> int:
    connection.execute(sa.select(1))  # the transaction has begun on the server
    return int(connection.execute(sa.select(sa.func.length(sa.bindparam("value", value)))).scalar_one())


def long_text(connection: Connection, size: int) -> str:
    value: str = connection.execute(sa.select(sa.func.repeat("x", sa.bindparam("n", size)))).scalar_one()
    return value


@pytest.mark.real_clock
@pytest.mark.parametrize("writes", [True, False], ids=["journal", "others"])
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_large_statement_and_a_large_answer_may_take_long_if_bytes_go_on_flowing(
    database: str, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 2.0)
    if not writes:
        monkeypatch.setattr(limits, "IDLE_TIMEOUT", 1)  # a server is done with an answer before the link is
    size = 6_000_000
    async with (
        open_slow_link(database, 2_000_000) as proxy,
        opened(proxy.url(database)) as one,
        one.open_writer() as writer,
    ):
        run, read = (writer.run, writer.run) if writes else (one.run, one.read)
        begun = trio.current_time()
        assert await run(echo_length, "x" * size) == size
        assert len(await read(long_text, size)) == size
        assert trio.current_time() - begun > 3


@pytest.mark.real_clock
@pytest.mark.parametrize("writes", [True, False], ids=["journal", "others"])
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_link_that_stands_still_in_the_middle_of_a_large_statement_is_away(
    database: str, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 3.0)

    async def stall() -> None:
        await trio.sleep(2)
        proxy.stall()

    async with (
        open_slow_link(database, 1_000_000) as proxy,
        opened(proxy.url(database)) as one,
        one.open_writer() as writer,
        trio.open_nursery() as nursery,
    ):
        run = writer.run if writes else one.run
        await run(echo_length, "x")
        nursery.start_soon(stall)
        begun = trio.current_time()
        with pytest.raises(Exception) as caught:
            await run(echo_length, "x" * 12_000_000)
        assert connections.is_away(caught.value)
        assert 2 < trio.current_time() - begun < 60
        proxy.cut()
        proxy.resume()
        proxy.carry_slowly(0)
        assert await run(echo_length, "xyz") == 3


# -- journals ----------------------------------------------------------------------------------------------------------


@workflow(name="large_journal")
async def many_reports(ctx: WorkflowContext, many: int, size: int) -> int:
    total = 0
    for number in range(many):
        total += len(await report(number, size))
    await ctx.wait_event("large_go_on")
    return total


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_journal_that_takes_longer_than_an_answer_may_is_read_over_a_slow_link(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.set()
    async with App(database) as app:
        handle = await app.start(many_reports, 8, 750_000)
        while len(await app.history(handle.instance_id)) < 8:  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.1)
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 1.0)
    async with (
        open_slow_link(database, 3_000_000) as proxy,
        App(proxy.url(database), shutdown_timeout=1) as app,
    ):
        await app.send_event("large_go_on")
        assert await app.handle(handle.instance_id).result(timeout=60) == 8 * 750_000
        assert len(await app.history(handle.instance_id)) == 10
    assert runs == [*range(8)]


# -- batches that take too long ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_committed", [False, True], ids=["lost", "committed"])
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_batch_that_takes_too_long_is_written_in_halves_and_each_write_once(
    database: str, is_committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has no time for more than two writes at once; the last of its answers may come too late."""
    refused: list[int] = []

    def wrapped(write: Any) -> Any:
        def slow(connection: Connection, batch: Any, *args: Any) -> None:
            if batch.size > 2 and is_committed and not refused:
                refused.append(batch.size)
                write(connection, batch, *args)
                connection.commit()
                raise NoAnswerError("late")
            if batch.size > 2 and not is_committed:
                refused.append(batch.size)
                raise NoAnswerError("late")
            write(connection, batch, *args)

        return slow

    async with App(database) as app:
        with monkeypatch.context() as patch:
            for name in ("write_batch", "write_plain_batch"):
                patch.setattr(journal_module, name, wrapped(getattr(journal_module, name)))
            handles: list[Any] = []
            async with trio.open_nursery() as nursery:
                for number in range(10):

                    async def start(number: int = number) -> None:
                        handles.append(await app.start(reporting.options(id=f"i{number}"), number, number))

                    nursery.start_soon(start)
            with trio.fail_after(1000):
                await until_running(10)
                gate.set()
                results = [await app.handle(f"i{number}").result() for number in range(10)]
        assert results == list(range(10))
        assert refused
        for number in range(10):
            entries = [entry.operation_id for entry in await app.history(f"i{number}")]
            assert len(entries) == len(set(entries))
    assert sorted(runs) == list(range(10))
