"""Throughput of workflows of three activities on a database, with this process as the worker."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import trio
from attrs import frozen

from .._context.workflow import WorkflowContext
from .._definitions.decorators import activity, workflow
from .._definitions.values import Workflow
from .._storage import migrations
from .._storage.database import Database
from .._storage.open import open_database
from .._storage.outages import retry_while_away_for
from .._storage.sql import checks, incompatible
from .._storage.sql.purge import remove_instances
from ..app import App
from ..clock import current_clock
from .call import START_TIMEOUT

CLIENTS = (1, 20, 200)
"""Numbers of concurrent clients. Each starts a workflow, waits for its result, and starts the next."""

NAME = "trio_romancy_bench_"
"""Prefix of the names of the workflows."""

_FAR_APART = 3600 * 1_000_000
"""Upper bound of the difference between two clocks, in microseconds."""
_AT_ONCE = 500
"""Number of instances removed in one transaction."""
_CLEANING = 60.0
"""Longest time for the removal after Ctrl-C, in seconds."""


@frozen
class Rate:
    """Result of one measurement."""

    clients: int
    workflows: int
    """Number of completed workflows."""
    per_second: float


async def measure(database: str, clients: int, seconds: float, *, is_ours: bool) -> Rate:
    """Measure for this many seconds.

    Args:
      is_ours: whether the database is temporary. Otherwise its tables must exist, and the instances of this
        measurement are removed afterwards, also on cancellation.
    """
    name = NAME + secrets.token_hex(8)
    flow = _define(name)
    created_from = current_clock().now() - _FAR_APART
    try:
        # A worker deletes messages older than its retention. That of the other workers is not known here.
        async with App(database, auto_migrate=is_ours, message_retention=timedelta(days=36_500)) as app:
            await (await app.start(flow, 0)).result()  # warm-up
            return await _measure(app, flow, clients, seconds)
    finally:
        if not is_ours:
            with trio.move_on_after(_CLEANING, shield=True):
                await _remove(database, name, created_from)


async def _measure(app: App, flow: Workflow[[int], int], clients: int, seconds: float) -> Rate:
    done = 0
    numbers = itertools.count()

    async def client() -> None:
        nonlocal done
        while True:
            await (await app.start(flow, next(numbers))).result()
            done += 1

    begun = time.perf_counter()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(client)
    return Rate(clients, done, done / (time.perf_counter() - begun))


def _define(name: str) -> Workflow[[int], int]:
    """Define a workflow whose name no other worker knows."""

    @activity(name=f"{name}_step")
    async def step(number: int) -> int:
        return number

    @workflow(name=name)
    async def steps(ctx: WorkflowContext, number: int) -> int:
        await step(number)
        await step(number)
        return await step(number)

    return steps


async def reason_to_refuse(database: str, *, is_meant: bool) -> str | None:
    """Return why this database must not be measured; None if it may.

    Args:
      is_meant: whether a database with instances is allowed.
    """
    async with _open(database) as opened:
        if not is_meant and await opened.read(checks.has_instances):
            return "there are instances in the database, and measuring slows down their workers; --yes does it anyway"
        if await opened.read(incompatible.has_any):
            return "there are instances that fit the code of no worker, and a worker with other code would wake them"
    return None


async def _remove(database: str, name: str, created_from: int) -> None:
    async with _open(database) as opened:
        while await opened.run(remove_instances, name, created_from, _AT_ONCE) == _AT_ONCE:
            pass


@asynccontextmanager
async def _open(database: str) -> AsyncIterator[Database]:
    async with open_database(database) as opened:
        await retry_while_away_for(START_TIMEOUT, opened, opened.read, migrations.check)
        yield opened
