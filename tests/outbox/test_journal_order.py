"""Events of one instance leave in the order of its journal, also those of a session, which commits by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
import trio
import trio.testing

from trio_romancy import App, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.journal.batch import Batch
from trio_romancy.model import OutboxStatus
from trio_romancy.testing import How, explore_crashes

from ..support.broker import free_port, open_broker
from ..support.databases import ALL_KINDS, KINDS
from ..support.probe import probe

every_kind = pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)

session_may_end: trio.Event


@activity(name="journal_order_plain")
async def plain() -> None:
    current_activity().send_event("plain", None)


@activity(name="journal_order_transactional")
async def transactional() -> None:
    await current_activity().session.execute(sa.text("SELECT 1"))
    await session_may_end.wait()
    current_activity().send_event("transactional", None)


@workflow(name="journal_order_both")
async def both(ctx: WorkflowContext) -> None:
    async def first() -> None:
        await plain.options(id="plain")()
        session_may_end.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(transactional.options(id="transactional"))
        nursery.start_soon(first)


@every_kind
@pytest.mark.real_clock
async def test_an_event_does_not_overtake_one_whose_entry_is_not_on_disk_yet(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    global session_may_end
    session_may_end, may_write, has_waited = trio.Event(), trio.Event(), trio.Event()

    async def wait(batch: Batch) -> None:
        if any(entry["operation_id"] == "plain" for entry in batch.entries):
            has_waited.set()
            await may_write.wait()

    with trio.fail_after(30):
        async with open_broker() as broker, App(database, broker_url=broker.url, shutdown_timeout=1) as app:
            probe(app).before_each_commit(wait, monkeypatch)
            handle = await app.start(both)
            await has_waited.wait()
            await session_may_end.wait()
            await trio.sleep(0.3)  # the session would have committed by now, and its event been posted
            assert broker.posts == []
            may_write.set()
            await handle.result()
            await broker.until(lambda: len(broker.posts) == 2)
            journal = [entry.operation_id for entry in await app.history(handle.instance_id) if entry.operation_id]
    assert [post.event["type"] for post in broker.posts] == journal == ["plain", "transactional"]


@every_kind
@pytest.mark.real_clock
async def test_an_event_that_was_held_back_leaves_if_the_worker_dies_first(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    global session_may_end
    session_may_end, has_waited = trio.Event(), trio.Event()

    async def die(batch: Batch) -> None:
        if not has_waited.is_set() and any(entry["operation_id"] == "plain" for entry in batch.entries):
            has_waited.set()
            await session_may_end.wait()
            await trio.sleep(0.3)
            probe(app).abandon()

    with trio.fail_after(30):
        async with open_broker() as broker, App(database, broker_url=broker.url, lease=1, shutdown_timeout=1) as app:
            probe(app).before_each_commit(die, monkeypatch)
            handle = await app.start(both)
            await handle.result()
            await broker.until(lambda: len(broker.posts) == 2)
            journal = [entry.operation_id for entry in await app.history(handle.instance_id) if entry.operation_id]
    assert [post.event["type"] for post in broker.posts] == journal


# -- crashes -----------------------------------------------------------------------------------------------------------


@activity(name="journal_order_slow")
async def slow(seconds: float, name: str) -> None:
    if name == "transactional":
        await current_activity().session.execute(sa.text("SELECT 1"))
    await trio.sleep(seconds)
    current_activity().send_event(name, None)


@workflow(name="journal_order_several")
async def several(ctx: WorkflowContext) -> None:
    async with trio.open_nursery() as nursery:
        for number, name in enumerate(("plain", "transactional", "plain", "transactional")):
            nursery.start_soon(slow.options(id=f"{number}"), number / 100, name)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_the_order_is_that_of_the_journal_whatever_crashes_when(kind: str, new_database: Callable[[], str]) -> None:
    port = free_port()

    async def scenario(app: App) -> object:
        async with open_broker(port) as broker:
            handle = await app.start(several.options(id="several"))
            await handle.result()
            while await app.outbox.list(status=OutboxStatus.PENDING, limit=1):  # noqa: ASYNC110
                await trio.sleep(0.1)
            journal = [entry.operation_id for entry in await app.history("several") if entry.operation_id]
            events = {event.event_id: event for event in await app.outbox.list()}
            posted = [events[id].event_id.split(":")[1] for id in dict.fromkeys(broker.ids)]
            assert posted == journal
            return sorted(posted)

    hows = tuple(How) if kind == "sqlite" else (How.WORKER_BEFORE, How.WORKER_AFTER, How.ANSWER_LOST)
    explore_crashes(
        scenario,
        hows=hows,
        new_database=new_database,
        broker_url=f"http://127.0.0.1:{port}/",
    )
