"""Worker processes that are killed, frozen and cut off, on a database that dies, and what is left when it is over.

``TRIO_ROMANCY_CHAOS`` is for how many seconds each database is disturbed, and ``TRIO_ROMANCY_CHAOS_SEED`` chooses
the faults. The same seed gives the same faults at about the same times, not the same run.
``TRIO_ROMANCY_CHAOS_FAULTS`` names the faults to keep to, as in ``kill,blackout``.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio
from sqlalchemy import make_url

from ..support.databases import SHARED_KINDS, opened
from ..support.galera import open_cluster
from ..support.servers import PRODUCTS, open_private_server
from .chaos import Report, run_chaos
from .target import Target, open_cluster_target, open_file_target, open_server_target

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="workers and servers are watched by Linux's means"),
]

SECONDS = float(os.environ.get("TRIO_ROMANCY_CHAOS", "15"))
"""How long the nemesis is at work."""

PATIENCE = 600.0
"""Seconds for all the rest: servers start, and start again, and all that was begun ends."""

SEED = int(os.environ.get("TRIO_ROMANCY_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)

FAULTS = frozenset(filter(None, os.environ.get("TRIO_ROMANCY_CHAOS_FAULTS", "").split(","))) or None

DATABASE = "chaos"
"""It goes with its server."""


@pytest.fixture
def exits() -> Iterator[ExitStack]:
    with ExitStack() as exits:
        yield exits


@pytest.mark.time_limit(SECONDS + PATIENCE)
@pytest.mark.parametrize("kind", [*SHARED_KINDS, "galera"])
def test_nothing_is_lost_or_done_twice_whatever_dies(kind: str, exits: ExitStack, tmp_path: Path) -> None:
    async def run() -> Report:
        async with make_target() as target:
            return await run_chaos(target, tmp_path, seed=SEED, seconds=SECONDS, faults=FAULTS)

    make_target = target_of(kind, exits, tmp_path)
    print(f"\n{kind}: seed {SEED}, logs in {tmp_path}")
    report = trio.run(run)
    print(report)
    assert not report.violations, str(report)
    assert report.faults


@pytest.mark.parametrize("kind", [*PRODUCTS, "galera"])
def test_the_checker_finds_out_if_the_fence_is_broken(kind: str, exits: ExitStack, tmp_path: Path) -> None:
    async def run(make_target: Callable[[], AbstractAsyncContextManager[Target]], logs: Path) -> Report:
        async with make_target() as target:
            return await run_chaos(
                target,
                logs,
                seed=SEED,
                seconds=8,
                options=["--without-fence"],
                faults=frozenset({"freeze"}),
                finish_within=5,
            )

    # Somebody must have been frozen in the midst of his work, which on a busy machine may take more than one run.
    for attempt in range(4):
        logs = tmp_path / str(attempt)
        logs.mkdir()
        report = trio.run(run, target_of(kind, exits, logs), logs)
        print(f"{report.name}, without a fence: {len(report.violations)} violations, such as {report.violations[:3]}")
        if any("under a revoked lease" in violation for violation in report.violations):
            return
    pytest.fail("nobody has written under a revoked lease, or the checker did not see it")


def target_of(kind: str, exits: ExitStack, directory: Path) -> Callable[[], AbstractAsyncContextManager[Target]]:
    """What opens the target of that kind, on a new database on private servers, which may die."""
    if kind == "file":
        return partial(open_file_target, directory / "chaos.db")
    if kind == "galera":
        cluster = opened({}, kind, lambda: exits.enter_context(open_cluster()))
        PRODUCTS["mariadb"].create(make_url(cluster.nodes[0].url()), DATABASE)
        return partial(open_cluster_target, kind, cluster, DATABASE)
    server = opened({}, kind, lambda: exits.enter_context(open_private_server(kind)))
    PRODUCTS[kind].create(make_url(server.url()), DATABASE)
    return partial(open_server_target, kind, server, DATABASE)
