"""The server has as many connections as it may, and most are somebody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio_asyncio
from attrs import define
from sqlalchemy import make_url

from trio_romancy import App, EntryKind, WorkflowContext, activity, workflow
from trio_romancy._storage.database import Database
from trio_romancy._storage.dialects.errors import is_transient
from trio_romancy._storage.open import open_database
from trio_romancy.testing import broken_guarantees

from ..support.lossy_proxy import open_app
from ..support.servers import ServerMissingError, execute, open_new_database, open_private_server
from .load import SLACK

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

MAX_CONNECTIONS = 10  # MariaDB knows no fewer

PLAIN_USER = {
    "mariadb": ["CREATE USER plain", "GRANT ALL ON {database}.* TO plain"],
    "postgresql": ["CREATE ROLE plain LOGIN", "GRANT CREATE ON SCHEMA public TO plain"],
}
"""Unlike a superuser it has no place that is kept free for it."""


@activity(name="full_servers_answer")
async def answer() -> int:
    return 42


@workflow(name="full_servers_answering")
async def answering(ctx: WorkflowContext) -> int:
    await ctx.sleep(0.01)
    return await answer()


@pytest.fixture
def database(kind: str) -> Iterator[str]:
    """A new database, as a plain user sees it, on a server that is soon full."""
    try:
        with (
            open_private_server(kind, settings={"max_connections": MAX_CONNECTIONS}, durable=False) as server,
            open_new_database(server.url()) as url,
        ):
            execute(url, *[statement.format(database=make_url(url).database) for statement in PLAIN_USER[kind]])
            yield make_url(url).set(username="plain").render_as_string()
    except ServerMissingError as error:
        pytest.skip(str(error))


@define
class Hog:
    _database: Database
    _held: AsyncExitStack
    places: int = 0

    async def take_all(self) -> None:
        """All places that are free, to which belong those whose connections have been cut just now."""
        for _ in range(3):
            try:
                while True:
                    await self._held.enter_async_context(self._database.open_transaction())
                    self.places += 1
            except Exception as error:
                if not is_transient(error):
                    raise
            await trio.sleep(0.05)


@asynccontextmanager
async def open_hog(database: str) -> AsyncIterator[Hog]:
    """Takes connections, and gives them back when the block ends."""
    async with open_database(database, pool_size=2 * MAX_CONNECTIONS) as connections, AsyncExitStack() as held:
        yield Hog(connections, held)


async def is_fine(app: App) -> None:
    handle = await app.start(answering)
    assert await handle.result() == 42
    instance = await app.get_instance(handle.instance_id)
    assert instance is not None
    history = await app.history(handle.instance_id)
    assert broken_guarantees(instance, history) == []
    assert EntryKind.ATTEMPT_FAILED not in {entry.kind for entry in history}


async def test_an_app_waits_until_there_is_room_for_it(database: str, caplog: pytest.LogCaptureFixture) -> None:
    opened = trio.Event()

    async def open_and_use() -> None:
        async with App(database, pool_size=2) as app:
            opened.set()
            await is_fine(app)

    async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
        async with open_hog(database) as hog:
            await hog.take_all()
            assert hog.places > 1
            nursery.start_soon(open_and_use)
            await trio.sleep(0.5)
            assert not opened.is_set()
        nursery.cancel_scope.deadline = trio.current_time() + 2.0 + SLACK
    assert not nursery.cancel_scope.cancelled_caught
    assert "is away, trying again" in caplog.text


async def test_an_app_whose_connections_others_took_waits_until_there_is_room_again(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        trio_asyncio.open_loop(),
        open_app(database, pool_size=2) as (proxy, app),
        trio.open_nursery() as nursery,
    ):
        await is_fine(app)
        before = app.statistics().worker
        done: list[int] = []

        async def use() -> None:
            await is_fine(app)
            done.append(1)

        async with open_hog(database) as hog:
            await hog.take_all()
            places = hog.places
            proxy.refuse()
            proxy.cut()
            await hog.take_all()
            assert hog.places > places
            proxy.accept()
            for _ in range(5):
                nursery.start_soon(use)
            await trio.sleep(0.5)
            assert not done
        nursery.cancel_scope.deadline = trio.current_time() + 2.0 + SLACK
        while len(done) < 5:  # noqa: ASYNC110
            await trio.sleep(0.01)
        nursery.cancel_scope.deadline = float("inf")
        after = app.statistics().worker
        assert before is not None
        assert after is not None
        assert after.epoch == before.epoch
    assert len(done) == 5
    assert "is away, trying again" in caplog.text
