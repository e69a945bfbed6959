"""One worker: its lease, and the taking up of whatever is due."""

from __future__ import annotations

import logging
import random
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import trio
from attrs import frozen

from ..clock import Clock, Microseconds
from ..define import workflow_names
from ..errors import LeaseLostError, RomancyError
from ..model import Status
from ..storage.database import Database
from ..storage.instances import Claim, claim_due, new_row, next_wake
from ..storage.journal import Journal, JournalStatistics
from ..storage.patience import patiently
from ..storage.workers import Lease, end_dead_leases, join, leave, this_process
from .actor import Settings
from .supervisor import Ending, Supervisor, SupervisorStatistics

_logger = logging.getLogger("trio_romancy.worker")

_SHORTEST_POLL = 0.05
_LONGEST_POLL = 1.0
"""Seconds between two looks at a database that other processes can write to as well."""
_LEAVE_WITHIN = 5.0
"""Seconds that the database may take to note that a worker stops in order."""
_REJOIN_AFTER = 1.0
"""Seconds before a worker that failed (and did not just lose its lease) joins again."""


@frozen
class Limits:
    """How much a worker takes upon itself."""

    max_running: int
    max_resident: int
    max_recoveries: int
    shutdown_timeout: float


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

    def __init__(self, database: Database, clock: Clock, worker_id: str, settings: Settings, limits: Limits) -> None:
        self.worker_id = worker_id
        self._database = database
        self._clock = clock
        self._settings = settings
        self._limits = limits
        self._process = this_process()
        self._threads = trio.CapacityLimiter(trio.to_thread.current_default_thread_limiter().total_tokens)
        self._endings: WeakValueDictionary[str, Ending] = WeakValueDictionary()
        self._supervisor: Supervisor | None = None
        self._joined = trio.Event()
        self._nudged = trio.Event()
        self._is_stopping = False
        self._is_full = False
        self._next_wake: Microseconds | None = None
        self._scope = trio.CancelScope()

    # -- what the app asks for -------------------------------------------------------------------------------------

    async def start(
        self, instance_id: str, workflow: str, input_text: str, arguments: list[Any], *, id_is_new: bool
    ) -> None:
        """Store a new instance and, if there is room, run it here. Durable when it returns.

        Args:
          arguments: what the input stands for. Nobody else may keep or change it.

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
            row = new_row(instance_id, workflow, input_text, now, owner=owner)
            if owner is None:
                on_durable = self.nudge
            else:
                claim = Claim(instance_id, workflow, Status.RUNNING, input_text, now, 0, None)
                on_durable = partial(supervisor.spawn, claim, new=arguments)
            try:
                await supervisor.journal.start(row, on_durable, id_is_new=id_is_new)
                return
            except LeaseLostError:
                id_is_new = False  # it may have been stored all the same
                await trio.lowlevel.checkpoint()  # until somebody has noticed

    def ending(self, instance_id: str) -> Ending:
        """What is set when the instance ends in this process. Hold on to it for as long as it is waited for."""
        return self._endings.setdefault(instance_id, Ending())

    def is_resident(self, instance_id: str) -> bool:
        """Whether the instance is in this worker's memory."""
        return self._supervisor is not None and self._supervisor.is_resident(instance_id)

    def nudge(self) -> None:
        """Something has become due: look now."""
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
        self.nudge()

    def abandon(self) -> None:
        """Drop everything as if the process had died, recording nothing, and join again under a new epoch."""
        self._scope.cancel()
        if self._supervisor is not None:
            self._supervisor.drop_all()

    def crash_actors(self, error: Exception) -> None:
        """Make every actor crash, as if the runtime had failed."""
        if self._supervisor is not None:
            self._supervisor.crash_all(error)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until :meth:`stop`. Started once it holds a lease."""
        lease = await self._join(patience=2 * self._settings.lease_time)
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
                else:
                    _logger.exception("worker %s failed: joining again", self.worker_id)
                    await trio.sleep(_REJOIN_AFTER)
            is_first = False
            lease = await self._join(patience=None)

    async def _serve(self, lease: Lease, task_status: trio.TaskStatus[None]) -> None:
        """Work under one lease."""
        async with trio.open_nursery() as nursery:
            supervisor = self._open_supervisor(lease)
            nursery.start_soon(supervisor.journal.run)
            await nursery.start(supervisor.run)
            self._supervisor = supervisor
            self._joined.set()
            task_status.started()
            try:
                await self._take_up(supervisor)
                await self._drain(supervisor)
            finally:
                self._supervisor = None
                self._joined = trio.Event()
            nursery.cancel_scope.cancel()

    def _open_supervisor(self, lease: Lease) -> Supervisor:
        journal = Journal(self._database, lease, self._clock, self._settings.lease_time)
        supervisor = Supervisor(
            self._settings,
            self._clock,
            self._database,
            journal,
            self._threads,
            self._endings,
            self._limits.max_recoveries,
            on_wake=self._wake,
            on_room=self._have_room,
        )
        journal.on_refused = supervisor.crash
        journal.on_lost = supervisor.drop_all
        return supervisor

    async def _join(self, patience: Microseconds | None) -> Lease:
        """Take a lease. Another live process with the same worker id is waited for."""
        begun = self._clock.now()
        while True:
            now = self._clock.now()
            until = now + self._settings.lease_time
            lease = await patiently(self._database, self._database.run, join, self.worker_id, self._process, now, until)
            if lease is not None:
                await patiently(self._database, self._database.run, end_dead_leases, self.worker_id, now)
                return lease
            problem = f"another live process runs as worker {self.worker_id!r}; give each its own worker_id"
            if patience is not None and now - begun > patience:
                raise RomancyError(problem)
            _logger.warning("%s: waiting for it to end", problem)
            await trio.sleep(self._settings.lease_time / 4_000_000)

    # -- taking up what is due -------------------------------------------------------------------------------------

    async def _take_up(self, supervisor: Supervisor) -> None:
        poll = _SHORTEST_POLL
        look_for_dead_at = self._clock.now() + self._settings.lease_time // 2
        while not self._is_stopping:
            self._nudged = trio.Event()
            if self._clock.now() >= look_for_dead_at and not self._database.is_exclusive:
                look_for_dead_at = self._clock.now() + self._settings.lease_time // 2
                for dead in await supervisor.journal.call(end_dead_leases, self.worker_id, self._clock.now()):
                    _logger.warning("worker %s is dead: its instances are free to be taken up", dead)
            if await self._claim(supervisor):
                poll = _SHORTEST_POLL
                continue
            until = min(filter(None, (self._next_wake, self._poll_at(poll))), default=None)
            with trio.CancelScope() as scope:
                if until is not None:
                    scope.deadline = self._clock.deadline(until)
                await self._nudged.wait()
            poll = min(poll * 2, _LONGEST_POLL)

    def _poll_at(self, poll: float) -> Microseconds | None:
        if self._database.is_exclusive:
            return None
        return self._clock.now() + round(poll * random.uniform(0.5, 1.0) * 1_000_000)

    async def _claim(self, supervisor: Supervisor) -> bool:
        """Take up what is due, as far as there is room. Returns whether there was anything."""
        names = workflow_names()
        suspects = not supervisor.has_suspect
        self._next_wake = await patiently(
            self._database, self._database.read, next_wake, self.worker_id, names, suspects=suspects
        )
        now = self._clock.now()
        if self._next_wake is None or self._next_wake > now:
            self._is_full = False
            return False
        running = supervisor.resident - supervisor.idle
        room = min(self._limits.max_running - running, self._limits.max_resident - supervisor.resident)
        self._is_full = room <= 0
        if self._is_full:
            self._next_wake = None  # somebody says when there is room
            supervisor.passivate_idle(max(supervisor.resident - self._limits.max_resident, 0) + 1)
        claims = await supervisor.journal.call(claim_due, self.worker_id, now, names, max(room, 0), suspects=suspects)
        for claim in claims:
            supervisor.spawn(claim)
        return bool(claims)

    def _wake(self, when: Microseconds) -> None:
        if self._next_wake is None or when < self._next_wake:
            self._next_wake = when
            self.nudge()

    def _have_room(self) -> None:
        if self._is_full:
            self.nudge()

    async def _drain(self, supervisor: Supervisor) -> None:
        with trio.move_on_after(self._limits.shutdown_timeout) as scope:
            await supervisor.drain()
        if scope.cancelled_caught:
            _logger.warning(
                "worker %s: %d instances still run activities after %g s; they are handed back as they are",
                self.worker_id,
                supervisor.resident,
                self._limits.shutdown_timeout,
            )
            supervisor.drop_all()
        with trio.move_on_after(_LEAVE_WITHIN) as scope:
            await supervisor.journal.call(leave, supervisor.journal.lease, self._clock.now())
        if scope.cancelled_caught:
            _logger.warning("worker %s could not give up its lease: it will expire", self.worker_id)
