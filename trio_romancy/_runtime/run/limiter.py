"""The limits of activities at one worker: which attempts hold permits, and which are told to ask again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import final

import trio

from ..._storage.journal.effects import Effects
from ..._storage.journal.journal import Journal
from ..._storage.sql.limits import store_limit
from ..._storage.sql.permits import Answer, PermitRequest, Permits
from ...clock import Clock, Microseconds
from ...errors import LeaseLostError
from ...limits import Limit


@final
class Limiter:
    """Asks for the permits of attempts, through the journal, and keeps them from being held by what has left memory."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._stored: set[Limit] = set()
        """Limits of which the database has what the code says."""
        self._held: dict[str, dict[str, Permits]] = {}
        """Permits of the last attempt of each operation, by instance and operation id."""
        self._waiting: dict[str, list[trio.Event]] = {}
        """Events of attempts that wait to be called, by instance id."""

    async def ask(self, permits: Permits, limits: Sequence[Limit], lead: Microseconds) -> Answer:
        """Ask for the permits of one attempt.

        Args:
          limits: the limits of the activity.
          lead: how long from now the attempt can begin at the earliest.

        Raises:
          LeaseLostError: if the worker has lost its lease, and with it all permits.
        """
        for limit in limits:
            if limit not in self._stored:
                rate = limit.rate
                await self._journal.call(
                    store_limit,
                    limit.name,
                    {
                        "concurrent": limit.concurrent,
                        "rate": None if rate is None else rate.n,
                        "period": None if rate is None else rate.period,
                        "burst": None if rate is None else rate.burst,
                    },
                    self._clock.now(),
                )
                self._stored.add(limit)
        # This may be the same attempt as one of a run that has crashed, whose permits it takes over.
        self._held.setdefault(permits.instance_id, {})[permits.operation_id] = permits
        permits.may_be_held = True  # also if the caller is torn down before the answer
        answer = await self._journal.ask(PermitRequest(permits, lead))
        permits.may_be_held = answer.is_granted
        return answer

    async def until_called(self, instance_id: str, until: Microseconds | None) -> None:
        """Wait until attempts of the instance are called, or until a time. A call may be for another attempt."""
        event = trio.Event()
        self._waiting.setdefault(instance_id, []).append(event)
        try:
            with trio.CancelScope() as scope:
                if until is not None:
                    scope.deadline = self._clock.deadline(until)
                await event.wait()
        finally:
            events = self._waiting[instance_id]
            events.remove(event)
            if not events:
                del self._waiting[instance_id]

    def called(self, instance_id: str) -> None:
        """Have the attempts of an instance ask again, if any waits."""
        for event in self._waiting.get(instance_id, ()):
            event.set()

    def left_memory(self, instance_id: str) -> None:
        """Free what attempts of an instance hold that were abandoned. Those that wait keep their places."""
        held = [one for one in self._held.pop(instance_id, {}).values() if one.may_be_held and not one.is_free]
        if held:
            with suppress(LeaseLostError):  # which has freed all
                self._journal.append_effects(Effects(freed=held))
