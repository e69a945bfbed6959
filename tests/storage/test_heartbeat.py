"""A worker that has nothing to write, or whose event loop stands still, renews its lease all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection, event, select
from trio.testing import MockClock
from trio_asyncio import open_loop

from trio_romancy import App, WorkflowContext, workflow
from trio_romancy._storage import migrations
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.workers import beat, check_lease, fence, join, this_process
from trio_romancy.clock import VIRTUAL_EPOCH, current_clock
from trio_romancy.errors import CommitsLostError, LeaseLostError

from ..support.databases import SHARED_KINDS, query
from ..support.probe import probe

on_all = pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)

EXPIRY = "SELECT expires_at FROM romancy_workers WHERE worker_id = 'w'"


def test_an_idle_worker_is_never_silent_for_more_than_a_third_of_its_lease(tmp_path: Path) -> None:
    database = str(tmp_path / "idle.db")

    async def main() -> None:
        async with App(database, worker_id="w", lease=3.0) as app:
            before = app.statistics().worker
            for _ in range(30):
                ((expires_at,),) = query(database, EXPIRY)
                now = VIRTUAL_EPOCH + round(trio.current_time() * 1_000_000)
                assert now + 1_900_000 <= expires_at <= now + 3_000_000
                await trio.sleep(1.01)
            after = app.statistics().worker
        assert before is not None and after is not None
        assert after.epoch == before.epoch

    trio.run(main, clock=MockClock(autojump_threshold=0))


@workflow(name="heartbeat_long_sleep")
async def long_sleep(ctx: WorkflowContext) -> None:
    await ctx.sleep(10 * 365 * 24 * 3600)


@pytest.mark.time_limit(30)
async def test_nothing_of_a_worker_runs_during_years_of_virtual_time_in_memory() -> None:
    async with App(":memory:") as app:
        await (await app.start(long_sleep)).result()


class Expiries:
    """The times at which the lease of worker ``w`` would expire, as others see them meanwhile."""

    def __init__(self, database: str) -> None:
        self.seen: list[tuple[float, float]] = []
        """When that was looked at, and when the lease would expire, in seconds since the epoch."""
        self._database = database
        self._is_over = threading.Event()

    def look(self) -> None:
        while not self._is_over.wait(0.05):
            for (expires_at,) in query(self._database, EXPIRY):
                self.seen.append((time.time(), expires_at / 1_000_000))

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self.look)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()


@pytest.mark.real_clock
@on_all
async def test_the_lease_is_renewed_while_the_event_loop_stands_still(database: str) -> None:
    async with App(database, worker_id="w", lease=1.5) as app:
        epoch = app.statistics().worker.epoch  # type: ignore[union-attr]
        await trio.sleep(0.2)  # the thread begins its work
        expiries = Expiries(database)
        with expiries.watched():
            time.sleep(4.5)  # noqa: ASYNC251
        assert len({expires_at for _, expires_at in expiries.seen}) >= 5
        assert all(now < expires_at for now, expires_at in expiries.seen)
        await trio.sleep(0.5)
        assert app.statistics().worker.epoch == epoch  # type: ignore[union-attr]


@pytest.mark.real_clock
@on_all
async def test_a_lease_is_given_up_when_the_event_loop_has_stood_still_for_six_leases_and_taken_up_again(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(database, worker_id="w", lease=0.5) as app:
        epoch = app.statistics().worker.epoch  # type: ignore[union-attr]
        await trio.sleep(0.2)  # the thread begins its work
        expiries = Expiries(database)
        with expiries.watched():
            time.sleep(4.5)  # noqa: ASYNC251
        assert expiries.seen[-1][1] == 0
        given_up = [now for now, expires_at in expiries.seen if expires_at == 0]
        assert given_up[0] - expiries.seen[0][0] >= 2.5
        await trio.sleep(0.5)
        ((expires_at,),) = query(database, EXPIRY)
        assert expires_at > 0
        assert app.statistics().worker.epoch == epoch  # type: ignore[union-attr]
    assert "worker w: its event loop has stood still for 3 s; its lease is not renewed any more" in caplog.text


@pytest.mark.real_clock
@on_all
async def test_an_idle_worker_notices_that_its_lease_was_ended(database: str) -> None:
    async with App(database, worker_id="w", lease=1.0) as app:
        before = app.statistics().worker
        assert before is not None
        await probe(app).write(lambda connection: connection.execute(tables.workers.delete()))
        with trio.fail_after(10):
            while (after := app.statistics().worker) is None or after.epoch == before.epoch:  # noqa: ASYNC110
                await trio.sleep(0.05)


@pytest.mark.real_clock
@on_all
async def test_a_heartbeat_does_not_wait_for_the_fence_of_an_open_transaction(database: str, kind: str) -> None:
    clock = current_clock()
    async with open_loop(), open_database(database) as opened:
        await opened.run(migrations.migrate)
        lease = await opened.run(join, "w", this_process(), clock.now(), clock.now() + 1)
        assert lease is not None
        connection = opened.thread_connection()
        in_thread = partial(trio.to_thread.run_sync, limiter=trio.CapacityLimiter(1))
        assert await in_thread(connection.run, beat, lease, 50)
        if kind != "file":  # there, an open transaction keeps everything else from being written
            async with opened.open_transaction() as transaction:
                await transaction.run(fence, lease, 70)
                with trio.fail_after(3):
                    assert not await in_thread(connection.run, beat, lease, 60)
                await transaction.commit(lambda _: None)
            assert await opened.read(expiry) == 70
        assert await in_thread(connection.run, beat, lease, 80)
        assert await opened.read(expiry) == 80
        await opened.run(lambda connection: connection.execute(tables.workers.delete()))
        with pytest.raises(LeaseLostError):
            await in_thread(connection.run, beat, lease, 90)
        await in_thread(connection.close)


@pytest.mark.real_clock
@on_all
async def test_a_batch_that_commits_while_the_heartbeat_asks_is_not_taken_for_a_lost_one(database: str) -> None:
    clock = current_clock()
    async with open_loop(), open_database(database) as opened:
        await opened.run(migrations.migrate)
        lease = await opened.run(join, "w", this_process(), clock.now(), clock.now() + 1)
        assert lease is not None

        def ask(connection: Connection) -> None:
            def commits(*_: object) -> None:
                lease.committed = 1

            event.listen(connection.engine, "after_cursor_execute", commits)
            try:
                check_lease(connection, lease)
            finally:
                event.remove(connection.engine, "after_cursor_execute", commits)

        await opened.read(ask)
        with pytest.raises(CommitsLostError):
            await opened.read(check_lease, lease)


def expiry(connection: Connection) -> int:
    return int(connection.execute(select(tables.workers.c.expires_at)).scalar_one())
