"""Cost of an activity beside a bare write: ``-m tests.benchmarks.latency PLACE ACTIVITIES ROUNDS`` prints JSON.

One workflow runs trivial activities one after the other on one worker. Each is on disk before the next begins. The bare
write is one INSERT and COMMIT by the same driver.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, activity, workflow

from . import fresh, table
from .bare_insert import seconds_each
from .databases import NAMES, open_new

BOUND = 2.5
"""Highest acceptable ratio of an activity to a bare write."""

_WARM_UP = 20
"""Activities before the first that counts."""


@activity
async def increment(number: int) -> int:
    return number + 1


@workflow
async def count_up(ctx: WorkflowContext, activities: int) -> int:
    number = 0
    for _ in range(activities):
        number = await increment(number)
    return number


def measure(kind: str, place: str, activities: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure both in turn in one process, and compare the medians."""
    found = fresh.ask("latency", place, activities, rounds)
    ours, bare = statistics.median(found["activity_ms"]), statistics.median(found["bare_ms"])
    say(f"{NAMES[kind]}: {ours:.2f} ms for an activity, {bare:.2f} ms for a bare write")
    return {"activity_ms": ours, "bare_ms": bare, "ratio": ours / bare, "rounds": found}


def show(results: dict[str, dict[str, Any]]) -> str:
    """Return the result as a table."""
    rows = [
        [NAMES[kind], f"{r['activity_ms']:.2f}", f"{r['bare_ms']:.2f}", f"{r['ratio']:.2f}", f"{BOUND:.2f}"]
        for kind, r in results.items()
    ]
    heads = ("database", "activity ms", "INSERT and COMMIT ms", "ratio", "bound")
    return table.render("Latency: one activity after the other, beside a bare write by the same driver", heads, rows)


def _by_turns(place: str, activities: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each round."""
    found: dict[str, list[float]] = {"activity_ms": [], "bare_ms": []}
    with open_new(place) as database:
        for number in range(rounds):
            found["activity_ms"].append(trio.run(_activity_seconds, database, activities) * 1000)
            bare = asyncio.run(seconds_each(database, f"bare-{number}", activities))
            found["bare_ms"].append(bare * 1000)
    return found


async def _activity_seconds(database: str, activities: int) -> float:
    async with App(database) as app:
        await (await app.start(count_up, _WARM_UP)).result()
        begun = time.perf_counter()
        result = await (await app.start(count_up, activities)).result()
        elapsed = time.perf_counter() - begun
    assert result == activities, result
    return elapsed / activities


if __name__ == "__main__":
    fresh.answer(lambda: _by_turns(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
