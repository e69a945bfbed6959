"""The app for synchronous code: its calls and errors, from any thread, after a fork, and with Ctrl-C."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa

from trio_romancy import (
    ResultTimeoutError,
    RomancyError,
    Status,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from trio_romancy.sync import App


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
    with App(":memory:") as app:
        handle = app.start(doubling, 21)
        assert handle.result() == 42
        assert app.handle(handle.instance_id).result() == 42
        (instance,) = app.list_instances().instances
        assert (instance.instance_id, instance.status) == (handle.instance_id, Status.COMPLETED)
        assert not app.outbox.list()
        assert app.statistics().worker is not None


def test_errors_are_those_of_trio_and_keep_their_tracebacks() -> None:
    with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError) as caught:
            app.start(failing).result()
        assert any(Path(frame.filename).name == "handle.py" for frame in traceback.extract_tb(caught.tb))
        with pytest.raises(ResultTimeoutError):
            app.start(waiting).result(timeout=0.01)


def test_an_app_can_be_entered_again_but_not_twice_at_once() -> None:
    app = App(":memory:")
    for _ in range(2):
        with app:
            with pytest.raises(RomancyError, match="this app is open already"):
                app.__enter__()
            assert app.start(doubling, 1).result() == 2
    with pytest.raises(RomancyError, match="the app is not running"):
        app.start(doubling, 1)


def test_of_several_threads_that_enter_an_app_at_once_one_does() -> None:
    def enter(app: App) -> str:
        gate.wait()
        try:
            app.__enter__()
        except RomancyError as error:
            return str(error)[:24]
        return "entered"

    with ThreadPoolExecutor(3) as threads:
        for _ in range(5):
            app, gate = App(":memory:"), Barrier(3)
            found = sorted(threads.map(enter, [app] * 3))
            assert found == ["entered", "this app is open already", "this app is open already"]
            assert app.start(doubling, 1).result() == 2
            app.__exit__(None, None, None)


@pytest.mark.parametrize("count", [500, pytest.param(5_000, marks=pytest.mark.long)])
def test_no_start_of_many_threads_is_lost(count: int) -> None:
    with App(":memory:") as app, ThreadPoolExecutor(50) as threads:
        found = threads.map(lambda n: app.start(doubling, n).result(), range(count))
        assert list(found) == [2 * n for n in range(count)]


def test_a_call_from_the_app_s_own_thread_is_refused_and_one_from_a_thread_of_an_activity_is_not() -> None:
    @activity
    async def wrong() -> str:
        try:
            app.start(doubling, 1)
        except RomancyError as error:
            return str(error)
        return "accepted"

    @activity
    def right() -> int:
        return app.start(doubling, 1).result()

    @workflow
    async def both(ctx: WorkflowContext) -> tuple[str, int]:
        return await wrong(), await right()

    with App(":memory:") as app:
        said, number = app.start(both).result()
    assert "the app's own thread" in said
    assert number == 2


def in_fork(fn: object) -> int:
    """The exit code of a forked process that calls a function."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if callable(fn) and fn() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_app_is_entered_in_each_process_after_a_fork(tmp_path: Path) -> None:
    app = App(str(tmp_path / "a.db"))

    def use() -> bool:
        with app:
            return app.start(doubling, 3).result() == 6

    def use_that_of_the_parent() -> bool:
        try:
            app.start(doubling, 3)
        except RomancyError as error:
            return "before the process was forked" in str(error)
        return False

    def leave_block_of_the_parent() -> bool:
        app.hurry()
        app.__exit__(None, None, None)
        return True

    assert in_fork(use) == 0
    with app:
        assert in_fork(leave_block_of_the_parent) == 0
        assert in_fork(use_that_of_the_parent) == 0
        assert in_fork(use) == 0
        assert app.start(doubling, 3).result() == 6


INTERRUPTED = """
import os, signal, sys, threading, time
from trio_romancy import WorkflowContext, workflow
from trio_romancy.sync import App

@workflow
async def waiting(ctx: WorkflowContext) -> None:
    await ctx.wait_event("go")

try:
    with App(sys.argv[1]) as app:
        handle = app.start(waiting)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            handle.result()
        finally:
            print("ended")
            print(app.get_instance(handle.instance_id).status)
except KeyboardInterrupt:
    print("closed", [t.name for t in threading.enumerate() if t.name == "trio_romancy"])
"""


def test_ctrl_c_ends_a_call_and_the_app_closes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0] == "ended", done.stderr
    assert lines[1] in ("waiting", "running")
    assert lines[2] == "closed []"


INTERRUPTED_AT_THE_END = """
import atexit, os, signal, sys, threading, time, trio
from trio_romancy import WorkflowContext, activity, workflow
from trio_romancy.sync import App

@activity
async def endless() -> None:
    begun.set()
    try:
        await trio.sleep_forever()
    finally:
        print("cancelled")

@workflow
async def endlessly(ctx: WorkflowContext) -> None:
    await endless()

def interrupt() -> None:
    closing.wait()
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

begun, closing = threading.Event(), threading.Event()
threading.Thread(target=interrupt, daemon=True).start()
app = App(sys.argv[1], shutdown_timeout=3600)
if sys.argv[2] == "in the block":
    try:
        with app:
            app.start(endlessly)
            begun.wait()
            closing.set()
    except KeyboardInterrupt:
        print("closed")
else:
    app.__enter__().start(endlessly)
    begun.wait()
    atexit.register(closing.set)  # called before what closes the app
"""


@pytest.mark.parametrize(("where", "said"), [("in the block", ["cancelled", "closed"]), ("left open", ["cancelled"])])
def test_ctrl_c_while_the_app_closes_ends_running_activities(tmp_path: Path, where: str, said: list[str]) -> None:
    command = [sys.executable, "-c", INTERRUPTED_AT_THE_END, str(tmp_path / "a.db"), where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout.splitlines() == said, done.stderr


LEFT_OPEN = """
import sys
from trio_romancy.sync import App
app = App(sys.argv[1]).__enter__()
"""


def test_an_app_that_was_left_open_is_closed_when_the_program_ends(tmp_path: Path) -> None:
    url = str(tmp_path / "a.db")
    subprocess.run([sys.executable, "-c", LEFT_OPEN, url], check=True, timeout=60)
    with App(url, worker=False) as client:
        assert client.list_workers() == []


def test_an_instance_is_started_in_the_transaction_of_the_caller(tmp_path: Path) -> None:
    url = str(tmp_path / "a.db")
    with App(url) as app:
        with closing(sqlite3.connect(url)) as connection:
            undone = app.start_in(connection, doubling, 1)
            connection.rollback()
            handle = app.start_in(connection, doubling, 21)
            connection.commit()
        assert handle.result() == 42
        assert app.get_instance(undone.instance_id) is None


def test_a_transaction_of_the_app_commits_what_its_block_has_done_or_undoes_it(tmp_path: Path) -> None:
    with App(str(tmp_path / "a.db")) as app:
        with pytest.raises(KeyError), app.transaction() as tx:
            undone = tx.start(doubling, 1)
            raise KeyError
        with app.transaction() as tx:
            tx.execute(sa.text("CREATE TABLE orders (id INTEGER)"))
            with pytest.raises(KeyError), tx.begin_nested():
                tx.execute(sa.text("INSERT INTO orders VALUES (3)"))
                raise KeyError
            handle = tx.start(doubling, 21)
            with pytest.raises(RomancyError, match="one writer"):
                app.start(doubling, 1)
        assert handle.result() == 42
        assert app.get_instance(undone.instance_id) is None
        with app.transaction() as tx:
            assert list(tx.scalars(sa.text("SELECT id FROM orders"))) == []


async def test_an_app_that_is_entered_under_trio_names_the_right_one() -> None:
    with pytest.raises(RomancyError, match=r"use trio_romancy\.App"), App(":memory:"):
        pass


def test_no_signal_handler_is_changed() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with App(":memory:") as app:
        assert app.start(doubling, 1).result() == 2
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
