"""One measurement of throughput: ``-m tests.benchmarks.one_run SYSTEM PLACE CONCURRENCY SECONDS`` prints JSON."""

from __future__ import annotations

import sys
import time
from typing import Any

from . import fresh, server_durability
from .databases import FILES, open_new
from .disk import sync_ms
from .durability import watched
from .systems import SYSTEMS, System

_WARM_UP = 0.5
"""Least duration of the last warm-up run, in seconds."""
_FEWEST_ROUNDS = 3
"""Fewest workflows of each client."""


def measure(name: str, place: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """Run one system for about ``seconds`` on a new database, after a warm-up."""
    system = SYSTEMS[name]
    before = sync_ms()
    if place == FILES:
        with watched(force=system.is_peer) as pragmas:
            run = _run(system, place, concurrency, seconds)
        run["durability"] = {
            "journal_mode": ", ".join(pragmas.journal_mode),
            "synchronous": ", ".join(pragmas.synchronous),
        }
        run["connections"] = pragmas.connections
    else:
        run = _run(system, place, concurrency, seconds)
    return run | {"disk_sync_ms": [before, sync_ms()]}


def _run(system: System, place: str, concurrency: int, seconds: float) -> dict[str, Any]:
    total = max(round(_warm_up(system, place, concurrency) * seconds), _FEWEST_ROUNDS * concurrency)
    with open_new(place) as database:
        used = time.process_time()
        elapsed, latencies = system.run(database, concurrency, total)
        used = time.process_time() - used
        run = {} if place == FILES else {"durability": server_durability.settings(database)}
        if place != FILES and (refusal := server_durability.refusal(database)) is not None:
            raise RuntimeError(refusal)
    latencies.sort()
    return run | {
        "completed": len(latencies),
        "failed": total - len(latencies),
        "seconds": elapsed,
        "workflows_per_second": len(latencies) / elapsed,
        "cpu_us": used / len(latencies) * 1_000_000,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
    }


def _warm_up(system: System, place: str, concurrency: int) -> float:
    """Run more and more workflows until a run takes long enough. Return its rate, in workflows per second."""
    total = max(concurrency, 40)
    while True:
        with open_new(place) as database:
            elapsed, _ = system.run(database, concurrency, total)
        if elapsed >= _WARM_UP:
            return total / elapsed
        total *= 4


if __name__ == "__main__":
    fresh.answer(lambda: measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
