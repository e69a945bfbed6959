"""Least cost of a durable write: one INSERT of a history row and its COMMIT on an open connection."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from typing import Any

import aiomysql
import asyncpg
from sqlalchemy import make_url

_COLUMNS = "romancy_history (instance_id, seq, operation_id, kind, payload, recorded_at)"
_WARM_UP = 20
"""Rows before the first that counts."""

Row = tuple[Any, ...]


async def seconds_each(database: str, instance_id: str, times: int) -> float:
    """Write entries of an instance, with the driver that trio_romancy uses, on asyncio. Return the seconds for each.

    SQLite runs in a thread. The tables must exist.
    """
    rows = [
        (instance_id, seq, f"increment:{seq}", "activity_completed", f'{{"result":{seq}}}', 1_700_000_000_000_000)
        for seq in range(1, _WARM_UP + times + 1)
    ]
    if "://" not in database:
        return await _on_sqlite(database, rows)
    if make_url(database).get_backend_name() == "postgresql":
        return await _on_postgresql(database, rows)
    return await _on_mariadb(database, rows)


async def _on_sqlite(path: str, rows: list[Row]) -> float:
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

        def write(row: Row) -> None:
            connection.execute(f"INSERT INTO {_COLUMNS} VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.commit()

        return await _timed(lambda row: asyncio.to_thread(write, row), rows)


async def _on_mariadb(url: str, rows: list[Row]) -> float:
    parsed = make_url(url)
    async with (
        aiomysql.connect(
            host=parsed.host or "127.0.0.1",
            port=parsed.port or 3306,
            user=parsed.username,
            password=parsed.password or "",
            db=parsed.database,
            charset="utf8mb4",
        ) as connection,
        connection.cursor() as cursor,
    ):

        async def write(row: Row) -> None:
            await cursor.execute(f"INSERT INTO {_COLUMNS} VALUES (%s, %s, %s, %s, %s, %s)", row)
            await connection.commit()

        return await _timed(write, rows)


async def _on_postgresql(url: str, rows: list[Row]) -> float:
    connection = await asyncpg.connect(url)
    try:

        async def write(row: Row) -> None:
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {_COLUMNS} VALUES ($1, $2, $3, $4, $5, $6)", *row)

        return await _timed(write, rows)
    finally:
        await connection.close()


async def _timed(write: Callable[[Row], Awaitable[None]], rows: Iterable[Row]) -> float:
    left = iter(rows)
    for _ in range(_WARM_UP):
        await write(next(left))
    times = 0
    begun = time.perf_counter()
    for row in left:
        await write(row)
        times += 1
    return (time.perf_counter() - begun) / times
