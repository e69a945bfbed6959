"""Cost of very many passive instances: ``-m tests.benchmarks.passive fill PLACE WHAT COUNT`` prints JSON.

One app starts them. Then another app, in a process of its own, opens their database. Measured are its memory, compared
with an app on an empty database, and the time that it takes to open.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, workflow

from . import fresh, table
from .crowd import come_to_rest, start_all
from .databases import FILES, NAMES, open_new
from .memory import resident_bytes
from .ours_mail import arrivals, receiver

MEMORY_BOUND = 150.0
"""Most memory that they may add to an idle app, in megabytes (10^6 bytes)."""
START_BOUND = 2.0
"""Longest time for an app to open, in seconds."""

WAITING = ("for events", "for timers")
"""What the instances wait for."""

_STARTERS = 200
"""Number of tasks that start instances."""
_REST = 3.0
"""Seconds before the memory of an app is measured, in which it polls for work."""
_EVENTS = 20
"""Number of instances that are woken to measure the wake-up among so many."""
_HEADS = ("database", "waiting", "instances", "MB", "MB where made", "open s", "first result s", "wake ms", "made s")


@workflow
async def sleeper(ctx: WorkflowContext, key: str) -> None:
    await ctx.sleep(10**6)


@workflow
async def nothing(ctx: WorkflowContext) -> None:
    pass


def measure(kind: str, place: str, count: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure an app on a database of instances that wait for events, and of instances that wait for timers."""
    results = []
    for what in WAITING:
        found = fresh.ask("passive", "fill", place, what, count)
        results.append({"waiting": what, "instances": count, **found})
        say(
            f"{NAMES[kind]}, {count:,} instances waiting {what}: {found['grown_mb']:.1f} MB, "
            f"{found['open_seconds']:.2f} s to open"
        )
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows += [[], *(_row(kind, each) for each in found)]
    title = f"Passive: memory beside an idle app (bound {MEMORY_BOUND:.0f} MB), and opening (bound {START_BOUND:.0f} s)"
    return table.render(title, _HEADS, rows[1:])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    wake = "-" if each["wake_ms"] is None else f"{each['wake_ms']:,.1f}"
    memory = (f"{each['grown_mb']:,.1f}", f"{each['maker_mb']:,.1f}")
    start = (f"{each['open_seconds']:.2f}", f"{each['result_seconds']:.2f}")
    made = f"{each['made_seconds']:.0f}"
    return [NAMES[kind], each["waiting"], f"{each['instances']:,}", *memory, *start, wake, made]


def _fill(place: str, what: str, count: int) -> dict[str, Any]:
    with open_new(place) as empty, open_new(place) as database:
        if place == FILES:
            empty, database = str(Path(empty).resolve()), str(Path(database).resolve())
        fresh.ask("passive", "open", empty, what, 0)  # creates the tables
        idle = fresh.ask("passive", "open", empty, what, 0)
        made = trio.run(_make, database, what, count)
        found = fresh.ask("passive", "open", database, what, count)
    return {
        "grown_mb": (found["bytes"] - idle["bytes"]) / 1e6,
        "idle_mb": idle["bytes"] / 1e6,
        "open_seconds": found["open_seconds"],
        "open_seconds_idle": idle["open_seconds"],
        "result_seconds": found["result_seconds"],
        "wake_ms": found["wake_ms"],
        **made,
    }


async def _make(database: str, what: str, count: int) -> dict[str, float]:
    """Start all instances, and wait until none is in memory."""
    async with App(database, idle_timeout=0, max_running=10 * _STARTERS) as app:
        await (await app.start(nothing)).result()
        before = resident_bytes()
        begun = time.perf_counter()

        async def start(number: int) -> None:
            key = f"instance-{number}"
            if what == "for events":
                await app.start(receiver, key, 1)
            else:
                await app.start(sleeper, key)

        await start_all(start, range(count), _STARTERS)
        await come_to_rest(app, 0, 0.05)
        made_seconds = time.perf_counter() - begun
        return {"made_seconds": made_seconds, "maker_mb": (resident_bytes() - before) / 1e6}


async def _open(database: str, what: str, count: int) -> dict[str, Any]:
    begun = time.perf_counter()
    async with App(database, idle_timeout=0) as app:
        opened = time.perf_counter()
        await (await app.start(nothing)).result()
        first = time.perf_counter()
        await trio.sleep(_REST)
        memory = resident_bytes()
        worker = app.statistics().worker
        assert worker is not None
        assert worker.supervisor.resident == 0
        wake = await _wake_some(app, count) if what == "for events" and count else None
    return {
        "open_seconds": opened - begun,
        "result_seconds": first - opened,
        "bytes": memory,
        "wake_ms": wake,
    }


async def _wake_some(app: App, count: int) -> float:
    """Return the median of the milliseconds from send to the next line."""
    taken = []
    for number in range(0, count, max(count // _EVENTS, 1)):
        key = f"instance-{number}"
        woken = trio.Event()
        arrivals.on_note = woken.set
        begun = time.perf_counter()
        await app.send_event("sent", number, subject=key)
        await woken.wait()
        arrived = arrivals.at(key, number)
        assert arrived is not None
        taken.append((arrived - begun) * 1000)
    return statistics.median(taken)


if __name__ == "__main__":
    do, place, what, count = sys.argv[1:]
    if do == "fill":
        fresh.answer(lambda: _fill(place, what, int(count)))
    else:
        fresh.answer(lambda: trio.run(_open, place, what, int(count)))
