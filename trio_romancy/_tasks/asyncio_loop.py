"""Keeps an asyncio loop running until all that has crossed to it has come back, also after Ctrl-C."""

from __future__ import annotations

import contextvars
from contextlib import suppress
from typing import Any

import trio


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
