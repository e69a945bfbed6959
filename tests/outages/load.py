"""What runs while the database goes away and comes back, and the question whether anybody could tell afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import sqlalchemy as sa
import trio
from attrs import define, field

from trio_romancy import (
    App,
    EntryKind,
    Status,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowHandle,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy.testing import broken_guarantees

from ..support.servers import execute

PAUSE = 0.3
"""Seconds that each instance sleeps, so that the load lasts and the journals are replayed by timers too."""

SLACK = 30.0
"""Seconds that a loaded machine may take more to go on. Bounds of tests find hangs; the benchmarks measure speed."""

effects = sa.Table(
    "effects",
    sa.MetaData(),
    sa.Column("number", sa.Integer),
    sa.Column("what", sa.String(20)),
    sa.Column("n", sa.Integer),
)
"""Without a unique key: what is done twice is there twice."""

TABLE = "CREATE TABLE effects (number INTEGER, what VARCHAR(20), n INTEGER)"

begun: Counter[tuple[int, str]] = Counter()
"""How often each activity without a session was begun."""


async def write(number: int, what: str) -> None:
    await current_activity().session.execute(sa.insert(effects).values(number=number, what=what, n=1))


@compensation(name="load_release")
async def release(number: int) -> None:
    await write(number, "release")


@activity(name="load_reserve", compensation=release)
async def reserve(number: int) -> int:
    session = current_activity().session
    await write(number, "reserve")
    async with session.begin_nested():
        await session.execute(sa.update(effects).where(effects.c.number == number).values(n=effects.c.n + 1))
    return number


@activity(name="load_tell")
async def tell(number: int) -> str:
    begun[number, "tell"] += 1
    await trio.sleep(0.005)
    return f"told {number}"


@activity(name="load_ship")
async def ship(number: int) -> int:
    await write(number, "ship")
    largest = sa.select(sa.func.max(effects.c.n)).where(effects.c.number == number)
    return int(await current_activity().session.scalar(largest))


@activity(name="load_refuse")
async def refuse(number: int) -> None:
    begun[number, "refuse"] += 1
    raise TerminalError("as asked")


@workflow(name="load_order")
async def order(ctx: WorkflowContext, number: int) -> list[str]:
    """Every third one fails at its end and is rolled back."""
    await reserve(number)
    told = await tell(number)
    await ctx.sleep(PAUSE)
    shipped = await ship(number)
    if number % 3 == 0:
        await refuse(number)
    return [told, str(shipped)]


@define(eq=False)
class Load:
    """Keeps a number of instances running, each followed by another, until told to stop."""

    app: App
    url: str
    """Of the database, not through any proxy."""
    handles: list[WorkflowHandle[list[str]]] = field(factory=list)
    results: dict[int, list[str] | None] = field(factory=dict)
    is_stopping: bool = False

    async def run_one_after_the_other(self) -> None:
        while not self.is_stopping:
            number = len(self.handles)
            self.handles.append(None)  # type: ignore[arg-type]
            handle = self.handles[number] = await self.app.start(order, number)
            self.results[number] = None
            with suppress(WorkflowFailedError):
                self.results[number] = await handle.result()

    async def goes_on(self) -> float:
        """Seconds until another activity has completed, as the database shows it."""
        since = trio.current_time()
        before = await trio.to_thread.run_sync(self._completed)
        while await trio.to_thread.run_sync(self._completed) == before:  # noqa: ASYNC110
            await trio.sleep(0.05)  # each look is a new connection
        return trio.current_time() - since

    def _completed(self) -> int:
        counted = f"SELECT count(*) FROM romancy_history WHERE kind = '{EntryKind.ACTIVITY_COMPLETED}'"
        return int(execute(self.url, counted)[0][0])

    async def check(self) -> None:
        """Nothing failed, nothing was lost, nothing was done twice."""
        problems: list[str] = []

        async def look_at(number: int, handle: WorkflowHandle[list[str]]) -> None:
            instance = await self.app.get_instance(handle.instance_id)
            assert instance is not None
            history = await self.app.history(handle.instance_id)
            problems.extend(broken_guarantees(instance, history))
            problems.extend(
                f"{number}: {e.operation_id} was held to have failed: {e.payload}"
                for e in history
                if e.kind is EntryKind.ATTEMPT_FAILED
            )
            fails = number % 3 == 0
            if instance.status is not (Status.FAILED if fails else Status.COMPLETED):
                problems.append(f"{number} is {instance.status}: {instance.error}")
            if self.results[number] != (None if fails else [f"told {number}", "2"]):
                problems.append(f"{number} returned {self.results[number]}")
            if not begun[number, "tell"] or bool(begun[number, "refuse"]) != fails:
                problems.append(f"{number} has done too little: {begun}")

        async with trio.open_nursery() as nursery:
            for number, handle in enumerate(self.handles):
                nursery.start_soon(look_at, number, handle)
        found = await trio.to_thread.run_sync(execute, self.url, "SELECT number, what, n FROM effects")
        expected = [
            (number, what, 2 if what == "reserve" else 1)
            for number in range(len(self.handles))
            for what in ("reserve", "ship", *(["release"] if number % 3 == 0 else []))
        ]
        difference = Counter(found) - Counter(expected), Counter(expected) - Counter(found)
        if any(difference):
            problems.append(f"the effects are not as they should be: {difference}")
        if problems:
            raise AssertionError("\n".join(problems))


@asynccontextmanager
async def open_load(
    app: App, url: str, *, at_once: int = 30, disturb: Callable[[], None] | None = None
) -> AsyncIterator[Load]:
    """Load on an app while the block runs. Then it may finish, and is looked at."""
    begun.clear()
    await trio.to_thread.run_sync(execute, url, TABLE, "CREATE INDEX by_number ON effects (number)")
    load = Load(app, url)
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(load.run_one_after_the_other)
        await load.goes_on()
        yield load
        load.is_stopping = True
    await load.check()
