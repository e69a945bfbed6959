"""A worker that cannot get its lease, because the database can be read but not written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from sqlalchemy import make_url

from trio_romancy import App, DatabaseError

from ..support.databases import Databases
from ..support.servers import execute

pytestmark = [pytest.mark.real_clock, pytest.mark.parametrize("kind", ["postgresql"], indirect=True)]


@pytest.fixture
def read_only(kind: str, databases: Databases) -> Iterator[str]:
    """A database with all tables, to which nobody can write."""
    url = databases.new(kind)

    async def make_tables() -> None:
        async with App(url):
            pass

    trio.run(make_tables)
    execute(url, f"ALTER DATABASE {make_url(url).database} SET default_transaction_read_only = on")
    yield url
    execute(url, "SET default_transaction_read_only = off", f"ALTER DATABASE {make_url(url).database} RESET ALL")


async def test_it_says_so_when_the_time_is_over_in_which_it_must_have_started(read_only: str) -> None:
    with trio.fail_after(20), pytest.raises(DatabaseError, match="read-only"):
        async with App(read_only, start_timeout=0.5):
            raise AssertionError("it cannot work")


async def test_it_can_be_cancelled_while_it_waits(read_only: str) -> None:
    with trio.fail_after(20), trio.move_on_after(0.5) as scope:
        async with App(read_only):
            raise AssertionError("it cannot work")
    assert scope.cancelled_caught
