"""Runs ``async def`` tests with trio, and gives tests their databases."""

from __future__ import annotations

import gc
import inspect
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy._storage.drivers.asyncio_server import ServerDatabase
from trio_romancy._storage.drivers.sqlite import ThreadedDatabase

from .support.compiled_sql import shared_statements
from .support.databases import KINDS, Databases, missing
from .support.definitions import definitions_of, imported_apart


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that databases are dropped even then


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # thousands of tests, which each collection of garbage would visit again


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if missing:
        terminalreporter.section("NOT TESTED", red=True, bold=True)
        for kind, why in missing.items():
            terminalreporter.line(f"{kind}: {why}", red=True)
        terminalreporter.line(
            "All databases: apt-get install mariadb-server postgresql pgbouncer; a Galera cluster: galera-4 rsync, too",
            red=True,
        )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, Any, Any]:
    if not isinstance(collector, pytest.Module):
        return (yield)
    with imported_apart():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    is_real = pyfuncitem.get_closest_marker("real_clock") is not None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    trio.run(
        partial(pyfuncitem.obj, **arguments), clock=None if is_real else trio.testing.MockClock(autojump_threshold=0)
    )
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Iterator[None]:
    """Let Ctrl-C end the run, also if trio has put it into a group, which would count as a failure of the test."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from group
        raise


@pytest.fixture(autouse=True)
def only_own_definitions(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test sees the definitions of its own module only, as if no other had been imported."""
    with definitions_of(request.module.__name__):
        yield


@pytest.fixture(scope="session", autouse=True)
def compile_sql_once() -> Iterator[None]:
    with shared_statements():
        yield


# -- databases ---------------------------------------------------------------------------------------------------------


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
        for implementation in (ServerDatabase, ThreadedDatabase):
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
