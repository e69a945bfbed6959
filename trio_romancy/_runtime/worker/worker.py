"""One worker: its lease, and the taking up of whatever is due."""

from __future__ import annotations

import logging
import math
import random
from typing import Any
from weakref import WeakValueDictionary

import trio
from attrs import frozen
from sqlalchemy import Connection

from ..._data.log_fields import about
from ..._definitions.code_version import code_version
from ..._definitions.registry import registry
from ..._observe.dispatcher import HookDispatcher
from ..._observe.instance_events import tell_end
from ..._outbox.relay import Relay
from ..._settings import Limits, Settings
from ..._storage.database import Database
from ..._storage.journal.committed import Committed
from ..._storage.journal.journal import JournalStatistics
from ..._storage.outages import retry_while_away, retry_while_away_for
from ..._storage.sql import incompatible
from ..._storage.sql.claims import TakenUp, next_wake, take_up
from ..._storage.sql.instances import new_row
from ..._storage.sql.messages import Outgoing
from ..._storage.sql.workers import Lease, end_dead_leases, join, leave, next_expiry, this_process
from ...clock import Clock, Microseconds, to_datetime
from ...errors import LeaseLostError, RomancyError
from ...hooks import BatchInfo, Hooks, LeaseInfo
from ...model import Status
from ..run.local_result import LocalResult
from ..run.sequencer import AHEAD
from .retention import Retention
from .supervisor import Supervisor, SupervisorStatistics

_logger = logging.getLogger("trio_romancy.worker")

_SHORTEST_POLL = 0.05
_LONGEST_POLL = 1.0
"""Seconds between two looks at a database that other processes can write to as well."""
_SHARE = 0.1
"""Between those two, the part of the time since something was last found: whatever comes is late by no more of the time
that it took to come."""
_LOCKED_FOR: Microseconds = 10_000
"""How long to leave alone what is due and could not be claimed."""
_AT_ONCE = 200
"""The most instances taken up in one transaction."""
_STOP_TAKING_WITHIN = 1.0
"""Seconds that a take-up may go on when the worker stops, which waits for the database as long as that is away."""
_LEAVE_WITHIN = 5.0
"""Seconds that the database may take to note that a worker stops in order."""
_REJOIN_AFTER = 1.0
"""Seconds before a worker that failed (and did not just lose its lease) joins again."""


@frozen
class WorkerStatistics:
    """What a worker is doing."""

    worker_id: str
    epoch: int
    """Of the lease that it holds."""
    journal: JournalStatistics
    supervisor: SupervisorStatistics


class Worker:
    """Holds a lease and runs instances under it. When it loses the lease it drops them and joins again."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        worker_id: str,
        settings: Settings,
        limits: Limits,
        keep_messages: Microseconds,
        relay: Relay | None = None,
        dispatcher: HookDispatcher | None = None,
    ) -> None:
        self.worker_id = worker_id
        self._database = database
        self._clock = clock
        self._settings = settings
        self._limits = limits
        self.relay = relay
        """Sends what activities leave in the outbox; None: nobody does."""
        self._dispatcher = dispatcher
        self._retention = Retention(database, clock, keep_messages)
        self._process = this_process()
        self._threads = trio.CapacityLimiter(trio.to_thread.current_default_thread_limiter().total_tokens)
        self._endings: WeakValueDictionary[str, LocalResult] = WeakValueDictionary()
        self._supervisor: Supervisor | None = None
        self._joined = trio.Event()
        self._nudged = trio.Event()
        self._is_stopping = False
        self._is_full = False
        self._listens = database.can_listen and not clock.is_virtual
        """Whether the database says when there is something. Under virtual time looking costs nothing."""
        self._is_due = False
        """Whether somebody has said that something is due, so that there is no need to look."""
        self._next_wake: Microseconds | None = None
        self._scope = trio.CancelScope()
        self._taking = trio.CancelScope()
        """In which instances are taken up."""
        self._is_hurried = False
        self._drain_scope = trio.CancelScope()
        """In which running activities are waited for when it stops."""

    # -- what the app asks for -------------------------------------------------------------------------------------

    async def start(
        self,
        instance_id: str,
        workflow: str,
        input_text: str,
        arguments: list[Any],
        *,
        id_is_new: bool,
        trace: str | None,
    ) -> None:
        """Store a new instance and, if there is room, run it here. Durable when it returns.

        Args:
          arguments: what the input stands for. Nobody else may keep or change it.
          trace: JSON text of the trace context that it is started in; None: none.

        Raises:
          InstanceExistsError: if the id is taken by another workflow or input.
        """
        now = self._clock.now()
        while True:
            while self._supervisor is None:
                await self._joined.wait()
            supervisor = self._supervisor
            has_room = supervisor.has_room(self._limits.max_running, self._limits.max_resident)
            owner = self.worker_id if has_room and not self._is_stopping else None
            row = new_row(instance_id, workflow, input_text, now, owner=owner, trace=trace)
            try:
                await supervisor.journal.start(row, arguments, id_is_new=id_is_new)
                return
            except LeaseLostError:
                id_is_new = False  # it may have been stored all the same
                await trio.lowlevel.checkpoint()  # until somebody has noticed

    async def send(self, outgoing: list[Outgoing]) -> None:
        """Send messages. What became of each is in it when this returns, and durable."""
        while True:
            while self._supervisor is None:
                await self._joined.wait()
            try:
                await self._supervisor.journal.send(outgoing)
                return
            except LeaseLostError:  # they may have been stored all the same, and are then found to be duplicates
                await trio.lowlevel.checkpoint()  # until somebody has noticed

    def ending(self, instance_id: str) -> LocalResult:
        """What is set when the instance ends in this process. Hold on to it for as long as it is waited for."""
        return self._endings.setdefault(instance_id, LocalResult())

    def is_resident(self, instance_id: str) -> bool:
        """Whether the instance is in this worker's memory."""
        return self._supervisor is not None and self._supervisor.is_resident(instance_id)

    def _look(self) -> None:
        """Something may have become due."""
        self._nudged.set()

    def _hear(self, owner: str) -> None:
        """Some process has made something due, for this worker, or for whoever takes it."""
        if owner == self.worker_id:
            self.nudge()
        elif not owner:
            self._look()

    def nudge(self) -> None:
        """Something has become due: take it up now."""
        self._is_due = True
        self._nudged.set()

    def statistics(self) -> WorkerStatistics | None:
        """Numbers; None while it holds no lease."""
        supervisor = self._supervisor
        if supervisor is None:
            return None
        journal = supervisor.journal
        return WorkerStatistics(self.worker_id, journal.lease.epoch, journal.statistics(), supervisor.statistics())

    def stop(self) -> None:
        """Let running activities finish, give everything back, and end."""
        self._is_stopping = True
        self._taking.deadline = trio.current_time() + _STOP_TAKING_WITHIN
        self.nudge()

    def hurry(self) -> None:
        """Cease to wait for running activities, if it is stopping."""
        self._is_hurried = True
        self._drain_scope.cancel()

    def abandon(self) -> None:
        """Drop everything as if the process had died, recording nothing, and join again under a new epoch."""
        self._scope.cancel()
        if self._supervisor is not None:
            self._supervisor.abandon_all()

    def crash_actors(self, error: Exception) -> None:
        """Make every actor crash, as if the runtime had failed."""
        if self._supervisor is not None:
            self._supervisor.crash_all(error)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self, patience: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until :meth:`stop`. Started once it holds a lease.

        Args:
          patience: seconds that the database may be away before that.
        """
        lease = await self._join(2 * self._settings.lease_time, patience)
        is_first = True
        while True:
            try:
                with trio.CancelScope() as self._scope:
                    await self._serve(lease, task_status if is_first else trio.TASK_STATUS_IGNORED)
                    return
            except Exception as error:
                lost = LeaseLostError if not isinstance(error, ExceptionGroup) else error.split(LeaseLostError)[1]
                if isinstance(error, LeaseLostError) or (isinstance(error, ExceptionGroup) and lost is None):
                    _logger.warning("worker %s lost its lease: joining again", self.worker_id)
                    if self._dispatcher is not None:
                        info = LeaseInfo(self.worker_id, lease.epoch, to_datetime(self._clock.now()))
                        self._dispatcher.call(Hooks.lease_lost, info)
                else:
                    _logger.exception("worker %s failed: joining again", self.worker_id)
                    await trio.sleep(_REJOIN_AFTER)
            is_first = False
            with trio.CancelScope() as self._taking:
                if self._is_stopping:
                    self._taking.deadline = trio.current_time() + _STOP_TAKING_WITHIN
                lease = await self._join(None, math.inf)
            if self._taking.cancelled_caught:
                return  # it is to stop, and the database is away

    async def _serve(self, lease: Lease, task_status: trio.TaskStatus[None]) -> None:
        """Work under one lease."""
        async with trio.open_nursery() as nursery:
            supervisor = self._open_supervisor(lease)
            nursery.start_soon(supervisor.journal.run)
            nursery.start_soon(supervisor.journal.beat)
            nursery.start_soon(self._retention.run)
            if self._listens:
                nursery.start_soon(self._database.listen, self._hear)
            await nursery.start(supervisor.run)
            self._supervisor = supervisor
            self._joined.set()
            for ending in list(self._endings.values()):
                ending.notify()  # what was being committed under the lease before has been by now: look again
            if self.relay is not None:
                nursery.start_soon(self.relay.run)
            if not self._database.is_exclusive:
                nursery.start_soon(self._watch_others)
            task_status.started()
            try:
                with trio.CancelScope() as self._taking:
                    await self._take_up(supervisor)
                await self._drain(supervisor)
            finally:
                self._supervisor = None
                self._joined = trio.Event()
            nursery.cancel_scope.cancel()

    def _open_supervisor(self, lease: Lease) -> Supervisor:
        return Supervisor(
            self._settings,
            self._clock,
            self._database,
            lease,
            self._threads,
            self._endings,
            self._limits.max_recoveries,
            on_wake=self._wake,
            on_room=self._have_room,
            on_effects=self._effects_stored,
            on_committed=self._committed,
            dispatcher=self._dispatcher,
        )

    async def _join(self, wait: Microseconds | None, patience: float) -> Lease:
        """Take a lease. Another live process with the same worker id is waited for.

        Args:
          wait: for how long; None: without end.
          patience: seconds that the database may be away.
        """
        begun = self._clock.now()
        while True:
            now = self._clock.now()
            until = now + self._settings.lease_time
            version = self._settings.code_version or code_version()
            lease = await retry_while_away_for(
                patience, self._database, self._database.run, join, self.worker_id, self._process, now, until, version
            )
            if lease is not None:
                await retry_while_away(self._database, self._database.run, _arrive, self.worker_id, version, now)
                return lease
            problem = f"another live process runs as worker {self.worker_id!r}; give each its own worker_id"
            if wait is not None and now - begun > wait:
                raise RomancyError(problem)
            _logger.warning("%s: waiting for it to end", problem)
            await trio.sleep(self._settings.lease_time / 4_000_000)

    # -- taking up what is due -------------------------------------------------------------------------------------

    async def _take_up(self, supervisor: Supervisor) -> None:
        idle_since = self._clock.now()
        while not self._is_stopping:
            self._nudged = trio.Event()
            has_found = await self._claim(supervisor)
            now = self._clock.now()
            wake = None if self._next_wake is None else self._next_wake - AHEAD
            if has_found:
                idle_since = now
            elif wake is not None and wake <= now:
                wake = now + _LOCKED_FOR  # somebody is just writing to it
            until = min(filter(None, (wake, self._poll_at(idle_since))), default=None)
            with trio.CancelScope() as scope:
                if until is not None:
                    scope.deadline = self._clock.deadline(until)
                await self._nudged.wait()

    def _poll_at(self, idle_since: Microseconds) -> Microseconds | None:
        """When to look whether some other process has made something due. Not all workers at once."""
        if self._database.is_exclusive:
            return None
        now = self._clock.now()
        poll = _LONGEST_POLL
        if not self._listens:
            poll = min(max((now - idle_since) / 1_000_000 * _SHARE, _SHORTEST_POLL), _LONGEST_POLL)
        return now + round(poll * random.uniform(1.0, 1.25) * 1_000_000)

    async def _watch_others(self) -> None:
        """End the leases of dead workers, and say so of instances that no live worker can run."""
        while True:
            now = self._clock.now()
            expiry, has_incompatible = await retry_while_away(
                self._database, self._database.read, _survey, self.worker_id, now
            )
            if expiry is not None and expiry <= now:
                # Not as part of a batch: the row of a worker that stands still may be locked.
                for dead in await retry_while_away(
                    self._database, self._database.run, end_dead_leases, self.worker_id, now
                ):
                    _logger.warning("worker %s is dead: its instances are free to be taken up", dead)
                self._look()
            if has_incompatible:
                for parked in await retry_while_away(self._database, self._database.run, incompatible.sweep, now):
                    message = "instance %s is stuck: its journal fits the code of no live worker"
                    id = parked.instance_id
                    _logger.error(message, id, extra=about(id, parked.workflow))
                    if self._dispatcher is not None:
                        tell_end(self._dispatcher, parked, self.worker_id, now, Status.STUCK, parked.error)
            # A live worker has prolonged its lease long before; a process may be seen to be gone before that is over.
            longest = now + self._settings.lease_time // 2
            after = random.randrange(100_000, 300_000)  # the clocks of two workers may differ a little
            until = longest if expiry is None else min(longest, max(expiry, now) + after)
            await trio.sleep_until(self._clock.deadline(until))

    async def _claim(self, supervisor: Supervisor) -> bool:
        """Take up what is due, as far as there is room. Returns whether there was anything."""
        names = registry.workflow_names()
        suspects = not supervisor.has_suspect
        if self._listens and not self._is_due:
            # What was heard may come from our own journal, which then says so itself once it knows.
            await supervisor.journal.reported()
        is_due, self._is_due = self._is_due, False
        self._next_wake = None  # what somebody says from here on may be news, whatever was known
        if not is_due:
            self._next_wake = await retry_while_away(
                self._database, self._database.read, next_wake, self.worker_id, names, suspects=suspects
            )
        now = self._clock.now()
        if not is_due and (self._next_wake is None or self._next_wake > now + AHEAD):
            self._is_full = False
            return False
        running = supervisor.resident - supervisor.idle
        room = min(self._limits.max_running - running, self._limits.max_resident - supervisor.resident)
        self._is_full = room <= 0
        if self._is_full:
            supervisor.passivate_idle(max(supervisor.resident - self._limits.max_resident, 0) + 1)

        def spawn(found: tuple[list[TakenUp], Microseconds | None]) -> None:
            # The claim has taken their wake-ups away. One that is just being given back gets its own back with that,
            # in the same batch: else nobody would wake it, should the worker die in between.
            for one in found[0]:
                supervisor.spawn(one)

        limit = min(max(room, 0), _AT_ONCE)
        taken, self._next_wake = await supervisor.journal.call_then(
            spawn, take_up, self.worker_id, now, names, limit, suspects=suspects, ahead=AHEAD
        )
        if self._is_full:
            self._next_wake = None  # somebody says when there is room
        return bool(taken)

    def _wake(self, when: Microseconds) -> None:
        if self._next_wake is None or when < self._next_wake:
            self._next_wake = when
            self._nudged.set()

    def _effects_stored(self) -> None:
        self.nudge()
        self._retention.nudge()
        if self.relay is not None:
            self.relay.notify()

    def _committed(self, committed: Committed) -> None:
        if self._dispatcher is not None:
            info = BatchInfo(self.worker_id, committed.writes, committed.seconds)
            self._dispatcher.call(Hooks.batch_committed, info)
        if committed.wakes_others:
            self.nudge()
        if committed.has_sent:
            self._retention.nudge()
        if committed.has_posted and self.relay is not None:
            self.relay.notify()

    def _have_room(self) -> None:
        if self._is_full:
            self._nudged.set()

    async def _drain(self, supervisor: Supervisor) -> None:
        begun = trio.current_time()
        patience = 0.0 if self._is_hurried else self._limits.shutdown_timeout
        with trio.move_on_after(patience) as self._drain_scope:
            await supervisor.drain()
        if self._drain_scope.cancelled_caught:
            _logger.warning(
                "worker %s: %d instances still run activities after %.0f s; they are handed back as they are",
                self.worker_id,
                supervisor.resident,
                trio.current_time() - begun,
            )
            supervisor.abandon_all()
        if self.relay is not None:
            await self.relay.drain()
        with trio.move_on_after(_LEAVE_WITHIN) as scope:
            await supervisor.journal.call(leave, supervisor.journal.lease, self._clock.now())
        if scope.cancelled_caught:
            _logger.warning("worker %s could not give up its lease: it will expire", self.worker_id)


def _survey(connection: Connection, me: str, now: Microseconds) -> tuple[Microseconds | None, bool]:
    """When the lease of another worker expires, and whether there are journals that do not fit some code."""
    return next_expiry(connection, me, now), incompatible.has_any(connection)


def _arrive(connection: Connection, me: str, version: str, now: Microseconds) -> None:
    """What a worker sees to as soon as it has a lease."""
    end_dead_leases(connection, me, now)
    incompatible.revive(connection, version, now)
