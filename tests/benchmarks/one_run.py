"""One measurement of throughput, in a process of its own: ``one_run.py SYSTEM CONCURRENCY SECONDS`` prints JSON."""

from __future__ import annotations

import sys
from typing import Any

import fresh
from disk import sync_ms
from durability import watched
from systems import SYSTEMS, System

_WARM_UP = 0.5
"""Seconds that the last run before the measurement must have taken."""
_FEWEST_ROUNDS = 3
"""How often each client starts a workflow at least."""


def measure(name: str, concurrency: int, seconds: float) -> dict[str, Any]:
    """Run one system for about so many seconds, on a new database, when it is warm."""
    system = SYSTEMS[name]
    before = sync_ms()
    with watched(force=not system.sets_pragmas) as pragmas:
        total = max(round(_warm_up(system, concurrency) * seconds), _FEWEST_ROUNDS * concurrency)
        elapsed, latencies = system.run("measured.db", concurrency, total)
    latencies.sort()
    return {
        "completed": len(latencies),
        "failed": total - len(latencies),
        "seconds": elapsed,
        "workflows_per_second": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
        "disk_sync_ms": [before, sync_ms()],
        "journal_mode": ", ".join(pragmas.journal_mode),
        "synchronous": ", ".join(pragmas.synchronous),
        "connections": pragmas.connections,
    }


def _warm_up(system: System, concurrency: int) -> float:
    """Run ever more workflows until that takes long enough. Returns the last rate, in workflows per second."""
    total = max(concurrency, 40)
    while True:
        elapsed, _ = system.run(f"warm-up-{total}.db", concurrency, total)
        if elapsed >= _WARM_UP:
            return total / elapsed
        total *= 4


if __name__ == "__main__":
    fresh.answer(lambda: measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
