"""Instances that ended long ago are deleted as a whole, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from sqlalchemy import Connection, func, insert, select

from trio_romancy import App, ErrorInfo, Status, WorkflowContext, activity, current_activity, workflow
from trio_romancy._client import purge as purging
from trio_romancy._data.journal_format import ActivityCompleted, Patched, error_text
from trio_romancy._storage.sql import purge as purge_sql
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.entries import JournalEntry, entry_row, insert_entries
from trio_romancy._storage.sql.instances import insert_instances, new_row
from trio_romancy._storage.sql.purge import purge
from trio_romancy.model import EntryKind

from ..support.databases import SHARED_KINDS
from ..support.probe import probe
from ..support.servers import PRODUCTS

FINAL = [status for status in Status if status.is_final]
THEIRS = (tables.history, tables.history_archive, tables.waits, tables.incompatible)
"""The tables that hold something of an instance, and nothing for anybody else."""


def store(connection: Connection, instance_id: str, status: Status, created: int, **values: Any) -> None:
    """Store an instance with a row in every table that knows of instances."""
    row: Any = new_row(instance_id, "w", "{}", created, owner=None)
    ended = {"finished_at": created + 5 if status.is_final else None}
    insert_instances(connection, [row | {"status": status, "wake_at": None} | ended | values])
    entry = entry_row(
        instance_id, JournalEntry(1, "op:1", EntryKind.ACTIVITY_COMPLETED, ActivityCompleted(None), created)
    )
    insert_entries(connection, [entry])
    connection.execute(insert(tables.history_archive).values(**entry))
    wait = {"operation_id": "op:1", "channel": "c", "after": 0, "mode": None, "is_open": True}
    connection.execute(insert(tables.waits).values(instance_id=instance_id, **wait))
    misfit = {"version": "1", "error": error_text(ErrorInfo("E", "")), "found_at": 1}
    connection.execute(insert(tables.incompatible).values(instance_id=instance_id, **misfit))


def left(connection: Connection) -> list[str]:
    """The instances that are there, with all that is theirs, or without anything."""
    ids = sorted(connection.execute(select(tables.instances.c.instance_id)).scalars())
    for table in THEIRS:
        assert sorted(connection.execute(select(table.c.instance_id)).scalars()) == ids, table.name
    return ids


def purge_all(connection: Connection, before: int, statuses: list[Status] = FINAL, among: int = 500) -> list[int]:
    """Purge to the end. Returns how many each call has deleted."""
    batches = [purge(connection, statuses, before, None, among)]
    while batches[-1].end is not None:
        batches.append(purge(connection, statuses, before, batches[-1].end, among))
    return [batch.deleted for batch in batches]


def test_what_has_ended_before_is_deleted_with_all_that_is_its(connection: Connection) -> None:
    for status in Status:
        store(connection, f"{status}", status, 100)
    assert purge_all(connection, 105) == [0]
    assert len(left(connection)) == len(Status)
    assert purge_all(connection, 106) == [4]
    assert left(connection) == sorted(status for status in Status if not status.is_final)


def test_only_the_statuses_that_are_asked_for_are_deleted(connection: Connection) -> None:
    for status in FINAL:
        store(connection, f"{status}", status, 100)
    assert purge_all(connection, 1000, [Status.COMPLETED, Status.RECURRED]) == [2]
    assert left(connection) == ["cancelled", "failed"]


def test_it_is_the_time_of_the_end_that_counts(connection: Connection) -> None:
    store(connection, "long", Status.COMPLETED, 100, finished_at=500)
    store(connection, "short", Status.COMPLETED, 400, finished_at=401)
    assert purge_all(connection, 450) == [1]
    assert left(connection) == ["long"]


@pytest.mark.parametrize("among", [1, 2, 3, 10, 100])
def test_a_few_at_a_time_everything_is_deleted_that_has_ended(connection: Connection, among: int) -> None:
    for number in range(20):
        store(connection, f"{number:02}", Status.WAITING if number % 3 == 0 else Status.COMPLETED, number // 5)
    batches = purge_all(connection, 1000, among=among)
    assert sum(batches) == 13 and max(batches) <= among
    assert left(connection) == [f"{number:02}" for number in range(0, 20, 3)]


def test_a_transaction_does_not_delete_too_many_entries(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge_sql, "_MOST_ENTRIES", 4)  # each has one, and one that was archived
    for number in range(7):
        store(connection, str(number), Status.COMPLETED, number)
    entries = [entry_row("3", JournalEntry(seq, "op", EntryKind.PATCHED, Patched(), 1)) for seq in range(2, 10)]
    insert_entries(connection, entries)
    assert purge_all(connection, 1000) == [2, 1, 1, 2, 1]
    assert left(connection) == []


def test_a_child_stays_until_its_parent_has_ended(connection: Connection) -> None:
    store(connection, "waiting", Status.WAITING, 100)
    store(connection, "stuck", Status.STUCK, 100)
    store(connection, "ended", Status.COMPLETED, 900)
    for parent in ("waiting", "stuck", "ended", "purged before"):
        store(connection, f"child of {parent}", Status.COMPLETED, 100, parent_id=parent)
    assert purge_all(connection, 500) == [2]
    assert left(connection) == ["child of stuck", "child of waiting", "ended", "stuck", "waiting"]


def test_the_first_of_a_chain_stays_until_the_last_has_ended(connection: Connection) -> None:
    for chain, status in (("a", Status.WAITING), ("b", Status.COMPLETED)):
        store(connection, f"{chain}1", Status.RECURRED, 100)
        store(connection, f"{chain}2", Status.RECURRED, 110, origin=f"{chain}1", continued_from=f"{chain}1")
        store(connection, f"{chain}3", status, 120, origin=f"{chain}1", continued_from=f"{chain}2")
    assert purge_all(connection, 500) == [4]
    assert left(connection) == ["a1", "a3"]


def test_what_it_sent_is_left_alone(connection: Connection) -> None:
    store(connection, "a", Status.COMPLETED, 100)
    event = {"event_id": "e", "source": "s", "type": "t", "time": 1, "data": "1", "attempts": 0, "created_at": 1}
    for number, status in enumerate(("pending", "sent")):
        connection.execute(insert(tables.outbox).values(instance_id="a", seq=1, number=number, status=status, **event))
    assert purge_all(connection, 1000) == [1]
    assert connection.execute(select(func.count()).select_from(tables.outbox)).scalar() == 2


# -- through an app ----------------------------------------------------------------------------------------------------


@activity
async def greet(name: str) -> str:
    current_activity().send_event("greeted", name)
    return f"Hello, {name}!"


@workflow(name="purge_greeting")
async def greeting(ctx: WorkflowContext, name: str) -> str:
    return await greet(name)


@workflow(name="purge_waiting")
async def waiting(ctx: WorkflowContext) -> None:
    await ctx.wait_event("never")


async def test_an_app_deletes_what_is_older_and_says_how_many(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "_AT_ONCE", 2)
    async with App(database) as app:
        for number in range(5):
            await (await app.start(greeting.options(id=f"old-{number}"), "trio")).result()
        await app.start(waiting.options(id="waiting"))
        await trio.sleep(100)
        await (await app.start(greeting.options(id="new"), "trio")).result()
        batches: list[int] = []
        assert await app.purge(older_than=101, on_batch=batches.append) == 0
        assert await app.purge(older_than=50, status=Status.FAILED) == 0
        assert batches == []
        assert await app.purge(older_than=50, status=Status.COMPLETED, on_batch=batches.append) == 5
        assert sum(batches) == 5
        assert [one.instance_id for one in (await app.list_instances()).instances] == ["new", "waiting"]
        assert len(await app.outbox.list()) == 6
        assert await app.purge(older_than=0.0) in (0, 1)  # it has ended just now
        assert (await app.get_instance("waiting")) is not None


async def test_only_what_has_ended_can_be_purged(database: str) -> None:
    async with App(database, worker=False) as app:
        for status in Status:
            if not status.is_final:
                with pytest.raises(ValueError, match=f"an instance that is {status} has not ended"):
                    await app.purge(older_than=1, status=[Status.COMPLETED, status])
        with pytest.raises(ValueError, match="not a valid Status"):
            await app.purge(older_than=1, status="old")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no status is given"):
            await app.purge(older_than=1, status=[])
        with pytest.raises(ValueError, match="older_than is a number of seconds"):
            await app.purge(older_than=-1)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_cancelled_purge_has_deleted_whole_instances(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "_AT_ONCE", 3)
    async with App(database, worker=False) as app:
        inner = probe(app).database

        def store_ten(connection: Connection) -> None:
            for number in range(10):
                store(connection, str(number), Status.COMPLETED, 100 + number)

        await inner.run(store_ten)
        with trio.CancelScope() as scope:
            await app.purge(older_than=1, on_batch=lambda _: scope.cancel())
        assert scope.cancelled_caught
        assert len(await inner.read(left)) == 7
        assert await app.purge(older_than=1) == 7
        assert await inner.read(left) == []


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)  # SQLite has one writer
async def test_what_was_resumed_meanwhile_is_not_deleted(database: str) -> None:
    """Whoever resumes it comes first, and the purge, which found it ended, waits for that."""
    async with App(database, worker=False) as app, trio.open_nursery() as nursery:
        inner = probe(app).database
        await inner.run(lambda connection: store(connection, "a", Status.FAILED, 100))
        changed = tables.instances.update().values(status=Status.RUNNING, finished_at=None)
        async with inner.open_transaction() as resuming:
            await resuming.run(lambda connection: connection.execute(changed))
            purged: list[int] = []

            async def purge_it() -> None:
                purged.append(await app.purge(older_than=1))

            nursery.start_soon(purge_it)
            await trio.sleep(0.3)  # it cannot be seen to wait; should it not have come so far, nothing is tested
            assert purged == []
            await resuming.commit(lambda _: None)
        with trio.fail_after(60):
            while not purged:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert purged == [0]
        assert await inner.read(left) == ["a"]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_workers_go_on_while_others_purge(database: str) -> None:
    async with App(database) as app, App(database, worker=False) as other:
        deleted = 0

        async def work(name: str) -> None:
            for _ in range(10):
                assert await (await app.start(greeting, name)).result(timeout=60) == f"Hello, {name}!"

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(work, name)
            for _ in range(20):
                deleted += await other.purge(older_than=0.05)
        await trio.sleep(0.06)
        assert deleted + await other.purge(older_than=0.05) == 30
        assert await probe(app).read(left) == []
