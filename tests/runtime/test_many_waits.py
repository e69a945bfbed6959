"""What an operation of an instance costs does not depend on how many others are in flight beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from sqlalchemy import Connection, func, select

from trio_romancy import App, TerminalError, WorkflowContext, WorkflowFailedError, activity, compensation, workflow
from trio_romancy._runtime.run.message_table import MessageFilter, MessageTable
from trio_romancy._runtime.run.operation import Operation
from trio_romancy._storage.sql.tables import waits
from trio_romancy._storage.sql.waits import Match
from trio_romancy.model import EntryKind

from ..support.probe import probe
from ..support.steps import counted

FEW, MANY = 100, 1_000
SAME = 1.3
"""Most times that a step may cost with ten times as many others beside it. If it looked at each, it would be 10."""


# -- the table ---------------------------------------------------------------------------------------------------------


def operation(number: int) -> Operation:
    return Operation(f"wait:{number}", "wait_event", frozenset({EntryKind.EVENT_RECEIVED}))


def steps_of_a_table(count: int, subject_of: Callable[[int], str | None]) -> int:
    """Return the steps in which one of many waits gets its message, and another begins and is searched for."""
    table = MessageTable("i", 0, None)
    open = [table.begin(operation(number), MessageFilter("t", subject_of(number))) for number in range(count)]
    for wait in open:
        wait.queue.stored = wait.queue.first
        table.offer(wait.queue, (), 1, is_cut=False)
    for seq in range(1, count):  # most of them have a message already
        table.offer(open[seq].queue, [Match(seq, seq, "null")], 2, is_cut=False)
    with counted() as steps:
        taken = table.next()
        assert taken is not None
        wait, match = taken
        table.consume(wait.filter, match.seq)
        table.end(wait)
        another = table.begin(operation(count), MessageFilter("t", subject_of(count)))
        another.queue.stored = another.queue.first
        table.request(another.queue)
        table.offer(another.queue, [Match(count, count, "null")], 3, is_cut=False)
        table.next()
    return steps.count


@pytest.mark.parametrize("subject_of", [str, lambda _: None], ids=["different subjects", "the same filter"])
def test_a_message_is_assigned_in_as_many_steps_however_many_waits_there_are(
    subject_of: Callable[[int], str | None],
) -> None:
    assert steps_of_a_table(MANY, subject_of) <= SAME * steps_of_a_table(FEW, subject_of)


def test_events_that_were_received_cost_later_waits_nothing() -> None:
    def steps_after(received: int) -> int:
        table = MessageTable("i", 0, None)
        for seq in range(1, received):
            table.consume(MessageFilter("t", str(seq)), seq)
        with counted() as steps:
            wait = table.begin(operation(1), MessageFilter("t", "new"))
            wait.queue.stored = wait
            table.request(wait.queue)
        return steps.count

    assert steps_after(MANY) == steps_after(FEW)


def test_a_wait_for_all_events_does_not_search_again_for_what_other_waits_have_received() -> None:
    table = MessageTable("i", 0, None)
    for seq in range(1, 51):
        table.consume(MessageFilter("t", str(seq)), seq)
    wait = table.begin(operation(1), MessageFilter("t"))
    wait.queue.stored = wait
    request, most = table.request(wait.queue)
    assert (request.after, most) == (0, 51)
    table.offer(wait.queue, [Match(seq, seq, "null") for seq in range(1, 51)], 1, is_cut=True)
    request, most = table.request(wait.queue)
    assert (request.after, most) == (50, 1)


# -- instances ---------------------------------------------------------------------------------------------------------


async def at_rest(app: App) -> None:
    """Wait until the only instance in memory waits, and all is written."""
    while True:
        worker = app.statistics().worker
        assert worker is not None
        if worker.supervisor.resident == worker.supervisor.idle == 1 and not worker.journal.waiting:
            return
        await trio.sleep(0.01)


received: list[int] = []
arrived = trio.Event()


@workflow(name="crowd_waits")
async def crowd(ctx: WorkflowContext, count: int, kind: str) -> None:
    async def one(number: int) -> None:
        if kind == "subjects":
            await ctx.wait_event("go", subject=str(number), id=f"w{number}")
        elif kind == "same":
            await ctx.wait_event("go", id=f"w{number}")
        elif kind == "types":
            await ctx.wait_event(f"go {number}", id=f"w{number}")
        elif kind == "timeouts":
            with ctx.move_on_after(1000 + number, id=f"t{number}"):
                await ctx.wait_event("never", subject=str(number), id=f"w{number}")
        elif kind == "sleeps":
            await ctx.sleep(1000 + number, id=f"w{number}")
        received.append(number)
        arrived.set()

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)


async def send(app: App, type: str, number: int) -> None:
    await app.send_event(type, None, subject=str(number))


async def to_the_timer(app: App, number: int) -> None:
    await trio.sleep_until(START + 1000 + number + 0.5)


START = 0.0
CAUSES: dict[str, Callable[[App, int], Awaitable[None]]] = {
    "subjects": lambda app, number: send(app, "go", number),
    "same": lambda app, number: send(app, "go", number),
    "types": lambda app, number: send(app, f"go {number}", number),
    "timeouts": to_the_timer,
    "sleeps": to_the_timer,
}


async def receive_one(app: App, kind: str, number: int) -> None:
    global arrived
    arrived = trio.Event()
    await CAUSES[kind](app, number)
    await arrived.wait()
    await at_rest(app)


async def steps_of_an_instance(kind: str, count: int) -> int:
    """Return the steps in which three of that many operations get their outcomes, one after the other."""
    global START
    received.clear()
    async with App(":memory:", idle_timeout=10**6) as app:
        START = trio.current_time()
        await app.start(crowd, count, kind)
        await at_rest(app)
        await receive_one(app, kind, 0)  # what has to be done once is done
        with counted() as steps:
            for number in (1, 2, 3):
                await receive_one(app, kind, number)
        assert len(received) == 4
        probe(app).stop()
    return steps.count


@pytest.mark.parametrize("kind", CAUSES)
async def test_an_outcome_costs_the_same_however_many_operations_wait(kind: str) -> None:
    few, many = [await steps_of_an_instance(kind, count) for count in (FEW, MANY)]
    assert many <= SAME * few, f"{few} steps beside {FEW}, {many} beside {MANY}"


def count_waits(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(waits)).scalar_one()


async def test_waits_for_the_same_are_one_row_until_the_last_has_ended() -> None:
    async with App(":memory:", idle_timeout=10**6) as app:
        handle = await app.start(crowd, 5, "same")

        for left in (5, 4, 3, 2, 1):
            await at_rest(app)
            assert await probe(app).read(count_waits) == 1
            await send(app, "go", left)
        await handle.result()
        assert await probe(app).read(count_waits) == 0


@pytest.mark.parametrize("kind", ["subjects", "same"])
async def test_a_crowd_that_was_passive_gets_all_that_came_meanwhile(kind: str) -> None:
    received.clear()
    async with App(":memory:", idle_timeout=1) as app:
        handle = await app.start(crowd, 300, kind)
        await trio.sleep(10)
        assert not probe(app).residents
        for number in range(300):
            await send(app, "go", number)
        await handle.result()
    assert sorted(received) == [*range(300)]


# -- rollbacks ---------------------------------------------------------------------------------------------------------


@compensation(name="crowd_put_back")
async def put_back(number: int) -> None: ...


@activity(name="crowd_take", compensation=put_back)
async def take(number: int) -> None: ...


@activity(name="crowd_break_down")
async def break_down() -> None:
    raise TerminalError("over")


@workflow(name="crowd_long")
async def long(ctx: WorkflowContext, count: int) -> None:
    for number in range(count):
        await take(number)
    await break_down()


async def test_a_compensation_costs_the_same_however_many_there_are() -> None:
    async def steps_each(count: int) -> float:
        async with App(":memory:") as app:
            with counted() as steps, pytest.raises(WorkflowFailedError):
                await (await app.start(long, count)).result()
            return steps.count / count

    assert await steps_each(200) <= SAME * await steps_each(20)
