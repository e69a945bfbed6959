"""What runs under chaos. Every workflow returns what :mod:`.load` can say beforehand.

What is booked goes through the session into tables of the suite's own, so it must have happened exactly once, whatever
died when. All else may happen more often, and is told by the journal alone.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
import trio

from trio_romancy import (
    ActivityError,
    EventTimeoutError,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    activity,
    compensation,
    current_activity,
    workflow,
)

from .notes import attempt_noted

ACCOUNTS = 12
BALANCE = 1_000
"""What is on each of them at first."""

EVENT = "chaos.event"
"""The type of events whose subject tells for whom they are."""

TOLD = "chaos.told"
"""The type of events for the broker."""

BROKEN_ID = "cannot be read"
"""The id of events for the broker that an outsider has damaged."""

STOP = "stop"
"""The job after which a receiver goes home."""

QUICK = RetryPolicy.fixed(4, 0.1)

PATIENT = RetryPolicy.fixed(1_000, 0.1)
"""For activities with a session: a statement of theirs that is killed, or waits in vain, fails an attempt."""

tables = sa.MetaData()
accounts = sa.Table(
    "chaos_accounts",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("balance", sa.Integer, nullable=False),
)
ledger = sa.Table(
    "chaos_ledger",
    tables,
    sa.Column("instance_id", sa.String(100), nullable=False),
    sa.Column("operation_id", sa.String(100), nullable=False),
    sa.Column("account", sa.Integer, nullable=False),
    sa.Column("amount", sa.Integer, nullable=False),
)
"""Without a key: what is done twice is there twice."""


async def move(giver: int, taker: int, amount: int) -> None:
    """Move money, and write down who has done it. Two that cross may meet in a deadlock, which is part of it."""
    context = current_activity()
    for account, change in ((giver, -amount), (taker, amount)):
        of = accounts.c.id == account
        await context.session.execute(sa.update(accounts).where(of).values(balance=accounts.c.balance + change))
        row = {"instance_id": context.instance_id, "operation_id": context.activity_id}
        await context.session.execute(sa.insert(ledger).values(**row, account=account, amount=change))


@activity(name="chaos_book", retry=PATIENT)
async def book(giver: int, taker: int, amount: int) -> int:
    """Its ids hold the word "book", and no others do: see :func:`.checker.is_booking`."""
    await move(giver, taker, amount)
    return amount


@compensation(name="chaos_book_back", retry=PATIENT)
async def book_back(giver: int, taker: int, amount: int) -> None:
    await move(taker, giver, amount)


@activity(name="chaos_book_for_now", retry=PATIENT, compensation=book_back)
async def book_for_now(giver: int, taker: int, amount: int) -> int:
    await move(giver, taker, amount)
    return amount


@compensation(name="chaos_forget", retry=QUICK)
async def forget(number: int) -> None:
    with attempt_noted():
        await trio.sleep(0.01)
        if current_activity().attempt <= number % 3:
            raise ConnectionError("not yet")


@activity(name="chaos_note", retry=QUICK, compensation=forget)
async def note(number: int) -> int:
    """Fails up to twice, and so does what undoes it."""
    with attempt_noted():
        await trio.sleep(0.01)
        if current_activity().attempt <= number % 3:
            raise ConnectionError("not yet")
    return number


@activity(name="chaos_work", retry=QUICK)
async def work(number: int) -> int:
    with attempt_noted():
        await trio.sleep(0.02)
    return number


@activity(name="chaos_work_in_thread", retry=QUICK)
def work_in_thread(number: int) -> int:
    with attempt_noted():
        return number


@activity(name="chaos_refuse", retry=RetryPolicy.fixed(2, 0.05))
async def refuse(terminally: bool) -> None:
    """Fails for good, at once or on its second attempt."""
    with attempt_noted():
        raise TerminalError("as asked") if terminally else ConnectionError("as asked")


@activity(name="chaos_announce", retry=QUICK)
async def announce(channel: str, job: str) -> None:
    """Sends its job exactly once, though it fails once."""
    with attempt_noted():
        current_activity().publish(channel, job)
        if current_activity().attempt == 1:
            raise ConnectionError("what this attempt has sent is not sent")


def event_id(instance_id: str, operation_id: str) -> str:
    """The id of the event that an activity sends to the broker."""
    return f"{instance_id} {operation_id}"


def tell_broker() -> None:
    context = current_activity()
    context.send_event(TOLD, None, id=event_id(context.instance_id, context.activity_id))


@activity(name="chaos_tell", retry=QUICK)
async def tell(number: int) -> int:
    """Sends its event exactly once, though it may fail at first."""
    with attempt_noted():
        tell_broker()
        if current_activity().attempt <= number % 2:
            raise ConnectionError("what this attempt has sent is not sent")
    return number


@activity(name="chaos_book_and_tell", retry=PATIENT)
async def book_and_tell(giver: int, taker: int, amount: int) -> int:
    tell_broker()
    await move(giver, taker, amount)
    return amount


@workflow(name="chaos_saga")
async def saga(ctx: WorkflowContext, number: int, steps: int, end: str) -> int:
    """Steps that can be undone. ``end``: ``"well"``, ``"caught"``, ``"terminal"`` or ``"exhausted"``."""
    total = 0
    for step in range(steps):
        if step % 2:
            total += await note(number + step)
        else:
            total += await book_for_now((number + step) % ACCOUNTS, (number + step + 5) % ACCOUNTS, 1 + step)
        if step == 1:
            await ctx.sleep(0.2)
    if end != "well":
        try:
            await refuse(end == "terminal")
        except ActivityError:
            if end != "caught":
                raise
    return total


@workflow(name="chaos_parent")
async def parent(ctx: WorkflowContext, number: int, width: int, end: str) -> int:
    """Sagas as children, at the same time. ``end``: ``"well"``, or ``"terminal"``, which rolls them back."""
    totals = [0] * width

    async def one(child: int) -> None:
        with ctx.branch(f"child {child}"):
            totals[child] = await ctx.run(saga, number + child, 2, "caught" if child % 2 else "well")

    total = await book_for_now(number % ACCOUNTS, (number + 7) % ACCOUNTS, 2)
    async with trio.open_nursery() as nursery:
        for child in range(width):
            nursery.start_soon(one, child)
    if end == "terminal":
        await refuse(True)
    return total + sum(totals)


@workflow(name="chaos_waiter")
async def waiter(ctx: WorkflowContext, type: str, subject: str | None, count: int, pause: float) -> list[int]:
    """Waits for events, and may come late for all but the first."""
    got = []
    for _ in range(count):
        event = await ctx.wait_event(type, subject, data_type=int)
        got.append(event.data)
        await ctx.sleep(pause)
    return got


@workflow(name="chaos_sleeper")
async def sleeper(ctx: WorkflowContext, durations: list[float]) -> str:
    """Sleeps, and waits for what never comes."""
    for duration in durations:
        await ctx.sleep(duration)
    with ctx.move_on_after(timedelta(seconds=0.3)) as scope:
        await ctx.wait_event(EVENT, f"never for {ctx.instance_id}")
    try:
        await ctx.wait_event(EVENT, f"never for {ctx.instance_id}", timeout=0.1)
    except EventTimeoutError:
        return "woken" if scope.cancelled_caught else "not moved on"
    return "an event that nobody has sent"


@workflow(name="chaos_receiver")
async def receiver(ctx: WorkflowContext, channel: str) -> list[str]:
    """Takes jobs off a channel until it is told to stop."""
    await ctx.subscribe(channel, "competing")
    done = []
    while (message := await ctx.receive(channel, data_type=str)).data != STOP:
        done.append(message.data)
        await work(len(done))
    return done


@workflow(name="chaos_sender")
async def sender(ctx: WorkflowContext, channel: str, jobs: list[str]) -> int:
    """Publishes jobs, by turns as steps of its own and from an activity."""
    for number, job in enumerate(jobs):
        if number % 2:
            await announce(channel, job)
        else:
            await ctx.publish(channel, job)
    return len(jobs)


@workflow(name="chaos_teller")
async def teller(ctx: WorkflowContext, number: int, times: int) -> int:
    """Tells the broker from activities with and without a session, beside each other and one after the other."""
    for time in range(times):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell.options(id=f"tell {time}"), time)
            giver, taker = (number + time) % ACCOUNTS, (number + time + 2) % ACCOUNTS
            nursery.start_soon(book_and_tell.options(id=f"book and tell {time}"), giver, taker, 1)
    return times


@workflow(name="chaos_transfer")
async def transfer(ctx: WorkflowContext, moves: list[list[int]], pause: float) -> int:
    total = 0
    for giver, taker, amount in moves:
        total += await book(giver, taker, amount)
        await ctx.sleep(pause)
    return total


@workflow(name="chaos_family")
async def family(ctx: WorkflowContext, number: int, width: int) -> list[int]:
    """Concurrent tasks, by turns with a branch and with explicit ids."""
    results = [0] * width

    async def in_branch(child: int) -> None:
        with ctx.branch(f"child {child}"):
            worked = await work(child)
            await ctx.sleep(0.05 * child)
            results[child] = worked + await book((number + child) % ACCOUNTS, (number + child + 1) % ACCOUNTS, 1)

    async def with_ids(child: int) -> None:
        worked = await work_in_thread.options(id=f"work {child}")(child)
        booking = book_for_now.options(id=f"book {child}")
        results[child] = worked + await booking((number + child) % ACCOUNTS, (number + child + 3) % ACCOUNTS, 1)

    async with trio.open_nursery() as nursery:
        for child in range(width):
            nursery.start_soon(with_ids if child % 2 else in_branch, child)
    return results
