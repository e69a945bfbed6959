"""A look for messages and what happens meanwhile do not miss each other."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, func, select

from trio_romancy import (
    App,
    EventTimeoutError,
    MessageTimeoutError,
    Status,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)
from trio_romancy._storage.drivers.sqlite import InlineDatabase
from trio_romancy._storage.journal.effects import Effects
from trio_romancy._storage.outgoing import event_row, message_row
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.messages import Outgoing, send_apart
from trio_romancy._storage.sql.waits import find_all_matches
from trio_romancy.testing import Crash, How, run, run_with_crashes

from ..support.probe import is_batch, probe


@workflow
async def looks_two_waits(ctx: WorkflowContext) -> list[int]:
    got = []

    async def wait(id: str, subject: str | None) -> None:
        got.append((await ctx.wait_event("looks.two", subject, id=id)).data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "any", None)
        nursery.start_soon(wait, "some", "some")
    return got


@workflow
async def looks_one_wait(ctx: WorkflowContext) -> Any:
    return (await ctx.wait_event("looks.one")).data


@pytest.mark.parametrize("repetition", range(20))  # which of the two begins to wait is trio's choice
def test_two_events_in_a_row_reach_two_waits_that_either_is_for(repetition: int) -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(looks_two_waits)
            await trio.sleep(1)
            await app.send_event("looks.two", 1, subject="some")
            await app.send_event("looks.two", 2, subject="some")
            assert sorted(await handle.result(timeout=60)) == [1, 2]

    run(main)


@pytest.mark.parametrize("idle_timeout", [0, 10])
def test_an_instance_is_not_dropped_while_a_slow_database_looks_for_its_messages(
    idle_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = InlineDatabase.read

    async def slow(self: InlineDatabase, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if fn is find_all_matches:
            await trio.sleep(20)
        return await read(self, fn, *args, **kwargs)

    monkeypatch.setattr(InlineDatabase, "read", slow)

    async def main() -> None:
        async with App(":memory:", idle_timeout=idle_timeout) as app:
            handle = await app.start(looks_one_wait)
            await trio.sleep(5)
            await app.send_event("looks.one", 1)
            assert await handle.result(timeout=3600) == 1

    run(main)


# -- more messages than a sender looks for -----------------------------------------------------------------------------

MANY = 15


@activity
async def looks_publish_many() -> None:
    for number in range(MANY):
        current_activity().publish("looks.many", number)


@workflow
async def looks_sender(ctx: WorkflowContext) -> None:
    await looks_publish_many()


@workflow
async def looks_many_receivers(ctx: WorkflowContext) -> list[int]:
    got = []

    async def receive(name: str) -> None:
        with ctx.branch(name):
            got.append((await ctx.receive("looks.many")).data)

    await ctx.subscribe("looks.many")
    async with trio.open_nursery() as nursery:
        for number in range(MANY):
            nursery.start_soon(receive, str(number))
    return got


@pytest.mark.parametrize("idle_timeout", [1, 100])
def test_many_messages_at_once_reach_as_many_tasks(idle_timeout: float) -> None:
    async def main() -> None:
        async with App(":memory:", idle_timeout=idle_timeout) as app:
            handle = await app.start(looks_many_receivers)
            await trio.sleep(5)
            await (await app.start(looks_sender)).result()
            assert sorted(await handle.result(timeout=60)) == list(range(MANY))

    run(main)


# -- a subscription is of the instance ---------------------------------------------------------------------------------


@workflow
async def looks_subscribes_twice(ctx: WorkflowContext) -> list[int]:
    got = []

    async def receive(name: str) -> None:
        with ctx.branch(name):
            await ctx.subscribe("looks.news")
            got.append((await ctx.receive("looks.news")).data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, "one")
        nursery.start_soon(receive, "other")
    return got


def test_each_message_goes_to_one_of_the_tasks_that_have_subscribed() -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(looks_subscribes_twice)
            await trio.sleep(1)
            await app.publish("looks.news", 1)
            await app.publish("looks.news", 2)
            assert sorted(await handle.result(timeout=60)) == [1, 2]

    run(main)


# -- an actor that is slow to go ---------------------------------------------------------------------------------------


@workflow
async def looks_cleans_up_slowly(ctx: WorkflowContext) -> Any:
    try:
        return (await ctx.wait_event("looks.slow")).data
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)


def test_an_event_for_an_actor_that_is_slow_to_go_is_received_when_it_has_gone() -> None:
    async def main() -> None:
        async with App(":memory:", idle_timeout=1) as app:
            handle = await app.start(looks_cleans_up_slowly)
            await trio.sleep(2)
            await app.send_event("looks.slow", 1)
            assert await handle.result(timeout=60) == 1
            statistics = app.statistics().worker
            assert statistics is not None and statistics.journal.batches < 20

    run(main)


# -- a wait that was over when its worker died -------------------------------------------------------------------------


@workflow
async def looks_goes_on(ctx: WorkflowContext) -> str:
    with suppress(EventTimeoutError):
        await ctx.wait_event("looks.early", timeout=5)
    await ctx.sleep(500)
    await ctx.wait_event("looks.late")
    return "done"


@pytest.mark.parametrize("commit", range(2, 9))
def test_a_wait_that_was_over_when_the_worker_died_is_forgotten(commit: int) -> None:
    async def scenario(app: App) -> Any:
        handle = await app.start(looks_goes_on)
        await trio.sleep(700)
        waiting = (await app.send_event("looks.early")).waiting, (await app.send_event("looks.late")).waiting
        return waiting, await handle.result(timeout=60), await probe(app).read(count_waits)

    found = run_with_crashes(scenario, [Crash(commit, How.WORKER_AFTER)], idle_timeout=1)
    assert found.result == ((0, 1), "done", 0)


def count_waits(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(tables.waits)).scalar_one()


# -- a batch that the database refuses ---------------------------------------------------------------------------------


@workflow
async def looks_three(ctx: WorkflowContext) -> list[Any]:
    got: list[Any] = []
    await ctx.subscribe("looks.refused")
    for _ in range(3):
        try:
            got.append((await ctx.receive("looks.refused", timeout=5)).data)
        except MessageTimeoutError:
            got.append(None)
    return got


def test_nobody_hears_of_a_message_that_the_database_has_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(looks_three)
            await trio.sleep(1)
            inside = probe(app)
            row = message_row(
                "looks.refused", 0, metadata=None, to=None, now=inside.clock.now(), max_payload=100, sender="nobody"
            )
            incomplete: Any = {"instance_id": "nobody", "data": "1"}
            effects = Effects(outgoing=[Outgoing(row)], outbox=[incomplete])
            await inside.journal.durable(inside.journal.append_effects(effects))
            await app.publish("looks.refused", 1)
            await app.publish("looks.refused", 2)
            assert await handle.result(timeout=60) == [1, 2, None]

    run(main)


# -- a worker that dies between a claim and what it does about it ------------------------------------------------------


def test_what_a_claim_has_found_survives_the_worker_though_the_instance_was_being_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The claim takes the wake-up away. Whoever gives the instance back meanwhile must put it back with it."""
    commits: list[str] = []
    commit = InlineDatabase.run

    async def main() -> None:
        async with App(":memory:", idle_timeout=1000) as app:
            handle = await app.start(looks_one_wait.options(id="i"))
            await trio.sleep(1)
            inside = probe(app)
            assert inside.residents == ["i"]

            async def commit_and_meet(self: InlineDatabase, fn: Any, *args: Any, **kwargs: Any) -> Any:
                result = await commit(self, fn, *args, **kwargs)
                if is_batch(fn):  # the answer is on its way
                    commits.append("batch")
                    if len(commits) == 1:  # the claim
                        inside.release("i", Status.WAITING)
                        await trio.testing.wait_all_tasks_blocked()
                    elif len(commits) == 2:  # in which it is given back
                        inside.abandon()
                return result

            row = event_row(
                "looks.one", 7, source="s", id="1", subject=None, to=None, time=None, metadata=None,
                now=inside.clock.now(), max_payload=1000,
            )  # fmt: skip
            await inside.write(send_apart, [Outgoing(row)], inside.clock.now())  # in another process, say
            monkeypatch.setattr(InlineDatabase, "run", commit_and_meet)
            inside.become_due()
            assert await handle.result(timeout=100) == 7
            assert len(commits) > 2

    run(main)
