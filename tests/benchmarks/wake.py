"""Latency of an event: ``-m tests.benchmarks.wake SYSTEM STATE PLACE SAMPLES SECONDS`` prints JSON.

The time runs from just before the send to the workflow's next line, in one process, one instance at a time.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import fresh, table
from .bare_insert import seconds_each
from .databases import NAMES
from .on_disk import open_durable
from .systems import SYSTEMS

BOUNDS = {"resident": 5.0, "passive": 15.0}
"""Highest acceptable median of trio_romancy on :data:`BOUND_ON`, in milliseconds."""
BOUND_ON = ("sqlite", "postgresql")

_STATES = {"ours": ("resident", "passive"), "dbos": ("resident",), "edda": ("passive",)}
"""Where an instance can wait in each system: in memory, or in the database only."""
_BARE_WRITES = 100
_HEADS = ("database", "system", "state", "samples", "p50 ms", "p99 ms", "bound", "INSERT and COMMIT ms")


def measure(kind: str, place: str, samples: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every system that is installed and supports the database.

    Args:
      samples: number of samples of each.
      seconds: longest duration for each other system, some of which take a second for a sample. trio_romancy has three
        times as long.
    """
    measured: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for name, states in _STATES.items():
        system = SYSTEMS[name]
        if kind not in system.databases:
            continue
        if (missing := system.missing()) is not None:
            skipped[name] = f"{missing} is not installed"
            continue
        for state in states:
            try:
                most = seconds if system.is_peer else 3 * seconds
                run = fresh.ask("wake", name, state, place, samples, most)
            except fresh.MeasurementError as error:
                if not system.is_peer:
                    raise
                skipped[name] = str(error)
                continue
            bound = BOUNDS[state] if name == "ours" and kind in BOUND_ON else None
            measured.append({"system": name, "state": state, "bound_ms": bound, **run})
            say(f"{NAMES[kind]}, {name}, {state}: {run['p50_ms']:.1f} ms from send to wake")
    return {"measured": measured, "skipped": skipped}


def show(results: dict[str, dict[str, Any]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, result in results.items():
        rows += [[], *(_row(kind, each) for each in result["measured"])]
    notes = [
        f"{name} was skipped on {NAMES[kind]}: {why}"
        for kind, result in results.items()
        for name, why in result["skipped"].items()
    ]
    title = "Wake: from just before the send to the workflow's next line, one instance at a time (the bound is for p50)"
    return "\n".join([table.render(title, _HEADS, rows[1:]), *notes])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    ms = ["-" if each[key] is None else f"{each[key]:,.2f}" for key in ("p50_ms", "p99_ms", "bound_ms", "bare_ms")]
    return [NAMES[kind], each["system"], each["state"], str(each["samples"]), *ms]


def _wake(name: str, state: str, place: str, samples: int, seconds: float) -> dict[str, Any]:
    system = SYSTEMS[name]
    bare_ms = None
    with open_durable(place, force=system.is_peer) as database:
        taken = sorted(system.call_mail("wake", database, state, samples, seconds))
        if not system.is_peer:  # the speed of the disk, the server and the machine at that time
            bare_ms = asyncio.run(seconds_each(database, "bare", _BARE_WRITES)) * 1000
    return {
        "samples": len(taken),
        "p50_ms": taken[len(taken) // 2] * 1000,
        "p99_ms": taken[len(taken) * 99 // 100] * 1000,
        "bare_ms": bare_ms,
    }


if __name__ == "__main__":
    name, state, place, samples, seconds = sys.argv[1:]
    fresh.answer(lambda: _wake(name, state, place, int(samples), float(seconds)))
