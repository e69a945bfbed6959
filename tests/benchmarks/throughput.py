"""Three-activity workflows per second, and how long each takes from start to result, beside other systems."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import fresh
import table
from systems import SYSTEMS

CONCURRENCIES = (1, 20, 200)
"""Clients at a time; each starts a workflow and waits for its result, again and again."""

_HEADS = ("system", "clients", "workflows/s", "p50 ms", "p99 ms", "x bare", "x DBOS")


def measure(seconds: float, repetitions: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every system that is installed.

    The repetitions go round by turns, so that whatever else the machine does meanwhile meets all systems alike.

    Args:
      seconds: about how long each measurement takes, beside its warm-up.
      say: told what is going on.
    """
    skipped = {
        system.name: f"{system.distribution} is not installed"
        for system in SYSTEMS.values()
        if system.version() is None
    }
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for repetition in range(repetitions):
        for concurrency in CONCURRENCIES:
            for name in SYSTEMS:
                if name in skipped:
                    continue
                try:
                    run = fresh.ask("one_run.py", name, concurrency, seconds)
                except fresh.MeasurementError as error:
                    if name in ("bare", "ours"):
                        raise
                    skipped[name] = str(error)
                    continue
                runs.setdefault((concurrency, name), []).append(run)
                rate = f"{run['workflows_per_second']:,.0f} workflows/s"
                say(f"{repetition + 1}/{repetitions} {name}, {_clients(concurrency)}: {rate}")
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
    rates = {(each["system"], each["clients"]): each["workflows_per_second"] for each in measured}
    for each in measured:
        for other in ("bare", "dbos"):
            base = rates.get((other, each["clients"]))
            each[f"ratio_to_{other}"] = None if base is None else each["workflows_per_second"] / base


def show(result: dict[str, Any]) -> str:
    """The result as a table, with what is to be known about it below."""
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
                _ratio(each["ratio_to_dbos"]),
            ]
        )
    notes = [f"{name} was skipped: {reason}" for name, reason in result["skipped"].items()]
    for each in result["measured"]:
        if each["failed"]:
            tried = each["failed"] + sum(run["completed"] for run in each["runs"])
            notes.append(f"{each['system']}, {_clients(each['clients'])}: {each['failed']} of {tried} workflows failed")
    modes = {(run["journal_mode"], run["synchronous"]) for each in result["measured"] for run in each["runs"]}
    notes += [f"journal_mode={mode}, synchronous={level} on every connection" for mode, level in sorted(modes)]
    syncs = [sync for each in result["measured"] for run in each["runs"] for sync in run["disk_sync_ms"]]
    if max(syncs) > 3 * min(syncs):
        notes.append(
            f"a page took {min(syncs):.2f} ms at one time and {max(syncs):.2f} ms at another to be on disk: "
            f"the machine was not idle, and the slower numbers say more about that than about the systems"
        )
    title = "Throughput: workflows of three activities, SQLite"
    return "\n".join([table.render(title, _HEADS, rows), "", *notes])


def _clients(concurrency: int) -> str:
    return "1 client" if concurrency == 1 else f"{concurrency} clients"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:,.3g}"
