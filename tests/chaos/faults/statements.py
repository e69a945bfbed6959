"""Statements that are killed, take too long for the server, or wait for locks that an outsider holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import trio

from ..target import Target
from ..worker import LEASE
from .fault import Fault, Scene, ServerFault, SmallFault

_logger = logging.getLogger("chaos.nemesis")

BURST = 0.5
"""Seconds for which statements are killed. Less than a lease can do without a renewal."""

PAUSE = 0.02

SHORT_LIMITS = [2, 20, 100]
"""Milliseconds that a statement may take for a while."""

TABLES = ["romancy_instances", "romancy_history", "romancy_messages", "romancy_waits", "romancy_workers"]


def faults(target: Target) -> list[Fault]:
    locks: list[Fault] = [ServerFault("lock", 2, lock)]
    if target.product == "sqlite":
        return locks
    return [
        SmallFault("killed queries", 2, kill_queries),
        ServerFault("statement timeout", 1, limit_statements),
        *locks,
    ]


async def kill_queries(scene: Scene) -> None:
    """Kill what workers ask for just now, for a while."""
    kill = _kill_on_postgresql if scene.target.product == "postgresql" else _kill_on_mariadb
    killed = 0
    with trio.move_on_after(BURST):
        while True:
            with suppress(*scene.target.errors):
                killed += await trio.to_thread.run_sync(kill, scene.target)
            await trio.sleep(PAUSE)
    _logger.info("%d queries were killed", killed)


def _kill_on_mariadb(target: Target) -> int:
    killed = 0
    for server in range(target.servers):
        sql = "SELECT id FROM information_schema.processlist WHERE user LIKE 'worker%' AND command = 'Query'"
        for (id,) in target.execute(sql, server=server):
            with suppress(*target.errors):  # it may have ended
                target.execute(f"KILL QUERY {id}", server=server)
                killed += 1
    return killed


def _kill_on_postgresql(target: Target) -> int:
    sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'worker%' AND state = 'active'"
    return len(target.execute(sql))


async def limit_statements(scene: Scene) -> None:
    """Let the server end all statements of all that take long, and what is long is short."""
    milliseconds = scene.dice.choice(SHORT_LIMITS)
    seconds = scene.dice.uniform(0.25, 0.5) * LEASE
    if scene.target.product == "postgresql":
        await scene.insist(
            partial(
                scene.target.execute,
                f"ALTER SYSTEM SET statement_timeout = {milliseconds}",
                "SELECT pg_reload_conf()",
            )
        )
        await trio.sleep(seconds)
        await scene.insist(
            partial(
                scene.target.execute,
                "SET statement_timeout = 0",
                "ALTER SYSTEM RESET statement_timeout",
                "SELECT pg_reload_conf()",
            )
        )
        return
    await _limit_on_mariadb(scene, milliseconds / 1000)
    await trio.sleep(seconds)
    await _limit_on_mariadb(scene, 0)


async def _limit_on_mariadb(scene: Scene, seconds: float) -> None:
    for server in range(scene.target.servers):
        sql = f"SET GLOBAL max_statement_time = {seconds}"
        await scene.insist(partial(scene.target.execute, sql, server=server))
    for way in scene.target.ways:
        way.cut()  # it holds for new connections


async def lock(scene: Scene) -> None:
    """An outsider holds locks that all wait for: the rows of a table, the whole of it, or a whole SQLite file."""
    seconds = scene.half_to_three_leases()
    table, whole = scene.dice.choice(TABLES), scene.dice.random() < 0.5
    statements = _lock(scene.target, table, seconds, whole=whole)
    with suppress(*scene.target.errors):  # a cluster ends it in favour of what other nodes have written
        await trio.to_thread.run_sync(partial(scene.target.execute, *statements))


def _lock(target: Target, table: str, seconds: float, *, whole: bool) -> Sequence[str]:
    if target.product == "sqlite":
        return ["BEGIN IMMEDIATE", f"SELECT pause({seconds})", "ROLLBACK"]
    if target.product == "postgresql":
        taking = f"LOCK TABLE {table} IN EXCLUSIVE MODE" if whole else f"SELECT 1 FROM {table} FOR UPDATE"
        return ["BEGIN", taking, f"SELECT pg_sleep({seconds})", "ROLLBACK"]
    if whole and target.servers == 1:
        return [f"LOCK TABLES {table} WRITE", f"DO SLEEP({seconds})", "UNLOCK TABLES"]
    return ["START TRANSACTION", f"SELECT * FROM {table} FOR UPDATE", f"DO SLEEP({seconds})", "ROLLBACK"]
