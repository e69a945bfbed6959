"""The listener of a journal is told once of each batch: what it has changed, and what the transaction has learned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from sqlalchemy import Connection

from trio_romancy import EntryKind, Status
from trio_romancy._storage import migrations
from trio_romancy._storage.database import Database
from trio_romancy._storage.journal.committed import Committed
from trio_romancy._storage.journal.effects import Effects
from trio_romancy._storage.journal.journal import Journal
from trio_romancy._storage.open import open_database
from trio_romancy._storage.outgoing import event_row
from trio_romancy._storage.sql.instances import closing_row, new_row, start_instance
from trio_romancy._storage.sql.messages import Outgoing, send_apart
from trio_romancy._storage.sql.outbox import new_row as new_outbox_row
from trio_romancy._storage.sql.rows import EntryRow
from trio_romancy._storage.sql.waits import Wait
from trio_romancy._storage.sql.workers import join, leave, this_process
from trio_romancy.clock import current_clock
from trio_romancy.errors import InstanceExistsError, LeaseLostError

from .journal_listener import Listener

LEASE = 10_000_000


@asynccontextmanager
async def open_journal(listener: Listener) -> AsyncIterator[tuple[Database, Journal]]:
    """A journal that runs, of the worker "me"."""
    clock = current_clock()
    async with open_database(":memory:") as opened, trio.open_nursery() as nursery:
        await opened.run(migrations.migrate)
        lease = await opened.run(join, "me", this_process(), clock.now(), clock.now() + LEASE)
        assert lease is not None
        journal = Journal(opened, lease, clock, LEASE, listener)
        nursery.start_soon(journal.run)
        yield opened, journal
        nursery.cancel_scope.cancel()


def outgoing(id: str, type: str = "t") -> Outgoing:
    row = event_row(type, 1, source="s", id=id, subject=None, to=None, time=None, metadata=None, now=1, max_payload=100)
    return Outgoing(row)


def entry(instance_id: str, seq: int) -> EntryRow:
    return {
        "instance_id": instance_id,
        "seq": seq,
        "operation_id": f"op:{seq}",
        "kind": EntryKind.TIMER_FIRED,
        "payload": "null",
        "recorded_at": 1,
    }


@pytest.mark.parametrize("id_is_new", [True, False])
async def test_a_start_comes_back_with_what_the_commit_has_learned(id_is_new: bool) -> None:
    listener = Listener()
    async with open_journal(listener) as (opened, journal):
        await opened.run(send_apart, [outgoing("1"), outgoing("2")], 1)
        row = new_row("a", "w", "{}", 1, owner="me")
        given = dict(row)
        arguments: list[Any] = [object()]
        await journal.start(row, arguments, id_is_new=id_is_new)
        (batch,) = listener.batches
        (started,) = batch.started
        assert started.row is row
        assert started.arguments is arguments
        assert started.started_after == 2
        assert started.is_owned
        assert row == given, "what the caller has given is as it was"
        assert (batch.writes, batch.matches, batch.wakes_others, batch.has_sent) == (1, (), False, False)
        assert batch.seconds >= 0


async def test_one_that_was_stored_before_has_not_been_started() -> None:
    listener = Listener()
    async with open_journal(listener) as (opened, journal):
        for id in ("same", "another"):
            await opened.run(start_instance, new_row(id, "w", "{}", 1, owner=None))
        await journal.start(new_row("same", "w", "{}", 2, owner="me"), [], id_is_new=False)
        with pytest.raises(InstanceExistsError):
            await journal.start(new_row("another", "v", "{}", 2, owner="me"), [], id_is_new=False)
        await journal.start(new_row("free", "w", "{}", 2, owner=None), [], id_is_new=True)
        started = [[one.row["instance_id"] for one in batch.started] for batch in listener.batches]
        assert started == [[], [], ["free"]]
        assert [batch.wakes_others for batch in listener.batches] == [False, False, True]


async def test_what_is_sent_comes_back_as_matches_of_own_instances_and_as_a_wake_up_of_others() -> None:
    listener = Listener()
    async with open_journal(listener) as (opened, journal):
        for id, owner in (("mine", "me"), ("free", None)):
            await opened.run(start_instance, new_row(id, "w", "{}", 1, owner=owner))
            journal.append_wait(Wait(id, "wait", id, None, None, 0), 10, lambda _: None, is_stored=False)
            await journal.flush()
        del listener.batches[:]
        await journal.send([outgoing("1", "mine")])
        await journal.send([outgoing("2", "free")])
        first, second = listener.batches
        assert [(match.wait.instance_id, len(match.found)) for match in first.matches] == [("mine", 1)]
        assert (first.wakes_others, first.has_sent, first.has_posted) == (False, True, False)
        assert (second.matches, second.wakes_others, second.has_sent) == ([], True, True)


async def test_what_is_posted_and_who_is_woken_is_told() -> None:
    listener = Listener()
    async with open_journal(listener) as (_, journal):
        given: dict[str, Any] = {"source": "s", "type": "t", "subject": None, "time": 1, "data_text": "1", "now": 1}
        row = new_outbox_row(instance_id="a", seq=1, number=0, event_id="e", **given)
        await journal.durable(journal.append_effects(Effects(outbox=[row])))
        journal.append_wake("a")
        await journal.flush()
        posted, woken = listener.batches
        assert (posted.has_posted, posted.wakes_others) == (True, False)
        assert (woken.has_posted, woken.wakes_others) == (False, True)


async def test_what_is_appended_when_it_is_told_is_in_the_next_batch() -> None:
    class Appending(Listener):
        def committed(self, committed: Committed) -> None:
            super().committed(committed)
            if len(self.batches) == 1:
                journal.append_entry(entry("a", 2))
            order.append("told")

    listener = Appending()
    order: list[str] = []
    async with open_journal(listener) as (_, journal):
        await journal.durable(journal.append_entry(entry("a", 1)))
        order.append("goes on")
        await journal.flush()
        first, *later = [batch.writes for batch in listener.batches]
        assert (first, sum(later)) == (1, 2)
        assert order[0] == "told"


async def test_a_refused_part_is_told_before_the_batch_that_lacks_it() -> None:
    class Ordered(Listener):
        def refused(self, instance_id: str, error: Exception) -> None:
            assert not self.batches
            super().refused(instance_id, error)

    listener = Ordered()
    async with open_journal(listener) as (opened, journal):
        await opened.run(start_instance, new_row("good", "w", "{}", 1, owner="me"))
        journal.append_entry(entry("bad", 1))
        journal.append_entry(entry("bad", 1))
        end = closing_row("good", Status.COMPLETED, 1, owner=None, output="1", error=None)
        with trio.fail_after(10):
            assert await journal.close(end, entry("good", 1)) is None
        assert [instance_id for instance_id, _ in listener.refusals] == ["bad"]
        assert len(listener.batches) == 1


async def test_a_lost_lease_is_told_before_those_that_wait_for_a_batch() -> None:
    listener = Listener()
    clock = current_clock()

    def take_lease(connection: Connection) -> None:
        leave(connection, journal.lease, 1)

    async with open_database(":memory:") as opened:
        await opened.run(migrations.migrate)
        lease = await opened.run(join, "me", this_process(), clock.now(), clock.now() + LEASE)
        assert lease is not None
        journal = Journal(opened, lease, clock, LEASE, listener)
        await opened.run(take_lease)
        heard: list[bool] = []

        async def wait() -> None:
            with pytest.raises(LeaseLostError):
                await journal.durable(journal.append_entry(entry("a", 1)))
            heard.append(listener.is_lost)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(LeaseLostError):
                await journal.run()
        assert heard == [True]
        assert not listener.batches
