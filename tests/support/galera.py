"""A MariaDB Galera cluster of three nodes, to which a test may do anything.

:func:`open_cluster` starts one from the installed programs, for a block; the fixture :func:`cluster` gives a test one
whose nodes are all well. Each node is a private server of :mod:`tests.support.servers`; none listens beyond
127.0.0.1.

All of it blocks: a trio task runs it by ``trio.to_thread.run_sync``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from attrs import define, field
from sqlalchemy import make_url

from .databases import opened
from .servers import START_TIMEOUT, MariaDB, PrivateServer, ServerMissingError, _find, _free_port, _send, execute

NODES = 3
"""As few as go on when one dies."""

STARTS = 3
"""How often nodes are started until they agree who is there. A loaded machine can keep them from that."""

NOWHERE = "00000000-0000-0000-0000-000000000000"
"""The history that a node without data has."""

TUNING: Mapping[str, object] = {
    "gcache.size": "16M",
    "evs.keepalive_period": "PT0.2S",
    "evs.inactive_check_period": "PT0.2S",
    "evs.join_retrans_period": "PT0.2S",
    "evs.suspect_timeout": "PT1S",
    "evs.inactive_timeout": "PT3S",
    "evs.install_timeout": "PT3S",
}
"""For Galera's library: little disk, and the others do without a dead node after one second instead of five."""

PROVIDERS = [
    "usr/lib/galera*/libgalera_smm.so",
    "usr/lib/*/galera*/libgalera_smm.so",
    "usr/lib64/galera*/libgalera_smm.so",
]
"""Below the root: where that library is."""

NODE_STATE = """\
# GALERA saved state
version: 2.1
uuid:    {history}
seqno:   {position}
safe_to_bootstrap: 0
"""

VIEW_STATE = """\
my_uuid: {own}
#vwbeg
view_id: 3 {first} 1
bootstrap: 0
{members}
#vwend
"""


class _GaleraServer(MariaDB):
    """MariaDB whose scripts, too, leave all other servers of the machine alone."""

    def _options(self, data: Path) -> list[str]:
        # Unlike --no-defaults it holds for the script that copies data, too; that would use the machine's own file.
        return [f"--defaults-file={os.devnull}", *super()._options(data)[1:]]


@define(eq=False)
class Node:
    """One of the servers of a :class:`Cluster`."""

    name: str
    _server: PrivateServer

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def pids(self) -> list[int]:
        """Its server, and all that this has started, even if it has died since."""
        return _working_in(self._server._directory)

    def url(self, database: str = "") -> str:
        """The URL of a database on it, or of the server."""
        return self._server.url(database)

    def status(self, variable: str) -> str:
        """What it says of itself, by the names of Galera without ``wsrep_``: ``cluster_size``, ``last_committed``.

        It is empty while the node does not know it. Raises one of MariaDB's errors if the node does not answer.
        """
        rows = execute(self.url(), f"SHOW GLOBAL STATUS LIKE 'wsrep_{variable}'")
        return str(rows[0][1]) if rows else ""

    def is_synced(self) -> bool:
        """Whether it belongs to the part of the cluster that goes on, and has caught up with it."""
        try:
            return (self.status("cluster_status"), self.status("local_state_comment")) == ("Primary", "Synced")
        except MariaDB.errors:
            return False

    def kill(self) -> None:
        """Kill it at once, as a crash of its machine would; return when it is dead. The others are not told."""
        self._server.kill()
        while helpers := self.pids:  # a copy of data was under way, to it or from it
            _send(signal.SIGKILL, helpers)
            time.sleep(0.001)

    def stop(self) -> None:
        """End it in order: it takes its leave of the others. Return when it has ended."""
        self._server.stop()

    def freeze(self) -> None:
        """Stop it where it is. The others wait for it, and after ``evs.suspect_timeout`` do without."""
        self._server.freeze()

    def thaw(self) -> None:
        """Let it go on. If the others do without it, it joins them again by itself: see :meth:`wait_until_synced`."""
        self._server.thaw()

    def lose_data(self) -> None:
        """After :meth:`kill` or :meth:`stop`: lose all data. :meth:`restart` gets those of another node."""
        data = self._server._data
        owner = data.stat()
        shutil.rmtree(data)
        data.mkdir(mode=owner.st_mode)
        os.chown(data, owner.st_uid, owner.st_gid)

    def restart(self, *, timeout: float = START_TIMEOUT) -> None:
        """Start it after :meth:`kill` or :meth:`stop`; return when it has joined the others and caught up with them.

        They send what it has missed if they still have it, else all data. Raises RuntimeError if it has not caught up
        after ``timeout`` seconds, or cannot, as when no part of the cluster goes on: then see :meth:`Cluster.start`.
        """
        self._start(self._recover(), timeout)

    def wait_until_synced(self, *, size: int | None = None, timeout: float = START_TIMEOUT) -> None:
        """Return when it has caught up, in a cluster of ``size`` nodes. RuntimeError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (self.is_synced() and (size is None or self.status("cluster_size") == str(size))):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} has not caught up: {self._server._end_of_log()}")
            time.sleep(0.02)

    def _recover(self) -> tuple[str, int]:
        """Where its data end: in which history, and how many transactions into it. It must not run."""
        file = self._server._data / "grastate.dat"
        state = re.search(r"uuid:\s*(\S+)\s+seqno:\s*(\S+)", file.read_text() if file.exists() else "")
        if state is None:  # it has never been up
            return NOWHERE, -1
        history, position = state.groups()
        if history == NOWHERE or int(position) >= 0:
            return history, int(position)
        # It has not ended in order, and only InnoDB knows. A node that does not know asks the others for all data.
        server = self._server
        command = server._product.command(server._data, server.port, durable=server.durable, settings=server.settings)
        done = subprocess.run(
            [*command, "--wsrep-recover"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=START_TIMEOUT,
            **server._privileges,
        )
        found = re.findall(r"Recovered position: (\S+):(-?\d+)", done.stderr)
        if done.returncode or not found:
            raise RuntimeError(f"{self.name} cannot tell where its data end: {done.stderr}")
        history, position = found[-1]
        return history, int(position)

    def _start(self, end: tuple[str, int], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._server.settings["wsrep-start-position"] = "{}:{}".format(*end)
        self._server.start()
        self.wait_until_synced(timeout=deadline - time.monotonic())

    def _write(self, name: str, state: str) -> None:
        """Write a file of Galera's."""
        file, owner = self._server._data / name, self._server._data.stat()
        file.write_text(state)
        os.chown(file, owner.st_uid, owner.st_gid)


@define(eq=False)
class Cluster:
    """Three nodes that hold the same data, and all take writes. :func:`open_cluster` makes them.

    Two go on when one dies. One alone, unless the others have ended in order, refuses all statements. What one has
    committed another may show a moment later: a session that must not read the past says ``SET wsrep_sync_wait = 1``.
    If this process dies, so do they, and their directories go.
    """

    nodes: list[Node]

    def url(self, database: str = "") -> str:
        """One URL that names all nodes: ``mysql://root@127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/database``."""
        one = make_url(self.nodes[0].url())
        hosts = ",".join(f"{one.host}:{node.port}" for node in self.nodes)
        return f"{one.drivername}://{one.username}@{hosts}/{database}"

    def start(self) -> None:
        """Start all nodes, none of which runs; return when they are one cluster and have caught up with each other.

        What was committed is there again, as far as the nodes are durable, whichever of them died first. Raises
        RuntimeError if one does not start.
        """
        for _ in range(STARTS - 1):
            try:
                self._start()
                return
            except RuntimeError:
                self.kill()
        self._start()

    def _start(self) -> None:
        # Nodes that have crashed find here of whom they were a part, and are a cluster again as soon as all of these
        # are back, with the data of who has the most. So no node has to begin alone, and copy its data to the others.
        members = sorted(str(uuid.uuid4()) for _ in self.nodes)
        view = "\n".join(f"member: {member} 0" for member in members)
        for node, member in zip(self.nodes, members, strict=True):
            node._write("gvwstate.dat", VIEW_STATE.format(own=member, first=members[0], members=view))
        with ThreadPoolExecutor(NODES) as threads:
            list(threads.map(Node.restart, self.nodes))
        self.wait_until_synced()

    def wait_until_synced(self, *, timeout: float = START_TIMEOUT) -> None:
        """Return when all three are one cluster and have caught up. Raises RuntimeError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        for node in self.nodes:
            node.wait_until_synced(size=NODES, timeout=deadline - time.monotonic())

    def heal(self) -> None:
        """Whatever was done to its nodes, all three run and have caught up when it returns."""
        try:
            self._heal()
        except RuntimeError:  # nodes that run may have given up meanwhile
            self.kill()
            self.start()

    def _heal(self) -> None:
        for node in self.nodes:
            if node._server._process is not None and node._server._process.poll() is None:
                node.thaw()
            else:
                node.kill()  # it may have ended by itself
        if any(node.is_synced() for node in self.nodes):
            for node in self.nodes:
                if node._server._process is None:
                    node.restart()
            self.wait_until_synced()
        else:
            self.kill()
            self.start()

    def kill(self) -> None:
        """Kill all nodes that run."""
        for node in self.nodes:
            node.kill()


@contextmanager
def open_cluster(
    *,
    settings: Mapping[str, object] | None = None,
    tuning: Mapping[str, object] = TUNING,
    durable: bool = True,
) -> Iterator[Cluster]:
    """A new cluster whose nodes run when the block begins. They are killed, and their directories go, when it ends.

    ``settings`` go by the servers' own names, ``tuning`` by those of Galera's library, as in :data:`TUNING`. Raises
    :class:`ServerMissingError` if its programs are not installed.
    """
    provider = _provider()
    ports = _free_ports(4 * NODES)
    address = "gcomm://" + ",".join(f"127.0.0.1:{port}" for port in ports[:NODES])
    with ExitStack() as exits:
        nodes: list[Node] = []
        for number in range(NODES):
            group, increments, copies, sql = ports[number::NODES]
            directory = Path(tempfile.mkdtemp(prefix="romancy-"))
            exits.callback(shutil.rmtree, directory)
            options = {
                **tuning,
                "gmcast.listen_addr": f"tcp://127.0.0.1:{group}",
                "ist.recv_addr": f"127.0.0.1:{increments}",
            }
            own = {
                "binlog-format": "ROW",
                "default-storage-engine": "InnoDB",
                "innodb-autoinc-lock-mode": 2,
                "wsrep-on": "ON",
                "wsrep-provider": provider,
                "wsrep-provider-options": ";".join(f"{name}={value}" for name, value in options.items()),
                "wsrep-cluster-name": "romancy",
                "wsrep-cluster-address": address,
                "wsrep-node-name": f"node{number}",
                "wsrep-node-address": f"127.0.0.1:{group}",
                "wsrep-sst-method": "rsync",
                "wsrep-sst-receive-address": f"127.0.0.1:{copies}",
            }
            server = PrivateServer(sql, {**own, **(settings or {})}, durable, _GaleraServer(), directory)
            nodes.append(Node(f"node{number}", server))
            exits.callback(nodes[-1].kill)
        _fill(nodes)
        cluster = Cluster(nodes)
        cluster.start()
        yield cluster


def _fill(nodes: list[Node]) -> None:
    """Give all nodes the same new data, at the beginning of a new history."""
    nodes[0]._server._prepare()
    source, history = nodes[0]._server._data, uuid.uuid4()
    nodes[0]._write("grastate.dat", NODE_STATE.format(history=history, position=0))
    owner = source.stat()
    for node in nodes[1:]:
        os.chown(node._server._directory, owner.st_uid, owner.st_gid)
        subprocess.run(["cp", "-a", source, node._server._data], check=True)


@define
class Clusters:
    """The cluster that the tests of a module share."""

    _exits: ExitStack
    _clusters: dict[str, Cluster] = field(factory=dict)

    def get(self) -> Cluster:
        """All its nodes are well, whatever the test before has done to them. The test is skipped if there is none."""
        cluster = opened(self._clusters, "galera", self._open)
        cluster.heal()
        return cluster

    def _open(self) -> Cluster:
        try:
            return self._exits.enter_context(open_cluster())
        except RuntimeError:  # it did not start: perhaps somebody else was faster to take one of its ports
            return self._exits.enter_context(open_cluster())


@pytest.fixture(scope="module")
def clusters() -> Iterator[Clusters]:
    with ExitStack() as exits:
        yield Clusters(exits)


@pytest.fixture
def cluster(clusters: Clusters) -> Cluster:
    """For a module that says ``clusters, cluster = galera.clusters, galera.cluster``. All nodes are well."""
    return clusters.get()


def _provider() -> Path:
    """Galera's library. Raises :class:`ServerMissingError` if it, or a program that it needs, is not installed."""
    if not sys.platform.startswith("linux"):
        raise ServerMissingError("tests start servers of their own on Linux only, because they look into /proc")
    providers = [provider for place in PROVIDERS for provider in sorted(Path("/").glob(place))]
    programs = [("mariadbd",), ("mariadb-install-db",), ("wsrep_sst_rsync",), ("rsync",), ("ps",), ("ss", "lsof")]
    lacking = [" or ".join(names) for names in programs if _find(*names) is None]
    lacking += [] if providers else ["libgalera_smm.so"]
    if lacking:
        raise ServerMissingError(
            f"tests cannot start a Galera cluster, because {', '.join(lacking)} is not installed "
            "(apt-get install mariadb-server galera-4 rsync procps iproute2)"
        )
    return providers[0]


def _free_ports(count: int) -> list[int]:
    """Different ones, of which none is taken yet."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(_free_port())
    return list(ports)


def _working_in(directory: Path) -> list[int]:
    """The living processes that work in a directory: a server, and what it has started, with or without it."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # PermissionError: not ours
                if (process / "cwd").readlink().is_relative_to(directory):
                    found.append(int(process.name))
    return found
