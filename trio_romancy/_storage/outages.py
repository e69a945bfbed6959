"""An outage is a pause: calls are repeated until the database is back."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import trio

from .database import Database
from .dialects.errors import is_cut_off, is_outage, is_transient

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("trio_romancy.database")

_FIRST_DELAY = 0.02
"""Delay before the first retry, in seconds. It doubles with each retry."""
_LONGEST_DELAY = 1.0
_LONGEST_DELAY_OF_UNKNOWN = 10.0
"""Longest delay after an error that may stay until a person fixes its cause, in seconds."""


async def retry_while_away(database: Database, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Await ``fn(...)`` and return its result. Repeat the call while the database is away, busy or full.

    A call may have succeeded although its answer was lost, so ``fn`` must be harmless to repeat.

    Cancellation is delivered between two calls, and inside a call if ``fn`` allows.

    Raises:
      Exception: any other error of ``fn``. A statement that was killed or timed out counts as a short outage.
    """
    return await retry_while_away_for(math.inf, database, fn, *args, **kwargs)


async def retry_unless_refused(
    database: Database, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Await ``fn(...)`` like :func:`retry_while_away`, and repeat the call after other errors of the database, too.

    Each of those is logged as an error: its cause may be a fault that stays, which a person has to fix.

    Raises:
      Exception: an error of ``fn`` that concerns the rows that it writes, or one that no database has raised.
    """
    delay = _FIRST_DELAY
    while True:
        try:
            return await retry_while_away(database, fn, *args, **kwargs)
        except Exception as error:
            if not is_outage(error):
                raise
            message = "%s refuses a statement for a reason that no instance has a part in, trying again in %.2f s"
            _logger.exception(message, database.name, delay)
        await trio.sleep(delay * random.uniform(0.5, 1.0))
        delay = min(delay * 2, _LONGEST_DELAY_OF_UNKNOWN)


async def retry_while_away_for(
    seconds: float, database: Database, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Await ``fn(...)`` like :func:`retry_while_away`, but not for longer than a given time.

    Args:
      seconds: time from the first call on. A call that fails later is the last one, and its error is raised.
    """
    delay = _FIRST_DELAY
    give_up_at = trio.current_time() + seconds
    while True:
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            if not (is_transient(error) or is_cut_off(error)) or trio.current_time() >= give_up_at:
                raise
            _logger.warning("%s is away, trying again in %.2f s: %s", database.name, delay, error)
        await trio.sleep(delay * random.uniform(0.5, 1.0))
        delay = min(delay * 2, _LONGEST_DELAY)
