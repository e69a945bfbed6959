"""Workers in processes of their own: they can be killed, and end with the process that opened them.

Both sides talk in lines: orders to the worker, JSON from it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define
from durability import watched

_HERE = Path(__file__).resolve().parent

_PATIENCE = 120.0
"""Seconds that a worker may say nothing when something is to come, or take to end."""


# -- for who opens them --------------------------------------------------------------------------------------------


@define(eq=False)
class WorkerProcess:
    """A process that :func:`open_worker` has started."""

    _process: subprocess.Popen[str]

    def tell(self, order: str) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()

    async def hear(self) -> Any:
        """What the worker says next."""
        assert self._process.stdout is not None
        with trio.fail_after(_PATIENCE):
            line = await trio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True)
        if not line:
            raise RuntimeError(f"a worker ended by itself, with {self._process.wait()}")
        return json.loads(line)

    async def ask(self, order: str) -> Any:
        """Give an order, and return what the worker says next."""
        self.tell(order)
        return await self.hear()

    def kill(self) -> None:
        """End it at once, and return when it is gone: it must not even be a zombie, which would look alive."""
        self._process.kill()
        self._process.wait()

    async def stop(self) -> None:
        """Let it end in order. Nothing happens if it was killed."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        with trio.fail_after(_PATIENCE):
            status = await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
        if status:
            raise RuntimeError(f"a worker was stopped, and ended with {status}")


@asynccontextmanager
async def open_worker(script: str, *arguments: object) -> AsyncIterator[WorkerProcess]:
    """Run a script beside this one. When the block ends it is stopped in order, or killed if that was an exception."""
    worker = WorkerProcess(_start(script, arguments))
    try:
        yield worker
        await worker.stop()
    finally:
        worker.kill()


def _start(script: str, arguments: Sequence[object]) -> subprocess.Popen[str]:
    """Not in a thread of its own: should that end, so would the process."""
    command = [sys.executable, str(_HERE / script), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# -- for the worker ------------------------------------------------------------------------------------------------


def work(main: Callable[..., Awaitable[None]], database: str, *arguments: object) -> None:
    """Run ``main(database, *arguments)`` in trio, and fail if some commit to a file did not wait for the disk."""
    with ExitStack() as exits:
        if "://" not in database:
            exits.enter_context(watched(force=False))
        trio.run(main, database, *arguments)


def say(value: object) -> None:
    """Tell the process that opened this one."""
    print(json.dumps(value), flush=True)


async def next_order() -> str | None:
    """The next order; None: end."""
    line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return line.strip() if line else None
