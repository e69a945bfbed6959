"""The asyncio loop on trio: opened for drivers of databases, and kept running until all that crossed has come back."""

from __future__ import annotations

import contextvars
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    import asyncio

_logger = logging.getLogger("trio_romancy.database")


@asynccontextmanager
async def open_asyncio_loop() -> AsyncIterator[Any]:
    """Open a trio-asyncio loop, and return it. A loop that runs already is used."""
    from .quiet_trio_asyncio import current_loop, open_loop  # only now: SQLite needs no asyncio

    running = current_loop.get()
    if running is not None:
        keep_alive(running)
        yield running
    else:
        async with open_loop() as loop:
            loop.set_exception_handler(_log_unhandled)
            keep_alive(loop)
            yield loop


@asynccontextmanager
async def open_loop_of_program() -> AsyncIterator[None]:
    """Open a loop like :func:`open_asyncio_loop`, for activities, if the program has imported trio-asyncio."""
    if "trio_asyncio" not in sys.modules:
        yield
    else:
        async with open_asyncio_loop():
            yield


def _log_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no asyncio code has asked for. By default it would end the app's block.

    A database driver leaves such errors behind, in futures of connections that were given up while they were made.
    """
    _logger.warning("asyncio: %s", context.get("message", "unhandled error"), exc_info=context.get("exception"))


def keep_alive(loop: Any) -> None:
    """Keep a loop of trio-asyncio running until it is told to stop.

    Ctrl-C that strikes while trio-asyncio runs a callback ends the task that runs the loop, and is raised by the block
    of the loop. Whatever waits for asyncio code would wait for ever then, because most of that is shielded. So the loop
    goes on in another task, in which Ctrl-C does not strike.
    """
    trio.lowlevel.spawn_system_task(_go_on, loop, context=contextvars.copy_context())


async def _go_on(loop: Any) -> None:
    with trio.CancelScope(shield=True):
        while True:
            await loop.wait_stopped()
            if loop._stop_wait is not None:  # set by `stop`
                return
            if not loop.is_running():  # by the task of another app
                with suppress(KeyboardInterrupt, SystemExit):  # the first one ends the block already
                    await loop._main_loop()
