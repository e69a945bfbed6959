"""Passes over attempts that were called for their permits and do not come, so that others need not wait for them."""

from __future__ import annotations

import random

import trio

from ..._definitions.registry import registry
from ..._definitions.values import Activity
from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.permits import has_late, pass_over
from ...clock import Clock

_PAUSE = 1.0
"""Seconds between two looks."""


class LateComers:
    """Looks for attempts that were called and have not come, such as those of instances that no worker can run."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Look from time to time. Returns at once if no activity has a limit."""
        if not any(isinstance(one, Activity) and one.limits for one in registry.all_definitions()):
            return
        while True:
            await trio.sleep(_PAUSE * random.uniform(1.0, 1.25))
            if await retry_while_away(self._database, self._database.read, has_late, self._clock.now()):
                await retry_while_away(self._database, self._database.run, pass_over, self._clock.now())
