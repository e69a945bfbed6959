"""The environment that the runs of one worker share, with the supervisor as they see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from attrs import define

from ..._observe.dispatcher import HookDispatcher
from ..._settings import Settings
from ..._storage.database import Database
from ..._storage.journal.journal import Journal
from ..._tasks.alarms import Alarms
from ..._tasks.scheduler import Scheduler
from ...clock import Clock
from .intake import MessageSource
from .limiter import Limiter
from .threads import Threads


class AwaitingRun(Protocol):
    """A run whose activities may await other instances, as its host sees it."""

    instance_id: str
    awaiting: int
    """Number of activities that await other instances."""

    @property
    def only_awaits_instances(self) -> bool:
        """Whether activities run, and each of them awaits other instances."""
        ...


class RunHost(Protocol):
    """The supervisor, as its runs see it."""

    @property
    def is_draining(self) -> bool:
        """Whether the worker is stopping: nothing more may begin, and each instance is to be released."""
        ...

    def start_soon(self, fn: Callable[[], Awaitable[object]], /) -> None:
        """Run a task in the supervisor's nursery."""
        ...

    def interrupted(self, error: BaseException, /) -> None:
        """End the program's block of the app: Ctrl-C has struck in a task of the run."""
        ...

    def idle_changed(self, by: int, /) -> None:
        """Count one run more (1), or one fewer (-1), that only waits."""
        ...

    def awaiting_changed(self, run: AwaitingRun, /) -> None:
        """Note that one activity more of a run awaits other instances, or one fewer."""
        ...

    def attempt_changed(self) -> None:
        """Show the attempt, or the wait for it, in the row of its instance if that takes long."""
        ...

    def something_is_due(self, *, has_deadline: bool = False) -> None:
        """Claim what this run has made due, such as a child.

        Args:
          has_deadline: whether it may have a deadline.
        """
        ...

    def effects_stored(self) -> None:
        """Deliver messages, and events for the broker, that were stored without the journal."""
        ...

    def probation_cleared(self, instance_id: str, /) -> None:
        """Let the next suspect run: the instance has made progress, so it does not take its process down."""
        ...


@define(eq=False)
class Environment:
    """The parts of a worker that its runs share."""

    settings: Settings
    clock: Clock
    database: Database
    journal: Journal
    threads: Threads
    alarms: Alarms
    scheduler: Scheduler
    message_source: MessageSource
    host: RunHost
    limiter: Limiter
    dispatcher: HookDispatcher | None
    """Dispatcher of the hooks; None without hooks."""
