"""Workers that are told to stop by real signals: nothing is repeated, and nothing has to wait."""

# ruff: noqa: ASYNC110 (nothing tells us what happens in another process)

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trio_romancy import (
    App,
    DatabaseError,
    EntryKind,
    Status,
    WorkflowContext,
    WorkflowHandle,
    activity,
    current_activity,
    run_worker,
    workflow,
)
from trio_romancy._definitions.values import Workflow

from ..support.databases import SHARED_KINDS
from .deploy_worker import PATIENCE, Crew, ended, open_crew, send, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals"),
    pytest.mark.real_clock,
]

on_every_kind = pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)

PROMPT = 9.0
"""Seconds that a hand-over may take on a loaded machine. One that waits for the end of a lease takes 10."""

AWAY = "postgres://nobody@127.0.0.1:1/nothing"
"""Nobody listens there."""


# What clients know of the workflows: their names and parameters.


@workflow(name="rolling_long")
async def rolling_long(ctx: WorkflowContext, in_a_thread: bool) -> str:
    raise NotImplementedError


@workflow(name="rolling_waits")
async def rolling_waits(ctx: WorkflowContext, sleeps: float) -> None:
    raise NotImplementedError


@workflow(name="rolling_short")
async def rolling_short(ctx: WorkflowContext) -> None:
    raise NotImplementedError


@asynccontextmanager
async def open_test(directory: Path, database: str) -> AsyncIterator[tuple[Crew, App]]:
    with open_crew(directory, database) as crew:
        async with App(database, worker=False) as client:
            yield crew, client


async def begin_waiting(crew: Crew, client: App, worker: str) -> list[WorkflowHandle[None]]:
    """Some instances that wait in the memory of this worker: for an event, and the last for its time."""
    waiters = [await client.start(rolling_waits.options(id=f"waits-{number}"), 0.0) for number in range(5)]
    waiters.append(await client.start(rolling_waits.options(id="sleeps"), 1.0))
    await until(lambda: crew.count("short-before", worker=worker) == len(waiters))
    for waiter in waiters:
        await until_recorded(client, waiter.instance_id)
    return waiters


async def until_recorded(client: App, instance_id: str) -> None:
    """The outcome of its first activity is."""
    with trio.fail_after(PATIENCE):
        while not await client.history(instance_id):
            await trio.sleep(0.01)


async def finish_waiting(client: App, waiters: list[WorkflowHandle[None]], since: float) -> float:
    """Let them go on, and return how many seconds after that those that wait for an event had ended."""
    for waiter in waiters[:-1]:
        await client.send_event("rolling.go", None, to=waiter.instance_id)
    for waiter in waiters[:-1]:
        await waiter.result(timeout=PATIENCE)
    handed_over = time.monotonic() - since
    await waiters[-1].result(timeout=PATIENCE)
    return handed_over


def each_once(crew: Crew) -> bool:
    """Whether no effect but readiness has happened twice."""
    effects = Counter((what, instance) for what, instance, _ in crew.effects() if what != "ready")
    return set(effects.values()) == {1}


@on_every_kind
async def test_sigterm_hands_over_what_waits_at_once_and_lets_a_running_activity_end(
    tmp_path: Path, database: str, kind: str
) -> None:
    async with open_test(tmp_path, database) as (crew, client):
        stopping = await crew.start("stopping")
        running = await client.start(rolling_long.options(id="long"), False)
        waiters = await begin_waiting(crew, client, "stopping")
        await until(lambda: crew.count("long-begins") == 1)
        await crew.start("live")

        handed_over = await finish_waiting(client, waiters, send(stopping, signal.SIGTERM))
        print(f"{kind}: what waited had ended elsewhere {handed_over:.3f} s after the signal")
        assert handed_over < PROMPT
        # The sleeper's time may have come before the signal, if the machine is slow.
        assert sum(crew.count("short-after", waiter.instance_id, "live") for waiter in waiters[:-1]) == 5
        assert stopping.exitcode is None

        crew.open_gate()
        opened = time.monotonic()
        assert await running.result(timeout=PATIENCE) == "stopping"
        went_on = time.monotonic() - opened
        print(f"{kind}: an instance went on elsewhere {went_on:.3f} s after its activity could end")
        assert went_on < PROMPT
        assert await ended(stopping) == 0
        # What came after the activity was begun by the other.
        assert crew.count("short-after", "long", "live") == 1
        assert each_once(crew)


@on_every_kind
async def test_a_second_signal_does_not_wait_for_activities_which_run_again_elsewhere(
    tmp_path: Path, database: str, kind: str
) -> None:
    async with open_test(tmp_path, database) as (crew, client):
        stopping = await crew.start("stopping")
        handles = [await client.start(rolling_long.options(id=f"long-{where}"), where) for where in (False, True)]
        waiters = await begin_waiting(crew, client, "stopping")
        await until(lambda: crew.count("long-begins") == crew.count("thread-begins") == 1)
        await crew.start("live")

        assert await finish_waiting(client, waiters, send(stopping, signal.SIGINT)) < PROMPT
        assert stopping.exitcode is None  # because of the activities
        signalled = send(stopping, signal.SIGTERM)
        assert await ended(stopping) == 0
        stopped = time.monotonic() - signalled
        print(f"{kind}: ended {stopped:.3f} s after the second signal")
        assert stopped < PROMPT
        await until(lambda: crew.count("long-begins", worker="live") == crew.count("thread-begins", worker="live") == 1)
        taken_over = time.monotonic() - signalled
        print(f"{kind}: activities ran again {taken_over:.3f} s after it")
        assert taken_over < PROMPT

        crew.open_gate()
        assert [await handle.result(timeout=PATIENCE) for handle in handles] == ["live", "live"]
        assert crew.count("long-begins") == crew.count("thread-begins") == 2
        assert crew.count("short-after", "long-False") == crew.count("short-after", "long-True") == 1


@on_every_kind
async def test_an_activity_that_outlasts_the_shutdown_timeout_runs_again_elsewhere(
    tmp_path: Path, database: str
) -> None:
    async with open_test(tmp_path, database) as (crew, client):
        stopping = await crew.start("stopping", shutdown_timeout=0.5)
        handle = await client.start(rolling_long.options(id="long"), False)
        await until(lambda: crew.count("long-begins") == 1)
        await crew.start("live")
        signalled = send(stopping, signal.SIGTERM)
        assert await ended(stopping) == 0
        assert 0.5 <= time.monotonic() - signalled < 0.5 + PROMPT
        await until(lambda: crew.count("long-begins", worker="live") == 1)
        crew.open_gate()
        assert await handle.result(timeout=PATIENCE) == "live"


@on_every_kind
async def test_a_rolling_restart_under_load_repeats_nothing_and_loses_nothing(tmp_path: Path, database: str) -> None:
    handles: list[WorkflowHandle[None]] = []
    event_wanted, events_wanted = trio.open_memory_channel[str](1_000)
    restarted = trio.Event()

    async def begin() -> None:
        number = 0
        async with event_wanted:
            while not restarted.is_set() or number % 3:
                order: Workflow[..., None] = (rolling_short, rolling_waits, rolling_waits)[number % 3]
                arguments: tuple[float, ...] = ((), (0.0,), (0.3,))[number % 3]
                handles.append(await client.start(order.options(id=f"load-{number}"), *arguments))
                if number % 3 == 1:
                    await event_wanted.send(f"load-{number}")
                number += 1
                await trio.sleep(0.05)

    async def send_events() -> None:
        async for instance_id in events_wanted:
            await trio.sleep(0.1)
            await client.send_event("rolling.go", None, to=instance_id)

    async with open_test(tmp_path, database) as (crew, client):
        names = ["one", "two", "three"]
        workers = {name: await crew.start(name) for name in names}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            nursery.start_soon(send_events)
            for name, how in zip(names, [signal.SIGTERM, signal.SIGINT, signal.SIGTERM], strict=True):
                await until(lambda name=name: crew.count("short-after", worker=name) > 1)  # type: ignore[misc]
                send(workers[name], how)
                assert await ended(workers[name]) == 0
                await crew.start(name)
            restarted.set()
        for handle in handles:
            await handle.result(timeout=PATIENCE)
        done = Counter(instance for what, instance, _ in crew.effects() if what != "ready")
        assert done == {f"load-{number}": [4, 2, 2][number % 3] for number in range(len(handles))}
        assert each_once(crew)


@on_every_kind
async def test_a_worker_that_stops_when_there_is_no_other_leaves_all_to_the_next(tmp_path: Path, database: str) -> None:
    async with open_test(tmp_path, database) as (crew, client):
        first = await crew.start("first")
        waiters = await begin_waiting(crew, client, "first")
        send(first, signal.SIGTERM)
        assert await ended(first) == 0
        for waiter in waiters:
            instance = await client.get_instance(waiter.instance_id)
            assert instance is not None and instance.worker_id is None
        await crew.start("next")
        assert await finish_waiting(client, waiters, time.monotonic()) < PROMPT
        assert each_once(crew)


# -- in this process: pytest runs tests in the main thread -------------------------------------------------------------


@activity(name="rolling_nap")
async def nap(seconds: float) -> str:
    napping.set()
    await trio.sleep(seconds)
    return current_activity().instance_id


@workflow(name="rolling_naps")
async def naps(ctx: WorkflowContext, seconds: float) -> str:
    return await nap(seconds)


napping = trio.Event()


@pytest.fixture(autouse=True)
def nobody_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "napping", trio.Event())


@on_every_kind
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "cancel"])
async def test_as_a_task_it_gives_the_app_and_stops_by_signal_or_cancellation(database: str, how: str) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    async with trio.open_nursery() as nursery:
        app: App = await nursery.start(run_worker, App(database, worker_id="task"))
        assert app.worker_id == "task"
        await app.start(naps.options(id="naps"), 0.3)
        await napping.wait()
        if how == "cancel":
            nursery.cancel_scope.cancel()
        else:
            os.kill(os.getpid(), signal.Signals[how])
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    async with App(database, worker=False) as client:
        instance, history = await client.get_instance("naps"), await client.history("naps")
    assert instance is not None and instance.status in (Status.RUNNING, Status.PENDING, Status.COMPLETED)
    assert history[0].kind is EntryKind.ACTIVITY_COMPLETED


def test_as_a_whole_program_it_raises_what_is_wrong_with_the_database_as_it_is() -> None:
    with pytest.raises(DatabaseError):
        trio.run(run_worker, App(AWAY, start_timeout=0.2))


async def test_started_in_a_nursery_it_raises_what_is_wrong_with_the_database_as_it_is() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(DatabaseError):
            await nursery.start(run_worker, App(AWAY, start_timeout=0.2))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_stop_while_it_waits_for_the_database_to_come_it_stops(how: signal.Signals) -> None:
    begun = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_worker, App(AWAY, start_timeout=60))
        await trio.sleep(0.3)
        os.kill(os.getpid(), how)
    assert time.monotonic() - begun < 0.3 + PROMPT


async def test_a_signal_after_a_cancellation_is_a_second_signal(tmp_path: Path) -> None:
    begun = 0.0
    async with trio.open_nursery() as nursery:
        app: App = await nursery.start(run_worker, App(str(tmp_path / "romancy.db")))
        await app.start(naps, 60.0)
        await napping.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.3)
            begun = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
    assert time.monotonic() - begun < PROMPT


async def test_an_error_in_its_neighbour_is_not_lost_while_it_stops(tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError)):
        async with trio.open_nursery() as nursery:
            await nursery.start(run_worker, App(str(tmp_path / "romancy.db")))
            raise ZeroDivisionError


def test_a_whole_program_takes_what_there_is_from_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[bool] = []

    def freeze() -> None:
        frozen.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("gc.freeze", freeze)
    trio.run(run_worker, App(str(tmp_path / "romancy.db")))
    assert frozen


async def test_a_task_of_some_other_program_leaves_its_garbage_collector_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(True))
    async with trio.open_nursery() as nursery:
        await nursery.start(run_worker, App(str(tmp_path / "romancy.db")))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not frozen
