"""A whole batch in one statement does what the same parts do one after the other, or nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio_asyncio
from sqlalchemy import Connection, delete, select, update
from sqlalchemy.exc import IntegrityError
from trio.testing import wait_all_tasks_blocked

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._data.end_request import EndRequest
from trio_romancy._data.journal_format import ActivityCompleted, WorkflowCompleted
from trio_romancy._storage import migrations
from trio_romancy._storage.database import Database
from trio_romancy._storage.dialects import postgresql
from trio_romancy._storage.journal import single_statement
from trio_romancy._storage.journal.single_statement import write_at_once
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.entries import JournalEntry, entry_row, load_entries
from trio_romancy._storage.sql.instances import closing_row, new_row
from trio_romancy._storage.sql.messages import count_messages, lock_channels
from trio_romancy._storage.sql.steering import request_cancel
from trio_romancy._storage.sql.workers import Lease, Process, join, leave
from trio_romancy.errors import LeaseLostError
from trio_romancy.model import EntryKind, Status

from ..support.probe import forbid_several_statements

pytestmark = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)

Row = Any

EXPIRES = 10**18


def join_as(connection: Connection, worker_id: str) -> Lease:
    lease = join(connection, worker_id, Process("h", 1, "", worker_id), 1, EXPIRES)
    assert lease is not None
    return lease


def started(connection: Connection) -> Lease:
    """A worker, and three instances that it runs."""
    lease = join_as(connection, "me")
    write(connection, lease, 1, starts=[new_row(id, "w", "{}", 5, owner="me") for id in ("a", "b", "c")])
    return lease


def write(
    connection: Connection,
    lease: Lease,
    number: int,
    *,
    starts: list[Row] | None = None,
    ends: list[Row] | None = None,
    entries: list[Row] | None = None,
) -> tuple[int, dict[str, str]]:
    return write_at_once(connection, lease, EXPIRES, number, starts or [], ends or [], entries or [])


def end(instance_id: str, seq: int = 1) -> Row:
    row: Row = closing_row(instance_id, Status.COMPLETED, 50, owner=None, output='"done"', error=None)
    return row | entry_row(instance_id, JournalEntry(seq, "", EntryKind.WORKFLOW_COMPLETED, WorkflowCompleted(), 50))


def entry(instance_id: str, seq: int = 1, result: object = None) -> Row:
    return entry_row(
        instance_id, JournalEntry(seq, f"op:{seq}", EntryKind.ACTIVITY_COMPLETED, ActivityCompleted(result), 40)
    )


def statuses(connection: Connection) -> dict[str, str]:
    c = tables.instances.c
    return {row.instance_id: row.status for row in connection.execute(select(c.instance_id, c.status))}


def entries(connection: Connection) -> list[tuple[str, int]]:
    c = tables.history.c
    rows = connection.execute(select(c.instance_id, c.seq).order_by(c.instance_id, c.seq))
    return [(row.instance_id, row.seq) for row in rows]


def test_everything_is_written(connection: Connection) -> None:
    lease = started(connection)
    found = write(
        connection,
        lease,
        2,
        starts=[new_row("d", "w", '{"x":"ä\\u0000"}', 7, owner="me", trace='"t"')],
        ends=[end("a", seq=2), end("b")],
        entries=[entry("a"), entry("c", result={"text": "\\ ' \" 🦊 \0", "number": 2**63})],
    )
    assert found == (0, {})
    assert statuses(connection) == {"a": "completed", "b": "completed", "c": "running", "d": "running"}
    assert entries(connection) == [("a", 1), ("a", 2), ("b", 1), ("c", 1)]
    assert load_entries(connection, "c") == [
        JournalEntry(
            1, "op:1", EntryKind.ACTIVITY_COMPLETED, ActivityCompleted({"text": "\\ ' \" 🦊 \0", "number": 2**63}), 40
        )
    ]
    new = connection.execute(select(tables.instances).where(tables.instances.c.instance_id == "d")).one()
    assert (new.input, new.owner, new.recoveries, new.trace, new.created_at, new.output, new.wake_at) == (
        '{"x":"ä\\u0000"}',
        "me",
        0,
        '"t"',
        7,
        None,
        None,
    )
    old = connection.execute(select(tables.instances).where(tables.instances.c.instance_id == "a")).one()
    assert (old.owner, old.output, old.finished_at, old.updated_at, old.wake_at) == (None, '"done"', 50, 50, None)
    batch, expires = connection.execute(select(tables.workers.c.batch, tables.workers.c.expires_at)).one()
    assert (batch, expires) == (2, EXPIRES)


def test_an_end_that_a_cancel_request_came_before_is_refused_and_the_rest_is_written(connection: Connection) -> None:
    lease = started(connection)
    request_cancel(connection, "a", "too late", 30)
    found = write(connection, lease, 2, ends=[end("a"), end("b")], entries=[entry("c")])
    assert found == (0, {"a": EndRequest("too late", 30).to_text()})
    assert statuses(connection) == {"a": "running", "b": "completed", "c": "running"}
    assert entries(connection) == [("b", 1), ("c", 1)]


def test_new_instances_know_the_last_message_before_them(connection: Connection) -> None:
    lease = join_as(connection, "me")
    lock_channels(connection, ["x"], 1)
    count_messages(connection, 7, 1)
    assert write(connection, lease, 1, starts=[new_row("a", "w", "{}", 5, owner="me")]) == (7, {})
    count_messages(connection, 1, 1)
    # the answer was lost, and it is tried again
    assert write(connection, lease, 1, starts=[new_row("a", "w", "{}", 5, owner="me")]) == (7, {})
    assert connection.execute(select(tables.instances.c.started_after)).scalars().all() == [7]


def test_without_the_lease_nothing_is_written(connection: Connection) -> None:
    lease = started(connection)
    leave(connection, lease, 10)
    with pytest.raises(LeaseLostError):
        write(
            connection, lease, 2, starts=[new_row("d", "w", "{}", 7, owner="me")], ends=[end("a")], entries=[entry("b")]
        )
    assert set(statuses(connection).values()) == {"running"}
    assert entries(connection) == []


def test_what_was_committed_before_is_not_written_again_and_its_fate_is_told(connection: Connection) -> None:
    lease = started(connection)
    request_cancel(connection, "a", None, 30)
    parts: dict[str, list[Row]] = {
        "starts": [new_row("d", "w", "{}", 7, owner="me")],
        "ends": [end("a"), end("b")],
        "entries": [entry("c")],
    }
    first = write(connection, lease, 2, **parts)
    assert first == (0, {"a": EndRequest(None, 30).to_text()})
    assert write(connection, lease, 2, **parts) == first
    assert entries(connection) == [("b", 1), ("c", 1)]


def test_a_key_that_is_taken_is_an_error_and_nothing_is_written(connection: Connection) -> None:
    lease = started(connection)
    write(connection, lease, 2, entries=[entry("a")])
    with pytest.raises(IntegrityError), connection.begin_nested():
        write(connection, lease, 3, ends=[end("b")], entries=[entry("c"), entry("a")])
    assert set(statuses(connection).values()) == {"running"}
    assert entries(connection) == [("a", 1)]
    assert connection.execute(select(tables.workers.c.batch)).scalar() == 2


def test_it_is_planned_for_large_tables_though_they_are_empty(connection: Connection) -> None:
    postgresql.plan_once(connection)
    statement = str(single_statement._write.compile(dialect=connection.dialect))
    nothing = ", ".join(["NULL"] * max(map(int, re.findall(r"\$(\d+)", statement))))
    connection.exec_driver_sql(f"PREPARE written AS {statement}")
    plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN EXECUTE written({nothing})")]
    uses = [line.strip() for line in plan if " on romancy_" in line or "using" in line]
    assert sum("romancy_instances_pkey" in line for line in uses) == 2, "\n".join(plan)  # to lock, and to close
    assert not any("Seq Scan" in line or "Merge" in line for line in plan), "\n".join(plan)
    conditions = [line for line in plan if "Index Cond" in line and "instance_id" in line]
    assert len(conditions) == 2, "\n".join(plan)  # each of them by key, and not all of the index


# -- against others ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    async with trio_asyncio.open_loop(), open_database(url) as database:
        await database.run(migrations.migrate)
        yield database


@pytest.mark.real_clock
async def test_who_waits_for_a_take_over_writes_nothing(database: str) -> None:
    async with opened(database) as db, db.open_writer() as writer:
        assert writer.autocommit is not None
        lease = await db.run(started)

        async def write_late() -> None:
            assert writer.autocommit is not None
            with pytest.raises(LeaseLostError):
                await writer.autocommit.run(write, lease, 2, ends=[end("a")], entries=[entry("b")])

        async with trio.open_nursery() as nursery, db.open_transaction() as other:
            await other.run(lambda connection: connection.execute(delete(tables.workers)))
            nursery.start_soon(write_late)
            await trio.sleep(0.3)
            await other.commit(lambda _: None)
        assert await db.read(entries) == []
        assert set((await db.read(statuses)).values()) == {"running"}


@pytest.mark.real_clock
async def test_who_waits_for_a_cancel_request_is_refused(database: str) -> None:
    found: list[object] = []
    async with opened(database) as db, db.open_writer() as writer:
        lease = await db.run(started)

        async def write_late() -> None:
            assert writer.autocommit is not None
            found.append(await writer.autocommit.run(write, lease, 2, ends=[end("a"), end("b")]))

        async with trio.open_nursery() as nursery, db.open_transaction() as other:
            await other.run(request_cancel, "b", "stop", 30)
            nursery.start_soon(write_late)
            await trio.sleep(0.3)
            await other.commit(lambda _: None)
        assert found == [(0, {"b": EndRequest("stop", 30).to_text()})]
        assert await db.read(entries) == [("a", 1)]


@pytest.mark.real_clock
async def test_a_retry_waits_for_the_commit_that_got_no_answer(database: str) -> None:
    found: list[object] = []
    async with opened(database) as db, db.open_writer() as writer:
        lease = await db.run(started)

        async def write_again() -> None:
            assert writer.autocommit is not None
            found.append(await writer.autocommit.run(write, lease, 2, entries=[entry("a")]))

        async with trio.open_nursery() as nursery, db.open_transaction() as first:
            await first.run(write, lease, 2, entries=[entry("a")])
            nursery.start_soon(write_again)
            await trio.sleep(0.3)
            assert found == []
            await first.commit(lambda _: None)
        assert found == [(0, {})]
        assert await db.read(entries) == [("a", 1)]


@activity(name="at_once_double")
async def double(number: int) -> int:
    return 2 * number


@workflow(name="at_once_doubling")
async def doubling(ctx: WorkflowContext, number: int) -> int:
    return await double(await double(number))


@pytest.mark.real_clock
async def test_a_workflow_of_activities_needs_nothing_else(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with App(database) as app:
        await wait_all_tasks_blocked(0.1)
        forbid_several_statements(monkeypatch)
        assert await (await app.start(doubling, 1)).result() == 4
        monkeypatch.undo()


def test_update_of_another_epoch_is_no_fence(connection: Connection) -> None:
    lease = started(connection)
    connection.execute(update(tables.workers).values(epoch=lease.epoch + 1, batch=0))
    with pytest.raises(LeaseLostError):
        write(connection, lease, 2, entries=[entry("a")])
    assert entries(connection) == []
