"""How long an instance takes to come back: ``replay.py ENTRIES TIMES`` prints JSON.

The journal already holds the outcome of every activity. Measured is the time from the moment that a worker may claim
the instance to its end: claim, load, replay, and the commit of the result.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import fresh
import table
import trio
from sqlalchemy import Connection

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._storage import migrations
from trio_romancy._storage.database import open_database
from trio_romancy._storage.sql.instances import JournalEntry, entry_row, insert_entries, insert_instances, new_row
from trio_romancy.clock import current_clock
from trio_romancy.model import Kind, Status

ENTRIES = (0, 100, 1_000, 10_000)
"""Lengths of journals. The empty one shows what does not depend on the length."""


@activity
async def step(number: int) -> int:
    raise AssertionError("its outcome is in the journal")


@workflow
async def many_steps(ctx: WorkflowContext, steps: int) -> int:
    total = 0
    for number in range(steps):
        total += await step(number)
    return total


def measure(times: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure every length of journal, in a process for each, and take the medians."""
    results: list[dict[str, Any]] = []
    for entries in ENTRIES:
        ms = statistics.median(fresh.ask("replay.py", entries, times))
        per_entry = (ms - results[0]["ms"]) * 1000 / entries if entries else None
        results.append({"entries": entries, "ms": ms, "us_per_entry": per_entry})
        say(f"replay of {entries:,} entries: {ms:,.1f} ms")
    return results


def show(results: Sequence[dict[str, Any]]) -> str:
    """The result as a table."""
    rows = [
        [f"{r['entries']:,}", f"{r['ms']:,.1f}", "-" if r["us_per_entry"] is None else f"{r['us_per_entry']:.1f}"]
        for r in results
    ]
    return table.render("Replay: from claim to end", ("entries", "ms", "µs per entry"), rows)


async def _replay(entries: int, times: int) -> list[float]:
    """Milliseconds, each time for a new instance; the first is for warming up."""
    taken = []
    ids = [f"instance-{number}" for number in range(times + 1)]
    async with open_database("replay.db") as database:
        await database.run(migrations.migrate)
        for instance_id in ids:
            await database.run(_insert, instance_id, entries, current_clock().now())
    async with App("replay.db", max_payload=1024) as app:
        for instance_id in ids:
            await app.resume(instance_id)
            begun = time.perf_counter()
            result = await app.handle(instance_id).result()
            taken.append((time.perf_counter() - begun) * 1000)
            assert result == sum(range(entries)), result
    return taken[1:]


def _insert(connection: Connection, instance_id: str, entries: int, now: int) -> None:
    """A parked instance, whose journal holds everything but the end."""
    text, _ = many_steps.input.encode((entries,), {})
    row = new_row(instance_id, many_steps.name, text, now, owner=None)
    insert_instances(connection, [row | {"status": Status.STUCK, "wake_at": None}])
    records = [
        JournalEntry(n + 1, f"step:{n + 1}", Kind.ACTIVITY_COMPLETED, {"result": n}, now) for n in range(entries)
    ]
    if records:
        insert_entries(connection, [entry_row(instance_id, record) for record in records])


if __name__ == "__main__":
    fresh.answer(lambda: trio.run(_replay, int(sys.argv[1]), int(sys.argv[2])))
