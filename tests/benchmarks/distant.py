"""Latency from a client in another process: ``-m tests.benchmarks.distant measure PLACE WHAT SAMPLES PAUSE``.

The time runs from just before ``send_event`` to the workflow's next line, or from just before ``start`` to its first
line. One at a time, each after a pause of random length, so that no sample is in step with a worker that polls.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, workflow

from . import fresh, table
from .bare_insert import seconds_each
from .crowd import come_to_rest
from .databases import NAMES
from .on_disk import open_durable
from .worker_process import WorkerProcess, next_order, open_worker, say, work

BOUNDS = {"postgresql": 20.0, "mariadb": 150.0}
"""Highest acceptable median, in milliseconds."""

WHATS = ("resident", "passive", "start")
"""An event for an instance in the worker's memory, or in the database only; or a new instance."""

_WARM_UP = 5
"""Samples before the first that counts."""
_BARE_WRITES = 100
_HEADS = ("database", "what", "samples", "p50 ms", "p99 ms", "bound", "client's call ms", "INSERT and COMMIT ms")


@workflow
async def answerer(ctx: WorkflowContext, number: int, waits: bool) -> None:
    say(["started", number, time.time_ns()])
    if waits:
        await ctx.wait_event("sent", subject=str(number))
        say(["woken", number, time.time_ns()])


def measure(kind: str, place: str, samples: int, pause: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure events for instances in memory, events for passive instances, and starts.

    Args:
      samples: number of samples of each.
      pause: longest pause before each, in seconds.
    """
    results = []
    for what in WHATS:
        found = fresh.ask("distant", "measure", place, what, samples, pause)
        results.append({"what": what, "samples": samples, "bound_ms": BOUNDS.get(kind), **found})
        say(f"{NAMES[kind]}, {what}: {found['p50_ms']:.1f} ms from another process")
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows += [[], *(_row(kind, each) for each in found)]
    title = "Distant: from a client's call to the workflow's line in another process (the bound is for p50)"
    return table.render(title, _HEADS, rows[1:])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    keys = ("p50_ms", "p99_ms", "bound_ms", "call_ms", "bare_ms")
    ms = ["-" if each[key] is None else f"{each[key]:,.1f}" for key in keys]
    return [NAMES[kind], each["what"], str(each["samples"]), *ms]


async def _ask_from_afar(database: str, what: str, samples: int, pause: float) -> dict[str, Any]:
    taken, calls = [], []
    chance = random.Random(1)
    async with App(database, worker=False) as app, open_worker("distant", "work", database, what) as worker:
        assert await worker.hear() == "open"
        for number in range(_WARM_UP + samples):
            if what != "start":
                await app.start(answerer, number, True)
                await _line(worker, "started", number)
                worker.tell("rest")
                await _line(worker, "rests", 0)
            await trio.sleep(chance.uniform(0, pause))
            begun = time.time_ns()
            if what == "start":
                await app.start(answerer, number, False)
            else:
                await app.send_event("sent", number, subject=str(number))
            called = time.time_ns()
            came = await _line(worker, "started" if what == "start" else "woken", number)
            taken.append((came - begun) / 1_000_000)
            calls.append((called - begun) / 1_000_000)
    taken, calls = sorted(taken[_WARM_UP:]), sorted(calls[_WARM_UP:])
    return {"p50_ms": taken[samples // 2], "p99_ms": taken[samples * 99 // 100], "call_ms": calls[samples // 2]}


async def _line(worker: WorkerProcess, line: str, number: int) -> int:
    """Return when that line was reached, in nanoseconds since the epoch. Lines that a replay repeats are skipped."""
    while True:
        *found, at = await worker.hear()
        if found == [line, number]:
            return int(at)


async def _work(database: str, what: str) -> None:
    async with App(database, idle_timeout=3600 if what == "resident" else 0) as app:
        say("open")
        while await next_order() is not None:
            await come_to_rest(app, 1 if what == "resident" else 0)
            say(["rests", 0, time.time_ns()])


def _measure(place: str, what: str, samples: int, pause: float) -> dict[str, Any]:
    with open_durable(place, force=False) as database:
        result: dict[str, Any] = trio.run(_ask_from_afar, database, what, samples, pause)
        # The speed of the disk, the server and the machine at that time.
        result["bare_ms"] = asyncio.run(seconds_each(database, "bare", _BARE_WRITES)) * 1000
    return result


if __name__ == "__main__":
    do, place, what, *numbers = sys.argv[1:]
    if do == "work":
        work(_work, place, what)
    else:
        samples, pause = numbers
        fresh.answer(lambda: _measure(place, what, int(samples), float(pause)))
