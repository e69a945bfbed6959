"""What an actor needs of whoever runs it: of its supervisor, that is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import trio

from ..._observe.dispatcher import HookDispatcher
from ..._settings import Settings
from ..._storage.database import Database
from ..._storage.journal.journal import Journal
from ..._storage.sql.claims import Claim
from ..._storage.sql.instances import JournalEntry
from ..._tasks.alarms import Alarms
from ...clock import Clock
from ...model import ErrorInfo, Status

if TYPE_CHECKING:
    from ..run.message_table import MessageTable
    from .actor import Actor


class ActorHost(Protocol):
    """What an actor needs of its supervisor."""

    settings: Settings
    clock: Clock
    database: Database
    journal: Journal
    thread_limiter: trio.CapacityLimiter
    dispatcher: HookDispatcher | None
    """Those who call the hooks; None: there are none."""
    alarms: Alarms
    idle: int
    """How many actors only wait."""

    def start_soon(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Run a task in the supervisor's nursery."""
        ...

    def ended(self, actor: Actor, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        """The instance has this status now, durably."""
        ...

    def released(self, actor: Actor) -> None:
        """The instance is given back, durably."""
        ...

    def goes_on(self, claim: Claim, first: JournalEntry) -> None:
        """An instance has recurred, durably, and this worker owns the next of its chain, whose journal begins so."""
        ...

    def left_to_others(self, actor: Actor, error: ErrorInfo) -> None:
        """The instance is given back, durably: its journal does not fit the code, and may fit that of others."""
        ...

    def progressed(self, actor: Actor) -> None:
        """What the instance does now has not taken its process down."""
        ...

    def has_room_for_more(self) -> None:
        """One more actor only waits."""
        ...

    def look_for(self, waits: MessageTable) -> None:
        """Look into the database for messages, and tell them."""
        ...

    def effects_stored(self) -> None:
        """Messages, or events for the broker, have been stored without the journal."""
        ...
