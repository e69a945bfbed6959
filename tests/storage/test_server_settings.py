"""Connections behave the same whatever the settings of the server are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import aiomysql
import pytest
import sqlalchemy as sa
import trio
from attrs import define
from sqlalchemy import Connection

from trio_romancy import App, DatabaseError, Limits, RetryPolicy, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.dialects import limits, mysql

from ..support.probe import probe
from ..support.servers import PRODUCTS, ServerMissingError, execute, open_private_server
from ..support.texts import ALIKE, PLANES

SETTINGS: dict[str, dict[str, object]] = {
    "mariadb": {
        "default-time-zone": "+05:00",
        "sql-mode": "",
        "character-set-server": "latin1",
        "collation-server": "latin1_swedish_ci",
        "transaction-isolation": "SERIALIZABLE",
        "innodb-lock-wait-timeout": 50,
    },
    "postgresql": {
        "timezone": "Asia/Tokyo",
        "default_transaction_isolation": "serializable",
        "lock_timeout": 0,
    },
}
"""Settings that differ from those that connections need."""


@activity(name="settings_echo")
async def echo(value: str) -> str:
    return value


@workflow(name="settings_receives_large")
async def returns_what_it_receives(ctx: WorkflowContext) -> str:
    event = await ctx.wait_event("large", data_type=str)
    return await echo(event.data)


@workflow(name="settings_through")
async def through(ctx: WorkflowContext, value: str) -> str:
    return await echo(value)


@pytest.fixture(scope="module")
def odd_servers() -> Iterator[dict[str, str]]:
    """Start servers with odd settings. Return the URL of a database on each, by kind."""
    with ExitStack() as exits:
        urls = {}
        for kind in PRODUCTS:
            try:
                server = exits.enter_context(open_private_server(kind, settings=SETTINGS[kind], durable=False))
            except ServerMissingError:
                continue
            execute(server.url(), "CREATE DATABASE romancy")
            urls[kind] = server.url("romancy")
        yield urls


@pytest.fixture(params=PRODUCTS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def odd(kind: str, odd_servers: dict[str, str]) -> str:
    if kind not in odd_servers:
        pytest.skip(f"{kind} is not installed")
    return odd_servers[kind]


async def ask(app: App, kind: str, statements: dict[str, str]) -> Any:
    """Run a query in a session, and return its result as text."""

    @activity
    async def asks() -> str:
        return str(await current_activity().session.scalar(sa.text(statements[kind])))

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await asks()

    return await (await app.start(flow)).result(timeout=60)


ISOLATION = {"mariadb": "SELECT @@session.tx_isolation", "postgresql": "SHOW transaction_isolation"}


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.real_clock
async def test_times_are_right_whatever_the_time_zone_of_the_server(odd: str) -> None:
    @workflow
    async def naps(ctx: WorkflowContext) -> datetime:
        await ctx.sleep(0.2)
        return ctx.now()

    async with App(odd) as app:
        before = datetime.now(UTC)
        handle = await app.start(naps)
        woken = await handle.result(timeout=60)
        after = datetime.now(UTC)
        found = await app.get_instance(handle.instance_id)
        entries = await app.history(handle.instance_id)
    assert found is not None
    assert found.finished_at is not None
    assert before <= found.created_at <= woken - timedelta(seconds=0.2)
    assert woken <= found.finished_at <= after
    assert all(before <= entry.recorded_at <= after for entry in entries)


@pytest.mark.real_clock
async def test_now_in_a_session_is_utc(kind: str, odd: str) -> None:
    async with App(odd) as app:
        now = await ask(app, kind, {"mariadb": "SELECT NOW(6)", "postgresql": "SELECT LOCALTIMESTAMP"})
    assert abs(datetime.fromisoformat(now) - datetime.now(UTC).replace(tzinfo=None)) < timedelta(seconds=60)


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.real_clock
async def test_text_is_exact_whatever_the_character_set_of_the_server(odd: str) -> None:
    async with App(odd) as app:
        handles = [await app.start(through.options(id=id), f"{id} {''.join(PLANES)}") for id in ALIKE]
        for id, handle in zip(ALIKE, handles, strict=True):
            assert await handle.result(timeout=60) == f"{id} {''.join(PLANES)}"
            found = await app.get_instance(id)
            assert found is not None
            assert found.instance_id == id


@pytest.mark.real_clock
async def test_what_does_not_fit_its_column_fails_the_attempt_instead_of_being_cut(odd: str) -> None:
    execute(odd, "DROP TABLE IF EXISTS short", "CREATE TABLE short (text VARCHAR(3))")
    short = sa.table("short", sa.column("text"))

    @activity
    async def write() -> int:
        attempt = current_activity().attempt
        await current_activity().session.execute(sa.insert(short).values(text="abcdef" if attempt == 1 else "abc"))
        return attempt

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await write()

    async with App(odd, retry=RetryPolicy.fixed(2, 0.01)) as app:
        handle = await app.start(flow)
        assert await handle.result(timeout=60) == 2
        failed, *_ = await app.history(handle.instance_id)
    assert "too long" in failed.payload["message"]
    assert execute(odd, "SELECT text FROM short") == [("abc",)]


# -- transactions ------------------------------------------------------------------------------------------------------


@pytest.mark.real_clock
async def test_sessions_the_journal_and_all_else_read_what_is_committed(kind: str, odd: str) -> None:
    def isolation(connection: Connection) -> str:
        return str(connection.execute(sa.text(ISOLATION[kind])).scalar())

    async with App(odd) as app:
        database = probe(app).database
        async with database.open_writer() as writer:
            levels = [
                await ask(app, kind, ISOLATION),
                await writer.run(isolation),
                await database.run(isolation),
                await database.read(isolation),
            ]
    assert {level.upper().replace("-", " ") for level in levels} == {"READ COMMITTED"}


@pytest.mark.real_clock
async def test_no_statement_waits_long_for_a_lock(kind: str, odd: str) -> None:
    asked = {"mariadb": "SELECT @@session.innodb_lock_wait_timeout", "postgresql": "SHOW lock_timeout"}
    async with App(odd) as app:
        assert (await ask(app, kind, asked)).removesuffix("s") == str(limits.LOCK_TIMEOUT)


# -- versions ----------------------------------------------------------------------------------------------------------


@define
class Cursor:
    """Answers every query with the same number, and queries about clusters with no row."""

    _answer: int
    _is_about_cluster: bool = False
    description = ("number",)

    def execute(self, statement: str) -> None:
        self._is_about_cluster = "wsrep" in statement

    def fetchone(self) -> tuple[int] | None:
        return None if self._is_about_cluster else (self._answer,)

    def close(self) -> None: ...


@define
class FakeConnection:
    """Accepts any settings."""

    packet: int = 16 * 1024 * 1024

    def cursor(self) -> Cursor:
        return Cursor(self.packet)


def test_a_server_that_takes_too_short_statements_is_refused() -> None:
    with pytest.raises(DatabaseError, match="max_allowed_packet is 1048576 bytes; set it to 16777216 or more"):
        mysql._set_up(FakeConnection(1024 * 1024), "10.11.6-MariaDB")


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
@pytest.mark.parametrize("worker", [True, False])
async def test_an_app_whose_payloads_the_server_does_not_take_is_refused(database: str, worker: bool) -> None:
    (packet,) = execute(database, "SELECT @@GLOBAL.max_allowed_packet")[0]
    with pytest.raises(DatabaseError, match=f"max_allowed_packet.* {packet} bytes.* max_payload") as caught:
        async with App(database, limits=Limits(max_payload=packet // 4 + 1), worker=worker):
            pass
    assert str(packet // 4) in str(caught.value)
    async with App(database, limits=Limits(max_payload=packet // 4), worker=worker):
        pass


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
@pytest.mark.parametrize("character", ["x", "\\", '"', "'", "\n", "\x7f", "\u20ac"], ids=ascii)
async def test_the_largest_payload_fits_into_a_statement_whatever_it_consists_of(database: str, character: str) -> None:
    (packet,) = execute(database, "SELECT @@GLOBAL.max_allowed_packet")[0]
    largest = packet // 4
    data = character * ((largest - 200) // (len(json.dumps(character)) - 2))
    with trio.fail_after(100):
        async with App(database, limits=Limits(max_payload=largest)) as app:
            handle = await app.start(returns_what_it_receives)
            await app.send_event("large", data)
            assert await handle.result() == data


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        ("5.5.5-10.5.27-MariaDB", "MariaDB 5.5.5-10.5.27-MariaDB; trio_romancy needs MariaDB 10.6 or newer"),
        ("10.2.44-MariaDB-log", "MariaDB 10.2.44-MariaDB-log; trio_romancy needs MariaDB 10.6 or newer"),
        ("5.5.68-MariaDB", "MariaDB 5.5.68-MariaDB; trio_romancy needs MariaDB 10.6 or newer"),
        ("5.7.44-log", "MySQL 5.7.44-log; trio_romancy needs MySQL 8.0 or newer"),
    ],
)
def test_a_server_that_is_too_old_is_refused(version: str, complaint: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        mysql._set_up(FakeConnection(), version)
    assert str(caught.value).endswith(f"the server is {complaint}")


@pytest.mark.parametrize(
    "version",
    [
        "5.5.5-10.6.0-MariaDB",
        "10.11.6-MariaDB-0+deb12u1",
        "11.4.2-MariaDB-ubu2404",
        "5.5.5-12.0.1-MariaDB",
        "8.0.11",
        "8.0.36-28.1",  # Percona
        "8.0.mysql_aurora.3.05.2",
        "9.1.0-commercial",
        "8.0.30-TiDB-v7.5.0",
    ],
)
def test_a_server_that_is_new_enough_is_not(version: str) -> None:
    mysql._set_up(FakeConnection(), version)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["mariadb"])
async def test_an_app_says_at_once_which_server_is_too_old(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiomysql.Connection, "get_server_info", lambda self: "5.7.44")
    with pytest.raises(DatabaseError, match=r"the server is MySQL 5\.7\.44; trio_romancy needs MySQL 8\.0 or newer"):
        async with App(odd):
            pass
