"""Fetches messages for all actors of a worker. The waits that ask during one fetch are served by the next."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.news import find_news, read_matches
from ..._storage.sql.waits import find_all_matches
from ...clock import Clock, Microseconds
from ..run.intake import Fetch, Intake

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
                for intake in asked:
                    intake.break_off_fetch()
                self._asked = asked | self._asked  # for the next run of this service
                self._arrived.set()
                raise

    async def _fetch(self, asked: Iterable[Intake]) -> None:
        begun = self._clock.now()
        fetches = [(intake, intake.begin_fetch()) for intake in asked]
        last = {intake: await self._news(intake, fetch, begun) for intake, fetch in fetches}
        searches = [(intake, search) for intake, fetch in fetches for search in fetch.searches]
        for start in range(0, len(searches), _AT_ONCE):
            some = searches[start : start + _AT_ONCE]
            wanted = [(search.wait, search.most) for _, search in some]
            found = await retry_while_away(self._database, self._database.read, find_all_matches, wanted)
            for (intake, search), matches in zip(some, found, strict=True):
                intake.offer_fetched(search, matches, begun)
        for intake, fetch in fetches:
            intake.end_fetch(fetch, begun, last[intake])

    async def _news(self, intake: Intake, fetch: Fetch, begun: Microseconds) -> int | None:
        """Offer what is new to an instance with many waits. Returns the number of the last message, if that is known.

        If there is too much that is new, all waits are searched for instead.
        """
        if not fetch.begins_with_news:
            return None
        database, most = self._database, max(_AT_ONCE, len(intake.table.queues))
        last, news = await retry_while_away(database, database.read, find_news, intake.addressee, fetch.since, most)
        if news is None:
            intake.search_all(fetch)
            return last
        chosen = intake.choose(news)
        matches = await retry_while_away(database, database.read, read_matches, [*chosen]) if chosen else []
        is_complete = intake.offer_news(chosen, matches, begun)
        return last if is_complete else None  # a node of a cluster may be late, or another instance took a message
