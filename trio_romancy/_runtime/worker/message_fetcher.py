"""Fetches messages for all actors of a worker. The waits that ask during one fetch are served by the next."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.waits import find_all_matches
from ...clock import Clock
from ..run.intake import Intake

_AT_ONCE = 500
"""The most waits to search for in one transaction."""


class MessageFetcher:
    """Searches the database for messages, for all waits at once that have asked."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._asked: dict[Intake, None] = {}
        self._arrived = trio.Event()

    def fetch_for(self, intake: Intake, /) -> None:
        """Search for messages for the waits of a run, soon, and offer them to its intake."""
        self._asked[intake] = None
        self._arrived.set()

    async def run(self) -> None:
        """Fetch until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            asked, self._asked = self._asked, {}
            try:
                await self._fetch(asked)
            except BaseException:
                self._asked = asked | self._asked  # for the next run of this service
                self._arrived.set()
                raise

    async def _fetch(self, asked: Iterable[Intake]) -> None:
        begun = self._clock.now()
        requests = [(intake, *request) for intake in asked for request in intake.begin_fetch()]
        for start in range(0, len(requests), _AT_ONCE):
            some = requests[start : start + _AT_ONCE]
            wanted = [(wait, most) for _, _, wait, most in some]
            found = await retry_while_away(self._database, self._database.read, find_all_matches, wanted)
            for (intake, wait, _, most), matches in zip(some, found, strict=True):
                intake.offer_fetched(wait, matches, most, begun)
        for intake in asked:
            intake.end_fetch()
