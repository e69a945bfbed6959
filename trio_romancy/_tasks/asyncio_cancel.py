"""Cancellation of asyncio tasks that is not lost."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN = 2.0
"""Seconds after which a task that has not ended is cancelled again: more than it takes to clean up."""


def cancel_until_done(task: asyncio.Task[Any]) -> None:
    """Cancel a task of the running event loop, and again every :data:`AGAIN` seconds until it has ended.

    One cancellation may be lost: ``asyncio.wait_for()`` of Python 3.11 returns the result if that comes together with
    the cancellation, and goes on. aiomysql and asyncpg connect with it. What they wait for next may have no time limit.
    """
    if not task.done():
        task.cancel()
        task.get_loop().call_later(AGAIN, cancel_until_done, task)
