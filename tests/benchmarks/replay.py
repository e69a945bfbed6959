"""Time that an instance takes to come back: ``-m tests.benchmarks.replay PLACE ENTRIES TIMES`` prints JSON.

The journal already holds the outcome of every activity. The time runs from the moment that a worker may claim the
instance until its end: claim, load, replay, and the commit of the result.

The journals are written through the public API and the tables, not through the package's own functions, so that the
same program measures any version that has these tables.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
import trio

from trio_romancy import App, Limits, WorkflowContext, activity, current_activity, workflow

from . import fresh, table
from .databases import FILES, open_new

ENTRIES = (0, 100, 1_000, 10_000)
"""Lengths of journals. The empty one shows the cost that does not depend on the length."""

_RECORDED_AT = 1_700_000_000_000_000

_instances = sa.table(
    "romancy_instances",
    *map(sa.column, ("instance_id", "workflow", "status", "input", "recoveries", "started_after")),
    *map(sa.column, ("created_at", "updated_at")),
)
_history = sa.table(
    "romancy_history",
    *map(sa.column, ("instance_id", "seq", "operation_id", "kind", "payload", "recorded_at")),
)


@activity
async def step(number: int) -> int:
    raise AssertionError("its outcome is in the journal")


@workflow
async def many_steps(ctx: WorkflowContext, steps: int) -> int:
    total = 0
    for number in range(steps):
        total += await step(number)
    return total


@activity
async def store(instance_id: str, entries: int) -> None:
    """Store a stuck instance whose journal lacks only the end."""
    session = current_activity().session
    row = {
        "instance_id": instance_id,
        "workflow": "many_steps",
        "status": "stuck",
        "input": json.dumps({"steps": entries}),
        "recoveries": 0,
        "started_after": 0,
        "created_at": _RECORDED_AT,
        "updated_at": _RECORDED_AT,
    }
    await session.execute(sa.insert(_instances), [row])
    if entries:
        await session.execute(sa.insert(_history), [_entry(instance_id, number) for number in range(entries)])


def _entry(instance_id: str, number: int) -> dict[str, Any]:
    return {
        "instance_id": instance_id,
        "seq": number + 1,
        "operation_id": f"step:{number + 1}",
        "kind": "activity_completed",
        "payload": json.dumps({"result": number}),
        "recorded_at": _RECORDED_AT,
    }


@workflow
async def store_all(ctx: WorkflowContext, instance_ids: list[str], entries: int) -> None:
    for instance_id in instance_ids:
        await store(instance_id, entries)


def measure(times: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure every length of journal on SQLite, in a process for each, and take the medians."""
    results: list[dict[str, Any]] = []
    for entries in ENTRIES:
        ms = statistics.median(fresh.ask("replay", FILES, entries, times)["ms"])
        per_entry = (ms - results[0]["ms"]) * 1000 / entries if entries else None
        results.append({"entries": entries, "ms": ms, "us_per_entry": per_entry})
        say(f"replay of {entries:,} entries: {ms:,.1f} ms")
    return results


def show(results: Sequence[dict[str, Any]]) -> str:
    """Return the result as a table."""
    rows = [
        [f"{r['entries']:,}", f"{r['ms']:,.1f}", "-" if r["us_per_entry"] is None else f"{r['us_per_entry']:.1f}"]
        for r in results
    ]
    return table.render("Replay: from claim to end", ("entries", "ms", "µs per entry"), rows)


async def _replay(database: str, entries: int, times: int) -> dict[str, list[float]]:
    """Return the milliseconds for each of ``times`` new instances, and those of CPU time. The first is a warm-up."""
    taken: list[float] = []
    used: list[float] = []
    ids = [f"instance-{number}" for number in range(times + 1)]
    async with App(database) as app:
        await (await app.start(store_all, ids, entries)).result()
    async with App(database, limits=Limits(max_payload=1024)) as app:
        for instance_id in ids:
            await app.resume(instance_id)
            begun, cpu = time.perf_counter(), time.process_time()
            result = await app.handle(instance_id).result()
            taken.append((time.perf_counter() - begun) * 1000)
            used.append((time.process_time() - cpu) * 1000)
            assert result == sum(range(entries)), result
    return {"ms": taken[1:], "cpu_ms": used[1:]}


def _measure(place: str, entries: int, times: int) -> dict[str, list[float]]:
    with open_new(place) as database:
        return trio.run(_replay, database, entries, times)


if __name__ == "__main__":
    fresh.answer(lambda: _measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
