"""What a chaos runs on: a database, what leads to it, and what can be done to it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Any, Protocol

import sqlalchemy as sa
import trio
from attrs import define, field, frozen
from sqlalchemy import make_url
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from ..support.galera import Cluster
from ..support.proxy import Proxy, open_proxy
from ..support.servers import PRODUCTS, PrivateServer, execute
from .worker import LEASE
from .workflows import ACCOUNTS, BALANCE, accounts, ledger, tables

Row = tuple[Any, ...]

LONGEST_OUTAGE = 3 * LEASE
"""Seconds between the death of a server and its start."""

LONGEST_FREEZE = 4.0
"""Seconds that one node is frozen. For the first the other nodes wait, then they do without it."""

WORKERS = [f"worker{number}" for number in range(1, 2001)]
"""Ids of all workers that there can be, each a user of the database. Made one by one, they would have to wait until
every node of a cluster knows them, which a frozen one does not."""

writes = sa.Table(
    "chaos_writes",
    tables,
    sa.Column("instance_id", sa.String(100), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("writer", sa.String(100), nullable=False),
    sa.Column("leases", sa.Integer, nullable=False),
    sa.Column("owner", sa.String(100)),
)
"""Who has written each entry of the journal, how many leases he held at that moment, and who owned the instance."""


@frozen
class Disaster:
    """Something that servers recover from."""

    strike: Callable[[Random], Awaitable[None]]
    """Returns when they have recovered."""
    spares_some: bool = False
    """Whether some workers may go on, so that they rightly end the leases of the others."""


@define(eq=False)
class Way:
    """What leads one worker, or the driver, to the database: a proxy for each host that its URL names, in its order."""

    proxies: Sequence[Proxy]

    def url(self, url: str) -> str:
        """The same database URL, led this way."""
        there = make_url(url)
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)
        return f"{there.drivername}://{there.username}@{hosts}/{there.database}"

    @property
    def main_proxy(self) -> Proxy:
        """The one that is used most just now."""
        return max(self.proxies, key=lambda proxy: proxy.open_connections)

    def cut(self) -> None:
        for proxy in self.proxies:
            proxy.cut()

    def stall(self) -> None:
        for proxy in self.proxies:
            proxy.stall()

    def resume(self) -> None:
        for proxy in self.proxies:
            proxy.resume()


class Target(Protocol):
    name: str
    slots: int
    """How many workers there are at once."""
    ways: Sequence[Way]
    """One for each slot, and one for the driver. Or none, if it is a file."""
    watches_writers: bool
    """Whether it is known who has written an entry."""

    @property
    def product(self) -> str:
        """``"sqlite"``, ``"mariadb"`` or ``"postgresql"``."""
        ...

    @property
    def servers(self) -> int:
        """How many there are of it."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What :meth:`execute` raises if the database is away, or refuses a statement."""
        ...

    @property
    def disasters(self) -> Mapping[str, Disaster]:
        """What can happen to its servers, one at a time."""
        ...

    def make_tables(self) -> None:
        """Make those of the suite, and let its workers in. The library's tables are there."""
        ...

    def url(self, slot: int, worker_id: str) -> str:
        """Where a worker finds the database. Its id is one of :data:`WORKERS`."""
        ...

    def execute(self, *statements: str, server: int = 0) -> list[Row]:
        """Execute statements as an outsider, each by itself, and return the rows of the last. It blocks."""
        ...

    def execute_at_once(self, *statements: str) -> None:
        """Execute statements as an outsider, in one transaction. It blocks."""
        ...

    @property
    def client_url(self) -> str:
        """Where the driver finds the database."""
        ...


# -- a file ------------------------------------------------------------------------------------------------------------


@define(eq=False)
class FileTarget:
    """SQLite. There is no server, there are no users, and there is nothing to cut."""

    path: Path
    name: str = "sqlite"
    slots: int = 2
    ways: Sequence[Way] = ()
    watches_writers: bool = False
    product: str = "sqlite"
    servers: int = 1
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    disasters: Mapping[str, Disaster] = field(factory=dict)

    @property
    def client_url(self) -> str:
        return str(self.path)

    def make_tables(self) -> None:
        self.execute_at_once(*_tables(sqlite.dialect()))

    def url(self, slot: int, worker_id: str) -> str:
        return str(self.path)

    def execute(self, *statements: str, server: int = 0) -> list[Row]:
        """The function ``pause(seconds)`` is one of this connection."""
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            connection.create_function("pause", 1, time.sleep)
            rows: list[Row] = []
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            return rows

    def execute_at_once(self, *statements: str) -> None:
        self.execute("BEGIN IMMEDIATE", *statements, "COMMIT")


@asynccontextmanager
async def open_file_target(path: Path) -> AsyncIterator[Target]:
    """A target on an SQLite file."""
    yield FileTarget(path)


# -- servers -----------------------------------------------------------------------------------------------------------


@frozen
class _Product:
    dialect: sa.Dialect
    admit: Sequence[str]
    """Statements that make users who may do what docs/how-to/databases.md asks for, and no more."""
    watch: Sequence[str]
    """Statements that make every insertion into the journal be noted in :data:`writes`."""


_NOTE = """
    INSERT INTO chaos_writes (instance_id, seq, writer, leases, owner)
    SELECT NEW.instance_id, NEW.seq, {me},
      (SELECT count(*) FROM romancy_workers WHERE worker_id = {me}),
      (SELECT owner FROM romancy_instances WHERE instance_id = NEW.instance_id)
"""

_MARIADB = _Product(
    mysql.dialect(),
    [
        "CREATE USER {users}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {users}",
    ],
    [
        "CREATE TRIGGER chaos_watch AFTER INSERT ON romancy_history FOR EACH ROW"
        + _NOTE.format(me="CONVERT(SUBSTRING_INDEX(USER(), '@', 1) USING utf8mb4) COLLATE utf8mb4_bin")
    ],
)
_POSTGRESQL = _Product(
    postgresql.dialect(),  # type: ignore[no-untyped-call]
    [
        "CREATE ROLE chaos_workers",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO chaos_workers",
        """
        DO $$
        DECLARE name text;
        BEGIN
          FOREACH name IN ARRAY string_to_array('{users}', ', ') LOOP
            EXECUTE format('CREATE ROLE %I LOGIN IN ROLE chaos_workers', name);
          END LOOP;
        END $$
        """,
    ],
    [
        f"""
        CREATE FUNCTION chaos_watch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
          {_NOTE.format(me="session_user")};
          RETURN NULL;
        END $$
        """,
        "CREATE TRIGGER chaos_watch AFTER INSERT ON romancy_history FOR EACH ROW EXECUTE FUNCTION chaos_watch()",
    ],
)


@define(eq=False)
class ServerTarget:
    """A database on one server, or on a cluster of several over which the workers are spread."""

    name: str
    disasters: Mapping[str, Disaster]
    ways: Sequence[Way]
    slots: int
    _urls: Sequence[str]
    """Of the database on each of its servers."""
    watches_writers: bool = True

    @property
    def client_url(self) -> str:
        return self.ways[-1].url(self._urls[0])

    def make_tables(self) -> None:
        database = make_url(self._urls[0]).database
        admit = [statement.format(users=", ".join(WORKERS), database=database) for statement in self._product.admit]
        self.execute(*_tables(self._product.dialect), *self._product.watch, *admit)

    def url(self, slot: int, worker_id: str) -> str:
        own = make_url(self._urls[0]).set(username=worker_id)
        return self.ways[slot].url(own.render_as_string())

    def execute(self, *statements: str, server: int = 0) -> list[Row]:
        if self.servers > 1:
            statements = ("SET wsrep_sync_wait = 1", *statements)
        return execute(self._urls[server], *statements)

    def execute_at_once(self, *statements: str) -> None:
        self.execute("BEGIN", *statements, "COMMIT")

    @property
    def product(self) -> str:
        return "postgresql" if self._urls[0].startswith("postgres") else "mariadb"

    @property
    def servers(self) -> int:
        return len(self._urls)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return PRODUCTS[self.product].errors

    @property
    def _product(self) -> _Product:
        return _POSTGRESQL if self.product == "postgresql" else _MARIADB


@asynccontextmanager
async def open_server_target(name: str, server: PrivateServer, database: str, slots: int = 4) -> AsyncIterator[Target]:
    """A target on one server."""

    async def outage(dice: Random) -> None:
        await trio.to_thread.run_sync(server.kill)
        await trio.sleep(dice.uniform(0, LONGEST_OUTAGE))
        await trio.to_thread.run_sync(server.start)

    async def freeze(dice: Random) -> None:
        await trio.to_thread.run_sync(server.freeze)
        await trio.sleep(LEASE * dice.uniform(0.5, 3))
        server.thaw()

    disasters = {"outage": Disaster(outage), "server frozen": Disaster(freeze)}
    async with _open_ways([server.url()], slots) as ways:
        yield ServerTarget(name, disasters, ways, slots, [server.url(database)])


@asynccontextmanager
async def open_cluster_target(name: str, cluster: Cluster, database: str, slots: int = 4) -> AsyncIterator[Target]:
    """A target on a Galera cluster. Each worker has a node of its own, and goes to the others if that is away."""

    async def kill_node(dice: Random) -> None:
        node = dice.choice(cluster.nodes)
        await trio.to_thread.run_sync(node.kill)
        await trio.sleep(dice.uniform(0, LONGEST_OUTAGE))
        await trio.to_thread.run_sync(cluster.heal)

    async def freeze_node(dice: Random) -> None:
        node = dice.choice(cluster.nodes)
        await trio.to_thread.run_sync(node.freeze)
        await trio.sleep(dice.uniform(0, LONGEST_FREEZE))
        await trio.to_thread.run_sync(cluster.heal)

    async def kill_all_nodes(dice: Random) -> None:
        await trio.to_thread.run_sync(cluster.kill)
        await trio.sleep(dice.uniform(0, LONGEST_OUTAGE))
        await trio.to_thread.run_sync(cluster.start)

    disasters = {
        "node killed": Disaster(kill_node, spares_some=True),
        "node frozen": Disaster(freeze_node, spares_some=True),
        "all nodes killed": Disaster(kill_all_nodes),
    }
    async with _open_ways([node.url() for node in cluster.nodes], slots) as ways:
        yield ServerTarget(name, disasters, ways, slots, [node.url(database) for node in cluster.nodes])


@asynccontextmanager
async def _open_ways(servers: Sequence[str], slots: int) -> AsyncIterator[list[Way]]:
    """For each slot and the driver one that leads to all servers, and each begins with the next of them."""
    async with AsyncExitStack() as exits:
        ways = []
        for first in [*range(slots), 0]:
            proxies = []
            for number in range(len(servers)):
                server = make_url(servers[(first + number) % len(servers)])
                assert server.host is not None and server.port is not None
                proxies.append(await exits.enter_async_context(open_proxy(server.host, server.port)))
            ways.append(Way(proxies))
        yield ways


def _tables(dialect: sa.Dialect) -> list[str]:
    made = [str(CreateTable(table).compile(dialect=dialect)) for table in (accounts, ledger, writes)]
    first = ", ".join(f"({number}, {BALANCE})" for number in range(ACCOUNTS))
    return [*made, f"INSERT INTO chaos_accounts (id, balance) VALUES {first}"]
