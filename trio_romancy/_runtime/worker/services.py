"""Keeps the services of a worker running: one that fails is logged and started again, and affects nothing else."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from ...errors import LeaseLostError

_logger = logging.getLogger("trio_romancy.worker")

_FIRST_PAUSE = 0.1
"""Seconds before a service that failed is started again. Each further failure doubles the pause."""
_LONGEST_PAUSE = 30.0
_WELL_AFTER = 60.0
"""Seconds that a service must have run for its earlier failures not to count any more."""


@trio.lowlevel.enable_ki_protection  # Ctrl-C ends the program, and not one of its services
async def keep_running(name: str, service: Callable[[], Awaitable[object]]) -> None:
    """Run a service of the worker until it returns. If it fails, start it again after a pause.

    Args:
      name: what the service is called in the log.

    Raises:
      LeaseLostError: if that is why it has failed.
    """
    pause = _FIRST_PAUSE
    while True:
        begun = trio.current_time()
        try:
            await service()
            return
        except LeaseLostError:
            raise
        except Exception:
            if trio.current_time() - begun >= _WELL_AFTER:
                pause = _FIRST_PAUSE
            _logger.exception("%s has failed, starting again in %.1f s", name, pause)
        await trio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, _LONGEST_PAUSE)
