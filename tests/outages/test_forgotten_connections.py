"""A connection dies without either end being told, and the server goes on holding the locks of its transaction.

That is what a router does that dies, or forgets. The server finds out after minutes or hours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy import Connection

from trio_romancy import App, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.dialects import limits
from trio_romancy._storage.drivers import connections
from trio_romancy.testing import broken_guarantees

from ..support.lossy_proxy import LossyProxy, in_trio, open_app
from ..support.probe import wrap_batch_fence, wrap_session_fence, write_several_statements
from ..support.servers import PRODUCTS, execute
from .load import SLACK

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

HEALED_WITHIN = 0.7 + 1.0 + 2.0 + SLACK
"""Seconds: what the tests make of the two timeouts, and then work goes on."""

runs: list[str] = []


@pytest.fixture(autouse=True)
def is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 0.7)
    monkeypatch.setattr(limits, "LOCK_TIMEOUT", 1)
    runs.clear()


@activity(name="note_number")
async def note(number: int) -> int:
    runs.append(f"note {number}")
    return number


@activity(name="forgotten_connections_pay")
async def pay(number: int) -> int:
    runs.append(f"pay {number}")
    await current_activity().session.execute(sa.text("INSERT INTO spent VALUES (:n)"), {"n": number})
    return number


@workflow(name="forgotten_connections_notes_and_sleeps")
async def notes_and_sleeps(ctx: WorkflowContext) -> None:
    for number in range(10):
        await note(number)
        await ctx.sleep(0.1)


@workflow(name="forgotten_connections_pay_and_note")
async def pay_and_note(ctx: WorkflowContext, number: int) -> int:
    await pay(number)
    return await note(number)


def when(passed: Callable[..., Any], number: int, happens: Callable[[Connection], None], *, before: bool) -> Any:
    """The fence, and what happens to its connection just before or after it is passed for the n-th time."""
    count = 0

    def fence(connection: Connection, *args: Any) -> Any:
        nonlocal count
        count += 1
        if before and count == number:
            happens(connection)
        answer = passed(connection, *args)
        if not before and count == number:
            happens(connection)
        return answer

    return fence


def is_locked(kind: str, database: str) -> bool:
    """Whether an open transaction holds the worker's row."""
    try:
        execute(database, "SELECT 1 FROM romancy_workers FOR UPDATE NOWAIT")
    except PRODUCTS[kind].errors:
        return True
    return False


async def heals(app: App, happened: trio.Event, still_hurts: Callable[[], bool]) -> None:
    """The row is locked, and nobody but the engine can do anything about it."""
    await happened.wait()
    with trio.fail_after(connections.ANSWER_TIMEOUT):  # the statement may be on its way to the server
        while not await trio.to_thread.run_sync(still_hurts):  # noqa: ASYNC110
            await trio.sleep(0.005)
    with trio.move_on_after(HEALED_WITHIN) as scope:
        await (await app.start(pay_and_note, 1000)).result()
    assert not scope.cancelled_caught, "the engine is stuck behind its own lost transaction"


async def test_all_connections_are_forgotten_again_and_again_and_work_goes_on(database: str) -> None:
    async with open_app(database, pool_size=3) as (proxy, app):
        handles = [await app.start(notes_and_sleeps) for _ in range(10)]
        for _ in range(2):
            await trio.sleep(0.3)
            proxy.forget_all()
            begun, done = trio.current_time(), len(runs)
            while len(runs) < done + 10:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert trio.current_time() - begun < HEALED_WITHIN
        for handle in handles:
            await handle.result(timeout=20)
            instance = await app.get_instance(handle.instance_id)
            assert instance is not None
            assert broken_guarantees(instance, await app.history(handle.instance_id)) == []
    assert len(runs) == 10 * 10


Happens = Callable[[LossyProxy, Connection], None]


@pytest.mark.parametrize(
    ("is_session", "before", "happens"),
    [
        pytest.param(False, False, LossyProxy.forget, id="journal, after its fence"),
        pytest.param(False, False, LossyProxy.end, id="journal, ended after its fence"),
        pytest.param(True, False, LossyProxy.forget, id="session, after its fence"),
        pytest.param(True, False, LossyProxy.end, id="session, ended after its fence"),
        pytest.param(True, True, lambda p, c: p.forget(c, requests=1), id="session, before the answer to its fence"),
    ],
)
async def test_the_engine_ends_its_own_lost_transaction_that_locks_its_row(
    kind: str, database: str, is_session: bool, before: bool, happens: Happens, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database, "CREATE TABLE spent (n INTEGER)")
    write_several_statements(monkeypatch)
    async with open_app(database, pool_size=2) as (proxy, app):
        for number in range(8):  # until every connection of the pool knows the statements
            await (await app.start(pay_and_note, number)).result(timeout=10)
        wrap = wrap_session_fence if is_session else wrap_batch_fence
        happened = trio.Event()

        def now(connection: Connection) -> None:
            happens(proxy, connection)
            happened.set()

        wrap(lambda fence: when(fence, 1, lambda connection: in_trio(now, connection), before=before), monkeypatch)
        results: list[int] = []

        async def pay_8() -> None:
            results.append(await (await app.start(pay_and_note, 8)).result())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pay_8)
            # A client that notices may have had the lost transaction ended before anybody can look.
            notices = happens is LossyProxy.end
            await heals(app, happened, lambda: notices or is_locked(kind, database))
            with trio.move_on_after(HEALED_WITHIN):
                while not results:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert results == [8]
    assert sorted(execute(database, "SELECT n FROM spent")) == [(n,) for n in (*range(9), 1000)]
