"""Parents, children and chains as rows; and that those who end, go on, wait and cancel cannot miss each other."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio_asyncio
from sqlalchemy import Connection, delete, select

from trio_romancy import App, EntryKind, Status, WorkflowContext, activity, compensation, workflow
from trio_romancy._data.codec import loads
from trio_romancy._data.end_request import EndRequest
from trio_romancy._data.journal_format import CarryOver
from trio_romancy._storage import migrations
from trio_romancy._storage.journal.effects import Effects, WaitRequest
from trio_romancy._storage.journal.journal import Journal
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import children, tables
from trio_romancy._storage.sql import instances as instance_sql
from trio_romancy._storage.sql.chains import Successor, continue_chain, end_of, last_of
from trio_romancy._storage.sql.entries import load_entries
from trio_romancy._storage.sql.lock_order import serialize_writers
from trio_romancy._storage.sql.waits import ChildMode, Wait
from trio_romancy._storage.sql.workers import join, this_process
from trio_romancy.clock import current_clock
from trio_romancy.errors import InstanceExistsError, WorkflowFailedError

from ..support.databases import SHARED_KINDS
from ..support.in_flight import InFlight, cross
from ..support.probe import probe
from ..support.servers import PRODUCTS
from .journal_listener import Listener
from .rows import DUE, NOW, own, wake_times

on_servers = pytest.mark.parametrize("kind", PRODUCTS, indirect=True)

WAIT = Wait("p", "c/result", "c", None, ChildMode.CHILD, 0)


def prepare(connection: Connection, lives: int) -> None:
    """A parent, and a child that has recurred so often already."""
    migrations.migrate(connection)
    own(connection, "p")
    own(connection, "c", status=Status.RUNNING, parent_id="p")
    for life in range(1, lives):
        recur(connection, life)


def name(life: int) -> str:
    return "c" if life == 1 else f"c#{life}"


def begin_to_wait(connection: Connection) -> list[str]:
    """The parent begins to wait, as the journal does it. Returns what there is."""
    opening = WaitRequest(WAIT, 10, True, lambda _: None)
    mail = Effects(opened=[opening])
    mail.lock(connection, NOW)
    mail.apply(connection, NOW, None)
    return [one.payload for one in opening.found or ()]


def close(connection: Connection, life: int, status: Status) -> bool:
    if life > 1:
        serialize_writers(connection, ["c"], NOW)
    output = '"done"' if status is Status.COMPLETED else None
    row = instance_sql.closing_row(name(life), status, NOW, owner=None, output=output, error=None)
    return not instance_sql.close_instances(connection, [row])


def end(connection: Connection, life: int) -> bool:
    """The child completes, unless it was cancelled before. Returns whether it has."""
    if not close(connection, life, Status.COMPLETED):
        return False
    mail = Effects(ended_children={name(life): "c"})
    mail.lock(connection, NOW)
    mail.apply(connection, NOW, None)
    return True


def recur(connection: Connection, life: int) -> bool:
    """The child goes on as the next, unless it was cancelled before. Returns whether it has."""
    if not close(connection, life, Status.RECURRED):
        return False
    continue_chain(connection, name(life), successor(life))
    return True


def successor(life: int) -> Successor:
    row: Any = instance_sql.new_row(name(life + 1), "w", "{}", NOW, owner=None)
    row |= {"origin": "c", "continued_from": name(life), "parent_id": "p"}
    entry: Any = {"instance_id": row["instance_id"], "seq": 1, "operation_id": "", "kind": EntryKind.CONTINUED}
    return Successor(row, entry | {"recorded_at": NOW}, CarryOver())


def request_ends(connection: Connection) -> None:
    children.request_cancels(connection, ["c"], "enough", NOW)


def roll_back(connection: Connection) -> Any:
    return children.roll_back(connection, "p", "c/compensation", "c", "enough", NOW, lambda _: [("do:1", None)])


def cancelled(connection: Connection) -> set[str]:
    query = select(tables.instances.c.instance_id).where(tables.instances.c.cancel_requested.is_not(None))
    return set(connection.execute(query).scalars())


def status_of(connection: Connection, instance_id: str) -> str:
    query = select(tables.instances.c.status).where(tables.instances.c.instance_id == instance_id)
    return str(connection.execute(query).scalar_one())


# -- who comes second sees what the first has done ---------------------------------------------------------------------

lives = pytest.mark.parametrize("life", [1, 2, 3])


@pytest.mark.real_clock
@on_servers
@lives
@pytest.mark.parametrize("order", ["end first", "wait first"])
async def test_the_end_of_a_child_and_a_wait_for_it_that_cross_in_flight_meet(
    database: str, order: str, life: int
) -> None:
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, life)
        ender, waiter = InFlight(opened, end, life), InFlight(opened, begin_to_wait)
        with trio.fail_after(60):
            assert await cross(opened, *((ender, waiter) if order == "end first" else (waiter, ender)))
        wakes = await opened.read(wake_times)
    if order == "end first":
        (payload,) = waiter.result
        assert (loads(payload)["status"], loads(payload)["output"]) == ("completed", "done")
    else:
        assert wakes["p"] == DUE


@pytest.mark.real_clock
@on_servers
@lives
@pytest.mark.parametrize("order", ["recur first", "wait first"])
async def test_who_waits_while_a_child_recurs_hears_of_the_end_of_the_next(
    database: str, order: str, life: int
) -> None:
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, life)
        recurring, waiter = InFlight(opened, recur, life), InFlight(opened, begin_to_wait)
        with trio.fail_after(60):
            await cross(opened, *((recurring, waiter) if order == "recur first" else (waiter, recurring)))
        assert waiter.result == []
        assert (await opened.read(wake_times))["p"] is None
        await opened.run(end, life + 1)
        assert (await opened.read(wake_times))["p"] == DUE
        assert await opened.run(begin_to_wait)


@pytest.mark.real_clock
@on_servers
@lives
@pytest.mark.parametrize("order", ["recur first", "cancel first"])
async def test_a_child_that_is_to_end_does_not_escape_by_going_on(database: str, order: str, life: int) -> None:
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, life)
        recurring, canceller = InFlight(opened, recur, life), InFlight(opened, request_ends)
        with trio.fail_after(60):
            assert await cross(opened, *((recurring, canceller) if order == "recur first" else (canceller, recurring)))
        if order == "recur first":
            assert recurring.result and await opened.read(cancelled) == {name(life + 1)}
            assert (await opened.read(wake_times))[name(life + 1)] == DUE
        else:
            assert not recurring.result and await opened.read(cancelled) == {name(life)}


@pytest.mark.real_clock
@on_servers
@lives
@pytest.mark.parametrize("order", ["end first", "roll back first"])
async def test_a_child_that_completes_while_its_parent_rolls_it_back_is_undone_or_cancelled(
    database: str, order: str, life: int
) -> None:
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, life)
        ender, undoer = InFlight(opened, end, life), InFlight(opened, roll_back)
        with trio.fail_after(60):
            assert await cross(opened, *((ender, undoer) if order == "end first" else (undoer, ender)))
        assert undoer.result is None
        assert await opened.read(cancelled) == {name(life)}
        if order == "end first":
            assert await opened.read(status_of, name(life)) == Status.COMPENSATING
            kinds = [one.kind for one in await opened.read(load_entries, name(life))]
            assert kinds[-1] is EntryKind.ROLLBACK_REQUESTED
        else:
            assert not ender.result
        assert (await opened.read(wake_times))[name(life)] == DUE
        assert await opened.run(roll_back) is None  # and again changes nothing
        assert len(await opened.read(load_entries, name(life))) <= 2


def test_a_child_that_is_gone_needs_no_rollback_and_is_no_end(connection: Connection) -> None:
    own(connection, "p")
    assert roll_back(connection) == (Status.CANCELLED, [])
    assert begin_to_wait(connection) == []
    request_ends(connection)
    children.roll_back_again(connection, "c", NOW)
    children.end_roll_back(connection, "p", "c/compensation")
    assert (end_of(connection, "c"), last_of(connection, "c")) == (None, None)


def test_a_chain_whose_first_was_deleted_is_still_found_by_it(connection: Connection) -> None:
    own(connection, "p")
    own(connection, "c", status=Status.RUNNING, parent_id="p")
    recur(connection, 1)
    recur(connection, 2)
    connection.execute(delete(tables.instances).where(tables.instances.c.instance_id == "c"))
    assert last_of(connection, "c#2") == "c#3"
    begin_to_wait(connection)
    request_ends(connection)
    assert cancelled(connection) == {"c#3"}


def test_the_next_of_a_chain_does_not_take_the_id_of_another(connection: Connection) -> None:
    own(connection, "c", "c#2", status=Status.RUNNING)
    with (
        pytest.raises(InstanceExistsError, match="'c#2' exists already with no place in the chain of 'c'"),
        connection.begin_nested(),
    ):
        recur(connection, 1)
    assert status_of(connection, "c") == Status.RUNNING


# -- nobody waits in a circle ------------------------------------------------------------------------------------------


@pytest.mark.real_clock
@on_servers
@pytest.mark.parametrize("how", ["recurs", "completes", "is rolled back"])
async def test_a_child_that_ends_or_recurs_and_who_cancels_it_take_their_rows_in_one_order(
    database: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks for its end writes the first of the chain, then the last: so must the journal."""
    caplog.set_level(logging.WARNING)
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(prepare, 2)
        clock = current_clock()
        lease = await opened.run(join, "me", this_process(), clock.now(), 10_000_000)
        assert lease is not None
        journal = Journal(opened, lease, clock, 10_000_000, Listener())
        answers: list[str | None] = []

        async def write() -> None:
            ends = how == "completes"
            status = Status.COMPLETED if ends else Status.RECURRED
            row = instance_sql.closing_row("c#2", status, NOW, owner=None, output="1" if ends else None, error=None)
            entry: Any = {"instance_id": "c#2", "seq": 9, "operation_id": "", "payload": "null", "recorded_at": NOW}
            if how == "is rolled back":
                journal.append_child_end("c#2", "c")
                change = instance_sql.update_row("c#2", Status.CANCELLED, NOW, owner=None)
                await journal.durable(journal.append_update(change))
            else:
                entry["kind"] = EntryKind.WORKFLOW_COMPLETED if ends else EntryKind.WORKFLOW_RECURRED
                answers.append(
                    await journal.close(
                        row, entry, origin="c" if ends else None, successor=None if ends else successor(2)
                    )
                )

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.run)
                await journal.flush()
                async with trio.open_nursery() as writing, opened.open_transaction() as transaction:
                    await transaction.run(serialize_writers, ["c"], NOW)
                    writing.start_soon(write)
                    await trio.sleep(0.3)  # for the journal to come as far as it can
                    await transaction.run(request_ends)
                    await transaction.commit(lambda _: None)
                nursery.cancel_scope.cancel()
    assert answers == ([] if how == "is rolled back" else [EndRequest("enough", NOW, by_parent=True).to_text()])
    assert not [record.getMessage() for record in caplog.records], "a deadlock"


# -- a batch that the database refuses ---------------------------------------------------------------------------------


async def test_a_parent_is_told_of_the_end_of_a_child_also_if_the_batch_is_written_in_parts() -> None:
    async with open_database(":memory:") as opened:
        await opened.run(prepare, 1)
        clock = current_clock()
        lease = await opened.run(join, "me", this_process(), clock.now(), 10_000_000)
        await opened.run(own_by_me)
        await opened.run(begin_to_wait)
        assert lease is not None
        listener = Listener()
        journal = Journal(opened, lease, clock, 10_000_000, listener)
        row = instance_sql.closing_row("c", Status.COMPLETED, NOW, owner=None, output="1", error=None)
        entry: Any = {"instance_id": "c", "seq": 1, "operation_id": "", "kind": EntryKind.WORKFLOW_COMPLETED}
        entry |= {"payload": "null", "recorded_at": NOW}
        refused: list[str] = []

        async def start_what_exists() -> None:
            try:
                await journal.start(instance_sql.new_row("p", "w", "{}", NOW, owner="me"), [], id_is_new=True)
            except Exception as error:
                refused.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as writing:
                writing.start_soon(start_what_exists)
                writing.start_soon(lambda: journal.close(row, entry, origin="c"))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(journal.run)
            nursery.cancel_scope.cancel()
    assert refused == ["IntegrityError"]
    assert [match.wait.operation_id for batch in listener.batches for match in batch.matches] == ["c/result"]


def own_by_me(connection: Connection) -> None:
    connection.execute(tables.instances.update().where(tables.instances.c.instance_id == "p").values(owner="me"))


# -- on several workers ------------------------------------------------------------------------------------------------


@compensation(name="families_undo")
async def undo() -> None: ...


@activity(name="families_do", compensation=undo)
async def do() -> None: ...


@workflow(name="families_child")
async def child(ctx: WorkflowContext, lives: int, event: bool) -> str:
    await do()
    if event:
        await ctx.wait_event("go on")
    if lives > 1:
        ctx.recur(lives - 1, event)
    return "done"


@workflow(name="families_parent")
async def parent(ctx: WorkflowContext, lives: int, event: bool, fails: bool) -> list[str]:
    results = []

    async def one(number: int) -> None:
        with ctx.branch(str(number)):
            results.append(await ctx.run(child, lives, event))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(one, number)
    if fails:
        raise ValueError("too bad")
    return results


shared = pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)


@pytest.mark.real_clock
@shared
@pytest.mark.parametrize("fails", [False, True])
async def test_two_workers_with_little_room_share_a_family(database: str, fails: bool) -> None:
    async with (
        App(database, worker_id="one", max_running=1) as one,
        App(database, worker_id="two", max_running=1) as two,
    ):
        handles = [await app.start(parent, 2, False, fails) for app in (one, two)]
        with trio.fail_after(60):
            for handle in handles:
                if fails:
                    with pytest.raises(WorkflowFailedError, match="too bad"):
                        await handle.result()
                else:
                    assert await handle.result() == ["done"] * 3
        counts = [
            len((await one.list_instances(status=status)).instances) for status in (Status.RECURRED, Status.CANCELLED)
        ]
    assert counts == [6, 6 if fails else 0]


@pytest.mark.real_clock
@shared
@pytest.mark.parametrize("fails", [False, True])
async def test_when_a_worker_dies_the_other_ends_the_family(database: str, fails: bool) -> None:
    async with App(database, worker_id="two", lease=2.0) as two:
        async with App(database, worker_id="one", lease=2.0) as one:
            handle = await one.start(parent.options(id="p"), 2, True, fails)
            await two.start(parent.options(id="q"), 2, True, fails)
            while len((await two.list_instances(workflow="families_child", status=Status.WAITING)).instances) < 6:  # noqa: ASYNC110
                await trio.sleep(0.05)
            await one.send_event("go on")
            probe(one).abandon()
        await two.send_event("go on")
        with trio.fail_after(60):
            for id in (handle.instance_id, "q"):
                if fails:
                    with pytest.raises(WorkflowFailedError, match="too bad"):
                        await two.handle(id).result()
                else:
                    assert await two.handle(id).result() == ["done"] * 3
