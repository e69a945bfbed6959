"""A process that stands still in the midst of a batch: it must not hold up the others for long."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import trio

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._storage.dialects.limits import LOCK_TIMEOUT

from ..support.databases import SHARED_KINDS
from ..support.fork_server import Process
from ..support.probe import wrap_batch_fence, write_several_statements
from ..support.processes import open_process
from ..support.servers import PRODUCTS, execute

pytestmark = pytest.mark.long

LEASE = 2.0
BATCHES = 20
"""How many batches the worker commits before it stands still."""


@activity(name="frozen_step")
async def step() -> None:
    pass


@workflow(name="frozen_workflow")
async def stepping(ctx: WorkflowContext) -> None:
    await step()


async def work_and_freeze(database: str) -> None:
    """What the process does that stops itself, behind the fence of a batch: its transaction holds locks."""
    batches = 0

    def freezing(fence_batch: Callable[..., bool]) -> Callable[..., bool]:
        def fence_and_freeze(*args: object) -> bool:
            nonlocal batches
            answer = fence_batch(*args)
            batches += 1
            if batches == BATCHES:
                print("frozen", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
            return answer

        return fence_and_freeze

    with pytest.MonkeyPatch.context() as patch:
        wrap_batch_fence(freezing, patch)
        write_several_statements(patch)
        async with App(database, worker_id="frozen", lease=LEASE) as app:
            while True:
                await (await app.start(stepping)).result()


def frozen_worker(database: str) -> AbstractContextManager[Process]:
    return open_process(__spec__.name, database, says="frozen")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
@pytest.mark.real_clock
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_worker_that_stands_still_in_a_batch_holds_up_nobody_and_is_taken_over(database: str) -> None:
    async with App(database, worker_id="live", lease=LEASE) as app:
        with frozen_worker(database):
            begun, longest = time.monotonic(), 0.0
            while time.monotonic() < begun + 3 * LEASE or not is_taken_over(database):
                since = time.monotonic()
                await (await app.start(stepping)).result()
                longest = max(longest, time.monotonic() - since)
                assert time.monotonic() < begun + 30
                await trio.sleep(0.05)
    assert longest < LOCK_TIMEOUT - 0.5


@activity(name="frozen_long_step")
async def long_step() -> str:
    print("begun", flush=True)
    await trio.sleep(0.5 if __name__ == "__main__" else 0.0)
    return "here" if __name__ == "__main__" else "there"


@workflow(name="frozen_long_workflow")
async def long_workflow(ctx: WorkflowContext) -> str:
    return await long_step()


async def work_and_be_frozen(database: str) -> None:
    async with App(database, worker_id="frozen", lease=LEASE) as app:
        await app.start(long_workflow.options(id="long"))
        await trio.sleep_forever()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_worker_that_is_stopped_is_taken_over_and_joins_again_when_it_goes_on(database: str) -> None:
    async with App(database, worker_id="live", lease=LEASE) as app:
        with open_process(__spec__.name, database, "outside", says="begun") as process:
            process.send_signal(signal.SIGSTOP)
            assert await app.handle("long").result(timeout=20) == "there"
            process.send_signal(signal.SIGCONT)
            with trio.fail_after(20):
                while len(await app.list_workers()) < 2:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            await trio.sleep(1)
            history = await app.history("long")
    assert [entry.operation_id for entry in history].count("frozen_long_step:1") == 1


def is_taken_over(database: str) -> bool:
    """Whether nothing is left with the worker that stands still."""
    return execute(database, "SELECT count(*) FROM romancy_instances WHERE owner = 'frozen'") == [(0,)]


if __name__ == "__main__":
    trio.run(work_and_be_frozen if sys.argv[2:] else work_and_freeze, sys.argv[1])
