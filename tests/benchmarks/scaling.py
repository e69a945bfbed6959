"""Throughput by number of workers: ``-m tests.benchmarks.scaling measure PLACE LOAD WORKERS SECONDS`` prints JSON.

A backlog of three-activity workflows is stored first, as clients would. Then the worker processes claim from it, each
as much as it can run. The rate counts the middle four fifths of the ends: a worker that is not open yet, or finds
nothing more, affects only the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import trio
import trio_asyncio
from sqlalchemy import Connection, select

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._storage import migrations
from trio_romancy._storage.database import Database
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql.instances import insert_instances, new_row
from trio_romancy._storage.sql.tables import instances
from trio_romancy.clock import current_clock

from . import fresh, table
from .databases import NAMES
from .on_disk import open_durable
from .worker_process import next_order, open_worker, say, work

LOADS = {
    "nothing": "activities that do nothing, as many as a worker can run: the CPUs and the database set the limit",
    "20 ms": "activities of 20 ms, 20 instances at a time in each worker: workers set the limit",
}
BOUND = 1.5
"""Lowest acceptable ratio of two workers to one, for the load :data:`BOUND_FOR`."""
BOUND_FOR = "20 ms"

WORKERS = {"sqlite": (1, 2), "mariadb": (1, 2, 4), "postgresql": (1, 2, 4)}

_RUNNING = 20
_TAKES = 0.02
"""Second load: instances that a worker runs at a time, and seconds of each activity."""
_AT_ONCE = 1_000
"""Instances stored in one transaction."""
_LOOK_EVERY = 0.2
"""Seconds between two polls of the workers for their counts."""
_HEADS = ("database", "activities take", "workers", "workflows/s", "x one", "bound", "smallest share")

_ended = 0


@activity
async def first(seconds: float) -> None:
    await _take(seconds)


@activity
async def second(seconds: float) -> None:
    await _take(seconds)


@activity
async def third(seconds: float) -> None:
    await _take(seconds)


@workflow
async def three(ctx: WorkflowContext, seconds: float) -> None:
    global _ended
    await first(seconds)
    await second(seconds)
    await third(seconds)
    _ended += 1


async def _take(seconds: float) -> None:
    if seconds:
        await trio.sleep(seconds)


def measure(
    kind: str, place: str, most: int, seconds: float, repetitions: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure each load with more and more workers. Repetitions alternate between them, and the median counts.

    Args:
      most: highest number of workers.
      seconds: approximate duration of each measurement.
    """
    keys = [(load, count) for load in LOADS for count in WORKERS[kind] if count <= most]
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in keys}
    for _ in range(repetitions):
        for load, count in keys:
            run = fresh.ask("scaling", "measure", place, load, count, seconds)
            runs[load, count].append(run)
            say(f"{NAMES[kind]}, {load}, {count} workers: {run['workflows_per_second']:,.0f} workflows/s")
    results = [{"load": load, "workers": count, **_median(found)} for (load, count), found in runs.items()]
    for each in results:
        one = next(o for o in results if o["load"] == each["load"] and o["workers"] == 1)
        each["ratio_to_one"] = each["workflows_per_second"] / one["workflows_per_second"]
        each["bound"] = BOUND if each["load"] == BOUND_FOR and each["workers"] == 2 else None
    return results


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    middle = sorted(runs, key=lambda run: run["workflows_per_second"])[len(runs) // 2]
    return middle | {"runs": runs}


def show(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the result as a table."""
    rows: list[Sequence[str]] = []
    for kind, found in results.items():
        rows += [[], *(_row(kind, each) for each in found)]
    title = "Scaling: workflows of three activities, by worker processes on one database, started by others"
    return "\n".join([table.render(title, _HEADS, rows[1:]), "", *(f"{load}: {what}" for load, what in LOADS.items())])


def _row(kind: str, each: dict[str, Any]) -> list[str]:
    bound = "-" if each["bound"] is None else f"{each['bound']:g}"
    ratio = (f"{each['workflows_per_second']:,.0f}", f"{each['ratio_to_one']:.2f}", bound)
    return [NAMES[kind], each["load"], str(each["workers"]), *ratio, f"{each['smallest_share']:.0%}"]


async def _scale(database: str, load: str, count: int, seconds: float) -> dict[str, Any]:
    total = round(seconds * (1_500 if load == "nothing" else 250 * count))  # about the rate that was seen
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(migrations.migrate)
        await _store(opened, total, 0.0 if load == "nothing" else _TAKES)
        async with AsyncExitStack() as exits:
            crew = [
                await exits.enter_async_context(open_worker("scaling", "work", database, load)) for _ in range(count)
            ]
            for worker in crew:
                assert await worker.hear() == "ready"
            for worker in crew:
                worker.tell("open")
            while sum(shares := [await worker.ask("count") for worker in crew]) < total:  # noqa: ASYNC110
                await trio.sleep(_LOOK_EVERY)
        ends = await opened.read(_ends)
    assert len(ends) == total
    low, high = total // 10, total * 9 // 10
    rate = (high - low) / (ends[high] - ends[low]) * 1_000_000
    return {"workflows_per_second": rate, "completed": total, "smallest_share": min(shares) / total}


async def _store(database: Database, total: int, seconds: float) -> None:
    text, _ = three.input.encode((seconds,), {})
    now = current_clock().now()
    for begin in range(0, total, _AT_ONCE):
        numbers = range(begin, min(begin + _AT_ONCE, total))
        rows = [new_row(f"instance-{number}", three.name, text, now, owner=None) for number in numbers]
        await database.run(insert_instances, rows)


def _ends(connection: Connection) -> list[int]:
    finished = instances.c.finished_at
    return list(connection.execute(select(finished).where(finished.is_not(None)).order_by(finished)).scalars())


async def _work(database: str, load: str) -> None:
    app = App(database) if load == "nothing" else App(database, max_running=_RUNNING)
    say("ready")
    assert await next_order() == "open"
    async with app:
        while await next_order() is not None:
            say(_ended)


def _measure(place: str, load: str, count: int, seconds: float) -> dict[str, Any]:
    with open_durable(place, force=False) as database:
        result: dict[str, Any] = trio.run(_scale, database, load, count, seconds)
    return result


if __name__ == "__main__":
    do, place, load, *numbers = sys.argv[1:]
    if do == "work":
        work(_work, place, load)
    else:
        count, seconds = numbers
        fresh.answer(lambda: _measure(place, load, int(count), float(seconds)))
