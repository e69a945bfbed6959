"""Events per second for waiting workflows: ``-m tests.benchmarks.events SYSTEM PLACE SENDERS SECONDS`` prints JSON.

Each event is for one of many waiting instances. It counts when that instance reaches the line after the wait.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import fresh, table
from .databases import NAMES
from .on_disk import open_durable
from .systems import SYSTEMS

SENDERS = (1, 20, 200)
"""Numbers of concurrent senders."""
INSTANCES = 200
_EVENTS = 100
"""Most events for each instance."""

_NAMES = ("ours", "dbos", "edda")
_HEADS = ("system", "senders", "events/s", "received", "lost", "x best peer")


def measure(kind: str, place: str, seconds: float, repetitions: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every system that is installed and supports the database, in turn.

    Args:
      seconds: duration of the sending in each measurement, which ends when every event has come.
    """
    systems = [SYSTEMS[name] for name in _NAMES if kind in SYSTEMS[name].databases]
    skipped = {
        system.name: f"{missing} is not installed" for system in systems if (missing := system.missing()) is not None
    }
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for _ in range(repetitions):
        for senders in SENDERS:
            for system in systems:
                if system.name in skipped:
                    continue
                try:
                    run = fresh.ask("events", system.name, place, senders, seconds)
                except fresh.MeasurementError as error:
                    if not system.is_peer:
                        raise
                    skipped[system.name] = str(error)
                    continue
                runs.setdefault((senders, system.name), []).append(run)
                say(f"{NAMES[kind]}, {system.name}, {senders} senders: {run['events_per_second']:,.0f} events/s")
    measured = [_summary(senders, name, found) for (senders, name), found in runs.items() if name not in skipped]
    for each in measured:
        peers = [o for o in measured if SYSTEMS[o["system"]].is_peer and o["senders"] == each["senders"]]
        best = max((peer["events_per_second"] for peer in peers), default=None)
        each["ratio_to_best_peer"] = each["events_per_second"] / best if best else None
    return {"instances": INSTANCES, "measured": measured, "skipped": skipped}


def _summary(senders: int, name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rate = statistics.median(run["events_per_second"] for run in runs)
    received = sum(run["received"] for run in runs)
    lost = sum(run["sent"] for run in runs) - received
    return {
        "system": name,
        "senders": senders,
        "events_per_second": rate,
        "received": received,
        "lost": lost,
        "runs": runs,
    }


def show(kind: str, result: dict[str, Any]) -> str:
    """Return the result as a table."""
    rows: list[list[str]] = []
    last = None
    for each in result["measured"]:
        if last not in (None, each["senders"]):
            rows.append([])
        last = each["senders"]
        ratio = "-" if each["ratio_to_best_peer"] is None else f"{each['ratio_to_best_peer']:,.3g}"
        counts = (f"{each['received']:,}", f"{each['lost']:,}")
        rows.append([each["system"], str(last), f"{each['events_per_second']:,.0f}", *counts, ratio])
    title = f"Events: received by {result['instances']} waiting instances, {NAMES[kind]}"
    notes = [f"{name} was skipped: {reason}" for name, reason in result["skipped"].items()]
    return "\n".join([table.render(title, _HEADS, rows), *notes])


def _exchange(name: str, place: str, senders: int, seconds: float) -> dict[str, Any]:
    system = SYSTEMS[name]
    with open_durable(place, force=system.is_peer) as database:
        run: dict[str, Any] = system.call_mail("exchange", database, INSTANCES, _EVENTS, senders, seconds)
    return run | {"events_per_second": run["received"] / run["seconds"] if run["received"] else 0.0}


if __name__ == "__main__":
    name, place, senders, seconds = sys.argv[1:]
    fresh.answer(lambda: _exchange(name, place, int(senders), float(seconds)))
