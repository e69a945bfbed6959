"""The nursery of all actors of a worker: spawns them, restarts crashed ones through replay, drains them."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

import trio
from attrs import define, evolve, frozen

from ..clock import Clock, Microseconds
from ..define import Workflow, find_workflow
from ..errors import LeaseLostError, RomancyError
from ..model import ErrorInfo, Status
from ..storage.database import Database
from ..storage.instances import Claim, Record, load_records, update_row
from ..storage.journal import Journal
from ..storage.patience import patiently
from .actor import Actor, Settings
from .failure import describe

_logger = logging.getLogger("trio_romancy.supervisor")

_CRASHES = 5
"""So many crashes within the window park an instance."""
_WINDOW: Microseconds = 60_000_000
_FIRST_RESTART = 0.05
"""Seconds; each further restart within the window waits twice as long."""
_SUSPICION = 5.0
"""Seconds after which an instance that has outlived its worker more than once lets the next one of its kind run."""


@define(eq=False)
class Ending:
    """The end of an instance, for those who wait for it in this process."""

    status: Status | None = None
    output: str | None = None
    """JSON text."""
    error: ErrorInfo | None = None
    _changed: trio.Event | None = None

    def stir(self) -> None:
        """Wake who waits: the instance has ended, or has left this process's memory."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def changed(self) -> None:
        """Wait for :meth:`stir`."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()


@frozen
class SupervisorStatistics:
    """The actors of a worker."""

    resident: int
    """Instances in memory."""
    idle: int
    """Those of them that only wait."""
    restarts: int
    """Crashed actors that were restarted."""


class Supervisor:
    """Runs actors. Nothing that an instance does can end it."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        database: Database,
        journal: Journal,
        thread_limiter: trio.CapacityLimiter,
        endings: WeakValueDictionary[str, Ending],
        max_recoveries: int,
        on_wake: Callable[[Microseconds], None],
        on_room: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.database = database
        self.journal = journal
        self.thread_limiter = thread_limiter
        self.idle = 0
        self.is_draining = False
        self._endings = endings
        self._max_recoveries = max_recoveries
        self._on_wake = on_wake
        self._on_room = on_room
        self._actors: dict[str, Actor | None] = {}
        """By instance id; None while the journal is being loaded."""
        self._cancels: dict[str, str] = {}
        """Requests that came after the claim."""
        self._nursery: trio.Nursery | None = None
        self._emptied = trio.Event()
        self._restarts = 0
        self._suspect: str | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def has_room(self, most_running: int, most_resident: int) -> bool:
        """Whether one more instance may be taken into memory."""
        return self.resident < most_resident and self.resident - self.idle < most_running

    @property
    def resident(self) -> int:
        """How many instances are in memory."""
        return len(self._actors)

    def is_resident(self, instance_id: str) -> bool:
        """Whether the instance is in memory."""
        return instance_id in self._actors

    @property
    def has_suspect(self) -> bool:
        """Whether an instance that has outlived its worker more than once is being watched."""
        return self._suspect is not None

    def statistics(self) -> SupervisorStatistics:
        """Numbers about the actors."""
        return SupervisorStatistics(self.resident, self.idle, self._restarts)

    def spawn(self, claim: Claim, new: list[Any] | None = None) -> None:
        """Run an instance that this worker owns, or tell its actor what the claim says.

        Args:
          new: the workflow's arguments, if the instance is new, so that its journal is empty.
        """
        if claim.instance_id in self._actors:
            actor = self._actors[claim.instance_id]
            if claim.cancel_requested is not None:
                self._cancels[claim.instance_id] = claim.cancel_requested  # also for the actor that follows a crash
                if actor is not None:
                    actor.request_cancel(claim.cancel_requested)
            return
        assert self._nursery is not None
        self._actors[claim.instance_id] = None
        if claim.recoveries > 1:
            self._suspect = claim.instance_id
            self._nursery.start_soon(self._watch, claim.instance_id)
        self._nursery.start_soon(self._supervise, claim, new)

    def start_soon(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Run a task in the nursery."""
        assert self._nursery is not None
        self._nursery.start_soon(fn)

    def drop_all(self) -> None:
        """The lease is lost: stop every actor at once, recording nothing."""
        for actor in self._actors.values():
            if actor is not None:
                actor.drop()

    async def drain(self) -> None:
        """Let running activities finish, give every instance back, and return when none is left."""
        self.is_draining = True
        for actor in list(self._actors.values()):
            if actor is not None:
                actor.drain()
        while self._actors:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def passivate_idle(self, count: int) -> None:
        """Give back up to that many instances that only wait, the longest waiting first."""
        idle = [a for a in self._actors.values() if a is not None and a.idle_since is not None]
        for actor in sorted(idle, key=lambda actor: actor.idle_since or 0)[:count]:
            actor.passivate()

    def crash(self, instance_id: str, error: Exception) -> None:
        """The database refuses what this instance wants to record."""
        if actor := self._actors.get(instance_id):
            actor.crash(error)

    def crash_all(self, error: Exception) -> None:
        """Make every actor crash."""
        for actor in self._actors.values():
            if actor is not None:
                actor.crash(error)

    # -- one actor -------------------------------------------------------------------------------------------------

    async def _supervise(self, claim: Claim, new: list[Any] | None) -> None:
        crashes: deque[Microseconds] | None = None
        try:
            while True:
                try:
                    records = [] if new is not None else await self._load(claim.instance_id)
                    if (reason := self._cancels.get(claim.instance_id)) is not None:
                        claim = evolve(claim, cancel_requested=reason)
                    actor = Actor(self, claim, _workflow(claim), records, new)
                    self._actors[claim.instance_id] = actor
                    if self.is_draining:
                        actor.drain()
                    await actor.run(_too_often(claim, self._max_recoveries))
                    return
                except LeaseLostError:
                    return
                except Exception as error:
                    new = None
                    crashes = crashes or deque(maxlen=_CRASHES)
                    if not await self._may_restart(claim, crashes, error):
                        return
                claim = evolve(claim, status=Status.RUNNING)  # whatever it was before, something may have begun since
        finally:
            self._forget(claim.instance_id)

    async def _may_restart(self, claim: Claim, crashes: deque[Microseconds], error: Exception) -> bool:
        """Wait for a while, or park an instance whose actor crashes again and again."""
        self._actors[claim.instance_id] = None
        crashes.append(self.clock.now())
        if len(crashes) == _CRASHES and crashes[-1] - crashes[0] < _WINDOW:
            _logger.exception("instance %s: its actor crashed too often, parking it", claim.instance_id)
            await self._park(claim, error)
            return False
        _logger.exception("instance %s: its actor crashed, restarting it through replay", claim.instance_id)
        self._restarts += 1
        await trio.sleep(_FIRST_RESTART * 2 ** (len(crashes) - 1) * random.uniform(0.5, 1.0))
        await self.journal.flush()  # what the crashed actor recorded is part of the journal it left
        return True

    async def _load(self, instance_id: str) -> list[Record]:
        return await patiently(self.database, self.database.read, load_records, instance_id)

    async def _park(self, claim: Claim, cause: Exception) -> None:
        failure = describe(cause)
        error = ErrorInfo(failure.error_type, failure.message, failure.traceback)
        row = update_row(claim.instance_id, Status.STUCK, self.clock.now(), owner=None, error=error)
        await self.journal.durable(self.journal.append_update(row))
        self._end(claim.instance_id, Status.STUCK, None, error)

    # -- what actors tell ------------------------------------------------------------------------------------------

    def ended(self, actor: Actor, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        """The instance has this status now, durably."""
        self._end(actor.instance_id, status, output, error)

    def released(self, actor: Actor, wake_at: Microseconds | None) -> None:
        """The instance is given back, durably, and wants attention again at that time."""
        if wake_at is not None:
            self._on_wake(wake_at)

    def progressed(self, actor: Actor) -> None:
        """What the instance does now has not taken its process down."""
        self._clear(actor.instance_id)

    def _end(self, instance_id: str, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        if status is Status.STUCK and error is not None:
            _logger.error("instance %s is stuck: %s: %s", instance_id, error.error_type, error.message)
        ending = self._endings.pop(instance_id, None)
        if ending is not None:
            ending.status, ending.output, ending.error = status, output, error
            ending.stir()

    def _forget(self, instance_id: str) -> None:
        del self._actors[instance_id]
        if (ending := self._endings.get(instance_id)) is not None:
            ending.stir()
        self._cancels.pop(instance_id, None)
        self._clear(instance_id)
        self._on_room()
        if not self._actors:
            self._emptied.set()

    # -- suspects --------------------------------------------------------------------------------------------------

    async def _watch(self, instance_id: str) -> None:
        await trio.sleep(_SUSPICION)
        self._clear(instance_id)

    def _clear(self, instance_id: str) -> None:
        if self._suspect == instance_id:
            self._suspect = None
            self._on_wake(self.clock.now())


def _workflow(claim: Claim) -> Workflow[..., Any]:
    workflow = find_workflow(claim.workflow)
    if workflow is None:
        raise RomancyError(f"workflow {claim.workflow!r} is not defined in this process")
    return workflow


def _too_often(claim: Claim, most: int) -> Exception | None:
    if claim.recoveries <= most:
        return None
    return RomancyError(
        f"instance {claim.instance_id!r}: its worker has died {claim.recoveries} times while it ran, and "
        f"max_recoveries is {most}; see what it was doing, then resume it"
    )
