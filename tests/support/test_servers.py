"""The servers that the other tests rely on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import trio
import trio_asyncio
from sqlalchemy import make_url

from . import servers
from .servers import (
    PREFIX,
    PRODUCTS,
    PrivateServer,
    ServerMissingError,
    execute,
    open_new_database,
    open_private_server,
    open_server,
)

pytestmark = pytest.mark.long

SETTINGS: dict[str, dict[str, object]] = {
    "mariadb": {"max_connections": 12, "innodb_buffer_pool_size": "64M", "log_bin": "log"},
    "postgresql": {"max_connections": 12, "shared_buffers": "24MB"},
}
APPLIED = {
    "mariadb": ("SELECT @@max_connections, @@innodb_buffer_pool_size, @@log_bin", (12, 64 << 20, 1)),
    "postgresql": ("SELECT current_setting('max_connections'), current_setting('shared_buffers')", ("12", "24MB")),
}
DURABILITY = {
    "mariadb": ("SELECT @@innodb_flush_log_at_trx_commit", (1,)),
    "postgresql": ("SELECT current_setting('fsync'), current_setting('synchronous_commit')", ("on", "on")),
}
DATABASES = {
    "mariadb": f"SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE '{PREFIX}%'",
    "postgresql": f"SELECT datname FROM pg_database WHERE datname LIKE '{PREFIX}%'",
}
SLEEP = {"mariadb": "SELECT SLEEP(20)", "postgresql": "SELECT pg_sleep(20)"}
SLEEPERS = {
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(20)'",
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(20)' AND state = 'active'",
}

OWNER = """
import sys, time
from tests.support.servers import open_private_server

with open_private_server(sys.argv[1]) as server:
    if sys.argv[2] == "frozen":
        server.freeze()
    print(server._directory, server.url(), flush=True)
    time.sleep(60)
"""
"""A process that has a private server, and says which."""


@pytest.fixture(scope="module", params=PRODUCTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def private_server(kind: str) -> Iterator[PrivateServer]:
    try:
        with open_private_server(kind, settings=SETTINGS[kind]) as server:
            yield server
    except ServerMissingError as missing:
        pytest.skip(str(missing))


def fall_asleep(kind: str, server: PrivateServer) -> Thread:
    """A client whose statement runs for long, or until its server is killed."""

    def client() -> None:
        with pytest.raises(PRODUCTS[kind].errors):
            execute(server.url(), SLEEP[kind])

    thread = Thread(target=client)
    thread.start()
    while execute(server.url(), SLEEPERS[kind]) != [(1,)]:
        time.sleep(0.01)
    return thread


def test_what_was_committed_survives_a_kill(kind: str, private_server: PrivateServer) -> None:
    with open_new_database(private_server.url()) as url:
        execute(url, "CREATE TABLE t (n INTEGER)")
        for n in range(3):
            sleeper = fall_asleep(kind, private_server)
            execute(url, f"INSERT INTO t VALUES ({n})")
            private_server.kill()
            sleeper.join()
            with pytest.raises(PRODUCTS[kind].errors):
                execute(url, "SELECT 1")
            private_server.start()
        assert execute(url, "SELECT n FROM t ORDER BY n") == [(0,), (1,), (2,)]


def test_what_was_committed_survives_an_orderly_end(private_server: PrivateServer) -> None:
    with open_new_database(private_server.url()) as url:
        execute(url, "CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (7)")
        private_server.stop()
        private_server.start()
        assert execute(url, "SELECT n FROM t") == [(7,)]


@pytest.mark.real_clock
async def test_a_frozen_server_does_not_answer_until_it_thaws(private_server: PrivateServer) -> None:
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await trio.to_thread.run_sync(execute, private_server.url(), "SELECT 1"))

    private_server.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.3)
        assert answers == []
        private_server.thaw()
    assert answers == [[(1,)]]


def test_a_frozen_server_can_be_killed(private_server: PrivateServer) -> None:
    private_server.freeze()
    private_server.kill()
    private_server.start()


def test_settings_are_applied(kind: str, private_server: PrivateServer) -> None:
    question, answer = APPLIED[kind]
    assert execute(private_server.url(), question) == [answer]


def test_a_commit_waits_for_the_disk(kind: str, private_server: PrivateServer) -> None:
    question, answer = DURABILITY[kind]
    assert execute(private_server.url(), question) == [answer]


def test_nothing_listens_beyond_127_0_0_1(private_server: PrivateServer) -> None:
    socket.create_connection(("127.0.0.1", private_server.port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", private_server.port))


def test_mariadb_keeps_its_temporary_files_apart(kind: str, private_server: PrivateServer) -> None:
    if kind == "mariadb":  # PostgreSQL's are with its data
        assert execute(private_server.url(), "SELECT @@tmpdir") == [(str(private_server._directory),)]


def test_what_cannot_be_done_now_is_refused(private_server: PrivateServer) -> None:
    with pytest.raises(RuntimeError, match="it runs"):
        private_server.start()
    private_server.kill()
    private_server.kill()
    for command in (private_server.freeze, private_server.thaw, private_server.stop):
        with pytest.raises(RuntimeError, match="does not run"):
            command()
    private_server.start()


def test_a_server_that_does_not_start_shows_its_log(private_server: PrivateServer) -> None:
    private_server.kill()
    private_server.settings["no_such_setting"] = 1
    try:
        with pytest.raises(RuntimeError, match=r"(?s)its log ends:.*no_such_setting"):
            private_server.start()
    finally:
        del private_server.settings["no_such_setting"]
        private_server.start()


def test_a_database_is_dropped_however_its_block_ends(kind: str, private_server: PrivateServer) -> None:
    with pytest.raises(KeyboardInterrupt), open_new_database(private_server.url()) as url:
        assert execute(private_server.url(), DATABASES[kind]) == [(make_url(url).database,)]
        raise KeyboardInterrupt
    assert execute(private_server.url(), DATABASES[kind]) == []


def test_a_test_that_fails_while_its_server_is_down_says_why_it_failed(private_server: PrivateServer) -> None:
    with pytest.raises(ZeroDivisionError), open_new_database(private_server.url()) as url:
        private_server.kill()
        raise ZeroDivisionError
    private_server.start()
    execute(private_server.url(), f"DROP DATABASE {make_url(url).database}")


def test_a_database_is_dropped_while_clients_are_in_it(kind: str, private_server: PrivateServer) -> None:
    def client(url: str) -> None:
        with pytest.raises(PRODUCTS[kind].errors):
            execute(url, "CREATE TABLE t (n INTEGER)", "BEGIN", "INSERT INTO t VALUES (1)", SLEEP[kind])

    with open_new_database(private_server.url()) as url:
        thread = Thread(target=client, args=[url])
        thread.start()
        while execute(private_server.url(), SLEEPERS[kind]) != [(1,)]:
            time.sleep(0.01)
    thread.join()
    assert execute(private_server.url(), DATABASES[kind]) == []


def test_only_postgresql_can_be_told_per_database_not_to_wait_for_the_disk(private_server: PrivateServer) -> None:
    with open_new_database(private_server.url(), synchronous_commit=False) as url:
        if url.startswith("postgresql:"):
            assert execute(url, "SHOW synchronous_commit") == [("off",)]


@pytest.mark.real_clock
async def test_it_is_usable_beside_trio_asyncio(private_server: PrivateServer) -> None:
    async with trio_asyncio.open_loop():
        assert execute(private_server.url(), "SELECT 1") == [(1,)]
        assert await trio.to_thread.run_sync(execute, private_server.url(), "SELECT 1") == [(1,)]


@pytest.mark.parametrize("state", ["running", "frozen"])
def test_the_server_of_a_killed_process_dies_and_its_directory_goes(
    kind: str, private_server: PrivateServer, state: str
) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, kind, state], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory, url = owner.stdout.readline().split()
    processes = servers._children(owner.pid)
    processes += [child for process in processes for child in servers._children(process)]
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    servers._wait_until(servers._is_dead, processes)
    assert not Path(directory).exists()
    with pytest.raises(PRODUCTS[kind].errors):
        execute(url, "SELECT 1")


def nowhere(kind: str) -> str:
    """The URL of a server that is not there."""
    return make_url(PRODUCTS[kind].usual_url).set(port=servers._free_port()).render_as_string()


def test_a_named_server_comes_first(kind: str, private_server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRODUCTS[kind].variable, private_server.url())
    with open_server(kind) as url:
        assert url == private_server.url()


def test_a_named_server_that_is_not_there_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRODUCTS[kind].variable, nowhere(kind))
    with pytest.raises(RuntimeError, match=PRODUCTS[kind].variable), open_server(kind):
        pass


def test_then_the_usual_one(kind: str, private_server: PrivateServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRODUCTS[kind].variable, raising=False)
    monkeypatch.setattr(type(PRODUCTS[kind]), "usual_url", private_server.url())
    with open_server(kind) as url:
        assert url == private_server.url()


@pytest.mark.parametrize("is_preferred", [False, True])
def test_then_a_private_one_or_first_if_that_is_preferred(
    kind: str, private_server: PrivateServer, is_preferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PRODUCTS[kind].variable, raising=False)
    monkeypatch.setattr(type(PRODUCTS[kind]), "usual_url", private_server.url() if is_preferred else nowhere(kind))
    with open_server(kind, prefers_private=is_preferred) as url, open_new_database(url) as database:
        assert url != private_server.url()
        execute(database, "CREATE TABLE t (n INTEGER)")
    with pytest.raises(PRODUCTS[kind].errors):
        execute(url, "SELECT 1")


def test_the_usual_one_is_taken_if_no_private_one_can_be_started(
    kind: str, private_server: PrivateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PRODUCTS[kind].variable, raising=False)
    monkeypatch.setattr(type(PRODUCTS[kind]), "usual_url", private_server.url())
    monkeypatch.setattr(servers, "PLACES", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with open_server(kind, prefers_private=True) as url:
        assert url == private_server.url()


def test_if_there_is_none_it_says_what_to_install(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRODUCTS[kind].variable, raising=False)
    monkeypatch.setattr(type(PRODUCTS[kind]), "usual_url", nowhere(kind))
    monkeypatch.setattr(servers, "PLACES", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissingError, match=f"apt-get install {PRODUCTS[kind].package}"), open_server(kind):
        pass
