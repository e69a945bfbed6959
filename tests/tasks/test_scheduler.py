"""The tasks of one owner run one at a time, in the same order whatever trio's order is."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing
from trio._core import _run

from trio_romancy._tasks.scheduler import OrderLostError, Turns, current_scheduler
from trio_romancy._tasks.trio_internals import is_installed


class Run:
    """A workflow function that runs in the current task, as the scheduler sees it."""

    def __init__(self) -> None:
        self.turns: Turns | None = None
        self.nurseries: int | None = None
        self.crashes: list[Exception] = []
        self.main: trio.lowlevel.Task

    def own_nurseries(self, task: trio.lowlevel.Task) -> int | None:
        assert task is self.main
        return self.nurseries

    def left_behind(self, task: trio.lowlevel.Task) -> None:
        raise AssertionError

    def crash(self, cause: Exception) -> None:
        self.crashes.append(cause)

    def holds_thread(self, task: trio.lowlevel.Task, seconds: float, place: str) -> None:
        raise AssertionError(place)

    @contextmanager
    def open(self) -> Iterator[Run]:
        """Run the block with turns."""
        scheduler, self.main = current_scheduler(), trio.lowlevel.current_task()
        with scheduler.in_use():
            scheduler.begin(self.main, self)
            try:
                yield self
            finally:
                scheduler.end(self.main)


def instruments() -> set[str]:
    """Return the hooks for which trio has an instrument."""
    return {name for name in trio.lowlevel.current_task()._runner.instruments if name != "_all"}


Log = list[object]


async def busy(log: Log) -> None:
    """Use everything that trio has for tasks to wait for each other, and log the order."""
    lock, condition, limiter = trio.Lock(), trio.Condition(), trio.CapacityLimiter(2)
    send, receive = trio.open_memory_channel[int](3)
    event = trio.Event()

    async def produce() -> None:
        async with send:
            for i in range(10):
                await send.send(i)

    async def consume(name: int, channel: trio.MemoryReceiveChannel[int]) -> None:
        async with channel, limiter:
            async for value in channel:
                async with lock:
                    log.append((name, value))
                    await trio.lowlevel.checkpoint()

    async def wait(name: int) -> None:
        try:
            async with condition:
                await condition.wait()
        finally:
            log.append(name)

    async def wait_for_event(name: str) -> None:
        await event.wait()
        log.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for number in range(3):
            nursery.start_soon(consume, number, receive.clone())
            nursery.start_soon(wait_for_event, f"e{number}")
        receive.close()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                for number in range(8):
                    inner.start_soon(wait, number)
                await trio.sleep(1)
                event.set()
                async with condition:
                    condition.notify(3)
                await trio.sleep(1)
                scope.cancel()


async def orders(*, with_turns: bool) -> set[tuple[object, ...]]:
    """Return the orders that 40 runs of the same code take."""
    seen = set()

    async def run(log: Log) -> None:
        if with_turns:
            with Run().open():
                await busy(log)
        else:
            await busy(log)

    for _ in range(40):
        log: Log = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, log)
        seen.add(tuple(log))
    return seen


def test_tasks_with_turns_always_take_the_same_order_and_without_them_hardly_ever() -> None:
    logs = set()
    for seed in range(3):
        _run._r.seed(seed)
        logs |= trio.run(lambda: orders(with_turns=True), clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(logs) == 1
    without = trio.run(lambda: orders(with_turns=False), clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(without) > 10


async def test_several_workflows_take_turns_apart_from_each_other() -> None:
    logs: list[Log] = [[] for _ in range(5)]

    async def run(log: Log) -> None:
        with Run().open():
            await busy(log)

    async with trio.open_nursery() as nursery:
        for log in logs:
            nursery.start_soon(run, log)
    assert logs[0]
    assert all(log == logs[0] for log in logs)


async def test_a_task_that_yields_lets_the_others_go_first() -> None:
    log: list[str] = []
    done = False

    async def step(name: str) -> None:
        nonlocal done
        for number in range(3):
            log.append(f"{name}{number}")
            await trio.lowlevel.checkpoint()
        done = name == "b"

    with Run().open():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(step, "a")
            nursery.start_soon(step, "b")
            while not done:  # the first task waits actively, and starves none
                await trio.lowlevel.checkpoint()
    assert log == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_a_workflow_of_one_task_has_no_turns_and_no_instrument_that_sees_its_steps() -> None:
    assert instruments() == set()
    with Run().open() as run:
        assert instruments() == {"task_spawned"}
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            assert run.turns is None
            nursery.start_soon(trio.sleep, 1)
            assert run.turns is not None
            assert instruments() == {"task_spawned", "task_scheduled", "after_task_step", "task_exited"}
        assert run.turns is None
        assert instruments() == {"task_spawned"}
    assert instruments() == set()


async def test_rest_returns_when_no_task_can_go_on_and_when_one_task_is_left() -> None:
    rests: list[str] = []
    event = trio.Event()

    async def watch(turns: Turns) -> None:
        await turns.rest()
        rests.append("all wait")
        event.set()
        await turns.rest()
        rests.append("one is left")

    with Run().open() as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(event.wait)
            assert run.turns is not None
            trio.lowlevel.spawn_system_task(watch, run.turns)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
                assert not rests
    await trio.testing.wait_all_tasks_blocked()
    assert rests == ["all wait", "one is left"]


async def test_what_an_activity_spawns_and_waits_for_has_no_turns() -> None:
    together: list[int] = []
    running = 0

    async def part() -> None:
        nonlocal running
        running += 1
        await trio.lowlevel.checkpoint()
        together.append(running)
        running -= 1

    async def activity(run: Run) -> None:
        task = trio.lowlevel.current_task()
        assert run.turns is not None
        run.turns.leave(task, len(task.child_nurseries))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(part)
        await trio.sleep(1)
        run.turns.come_back(task)

    async def watch(turns: Turns) -> None:
        await turns.rest()
        together.append(-1)

    with Run().open() as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(activity, run)
            nursery.start_soon(trio.sleep, 2)
            assert run.turns is not None
            trio.lowlevel.spawn_system_task(watch, run.turns)
            await trio.sleep(0.5)
            assert sorted(together) == [-1, 1, 2, 3]  # the workflow rests while the activity waits
            assert len([*run.turns]) == 3
    assert not run.crashes


async def test_what_an_activity_of_the_only_task_spawns_has_no_turns() -> None:
    with Run().open() as run:
        async with trio.open_nursery():
            run.nurseries = 1
            async with trio.open_nursery() as of_the_activity:
                of_the_activity.start_soon(trio.sleep, 1)
                assert run.turns is None
            run.nurseries = None


async def test_a_spawn_through_nursery_start_has_its_turn() -> None:
    log: list[str] = []

    async def serve(task_status: trio.TaskStatus[str]) -> None:
        log.append("begun")
        task_status.started("up")
        await trio.lowlevel.checkpoint()
        log.append("served")

    with Run().open() as run:
        async with trio.open_nursery() as nursery:
            assert await nursery.start(serve) == "up"
            assert run.turns is not None
            assert len([*run.turns]) == 2
            log.append("started")
    assert log == ["begun", "started", "served"]


# -- when the order cannot be kept -------------------------------------------------------------------------------------


async def lose(run: Run, how: Callable[[], Awaitable[None]]) -> list[str]:
    """Lose the order in a workflow with three tasks, and return what its tasks log nevertheless."""
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        finally:
            log.append(name)

    async def watch() -> None:
        while run.turns is None:
            await trio.lowlevel.checkpoint()
        with pytest.raises(OrderLostError):
            await run.turns.rest()
        log.append("noticed")

    trio.lowlevel.spawn_system_task(watch)
    with run.open():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "a")
            nursery.start_soon(child, "b")
            await trio.lowlevel.checkpoint()
            await how()
            await trio.sleep(1)
    return sorted(log)


async def test_an_instrument_that_trio_has_dropped_is_noticed_before_the_next_outcome() -> None:
    async def drop() -> None:
        trio.lowlevel.remove_instrument(current_scheduler()._steps)
        with pytest.raises(OrderLostError):
            await turns().rest()

    def turns() -> Turns:
        assert run.turns is not None
        return run.turns

    run = Run()
    assert await lose(run, drop) == ["a", "b", "noticed"]
    assert [type(crash) for crash in run.crashes] == [OrderLostError]


async def test_a_dropped_watch_for_spawns_is_noticed_and_put_back() -> None:
    async def drop() -> None:
        spawns = current_scheduler()._spawns
        trio.lowlevel.remove_instrument(spawns)
        assert run.turns is not None
        with pytest.raises(OrderLostError):
            await run.turns.rest()
        assert is_installed(spawns)

    run = Run()
    assert await lose(run, drop) == ["a", "b", "noticed"]


async def test_a_task_that_runs_out_of_turn_crashes_the_run_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def skip_a_hook() -> None:
        task = trio.lowlevel.current_task()
        turns = current_scheduler().turns_of.pop(task)  # as if the hook had not been called for it
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.lowlevel.checkpoint()
        current_scheduler().turns_of[task] = turns
        turns._current = next(other for other in turns if other is not task)
        await trio.lowlevel.checkpoint()

    caplog.set_level(logging.ERROR, "trio.abc.Instrument")
    run = Run()
    assert await lose(run, skip_a_hook) == ["a", "b", "noticed"]
    assert "out of turn" in str(run.crashes[0])
    assert not caplog.records  # trio has dropped nothing


async def test_a_trio_without_the_run_queue_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("trio 99 keeps its runnable tasks elsewhere")

    monkeypatch.setattr("trio_romancy._tasks.scheduler.check_run_queue", refuse)
    with Run().open() as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
        assert "trio 99" in str(run.crashes[0])


# -- where it runs -----------------------------------------------------------------------------------------------------


def test_it_works_in_guest_mode() -> None:
    """The host is a loop that calls what trio gives to it."""
    import queue

    calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    ended: list[object] = []

    async def main() -> Log:
        log: Log = []
        with Run().open():
            await busy(log)
        return log

    async def alone() -> Log:
        log: Log = []
        with Run().open():
            await busy(log)
        return log

    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=calls.put,
        done_callback=ended.append,
        clock=trio.testing.MockClock(autojump_threshold=0),
    )
    while not ended:
        calls.get(timeout=10)()
    outcome = ended[0]
    assert hasattr(outcome, "unwrap")
    expected = trio.run(alone, clock=trio.testing.MockClock(autojump_threshold=0))
    assert outcome.unwrap() == expected


async def test_random_batches_of_trio_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = []
    for value in (0.0, 0.9):
        generator = random.Random(1)
        monkeypatch.setattr(_run, "_r", generator)
        monkeypatch.setattr(generator, "random", lambda value=value: value)
        log: Log = []
        with Run().open():
            await busy(log)
        logs.append(log)
    assert logs[0] == logs[1]


async def test_when_one_event_wakes_several_tasks_the_one_spawned_first_goes_first() -> None:
    """Trio wakes the tasks of a scope in the order of a set, and none of them has a turn at that time."""
    orders = set()
    for _ in range(10):
        log: list[int] = []

        async def wait(number: int, log: list[int] = log) -> None:
            try:
                await trio.sleep_forever()
            finally:
                log.append(number)

        async def cancel(turns: Turns, scope: trio.CancelScope) -> None:
            await turns.rest()
            scope.cancel()

        with Run().open() as run:
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(wait, number)
                assert run.turns is not None
                trio.lowlevel.spawn_system_task(cancel, run.turns, nursery.cancel_scope)
        orders.add(tuple(log))
    assert orders == {(0, 1, 2, 3, 4)}


def _wake_both(token: trio.lowlevel.TrioToken, first: trio.Event, second: trio.Event) -> None:
    """Wake the second in the pass of trio's loop in which the first has its step."""
    first.set()
    token.run_sync_soon(second.set)


async def test_a_task_that_wakes_while_another_is_about_to_have_its_step_goes_after_it() -> None:
    for _ in range(20):  # trio's order is one of two, at random
        log: list[str] = []
        east, west = trio.Event(), trio.Event()

        async def wait(event: trio.Event, name: str, log: list[str]) -> None:
            await event.wait()
            log.append(name)

        with Run().open() as run:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, east, "east", log)
                nursery.start_soon(wait, west, "west", log)
                assert run.turns is not None
                turns = run.turns
                await trio.testing.wait_all_tasks_blocked()

                token = trio.lowlevel.current_trio_token()
                token.run_sync_soon(_wake_both, token, west, east)
        assert sorted(log) == ["east", "west"] and turns._lost is None
        assert run.crashes == []
