"""Workers in processes of their own, which can be killed and which end with the process that opened them.

The protocol is lines: orders to the worker, JSON from it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import trio
from attrs import define

from .durability import watched

_TIMEOUT = 120.0
"""Seconds that a worker has to answer, or to end."""


# -- the opener's side ---------------------------------------------------------------------------------------------


@define(eq=False)
class WorkerProcess:
    """A process that :func:`open_worker` has started."""

    _process: subprocess.Popen[str]

    def tell(self, order: str) -> None:
        """Send an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()

    async def hear(self) -> Any:
        """Wait for the next answer of the worker."""
        assert self._process.stdout is not None
        with trio.fail_after(_TIMEOUT):
            line = await trio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True)
        if not line:
            raise RuntimeError(f"a worker ended by itself, with {self._process.wait()}")
        return json.loads(line)

    async def ask(self, order: str) -> Any:
        """Send an order, and wait for the next answer."""
        self.tell(order)
        return await self.hear()

    def kill(self) -> None:
        """Kill the process, and return when it is reaped: a zombie would look alive."""
        self._process.kill()
        self._process.wait()

    async def stop(self) -> None:
        """Stop the worker, and wait for its process. Has no effect if it was killed."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        with trio.fail_after(_TIMEOUT):
            status = await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
        if status:
            raise RuntimeError(f"a worker was stopped, and ended with {status}")


@asynccontextmanager
async def open_worker(module: str, *arguments: object) -> AsyncIterator[WorkerProcess]:
    """Run a module of this package as a worker, which the end of the block stops, or kills after an exception."""
    worker = WorkerProcess(_start(module, arguments))
    try:
        yield worker
        await worker.stop()
    finally:
        worker.kill()


def _start(module: str, arguments: Sequence[object]) -> subprocess.Popen[str]:
    """Start the process from this thread: it would end with a thread that started it."""
    command = [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# -- the worker's side ---------------------------------------------------------------------------------------------


def work(main: Callable[..., Awaitable[None]], database: str, *arguments: object) -> None:
    """Run ``main(database, *arguments)`` in trio, and fail if a commit to a file may not have waited for the disk."""
    with ExitStack() as exits:
        if "://" not in database:
            exits.enter_context(watched(force=False))
        trio.run(main, database, *arguments)


def say(value: object) -> None:
    """Send an answer to the process that opened this one."""
    print(json.dumps(value), flush=True)


async def next_order() -> str | None:
    """Wait for the next order; None if the worker is to stop."""
    line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return line.strip() if line else None
