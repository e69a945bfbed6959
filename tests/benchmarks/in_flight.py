"""Cost of an operation beside others of one instance: ``-m tests.benchmarks.in_flight KIND PLACE COUNT`` prints JSON.

One instance begins ``COUNT`` operations in the tasks of one nursery, and each gets its outcome. Then the instance
leaves memory, and is replayed. The costs are CPU time of the process. For events, the latency of one event is measured
first: from its sending until the next line of the workflow, beside all the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, activity, workflow

from . import fresh, table
from .crowd import come_to_rest
from .databases import NAMES
from .on_disk import open_durable

KINDS = ("activities", "map", "sleeps", "events", "same events", "timeouts", "publishes", "children")
COUNTS = (500, 2_000, 8_000)
CROWD = 20_000
"""Number of waits beside which the latency of an event is measured."""
BOUND = 50.0
"""Highest acceptable latency there, in milliseconds."""

_HEADS = ("database", "operations", "count", "us of CPU each", "us each on replay", "ms for an event")
_SECONDS = 2.0
"""Time over which timers are due."""

_told = 0
_changed = trio.Event()


@activity(name="bench_noop")
async def noop(number: int) -> int:
    return number


@workflow(name="bench_child")
async def child(ctx: WorkflowContext, number: int) -> int:
    return number


@workflow(name="bench_in_flight")
async def many(ctx: WorkflowContext, kind: str, count: int, due: float) -> None:
    async def one(number: int) -> None:
        global _told, _changed
        with ctx.branch(str(number)):
            if kind == "activities":
                await noop(number)
            elif kind == "sleeps":
                await ctx.sleep(_SECONDS * number / count)
            elif kind == "events":
                await ctx.wait_event("go", subject=str(number))
            elif kind == "same events":
                await ctx.wait_event("go")
            elif kind == "timeouts":
                with ctx.move_on_after(_SECONDS * number / count):
                    await ctx.wait_event("never", subject=str(number))
            elif kind == "publishes":
                await ctx.publish("news", number)
            elif kind == "children":
                await ctx.run(child, number)
        _told += 1
        _changed.set()
        _changed = trio.Event()

    if kind == "map":
        await ctx.map(noop, range(count), at_once=10)
    else:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
    await ctx.wait_event("end")


def measure(kind: str, place: str, counts: Sequence[int], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure each kind of operation beside so many others."""
    results = []
    for what in KINDS:
        for count in [*counts, *([CROWD] if what == "events" and max(counts) == max(COUNTS) else [])]:
            found = fresh.ask("in_flight", what, place, count)
            results.append({"operations": what, "count": count, **found})
            say(
                f"{NAMES[kind]}, {count:,} {what}: {found['run_us']:.0f} us each, {found['replay_us']:.0f} us on replay"
            )
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows += [[], *(_row(kind, each) for each in found)]
    title = f"Operations of one instance at the same time (the bound for an event is {BOUND:.0f} ms)"
    return table.render(title, _HEADS, rows[1:])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    latency = "" if each["event_ms"] is None else f"{each['event_ms']:,.1f}"
    costs = [f"{each[key]:,.0f}" for key in ("run_us", "replay_us")]
    return [NAMES[kind], each["operations"], f"{each['count']:,}", *costs, latency]


async def _run(what: str, database: str, count: int) -> dict[str, Any]:
    latency = None
    async with App(database, idle_timeout=3600) as app:
        used = time.process_time()
        handle = await app.start(many, what, count, time.time())
        if what in ("events", "same events"):
            await come_to_rest(app, 1, 0.01)
            latency = await _latency(app)
            left = (str(number) for number in range(1, count))

            async def sender() -> None:
                for subject in left:
                    await app.send_event("go", None, subject=subject)

            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(sender)
        while what != "map" and _told < count:  # noqa: ASYNC110
            await trio.sleep(0.02)
        while True:
            await come_to_rest(app, 1, 0.02)
            if what != "map" or len(await app.history(handle.instance_id)) >= count:
                break
        run = time.process_time() - used
    async with App(database) as app:
        used = time.process_time()
        await app.send_event("end", None)
        await app.handle(handle.instance_id).result()
        replay = time.process_time() - used
    return {"run_us": run / count * 1e6, "replay_us": replay / count * 1e6, "event_ms": latency}


async def _latency(app: App) -> float:
    """Return the milliseconds from the sending of an event until its wait has ended."""
    told = _changed
    begun = time.perf_counter()
    await app.send_event("go", None, subject="0")
    await told.wait()
    return (time.perf_counter() - begun) * 1000


def _measure(what: str, place: str, count: int) -> dict[str, Any]:
    with open_durable(place, force=False) as database:
        result: dict[str, Any] = trio.run(_run, what, database, count)
    return result


if __name__ == "__main__":
    what, place, count = sys.argv[1:]
    fresh.answer(lambda: _measure(what, place, int(count)))
