"""The database goes away just while a worker takes over the instances of one that has died."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy import Connection, Engine, event

from trio_romancy import App, EntryKind, WorkflowContext, activity, current_activity, workflow
from trio_romancy._runtime.worker import heartbeat
from trio_romancy._storage.drivers import connections
from trio_romancy._storage.sql import workers
from trio_romancy.testing import broken_guarantees

from ..support.lossy_proxy import LossyProxy, commits_each, in_trio, open_lossy_proxy
from ..support.probe import appear_dead, replace_join, replace_leave
from ..support.servers import PrivateServer, execute
from .load import SLACK

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

INSTANCES = 3
DIES_AFTER = 0.1
"""Seconds that the dead are believed to be alive."""

waiting: list[int] = []
may_end = trio.Event()


@activity(name="takeovers_book_once")
async def book_once(number: int, what: str) -> None:
    await current_activity().session.execute(sa.text("INSERT INTO booked VALUES (:n, :w)"), {"n": number, "w": what})


@activity(name="takeovers_wait_for_the_end")
async def wait_for_the_end(number: int) -> None:
    waiting.append(number)
    await may_end.wait()


@workflow(name="takeovers_taken_over")
async def taken_over(ctx: WorkflowContext, number: int) -> int:
    await book_once(number, "before")
    await wait_for_the_end(number)
    await book_once(number, "after")
    return number


Transaction = Callable[..., Any]


class Takeover:
    """Tells what is the n-th transaction, and the n-th statement, from when a worker begins to join."""

    def __init__(self) -> None:
        self.has_begun = False
        self.transactions = 0
        self.statements = 0
        self.at_transaction: Callable[[int, Connection], None] = lambda _, __: None
        """Called before it commits."""
        self.at_statement: Callable[[int], None] = lambda _: None
        self._in_transaction = connections.in_transaction
        self._join = workers.join

    # Both may be called in a thread.

    def in_transaction(self, connection: Connection, fn: Transaction, *args: Any) -> Any:
        def run(connection: Connection, *args: Any) -> Any:
            if each := commits_each(connection):
                self._commits(connection)
            answer = fn(connection, *args)
            if not each:
                self._commits(connection)
            return answer

        return self._in_transaction(connection, run, *args)

    def _commits(self, connection: Connection) -> None:
        if self.has_begun:
            self.transactions += 1
            in_trio(self.at_transaction, self.transactions, connection)

    def join(self, *args: Any, **options: Any) -> Any:
        self.has_begun = True
        return self._join(*args, **options)

    def before_statement(self, *_: Any) -> None:
        if self.has_begun:
            self.statements += 1
            in_trio(self.at_statement, self.statements)


async def die(database: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a worker leaves behind that does not come to its end: the ids of its instances, which run."""
    global may_end
    may_end = trio.Event()
    waiting.clear()
    with monkeypatch.context() as patch:
        replace_leave(lambda *_: None, patch)
        appear_dead(patch)
        patch.setattr(heartbeat, "PATIENCE", 100)  # of so short a lease; a busy machine lets it stand still for longer
        async with App(database, worker_id="dead", lease=DIES_AFTER, shutdown_timeout=0.01) as app:
            handles = [await app.start(taken_over, number) for number in range(INSTANCES)]
            while len(waiting) < INSTANCES:  # noqa: ASYNC110
                await trio.sleep(0.005)
    await trio.sleep(DIES_AFTER)
    owners = execute(database, "SELECT DISTINCT owner FROM romancy_instances WHERE status <> 'completed'")
    assert owners == [("dead",)]
    may_end.set()
    return [handle.instance_id for handle in handles]


async def check(app: App, database: str, ids: list[str]) -> None:
    """All of them finish, once."""
    for number, id in enumerate(ids):
        assert await app.handle(id).result(timeout=2.0 + SLACK) == number
        instance = await app.get_instance(id)
        assert instance is not None
        history = await app.history(id)
        assert broken_guarantees(instance, history) == []
        assert EntryKind.ATTEMPT_FAILED not in {entry.kind for entry in history}
    booked = execute(database, "SELECT number, what FROM booked")
    assert sorted(booked) == [(n, what) for n in range(INSTANCES) for what in ("after", "before")]
    execute(database, "DELETE FROM booked")


@contextmanager
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Takeover]:
    takeover = Takeover()
    with monkeypatch.context() as patch:
        patch.setattr(connections, "in_transaction", takeover.in_transaction)
        replace_join(takeover.join, patch)
        event.listen(Engine, "before_cursor_execute", takeover.before_statement)
        try:
            yield takeover
        finally:
            event.remove(Engine, "before_cursor_execute", takeover.before_statement)


async def take_over(database: str, proxy: LossyProxy, heir: str, ids: list[str]) -> None:
    async with App(proxy.url(database), worker_id=heir) as app:
        await check(app, database, ids)


async def test_all_is_taken_over_once_whichever_commits_get_no_answer(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database, "CREATE TABLE booked (number INTEGER, what VARCHAR(10))")
    for made in range(1, 9):
        unmade = (made + 3) % 8 + 1
        ids = await die(database, monkeypatch)
        async with open_lossy_proxy(database) as proxy:
            lost: list[int] = []

            def lose(n: int, connection: Connection, fates: Any = (made, unmade), proxy: Any = proxy) -> None:
                if n in fates:
                    lost.append(n)  # noqa: B023
                    proxy.lose_commit(connection, is_made=n == fates[0])

            with watch(monkeypatch) as takeover:
                takeover.at_transaction = lose
                await take_over(database, proxy, f"heir {made}", ids)
            assert lost == sorted((made, unmade))


async def test_all_is_taken_over_once_at_whichever_statement_all_connections_are_cut(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database, "CREATE TABLE booked (number INTEGER, what VARCHAR(10))")
    for cut in range(1, 9):
        ids = await die(database, monkeypatch)
        async with open_lossy_proxy(database) as proxy:
            with watch(monkeypatch) as takeover:

                def at_statement(number: int, cut: int = cut, proxy: LossyProxy = proxy) -> None:
                    if number == cut:
                        proxy.cut()

                takeover.at_statement = at_statement
                await take_over(database, proxy, f"heir {cut}", ids)
            assert takeover.statements > cut


async def test_all_is_taken_over_once_though_the_server_crashes_meanwhile(
    database: str, server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database, "CREATE TABLE booked (number INTEGER, what VARCHAR(10))")
    # Joining, ending dead leases, looking for what is due, taking it up.
    for lost in (2, 4):
        ids = await die(database, monkeypatch)
        crashed = trio.Event()

        def at_transaction(n: int, _: Connection, lost: int = lost, crashed: trio.Event = crashed) -> None:
            if n == lost:
                server.kill()
                crashed.set()

        async def restart(crashed: trio.Event = crashed) -> None:
            await crashed.wait()
            await trio.to_thread.run_sync(server.start)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            with watch(monkeypatch) as takeover:
                takeover.at_transaction = at_transaction
                async with App(database, worker_id=f"heir {lost}") as app:
                    await check(app, database, ids)
