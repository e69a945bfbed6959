"""Apps on databases of one kind share their compiled SQL, and those of different kinds do not."""

from __future__ import annotations

from typing import Any

import pytest
import trio_asyncio
from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.dialects import mysql
from sqlalchemy.dialects.mysql import aiomysql
from sqlalchemy.engine.interfaces import CacheStats

from trio_romancy._storage import migrations
from trio_romancy._storage.drivers.compiled_sql import SharedCache
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql.tables import instances

from ..support.databases import ALL_KINDS


@pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
async def test_a_statement_is_compiled_once_however_many_apps_run_it(kind: str, database: str) -> None:
    seen: list[CacheStats] = []
    # One of its own: other tests have compiled those of the app.
    statement = select(instances.c.owner.label(f"compiled_once_{kind}")).limit(1)

    def before(connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
        if "compiled_once" in text:
            seen.append(context.cache_hit)

    def run(connection: Connection) -> None:
        connection.execute(statement).all()

    event.listen(Engine, "before_cursor_execute", before)
    try:
        for _ in range(2):
            async with trio_asyncio.open_loop(), open_database(database) as opened:
                await opened.run_long(migrations.migrate)
                await opened.run(run)
                async with opened.open_writer() as writer:
                    await writer.run(run)
    finally:
        event.remove(Engine, "before_cursor_execute", before)
    drivers = 2 if kind == "mariadb" else 1  # the journal writes with another one there
    assert seen.count(CacheStats.CACHE_MISS) == drivers
    assert seen.count(CacheStats.CACHE_HIT) == 4 - drivers


def test_what_the_sql_depends_on_is_not_shared() -> None:
    def dialect(version: tuple[int, ...], *, of_mariadb: bool = True, quotes_as_ansi: bool = False) -> Any:
        made = aiomysql.dialect()
        made.server_version_info, made.is_mariadb = version, of_mariadb
        made.identifier_preparer = made.preparer(made, server_ansiquotes=quotes_as_ansi)
        return made

    cache = SharedCache()
    new = dialect((11, 4))
    key = ("statement", (), False, False)
    compiled: Any = object()
    cache[(new, *key)] = compiled
    assert cache.get((dialect((11, 4)), *key)) is cache[(new, *key)] is compiled
    others = [
        dialect((10, 6)),
        dialect((11, 4), of_mariadb=False),
        dialect((11, 4), quotes_as_ansi=True),
        mysql.pymysql.dialect(),
    ]
    assert [cache.get((other, *key)) for other in others] == [None] * 4
    del cache[(new, *key)]
    assert list(cache) == [] and len(cache) == 0
