"""Memory of a waiting instance: ``-m tests.benchmarks.memory resident|passive PLACE COUNT`` prints JSON."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, workflow

from . import fresh, table
from .crowd import come_to_rest, start_all
from .databases import FILES, open_new


@workflow
async def waiter(ctx: WorkflowContext) -> None:
    await ctx.sleep(10**6)


def measure(count: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure instances that wait in memory, and instances that wait in a SQLite database."""
    results = []
    for state in ("resident", "passive"):
        grown = fresh.ask("memory", state, FILES, count)
        results.append({"state": state, "instances": count, "bytes_per_instance": grown / count})
        say(f"{count:,} {state} instances: {grown / 2**20:,.1f} MiB")
    return results


def show(results: Sequence[dict[str, Any]]) -> str:
    """Return the result as a table."""
    rows = [[r["state"], f"{r['instances']:,}", f"{r['bytes_per_instance']:,.0f}"] for r in results]
    return table.render("Memory: waiting instances", ("state", "instances", "bytes each"), rows)


async def _grow(state: str, database: str, count: int) -> int:
    """Return the bytes by which the process grows while ``count`` instances come to wait.

    The same number has come to wait before. So the code, the threads, the caches of the database, and the space that
    the allocator needs while they start do not count.
    """
    idle_timeout, kept = (10**6, count) if state == "resident" else (0.1, 0)
    async with App(database, idle_timeout=idle_timeout, max_running=2 * count, max_resident=2 * count) as app:
        await _start(app, count, kept)
        before = resident_bytes()
        await _start(app, count, 2 * kept)
        return resident_bytes() - before


async def _start(app: App, count: int, resident: int) -> None:
    """Start ``count`` instances, and wait until ``resident`` are in memory and all have waited for a while."""
    await start_all(lambda _: app.start(waiter), range(count))
    await trio.sleep(0.2)
    await come_to_rest(app, resident, 0.2)


def resident_bytes() -> int:
    """Return the memory of the process, in bytes; on systems other than Linux, its highest value so far."""
    gc.collect()
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure(state: str, place: str, count: int) -> int:
    with open_new(place) as database:
        return trio.run(_grow, state, database, count)


if __name__ == "__main__":
    fresh.answer(lambda: _measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
