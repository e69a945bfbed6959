"""One instance: its nursery and mailbox, from its journal to a final status, a passivation, or a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from random import Random
from typing import Any, Protocol

import trio
from attrs import evolve, frozen
from sqlalchemy import Connection

from ..clock import Clock, Microseconds, from_datetime, to_datetime
from ..context import WorkflowContext, current_execution
from ..define import Activity, Workflow
from ..errors import InvalidDataError, LeaseLostError, PayloadTooLargeError, RomancyError
from ..model import ErrorInfo, Kind, Status
from ..retry import RetryPolicy
from ..serialization import dumps, loads
from ..storage.database import Database
from ..storage.dialects import is_transient
from ..storage.instances import Claim, Record, closing_row, has_entry, insert_entries, update_row
from ..storage.journal import Batch, Journal
from ..storage.patience import patiently
from ..storage.session import Session
from ..storage.workers import fence
from .activities import Attempted, Dropped, Result, attempt
from .failure import Failure, describe
from .mailbox import Letter, Mailbox
from .peek import is_innermost
from .replay import Operation, Replay
from .saga import Saga, undo_text
from .side import SideNursery

_ACTIVITY = frozenset({Kind.ACTIVITY_COMPLETED, Kind.ACTIVITY_FAILED, Kind.ACTIVITY_CANCELLED})
_TIMER = frozenset({Kind.TIMER_FIRED})
_TIMEOUT = frozenset({Kind.TIMEOUT_FIRED})
_CANCEL = frozenset({Kind.CANCEL_REQUESTED})

_PATIENCE = 5.0
"""Seconds that a replay waits for code that is busy with something else than an operation."""
_BREATHER = 100
"""After so many operations, a workflow that is alone with its journal makes a checkpoint."""
_GRACE: Microseconds = 50_000
"""How long an instance must have waited before its status says so."""


@frozen
class Settings:
    """What all actors of a worker share."""

    retry: RetryPolicy
    max_payload: int
    idle_timeout: Microseconds
    lease_time: Microseconds


class Home(Protocol):
    """What an actor needs of its supervisor."""

    settings: Settings
    clock: Clock
    database: Database
    journal: Journal
    thread_limiter: trio.CapacityLimiter
    idle: int
    """How many actors only wait."""

    def start_soon(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Run a task in the supervisor's nursery."""
        ...

    def ended(self, actor: Actor, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        """The instance has this status now, durably."""
        ...

    def released(self, actor: Actor, wake_at: Microseconds | None) -> None:
        """The instance is given back, durably, and wants attention again at that time."""
        ...

    def progressed(self, actor: Actor) -> None:
        """What the instance does now has not taken its process down."""
        ...


class Actor:
    """Runs one instance. Made anew for each take-up.

    The workflow function runs in the actor's own task. What is to be told to it goes through the mailbox, one letter
    at a time, each recorded first; only a workflow that is a single task records its outcomes itself, without the
    detour.
    """

    def __init__(
        self,
        home: Home,
        claim: Claim,
        workflow: Workflow[..., Any],
        records: list[Record],
        arguments: list[Any] | None = None,
    ) -> None:
        self.instance_id = claim.instance_id
        self.workflow_name = workflow.name
        self.settings = home.settings
        self.thread_limiter = home.thread_limiter
        self.replay = Replay(claim.instance_id, claim.created_at, records)
        self.is_dropped = False
        self._idle_since: Microseconds | None = None
        self._home = home
        self._clock = home.clock
        self._journal = home.journal
        self._claim = claim
        self._workflow = workflow
        self._arguments = arguments
        """What the input stands for, if nobody has had it in hand yet."""
        self._saga = Saga(records)
        self._mailbox = Mailbox(home.clock)
        self._side: SideNursery | None = None
        """Where the mailbox is emptied and threads are waited for; opened when there is something to do there."""
        self._workflow_scope = trio.CancelScope()
        self._rollback_scope: trio.CancelScope | None = None
        self._seq = records[-1].seq if records else 0
        self._time = records[-1].recorded_at if records else claim.created_at
        self._written: Batch | None = None
        """The batch that the last entry is in."""
        self._status = Status.RUNNING
        self._is_unproven = claim.recoveries > 0
        self._is_delivering = False
        self._is_recording = False
        self._is_draining = False
        self._is_ending = False
        self._is_shielded = False
        self._cancel_when_unshielded = False
        self._hurry = False
        self._fast_steps = 0
        self._cancel: Operation | None = None
        self._cancel_reason: str | None = None
        self._was_told_to_cancel = False
        self._cannot_run: Exception | None = None
        self._release: tuple[Status, Microseconds | None] | None = None
        self._crash: BaseException | None = None

    @property
    def idle_since(self) -> Microseconds | None:
        """From when on every operation in flight has only waited; None if one does something else."""
        return self._idle_since

    @idle_since.setter
    def idle_since(self, since: Microseconds | None) -> None:
        self._home.idle += (since is not None) - (self._idle_since is not None)
        self._idle_since = since

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self, cannot_run: Exception | None = None) -> None:
        """Run until the instance has ended, is given back, or the actor is dropped.

        Args:
          cannot_run: why the workflow function must not be run; the instance is parked then, or rolled back if its
            cancellation was requested.

        Raises:
          Exception: if the runtime (not the workflow) failed. The instance is unharmed.
        """
        self._cannot_run = cannot_run
        try:
            function_end = self._saga.function_end
            if function_end is None:
                function_end = await self._run_function()
            if function_end is not None:
                self._is_ending = True
                with trio.CancelScope() as self._rollback_scope:
                    await self._saga.compensate(self)
                    await self._finish(function_end)
        except (Dropped, LeaseLostError):
            self.drop()
        except Exception as error:
            self.crash(error)
        finally:
            self.idle_since = None
            if self._side is not None:
                await self._side.aclose()
        if self._crash is not None:
            raise self._crash
        if self._release is not None:
            await self._give_back(*self._release)

    def drop(self) -> None:
        """Stop at once, recording nothing. User code sees a cancellation, and can do nothing about it."""
        self.is_dropped = True
        self._workflow_scope.cancel()
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
        self._is_draining = True
        if self._is_ending:
            in_flight = self.replay.in_flight.values()
            if in_flight and all(operation.waits for operation in in_flight):
                self._let_go(Status.COMPENSATING)
        else:
            self._ensure_delivery()
            self._mailbox.poke()

    def passivate(self) -> None:
        """Give the instance back now, if it only waits."""
        self._hurry = True
        self._mailbox.poke()

    def request_cancel(self, reason: str) -> None:
        """Tell the workflow that somebody asked for its cancellation. The reason is JSON text."""
        if self._cancel is None and not self._is_ending:
            self._was_told_to_cancel = True
            self._cancel = Operation("cancel", "cancellation", _CANCEL, self._be_cancelled)
            self.replay.add(self._cancel)
            if not self.replay.was_cancelled:
                self._mailbox.post(Letter(self._cancel, Kind.CANCEL_REQUESTED, reason))
            self._ensure_delivery()

    def _be_cancelled(self, record: Record) -> None:
        self._cancel_reason = record.payload["reason"]
        for operation in self.replay.in_flight.values():
            if operation.scope is not None and operation.id not in record.payload["running"]:
                operation.scope.cancel()  # it has never begun, so it need not go on to an outcome
        self._cancel_function()

    def _cancel_function(self) -> None:
        if self._is_shielded:
            self._cancel_when_unshielded = True
        else:
            self._workflow_scope.cancel()

    @property
    def shield(self) -> bool:
        """The shield of an activity that runs alone directly in the workflow function: see :meth:`_shielded`."""
        return self._is_shielded

    @shield.setter
    def shield(self, up: bool) -> None:
        self._is_shielded = up
        if not up and self._cancel_when_unshielded:
            self._workflow_scope.cancel()

    def cancel(self) -> None:
        """Take the shield down: the actor is dropped."""
        self._workflow_scope.cancel()

    def _unwind(self) -> None:
        for operation in self.replay.in_flight.values():
            if operation.scope is not None:
                operation.scope.cancel()

    async def _give_back(self, status: Status, wake_at: Microseconds | None) -> None:
        row = self._update_row(status, wake_at=wake_at)
        try:
            await self._journal.durable(self._journal.append_update(row | {"owner_": None}))
        except LeaseLostError:
            return
        self._home.released(self, wake_at)

    # -- the workflow function -------------------------------------------------------------------------------------

    async def _run_function(self) -> Record | None:
        """Run it to its end and record that. Returns the entry if a rollback comes next."""
        value, failure = None, None
        if self._cannot_run is None:
            value, failure = await self._call_function()
        self._is_ending = True
        if self._cannot_run is not None:
            if not self._was_told_to_cancel and self._claim.cancel_requested is None:
                await self._park(self._cannot_run)
                return None
            if self._cancel_reason is None:
                self._cancel_reason = loads(self._claim.cancel_requested or "null")
        if self._cancel_reason is None and not self._was_recorded_as_cancelled():
            return await self._close(value, failure)
        return self._cancelled_end()

    async def _call_function(self) -> tuple[Any, Failure | None]:
        arguments = self._arguments
        if arguments is None:
            try:
                arguments = self._workflow.decode_input(self._claim.input)
            except RomancyError as error:
                self._cannot_run = error
                return None, None
        value, failure = None, None
        token = current_execution.set(self)
        try:
            with self._workflow_scope, self.replay.running():
                if self._claim.cancel_requested is not None or self.replay.was_cancelled:
                    self.request_cancel(self._claim.cancel_requested or "null")
                if self._is_draining or self._mailbox:
                    self._ensure_delivery()
                value = await self._workflow.function(WorkflowContext(self), *arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self.is_dropped and self._cannot_run is None:
                if isinstance(error, trio.Cancelled) or (
                    isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[0]
                ):
                    raise  # the whole app is being cancelled
                failure = describe(error)
        finally:
            current_execution.reset(token)
        if self.is_dropped:
            raise Dropped
        if self._cannot_run is None and self.replay.next_record() is not None:
            self._cannot_run = self.replay.mismatch()
        return value, failure

    def _was_recorded_as_cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.record is not None

    async def _close(self, value: Any, failure: Failure | None) -> Record | None:
        """Record how the function ended, unless a cancel request was accepted first."""
        kind, payload, output, error = Kind.WORKFLOW_COMPLETED, "null", None, None
        if failure is None:
            try:
                output, _ = self._workflow.codec.encode(value)
                self.check_size(output, "the result of the workflow")
            except (InvalidDataError, PayloadTooLargeError) as problem:
                failure = describe(problem)
        status = Status.COMPLETED
        if failure is not None:
            output = None
            kind, payload, error = Kind.WORKFLOW_FAILED, failure.as_payload(), _info(failure)
            status = Status.FAILED if self._saga.is_empty else Status.COMPENSATING
        entry = self._entry("", kind, payload)
        owner = None if status.is_final else self._journal.lease.worker_id
        row = closing_row(self.instance_id, status, self._time, owner=owner, output=output, error=error)
        refused_for = await self._journal.close(row, entry)
        if refused_for is not None:
            self._seq -= 1
            self._cancel_reason = loads(refused_for)
            self.append("cancel", Kind.CANCEL_REQUESTED, dumps({"reason": self._cancel_reason, "running": []}))
            return self._cancelled_end()
        if status.is_final:
            self._home.ended(self, status, output, error)
            return None
        return Record(entry["seq"], "", kind, loads(payload), entry["recorded_at"])

    def _cancelled_end(self) -> Record:
        record = self.append("", Kind.WORKFLOW_CANCELLED, dumps({"reason": self._cancel_reason}))
        self._set_status(Status.COMPENSATING)
        return record

    async def _finish(self, function_end: Record) -> None:
        """Record the end of the rollback."""
        if function_end.kind is Kind.WORKFLOW_FAILED:
            status, error = Status.FAILED, _info(Failure.from_payload(function_end.payload))
        else:
            reason = function_end.payload["reason"]
            status, error = Status.CANCELLED, ErrorInfo("trio_romancy.WorkflowCancelledError", reason or "")
        error = evolve(error, uncompensated=self._saga.uncompensated)
        batch = self._journal.append_update(self._update_row(status, error=error))
        await self._journal.durable(batch)
        self._home.ended(self, status, None, error)

    async def _park(self, cause: Exception) -> None:
        error = _info(describe(cause))
        batch = self._journal.append_update(self._update_row(Status.STUCK, error=error) | {"owner_": None})
        await self._journal.durable(batch)
        self._home.ended(self, Status.STUCK, None, error)

    # -- writing the journal ---------------------------------------------------------------------------------------

    def append(self, operation_id: str, kind: Kind, payload: str) -> Record:
        """Record an entry. It is durable before the next side effect begins."""
        row = self._append(operation_id, kind, payload)
        return Record(row["seq"], operation_id, kind, loads(payload), row["recorded_at"])

    def _append(self, operation_id: str, kind: Kind, payload: str) -> dict[str, Any]:
        row = self._entry(operation_id, kind, payload)
        try:
            self._written = self._journal.append_entry(row)
        except LeaseLostError:
            self.drop()
            raise Dropped from None
        if self._is_unproven:
            self._prove()
        return row

    def _entry(self, operation_id: str, kind: Kind, payload: str) -> dict[str, Any]:
        self._seq += 1
        self._time = max(self._time, self._clock.now())
        return {
            "instance_id": self.instance_id,
            "seq": self._seq,
            "operation_id": operation_id,
            "kind": kind,
            "payload": payload,
            "recorded_at": self._time,
        }

    def _update_row(
        self, status: Status, *, wake_at: Microseconds | None = None, error: ErrorInfo | None = None
    ) -> dict[str, Any]:
        owner = None if status.is_final else self._journal.lease.worker_id
        return update_row(self.instance_id, status, self._clock.now(), owner=owner, wake_at=wake_at, error=error)

    def _set_status(self, status: Status) -> None:
        self._status = status
        try:
            self._written = self._journal.append_update(self._update_row(status))
        except LeaseLostError:
            self.drop()
            raise Dropped from None

    def _prove(self) -> None:
        self._is_unproven = False
        self._set_status(self._status)
        self._home.progressed(self)

    def check_size(self, text: str, what: str) -> None:
        """Raise :class:`PayloadTooLargeError` if the text is larger than the app allows."""
        if len(text) > self.settings.max_payload:
            raise PayloadTooLargeError(
                f"instance {self.instance_id!r}: {what} is {len(text)} bytes of JSON, and max_payload is "
                f"{self.settings.max_payload}; store it elsewhere and pass a reference"
            )

    # -- carrying out an operation ---------------------------------------------------------------------------------

    async def carry_out(
        self, operation: Operation, what: Attempted, args: tuple[Any, ...], kwargs: Mapping[str, Any], suffix: str
    ) -> Result:
        """Attempt something until it has an outcome, and record that."""
        while True:
            result = await attempt(self, operation, what, args, kwargs, suffix)
            if result.session is None and self._has_turn(trio.lowlevel.current_task()):
                self._append(operation.id, result.kind, result.payload)
                self.replay.now = self._time
                return result
            operation.is_executing = False
            if self.is_dropped and result.session is not None:
                await result.session.aclose()
            self._refuse_if_dropped()
            self._post(Letter(operation, result.kind, result.payload, result.session))
            if await operation.news() is not None:
                return result
            # The database lost the transaction, and with it all that this attempt did through it.

    async def before_side_effect(self, operation: Operation) -> None:
        """Wait until everything before is durable."""
        if self._is_draining:
            if self._is_ending:
                self._let_go(Status.COMPENSATING)
            self._mailbox.poke()
            await trio.sleep_forever()
        operation.is_executing = True
        if self._status is Status.WAITING:
            self._set_status(Status.RUNNING)
        if self._written is not None:
            await self._written.durable.wait() if not self._written.durable.is_set() else None
            if self._written.lost is not None:
                self.drop()
                raise Dropped

    async def pause_until(self, when: Microseconds, operation: Operation) -> None:
        """Wait inside an operation. The actor may be dropped meanwhile if the operation only waits."""
        if operation.waits and when - self._clock.now() > self.settings.idle_timeout:
            self.idle_since = None
            self._ensure_delivery()
            self._mailbox.poke()
        await self._clock.sleep_until(when)

    def open_session(self) -> Session:
        """A transaction for one attempt of an activity."""
        return Session(self._home.database)

    def start_soon(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Run a task beside the workflow function, as long as the actor lives."""
        if self._side is None:
            self._side = SideNursery()
            self._home.start_soon(self._side.run)
        self._side.start_soon(fn)

    def end(self, operation: Operation) -> None:
        """The operation is over."""
        self.replay.remove(operation)
        if self._is_draining:
            self._mailbox.poke()

    # -- what a workflow context asks for --------------------------------------------------------------------------

    @property
    def is_replaying(self) -> bool:
        return self.replay.next_record() is not None

    def now(self) -> datetime:
        return to_datetime(self.replay.now)

    def random(self) -> Random:
        return self.replay.random()

    def open_branch(self, name: str) -> AbstractContextManager[None]:
        return self.replay.branch(name)

    async def call_activity(self, activity: Activity[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Run an activity durably: return or raise what is recorded, or carry it out and record it."""
        task = trio.lowlevel.current_task()
        id, record = await self._begin(task, activity.name, activity.id, _ACTIVITY)
        if record is not None:
            return await _outcome(activity, record)
        suffix = "}" if activity.compensation is None else undo_text(activity, args, kwargs)
        operation = Operation(id, "activity", _ACTIVITY, None, task)
        self.replay.add(operation)
        try:
            if self.replay.is_live and self._has_turn(task) and is_innermost(self._workflow_scope, task):
                # Nobody but this actor can cancel here: no need for a real scope, the actor holds it back itself.
                operation.scope = self
                self._is_shielded = True
                try:
                    result = await self.carry_out(operation, activity, args, kwargs, suffix)
                finally:
                    self.shield = False
            else:
                result = None
                with trio.CancelScope(shield=True) as operation.scope:
                    if not self.replay.is_live:
                        record = await self._in_replay(operation)
                    if record is None:
                        result = await self.carry_out(operation, activity, args, kwargs, suffix)
        finally:
            self.end(operation)
        if record is not None:
            return await _outcome(activity, record)
        if result is not None and result.kind is Kind.ACTIVITY_COMPLETED:
            if activity.compensation is not None:
                self._saga.completed(id, loads(result.payload))
            return result.value
        if result is not None and result.kind is Kind.ACTIVITY_FAILED:
            raise Failure.from_payload(loads(result.payload)).to_error(id)
        await trio.lowlevel.checkpoint_if_cancelled()
        raise Dropped  # nobody else cancels the scope

    async def sleep(self, duration: Microseconds, id: str | None) -> None:
        """Sleep from the time of the last entry on."""
        await self._sleep(self.replay.now + duration, id)

    async def sleep_until(self, when: datetime, id: str | None) -> None:
        """Sleep until a moment."""
        await self._sleep(from_datetime(when), id)

    async def _sleep(self, when: Microseconds, id: str | None) -> None:
        task = trio.lowlevel.current_task()
        id, record = await self._begin(task, "sleep", id, _TIMER)
        if record is None:
            operation = Operation(id, "sleep", _TIMER, None, task, waits=True, wake_at=when)
            self.replay.add(operation)
            try:
                self._post_at(when, Letter(operation, Kind.TIMER_FIRED, "null"))
                while await operation.news() is None:
                    pass
            finally:
                self.end(operation)

    @contextmanager
    def open_timeout(self, duration: Microseconds, id: str | None, *, fail: bool) -> Iterator[trio.CancelScope]:
        """A cancel scope whose deadline is an entry."""
        self._refuse_if_dropped()
        id = self.replay.new_id(trio.lowlevel.current_task(), "timeout", id)
        when = self.replay.now + duration
        with trio.CancelScope() as scope:
            operation = Operation(id, "timeout", _TIMEOUT, lambda _: scope.cancel(), wake_at=when)
            self.replay.add(operation)
            self._post_at(when, Letter(operation, Kind.TIMEOUT_FIRED, "null"))
            try:
                yield scope
            finally:
                self.end(operation)
        if fail and scope.cancelled_caught:
            raise trio.TooSlowError

    async def _begin(
        self, task: trio.lowlevel.Task, name: str, id: str | None, kinds: frozenset[Kind]
    ) -> tuple[str, Record | None]:
        """An operation begins: its id, and its outcome if the journal says it next and nobody else wants a turn."""
        self._refuse_if_dropped()
        replay = self.replay
        id = replay.new_id(task, name, id)
        await trio.lowlevel.checkpoint_if_cancelled()
        if replay.is_live or not self._has_turn(task):
            return id, None
        record = replay.take(id, kinds)
        if record is None:
            if replay.next_record() is None and self._cancel is None:
                replay.go_live()
            return id, None
        self._fast_steps += 1
        if self._fast_steps % _BREATHER == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return id, record

    def _refuse_if_dropped(self) -> None:
        if self.is_dropped or self._cannot_run is not None:
            raise Dropped

    def _has_turn(self, task: trio.lowlevel.Task) -> bool:
        """Whether the task may record or hear an outcome right away, as the only one of its workflow."""
        return not self._mailbox and not self._is_recording and (self._is_ending or self.replay.is_alone(task))

    async def _in_replay(self, operation: Operation) -> Record | None:
        """Wait for what the journal says about the operation. None if it says nothing, and is used up."""
        self._ensure_delivery()
        return await operation.news()

    # -- the mailbox: one letter at a time -------------------------------------------------------------------------

    def _post(self, letter: Letter) -> None:
        self._mailbox.post(letter)
        self._ensure_delivery()

    def _post_at(self, when: Microseconds, letter: Letter) -> None:
        self.idle_since = None
        self._mailbox.post_at(when, letter)
        self._ensure_delivery()

    def _ensure_delivery(self) -> None:
        if not self._is_delivering and not self._is_ending and not self.is_dropped:
            self._is_delivering = True
            self.start_soon(self._deliver)

    async def _deliver(self) -> None:
        """Tell the workflow what the journal holds, then what the mailbox receives."""
        try:
            await self._tell_journal()
            while not self._is_ending and not self.is_dropped:
                await self._settled()
                letter = self._mailbox.receive_nowait()
                if letter is None:
                    await self._rest()
                elif letter.operation.is_in_flight:
                    self._is_recording = True
                    await self._record(letter)
                    self._is_recording = False
        except (Dropped, LeaseLostError):
            self.drop()
        except Exception as error:
            self.crash(error)
        finally:
            await self._mailbox.aclose()

    async def _tell_journal(self) -> None:
        replay = self.replay
        while not self._is_ending:
            await self._settled()
            record = replay.next_record()
            if record is None or self._is_ending:
                break
            if replay.asked_for(record) is None and replay.waits_outside():
                await self._be_patient(record)
                if self._cannot_run is not None:
                    return
                continue
            if replay.asked_for(record) is None:
                self._give_up(replay.mismatch())
                return
            replay.tell_next()
        if not replay.is_live and not self._is_ending:
            if self._mailbox and (letter := self._mailbox.receive_nowait()) is not None:
                await self._record(letter)  # a cancel request: what has not begun will not begin any more
                await self._settled()
            replay.go_live()

    async def _be_patient(self, record: Record) -> None:
        """Some task waits for something that is no operation: it may yet come to ask for the record."""
        with trio.move_on_after(_PATIENCE) as scope:
            while self.replay.asked_for(record) is None and self.replay.next_record() is record:
                await self.replay.added()
        if scope.cancelled_caught:
            self._give_up(self.replay.mismatch())

    def _give_up(self, cause: Exception) -> None:
        """Unwind the workflow function, whose code must not go on."""
        self._cannot_run = cause
        self._workflow_scope.cancel()
        self._unwind()

    async def _settled(self) -> None:
        """Wait until no task of the workflow can go on by itself."""
        while not self.replay.is_settled():
            await trio.lowlevel.checkpoint()

    async def _record(self, letter: Letter) -> None:
        """Record what a letter says, and tell the workflow."""
        operation = letter.operation
        self.idle_since = None
        payload = letter.payload
        if letter.kind is Kind.CANCEL_REQUESTED:
            payload = dumps({"reason": loads(payload), "running": self._running()})
        if letter.session is None:
            record = self.append(operation.id, letter.kind, payload)
        else:
            committed = await self._record_in(letter.session, operation, letter.kind, payload)
            if committed is None:
                operation.stir()
                return
            record = committed
        self.replay.now = record.recorded_at
        operation.tell(record)

    def _running(self) -> list[str]:
        """Activities that have begun, or may have begun before a crash: they go on to their outcome."""
        activities = [operation.id for operation in self.replay.in_flight.values() if operation.scope is not None]
        if self.replay.is_live or self._claim.status not in (Status.PENDING, Status.WAITING):
            return activities
        return [id for id in activities if id in self.replay.failed_attempts]

    async def _record_in(self, session: Session, operation: Operation, kind: Kind, payload: str) -> Record | None:
        """Commit the transaction of an activity together with its entry. None if the database lost it."""
        entry = self._entry(operation.id, kind, payload)
        record = Record(entry["seq"], operation.id, kind, loads(payload), entry["recorded_at"])

        def write(connection: Connection) -> None:
            insert_entries(connection, [entry])
            fence(connection, self._journal.lease, self._clock.now() + self.settings.lease_time)

        # Once it has begun, nothing but its own answer ends it: a torn commit has an unknown fate.
        with trio.CancelScope(shield=True):
            try:
                try:
                    await session.commit_with(write)
                finally:
                    await session.aclose()
            except Exception as error:
                if not is_transient(error):
                    raise
                return record if await self._is_stored(record) else None
        if self._is_unproven:
            self._prove()
        return record

    async def _is_stored(self, record: Record) -> bool:
        """Whether a commit without an answer was made.

        It reads, and does not ask the journal: that may have to wait for the transaction of a sibling, which waits
        for its turn to be recorded, which is ours now.
        """
        database = self._home.database
        return await patiently(database, database.read, has_entry, self.instance_id, record.seq)

    # -- rest ------------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Nothing is to be done: wait for the next letter, or give the instance back if that is far away."""
        if self._is_draining and not any(operation.is_executing for operation in self.replay.in_flight.values()):
            self._let_go(Status.WAITING if self._is_idle() else Status.PENDING)
            return
        now = self._clock.now()
        if not self._is_idle():
            self.idle_since = None
            await self._mailbox.wait(None)
            return
        if self.idle_since is None:
            self.idle_since = now
        if self._is_unproven:
            self._prove()
        until = self.idle_since + self.settings.idle_timeout
        if self._hurry or now >= until:
            self._let_go(Status.WAITING)
            return
        if self._status is not Status.WAITING:
            if now >= self.idle_since + _GRACE:
                self._set_status(Status.WAITING)
            else:
                until = min(until, self.idle_since + _GRACE)
        await self._mailbox.wait(until)

    def _is_idle(self) -> bool:
        awaited = [operation for operation in self.replay.in_flight.values() if operation.task is not None]
        return bool(awaited) and all(operation.waits for operation in awaited)

    def _let_go(self, status: Status) -> None:
        """Give the instance back: its journal is enough to bring it to where it is."""
        wakes = [operation.wake_at for operation in self.replay.in_flight.values() if operation.wake_at is not None]
        self._release = (status, min(wakes, default=None) if status is Status.WAITING else self._clock.now())
        self.drop()


def _info(failure: Failure) -> ErrorInfo:
    return ErrorInfo(failure.error_type, failure.message, failure.traceback)


async def _outcome(activity: Activity[..., Any], record: Record) -> Any:
    """Return or raise what an activity's entry says."""
    if record.kind is Kind.ACTIVITY_FAILED:
        raise Failure.from_payload(record.payload).to_error(record.operation_id)
    if record.kind is Kind.ACTIVITY_CANCELLED:
        await trio.lowlevel.checkpoint_if_cancelled()
        raise Dropped
    return activity.codec.decode(record.payload["result"])
