"""Runs ``async def`` tests with trio, and gives tests their databases."""

from __future__ import annotations

import inspect
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing
from attrs import define, field

from trio_romancy._definitions import decorators
from trio_romancy._storage.drivers.asyncio_server import AioDatabase
from trio_romancy._storage.drivers.sqlite import ThreadedDatabase

from .servers import PRODUCTS, ServerMissingError, execute, open_new_database, open_server

T = TypeVar("T")

LONGEST_TEST = 60.0
"""Seconds on the real clock after which a test hangs."""

KINDS = ("sqlite", *PRODUCTS)
"""``sqlite`` is in memory."""

SHARED_KINDS = ("file", *PRODUCTS)
"""What several apps can open at once. A test takes them by ``parametrize("kind", SHARED_KINDS, indirect=True)``."""

ALL_KINDS = ("sqlite", *SHARED_KINDS)

missing: dict[str, str] = {}
"""What could not be tested on, and why."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_clock: the time of this async test is real; by default it is virtual")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that databases are dropped even then


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if missing:
        terminalreporter.section("NOT TESTED", red=True, bold=True)
        for kind, why in missing.items():
            terminalreporter.line(f"{kind}: {why}", red=True)
        terminalreporter.line(
            "All databases: apt-get install mariadb-server postgresql; a Galera cluster: galera-4 rsync, too", red=True
        )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    is_real = pyfuncitem.get_closest_marker("real_clock") is not None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def test() -> None:
        # Under the virtual clock a deadline would not wait for threads: it would come as soon as all tasks wait.
        with trio.fail_after(LONGEST_TEST if is_real else math.inf):
            await pyfuncitem.obj(**arguments)

    trio.run(test, clock=None if is_real else trio.testing.MockClock(autojump_threshold=0))
    return True


@pytest.fixture(autouse=True)
def only_own_definitions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test sees the definitions of its own module only, as if no other had been imported."""
    registry = decorators._registry
    own = {key: made for key, made in registry.items() if made.function.__module__ == request.module.__name__}
    monkeypatch.setattr(decorators, "_registry", own)


# -- databases ---------------------------------------------------------------------------------------------------------


def opened(servers: dict[str, T], kind: str, open: Callable[[], T]) -> T:
    """The server of that kind, opened if it has not been. If there is none to be had, the test is skipped, or fails."""
    if kind not in servers and kind not in missing:
        try:
            servers[kind] = open()
        except ServerMissingError as error:
            missing[kind] = str(error)
    if kind in missing:
        if os.environ.get("CI") == "true":
            pytest.fail(missing[kind])
        pytest.skip(missing[kind])
    return servers[kind]


@define
class Databases:
    """One database on each server, emptied for each test; and new ones."""

    _exits: ExitStack
    _servers: dict[str, str] = field(factory=dict)
    _urls: dict[str, str] = field(factory=dict)

    def server(self, kind: str) -> str:
        """The URL of a server of that kind, without a database. The test is skipped if there is none."""
        return opened(self._servers, kind, lambda: self._exits.enter_context(open_server(kind)))

    def new(self, kind: str) -> str:
        """The URL of a database that nobody has used. It is dropped when all tests have ended."""
        if kind == "sqlite":
            return ":memory:"
        return self._exits.enter_context(open_new_database(self.server(kind)))

    def empty(self, kind: str) -> str:
        """The URL of a database without instances, which other tests may have used before."""
        if kind == "sqlite":
            return ":memory:"
        if kind not in self._urls:
            self._urls[kind] = self.new(kind)
            return self._urls[kind]
        url = self._urls[kind]
        schema = "current_schema()" if kind == "postgresql" else "DATABASE()"
        found = execute(url, f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}")
        tables = [name for (name,) in found]
        kept = [name for name in tables if name.startswith("romancy_") and not name.endswith("alembic_version")]
        dropped = [name for name in tables if not name.startswith("romancy_")]
        if kept:
            looks = [f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in kept]
            filled = [name for (name,) in execute(url, " UNION ALL ".join(looks))]
            if filled:
                execute(url, "BEGIN", *[f"DELETE FROM {name}" for name in filled], "COMMIT")
        if dropped:
            execute(url, *[f"DROP TABLE {name}" for name in dropped])
        return url


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    with ExitStack() as exits:
        yield Databases(exits)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A test that uses this, or one of the next two, runs on every kind of database."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def nobody_polls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under virtual time an app has its database to itself, wherever that is.

    Looking every second for what others may have done, a workflow that sleeps for a month would take hours.
    """
    if request.node.get_closest_marker("real_clock") is None:
        for implementation in (AioDatabase, ThreadedDatabase):
            monkeypatch.setattr(implementation, "is_exclusive", True)


@pytest.fixture
def database(kind: str, databases: Databases, request: pytest.FixtureRequest, nobody_polls: None) -> str:
    """The URL of a database without instances."""
    if kind != "file":
        return databases.empty(kind)
    directory: Path = request.getfixturevalue("tmp_path")  # no other kind needs one
    return str(directory / "romancy.db")


@pytest.fixture
def new_database(kind: str, databases: Databases, nobody_polls: None) -> Callable[[], str]:
    """Gives the URL of a database without instances, and each time it is called again, after emptying it."""
    return lambda: databases.empty(kind)
