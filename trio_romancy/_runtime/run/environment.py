"""What the runs of one worker share, and what they need of the supervisor that holds them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
from attrs import define

from ..._observe.dispatcher import HookDispatcher
from ..._settings import Settings
from ..._storage.database import Database
from ..._storage.journal.journal import Journal
from ..._tasks.alarms import Alarms
from ...clock import Clock
from .intake import MessageSource


class RunHost(Protocol):
    """What a run tells its supervisor."""

    @property
    def is_draining(self) -> bool:
        """Whether the worker stops: nothing more is to begin, and each instance to be given back."""
        ...

    def start_soon(self, fn: Callable[[], Awaitable[object]], /) -> None:
        """Run a task in the supervisor's nursery."""
        ...

    def idle_changed(self, by: int, /) -> None:
        """Count one run more (1), or one fewer (-1), that only waits."""
        ...

    def something_is_due(self) -> None:
        """Take up what this run has made due, such as a child."""
        ...

    def effects_stored(self) -> None:
        """Deliver messages, and events for the broker, that were stored without the journal."""
        ...

    def probation_cleared(self, instance_id: str, /) -> None:
        """Let the next suspect run: the instance has made progress, so it does not take its process down."""
        ...


@define(eq=False)
class Environment:
    """What the runs of one worker share."""

    settings: Settings
    clock: Clock
    database: Database
    journal: Journal
    thread_limiter: trio.CapacityLimiter
    alarms: Alarms
    message_source: MessageSource
    host: RunHost
    dispatcher: HookDispatcher | None
    """Calls the hooks; None: there are none."""
