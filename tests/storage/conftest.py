"""A connection to a database with empty tables in it, for the SQL functions that need no more."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from trio_romancy._storage import migrations
from trio_romancy._storage.dialects import server_dialect_of
from trio_romancy._storage.drivers.urls import parse_server
from trio_romancy._storage.sql import tables as schema

from ..support.databases import Databases


@pytest.fixture
def connection(kind: str, database: str) -> Iterator[Connection | str]:
    """In the test, a connection in a transaction that is rolled back. On a server it is its driver's own."""
    if kind != "sqlite":
        yield database  # the connection is opened around the test, which runs inside of asyncio then
        return
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        schema.metadata.create_all(connection)
        yield connection
    engine.dispose()


@pytest.fixture
def empty(kind: str, databases: Databases) -> Iterator[Connection | str]:
    """In the test, a connection to a new database."""
    if kind != "sqlite":
        yield databases.new(kind)
        return
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    name = "empty" if "empty" in pyfuncitem.funcargs else "connection"
    url = pyfuncitem.funcargs.get(name)
    if not isinstance(url, str):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    call = on_server(url, lambda connection: pyfuncitem.obj(**arguments | {name: connection}), tables=name != "empty")
    asyncio.run(call)
    return True


async def on_server(url: str, fn: Callable[[Connection], Any], *, tables: bool) -> None:
    """Run ``fn(connection)`` on a server as :class:`~trio_romancy._storage.drivers.asyncio_server.ServerDatabase`
    does, and roll back."""
    server = parse_server(make_url(url), url)
    engine = create_async_engine(server.url, connect_args=server.connect_args, isolation_level="READ COMMITTED")

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: object) -> None:
        server_dialect_of(engine.sync_engine).set_up_connection(connection)
        connection.commit()

    try:
        if tables:
            async with engine.begin() as connection:
                await connection.run_sync(migrations.migrate)
        async with engine.connect() as connection:
            await connection.run_sync(fn)
    finally:
        await engine.dispose()
