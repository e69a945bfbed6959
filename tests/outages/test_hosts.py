"""The URL names several hosts: when one is away, or of no use, the app goes on with the next."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
import trio
import trio_asyncio
from sqlalchemy import Connection, make_url, text

from trio_romancy import App, DatabaseError
from trio_romancy._storage.database import Database
from trio_romancy._storage.drivers import connections
from trio_romancy._storage.open import open_database
from trio_romancy._storage.outages import retry_while_away

from ..support import galera
from ..support.galera import Cluster
from ..support.proxy import Proxy, open_proxy
from ..support.servers import PrivateServer, execute, open_new_database, open_private_server
from .load import SLACK, open_load

clusters, cluster = galera.clusters, galera.cluster

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

CONNECT_TIMEOUT = 1
ANSWER_TIMEOUT = 2.0
LEAVE_TIMEOUT = 2.0
"""Seconds, each. The last is for how long SQLAlchemy says good-bye to a PostgreSQL that does not answer."""

NOTICED_WITHIN = 2 * (ANSWER_TIMEOUT + LEAVE_TIMEOUT) + CONNECT_TIMEOUT + 1.0 + SLACK
"""Seconds: a host that answers neither a statement nor whoever connects, and the pause before the next attempt."""


@contextmanager
def impatience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "ANSWER_TIMEOUT", ANSWER_TIMEOUT)
        yield


def url_of_all(
    url: str, ports: Sequence[int], *, user: str | None = None, connect_timeout: int = CONNECT_TIMEOUT
) -> str:
    """The same database, at several ports of this machine."""
    there = make_url(url)
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    name = user or there.username
    return f"{there.drivername}://{name}@{hosts}/{there.database}?connect_timeout={connect_timeout}"


@asynccontextmanager
async def open_two_ways(url: str) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """Two ways to one server."""
    server = make_url(url)
    assert server.host is not None and server.port is not None
    async with open_proxy(server.host, server.port) as first, open_proxy(server.host, server.port) as second:
        yield first, second


@asynccontextmanager
async def open_proxies(url: str) -> AsyncIterator[tuple[str, Proxy, Proxy]]:
    """Two ways to one server, and the URL that names both. Its database has the library's tables."""
    async with App(url, worker=False):
        pass  # making the tables may take longer than those who are impatient wait
    async with open_two_ways(url) as (first, second):
        with impatience():
            yield url_of_all(url, [first.port, second.port]), first, second


@asynccontextmanager
async def open_app(url: str) -> AsyncIterator[tuple[App, Proxy, Proxy]]:
    """An app with two ways to its server. When the block ends both are open, or the app might not come to its end."""
    async with open_proxies(url) as (url_of_both, first, second), App(url_of_both) as app:
        try:
            yield app, first, second
        finally:
            for proxy in (first, second):
                proxy.cut()
                proxy.resume()
                proxy.accept()


def lose(proxy: Proxy) -> None:
    """What the death of a host looks like."""
    proxy.refuse()
    proxy.cut()


async def quiet_down(proxy: Proxy) -> None:
    """Return when no connection is being made: one that is cut while it is set up is of a host that is away."""
    accepted = -1
    while accepted != proxy.accepted:
        accepted = proxy.accepted
        await trio.sleep(1)


# -- away --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [lose, Proxy.stall])
async def test_it_begins_with_the_second_host_if_the_first_is_away(
    database: str, loss: Callable[[Proxy], None]
) -> None:
    async with open_proxies(database) as (url, first, second):
        loss(first)
        begun = trio.current_time()
        async with App(url) as app:
            assert trio.current_time() - begun < NOTICED_WITHIN
            async with open_load(app, database, at_once=5):
                assert second.open_connections > 0
        first.resume()


async def test_it_stays_with_the_first_host_while_that_is_well(database: str) -> None:
    async with (
        open_two_ways(database) as (first, second),
        # Whoever is impatient would take a loaded machine for a host that is away.
        App(url_of_all(database, [first.port, second.port], connect_timeout=60)) as app,
    ):
        async with open_load(app, database, at_once=5) as load:
            await quiet_down(first)
            first.cut()
            await load.goes_on()
        assert (first.open_connections > 0, second.accepted) == (True, 0)


async def test_it_goes_on_with_the_next_host_round_and_round(database: str) -> None:
    async with open_app(database) as (app, first, second), open_load(app, database, at_once=5) as load:
        for lost, left in ((first, second), (second, first), (first, second)):
            left.accept()
            lose(lost)
            assert await load.goes_on() < 1.0 + SLACK
            assert left.open_connections > 0
        first.accept()
        assert await load.goes_on() < 1.0 + SLACK
        assert first.open_connections == 0, "it has left a host that is well"


async def test_it_waits_while_all_hosts_are_away(database: str) -> None:
    async with open_app(database) as (app, first, second), open_load(app, database, at_once=5) as load:
        lose(first)
        lose(second)
        await trio.sleep(2)
        second.accept()
        assert await load.goes_on() < 1.0 + SLACK


async def test_if_all_are_away_it_names_them_and_no_password(database: str, caplog: pytest.LogCaptureFixture) -> None:
    async with open_proxies(database) as (url, first, second):
        lose(first)
        lose(second)
        with pytest.raises(DatabaseError) as caught:
            async with App(url.replace("@", ":secret@"), start_timeout=0.5):
                pass
        told = f"{make_url(database).username}:***@127.0.0.1:{first.port},127.0.0.1:{second.port}/"
        assert told in str(caught.value)
        assert told in caplog.text
        assert "secret" not in str(caught.value) + caplog.text


# -- there, and of no use ----------------------------------------------------------------------------------------------

NAME = "hosts"
WRITER = "writer"
"""A user whom a server that only reads lets not write. Those who may do all, it does."""

SETUP = {
    "mariadb": [f"CREATE USER {WRITER}@'%'", f"GRANT ALL ON {NAME}.* TO {WRITER}@'%'"],
    "postgresql": [f"CREATE ROLE {WRITER} LOGIN", f"GRANT ALL ON DATABASE {NAME} TO {WRITER}"],
}
READ_ONLY = {
    "mariadb": ("SET GLOBAL read_only = 1",),
    "postgresql": ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"),
}
WRITABLE = {
    "mariadb": ("SET GLOBAL read_only = 0",),
    "postgresql": ("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"),
}


@pytest.fixture(scope="module")
def others() -> Iterator[dict[str, PrivateServer]]:
    with ExitStack() as exits:
        yield {kind: exits.enter_context(open_private_server(kind)) for kind in SETUP}


@pytest.fixture
def two_servers(kind: str, server: PrivateServer, others: dict[str, PrivateServer]) -> Iterator[list[PrivateServer]]:
    """Both with a table of the same name. They know nothing of each other."""
    servers = [server, others[kind]]
    for each in servers:
        execute(each.url(), f"CREATE DATABASE {NAME}", *SETUP[kind])
        execute(each.url(NAME), "CREATE TABLE numbers (n INTEGER)")
        execute(each.url(NAME), f"GRANT ALL ON numbers TO {WRITER}")
    yield servers
    for each in servers:
        execute(each.url(), *WRITABLE[kind])
        execute(each.url(), f"DROP DATABASE {NAME}", f"DROP USER {WRITER}")


def insert(connection: Connection, n: int) -> None:
    connection.execute(text(f"INSERT INTO numbers VALUES ({n})"))


def numbers(server: PrivateServer) -> list[int]:
    return [n for (n,) in execute(server.url(NAME), "SELECT n FROM numbers ORDER BY n")]


async def run(database: Database, n: int) -> None:
    await database.run(insert, n)


async def write(database: Database, n: int) -> None:
    async with database.open_writer() as writer:
        await writer.run(insert, n)


async def transact(database: Database, n: int) -> None:
    async with database.open_transaction() as transaction:
        await transaction.run(insert, n)
        await transaction.commit(lambda connection: None)


@pytest.mark.parametrize("way", [run, write, transact])
async def test_a_host_that_only_reads_is_left_for_the_next(
    kind: str, two_servers: list[PrivateServer], way: Callable[[Database, int], Awaitable[None]]
) -> None:
    first, second = two_servers
    several = url_of_all(first.url(NAME), [first.port, second.port], user=WRITER)
    async with trio_asyncio.open_loop(), open_database(several) as database:
        await way(database, 1)
        await trio.to_thread.run_sync(execute, first.url(), *READ_ONLY[kind])
        with trio.move_on_after(NOTICED_WITHIN) as scope:
            for n in (2, 3):
                await retry_while_away(database, way, database, n)
        assert not scope.cancelled_caught, "it goes back to the host that does not let it write"
    assert [await trio.to_thread.run_sync(numbers, server) for server in two_servers] == [[1], [2, 3]]


@pytest.fixture
def replicated(cluster: Cluster) -> Iterator[str]:
    """The URL of a new database on the first node of a cluster."""
    with open_new_database(cluster.nodes[0].url()) as url:
        yield url
        cluster.heal()  # or it could not be dropped


async def test_a_node_that_has_lost_its_cluster_is_left_for_the_next(cluster: Cluster, replicated: str) -> None:
    first, second, _ = cluster.nodes
    url = url_of_all(replicated, [node.port for node in cluster.nodes])
    on_second = second.url(make_url(replicated).database or "")

    def isolate(*, is_alone: bool) -> None:
        execute(first.url(), f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={int(is_alone)}'")

    def wait_until_alone() -> None:
        while first.status("cluster_status") != "non-Primary":
            time.sleep(0.05)

    async with App(url) as app, open_load(app, on_second, at_once=5) as load:
        await trio.to_thread.run_sync(lambda: isolate(is_alone=True))
        await trio.to_thread.run_sync(wait_until_alone)
        assert await load.goes_on() < NOTICED_WITHIN
        await trio.to_thread.run_sync(lambda: isolate(is_alone=False))
        await trio.to_thread.run_sync(cluster.wait_until_synced)
        assert await load.goes_on() < SLACK
