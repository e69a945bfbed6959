"""Three-activity workflows per second, and their latency from start to result, beside other systems."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from . import fresh, table
from .databases import NAMES
from .systems import SYSTEMS

CONCURRENCIES = (1, 20, 200)
"""Numbers of concurrent clients. Each starts a workflow, waits for its result, and starts the next."""

_HEADS = ("system", "clients", "workflows/s", "p50 ms", "p99 ms", "x bare", "x best peer")


def measure(kind: str, place: str, seconds: float, repetitions: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every system that is installed and supports the database.

    Repetitions alternate between the systems, so that other load on the machine affects all of them alike.

    Args:
      place: the place for new databases.
      seconds: approximate duration of each measurement, without its warm-up.
      say: called with a line about each result.
    """
    systems = [system for system in SYSTEMS.values() if kind in system.databases]
    skipped = {
        system.name: f"{missing} is not installed" for system in systems if (missing := system.missing()) is not None
    }
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for repetition in range(repetitions):
        for concurrency in CONCURRENCIES:
            for system in systems:
                if system.name in skipped:
                    continue
                try:
                    run = fresh.ask("one_run", system.name, place, concurrency, seconds)
                except fresh.MeasurementError as error:
                    if not system.is_peer:
                        raise
                    skipped[system.name] = str(error)
                    continue
                runs.setdefault((concurrency, system.name), []).append(run)
                rate = f"{run['workflows_per_second']:,.0f} workflows/s"
                say(f"{repetition + 1}/{repetitions} {NAMES[kind]}, {system.name}, {_clients(concurrency)}: {rate}")
    measured = [_summary(*key, found) for key, found in sorted(runs.items(), key=_order) if key[1] not in skipped]
    _compare(measured)
    return {"measured": measured, "skipped": skipped}


def _order(item: tuple[tuple[int, str], object]) -> tuple[int, int]:
    (concurrency, name), _ = item
    return concurrency, list(SYSTEMS).index(name)


def _summary(concurrency: int, name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    medians = {key: statistics.median(run[key] for run in runs) for key in ("workflows_per_second", "p50_ms", "p99_ms")}
    return {"system": name, "clients": concurrency, **medians, "failed": sum(r["failed"] for r in runs), "runs": runs}


def _compare(measured: Sequence[dict[str, Any]]) -> None:
    for each in measured:
        rates = {
            other["system"]: other["workflows_per_second"] for other in measured if other["clients"] == each["clients"]
        }
        best = max((name for name in rates if SYSTEMS[name].is_peer), key=rates.__getitem__, default=None)
        each["best_peer"] = best
        each["ratio_to_bare"] = each["workflows_per_second"] / rates["bare"]
        each["ratio_to_best_peer"] = None if best is None else each["workflows_per_second"] / rates[best]


def show(kind: str, result: dict[str, Any]) -> str:
    """Return the result as a table with notes."""
    rows: list[list[str]] = []
    last = None
    for each in result["measured"]:
        if last not in (None, each["clients"]):
            rows.append([])
        last = each["clients"]
        rows.append(
            [
                each["system"],
                str(last),
                f"{each['workflows_per_second']:,.0f}",
                f"{each['p50_ms']:,.1f}",
                f"{each['p99_ms']:,.1f}",
                _ratio(each["ratio_to_bare"]),
                _ratio(each["ratio_to_best_peer"]),
            ]
        )
    title = f"Throughput: workflows of three activities, {NAMES[kind]}"
    return "\n".join([table.render(title, _HEADS, rows), "", *_notes(result)])


def _notes(result: dict[str, Any]) -> list[str]:
    notes = [f"{name} was skipped: {reason}" for name, reason in result["skipped"].items()]
    for each in result["measured"]:
        if each["failed"]:
            tried = each["failed"] + sum(run["completed"] for run in each["runs"])
            notes.append(f"{each['system']}, {_clients(each['clients'])}: {each['failed']} of {tried} workflows failed")
    runs = [run for each in result["measured"] for run in each["runs"]]
    found = {", ".join(f"{name}={value}" for name, value in run["durability"].items()) for run in runs}
    notes += [f"{settings} on every connection" for settings in sorted(found)]
    syncs = [sync for run in runs for sync in run["disk_sync_ms"]]
    if max(syncs) > 3 * min(syncs):
        notes.append(
            f"syncing a page took {min(syncs):.2f} ms at one time and {max(syncs):.2f} ms at another: "
            f"the machine was not idle, and the slower numbers say more about that than about the systems"
        )
    return notes


def _clients(concurrency: int) -> str:
    return "1 client" if concurrency == 1 else f"{concurrency} clients"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:,.3g}"
