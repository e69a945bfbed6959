"""Workers in processes of their own, for test_rolling_restarts.py and test_deploys.py, and what starts them.

The processes are forked from a server that has imported everything once, which is ten times as fast as starting
Python for each. Those that must not have anything in common are spawned.

What workflows and activities do is appended to a file, a line each, that the tests read: what, in which instance, and
by which worker.
"""

# ruff: noqa: ASYNC110, ASYNC240 (nothing tells us what happens in another process)

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import trio
from attrs import define, field

from trio_romancy import App, WorkflowContext, activity, compensation, current_activity, run_worker, workflow

LAZILY_IMPORTED = [
    "aiomysql",
    "alembic.command",
    "asyncpg",
    "sqlalchemy.dialects.sqlite",
    "trio_romancy._storage.drivers.asyncio_server",
]
"""What an app imports when it opens. Here the processes have it from the start."""

PATIENCE = 40.0
"""Seconds that a test waits for what should take no time, because the machine may be loaded."""


# -- in the process of a worker ----------------------------------------------------------------------------------------

worker_id = ""


def note(what: str, instance_id: str = "-") -> None:
    """Append a line. One write in this mode is never mixed with that of another process."""
    log = os.open("effects.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{what} {instance_id} {worker_id}\n".encode())
    os.close(log)


def define_orders(version: str) -> None:
    """The workflow ``deploys_order`` as this version has it. Its journals fit that of ``old`` or ``new``, not both."""

    @compensation
    async def release() -> None:
        note("release", current_activity().instance_id)

    @activity(compensation=release)
    async def reserve() -> None:
        note("reserve", current_activity().instance_id)

    @activity
    async def check() -> None:
        note("check", current_activity().instance_id)

    @activity
    async def pay() -> None:
        note("pay", current_activity().instance_id)

    if version == "old":

        @workflow(name="deploys_order")
        async def order(ctx: WorkflowContext) -> str:
            note("old-code", ctx.instance_id)
            # The hash of a string, and so the order of this set, is another one in each process.
            if ctx.workflow in {"deploys_order", "apple", "pear", "plum", "cherry", "quince"}:
                await reserve()
            await ctx.wait_event("deploys.go")
            await pay()
            return await (lambda: answer())()

        async def answer() -> str:
            return "old"

    elif version == "new":

        @workflow(name="deploys_order")
        async def order(ctx: WorkflowContext) -> str:
            note("new-code", ctx.instance_id)
            await check()
            await reserve()
            await ctx.wait_event("deploys.go")
            await pay()
            return "new"

        @workflow(name="deploys_unknown")
        async def unknown(ctx: WorkflowContext) -> str:
            await check()
            return "new"

    elif version == "renamed":

        @workflow(name="deploys_order_v2")
        async def order(ctx: WorkflowContext) -> str:
            return "renamed"


def define_load() -> None:
    """What rolling restarts happen under."""

    @activity
    async def short(step: str) -> None:
        note(f"short-{step}", current_activity().instance_id)
        await trio.sleep(0.03)

    @activity
    async def long() -> str:
        note("long-begins", current_activity().instance_id)
        while not Path("gate").exists():
            await trio.sleep(0.01)
        note("long-ends", current_activity().instance_id)
        return worker_id

    @activity
    def long_in_a_thread() -> str:
        note("thread-begins", current_activity().instance_id)
        while not Path("gate").exists():
            time.sleep(0.01)
        return worker_id

    @workflow(name="rolling_long")
    async def rolling_long(ctx: WorkflowContext, in_a_thread: bool) -> str:
        done_by = await (long_in_a_thread() if in_a_thread else long())
        await short("after")
        return done_by

    @workflow(name="rolling_waits")
    async def rolling_waits(ctx: WorkflowContext, sleeps: float) -> None:
        await short("before")
        if sleeps:
            await ctx.sleep(sleeps)
        else:
            await ctx.wait_event("rolling.go")
        await short("after")

    @workflow(name="rolling_short")
    async def rolling_short(ctx: WorkflowContext) -> None:
        for step in range(4):
            await short(str(step))


def be_worker(directory: str, database: str, name: str, version: str, options: dict[str, Any]) -> None:
    global worker_id
    worker_id = name
    os.chdir(directory)
    sys.stderr = Path("stderr.log").open("a", buffering=1)  # noqa: SIM115
    if version == "load":
        define_load()
    else:
        define_orders(version)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            app = await nursery.start(run_worker, App(database, worker_id=name, **options))
            assert isinstance(app, App)
            note("ready")

    trio.run(main)


# -- in the tests ------------------------------------------------------------------------------------------------------


class _Context(Protocol):
    def Process(self, *, target: Callable[..., object], args: tuple[object, ...], daemon: bool) -> BaseProcess: ...


@define
class Crew:
    """The workers of a test, on one database."""

    directory: Path
    database: str
    _processes: list[BaseProcess] = field(factory=list)

    async def start(
        self, name: str, version: str = "load", *, alone: bool = False, wait: bool = True, **options: Any
    ) -> BaseProcess:
        """A worker that is ready. One that is ``alone`` shares nothing with the others, not even the seed of hashes."""
        context: Any = multiprocessing.get_context("spawn" if alone else "forkserver")
        if not alone:
            multiprocessing.set_forkserver_preload([__name__, *LAZILY_IMPORTED])
        arguments = (str(self.directory), self.database, name, version, options)
        process: BaseProcess = context.Process(target=be_worker, args=arguments, daemon=True)
        before = self.count("ready", "-", name)
        process.start()
        self._processes.append(process)
        if wait:
            await until(lambda: self.count("ready", "-", name) > before or process.exitcode is not None)
            assert process.exitcode is None, (self.directory / "stderr.log").read_text()
        return process

    def effects(self) -> list[list[str]]:
        """What, in which instance, and by which worker."""
        log = self.directory / "effects.log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def count(self, what: str, instance_id: str | None = None, worker: str | None = None) -> int:
        return sum(
            done == what and instance_id in (None, instance) and worker in (None, by)
            for done, instance, by in self.effects()
        )

    def open_gate(self) -> None:
        """Let activities that wait for it end."""
        (self.directory / "gate").touch()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
            process.close()


@contextmanager
def open_crew(directory: Path, database: str) -> Iterator[Crew]:
    crew = Crew(directory, database)
    try:
        yield crew
    finally:
        crew.kill()


def send(process: BaseProcess, what: signal.Signals) -> float:
    """Send a signal; return when, by the monotonic clock."""
    assert process.pid is not None
    os.kill(process.pid, what)
    return time.monotonic()


async def ended(process: BaseProcess) -> int:
    """The exit code of a process, when it has one."""
    await until(lambda: process.exitcode is not None)
    assert process.exitcode is not None
    return process.exitcode


async def until(holds: Callable[[], bool]) -> None:
    """Nothing tells us what happens in another process, so look again and again."""
    with trio.fail_after(PATIENCE):
        while not holds():
            await trio.sleep(0.01)
