"""Cost of the apps for asyncio and for synchronous code: ``-m tests.benchmarks.elsewhere PLACE SAMPLES ROUNDS``.

A sample is one start and its result. The apps for trio, for asyncio and for synchronous code take turns.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, aio, sync, workflow

from . import fresh, table
from .databases import NAMES, open_new

BOUND = 1.0
"""Most milliseconds that a start and its result may take longer than in a trio program."""

_WARM_UP = 20
"""Samples before the first that counts."""


@workflow
async def same(ctx: WorkflowContext, number: int) -> int:
    return number


def measure(kind: str, place: str, samples: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all three in turn in one process, and compare the medians."""
    found = fresh.ask("elsewhere", place, samples, rounds)
    medians = {face: statistics.median(times) for face, times in found.items()}
    say(f"{NAMES[kind]}: " + ", ".join(f"{face} {median:.2f} ms" for face, median in medians.items()))
    return medians


def show(results: dict[str, dict[str, Any]]) -> str:
    """Return the result as a table."""
    rows = [
        [NAMES[kind], face, f"{medians[face]:.2f}", f"{medians[face] - medians['trio']:.2f}", f"{BOUND:.2f}"]
        for kind, medians in results.items()
        for face in medians
    ]
    heads = ("database", "program", "start and result ms", "more than trio ms", "bound")
    return table.render("Programs without trio: one start and its result after the other", heads, rows)


async def _on_trio(database: str, samples: int) -> list[float]:
    found = []
    async with App(database) as app:
        for number in range(_WARM_UP + samples):
            begun = time.perf_counter()
            await (await app.start(same, number)).result()
            found.append(time.perf_counter() - begun)
    return found[_WARM_UP:]


async def _on_asyncio(database: str, samples: int) -> list[float]:
    found = []
    async with aio.App(database) as app:
        for number in range(_WARM_UP + samples):
            begun = time.perf_counter()
            await (await app.start(same, number)).result()
            found.append(time.perf_counter() - begun)
    return found[_WARM_UP:]


def _on_none(database: str, samples: int) -> list[float]:
    found = []
    with sync.App(database) as app:
        for number in range(_WARM_UP + samples):
            begun = time.perf_counter()
            app.start(same, number).result()
            found.append(time.perf_counter() - begun)
    return found[_WARM_UP:]


def _by_turns(place: str, samples: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each sample."""
    found: dict[str, list[float]] = {"trio": [], "asyncio": [], "synchronous": []}
    with open_new(place) as database:
        for _ in range(rounds):
            found["trio"] += trio.run(_on_trio, database, samples)
            found["asyncio"] += asyncio.run(_on_asyncio(database, samples))
            found["synchronous"] += _on_none(database, samples)
    return {face: [seconds * 1000 for seconds in times] for face, times in found.items()}


if __name__ == "__main__":
    fresh.answer(lambda: _by_turns(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
