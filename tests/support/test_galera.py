"""The Galera cluster that other tests rely on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest
from sqlalchemy import make_url

from . import galera
from .galera import Cluster, Node
from .servers import MariaDB, ServerMissingError, execute, open_new_database

pytestmark = pytest.mark.long

clusters, cluster = galera.clusters, galera.cluster

OWNER = """
import time
from tests.support.galera import open_cluster

with open_cluster() as cluster:
    for node in cluster.nodes:
        print(node._server._directory, flush=True)
    time.sleep(60)
"""
"""A process that has a cluster, and says which."""


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The name of a database with a table of numbers, on all nodes."""
    with open_new_database(cluster.nodes[0].url()) as url:
        execute(url, "CREATE TABLE numbers (id INTEGER PRIMARY KEY, n INTEGER)")
        name = make_url(url).database
        assert name is not None
        for node in cluster.nodes:
            assert numbers(node, name) == []  # one that dies while it makes the table may come back without it
        yield name
        cluster.heal()  # or it could not be dropped


def insert(node: Node, database: str, number: int) -> None:
    # It waits for what others have committed, be it the table itself.
    execute(node.url(database), "SET wsrep_sync_wait = 7", f"INSERT INTO numbers VALUES ({number}, 0)")


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def numbers(node: Node, database: str) -> list[int]:
    rows = execute(node.url(database), "SET wsrep_sync_wait = 1", "SELECT id FROM numbers ORDER BY id")
    return [number for (number,) in rows]


def test_what_one_node_has_committed_all_have(cluster: Cluster, database: str) -> None:
    for number, node in enumerate(cluster.nodes):
        insert(node, database, number)
    assert [numbers(node, database) for node in cluster.nodes] == [[0, 1, 2]] * 3


def test_two_go_on_when_one_is_killed_and_it_catches_up(cluster: Cluster, database: str) -> None:
    first, second, third = cluster.nodes
    first.kill()
    insert(second, database, 1)
    assert numbers(third, database) == [1]
    with pytest.raises(MariaDB.errors):
        numbers(first, database)
    first.restart()
    assert numbers(first, database) == [1]
    assert first.status("cluster_size") == "3"


def test_one_that_has_stopped_catches_up(cluster: Cluster, database: str) -> None:
    first, second, _ = cluster.nodes
    first.stop()
    insert(second, database, 1)
    assert second.status("cluster_size") == "2"
    first.restart()
    assert numbers(first, database) == [1]


def test_one_that_was_frozen_catches_up_by_itself(cluster: Cluster, database: str) -> None:
    first, second, _ = cluster.nodes
    first.freeze()
    insert(second, database, 1)
    until(lambda: second.status("cluster_size") == "2")  # it may have been let in before the others had noticed
    first.thaw()
    cluster.wait_until_synced()
    assert numbers(first, database) == [1]


def test_one_that_has_lost_its_data_is_given_all(cluster: Cluster, database: str) -> None:
    first, second, _ = cluster.nodes
    insert(second, database, 1)
    first.kill()
    first.lose_data()
    first.restart()
    assert numbers(first, database) == [1]


def test_one_alone_refuses_statements_and_is_healed(cluster: Cluster, database: str) -> None:
    first, second, third = cluster.nodes
    insert(first, database, 1)
    second.kill()
    third.kill()
    with pytest.raises(MariaDB.errors):  # which one depends on whether it has already found out
        insert(first, database, 2)
    with pytest.raises(pymysql.OperationalError, match="1047"):
        insert(first, database, 3)
    cluster.heal()
    assert [numbers(node, database)[0] for node in cluster.nodes] == [1, 1, 1]


@pytest.mark.parametrize("how", [Node.kill, Node.stop])
def test_all_can_end_and_start_again_and_who_ended_last_knows_best(
    cluster: Cluster, database: str, how: Callable[[Node], None]
) -> None:
    first, second, third = cluster.nodes
    how(third)
    insert(second, database, 1)
    how(first)
    how(second)
    cluster.start()
    assert [numbers(node, database) for node in cluster.nodes] == [[1]] * 3


def test_of_two_who_change_a_row_on_different_nodes_one_is_told_of_a_deadlock(cluster: Cluster, database: str) -> None:
    insert(cluster.nodes[0], database, 1)
    assert numbers(cluster.nodes[1], database) == [1]
    one, other = (
        pymysql.connect(host="127.0.0.1", port=node.port, user="root", database=database) for node in cluster.nodes[:2]
    )
    with one, other:
        for connection, n in ((one, 10), (other, 20)):
            # Neither waits for the other: locks are of one node.
            connection.cursor().execute(f"UPDATE numbers SET n = {n} WHERE id = 1")
        one.commit()
        with pytest.raises(pymysql.OperationalError, match="1213"):
            other.commit()
    assert execute(cluster.nodes[1].url(database), "SET wsrep_sync_wait = 1", "SELECT n FROM numbers") == [(10,)]


def test_the_url_of_all_names_each(cluster: Cluster) -> None:
    first, second, third = (f"127.0.0.1:{node.port}" for node in cluster.nodes)
    assert cluster.url("orders") == f"mysql://root@{first},{second},{third}/orders"
    assert cluster.nodes[1].url("orders") == f"mysql://root@{second}/orders"


def test_nothing_listens_beyond_127_0_0_1(cluster: Cluster) -> None:
    sockets = {link for node in cluster.nodes for pid in node.pids for link in links(pid)}
    lines = [line.split() for kind in ("tcp", "tcp6", "udp", "udp6") for line in rows(kind)]
    addresses = {line[1].rpartition(":")[0] for line in lines if f"socket:[{line[9]}]" in sockets}
    assert addresses == {f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"}


def links(pid: int) -> list[str]:
    return [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]


def rows(kind: str) -> list[str]:
    return Path(f"/proc/net/{kind}").read_text().splitlines()[1:]


def test_a_node_killed_while_it_is_given_all_leaves_nothing_behind(cluster: Cluster, database: str) -> None:
    first = cluster.nodes[0]
    first.stop()
    first.lose_data()
    with ThreadPoolExecutor(1) as thread:
        restart = thread.submit(first.restart)
        while len(first.pids) < 3:  # the server, and what receives the data
            time.sleep(0.001)
        first._server._running.kill()
        with pytest.raises(RuntimeError):
            restart.result()
    first.kill()
    assert first.pids == []


def test_the_cluster_of_a_killed_process_dies_and_its_directories_go(cluster: Cluster) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directories = [Path(owner.stdout.readline().strip()) for _ in range(galera.NODES)]
    assert all(galera._working_in(directory) for directory in directories)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    for directory in directories:
        while galera._working_in(directory) or directory.exists():
            time.sleep(0.01)


def test_if_it_cannot_be_had_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galera, "PROVIDERS", [])
    with pytest.raises(ServerMissingError, match=r"libgalera_smm.so is not installed.*galera-4"), galera.open_cluster():
        pass
