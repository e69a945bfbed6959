"""Load of an idle worker on the database: ``-m tests.benchmarks.idle PLACE COUNT QUIET SECONDS`` prints JSON.

Statements are counted where they go to the driver. BEGIN and COMMIT, which drivers send by themselves, are not among
them: one of each for a transaction.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import trio
from attrs import define, field
from sqlalchemy import Engine, event

from trio_romancy import App

from . import fresh, table
from .crowd import come_to_rest, start_all
from .databases import NAMES
from .on_disk import open_durable
from .ours_mail import receiver

BOUND = 1.0
"""Most queries per second for due instances."""

_LOOK = "SELECT romancy_instances.wake_at"
"""Prefix of the query for due instances."""
_SHOWN = 80
"""Length of the prefix that identifies a statement in the result."""
_HEADS = ("database", "waiting", "polls/s", "bound", "transactions/s", "statements/s", "CPU %")


def measure(
    kind: str, place: str, counts: Sequence[int], quiet: float, seconds: float, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure a worker for each number of instances in memory, all of which wait for an event.

    Args:
      quiet: seconds without activity before the counting.
      seconds: duration of the counting.
    """
    results = []
    for count in counts:
        found = fresh.ask("idle", place, count, quiet, seconds)
        results.append({"waiting": count, "seconds": seconds, **found})
        say(
            f"{NAMES[kind]}, {count:,} instances waiting: {found['looks_per_second']:.2f} polls/s, "
            f"{found['statements_per_second']:.2f} statements/s"
        )
    return results


def show(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows += [[], *(_row(kind, each) for each in found)]
    return table.render("Idle: load of one worker on the database (the bound is for polls)", _HEADS, rows[1:])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    rates = (f"{each['transactions_per_second']:.2f}", f"{each['statements_per_second']:.2f}")
    cpu = f"{each['cpu_percent']:.2f}"
    return [NAMES[kind], f"{each['waiting']:,}", f"{each['looks_per_second']:.2f}", f"{BOUND:.2f}", *rates, cpu]


@define
class _Counted:
    """Numbers of what was sent to the database."""

    looks: int = 0
    transactions: int = 0
    statements: Counter[str] = field(factory=Counter)
    """Statements by their prefix."""

    def watch(self) -> None:
        """Count from now on, in every engine of this process."""
        event.listen(Engine, "begin", self._begin)
        event.listen(Engine, "before_cursor_execute", self._statement)

    def _begin(self, connection: object) -> None:
        self.transactions += 1

    def _statement(self, connection: object, cursor: object, statement: str, *_: object) -> None:
        text = " ".join(statement.split())
        self.statements[text[:_SHOWN]] += 1
        self.looks += text.startswith(_LOOK)


async def _idle(database: str, count: int, quiet: float, seconds: float) -> dict[str, Any]:
    async with App(database, idle_timeout=3600) as app:
        await start_all(lambda number: app.start(receiver, f"instance-{number}", 1), range(count))
        await come_to_rest(app, count, 0.05)
        await trio.sleep(quiet)
        counted = _Counted()
        counted.watch()
        used, begun = time.process_time(), time.perf_counter()
        await trio.sleep(seconds)
        elapsed, used = time.perf_counter() - begun, time.process_time() - used
        return {
            "looks_per_second": counted.looks / elapsed,
            "transactions_per_second": counted.transactions / elapsed,
            "statements_per_second": counted.statements.total() / elapsed,
            "cpu_percent": used / elapsed * 100,
            "statements": dict(counted.statements.most_common()),
        }


def _measure(place: str, count: int, quiet: float, seconds: float) -> dict[str, Any]:
    with open_durable(place, force=False) as database:
        result: dict[str, Any] = trio.run(_idle, database, count, quiet, seconds)
    return result


if __name__ == "__main__":
    place, count, quiet, seconds = sys.argv[1:]
    fresh.answer(lambda: _measure(place, int(count), float(quiet), float(seconds)))
