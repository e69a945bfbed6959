"""What a waiting instance costs in memory: ``memory.py resident|passive COUNT`` prints JSON."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fresh
import table
import trio
from crowd import come_to_rest, start_all

from trio_romancy import App, WorkflowContext, workflow


@workflow
async def waiter(ctx: WorkflowContext) -> None:
    await ctx.sleep(10**6)


def measure(count: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure instances that wait in memory, and instances that wait in the database."""
    results = []
    for state in ("resident", "passive"):
        grown = fresh.ask("memory.py", state, count)
        results.append({"state": state, "instances": count, "bytes_per_instance": grown / count})
        say(f"{count:,} {state} instances: {grown / 2**20:,.1f} MiB")
    return results


def show(results: Sequence[dict[str, Any]]) -> str:
    """The result as a table."""
    rows = [[r["state"], f"{r['instances']:,}", f"{r['bytes_per_instance']:,.0f}"] for r in results]
    return table.render("Memory: waiting instances", ("state", "instances", "bytes each"), rows)


async def _grow(state: str, count: int) -> int:
    """By how many bytes the process grows while so many instances come to wait.

    As many have come to wait before the first look, so that everything is there that instances do not add to: code,
    threads, the caches of SQLite, and the room that the allocator needs while they start.
    """
    idle_timeout, kept = (10**6, count) if state == "resident" else (0.1, 0)
    async with App("memory.db", idle_timeout=idle_timeout, max_running=2 * count, max_resident=2 * count) as app:
        await _start(app, count, kept)
        before = resident_bytes()
        await _start(app, count, 2 * kept)
        return resident_bytes() - before


async def _start(app: App, count: int, resident: int) -> None:
    """Start so many, and wait until that many are in memory and have waited for a while."""
    await start_all(lambda _: app.start(waiter), range(count))
    await trio.sleep(0.2)
    await come_to_rest(app, resident, 0.2)


def resident_bytes() -> int:
    """Memory that the process occupies. Where the system does not say, the most that it ever occupied."""
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


if __name__ == "__main__":
    fresh.answer(lambda: trio.run(_grow, sys.argv[1], int(sys.argv[2])))
