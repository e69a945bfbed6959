"""Looks for the messages of all actors of a worker: whatever is asked for while it looks makes its next look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.waits import find_all
from ...clock import Clock

if TYPE_CHECKING:
    from ..run.message_table import MessageTable

_LOOKS = 500
"""The most waits in one transaction."""


class MessageFetcher:
    """Fetches messages from the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._asked: dict[MessageTable, None] = {}
        self._arrived = trio.Event()

    def look_for(self, waits: MessageTable) -> None:
        """Look for what these wait for, and tell them."""
        self._asked[waits] = None
        self._arrived.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            asked, self._asked = self._asked, {}
            begun = self._clock.now()
            requests = [(waits, *request) for waits in asked for request in waits.requests()]
            for start in range(0, len(requests), _LOOKS):
                some = requests[start : start + _LOOKS]
                wanted = [(wait, most) for _, _, wait, most in some]
                found = await retry_while_away(self._database, self._database.read, find_all, wanted)
                for (waits, wait, _, _), messages in zip(some, found, strict=True):
                    waits.note(wait, messages, begun)
            for waits in asked:
                waits.looked()
