"""An outage is a pause: trying again until the database is back."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import trio

from .database import Database
from .dialects import is_transient

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("trio_romancy.database")

_FIRST_RETRY = 0.02
_LONGEST_RETRY = 1.0


async def retry_while_away(database: Database, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Await ``fn(...)``, again and again while the database is away, busy or full.

    ``fn`` may have been carried out although its answer was lost: it must be harmless to repeat.
    """
    return await retry_while_away_for(math.inf, database, fn, *args, **kwargs)


async def retry_while_away_for(
    seconds: float, database: Database, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Like :func:`retry_while_away`; what fails when the time is over is raised."""
    delay = _FIRST_RETRY
    over = trio.current_time() + seconds
    while True:
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            if not is_transient(error) or trio.current_time() >= over:
                raise
            _logger.warning("%s is away, trying again in %.2f s: %s", database.name, delay, error)
        await trio.sleep(delay * random.uniform(0.5, 1.0))
        delay = min(delay * 2, _LONGEST_RETRY)
