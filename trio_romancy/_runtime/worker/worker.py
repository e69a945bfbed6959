"""One worker: its lease, and the services that run under it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import trio
from attrs import frozen

from ..._data.log_fields import about, visible
from ..._exceptions import leaves
from ..._observe.dispatcher import HookDispatcher
from ..._outbox.relay import Relay
from ..._settings import LEAVE_WITHIN, RELAY_GRACE, Settings, WorkerLimits
from ..._storage.database import Database
from ..._storage.journal.committed import Committed
from ..._storage.journal.journal import JournalStatistics
from ..._storage.sql.instances import new_row
from ..._storage.sql.messages import Outgoing
from ..._storage.sql.workers import Lease, leave, this_process
from ...clock import Clock, Microseconds, to_datetime
from ...errors import CommitsLostError, LeaseLostError, RomancyError
from ...hooks import BatchInfo, Hooks, LeaseInfo
from ..run.local_result import LocalResult
from ..run.threads import Threads, ThreadStatistics
from .claimer import Claimer
from .contact import Contact
from .deadline_keeper import DeadlineKeeper
from .heartbeat import Heartbeat
from .late_comers import LateComers
from .lease import take_lease
from .reaper import Reaper
from .retention import Retention
from .schedule_runner import ScheduleRunner
from .services import keep_running
from .supervisor import Supervisor, SupervisorStatistics

_logger = logging.getLogger("trio_romancy.worker")

_STOP_CLAIMING_WITHIN = 1.0
"""Seconds that a claim may go on when the worker stops. A database that is away would delay it without a limit."""
_UNWIND_WITHIN = 0.1
"""Seconds that the actors of a lost lease have to unwind before the worker joins again beside them."""
_REJOIN_AFTER = 1.0
"""Seconds after which a worker that failed joins again. One that only lost its lease joins at once."""


@frozen
class WorkerStatistics:
    """Numbers about a worker."""

    worker_id: str
    epoch: int
    """Epoch of its lease."""
    journal: JournalStatistics
    supervisor: SupervisorStatistics
    threads: ThreadStatistics


class Worker:
    """Holds a lease and runs instances under it. When it loses the lease, it abandons them and joins again."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        worker_id: str,
        settings: Settings,
        limits: WorkerLimits,
        keep_messages: Microseconds | None,
        relay: Relay | None = None,
        dispatcher: HookDispatcher | None = None,
    ) -> None:
        self.worker_id = worker_id
        self._database = database
        self._clock = clock
        self._settings = settings
        self._limits = limits
        self.relay = relay
        """The relayer of the outbox; None without a broker."""
        self._dispatcher = dispatcher
        self._claimer = Claimer(database, clock, worker_id, limits)
        self._contact = Contact(clock, settings.lease_time)
        self._reaper = Reaper(
            database, clock, worker_id, self._contact, settings.lease_time, dispatcher, on_freed=self._claimer.notify
        )
        self._heartbeat = Heartbeat(database, clock, settings.lease_time, self._contact)
        self._retention = Retention(database, clock, keep_messages)
        self._schedules = ScheduleRunner(database, clock, worker_id, dispatcher, self._claimer.notify_due)
        self._deadlines = DeadlineKeeper(database, clock, self._claimer.notify_due)
        self._process = this_process()
        self._threads = Threads(limits.threads)
        self._local_results: WeakValueDictionary[str, LocalResult] = WeakValueDictionary()
        self._watched: WeakValueDictionary[str, LocalResult] = WeakValueDictionary()
        """Those of them whose callers want to know of each change."""
        self._supervisor: Supervisor | None = None
        self._last: Supervisor | None = None
        """The supervisor of the present lease, or of the last one."""
        self._nursery: trio.Nursery | None = None
        """Nursery of the supervisors. Shielded code of an actor may outlive the lease of its supervisor."""
        self._on_interrupt: Callable[[BaseException], None]
        self._joined = trio.Event()
        self._has_ended = False
        """Whether the worker has ended, and calls that wait for it are in vain."""
        self._has_died = False
        """Whether the worker was abandoned as if its process had died, so that its instances have outlived a death."""
        self._is_stopping = False
        self._is_hurried = False
        self._lease_scope = trio.CancelScope()
        """Scope of all work under the present lease."""
        self._claim_scope = trio.CancelScope()
        """Scope in which instances are claimed, or the next lease is awaited."""
        self._drain_scope = trio.CancelScope()
        """Scope in which running activities are awaited when the worker stops."""
        self._drain_until = math.inf
        """When the worker ceases to wait for them, on trio's clock."""

    # -- calls of the app ------------------------------------------------------------------------------------------

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
        """Store a new instance and, if there is room, run it here. The instance is durable when this returns.

        Args:
          input_text: the input as JSON text.
          arguments: the input as the workflow's arguments. The caller must neither keep nor change them.
          id_is_new: whether the id was made for this start, so that no instance can have it.
          trace: JSON text of the trace context that the instance is started in; None without one.

        Raises:
          InstanceExistsError: if the id is taken by another workflow or input.
          RomancyError: if the worker ends first.
        """
        now = self._clock.now()
        while True:
            supervisor = await self._present()
            has_room = supervisor.has_room(self._limits.max_running, self._limits.max_resident)
            owner = self.worker_id if has_room and not self._is_stopping else None
            row = new_row(instance_id, workflow, input_text, now, owner=owner, trace=trace)
            arriving = int(owner is not None)
            supervisor.arriving += arriving
            try:
                await supervisor.journal.start(row, arguments, id_is_new=id_is_new)
                return
            except LeaseLostError:
                id_is_new = False  # the instance may have been stored all the same
                await trio.lowlevel.checkpoint()  # until the worker joins again
            finally:
                supervisor.arriving -= arriving

    async def send(self, outgoing: list[Outgoing]) -> None:
        """Send messages. When this returns they are durable, and each says what became of it.

        Raises:
          RomancyError: if the worker ends first.
        """
        while True:
            supervisor = await self._present()
            try:
                await supervisor.journal.send(outgoing)
                return
            except LeaseLostError:  # they may have been stored all the same, and are then found to be duplicates
                await trio.lowlevel.checkpoint()  # until the worker joins again

    async def _present(self) -> Supervisor:
        """Return the supervisor of the present lease, or wait for the next one.

        Raises:
          RomancyError: if there will be none: the block of the app has ended.
        """
        while self._supervisor is None:
            self.refuse_if_ended()
            await self._joined.wait()
        return self._supervisor

    def refuse_if_ended(self) -> None:
        """Raise :exc:`RomancyError` if the block of the app has ended, so that nothing is carried out any more."""
        if self._has_ended:
            raise RomancyError(
                "the block of the app has ended before this call; call it inside `async with App(...) as app:`, and "
                "start the tasks that do in a nursery inside that block"
            )

    def local_result(self, instance_id: str) -> LocalResult:
        """Return the result that is set when the instance ends in this process.

        The worker keeps no reference: the caller must hold the result for as long as it waits.
        """
        return self._local_results.setdefault(instance_id, LocalResult())

    def notify_result(self, instance_id: str) -> None:
        """Have callers that wait for an instance look whether it has ended, and its schedule if it is of one."""
        if instance_id in self._schedules.running:
            self._schedules.notify()
        if (result := self._local_results.get(instance_id)) is not None:
            result.notify()

    def watch_result(self, instance_id: str) -> LocalResult:
        """Return a result that is notified of each change of the instance that this process makes, as well."""
        result = self._watched[instance_id] = self.local_result(instance_id)
        return result

    def _notify_results(self) -> None:
        for result in list(self._local_results.values()):
            result.notify()

    def is_resident(self, instance_id: str) -> bool:
        """Whether the instance is in this worker's memory."""
        return self._supervisor is not None and self._supervisor.is_resident(instance_id)

    def notify_due(self) -> None:
        """Claim what has just become due."""
        self._claimer.notify_due()

    def notify_soon(self) -> None:
        """Claim what becomes due about now, because a transaction of a caller is being committed."""
        self._claimer.notify_wake(self._clock.now())
        self._deadlines.notify()

    def notify_schedules(self) -> None:
        """Look at the schedules again: one was changed."""
        self._schedules.notify()

    def notify_deadlines(self) -> None:
        """Look at the deadlines again: an instance with one was started."""
        self._deadlines.notify()

    def statistics(self) -> WorkerStatistics | None:
        """Return numbers about the worker; None while it holds no lease."""
        supervisor = self._supervisor
        if supervisor is None:
            return None
        journal = supervisor.journal
        epoch, threads = journal.lease.epoch, self._threads.statistics()
        return WorkerStatistics(self.worker_id, epoch, journal.statistics(), supervisor.statistics(), threads)

    def stop(self) -> None:
        """Let running activities finish, release all instances, and end."""
        self._is_stopping = True
        now = trio.current_time()
        self._drain_until = now + self._limits.shutdown_timeout
        self._database.end_by(self._drain_until + LEAVE_WITHIN)
        self._claim_scope.deadline = now + _STOP_CLAIMING_WITHIN
        self._claimer.stop()

    def hurry(self) -> None:
        """Cease to wait for running activities, if the worker is stopping."""
        self._is_hurried = True
        self._drain_scope.cancel()
        if self._is_stopping:
            self._database.end_by(trio.current_time() + LEAVE_WITHIN)

    def abandon(self) -> None:
        """Stop as if the process had died, recording nothing, and join again under a new epoch."""
        self._has_died = True
        self._lease_scope.cancel()
        if self._supervisor is not None:
            self._supervisor.abandon_all()

    def crash_actors(self, error: Exception) -> None:
        """Make every actor crash, as if the runtime had failed."""
        if self._supervisor is not None:
            self._supervisor.crash_all(error)

    # -- life ------------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(
        self,
        patience: float,
        on_interrupt: Callable[[BaseException], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Work until :meth:`stop`. Started once the worker holds a lease.

        Args:
          patience: seconds that the database may be away before the worker has its first lease.
          on_interrupt: called with Ctrl-C if it has struck in the code of an instance.
        """
        self._on_interrupt = on_interrupt
        try:
            async with trio.open_nursery() as self._nursery:
                await self._work(patience, task_status)
        finally:
            self._has_ended = True
            self._joined.set()
            self._notify_results()

    async def _work(self, patience: float, task_status: trio.TaskStatus[None]) -> None:
        """Hold one lease after another."""
        lease = await self._take_lease(wait=2 * self._settings.lease_time, patience=patience)
        is_first = True
        while True:
            try:
                with trio.CancelScope() as self._lease_scope:
                    await self._serve(lease, task_status if is_first else trio.TASK_STATUS_IGNORED)
                    return
            except Exception as error:
                if _is_lost_lease(error):
                    for cause in leaves(error):
                        if isinstance(cause, CommitsLostError):
                            _logger.error("worker %s: %s", self.worker_id, cause)
                    next = "stopping" if self._is_stopping else "joining again"
                    _logger.warning("worker %s lost its lease: %s", self.worker_id, next)
                    if self._dispatcher is not None:
                        info = LeaseInfo(self.worker_id, lease.epoch, to_datetime(self._clock.now()))
                        self._dispatcher.call(Hooks.lease_lost, info)
                else:
                    _logger.exception("worker %s failed: joining again", self.worker_id)
                    await trio.sleep(_REJOIN_AFTER)
            is_first = False
            await self._leave_behind()
            if self._is_stopping:
                return  # its instances are due for other workers
            with trio.CancelScope() as self._claim_scope:
                lease = await self._take_next_lease()
            if self._claim_scope.cancelled_caught:
                return  # the worker is stopping, and the database is away

    async def _leave_behind(self) -> None:
        """Wait for the actors of a lost lease, but not long: user code can shield itself from cancellation."""
        assert self._last is not None
        with trio.move_on_after(_UNWIND_WITHIN):
            await self._last.ended.wait()
        if not self._last.ended.is_set():
            message = "worker %s: code of these instances, begun under its last lease, resists cancellation: %s"
            ids = ", ".join(visible(id) for id in self._last.instance_ids())
            _logger.warning(message, self.worker_id, ids, extra=about(None))

    async def _take_next_lease(self) -> Lease:
        """Take a lease after the last one, however long the database refuses that."""
        while True:
            try:
                return await self._take_lease(wait=None, patience=math.inf)
            except Exception:
                message = "worker %s cannot take a lease, trying again in %.0f s"
                _logger.exception(message, self.worker_id, _REJOIN_AFTER)
            await trio.sleep(_REJOIN_AFTER)

    async def _take_lease(self, *, wait: Microseconds | None, patience: float) -> Lease:
        lease = await take_lease(
            self._database,
            self._clock,
            self.worker_id,
            self._process,
            self._settings,
            wait=wait,
            patience=patience,
            after_death=self._has_died,
        )
        self._has_died = False
        self._contact.renewed()
        return lease

    async def _serve(self, lease: Lease, task_status: trio.TaskStatus[None]) -> None:
        """Run the services of the worker under one lease, until it stops or the lease is lost."""
        supervisor = self._last = self._open_supervisor(lease)
        assert self._nursery is not None
        self._nursery.start_soon(supervisor.run)
        try:
            await supervisor.ready.wait()
            await self._serve_actors(supervisor, task_status)
        finally:
            supervisor.end()

    async def _serve_actors(self, supervisor: Supervisor, task_status: trio.TaskStatus[None]) -> None:
        """Run the services around the actors. Only the journal takes the lease with it if it fails."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.journal.run)
            nursery.start_soon(keep_running, "the heartbeat", partial(self._heartbeat.run, supervisor.journal.lease))
            nursery.start_soon(self._heartbeat.watch_loop)
            nursery.start_soon(keep_running, "the deletion of old messages", self._retention.run)
            if self._claimer.listens:
                listen = partial(self._database.listen, self._claimer.notify_owner)
                nursery.start_soon(keep_running, "the listener for notifications", listen)
            nursery.start_soon(keep_running, "the alarm clock of the instances", supervisor.run_alarms)
            nursery.start_soon(keep_running, "the fetcher of messages", supervisor.fetch_messages)
            nursery.start_soon(keep_running, "the display of long attempts", supervisor.show_long_attempts)
            nursery.start_soon(keep_running, "the watch for waits outside", supervisor.name_outside_waits)
            if not self._clock.is_virtual:  # a thread takes no virtual time
                nursery.start_soon(keep_running, "the watch for used-up threads", self._threads.watch)
            late_comers = LateComers(self._database, self._clock)
            nursery.start_soon(keep_running, "the search for attempts that were called in vain", late_comers.run)
            self._supervisor = supervisor
            self._joined.set()
            self._notify_results()  # whatever was committed under the last lease is visible now
            if self.relay is not None:
                nursery.start_soon(keep_running, "the relayer", self.relay.run)
            nursery.start_soon(keep_running, "the clock of the schedules", self._schedules.run)
            nursery.start_soon(keep_running, "the clock of the deadlines", self._deadlines.run)
            nursery.start_soon(keep_running, "the search for dead workers", self._reaper.run)
            task_status.started()
            try:
                with trio.CancelScope() as self._claim_scope:
                    await keep_running("the claiming of instances", partial(self._claimer.run, supervisor))
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
            self._local_results,
            self._limits.max_recoveries,
            on_wake=self._claimer.notify_wake,
            on_deadline=self._deadlines.notify,
            on_room=self._claimer.notify_room,
            on_effects=self._effects_stored,
            on_committed=self._committed,
            on_interrupt=self._on_interrupt,
            dispatcher=self._dispatcher,
        )

    def _effects_stored(self) -> None:
        """Deliver messages, and events for the broker, that were stored without the journal."""
        self._claimer.notify_due()
        self._retention.notify()
        if self.relay is not None:
            self.relay.notify()

    def _committed(self, committed: Committed) -> None:
        """Tell the hooks and the services of the worker about a committed batch."""
        self._contact.renewed()
        if self._schedules.running and not self._schedules.running.isdisjoint(committed.changed()):
            self._schedules.notify()
        if self._watched:
            for instance_id in committed.changed():
                if (result := self._watched.get(instance_id)) is not None:
                    result.notify()
        if self._dispatcher is not None:
            info = BatchInfo(self.worker_id, committed.writes, committed.seconds)
            self._dispatcher.call(Hooks.batch_committed, info)
        if committed.wakes_others:
            self._claimer.notify_due()
        if committed.has_deadlines:
            self._deadlines.notify()
        if committed.has_sent:
            self._retention.notify()
        if committed.has_posted and self.relay is not None:
            self.relay.notify()

    async def _drain(self, supervisor: Supervisor) -> None:
        """Wait for running activities, release every instance, and end the lease."""
        begun = trio.current_time()
        with trio.move_on_at(begun if self._is_hurried else self._drain_until) as self._drain_scope:
            await supervisor.drain()
        if self._drain_scope.cancelled_caught:
            _logger.warning(
                "worker %s: %d instances still run activities after %.0f s; they are released as they are",
                self.worker_id,
                supervisor.resident,
                trio.current_time() - begun,
            )
            supervisor.abandon_all()
        if self.relay is not None:
            self._database.end_by(trio.current_time() + RELAY_GRACE + LEAVE_WITHIN)
            await self.relay.drain()
            self._database.end_by(trio.current_time() + LEAVE_WITHIN)
        with trio.move_on_after(LEAVE_WITHIN) as scope:
            await supervisor.journal.call(leave, supervisor.journal.lease, self._clock.now())
        if scope.cancelled_caught:
            _logger.warning("worker %s could not give up its lease: it will expire", self.worker_id)


def _is_lost_lease(error: Exception) -> bool:
    """Whether a worker has failed only because it lost its lease."""
    if isinstance(error, ExceptionGroup):
        return error.split(LeaseLostError)[1] is None
    return isinstance(error, LeaseLostError)
