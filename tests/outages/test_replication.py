"""PostgreSQL with a standby: the primary dies under load, the standby is promoted, and the app follows it there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from sqlalchemy import make_url

from trio_romancy import App, Instance, WorkflowContext, activity, workflow
from trio_romancy.cli.checks import examine
from trio_romancy.testing import broken_guarantees

from ..support.servers import PrivateServer, ServerMissingError, execute, open_private_server
from .load import SLACK, open_load
from .test_hosts import url_of_all

pytestmark = [pytest.mark.long, pytest.mark.real_clock]

GOES_ON_WITHIN = 5.0
"""Seconds from the promotion until an activity completes again."""


STEPS = 100


@activity(name="replication_step")
async def take_step(number: int) -> int:
    await trio.sleep(0.03)
    return number


@workflow(name="replication_counting")
async def counting(ctx: WorkflowContext, number: int) -> int:
    return sum([await take_step(n) for n in range(STEPS)])


@contextmanager
def open_pair(*, synchronous: bool) -> Iterator[tuple[PrivateServer, PrivateServer, str]]:
    """A primary, its standby, and the URL of a new database there. If ``synchronous``, commits wait for the standby."""
    try:
        with (
            open_private_server("postgresql") as primary,
            open_private_server("postgresql", standby_of=primary) as standby,
        ):
            if synchronous:
                execute(primary.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
            execute(primary.url(), "CREATE DATABASE replicated")
            yield primary, standby, primary.url("replicated")
    except ServerMissingError as error:
        pytest.skip(str(error))


def on(server: PrivateServer, url: str) -> str:
    """The same database, on that server alone."""
    return make_url(url).set(port=server.port).render_as_string()


async def ended(app: App, id: str) -> Instance:
    """The instance, once the database has it as ended."""
    with trio.fail_after(60):
        while True:
            instance = await app.get_instance(id)
            assert instance is not None
            if instance.status.is_final:
                return instance
            await trio.sleep(0.1)


def url_of_pair(url: str, primary: PrivateServer, standby: PrivateServer) -> str:
    return url_of_all(url, [primary.port, standby.port]) + "&target_session_attrs=read-write"


@pytest.mark.usefixtures("quiet")
async def test_nothing_is_lost_by_a_promotion_if_commits_wait_for_the_standby() -> None:
    with open_pair(synchronous=True) as (primary, standby, url):
        async with App(url_of_pair(url, primary, standby)) as app, open_load(app, url, at_once=15) as load:
            assert not [finding for finding in await examine(url) if finding.check == "replication"]
            await trio.sleep(1.0)
            await trio.to_thread.run_sync(primary.kill)
            await trio.to_thread.run_sync(standby.promote)
            load.url = on(standby, url)
            assert await load.goes_on() < GOES_ON_WITHIN + SLACK


async def test_a_promotion_that_loses_commits_is_an_error_in_the_log_and_leaves_no_instance_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_pair(synchronous=False) as (primary, standby, url):
        async with App(url_of_pair(url, primary, standby)) as app:
            handles = [await app.start(counting, number) for number in range(10)]
            await trio.sleep(0.5)
            assert [f.verdict for f in await examine(url) if f.check == "replication"] == ["note"]
            # The standby hears no more. What is committed from now on is lost.
            await trio.to_thread.run_sync(
                execute, standby.url(), "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"
            )
            while await trio.to_thread.run_sync(execute, standby.url(), "SELECT 1 FROM pg_stat_wal_receiver"):  # noqa: ASYNC110
                await trio.sleep(0.02)
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(primary.kill)
            await trio.to_thread.run_sync(standby.promote)
            for handle in handles:  # some were told their results before those were lost
                assert await handle.result() == sum(range(STEPS))
                instance = await ended(app, handle.instance_id)
                assert instance.output == sum(range(STEPS))
                assert not broken_guarantees(instance, await app.history(handle.instance_id))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert any("committed transactions of worker" in message for message in errors)
