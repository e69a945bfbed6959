"""Where the tests get their MariaDB and PostgreSQL servers from.

:func:`open_server` finds the server of a test run, :func:`open_new_database` makes a database there that goes again,
:func:`open_private_server` starts a server that a test may kill, freeze and restart. None listens beyond 127.0.0.1.

All of it blocks: a trio task runs it by ``trio.to_thread.run_sync``.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pymysql
from attrs import define, field
from sqlalchemy import URL, make_url

PREFIX = "trio_romancy_test_"
"""How the names of all databases begin that tests make."""

CONNECT_TIMEOUT = 5.0
STATEMENT_TIMEOUT = 30.0
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
"""Seconds, each."""

WATCH = 'read -r _; kill -KILL "$0" $(cat "/proc/$0/task/$0/children"); rm -rf "$1"'
"""A shell that ends a server and removes its directory when our end of its input is closed: when we die, however."""

Row = tuple[Any, ...]


class ServerMissingError(Exception):
    """There is no server to be had here. The message says what to install."""


class _Product(Protocol):
    """What differs between the two."""

    variable: str
    """The environment variable that may name a server."""
    usual_url: str
    package: str
    """What ``apt-get install`` calls it."""
    user: str
    """Who runs it when the tests run as root. If there is no such user, ``nobody`` does."""
    errors: tuple[type[Exception], ...]
    """What a server that is away, or starting, or has other passwords, makes :meth:`execute` raise."""
    stop_signal: signal.Signals
    """Asks for an orderly end that does not wait for clients."""

    def execute(self, url: URL, *statements: str) -> list[Row]: ...

    def create(self, url: URL, database: str) -> None: ...

    def drop(self, url: URL, database: str) -> None:
        """Drop it, whoever is still connected to it."""
        ...

    def preparation(self, data: Path) -> list[str]:
        """The command that fills a data directory. Raises :class:`ServerMissingError`."""
        ...

    def command(self, data: Path, port: int, *, durable: bool, settings: Mapping[str, object]) -> list[str]:
        """The command that serves a data directory. Raises :class:`ServerMissingError`."""
        ...


class MariaDB:
    """MariaDB, or MySQL."""

    variable = "TRIO_ROMANCY_TEST_MYSQL"
    usual_url = "mysql://root@127.0.0.1:3306/"
    package = "mariadb-server"
    user = "mysql"
    errors: tuple[type[Exception], ...] = (pymysql.Error, OSError)
    stop_signal = signal.SIGTERM

    def execute(self, url: URL, *statements: str) -> list[Row]:
        connection = pymysql.connect(
            host=url.host or "127.0.0.1",
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=url.database or None,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=STATEMENT_TIMEOUT,
            write_timeout=STATEMENT_TIMEOUT,
            ssl_disabled=True,  # all are on this machine, and to load its certificates takes longer than all the rest
        )
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create(self, url: URL, database: str) -> None:
        self.execute(url, f"CREATE DATABASE {database} CHARACTER SET utf8mb4")

    def drop(self, url: URL, database: str) -> None:
        # DROP would wait for their open transactions.
        for (connection,) in self.execute(
            url, f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        ):
            with suppress(pymysql.Error):
                self.execute(url, f"KILL {connection}")
        self.execute(url, f"DROP DATABASE IF EXISTS {database}")

    def preparation(self, data: Path) -> list[str]:
        install = _find("mariadb-install-db", "mysql_install_db")
        if install is None:  # MySQL's server does it itself
            return [*self._server(data), "--initialize-insecure"]
        return [
            install,
            *self._options(data),
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]

    def command(self, data: Path, port: int, *, durable: bool, settings: Mapping[str, object]) -> list[str]:
        own = {
            "bind-address": "127.0.0.1",
            "port": port,
            "socket": "socket",  # relative to the data directory, because the system allows 107 bytes only
            "pid-file": "pid",
            "loose-mysqlx": "OFF",
            "performance-schema": "OFF",
            "innodb-buffer-pool-size": "32M",
            "key-buffer-size": "1M",
            "loose-aria-pagecache-buffer-size": "8M",
            "innodb-flush-log-at-trx-commit": 1 if durable else 0,
            "innodb-doublewrite": "ON" if durable else "OFF",
        }
        # Of two for one thing the last counts.
        options = [f"--{name}={value}" for name, value in [*own.items(), *settings.items()]]
        return [*self._server(data), "--skip-log-bin", *options]

    def _server(self, data: Path) -> list[str]:
        return [_found(self, "mariadbd", "mysqld"), *self._options(data)]

    def _options(self, data: Path) -> list[str]:
        return [
            "--no-defaults",
            f"--datadir={data}",
            # When it starts it removes all temporary tables that are there, and in /tmp they may be of others.
            f"--tmpdir={data.parent}",
            "--innodb-log-file-size=16M",
        ]


class PostgreSQL:
    """PostgreSQL, 13 or newer."""

    variable = "TRIO_ROMANCY_TEST_POSTGRESQL"
    usual_url = "postgresql://postgres@127.0.0.1:5432/"
    package = "postgresql"
    user = "postgres"
    errors: tuple[type[Exception], ...] = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
    stop_signal = signal.SIGINT

    def execute(self, url: URL, *statements: str) -> list[Row]:
        async def execute() -> list[Row]:
            connection = await asyncpg.connect(
                host=url.host or "127.0.0.1",
                port=url.port or 5432,
                user=url.username,
                password=url.password,
                database=url.database or "postgres",
                timeout=CONNECT_TIMEOUT,
                command_timeout=STATEMENT_TIMEOUT,
            )
            try:
                rows: list[Row] = []
                for statement in statements:
                    rows = [tuple(row) for row in await connection.fetch(statement)]
                return rows
            finally:
                await connection.close(timeout=CONNECT_TIMEOUT)

        # In a thread of its own, because in a trio task trio-asyncio hides asyncio's loop.
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(asyncio.run, execute()).result()

    def create(self, url: URL, database: str) -> None:
        self.execute(url, f"CREATE DATABASE {database}")

    def drop(self, url: URL, database: str) -> None:
        self.execute(url, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def preparation(self, data: Path) -> list[str]:
        as_anybody = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        return [self._binary("initdb"), f"--pgdata={data}", "--no-sync", *as_anybody]

    def copying(self, url: str, data: Path) -> list[str]:
        """The command that fills the data directory of a standby. Raises :class:`ServerMissingError`."""
        primary = make_url(url)
        there = [f"--host={primary.host}", f"--port={primary.port}", f"--username={primary.username}"]
        return [self._binary("pg_basebackup"), *there, f"--pgdata={data}", "--write-recovery-conf", "--checkpoint=fast"]

    def command(self, data: Path, port: int, *, durable: bool, settings: Mapping[str, object]) -> list[str]:
        own = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "fsync": "on" if durable else "off",
            "synchronous_commit": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
            "jit": "off",
        }
        # Of two for one thing the last counts.
        options = [f"--{name}={value}" for name, value in [*own.items(), *settings.items()]]
        return [self._binary("postgres"), "-D", str(data), *options]

    def _binary(self, name: str) -> str:
        # Both from where the links of one of them lead: there may be several versions.
        beside = Path(_found(self, "initdb")).resolve().parent / name
        return str(beside) if beside.exists() else _found(self, name)


PRODUCTS: dict[str, _Product] = {"mariadb": MariaDB(), "postgresql": PostgreSQL()}
"""By kind, the word by which tests ask for them."""


def execute(url: str, *statements: str) -> list[Row]:
    """Run statements on one connection, which commits each by itself, and return the rows of the last."""
    return _product(url).execute(make_url(url), *statements)


@contextmanager
def open_server(kind: str, *, prefers_private: bool = False) -> Iterator[str]:
    """The server that this run uses: its URL, without a database. ``kind`` is ``mariadb`` or ``postgresql``.

    The server that the environment variable of the kind names is the first choice; it raises if it is of no use. The
    others are the server on the usual local port, if it lets tests make databases without a password, and a private one
    that does not wait for its disk and ends with the block.

    Args:
      prefers_private: whether the private one comes before the usual one, which is slower where it waits for its disk.

    Raises:
      ServerMissingError: none of them is of use.
    """
    product = PRODUCTS[kind]
    if named := os.environ.get(product.variable):
        if (error := _refusal(named)) is not None:
            raise RuntimeError(f"{product.variable} names a server that tests cannot use: {error}") from error
        yield named
        return
    with ExitStack() as stack:
        places: list[Callable[[], str]] = [lambda: _usual(product), lambda: _private(kind, stack)]
        problems = []
        for find in reversed(places) if prefers_private else places:
            try:
                url = find()
                break
            except ServerMissingError as error:
                problems.append(str(error))
        else:
            raise ServerMissingError(f"{product.variable} names no server, and {', and '.join(problems)}")
        yield url


def _usual(product: _Product) -> str:
    if (error := _refusal(product.usual_url)) is not None:
        raise ServerMissingError(f"{product.usual_url} is of no use ({error})")
    return product.usual_url


def _private(kind: str, stack: ExitStack) -> str:
    return stack.enter_context(open_private_server(kind, durable=False)).url()


@contextmanager
def open_new_database(server_url: str, *, synchronous_commit: bool = True) -> Iterator[str]:
    """A new, empty database with a name nobody can guess: its URL. It is dropped when the block ends.

    ``synchronous_commit=False`` makes PostgreSQL not wait for its disk there. MariaDB has no such setting per database.
    """
    server, product = make_url(server_url), _product(server_url)
    database = PREFIX + secrets.token_hex(8)
    try:
        product.create(server, database)
        if not synchronous_commit and isinstance(product, PostgreSQL):
            product.execute(server, f"ALTER DATABASE {database} SET synchronous_commit = off")
        yield server.set(database=database).render_as_string(hide_password=False)
    except BaseException:
        with suppress(*product.errors):  # a test that fails may leave its server down, and that is not the news
            product.drop(server, database)
        raise
    product.drop(server, database)


@define(eq=False)
class PrivateServer:
    """A server in a directory of its own that a test may do anything to. :func:`open_private_server` makes them.

    What was committed survives :meth:`kill` and :meth:`start`; the port stays the same. If this process dies, so does
    the server, and its directory goes.
    """

    port: int
    settings: dict[str, object]
    """By the server's own names. A change counts from the next :meth:`start` on."""
    durable: bool
    """Whether a commit waits for the disk. If not, a killed MariaDB may forget the last second."""
    _product: _Product
    _directory: Path
    _primary: PrivateServer | None = None
    """The server that this one is a standby of."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _watchdog: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def url(self, database: str = "") -> str:
        """The URL of a database on it, or of the server."""
        usual = make_url(self._product.usual_url)
        return usual.set(port=self.port, database=database).render_as_string(hide_password=False)

    def start(self) -> None:
        """Start it, and return when it answers; after :meth:`kill` it recovers first.

        Raises RuntimeError with the end of its log if it does not start.
        """
        if self._process is not None:
            raise RuntimeError("it runs; kill() or stop() it first")
        command = self._product.command(self._data, self.port, durable=self.durable, settings=self.settings)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self._privileges
            )
        self._watchdog = subprocess.Popen(
            ["sh", "-c", WATCH, str(self._process.pid), str(self._directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                execute(self.url(), "SELECT 1")
                return
            except self._product.errors:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"{command[0]} does not start: {self._end_of_log()}") from None
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill all its processes at once, as a crash of its machine would; return when all are dead."""
        if self._process is None:
            return
        if self._process.poll() is None:
            children = self._halt()  # so that nothing is forked that we do not see
            self._process.kill()  # first, or PostgreSQL would tell its clients that a child has died
            _send(signal.SIGKILL, children)
            self._process.wait()
            _wait_until(_is_dead, children)  # as long as one lives, PostgreSQL does not start again
        self._process = None
        self._dismiss_watchdog()

    def freeze(self) -> None:
        """Stop all its processes where they are, as when a machine is paused; return when all stand still.

        Connections stay open, and the system still accepts new ones, but nobody answers.
        """
        children = self._halt()
        _send(signal.SIGSTOP, children)
        _wait_until(_is_still, children)

    def thaw(self) -> None:
        """Let them go on."""
        pid = self._running.pid
        _send(signal.SIGCONT, [*_children(pid), pid])

    def stop(self) -> None:
        """End it in order, without waiting for its clients; return when it has ended."""
        process = self._running
        self.thaw()
        process.send_signal(self._product.stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
        self.kill()

    def _prepare(self) -> None:
        """Fill the data directory."""
        if "user" in self._privileges:
            os.chown(self._directory, self._privileges["user"], self._privileges["group"])
        with self._log.open("ab") as log:
            command = self._preparation()
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=START_TIMEOUT, **self._privileges
            )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {self._end_of_log()}")

    def _preparation(self) -> list[str]:
        if self._primary is None:
            return self._product.preparation(self._data)
        assert isinstance(self._product, PostgreSQL)
        return self._product.copying(self._primary.url(), self._data)

    def promote(self) -> None:
        """Make a standby of PostgreSQL a server of its own, and return when it takes writes."""
        execute(self.url(), "SELECT pg_promote()")

    def _halt(self) -> list[int]:
        """Stop its first process where it is, and return its children, who are all there will be."""
        pid = self._running.pid
        _send(signal.SIGSTOP, [pid])
        _wait_until(_is_still, [pid])
        return _children(pid)

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()  # before its input ends, or it would bite
            self._watchdog.communicate()
            self._watchdog = None

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("it does not run")
        return self._process

    @property
    def _privileges(self) -> dict[str, Any]:
        """How to run its programs: in its directory, and never as root, which PostgreSQL refuses."""
        if os.geteuid():
            return {"cwd": self._directory}
        import pwd  # there is none on Windows

        users = {user.pw_name: user for user in pwd.getpwall()}
        user = users.get(self._product.user) or users["nobody"]
        return {"cwd": self._directory, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _end_of_log(self) -> str:
        return "\n".join(["its log ends:", *self._log.read_text(errors="replace").splitlines()[-20:]])


@contextmanager
def open_private_server(
    kind: str,
    *,
    settings: Mapping[str, object] | None = None,
    durable: bool = True,
    standby_of: PrivateServer | None = None,
) -> Iterator[PrivateServer]:
    """A private server that runs when the block begins. It is killed, and its directory removed, when the block ends.

    ``settings`` go by the server's own names: ``{"max_connections": 10}``. With ``standby_of`` it follows another
    server of PostgreSQL. Raises :class:`ServerMissingError` if its programs are not installed.
    """
    if not sys.platform.startswith("linux"):
        raise ServerMissingError("tests start servers of their own on Linux only, because they look into /proc")
    directory = Path(tempfile.mkdtemp(prefix="romancy-"))
    try:
        server = PrivateServer(
            port=_free_port(),
            settings=dict(settings or {}),
            durable=durable,
            product=PRODUCTS[kind],
            directory=directory,
            primary=standby_of,
        )
        server._prepare()
        try:
            server.start()
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(directory)


def _product(url: str) -> _Product:
    return PRODUCTS["postgresql" if make_url(url).drivername.startswith("postgres") else "mariadb"]


def _refusal(server_url: str) -> Exception | None:
    """Why tests cannot use a server; None if they can."""
    try:
        with open_new_database(server_url):
            return None
    except _product(server_url).errors as error:
        return error


def _free_port() -> int:
    """A port of ours while a server is down, too: below those that the system gives to outgoing connections."""
    for port in random.sample(range(20_000, 30_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("there is no free port")


PLACES = [
    "usr/sbin",
    "usr/libexec",
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/local/bin",
    "usr/local/sbin",
    "usr/local/mysql/bin",
    "usr/local/pgsql/bin",
]
"""Below the root: where servers are installed, besides PATH. Of several versions the newest is taken."""


def _find(*names: str) -> str | None:
    folders = [str(folder) for place in PLACES for folder in sorted(Path("/").glob(place), reverse=True)]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def _found(product: _Product, *names: str) -> str:
    found = _find(*names)
    if found is None:
        raise ServerMissingError(
            f"tests cannot start their own, because {' or '.join(names)} is not installed "
            f"(apt-get install {product.package})"
        )
    return found


def _status(pid: int) -> tuple[str, int] | None:
    """The state of a process, a letter, and its parent; None if there is no such process."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


def _children(parent: int) -> list[int]:
    pids = [int(process.name) for process in Path("/proc").iterdir() if process.name.isdigit()]
    return [pid for pid in pids if (status := _status(pid)) is not None and status[1] == parent]


def _is_dead(pid: int) -> bool:
    status = _status(pid)
    return status is None or status[0] in "ZX"


def _is_still(pid: int) -> bool:
    status = _status(pid)
    return status is None or status[0] in "TtZX"


def _wait_until(holds: Callable[[int], bool], pids: Collection[int]) -> None:
    while not all(holds(pid) for pid in pids):
        time.sleep(0.001)


def _send(what: signal.Signals, pids: Collection[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)
