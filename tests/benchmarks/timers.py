"""Lateness of timers: ``-m tests.benchmarks.timers resident|passive PLACE COUNT SPREAD`` prints JSON.

``COUNT`` instances sleep, each until a time of its own, all within ``SPREAD`` seconds. The lateness runs from that time
until the next line of the workflow.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, workflow

from . import fresh, table
from .crowd import STARTERS, come_to_rest, start_all
from .databases import NAMES
from .on_disk import open_durable

BOUND = 100.0
"""Highest acceptable lateness of 99 % of the timers, in milliseconds."""

_REHEARSAL = 10
"""Share of the instances that is started before, as 1 / n, to measure how fast they start. They never wake."""
_LONG = 10**6
_HEADS = ("database", "state", "timers", "per second", "p50 ms late", "p99 ms late", "most", "bound", "CPU ms each")

_late: list[float] = []


@workflow
async def alarm(ctx: WorkflowContext, due: float) -> None:
    await ctx.sleep_until(datetime.fromtimestamp(due, UTC))
    _late.append(time.time() - due)


def measure(kind: str, place: str, count: int, spread: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure instances that sleep in memory, and passive instances.

    Args:
      spread: seconds over which the timers are due.
    """
    results = []
    for state in ("resident", "passive"):
        found = fresh.ask("timers", state, place, count, spread)
        results.append({"state": state, "timers": count, "spread": spread, **found})
        say(f"{NAMES[kind]}, {count:,} {state} timers: {found['p99_ms']:.1f} ms late (p99)")
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows += [[], *(_row(kind, each) for each in found)]
    notes = [
        f"{NAMES[kind]}, {each['state']}: {each['unready']} instances did not sleep yet when the first was due"
        for kind, found in results.items()
        for each in found
        if each["unready"]
    ]
    return "\n".join([table.render("Timers: how late (the bound is for p99)", _HEADS, rows[1:]), *notes])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    times = [f"{each[key]:,.1f}" for key in ("p50_ms", "p99_ms", "max_ms")]
    rate = f"{each['timers'] / each['spread']:,.0f}"
    cpu = f"{each['cpu_ms']:.2f}"  # of the process: a busy machine makes timers late, too
    return [NAMES[kind], each["state"], f"{each['timers']:,}", rate, *times, f"{BOUND:.0f}", cpu]


async def _sleep(state: str, database: str, count: int, spread: float) -> dict[str, Any]:
    is_resident = state == "resident"
    rehearsal = max(count // _REHEARSAL, STARTERS)
    most = 2 * (count + rehearsal)
    async with App(database, idle_timeout=3600 if is_resident else 0, max_running=most, max_resident=most) as app:

        async def start(due: float) -> None:
            await app.start(alarm, due)

        begun = time.time()
        await start_all(start, [begun + _LONG] * rehearsal)
        await come_to_rest(app, rehearsal if is_resident else 0, 0.05)
        first = time.time() + 2 * (time.time() - begun) * count / rehearsal + 1
        chance = random.Random(1)
        await start_all(start, [first + chance.uniform(0, spread) for _ in range(count)])
        kept = rehearsal + count if is_resident else 0
        unready = 0
        with trio.move_on_after(max(first - time.time(), 0)) as scope:
            await come_to_rest(app, kept, 0.05)
        if scope.cancelled_caught:
            worker = app.statistics().worker
            assert worker is not None
            supervisor = worker.supervisor
            unready = max(kept - supervisor.idle if is_resident else supervisor.resident, 1)
        used = time.process_time()
        while len(_late) < count:  # noqa: ASYNC110
            await trio.sleep(0.1)
        used = time.process_time() - used
    late = sorted(each * 1000 for each in _late)
    assert late[0] >= 0, "early"
    return {
        "p50_ms": late[count // 2],
        "p99_ms": late[count * 99 // 100],
        "max_ms": late[-1],
        "cpu_ms": used * 1000 / count,
        "unready": unready,
    }


def _lateness(state: str, place: str, count: int, spread: float) -> dict[str, Any]:
    with open_durable(place, force=False) as database:
        result: dict[str, Any] = trio.run(_sleep, state, database, count, spread)
    return result


if __name__ == "__main__":
    state, place, count, spread = sys.argv[1:]
    fresh.answer(lambda: _lateness(state, place, int(count), float(spread)))
