"""Workflows that do harm to the process that they run in."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any, NoReturn

import trio

from trio_romancy import RetryPolicy, WorkflowContext, activity, compensation, current_activity, workflow

from .notes import attempt_noted, note
from .workflows import ACCOUNTS, EVENT, QUICK, book_for_now, refuse, work

LONGEST_CHILD = 6.0
"""Seconds that a forked child lives."""

_kept: list[Any] = []


@activity(name="chaos_hold", retry=QUICK)
async def hold(seconds: float) -> None:
    """Hold the thread of the event loop."""
    with attempt_noted():
        time.sleep(seconds)  # noqa: ASYNC251


@workflow(name="chaos_holder")
async def holder(ctx: WorkflowContext, number: int, seconds: float) -> int:
    await hold(seconds)
    return await work(number)


@activity(name="chaos_fork", retry=QUICK)
async def fork() -> None:
    """Leave a child behind, in the process group of the worker or in one of its own, and send it a signal."""
    with attempt_noted():
        leaves_group = random.random() < 0.5
        if (child := os.fork()) == 0:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, LONGEST_CHILD)  # a handler can wait for a lock of another thread
                if leaves_group:
                    os.setsid()
                end = time.monotonic() + random.uniform(0.2, LONGEST_CHILD)
                while time.monotonic() < end:
                    time.sleep(0.05)  # noqa: ASYNC251 here it gets the signal, which must not reach its parent
            finally:
                os._exit(0)
        await trio.sleep(0.05)
        os.kill(child, random.choice([signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGCHLD]))


@workflow(name="chaos_forker")
async def forker(ctx: WorkflowContext, number: int) -> int:
    await fork()
    await ctx.sleep(0.1)
    return await work(number)


@compensation(name="chaos_explode", retry=QUICK)
async def explode() -> None:
    """Kill the process, however often this runs."""
    note("explosion", instance=current_activity().instance_id)
    os.kill(os.getpid(), signal.SIGKILL)


@activity(name="chaos_arm", retry=QUICK, compensation=explode)
async def arm() -> None: ...


@workflow(name="chaos_poison")
async def poison(ctx: WorkflowContext, number: int) -> None:
    await book_for_now(number % ACCOUNTS, (number + 1) % ACCOUNTS, 1)
    await arm()
    await refuse(True)


async def leave_a_cancelled_scope() -> None:
    scope = trio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def leave_a_nursery() -> None:
    _kept.append(trio.open_nursery())
    await _kept[-1].__aenter__()


async def raise_a_stale_cancellation() -> NoReturn:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            _kept.append(error)
            raise
    raise _kept[-1]


async def raise_generator_exit() -> NoReturn:
    raise GeneratorExit


MISTAKES = [leave_a_cancelled_scope, leave_a_nursery, raise_a_stale_cancellation, raise_generator_exit]


@activity(name="chaos_be_careless", retry=RetryPolicy.no_retry())
async def be_careless(mistake: int) -> None:
    await MISTAKES[mistake]()


@workflow(name="chaos_careless")
async def careless(ctx: WorkflowContext, mistake: int) -> None:
    """Fails by its own mistake, and no other instance must."""
    await be_careless(mistake)


@workflow(name="chaos_prey")
async def prey(ctx: WorkflowContext, number: int) -> int:
    """Waits for long enough to have its rows damaged."""
    total = await work(number)
    await ctx.wait_event(EVENT, f"prey {ctx.instance_id}")
    return total
