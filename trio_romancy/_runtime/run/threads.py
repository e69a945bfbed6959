"""The threads in which a worker calls plain ``def`` activities, and who has them."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable
from operator import itemgetter

import trio
from attrs import define, field, frozen

from ..._data.log_fields import about, visible
from ..._tasks.light_event import LightEvent

_logger = logging.getLogger("trio_romancy.activity")

_PATIENCE = 2.0
"""Seconds that an activity may wait for a thread before the log says so. The pauses between two such lines double."""
_LONGEST_PAUSE = 60.0
_NAMED = 10
"""The most activities that a line names."""


@frozen
class ThreadStatistics:
    """Numbers about the threads of plain ``def`` activities."""

    total: int
    """The most threads: ``threads`` of the app."""
    in_use: int
    """Threads in which an activity runs."""
    overrun: int
    """Those of them whose activity has exceeded its timeout, or was abandoned."""
    waiting: int
    """Activities that wait for a thread."""


@define(eq=False)
class ThreadUse:
    """The use of a thread by one attempt of an activity. It goes on until the thread has ended."""

    instance_id: str
    operation_id: str
    is_left: bool = False
    """Whether the attempt has ended before its thread: its timeout is over, or its run is gone."""
    has_ended: trio.Event = field(factory=trio.Event)


class Threads:
    """Gives threads to the attempts of plain ``def`` activities, up to a number, in the order in which they ask.

    A thread cannot be stopped. It counts until it has ended, also if its attempt has ended before.

    Args:
      total: the most threads.
    """

    def __init__(self, total: int) -> None:
        self._limiter = trio.CapacityLimiter(total)
        self._since: dict[ThreadUse, float] = {}
        """Times at which uses began, by trio's clock, the earliest first."""
        self._by_operation: dict[tuple[str, str], ThreadUse] = {}
        self._waiting: dict[ThreadUse, float] = {}
        """Times since which uses wait for a thread, the earliest first."""
        self._has_waiting: LightEvent | None = None
        """Event set when an activity begins to wait, while the watch waits for that."""

    async def take(self, use: ThreadUse) -> None:
        """Wait for a free thread, and count it as taken."""
        if self._limiter.available_tokens <= 0:
            self._waiting[use] = trio.current_time()
            if self._has_waiting is not None:
                self._has_waiting.set()
        try:
            await self._limiter.acquire_on_behalf_of(use)
        finally:
            self._waiting.pop(use, None)
        self._since[use] = trio.current_time()
        self._by_operation[use.instance_id, use.operation_id] = use

    def give_back(self, use: ThreadUse) -> None:
        """Count a thread as free: it has ended."""
        self._limiter.release_on_behalf_of(use)
        del self._since[use]
        key = use.instance_id, use.operation_id
        if self._by_operation[key] is use:
            del self._by_operation[key]
        use.has_ended.set()

    def used_by(self, instance_id: str, operation_id: str) -> ThreadUse | None:
        """Return the use of a thread by an earlier attempt of an operation, if that thread still runs."""
        return self._by_operation.get((instance_id, operation_id))

    def used_by_instance(self, instance_id: str) -> list[str]:
        """Return the ids of an instance's operations of which a thread still runs."""
        return [use.operation_id for use in self._since if use.instance_id == instance_id]

    def statistics(self) -> ThreadStatistics:
        """Return numbers about the threads."""
        left = sum(use.is_left for use in self._since)
        return ThreadStatistics(int(self._limiter.total_tokens), len(self._since), left, len(self._waiting))

    async def watch(self) -> None:
        """Name those who have the threads as long as others have waited for one for long, until cancelled."""
        while True:
            self._has_waiting = LightEvent()
            if not self._waiting:
                await self._has_waiting.wait()
            self._has_waiting = None
            pause = _PATIENCE
            while self._waiting:
                await trio.sleep(pause)
                if self._name_all():
                    pause = min(2 * pause, _LONGEST_PAUSE)

    def _name_all(self) -> bool:
        """Log who has the threads, if an activity has waited for one for long. Returns whether one has."""
        now = trio.current_time()
        longest = now - next(iter(self._waiting.values()), now)
        if longest < _PATIENCE:
            return False
        held = heapq.nsmallest(_NAMED, self._since.items(), itemgetter(1))
        _logger.warning(
            "all %d threads for plain def activities are in use, and %d activities wait for one, for up to %.0f s: %s; "
            "they are held by %s; raise Limits(threads=...), or give what these call a time limit of its own",
            self._limiter.total_tokens,
            len(self._waiting),
            longest,
            _listed((_named(use) for use in self._waiting), len(self._waiting)),
            _listed((f"{_named(use)} for {now - since:.0f} s" for use, since in held), len(self._since)),
            extra=about(None),
        )
        return True


def _named(use: ThreadUse) -> str:
    name = f"{visible(use.operation_id)} of {visible(use.instance_id)}"
    return f"{name}, whose attempt has ended," if use.is_left else name


def _listed(names: Iterable[str], count: int) -> str:
    """Return the first names, and how many more there are."""
    shown = [name for name, _ in zip(names, range(_NAMED), strict=False)]
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
