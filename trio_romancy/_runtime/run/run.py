"""One run of one instance, from its journal to an exit: all that an operation may touch."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import final

import trio

from ..._data.log_fields import about
from ..._exceptions import contains
from ..._observe.instance_events import InstanceEvents
from ..._storage.journal.journal import Journal
from ..._storage.sql.claims import Claim
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.statuses import claimed
from ..._storage.sql.waits import MatchResult
from ..._tasks.interrupts import ends_program
from ..._tasks.leavable import PATIENCE
from ..._tasks.light_event import LightEvent
from ..._tasks.scheduler import Turns
from ..._tasks.scoped import ScopedTasks
from ..._tasks.trio_internals import is_innermost
from ...clock import Microseconds, at_once
from ...errors import LeaseLostError, NonDeterminismError, PayloadTooLargeError
from ...model import Status
from . import phase as phases
from .entry_writer import EntryWriter
from .environment import Environment
from .exits import Released, RunGone
from .function_scope import FunctionScope
from .intake import Intake
from .journal_cursor import JournalCursor
from .mailbox import Mailbox, PendingOutcome, Receiver
from .message_table import MessageTable
from .operation import InFlight, Operation
from .operation_ids import OperationIds
from .phase import CLOSING, COMPENSATING, GONE, LIVE, REPLAYING, Phase
from .saga import Saga

_logger = logging.getLogger("trio_romancy.workflow")


@final
class InstanceRun:
    """One run of an instance: what its operations share, and how they stop it.

    Made by its actor for each time that the instance is taken into memory. Operations never see the actor.

    Args:
      receive: makes the receiver of the mailbox, when there is something to receive for the first time.
    """

    __slots__ = (
        "_changed",
        "_idle_since",
        "_intake",
        "_mailbox",
        "_places",
        "_receive",
        "_side",
        "_stored",
        "awaiting",
        "cancel_reason",
        "cancellation",
        "claim",
        "commit",
        "crash_cause",
        "cursor",
        "env",
        "events",
        "function_scope",
        "ids",
        "in_flight",
        "instance_id",
        "is_new",
        "is_passivated",
        "is_tainted",
        "is_unwinding",
        "phase",
        "rejection",
        "release_as",
        "rollback_scope",
        "saga",
        "suspicion",
        "turns",
        "workflow_name",
        "writer",
    )

    def __init__(
        self,
        env: Environment,
        claim: Claim,
        entries: Sequence[JournalEntry],
        stored: Sequence[MatchResult],
        receive: Callable[[InstanceRun], Receiver],
        *,
        is_new: bool,
    ) -> None:
        self.env = env
        self.claim = claim
        self.instance_id = claim.instance_id
        self.workflow_name = claim.workflow
        self.is_new = is_new
        """Whether nothing of the instance has run before."""
        self.phase = REPLAYING
        self.ids = OperationIds(claim.instance_id)
        has_run = not is_new and claim.status is not Status.PENDING
        self.cursor = JournalCursor(claim.instance_id, claim.created_at, entries, has_run=has_run)
        self.in_flight = InFlight()
        self.turns: Turns | None = None
        self.saga = Saga(entries)
        self.function_scope = FunctionScope()
        self.rollback_scope: trio.CancelScope | None = None
        """Scope around the rollback, while that runs."""
        self.writer = EntryWriter(
            claim.instance_id,
            env.journal,
            env.clock,
            entries[-1].seq if entries else 0,
            entries[-1].recorded_at if entries else claim.created_at,
            claimed(claim.status),
            on_lease_lost=self.abandon,
            on_progress=env.host.probation_cleared,
        )
        self.writer.on_probation = claim.recoveries > 0
        self.suspicion: Exception | None = None
        """Error with which to park the instance if an attempt begins on probation; None: attempts may begin."""
        self.events: InstanceEvents | None = None
        """Tells hooks what happens; None without hooks."""
        if env.dispatcher is not None:
            self.events = self.writer.events = InstanceEvents(
                env.dispatcher,
                claim,
                env.journal.lease.worker_id,
                env.clock,
                due_of=lambda id: self.in_flight.by_id[id].wake_at,
                channel_of=lambda id: self.intake.channel_of(id),
            )
        self.is_unwinding = False
        """Whether user code must not go on: the run is gone, or the workflow function does not fit the journal.

        User code sees a cancellation then, and what it makes of that is not an outcome. A rollback needs no function.
        """
        self.rejection: Exception | None = None
        """Error because of which the workflow function must not go on; None if its code fits the journal."""
        self.cancellation: Operation | None = None
        """The cancel request as an operation, once one has come."""
        self.cancel_reason: str | None = None
        """Reason of the recorded cancel request."""
        self.commit: trio.Event | None = None
        """Event set when the last commit of an activity's transaction has ended. That goes on when the run is gone."""
        self.release_as: tuple[Status, Released] | None = None
        """Status and wake-up time of the release, if that is why the run is gone."""
        self.crash_cause: BaseException | None = None
        """Exception with which the runtime failed, if that is why the run is gone."""
        self.awaiting = 0
        """Number of activities that await other instances, by ``handle.result()``."""
        self.is_passivated = False
        """Whether to release the instance as soon as it only waits."""
        self.is_tainted = False
        """Whether an activity has left a scope or a nursery open. No other instance may then run in the task."""
        self._receive = receive
        self._mailbox: Mailbox | None = None
        self._intake: Intake | None = None
        self._stored = stored
        self._side: ScopedTasks | None = None
        self._changed: LightEvent | None = None
        self._idle_since: Microseconds | None = None
        self._places: set[str] | None = None

    # -- phases ----------------------------------------------------------------------------------------------------

    def enter(self, phase: Phase) -> None:
        """Enter a phase. Once the run is gone it can record nothing.

        Raises:
          IllegalTransitionError: if the phase cannot follow the present one.
        """
        phases.check(self.phase, phase)
        self.phase = phase
        if phase is GONE:
            self.is_unwinding = True
            self.writer.close()
            if self._intake is not None:
                self._intake.is_closed = True
        elif self.rejection is not None:
            self.is_unwinding = self.runs_function

    @property
    def is_live(self) -> bool:
        """Whether operations are carried out, since the journal is used up."""
        return self.phase is LIVE

    @property
    def runs_function(self) -> bool:
        """Whether the workflow function has not ended, and may go on."""
        return self.phase is REPLAYING or self.phase is LIVE

    @property
    def has_ended_function(self) -> bool:
        """Whether the workflow function has ended, and its end is recorded or undone."""
        return self.phase is CLOSING or self.phase is COMPENSATING

    @property
    def has_outcomes(self) -> bool:
        """Whether an operation that begins may have an outcome already: in the journal, or from before a retry."""
        return self.phase is not LIVE or bool(self.cursor.kept)

    @property
    def is_gone(self) -> bool:
        """Whether the run has ended or was abandoned."""
        return self.phase is GONE

    def go_live(self) -> None:
        """Carry operations out from now on: the journal is used up. Those that are in flight must be notified."""
        self.enter(LIVE)

    def refuse_if_gone(self) -> None:
        """Raise :exc:`RunGone` where user code must not go on."""
        if self.is_unwinding:
            raise RunGone

    def is_torn_down_by(self, error: BaseException) -> bool:
        """Return whether an exception of user code is a cancellation, alone or in a group, that is in force now.

        Call it in the task that has caught the exception. A :exc:`trio.Cancelled` that the code has kept from a scope
        it has left, and raises again, is an exception like any other: no scope is there that would catch it.
        """
        if not contains(error, trio.Cancelled):
            return False
        return self.is_unwinding or trio.current_effective_deadline() == -math.inf

    # -- stopping --------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Stop at once, recording nothing more. User code sees a cancellation, and cannot resist it."""
        if self.phase is not GONE:
            self.enter(GONE)
        self.function_scope.cancel()
        if self.rollback_scope is not None:
            self.rollback_scope.cancel()
        self.in_flight.give_up_all()

    def crash(self, cause: BaseException) -> None:
        """Stop because something in the runtime failed. The actor is restarted through replay.

        A run that is gone has stopped already: what its code raises then is no failure of the runtime.
        """
        if self.phase is not GONE:
            self.crash_cause = cause
            self.abandon()

    def write_refused(self, cause: Exception) -> None:
        """Crash because the database refuses what was recorded.

        A release that has not begun to be written does not take place: the journal is not enough to continue from.
        """
        if self.release_as is not None:
            self.crash_cause = cause
        self.crash(cause)

    def release(self, status: Status) -> None:
        """Stop, and release the instance: its journal is enough to continue from here.

        Args:
          status: status of the released instance. A waiting instance is due with its next timer, any other at once.
        """
        if self.phase is not GONE:
            wake_at = self.next_wake() if status is Status.WAITING else at_once(self.env.clock.now())
            self.release_as = status, Released(wake_at)
        self.abandon()

    def reject(self, cause: Exception) -> None:
        """Note why the workflow function must not go on."""
        self.rejection = cause
        self.is_unwinding = self.is_gone or self.runs_function

    def reject_code(self, cause: Exception) -> None:
        """Unwind the workflow function, whose code does not fit the journal and must not go on."""
        self.reject(cause)
        self.function_scope.cancel()
        self.in_flight.give_up_all()

    def forbid(self, what: str) -> NonDeterminismError:
        """Reject the code because it does what no replay can repeat. Returns the error that its caller raises.

        Args:
          what: what the code does, and what it must do instead.
        """
        self.refuse_if_gone()
        error = NonDeterminismError(f"instance {self.instance_id!r}: {what}")
        if self.runs_function:
            self.reject_code(error)
        return error

    def left_behind(self, task: trio.lowlevel.Task) -> None:
        """Note that code in a task catches each cancellation, and was left where it is.

        If nothing else ends the workflow function, its code is rejected: it swallows the end of one of its own scopes.
        """
        self.is_tainted = True
        what, id = self._code_in(task)
        _logger.warning(
            "%s of instance %s has caught its cancellation %d times and does not end: its code was left where it is; "
            "let trio.Cancelled pass, catch Exception instead of everything",
            what,
            self.instance_id,
            PATIENCE,
            extra=self.about(id),
        )
        if self.runs_function and self.rejection is None and self.cancellation is None:
            self.forbid(
                "its code catches trio.Cancelled again and again, so that a block that was cancelled never ends; let "
                "trio.Cancelled pass, then resume it"
            )

    async def stop_here(self) -> None:
        """Begin nothing more, because the worker stops. The instance is released as soon as no activity runs."""
        if self.has_ended_function:
            self.release(Status.COMPENSATING)
        self.notify()
        await trio.sleep_forever()

    # -- the mailbox -----------------------------------------------------------------------------------------------

    def open_mailbox(self) -> Mailbox:
        """Return the mailbox. From the first call on its receiver tells the workflow what comes."""
        if self._mailbox is None:
            self._mailbox = Mailbox(self.env.clock)
            self._mailbox.receiver = self._receive(self)
        return self._mailbox

    def post(self, pending: PendingOutcome) -> None:
        """Have an outcome recorded and told to the workflow in its turn."""
        self.open_mailbox().post(pending)

    def post_at(self, when: Microseconds, pending: PendingOutcome) -> None:
        """Post an outcome at that time, if its operation is still in flight then."""
        self.idle_since = None
        self.open_mailbox().post_at(when, pending)

    def next_wake(self) -> Microseconds | None:
        """Return when the next timer is due, or the next attempt of an activity."""
        timer = None if self._mailbox is None else self._mailbox.next_timer()
        retry = self.in_flight.next_retry()
        return retry if timer is None or (retry is not None and retry < timer) else timer

    def notify(self) -> None:
        """Make the receiver of the mailbox look at the state of the run again."""
        self.open_mailbox().notify()

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits to be recorded, and nothing is being recorded."""
        return self._mailbox is None or self._mailbox.is_clear

    def has_turn(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task may record or be told an outcome at once, as the only task of its workflow."""
        return (self.is_clear and self.in_flight.is_alone(task)) or self.has_ended_function

    def is_undisturbed(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task has its turn, and nothing in it could be cancelled but the whole workflow."""
        if task is not self.in_flight.main or self.phase is not LIVE:
            return False
        assert self.function_scope.scope is not None
        if not is_innermost(self.function_scope.scope, task):  # a nursery would be further in
            return False
        return self._mailbox is None or self._mailbox.is_clear

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait until no task of the workflow can go on by itself: each waits for an operation or for another task.

        Raises:
          OrderLostError: if the tasks may have run in an order that no replay repeats.
        """
        while True:
            turns = self.turns
            if turns is not None:
                await turns.rest()
                if self.turns is turns:
                    return
            elif self.in_flight.can_go_on():
                await trio.lowlevel.checkpoint()
            else:
                return

    def waits_outside(self) -> bool:
        """Whether some task waits for something that is neither an operation nor a child task of its own."""
        awaiting = {operation.task for operation in self.in_flight.by_id.values()}
        tasks = self.turns or [task for task in [self.in_flight.main] if task is not None]
        return any(task not in awaiting and not task.child_nurseries for task in tasks)

    def holds_thread(self, task: trio.lowlevel.Task, seconds: float, place: str) -> None:
        """Name a task of the workflow, or of one of its activities, that lets no other task run. In another thread."""
        what, id = self._code_in(task)
        message = "%s of instance %s has held the thread for %.1f s, at %s: no other task of the process runs meanwhile"
        _logger.warning(message, what, self.instance_id, seconds, place, extra=self.about(id))

    def _code_in(self, task: trio.lowlevel.Task) -> tuple[str, str | None]:
        """Return what a task runs, for messages, and the id of the operation if it is one. For any thread."""
        operation = self.in_flight.executed_by(task)
        return ("the workflow function", None) if operation is None else (operation.id, operation.id)

    def is_first_at(self, place: str) -> bool:
        """Note a place in the code. Returns whether it was not noted before."""
        self._places = places = self._places or set()
        is_first = place not in places
        places.add(place)
        return is_first

    @property
    def has_mailbox(self) -> bool:
        """Whether the mailbox was opened, so that its receiver looks at the tasks whenever they rest."""
        return self._mailbox is not None

    def own_nurseries(self, task: trio.lowlevel.Task) -> int | None:
        """Return how many of the task's nurseries are the workflow's, if an activity runs in it; None: all of them."""
        operation = self.in_flight.executed_by(task)
        return None if operation is None else operation.nurseries

    # -- messages --------------------------------------------------------------------------------------------------

    @property
    def intake(self) -> Intake:
        """The instance's waits for messages, made at first use."""
        if self._intake is None:
            table = MessageTable(self.instance_id, self.claim.started_after, self.claim.origin)
            env = self.env
            self._intake = Intake(
                self.instance_id,
                table,
                env.journal,
                env.clock,
                env.message_source,
                self._stored,
                may_be_stored=not self.is_new,
                notify=self.notify,
            )
            self._intake.is_closed = self.phase is GONE
            self._stored = ()
        return self._intake

    @property
    def used_intake(self) -> Intake | None:
        """The intake; None if the instance has never waited for a message."""
        return self._intake

    @property
    def is_fetching(self) -> bool:
        """Whether a search for messages has not ended yet."""
        return self._intake is not None and self._intake.is_fetching

    def close_unasked_waits(self) -> None:
        """Close the stored waits that a complete replay has not asked for."""
        if self.runs_function and (self._intake is not None or self._stored):
            self.intake.close_unasked()

    # -- resting ---------------------------------------------------------------------------------------------------

    @property
    def idle_since(self) -> Microseconds | None:
        """Time since which every operation in flight has only waited; None if one does something else."""
        return self._idle_since

    @idle_since.setter
    def idle_since(self, since: Microseconds | None) -> None:
        before, self._idle_since = self._idle_since, since
        if before is None and since is not None:
            self.env.host.idle_changed(1)
        elif before is not None and since is None:
            self.env.host.idle_changed(-1)

    def set_details(self, text: str) -> None:
        """Store the details of the instance, for an activity, unless the run is gone."""
        if not self.is_gone:
            try:
                self.journal.append_details(self.instance_id, text)
            except LeaseLostError:
                self.abandon()

    def awaits_instances(self, by: int) -> None:
        """Count one activity more (1), or one fewer (-1), that awaits other instances."""
        self.awaiting += by
        self.env.host.awaiting_changed(self)

    def something_is_due(self, *, has_deadline: bool = False) -> None:
        """Claim what this run has made due."""
        self.env.host.something_is_due(has_deadline=has_deadline)

    @property
    def only_awaits_instances(self) -> bool:
        """Whether activities run, and each of them awaits other instances."""
        return 0 < self.in_flight.count_executing() <= self.awaiting and not self.is_gone

    def changed(self) -> LightEvent:
        """Return the event set by the next call of :meth:`set_changed`."""
        if self._changed is None:
            self._changed = LightEvent()
        return self._changed

    def set_changed(self) -> None:
        """Wake a rollback that waits for its children: something about the instance has changed."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
            if self.has_ended_function:
                self.idle_since = None

    async def rest_until(self, changed: LightEvent) -> None:
        """Wait in a rollback. Meanwhile the worker may claim other instances, or release this one."""
        if not changed.is_set():
            self.idle_since = self.env.clock.now()
        await changed.wait()

    # -- for operations --------------------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """The journal of the worker.

        Raises:
          RunGone: if the run is gone, which can record nothing.
        """
        if self.phase is GONE:
            raise RunGone
        return self.env.journal

    def start_soon(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Run a task beside the workflow function, for as long as the actor lives."""
        if self._side is None:
            self._side = ScopedTasks(self.env.host.start_soon, self._side_failed)
        self._side.start_soon(fn)

    def _side_failed(self, error: BaseException) -> None:
        """Stop the run, because a task beside the workflow function has failed."""
        if ends_program(error):
            self.interrupt(error)
        else:
            self.crash(error)

    def interrupt(self, error: BaseException) -> None:
        """Stop, recording nothing more, and end the block of the app: Ctrl-C has struck in a task of the run."""
        self.abandon()
        self.env.host.interrupted(error)

    def end(self, operation: Operation) -> None:
        """Note that an operation has ended."""
        self.in_flight.remove(operation)
        if self._mailbox is not None and self.env.host.is_draining:
            self._mailbox.notify()

    def end_all(self) -> None:
        """Note that the operations of code that was left behind have ended."""
        for operation in [*self.in_flight.by_id.values()]:
            if operation.task is not None:
                self.end(operation)

    async def aclose(self) -> None:
        """Wait until all tasks beside the workflow function have ended. The run is over."""
        self.idle_since = None
        if self._side is not None:
            await self._side.aclose()
        if self._mailbox is not None:
            self._mailbox.receiver.close()

    def about(self, operation_id: str | None = None) -> dict[str, str | None]:
        """Return the ``extra`` of a log record that concerns the instance."""
        return about(self.instance_id, self.workflow_name, operation_id)

    def too_large(self, text: str, what: str) -> PayloadTooLargeError:
        """Return the error of a text that is larger than the app allows."""
        return PayloadTooLargeError(
            f"instance {self.instance_id!r}: {what} is {len(text)} bytes of JSON, and max_payload is "
            f"{self.env.settings.max_payload}; store it elsewhere and pass a reference"
        )
