"""A signal is an event: whoever waits is woken, whoever was cancelled is left alone."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from trio_romancy._tasks.light_event import LightEvent


def test_it_wakes_all_who_wait() -> None:
    async def main() -> None:
        signal = LightEvent()
        woken = []

        async def waiter(name: str) -> None:
            await signal.wait()
            woken.append(name)

        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(waiter, name)
            await wait_all_tasks_blocked()
            assert woken == []
            signal.set()
        assert sorted(woken) == ["one", "two"]

    trio.run(main)


def test_it_stays_set() -> None:
    async def main() -> None:
        signal = LightEvent()
        assert not signal.is_set()
        signal.set()
        signal.set()
        assert signal.is_set()
        await signal.wait()

    trio.run(main)


def test_it_does_not_wake_a_task_that_was_cancelled_and_waits_elsewhere() -> None:
    async def main() -> None:
        signal, other = LightEvent(), LightEvent()
        seen = []

        async def waiter() -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await signal.wait()
            seen.append("cancelled")
            await other.wait()
            seen.append("woken")

        scopes: list[trio.CancelScope] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            await wait_all_tasks_blocked()
            scopes[0].cancel()
            await wait_all_tasks_blocked()
            signal.set()
            await wait_all_tasks_blocked()
            assert seen == ["cancelled"]
            other.set()
        assert seen == ["cancelled", "woken"]

    trio.run(main)


def test_it_wakes_a_task_once_that_was_cancelled_and_waits_again() -> None:
    async def main() -> None:
        signal = LightEvent()
        ended = trio.Event()
        attempts = []

        async def waiter() -> None:
            while not signal.is_set():
                with trio.CancelScope() as scope:
                    attempts.append(scope)
                    await signal.wait()
            await trio.lowlevel.checkpoint()
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter)
            await wait_all_tasks_blocked()
            attempts[0].cancel()
            await wait_all_tasks_blocked()
            signal.set()
            await ended.wait()
        assert len(attempts) == 2

    trio.run(main)
