"""Workflows that recur for ever: ``-m tests.benchmarks.recur COUNT`` prints JSON.

Twenty chains recur ``COUNT`` times in all. Each instance runs one activity and sets its details. A leak shows in the
memory of the process, or in the table of journals.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from sqlite3 import connect
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, activity, workflow

from . import fresh, table
from .memory import resident_bytes

_CHAINS = 20
_LOOKS = 10
"""Number of memory readings after the first."""


lives = 0
"""Instances that have run their activity in this process."""


@activity
async def turn(number: int) -> int:
    global lives
    lives += 1
    return number


@workflow
async def wheel(ctx: WorkflowContext, number: int, last: int) -> int:
    ctx.set_details({"turn": number})
    await turn(number)
    if number < last:
        ctx.recur(number + 1, last)
    return number


def measure(count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure ``count`` iterations."""
    result: dict[str, Any] = fresh.ask("recur", count, timeout=3600)
    say(f"{count:,} iterations: {result['seconds']:,.0f} s, {result['megabytes'][-1]:,.1f} MiB at the end")
    return result


def show(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    rows = [
        [f"{iterations:,}", f"{megabytes:,.1f}", f"{entries:,}"]
        for iterations, megabytes, entries in zip(
            result["iterations"], result["megabytes"], result["entries"], strict=True
        )
    ]
    title = f"Recurring: {_CHAINS} chains, {result['iterations'][-1] / result['seconds']:,.0f} iterations a second"
    return table.render(title, ("iterations", "MiB of the process", "entries in the journals"), rows)


async def _run(count: int) -> dict[str, Any]:
    turns = count // _CHAINS
    iterations: list[int] = []
    megabytes: list[float] = []
    entries: list[int] = []
    async with App("recur.db") as app:
        await (await app.start(wheel, 1, turns // _LOOKS)).result()  # warm-up
        begun, before = time.perf_counter(), lives

        async def look() -> None:
            for part in range(_LOOKS + 1):
                while lives - before < part * turns * _CHAINS // _LOOKS:  # noqa: ASYNC110
                    await trio.sleep(0.2)
                iterations.append(lives - before)
                megabytes.append(resident_bytes() / 2**20)
                entries.append(await trio.to_thread.run_sync(_entries))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            handles = [await app.start(wheel.options(id=f"wheel-{number}"), 1, turns) for number in range(_CHAINS)]
            for handle in handles:
                await handle.result()
        seconds = time.perf_counter() - begun
    return {"iterations": iterations, "megabytes": megabytes, "entries": entries, "seconds": seconds}


def _entries() -> int:
    """Return the number of rows in the table of journals."""
    with closing(connect("recur.db")) as connection:
        count: int = connection.execute("SELECT count(*) FROM romancy_history").fetchone()[0]
        return count


if __name__ == "__main__":
    fresh.answer(lambda: trio.run(_run, int(sys.argv[1])))
