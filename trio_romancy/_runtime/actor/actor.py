"""One instance: its nursery and mailbox, from its journal to a final status, a passivation, or a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from random import Random
from typing import Any, NoReturn

import trio
from attrs import define

from ..._context.child import ChildHandle
from ..._context.current import current_execution
from ..._context.workflow import MAX_DETAILS, WorkflowContext
from ..._data.codec import Codec, loads
from ..._data.failure import Failure, describe
from ..._data.log_fields import about
from ..._definitions.values import Workflow
from ..._observe.instance_events import InstanceEvents
from ..._settings import Settings
from ..._storage.journal.batch import Batch
from ..._storage.journal.effects import Effects
from ..._storage.journal.journal import Journal
from ..._storage.outgoing import to_json
from ..._storage.sql.chains import CarryOver
from ..._storage.sql.claims import Claim
from ..._storage.sql.instances import JournalEntry, update_row
from ..._storage.sql.rows import EntryRow, StatusUpdate
from ..._storage.sql.waits import MatchResult, Wait
from ..._tasks.light_event import LightEvent
from ..._tasks.pool import PooledTask
from ..._tasks.scoped import ScopedTasks
from ..._tasks.trio_internals import is_innermost
from ...clock import Clock, Microseconds, from_datetime, to_datetime
from ...errors import LeaseLostError, PayloadTooLargeError, RomancyError
from ...model import ChannelMode, ErrorInfo, Kind, Message, ReceivedEvent, Status
from ..operations import activity, channels, children
from ..operations.attempts import Attempted, Dropped, Result, attempt, record_failure
from ..operations.compensation import Saga
from ..run.journal_cursor import Operation, Replay
from ..run.mailbox import PendingOutcome
from ..run.message_table import MessageTable
from ..run.sequencer import Sequencer, record_in
from . import finish
from .host import ActorHost
from .recur import Recur, recur_in

_CANCEL = frozenset({Kind.CANCEL_REQUESTED})
_FINAL_ENDS = frozenset({Kind.WORKFLOW_COMPLETED, Kind.WORKFLOW_RECURRED})
"""Of a workflow function, after which there is nothing more to do."""

# What every workflow asks for: to find a member of an enum takes ten times as long as a global (Python 3.11).
_RUNNING, _WAITING = Status.RUNNING, Status.WAITING

_REPEAT_AFTER = 0.1
"""Seconds before an attempt is repeated whose transaction could not be committed."""


@define(eq=False, init=False)
class Actor:
    """Runs one instance. Made anew for each take-up.

    The workflow function runs in the actor's own task. What is to be told to it goes through the mailbox, one letter
    at a time, each recorded first; only a workflow that is a single task records its outcomes itself, without the
    detour.
    """

    home: ActorHost
    clock: Clock
    journal: Journal
    settings: Settings
    thread_limiter: trio.CapacityLimiter
    claim: Claim
    instance_id: str
    workflow_name: str
    workflow: Workflow[..., Any]
    _arguments: list[Any] | None
    """What the input stands for, if nobody has had it in hand yet."""
    replay: Replay
    saga: Saga
    _delivery: Sequencer | None
    used_waits: MessageTable | None
    """What it waits for from outside, if it ever has."""
    stored_waits: dict[str, MatchResult] | None
    """What the database knew of that when the instance was claimed, by operation id."""
    is_wanted: bool
    """Whether somebody has asked for attention since it was dropped."""
    is_handed_back: bool
    """Whether it is being given back, so that nobody can add to that any more."""
    is_behind: bool
    """Whether that is not all any more."""
    _stirred: LightEvent | None
    """What somebody waits for who wants to look by himself."""
    _side: ScopedTasks | None
    """Who empties the mailbox and waits for threads, if there has been something to do for them."""
    _seat: PooledTask[Any]
    _workflow_scope: trio.CancelScope | None
    """Around the workflow function, while that runs."""
    _rollback_scope: trio.CancelScope | None
    _seq: int
    _time: Microseconds
    _written: Batch | None
    """The batch that the last entry is in."""
    status: Status
    _idle_since: Microseconds | None
    is_unproven: bool
    is_draining: bool
    is_dropped: bool
    is_ending: bool
    """Whether the workflow function has ended."""
    is_shielded: bool
    _cancel_when_unshielded: bool
    _cancel: Operation | None
    cancel_reason: str | None
    was_told_to_cancel: bool
    cannot_run: Exception | None
    watch: InstanceEvents | None
    """Tells hooks what happens; None: there are none."""
    _release: tuple[Status, Microseconds | None] | None
    _crash: BaseException | None

    def __init__(
        self,
        home: ActorHost,
        seat: PooledTask[Any],
        claim: Claim,
        workflow: Workflow[..., Any],
        records: Sequence[JournalEntry],
        arguments: list[Any] | None = None,
        waits: Iterable[MatchResult] = (),
    ) -> None:
        self.home = home
        self.clock = home.clock
        self.journal = home.journal
        self.settings = home.settings
        self.thread_limiter = home.thread_limiter
        self.claim = claim
        self.instance_id = claim.instance_id
        self.workflow_name = workflow.name
        self.workflow = workflow
        self._arguments = arguments
        self.replay = Replay(claim.instance_id, claim.created_at, records)
        self.saga = Saga(records)
        self._delivery = None
        self.used_waits = None
        self.stored_waits = {news.wait.operation_id: news for news in waits} if waits else None
        self.is_behind = False
        self.is_wanted = self.is_handed_back = False
        self._stirred = None
        self._side = None
        self._seat = seat
        self._workflow_scope = None
        self._rollback_scope = None
        self._seq = records[-1].seq if records else 0
        self._time = records[-1].recorded_at if records else claim.created_at
        self._written = None
        self.status = _RUNNING
        self._idle_since = None
        self.is_unproven = claim.recoveries > 0
        self.is_draining = False
        self.is_dropped = False
        self.is_ending = False
        self.is_shielded = False
        self._cancel_when_unshielded = False
        self._cancel = None
        self.cancel_reason = None
        self.was_told_to_cancel = False
        self.cannot_run = None
        self.watch = None if home.dispatcher is None else InstanceEvents(self, home.dispatcher)
        self._release = None
        self._crash = None
        if records and records[0].kind is Kind.CONTINUED:
            carry_over = records[0].payload
            self.waits.unpack(carry_over if isinstance(carry_over, CarryOver) else CarryOver(**carry_over))

    @property
    def is_new(self) -> bool:
        """Whether nothing of the instance has run before."""
        return self._arguments is not None

    @property
    def waits(self) -> MessageTable:
        """What it waits for from outside."""
        if self.used_waits is None:
            self.used_waits = MessageTable(self)
        return self.used_waits

    @property
    def idle_since(self) -> Microseconds | None:
        """From when on every operation in flight has only waited; None if one does something else."""
        return self._idle_since

    @idle_since.setter
    def idle_since(self, since: Microseconds | None) -> None:
        before, self._idle_since = self._idle_since, since
        if before is None and since is not None:
            self.home.idle += 1
            self.home.has_room_for_more()
        elif before is not None and since is None:
            self.home.idle -= 1

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self, cannot_run: Exception | None = None) -> None:
        """Run until the instance has ended, is given back, or the actor is dropped.

        Args:
          cannot_run: why the workflow function must not be run; the instance is parked then, or rolled back if its
            cancellation was requested.

        Raises:
          Exception: if the runtime (not the workflow) failed. The instance is unharmed.
        """
        self.cannot_run = cannot_run
        has_ended = False
        try:
            function_end = self.saga.rollback or self.saga.function_end
            if function_end is not None and function_end.kind in _FINAL_ENDS:
                return  # the actor before this one crashed when that had been written
            if function_end is None:
                value, failure = await self._call_function()
                function_end = await finish.end_function(self, value, failure)
            if function_end is not None:
                self.is_ending = True
                if self.is_dropped:
                    raise Dropped  # while the end was written
                with trio.CancelScope() as self._rollback_scope:
                    await self.saga.compensate(self)
                    await finish.finish(self, function_end)
                if self._rollback_scope.cancelled_caught:
                    raise Dropped
            has_ended = True  # or is parked, durably: what crashed meanwhile does not matter any more
        except (Dropped, LeaseLostError):
            self.drop()
        except Exception as error:
            self.crash(error)
        finally:
            self.idle_since = None
            if self._side is not None:
                await self._side.aclose()
            if self._delivery is not None:
                self._delivery.close()
        if has_ended:
            return
        if self._crash is not None:
            raise self._crash
        if self._release is not None:
            await self._give_back(*self._release)

    def drop(self) -> None:
        """Stop at once, recording nothing. User code sees a cancellation, and can do nothing about it."""
        self.is_dropped = True
        self._cancel_workflow()
        if self._rollback_scope is not None:
            self._rollback_scope.cancel()
        self._unwind()

    def crash(self, error: BaseException) -> None:
        """Stop because something in the runtime failed."""
        if self._crash is None:
            self._crash = error
        self.drop()

    def drain(self) -> None:
        """Give the instance back as soon as no activity runs."""
        self.is_draining = True
        if self.is_ending:
            in_flight = [operation for operation in self.replay.in_flight.values() if operation.is_open]
            if in_flight and all(operation.waits for operation in in_flight):
                self.let_go(Status.COMPENSATING)
        else:
            self.deliver().poke()

    def look(self) -> None:
        """There may be messages that it waits for. Whoever says so must first see that it is not :attr:`is_dropped`."""
        self.is_behind = True
        self._stir()
        if self.used_waits is not None:
            self.used_waits.look()

    def hear(self, news: MatchResult) -> None:
        """The same, and what there was at that time for one of its waits."""
        self._stir()
        if self.used_waits is None:
            self.is_behind = True
        else:
            self.used_waits.hear(news)

    def stirred(self) -> LightEvent:
        """What is set by the next :meth:`look` or :meth:`hear`."""
        if self._stirred is None:
            self._stirred = LightEvent()
        return self._stirred

    def _stir(self) -> None:
        if self._stirred is not None:
            self._stirred.set()
            self._stirred = None
            if self.is_ending:
                self.idle_since = None

    async def rest_until(self, stirred: LightEvent) -> None:
        """A rollback only waits: for others to go on meanwhile it leaves the worker its room, and the memory."""
        if not stirred.is_set():
            self.idle_since = self.clock.now()
        await stirred.wait()

    def take_stored_wait(self, wait: Wait) -> MatchResult | None:
        """What the database knew of a wait when the instance was claimed, if that is still all."""
        stored = None if self.stored_waits is None else self.stored_waits.pop(wait.operation_id, None)
        return stored if stored is not None and stored.is_of(wait) and not self.is_behind else None

    def forget_stored_waits(self) -> None:
        """The workflow asks for none of the waits that are left: its worker has died before they were closed."""
        left, self.stored_waits = self.stored_waits or {}, None
        if not self.is_ending and not self.is_dropped:
            for operation_id in left:
                self.journal.append_close(self.instance_id, operation_id)

    def passivate(self) -> None:
        """Give the instance back now, if it only waits."""
        if self.is_ending:
            if self.idle_since is not None:
                self._release = (Status.COMPENSATING, None)  # what it waits for wakes it
                self.drop()
            return
        delivery = self.deliver()
        delivery.is_hurried = True
        delivery.poke()

    def request_cancel(self, reason: str) -> None:
        """Tell the workflow that somebody asked for its cancellation. The reason is JSON text."""
        if self._cancel is None and not self.is_ending:
            self.was_told_to_cancel = True
            self._cancel = Operation("cancel", "cancellation", _CANCEL, self._be_cancelled)
            self.replay.add(self._cancel)
            delivery = self.deliver()
            if not self.replay.was_cancelled:
                delivery.post(PendingOutcome(self._cancel, Kind.CANCEL_REQUESTED, reason))

    @property
    def was_recorded_as_cancelled(self) -> bool:
        """Whether a cancel request is in the journal."""
        return self._cancel is not None and self._cancel.record is not None

    def _be_cancelled(self, record: JournalEntry) -> None:
        self.cancel_reason = record.payload["reason"]
        for operation in self.replay.in_flight.values():
            if operation.scope is not None and operation.id not in record.payload["running"]:
                operation.scope.cancel()  # it has never begun, so it need not go on to an outcome
        self._cancel_function()

    def _cancel_function(self) -> None:
        if self.is_shielded:
            self._cancel_when_unshielded = True
        else:
            self._cancel_workflow()

    def _cancel_workflow(self) -> None:
        if self._workflow_scope is not None:
            self._workflow_scope.cancel()

    @property
    def shield(self) -> bool:
        """The shield of an activity that is alone in its workflow: see :func:`.operations.call_activity`."""
        return self.is_shielded

    @shield.setter
    def shield(self, up: bool) -> None:
        self.is_shielded = up
        if not up and self._cancel_when_unshielded:
            self._cancel_workflow()

    def cancel(self) -> None:
        """Take the shield down: the actor is dropped."""
        self._cancel_workflow()

    def next_wake(self, after: Microseconds = 0) -> Microseconds | None:
        """When the first of its timers is due that is due after that time."""
        wakes = (operation.wake_at for operation in self.replay.in_flight.values())
        return min((wake for wake in wakes if wake is not None and wake > after), default=None)

    def let_go(self, status: Status) -> None:
        """Give the instance back: its journal is enough to bring it to where it is."""
        self._release = (status, self.next_wake() if status is Status.WAITING else self.clock.now())
        self.drop()

    def give_up(self, cause: Exception) -> None:
        """Unwind the workflow function, whose code does not fit the journal and must not go on."""
        self.cannot_run = cause
        self._cancel_workflow()
        self._unwind()

    def refuse_if_dropped(self) -> None:
        """Raise :class:`Dropped` where user code must not go on."""
        if self.is_dropped or self.cannot_run is not None:
            raise Dropped

    def _unwind(self) -> None:
        for operation in self.replay.in_flight.values():
            if operation.scope is not None:
                operation.scope.cancel()

    async def _give_back(self, status: Status, wake_at: Microseconds | None) -> None:
        self.is_handed_back = True
        row = self.status_row(status, wake_at=self.clock.now() if self.is_wanted else wake_at)
        try:
            await self.journal.durable(self.journal.append_update(row | {"owner_": None}))
        except LeaseLostError:
            return
        self.home.released(self)

    # -- the workflow function -------------------------------------------------------------------------------------

    async def _call_function(self) -> tuple[Any, Failure | None]:
        """Run it to its end, if it can be run. Returns what it returned, or how it failed."""
        if self.cannot_run is not None:
            return None, None
        arguments = self._arguments
        if arguments is None:
            try:
                arguments = self.workflow.input.decode(self.claim.input)
            except RomancyError as error:
                self.cannot_run = error
                return None, None
        value, failure = None, None
        current_execution.set(self)
        self.replay.begin()
        try:
            with self._seat as self._workflow_scope:
                if self.claim.cancel_requested is not None or self.replay.was_cancelled:
                    self.request_cancel(self.claim.cancel_requested or "null")
                elif self.is_new:
                    self.replay.go_live()  # there is no journal that could tell it anything first
                value = await self.workflow.function(WorkflowContext(self), *arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self.is_dropped and self.cannot_run is None:
                if isinstance(error, trio.Cancelled) or (
                    isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[0]
                ):
                    raise  # the whole app is being cancelled
                if (recur := recur_in(error)) is not None:
                    return recur, None
                failure = describe(error)
        finally:
            self._workflow_scope = None
            current_execution.set(None)
            self.replay.end()
        if self.is_dropped:
            raise Dropped
        if self.cannot_run is None:
            told_all = self.replay.next_record() is None
            self.cannot_run = self.replay.unknown_change() if told_all else self.replay.mismatch()
        return value, failure

    # -- writing the journal ---------------------------------------------------------------------------------------

    def append(
        self, operation_id: str, kind: Kind, payload: str, effects: Effects | None = None, *, is_news: bool = True
    ) -> JournalEntry:
        """Record an entry, with what is sent together with it. It is durable before the next side effect begins.

        Args:
          is_news: whether to tell hooks.
        """
        row = self.append_row(operation_id, kind, payload, effects, is_news=is_news)
        return JournalEntry(row["seq"], operation_id, kind, loads(payload), row["recorded_at"])

    def append_row(
        self, operation_id: str, kind: Kind, payload: str, effects: Effects | None = None, *, is_news: bool = True
    ) -> EntryRow:
        """Record an entry, and return its row."""
        row = self.entry(operation_id, kind, payload)
        try:
            self._written = self.journal.append_entry(row)
            if effects is not None:
                effects.address(row["seq"])
                self.journal.append_effects(effects)
        except LeaseLostError:
            self.drop()
            raise Dropped from None
        if self.watch is not None and is_news:
            self.watch.recorded(self._written, row, effects)
        if self.is_unproven:
            self.prove()
        return row

    def committed(self, entry: EntryRow, effects: Effects | None = None) -> None:
        """An entry was committed apart from those that are appended, with what was sent together with it."""
        if self.watch is not None:
            self.watch.recorded(self._written, entry, effects)  # after what was appended before it

    def take_back(self) -> None:
        """The last entry was refused: the next one takes its place."""
        self._seq -= 1

    def entry(self, operation_id: str, kind: Kind, payload: str) -> EntryRow:
        """The row of the next entry."""
        self._seq = seq = self._seq + 1
        now = self.clock.now()
        if now > self._time:  # wall time can be set back, that of a journal does not go back
            self._time = now
        return {
            "instance_id": self.instance_id,
            "seq": seq,
            "operation_id": operation_id,
            "kind": kind,
            "payload": payload,
            "recorded_at": self._time,
        }

    def status_row(
        self, status: Status, *, wake_at: Microseconds | None = None, error: ErrorInfo | None = None
    ) -> StatusUpdate:
        owner = None if status.is_final else self.journal.lease.worker_id
        return update_row(self.instance_id, status, self.clock.now(), owner=owner, wake_at=wake_at, error=error)

    def set_status(self, status: Status) -> None:
        """Change the status of the instance, in order with its entries."""
        self.status = status
        try:
            self._written = self.journal.append_update(self.status_row(status))
        except LeaseLostError:
            self.drop()
            raise Dropped from None

    def prove(self) -> None:
        """The instance makes progress: it has not taken its process down."""
        self.is_unproven = False
        self.set_status(self.status)
        self.home.progressed(self)

    def about(self, operation_id: str | None = None) -> dict[str, str | None]:
        """The ``extra`` of a log record that concerns the instance."""
        return about(self.instance_id, self.workflow_name, operation_id)

    def too_large(self, text: str, what: str) -> PayloadTooLargeError:
        """The text is larger than the app allows."""
        return PayloadTooLargeError(
            f"instance {self.instance_id!r}: {what} is {len(text)} bytes of JSON, and max_payload is "
            f"{self.settings.max_payload}; store it elsewhere and pass a reference"
        )

    # -- carrying out an operation ---------------------------------------------------------------------------------

    def record(self, operation: Operation, result: Result) -> bool:
        """Record an outcome right away, if it is its task's turn. Returns whether it was."""
        # What was undisturbed still is, unless somebody has come with a letter.
        has_turn = self._is_clear() if operation.scope is self else self.has_turn(trio.lowlevel.current_task())
        if result.session is not None or not has_turn:
            return False
        self.append_row(operation.id, result.kind, result.payload, result.effects)
        self.replay.now = self._time
        return True

    async def carry_out(
        self,
        operation: Operation,
        what: Attempted,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        suffix: str,
        result: Result | None = None,
    ) -> Result:
        """Attempt something until it has an outcome, and record that.

        Args:
          result: of an attempt that has been made, and could not be recorded right away.
        """
        while True:
            if result is None:
                result = await attempt(self, operation, what, args, kwargs, suffix)
                if self.record(operation, result):
                    return result
            operation.is_executing = False
            if self.is_dropped and result.session is not None:
                await result.session.aclose()
            self.refuse_if_dropped()
            letter = PendingOutcome(operation, result.kind, result.payload, result.session, effects=result.effects)
            if self.is_ending and letter.session is not None:
                recorded = await record_in(self, letter.session, letter)  # no workflow function, nobody else's turn
            else:
                self.deliver().post(letter)
                recorded = await operation.news()
            if recorded is not None:
                return result
            # The database lost the transaction, or refused it, and with it all that this attempt did through it.
            if letter.refusal is None:
                await trio.sleep(_REPEAT_AFTER)
            elif (failed := record_failure(self, operation, what, letter.refusal)) is not None:
                if self.is_ending:
                    self.append(operation.id, failed.kind, failed.payload)
                else:
                    self.deliver().post(PendingOutcome(operation, failed.kind, failed.payload))
                    await operation.news()
                return failed
            result = None

    async def stop_here(self) -> None:
        """Begin nothing more: the instance is given back as soon as no activity runs."""
        if self.is_ending:
            self.let_go(Status.COMPENSATING)
        self.deliver().poke()
        await trio.sleep_forever()

    def begin_attempt(self, operation: Operation) -> Batch | None:
        """An attempt begins. Returns what must be durable before its side effects; None if everything is."""
        operation.is_executing = True
        if self.status is _WAITING:
            self.set_status(_RUNNING)
        return self._written

    async def pause_until(self, when: Microseconds, operation: Operation) -> None:
        """Wait inside an operation. The actor may be dropped meanwhile if the operation only waits."""
        if operation.waits and when - self.clock.now() > self.settings.idle_timeout:
            self.idle_since = None
            self.deliver().poke()
        await self.clock.sleep_until(when)

    def start_soon(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Run a task beside the workflow function, as long as the actor lives."""
        if self._side is None:
            self._side = ScopedTasks(self.home.start_soon)
        self._side.start_soon(fn)

    def end(self, operation: Operation) -> None:
        """The operation is over."""
        self.replay.remove(operation)
        if self.is_draining and self._delivery is not None:
            self._delivery.poke()

    def has_turn(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task may record or hear an outcome right away, as the only one of its workflow."""
        return self._is_clear() and (self.is_ending or self.replay.is_alone(task))

    def is_undisturbed(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task has its turn, and there is nothing in it that could be cancelled but the workflow."""
        if task is not self.replay.main or not self.replay.is_live:
            return False
        assert self._workflow_scope is not None
        return is_innermost(self._workflow_scope, task) and self._is_clear()  # and a nursery would be further in

    def _is_clear(self) -> bool:
        return self._delivery is None or self._delivery.is_clear

    def deliver(self) -> Sequencer:
        """The delivery of letters, begun if it has not been."""
        if self._delivery is None:
            self._delivery = Sequencer(self)
            if not self.is_ending and not self.is_dropped:
                self.start_soon(self._delivery.run)
        return self._delivery

    # -- what a workflow context asks for --------------------------------------------------------------------------

    @property
    def is_replaying(self) -> bool:
        return self.replay.next_record() is not None

    @property
    def is_being_cancelled(self) -> bool:
        """Whether a cancel request has come, recorded or not."""
        return self._cancel is not None

    def now(self) -> datetime:
        return to_datetime(self.replay.now)

    def random(self) -> Random:
        return self.replay.random()

    def open_branch(self, name: str) -> AbstractContextManager[None]:
        return self.replay.branch(name)

    def patched(self, change_id: str) -> bool:
        self.refuse_if_dropped()
        id, is_patched = self.replay.is_patched(change_id)
        if is_patched is None:
            self.append(id, Kind.PATCHED, "null")
            self.replay.patch(id, is_patched=True)
            is_patched = True
        return is_patched

    call_activity = activity.call_activity

    def sleep(self, duration: Microseconds, id: str | None) -> Coroutine[Any, Any, None]:
        return activity.sleep_until(self, self.replay.now + duration, id)

    def sleep_until(self, when: datetime, id: str | None) -> Coroutine[Any, Any, None]:
        return activity.sleep_until(self, from_datetime(when), id)

    def wait_event(
        self, type: str, subject: str | None, codec: Codec[Any], timeout: Microseconds | None, id: str | None
    ) -> Coroutine[Any, Any, ReceivedEvent]:
        return channels.wait_event(self, type, subject, codec, timeout, id)

    def receive(
        self, channel: str, codec: Codec[Any], timeout: Microseconds | None, id: str | None
    ) -> Coroutine[Any, Any, Message]:
        return channels.receive(self, channel, codec, timeout, id)

    def subscribe(self, channel: str, mode: ChannelMode, id: str | None) -> Coroutine[Any, Any, None]:
        return channels.subscribe(self, channel, mode, id)

    def unsubscribe(self, channel: str, id: str | None) -> Coroutine[Any, Any, None]:
        return channels.unsubscribe(self, channel, id)

    def publish(
        self, name: str, channel: str, data: object, metadata: Any, addressee: str | None, id: str | None
    ) -> Coroutine[Any, Any, None]:
        return channels.publish(self, name, channel, data, metadata, addressee, id)

    def start_child(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, ChildHandle[Any]]:
        return children.start(self, workflow, args, kwargs)

    def run_child(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        return children.run(self, workflow, args, kwargs)

    def await_child(self, child: ChildHandle[Any], id: str) -> Coroutine[Any, Any, Any]:
        return children.result(self, child, id, owns=False)

    def recur(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        self.refuse_if_dropped()
        text, _ = self.workflow.input.encode(args, kwargs)
        if len(text) > self.settings.max_payload:
            raise self.too_large(text, "the input to recur with")
        raise Recur(text)

    def set_details(self, value: object) -> None:
        self.refuse_if_dropped()
        text = to_json(value)
        if len(text) > MAX_DETAILS:
            raise PayloadTooLargeError(
                f"instance {self.instance_id!r}: its details are {len(text)} bytes of JSON, and can be {MAX_DETAILS}; "
                f"they are for a look at it, keep data elsewhere"
            )
        if not self.is_replaying:
            try:
                self.journal.append_details(self.instance_id, text)
            except LeaseLostError:
                self.drop()
                raise Dropped from None

    def open_timeout(
        self, duration: Microseconds, id: str | None, *, fail: bool
    ) -> AbstractContextManager[trio.CancelScope]:
        return activity.open_timeout(self, duration, id, fail=fail)
