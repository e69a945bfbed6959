"""Pause after the death of a worker: ``-m tests.benchmarks.takeover measure PLACE SIGHT COUNT LEASE`` prints JSON.

One process runs all instances, each a chain of trivial activities and short sleeps, and is killed by SIGKILL. Another
worker is idle until then. An instance has gone on at the first entry that was recorded after the kill.

A worker sees that a process on its own machine has ended. On another machine it must wait until the lease expires.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import trio
import trio_asyncio
from sqlalchemy import Connection, func, select

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import workers
from trio_romancy._storage.sql.tables import history

from . import fresh, table
from .crowd import start_all
from .databases import NAMES
from .on_disk import open_durable
from .worker_process import next_order, open_worker, say, work

MARGIN = 2.0
"""Seconds after the lease within which all must go on."""

SIGHTS = ("same", "other")
"""Whether the two workers are on the same machine, or behave as on different machines."""

_SLEEP = 1.0
"""Seconds between two activities of an instance."""
_STEPS = 2
"""Number of activities after which an instance has made progress in a process."""
_HEADS = ("database", "machine", "instances", "lease s", "first s", "half s", "all s", "bound")

_steps: Counter[int] = Counter()
_on_step: list[Callable[[], None]] = []


@activity
async def link(number: int) -> None:
    _steps[number] += 1
    if _steps[number] == _STEPS:
        for tell in _on_step:
            tell()


@workflow
async def chain(ctx: WorkflowContext, number: int) -> None:
    while True:
        await link(number)
        await ctx.sleep(_SLEEP)


def measure(kind: str, place: str, count: int, lease: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure a death that the other worker sees, and one that it does not see.

    Args:
      count: number of instances.
      lease: seconds.
    """
    results = []
    for sight in SIGHTS:
        found = fresh.ask("takeover", "measure", place, sight, count, lease)
        results.append({"sight": sight, "instances": count, "lease": lease, "bound": lease + MARGIN, **found})
        say(f"{NAMES[kind]}, {count:,} instances, {sight} machine: {found['all_s']:.1f} s until all went on")
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows += [[], *(_row(kind, each) for each in found)]
    title = "Takeover: from the kill of a worker until its instances went on elsewhere (the bound is for all)"
    return table.render(title, _HEADS, rows[1:])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    times = [f"{each[key]:.2f}" for key in ("first_s", "half_s", "all_s", "bound")]
    return [NAMES[kind], each["sight"], f"{each['instances']:,}", f"{each['lease']:g}", *times]


async def _take_over(database: str, sight: str, count: int, lease: float) -> dict[str, Any]:
    async with (
        open_worker("takeover", "work", database, sight, count, lease) as victim,
        open_worker("takeover", "work", database, sight, count, lease) as survivor,
    ):
        assert await victim.hear() == await survivor.hear() == "open"
        assert await victim.ask("start") == "all go on"
        before = time.time()
        victim.kill()
        after = time.time()
        assert await survivor.hear() == "all go on"
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        went_on = await opened.read(_first_entries, round(after * 1_000_000))
    taken = sorted(at / 1_000_000 - before for at in went_on)
    assert len(taken) == count, f"only {len(taken)} of {count} went on"
    return {"first_s": taken[0], "half_s": taken[count // 2], "all_s": taken[-1]}


def _first_entries(connection: Connection, after: int) -> list[int]:
    """Return when each instance recorded its first entry after that time."""
    first = select(func.min(history.c.recorded_at)).where(history.c.recorded_at > after)
    return list(connection.execute(first.group_by(history.c.instance_id)).scalars())


async def _work(database: str, sight: str, count: int, lease: float) -> None:
    if sight == "other":
        workers.is_dead = lambda process: False
    going_on = 0

    def note() -> None:
        nonlocal going_on
        going_on += 1
        if going_on == count:
            say("all go on")

    _on_step.append(note)
    async with App(database, lease=lease, max_running=2 * count, max_resident=2 * count) as app:
        say("open")
        while await next_order() is not None:
            await start_all(lambda number: app.start(chain, number), range(count))


def _measure(place: str, sight: str, count: int, lease: float) -> dict[str, Any]:
    with open_durable(place, force=False) as database:
        result: dict[str, Any] = trio.run(_take_over, database, sight, count, lease)
    return result


if __name__ == "__main__":
    do, place, sight, count, lease = sys.argv[1:]
    if do == "work":
        work(_work, place, sight, int(count), float(lease))
    else:
        fresh.answer(lambda: _measure(place, sight, int(count), float(lease)))
