"""The app for asyncio: its calls, errors and cancellations, on any event loop."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import (
    App as TrioApp,
)
from trio_romancy import (
    DatabaseError,
    ResultTimeoutError,
    RomancyError,
    Status,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from trio_romancy._portal.asyncio_portal import AsyncioPortal
from trio_romancy._portal.thread import AppThread, Call
from trio_romancy.aio import App

from ..support.databases import ALL_KINDS


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def doubling(ctx: WorkflowContext, number: int) -> int:
    return await double(number)


@workflow
async def failing(ctx: WorkflowContext) -> None:
    raise ValueError("no")


@workflow
async def waiting(ctx: WorkflowContext) -> str:
    return (await ctx.wait_event("go")).id


def test_a_workflow_is_started_and_awaited() -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(doubling, 21)
            assert await handle.result() == 42
            assert await app.handle(handle.instance_id).result() == 42
            (instance,) = (await app.list_instances()).instances
            assert (instance.instance_id, instance.status) == (handle.instance_id, Status.COMPLETED)
            assert not await app.outbox.list()
            assert (await app.statistics()).worker is not None

    asyncio.run(main())


def test_errors_are_those_of_trio_and_keep_their_tracebacks() -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            with pytest.raises(WorkflowFailedError) as caught:
                await (await app.start(failing)).result()
            frames = {frame.name for frame in traceback.extract_tb(caught.tb)}
            assert {"main", "result"} <= frames
            assert any(Path(frame.filename).name == "handle.py" for frame in traceback.extract_tb(caught.tb))
            handle = await app.start(waiting)
            for kind in (ResultTimeoutError, TimeoutError, trio.TooSlowError):
                with pytest.raises(kind):
                    await handle.result(timeout=0.01)

    asyncio.run(main())


def test_an_app_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        app = App(str(tmp_path / "none" / "a.db"))
        for _ in range(2):
            with pytest.raises(DatabaseError):
                async with app:
                    pass

    asyncio.run(main())


async def opened() -> AsyncioPortal:
    portal = AsyncioPortal(lambda: TrioApp(":memory:"))
    await portal.open()
    return portal


def test_a_cancellation_reaches_the_wait_and_the_task_goes_on_when_that_has_ended() -> None:
    said: list[str] = []

    async def stubborn() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)
                said.append("trio")

    async def main() -> None:
        portal = await opened()
        task = asyncio.create_task(portal.call(stubborn))
        await asyncio.to_thread(begun.wait)
        assert task.cancel()
        assert task.cancel()  # once more while it waits
        with pytest.raises(asyncio.CancelledError):
            await task
        said.append("asyncio")
        await portal.close()

    begun = threading.Event()
    asyncio.run(main())
    assert said == ["trio", "asyncio"]


def test_a_task_that_is_cancelled_in_each_turn_of_its_loop_cancels_its_call_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            task = asyncio.create_task((await app.start(waiting)).result())
            while not task.done():
                await asyncio.sleep(0)
                task.cancel()
            assert task.cancelled()

    def counted(thread: AppThread, call: Call) -> None:
        cancels.append(call)
        cancel(thread, call)

    cancels: list[Call] = []
    cancel = AppThread.cancel
    monkeypatch.setattr(AppThread, "cancel", counted)
    asyncio.run(main())
    assert len(cancels) == 1


INTERRUPTED = """
import asyncio, sys, threading, trio
from trio_romancy import WorkflowContext, activity, workflow
from trio_romancy.aio import App

begun = threading.Event()

@activity
async def endless() -> None:
    begun.set()
    await trio.sleep_forever()

@workflow
async def endlessly(ctx: WorkflowContext) -> None:
    await endless()

async def main() -> None:
    say = lambda said: asyncio.get_running_loop().call_soon(print, said)  # as soon as this task waits
    async with App(sys.argv[1], shutdown_timeout=3600) as app:
        handle = await app.start(endlessly)
        await asyncio.to_thread(begun.wait)
        say("waiting")
        try:
            await handle.result()
        finally:
            print(await handle.status())
            say("closing")

sys.stdout.reconfigure(line_buffering=True)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_call_and_once_more_it_ends_running_activities(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.db")]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)
            assert [process.stdout.readline() for _ in range(2)] == ["running\n", "closing\n"]
            process.send_signal(signal.SIGINT)
            out, log = process.communicate(timeout=50)
            assert (out, log.count("they are released")) == ("interrupted\n", 1)
        finally:
            process.kill()


def test_a_timeout_of_asyncio_ends_a_wait_and_the_instance_goes_on() -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(waiting)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await handle.result()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(handle.result(), 0.02)
            sent = await app.send_event("go")
            assert await handle.result() == sent.id

    asyncio.run(main())


def test_calls_from_several_event_loops_are_answered_there() -> None:
    def elsewhere(app: App, number: int) -> int:
        async def call() -> int:
            return await (await app.start(doubling, number)).result()

        return asyncio.run(call())

    async def main() -> None:
        async with App(":memory:") as app:
            with ThreadPoolExecutor(4) as threads:
                loop = asyncio.get_running_loop()
                waits = [loop.run_in_executor(threads, elsewhere, app, n) for n in range(8)]
                assert await asyncio.gather(*waits) == [2 * n for n in range(8)]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["wait", "later call"])
def test_a_call_that_the_end_of_the_app_ends_raises_an_error_of_ours(how: str) -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(waiting)
            task = asyncio.create_task(handle.result())
            await app.list_workers()  # made after that
        with pytest.raises(RomancyError, match="the app is not running"):
            await (task if how == "wait" else handle.result())
        task.cancel()

    asyncio.run(main())


def test_an_app_can_be_entered_again_but_not_twice_at_once() -> None:
    async def main() -> None:
        app = App(":memory:")
        for _ in range(2):
            async with app:
                with pytest.raises(RomancyError, match="this app is open already"):
                    await app.__aenter__()
                assert await (await app.start(doubling, 1)).result() == 2
        with pytest.raises(RomancyError, match="the app is not running"):
            await app.start(doubling, 1)

    asyncio.run(main())


def test_a_cancelled_opening_leaves_no_thread() -> None:
    async def main() -> None:
        app = App("postgresql://nobody@127.0.0.1:1/none", start_timeout=60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), app:
                pass

    asyncio.run(main())
    for thread in threading.enumerate():
        if thread.name == "trio_romancy":
            thread.join(20)
            assert not thread.is_alive()


def test_the_error_that_ends_the_app_ends_the_block() -> None:
    class Strange(Exception):
        pass

    async def main() -> None:
        app = App(":memory:")
        with pytest.raises(Strange):
            async with app:
                raise Strange
        portal = await opened()
        with pytest.raises(Strange):
            await portal.call(raise_it)
        await portal.close()

    async def raise_it() -> None:
        raise Strange

    asyncio.run(main())


OUTSIDE: dict[str, Callable[[App], Any]] = {
    "trio": lambda app: trio.run(app.start, doubling, 1),
    "no event loop": lambda app: app.start(doubling, 1).send(None),
}


@pytest.mark.parametrize("place", OUTSIDE)
def test_a_call_outside_of_asyncio_names_the_right_app(place: str) -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            with pytest.raises(RomancyError, match=r"use trio_romancy\.App under trio"):
                await asyncio.to_thread(OUTSIDE[place], app)
            assert await (await app.start(doubling, 1)).result() == 2

    asyncio.run(main())


async def test_an_app_that_is_entered_under_trio_names_the_right_one() -> None:
    with pytest.raises(RomancyError, match=r"use trio_romancy\.App under trio"):
        async with App(":memory:"):
            pass


def test_a_client_runs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        url = str(tmp_path / "a.db")
        async with App(url, worker=False) as client:
            handle = await client.start(doubling, 4)
            async with App(url):
                assert await handle.result() == 8

    asyncio.run(main())


def test_an_instance_is_started_in_the_transaction_of_the_caller(tmp_path: Path) -> None:
    async def main() -> None:
        url = str(tmp_path / "a.db")
        async with App(url) as app:
            with closing(sqlite3.connect(url)) as connection:
                undone = await app.start_in(connection, doubling, 1)
                connection.rollback()
                handle = await app.start_in(connection, doubling, 21)
                await app.send_event_in(connection, "go")
                connection.commit()
            assert await handle.result() == 42
            assert await app.get_instance(undone.instance_id) is None

    asyncio.run(main())


@pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
def test_a_transaction_of_the_app_commits_what_its_block_has_done_or_undoes_it(database: str) -> None:
    async def main() -> None:
        async with App(database) as app:
            async with app.transaction() as tx:
                await tx.execute(sa.text("CREATE TABLE orders (id INTEGER)"))
            with pytest.raises(KeyError):
                async with app.transaction() as tx:
                    await tx.execute(sa.text("INSERT INTO orders VALUES (1)"))
                    undone = await tx.start(doubling, 1)
                    raise KeyError
            async with app.transaction() as tx:
                await tx.execute(sa.text("INSERT INTO orders VALUES (2)"))
                with pytest.raises(KeyError):
                    async with tx.begin_nested():
                        await tx.execute(sa.text("INSERT INTO orders VALUES (3)"))
                        raise KeyError
                handle = await tx.start(doubling, 21)
                if database == ":memory:":
                    with pytest.raises(RomancyError, match="one writer"):
                        await app.start(doubling, 1)
            assert await handle.result() == 42
            assert await app.get_instance(undone.instance_id) is None
            async with app.transaction() as other:
                assert list(await other.scalars(sa.text("SELECT id FROM orders"))) == [2]
            with pytest.raises(RomancyError, match="the block has ended"):
                await tx.execute(sa.text("SELECT 1"))
            with pytest.raises(sa.exc.DBAPIError):
                async with app.transaction() as tx:
                    await tx.execute(sa.text("SELECT nonsense FROM nowhere"))

    asyncio.run(main())


def test_a_cancelled_block_undoes_the_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        async with App(str(tmp_path / "a.db")) as app:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit, app.transaction() as tx:
                    undone = await tx.start(doubling, 1)
                    limit.reschedule(0)
                    await asyncio.sleep(60)
            assert await app.get_instance(undone.instance_id) is None
            async with app.transaction() as tx:
                handle = await tx.start(doubling, 1)
            assert await handle.result() == 2

    asyncio.run(main())


def test_the_end_of_the_app_ends_a_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        app = App(str(tmp_path / "a.db"))
        async with app:
            block = app.transaction()
            tx = await block.__aenter__()
            undone = await tx.start(doubling, 1)
        with pytest.raises(RomancyError, match="the app is not running"):
            await tx.scalar(sa.text("SELECT 1"))
        with pytest.raises(RomancyError, match="the app is not running"):
            await block.__aexit__(None, None, None)
        async with app:
            assert await app.get_instance(undone.instance_id) is None

    asyncio.run(main())


@pytest.mark.parametrize("tasks", [50, pytest.param(500, marks=pytest.mark.long)])
def test_no_start_of_many_tasks_is_lost(tasks: int) -> None:
    async def client(app: App, first: int) -> list[int]:
        return [await (await app.start(doubling, n)).result() for n in range(first, first + 10)]

    async def main() -> None:
        async with App(":memory:") as app:
            found = await asyncio.gather(*(client(app, 10 * n) for n in range(tasks)))
            assert [number for numbers in found for number in numbers] == [2 * n for n in range(10 * tasks)]

    asyncio.run(main())
