"""Workers with different code on one database: each instance goes on under the code that its journal fits."""

# ruff: noqa: ASYNC110 (nothing tells us what happens in another process)

from __future__ import annotations

import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

from trio_romancy import App, Status, WorkflowCancelledError, WorkflowContext, WorkflowStuckError, workflow

from ..support.databases import SHARED_KINDS
from .deploy_worker import PATIENCE, Crew, ended, open_crew, send, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals"),
    pytest.mark.real_clock,
    pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True),
]

LEASE = 3.0
PROMPT = 9.0
"""Seconds in which a worker notices a change, on a loaded machine. One that waits for a lease to end takes 10."""

NON_DETERMINISM = "trio_romancy.NonDeterminismError"

ALIVE = {Status.PENDING, Status.RUNNING, Status.WAITING}


# What clients know of the workflows.


@workflow(name="deploys_order")
async def order(ctx: WorkflowContext) -> str:
    raise NotImplementedError


@workflow(name="deploys_unknown")
async def unknown(ctx: WorkflowContext) -> str:
    raise NotImplementedError


@define
class Deploy:
    """A test: a crew of workers, their client, and what it saw of the instance."""

    crew: Crew
    client: App
    seen: list[Status] = field(factory=list)
    """Each status that the client has seen the instance in, without repetitions."""

    async def watch(self) -> None:
        while True:
            instance = await self.client.get_instance("order")
            if instance is not None and instance.status not in self.seen[-1:]:
                self.seen.append(instance.status)
            await trio.sleep(0.02)

    async def begin_under_old_code(self, **options: Any) -> None:
        """The instance waits for its event, and no worker is left."""
        worker = await self.crew.start("first", "old", **options)
        await self.client.start(order.options(id="order"))
        with trio.fail_after(PATIENCE):
            while not await self.client.history("order"):
                await trio.sleep(0.01)
        send(worker, signal.SIGTERM)
        assert await ended(worker) == 0

    async def go(self) -> float:
        """Send what the instance waits for; return when."""
        await self.client.send_event("deploys.go", None, to="order")
        return time.monotonic()

    async def until_tried(self, times: int = 1, code: str = "new-code") -> None:
        await until(lambda: self.crew.count(code) >= times)

    async def until_stuck(self) -> None:
        """Because its journal does not fit the code; the client sees why."""
        with pytest.raises(WorkflowStuckError) as caught:
            while True:  # from before: it may not have been taken up again
                await self.client.handle("order").result(timeout=PATIENCE)
        assert caught.value.error_type == NON_DETERMINISM
        instance = await self.client.get_instance("order")
        assert instance is not None and instance.status is Status.STUCK
        assert instance.error is not None
        assert instance.error.error_type == NON_DETERMINISM
        assert "reserve" in instance.error.message and "check" in instance.error.message

    async def completes_as(self, version: str) -> None:
        with trio.fail_after(PATIENCE):
            while (instance := await self.client.get_instance("order")) is None or instance.status in {
                *ALIVE,
                Status.STUCK,
            }:
                await trio.sleep(0.01)
        assert (instance.status, instance.output, instance.error) == (Status.COMPLETED, version, None)
        assert self.crew.count("reserve") == self.crew.count("pay") == 1
        assert self.crew.count("check") == self.crew.count("release") == 0


@asynccontextmanager
async def open_deploy(directory: Path, database: str) -> AsyncIterator[Deploy]:
    with open_crew(directory, database) as crew:
        async with App(database, worker=False) as client, trio.open_nursery() as nursery:
            deploy = Deploy(crew, client)
            nursery.start_soon(deploy.watch)
            yield deploy
            nursery.cancel_scope.cancel()


async def test_what_new_code_cannot_do_is_left_to_a_worker_with_old_code(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        old = await deploy.crew.start("old", "old", lease=30)
        send(old, signal.SIGSTOP)  # so that the new one takes the instance
        await deploy.crew.start("new", "new", lease=30)
        await deploy.go()
        await deploy.until_tried()
        await trio.sleep(1)  # gives it time to get stuck, and the new one to try again and again
        assert deploy.crew.count("new-code") == 1
        send(old, signal.SIGCONT)
        await deploy.completes_as("old")
        assert set(deploy.seen) <= {*ALIVE, Status.COMPLETED}
        assert deploy.crew.count("pay", worker="old") == 1
        assert deploy.crew.count("new-code") == 1


async def test_without_old_code_it_is_stuck_until_old_code_comes_back(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        await deploy.crew.start("new", "new")
        await deploy.go()
        await deploy.until_stuck()
        assert deploy.crew.count("new-code") == 1

        # Asked to, all try again. There is one, so it is stuck again.
        assert await deploy.client.resume("order")
        await deploy.until_tried(2)
        await deploy.until_stuck()

        await deploy.crew.start("old", "old")
        begun = time.monotonic()
        await deploy.completes_as("old")
        assert time.monotonic() - begun < PROMPT
        assert not await deploy.client.resume("order")
        statuses = [status for status in deploy.seen if status not in ALIVE]
        assert statuses == sorted(statuses, key=[Status.STUCK, Status.COMPLETED].index)
        assert deploy.crew.count("new-code") == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_when_the_last_worker_with_old_code_goes_what_waited_for_it_gets_stuck(
    tmp_path: Path, database: str, how: signal.Signals
) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        await deploy.crew.start("new", "new", lease=LEASE)
        old = await deploy.crew.start("old", "old", lease=LEASE)
        send(old, signal.SIGSTOP)
        await deploy.go()
        await deploy.until_tried()
        if how is signal.SIGTERM:  # which it can hear only when it goes on; but then it may be faster
            send(old, signal.SIGTERM)
            send(old, signal.SIGCONT)
            await ended(old)
            if deploy.crew.count("old-code", worker="old"):
                pytest.skip("it was faster than the signal")
        else:
            send(old, signal.SIGKILL)
        gone = time.monotonic()
        await deploy.until_stuck()
        print(f"stuck {time.monotonic() - gone:.1f} s after {how.name}")
        assert time.monotonic() - gone < (LEASE if how is signal.SIGKILL else 0) + PROMPT
        assert deploy.crew.count("new-code") == 1


async def test_cancelled_while_stuck_it_is_rolled_back_by_new_code(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        await deploy.crew.start("new", "new")
        await deploy.go()
        await deploy.until_stuck()
        assert await deploy.client.cancel("order", "no longer wanted")
        with pytest.raises(WorkflowCancelledError):
            with trio.fail_after(PATIENCE):
                while True:
                    try:
                        await deploy.client.handle("order").result(timeout=PATIENCE)
                    except WorkflowStuckError:
                        await trio.sleep(0.01)
        assert deploy.crew.count("release", worker="new") == deploy.crew.count("release") == 1
        assert deploy.crew.count("pay") == deploy.crew.count("check") == 0
        await deploy.crew.start("old", "old")
        await trio.sleep(0.3)
        assert deploy.crew.count("old-code", worker="old") == 0
        assert deploy.seen[-1] is Status.CANCELLED


async def test_cancelled_while_it_waits_for_old_code_it_is_rolled_back(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        old = await deploy.crew.start("old", "old", lease=30)
        send(old, signal.SIGSTOP)
        await deploy.crew.start("new", "new", lease=30)
        await deploy.go()
        await deploy.until_tried()
        assert await deploy.client.cancel("order")
        send(old, signal.SIGCONT)
        with pytest.raises(WorkflowCancelledError):
            await deploy.client.handle("order").result(timeout=PATIENCE)
        assert deploy.crew.count("release") == 1
        assert Status.STUCK not in deploy.seen


async def test_workers_with_the_same_code_never_disagree(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        await deploy.crew.start("new", "new")
        await deploy.crew.start("new-too", "new", alone=True)
        await deploy.go()
        await deploy.until_stuck()
        await trio.sleep(0.5)
        assert deploy.crew.count("new-code") == 1

        # What is stuck stays stuck for a third, too, but not for two with the old code: either may take it.
        await deploy.crew.start("new-three", "new")
        await deploy.crew.start("old", "old", wait=False)
        await deploy.crew.start("old-too", "old", alone=True)
        await deploy.completes_as("old")
        assert deploy.crew.count("new-code") == 1


async def test_the_version_may_be_named_instead(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code(code_version="1")
        await deploy.crew.start("new", "new", code_version="2")
        await deploy.go()
        await deploy.until_stuck()

        # The same code, but it says that it is another: it is tried.
        await deploy.crew.start("new-3", "new", code_version="3")
        await deploy.until_tried(2)
        await deploy.until_stuck()
        assert deploy.crew.count("new-code", worker="new-3") == 1

        # Other code, but it says that it is what was tried: it is not, unless somebody asks for it.
        await deploy.crew.start("mended", "old", code_version="3")
        await trio.sleep(0.5)
        assert deploy.crew.count("old-code", worker="mended") == 0
        instance = await deploy.client.get_instance("order")
        assert instance is not None and instance.status is Status.STUCK
        for worker in ("new", "new-3"):
            assert deploy.crew.count("new-code", worker=worker) == 1


async def test_asked_to_resume_all_versions_try_again(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        new = await deploy.crew.start("new", "new", code_version="2")
        await deploy.go()
        await deploy.until_stuck()
        send(new, signal.SIGTERM)
        assert await ended(new) == 0
        await deploy.crew.start("mended", "old", code_version="2")
        await trio.sleep(0.3)
        assert deploy.crew.count("old-code", worker="mended") == 0
        assert await deploy.client.resume("order")
        await deploy.completes_as("old")


async def test_a_workflow_that_only_new_code_has_is_left_to_it(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.crew.start("old", "old")
        handle = await deploy.client.start(unknown)
        await trio.sleep(0.5)
        instance = await handle_status(deploy, handle.instance_id)
        assert instance in {*ALIVE, Status.STUCK}
        await deploy.crew.start("new", "new")
        with trio.fail_after(PATIENCE):
            while (instance := await handle_status(deploy, handle.instance_id)) is not Status.COMPLETED:
                assert instance in {*ALIVE, Status.STUCK}
                await trio.sleep(0.01)
        assert deploy.crew.count("check", worker="new") == 1


async def test_a_workflow_that_new_code_has_no_more_is_left_to_old_code(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        await deploy.begin_under_old_code()
        await deploy.crew.start("renamed", "renamed")
        await deploy.go()
        await trio.sleep(0.5)
        await deploy.crew.start("old", "old")
        await deploy.completes_as("old")


async def test_many_instances_find_the_workers_that_fit(tmp_path: Path, database: str) -> None:
    async with open_deploy(tmp_path, database) as deploy:
        old = await deploy.crew.start("first", "old")
        begun = [await deploy.client.start(order.options(id=f"old-{number}")) for number in range(20)]
        await until(lambda: deploy.crew.count("reserve") == len(begun))
        for handle in begun:
            with trio.fail_after(PATIENCE):
                while not await deploy.client.history(handle.instance_id):
                    await trio.sleep(0.01)
        send(old, signal.SIGTERM)
        assert await ended(old) == 0
        await deploy.crew.start("new", "new", wait=False)
        await deploy.crew.start("old", "old")
        await until(lambda: deploy.crew.count("ready", worker="new") == 1)
        await deploy.client.send_event("deploys.go", None)
        sent = time.monotonic()
        for handle in begun:
            assert await handle.result(timeout=PATIENCE) == "old"
        print(f"{len(begun)} in {time.monotonic() - sent:.2f} s; the new code tried {deploy.crew.count('new-code')}")
        assert time.monotonic() - sent < 10
        assert deploy.crew.count("reserve") == deploy.crew.count("pay") == len(begun)
        assert deploy.crew.count("pay", worker="old") == len(begun)


async def handle_status(deploy: Deploy, instance_id: str) -> Status:
    instance = await deploy.client.get_instance(instance_id)
    assert instance is not None
    return instance.status
