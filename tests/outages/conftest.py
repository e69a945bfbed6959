"""A private, durable server of each kind for the outages, which tests may kill as long as they start it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from attrs import define, field

from ..support.databases import opened
from ..support.definitions import definitions_of
from ..support.servers import PRODUCTS, PrivateServer, execute, open_new_database, open_private_server
from . import load


@define
class Servers:
    _exits: ExitStack
    _servers: dict[str, PrivateServer] = field(factory=dict)

    def get(self, kind: str) -> PrivateServer:
        """It runs, whatever the test before has done to it."""
        server = opened(self._servers, kind, lambda: self._open(kind))
        try:
            execute(server.url(), "SELECT 1")
        except PRODUCTS[kind].errors:
            server.kill()
            server.start()
        return server

    def _open(self, kind: str) -> PrivateServer:
        try:
            return self._exits.enter_context(open_private_server(kind))
        except RuntimeError:  # it did not start: perhaps somebody else was faster to take its port
            return self._exits.enter_context(open_private_server(kind))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with ExitStack() as exits:
        yield Servers(exits)


@pytest.fixture(params=PRODUCTS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def server(kind: str, servers: Servers) -> PrivateServer:
    return servers.get(kind)


@pytest.fixture
def database(server: PrivateServer) -> Iterator[str]:
    """The URL of a new database on the private server."""
    with open_new_database(server.url()) as url:
        yield url


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """A test that uses this fails if anything is logged that a mere outage must not lead to.

    Waiting for the database is told as a warning. A crashed actor, a refused batch, a lease that was lost, an exception
    that asyncio's tasks lost: these are all the news that a test without it would not hear.
    """
    caplog.set_level("INFO", "trio_romancy")
    yield caplog
    found = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name.startswith(("trio", "asyncio"))
        and (record.levelname in ("ERROR", "CRITICAL") or "joining again" in record.getMessage())
    ]
    assert not found


@pytest.fixture(autouse=True)
def only_own_definitions(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test sees the definitions of its own module only, and the load's."""
    with definitions_of(request.module.__name__, load.__name__):
        yield
