"""The nursery of all actors of a worker: spawns them, restarts crashed ones through replay, drains them."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import trio
from attrs import define, evolve, frozen

from ..._data.failure import describe
from ..._data.log_fields import about
from ..._definitions.registry import registry
from ..._definitions.values import Workflow
from ..._observe.dispatcher import HookDispatcher
from ..._observe.instance_events import tell_end
from ..._settings import Settings
from ..._storage.database import Database
from ..._storage.journal.committed import Committed, Started
from ..._storage.journal.journal import Journal
from ..._storage.outages import retry_while_away
from ..._storage.sql.claims import Claim, TakenUp
from ..._storage.sql.instances import JournalEntry, load_records, update_row
from ..._storage.sql.waits import MatchResult
from ..._storage.sql.workers import Lease
from ..._tasks.alarms import Alarms
from ..._tasks.light_event import LightEvent
from ..._tasks.pool import PooledTask
from ...clock import Clock, Microseconds
from ...errors import LeaseLostError, RomancyError
from ...model import ErrorInfo, Status
from ..actor.actor import Actor
from ..run.message_table import MessageTable
from .message_fetcher import MessageFetcher

_logger = logging.getLogger("trio_romancy.supervisor")

_CRASHES = 5
"""So many crashes within the window park an instance."""
_WINDOW: Microseconds = 60_000_000
_FIRST_RESTART = 0.05
"""Seconds; each further restart within the window waits twice as long."""
_SUSPICION = 5.0
"""Seconds after which an instance that has outlived its worker more than once lets the next one of its kind run."""
_MOST_FREE_SEATS = 256
"""So many tasks, of some 3 KB each, wait for an instance to run."""

_Taken = tuple[TakenUp, list[Any] | None]
"""An instance to run, and its arguments if it is new."""


@define(eq=False)
class LocalResult:
    """The end of an instance, for those who wait for it in this process."""

    status: Status | None = None
    output: str | None = None
    """JSON text."""
    error: ErrorInfo | None = None
    _changed: LightEvent | None = None

    def stir(self) -> None:
        """Wake who waits: the instance has ended, or has left this process's memory."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def changed(self) -> LightEvent:
        """What is set by the next :meth:`stir`."""
        if self._changed is None:
            self._changed = LightEvent()
        return self._changed


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
        lease: Lease,
        thread_limiter: trio.CapacityLimiter,
        endings: WeakValueDictionary[str, LocalResult],
        max_recoveries: int,
        on_wake: Callable[[Microseconds], None],
        on_room: Callable[[], None],
        on_effects: Callable[[], None],
        on_committed: Callable[[Committed], None],
        dispatcher: HookDispatcher | None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.database = database
        self.journal = Journal(database, lease, clock, settings.lease_time, self)
        self.thread_limiter = thread_limiter
        self.dispatcher = dispatcher
        self.alarms = Alarms(clock)
        self.idle = 0
        self.is_draining = False
        self._endings = endings
        self._max_recoveries = max_recoveries
        self._on_wake = on_wake
        self._on_room = on_room
        self._on_effects = on_effects
        self._on_committed = on_committed
        self._message_fetcher = MessageFetcher(database, clock)
        self._actors: dict[str, Actor | None] = {}
        """By instance id; None while the journal is being loaded."""
        self._behind: set[str] = set()
        """Instances for whose actors there is something new, which are being made."""
        self._cancels: dict[str, str] = {}
        """Requests that came after the claim."""
        self._nursery: trio.Nursery | None = None
        self._free_seats: list[PooledTask[_Taken]] = []
        self._emptied = trio.Event()
        self._restarts = 0
        self._suspect: str | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the nursery until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.alarms.run)
            task_status.started()
            await self._message_fetcher.run()

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

    def spawn(self, taken: TakenUp, new: list[Any] | None = None) -> None:
        """Run an instance that this worker owns, or tell its actor what the claim says.

        Args:
          new: the workflow's arguments, if the instance is new, so that its journal is empty.
        """
        claim = taken.claim
        if claim.instance_id in self._actors:
            actor = self._actors[claim.instance_id]
            if claim.cancel_requested is not None:
                self._cancels[claim.instance_id] = claim.cancel_requested  # also for the actor that follows a crash
                if actor is not None:
                    actor.request_cancel(claim.cancel_requested)
            if claim.was_mine and taken.waits:
                self.hear(taken.waits)
            else:
                self.stir({claim.instance_id})
            return
        if claim.was_mine:
            taken = TakenUp(claim)  # its actor has gone meanwhile: what there is for its waits may be out of date
        assert self._nursery is not None
        self._actors[claim.instance_id] = None
        if claim.recoveries > 1:
            self._suspect = claim.instance_id
            self._nursery.start_soon(self._watch, claim.instance_id)
        if self._free_seats:
            self._free_seats.pop().take((taken, new), claim.instance_id)
        else:
            self._nursery.start_soon(self._sit, (taken, new), name=claim.instance_id)

    def spawn_new(self, started: Started) -> None:
        """Run a new instance of this worker."""
        row = started.row
        claim = Claim(
            row["instance_id"],
            row["workflow"],
            row["status"],
            row["input"],
            row["created_at"],
            0,
            None,
            started.started_after,
            trace=row["trace"],
        )
        self.spawn(TakenUp(claim, ()), new=started.arguments)

    def stir(self, instance_ids: Iterable[str]) -> None:
        """There may be something new for these instances, which this worker owns.

        One whose actor is being dropped will be given back, or restarted: it must want attention then.
        """
        for instance_id in instance_ids:
            if (actor := self._living(instance_id)) is not None:
                actor.look()

    def hear(self, news: Sequence[MatchResult]) -> None:
        """There was this for waits of this worker's instances."""
        for one in news:
            if (actor := self._living(one.wait.instance_id)) is not None:
                actor.hear(one)

    def _living(self, instance_id: str) -> Actor | None:
        """The actor that can be told; if there is none, whoever comes next will know that it must look."""
        actor = self._actors.get(instance_id)
        if actor is not None and not actor.is_dropped:
            return actor
        if actor is None and instance_id in self._actors:
            self._behind.add(instance_id)
        elif actor is not None and not actor.is_handed_back:
            actor.is_wanted = True  # it is given back with that, or its journal is loaded anew
        else:
            with suppress(LeaseLostError):  # and then everything is taken up anew
                self.journal.append_wake(instance_id)
        return None

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

    def crash_all(self, error: Exception) -> None:
        """Make every actor crash."""
        for actor in self._actors.values():
            if actor is not None:
                actor.crash(error)

    # -- what the journal tells ------------------------------------------------------------------------------------

    def committed(self, committed: Committed) -> None:
        """Run new instances, and offer messages to those that wait for them."""
        for started in committed.started:
            if started.is_owned:
                self.spawn_new(started)
        if committed.matches:
            self.hear(committed.matches)
        self._on_committed(committed)

    def refused(self, instance_id: str, error: Exception) -> None:
        """Make an actor crash whose instance's record the database refuses."""
        if actor := self._actors.get(instance_id):
            actor.crash(error)

    def lost(self) -> None:
        """Drop every actor."""
        self.drop_all()

    # -- one actor -------------------------------------------------------------------------------------------------

    async def _sit(self, taken: _Taken) -> None:
        """Run that instance, and then others, as they come."""
        seat = PooledTask(self._free_seats)
        try:
            await self._supervise(seat, *taken)
            del taken  # it may be large, and the wait for the next one long
            while not seat.is_tainted and len(self._free_seats) < _MOST_FREE_SEATS:
                await self._supervise(seat, *await seat.next())
        except BaseException as error:
            seat.close(error)
            raise
        seat.close(None)

    async def _supervise(self, seat: PooledTask[_Taken], taken: TakenUp, new: list[Any] | None) -> None:
        claim, records, waits = taken.claim, taken.records, taken.waits
        del taken
        crashes: deque[Microseconds] | None = None
        try:
            while True:
                try:
                    if records is None:
                        records = await self._load(claim.instance_id)
                    if (reason := self._cancels.get(claim.instance_id)) is not None:
                        claim = evolve(claim, cancel_requested=reason)
                    actor = Actor(self, seat, claim, _workflow(claim), records, new, waits)
                    actor.is_behind = claim.instance_id in self._behind
                    self._behind.discard(claim.instance_id)
                    self._actors[claim.instance_id] = actor
                    if self.is_draining:
                        actor.drain()
                    too_often = _too_often(claim, self._max_recoveries)
                    if actor.watch is None:
                        await actor.run(too_often)
                    else:
                        with actor.watch.over(len(records)):
                            await actor.run(too_often)
                    return
                except LeaseLostError:
                    return
                except Exception as error:
                    records, new, waits = None, None, ()
                    crashes = crashes or deque(maxlen=_CRASHES)
                    if not await self._may_restart(claim, crashes, error):
                        return
                # Whatever it was before, something may have begun since, and nobody has kept it waiting.
                claim = evolve(claim, status=Status.RUNNING, due_at=None)
        finally:
            self._forget(claim.instance_id)

    async def _may_restart(self, claim: Claim, crashes: deque[Microseconds], error: Exception) -> bool:
        """Wait for a while, or park an instance whose actor crashes again and again."""
        self._actors[claim.instance_id] = None
        crashes.append(self.clock.now())
        if len(crashes) == _CRASHES and crashes[-1] - crashes[0] < _WINDOW:
            message = "instance %s: its actor crashed too often, parking it"
            _logger.exception(message, claim.instance_id, extra=_about(claim))
            await self._park(claim, error)
            return False
        message = "instance %s: its actor crashed, restarting it through replay"
        _logger.exception(message, claim.instance_id, extra=_about(claim))
        self._restarts += 1
        await trio.sleep(_FIRST_RESTART * 2 ** (len(crashes) - 1) * random.uniform(0.5, 1.0))
        await self.journal.flush()  # what the crashed actor recorded is part of the journal it left
        return True

    async def _load(self, instance_id: str) -> list[JournalEntry]:
        return await retry_while_away(self.database, self.database.read, load_records, instance_id)

    async def _park(self, claim: Claim, cause: Exception) -> None:
        failure = describe(cause)
        error = ErrorInfo(failure.error_type, failure.message, failure.traceback)
        row = update_row(claim.instance_id, Status.STUCK, self.clock.now(), owner=None, error=error)
        await self.journal.durable(self.journal.append_update(row))
        self._end(claim, Status.STUCK, None, error)

    # -- what actors tell ------------------------------------------------------------------------------------------

    def ended(self, actor: Actor, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        """The instance has this status now, durably."""
        self._end(actor.claim, status, output, error)

    def released(self, actor: Actor) -> None:
        """The instance is given back, durably."""
        self._on_wake(self.clock.now())  # it may be due: somebody may have asked for attention before it was released

    def goes_on(self, claim: Claim, first: JournalEntry) -> None:
        """An instance has recurred, durably, and this worker owns the next of its chain, whose journal begins so."""
        self.spawn(TakenUp(claim, [first]))

    def left_to_others(self, actor: Actor, error: ErrorInfo) -> None:
        """The instance is given back, durably, because its journal does not fit the code."""
        message = "instance %s does not fit the code here, and is left to other workers: %s"
        _logger.warning(message, actor.instance_id, error.message, extra=actor.about())

    def has_room_for_more(self) -> None:
        """One more actor only waits."""
        self._on_room()

    def look_for(self, waits: MessageTable) -> None:
        """Look into the database for messages, and tell them."""
        self._message_fetcher.look_for(waits)

    def effects_stored(self) -> None:
        """Messages, or events for the broker, have been stored without the journal."""
        self._on_effects()

    def progressed(self, actor: Actor) -> None:
        """What the instance does now has not taken its process down."""
        self._clear(actor.instance_id)

    def _end(self, claim: Claim, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        if error is not None and status is Status.STUCK:
            message = "instance %s is stuck: %s: %s"
            _logger.error(message, claim.instance_id, error.error_type, error.message, extra=_about(claim))
        if self.dispatcher is not None:
            tell_end(self.dispatcher, claim, self.journal.lease.worker_id, self.clock.now(), status, error)
        ending = self._endings.pop(claim.instance_id, None)
        if ending is not None:
            ending.status, ending.output, ending.error = status, output, error
            ending.stir()

    def _forget(self, instance_id: str) -> None:
        del self._actors[instance_id]
        if (ending := self._endings.get(instance_id)) is not None:
            ending.stir()
        self._cancels.pop(instance_id, None)
        self._behind.discard(instance_id)
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


def _about(claim: Claim) -> dict[str, str | None]:
    return about(claim.instance_id, claim.workflow)


def _workflow(claim: Claim) -> Workflow[..., Any]:
    workflow = registry.find_workflow(claim.workflow)
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
