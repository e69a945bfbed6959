"""One instance: its nursery and mailbox, from its journal to a final status, a passivation, or a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from random import Random
from typing import Any, Protocol

import trio
from attrs import define, evolve, frozen

from ..clock import Clock, Microseconds, from_datetime, to_datetime
from ..context import WorkflowContext, current_execution
from ..define import Activity, Workflow
from ..errors import InvalidDataError, LeaseLostError, PayloadTooLargeError, RomancyError
from ..model import ErrorInfo, Kind, Status
from ..retry import RetryPolicy
from ..serialization import dumps, loads
from ..storage.database import Database
from ..storage.instances import Claim, Record, closing_row, update_row
from ..storage.journal import Batch, Journal
from . import operations
from .activities import Attempted, Dropped, Result, attempt, record_failure
from .delivery import Delivery, record_in
from .failure import Failure, describe
from .mailbox import Letter
from .peek import is_innermost
from .replay import Operation, Replay
from .saga import Saga
from .side import SideNursery

_CANCEL = frozenset({Kind.CANCEL_REQUESTED})

_REPEAT_AFTER = 0.1
"""Seconds before an attempt is repeated whose transaction could not be committed."""


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


@define(eq=False, init=False)
class Actor:
    """Runs one instance. Made anew for each take-up.

    The workflow function runs in the actor's own task. What is to be told to it goes through the mailbox, one letter
    at a time, each recorded first; only a workflow that is a single task records its outcomes itself, without the
    detour.
    """

    home: Home
    clock: Clock
    journal: Journal
    settings: Settings
    thread_limiter: trio.CapacityLimiter
    claim: Claim
    instance_id: str
    workflow_name: str
    _workflow: Workflow[..., Any]
    _arguments: list[Any] | None
    """What the input stands for, if nobody has had it in hand yet."""
    replay: Replay
    saga: Saga
    _delivery: Delivery | None
    _side: SideNursery | None
    """Where the mailbox is emptied and threads are waited for; opened when there is something to do there."""
    workflow_scope: trio.CancelScope
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
    _cancel_reason: str | None
    _was_told_to_cancel: bool
    cannot_run: Exception | None
    _release: tuple[Status, Microseconds | None] | None
    _crash: BaseException | None

    def __init__(
        self,
        home: Home,
        claim: Claim,
        workflow: Workflow[..., Any],
        records: list[Record],
        arguments: list[Any] | None = None,
    ) -> None:
        self.home = home
        self.clock = home.clock
        self.journal = home.journal
        self.settings = home.settings
        self.thread_limiter = home.thread_limiter
        self.claim = claim
        self.instance_id = claim.instance_id
        self.workflow_name = workflow.name
        self._workflow = workflow
        self._arguments = arguments
        self.replay = Replay(claim.instance_id, claim.created_at, records)
        self.saga = Saga(records)
        self._delivery = None
        self._side = None
        self.workflow_scope = trio.CancelScope()
        self._rollback_scope = None
        self._seq = records[-1].seq if records else 0
        self._time = records[-1].recorded_at if records else claim.created_at
        self._written = None
        self.status = Status.RUNNING
        self._idle_since = None
        self.is_unproven = claim.recoveries > 0
        self.is_draining = False
        self.is_dropped = False
        self.is_ending = False
        self.is_shielded = False
        self._cancel_when_unshielded = False
        self._cancel = None
        self._cancel_reason = None
        self._was_told_to_cancel = False
        self.cannot_run = None
        self._release = None
        self._crash = None

    @property
    def idle_since(self) -> Microseconds | None:
        """From when on every operation in flight has only waited; None if one does something else."""
        return self._idle_since

    @idle_since.setter
    def idle_since(self, since: Microseconds | None) -> None:
        self.home.idle += (since is not None) - (self._idle_since is not None)
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
        self.cannot_run = cannot_run
        try:
            function_end = self.saga.function_end
            if function_end is None:
                function_end = await self._run_function()
            if function_end is not None:
                self.is_ending = True
                with trio.CancelScope() as self._rollback_scope:
                    await self.saga.compensate(self)
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
        self.workflow_scope.cancel()
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
            in_flight = self.replay.in_flight.values()
            if in_flight and all(operation.waits for operation in in_flight):
                self.let_go(Status.COMPENSATING)
        else:
            self.deliver().poke()

    def passivate(self) -> None:
        """Give the instance back now, if it only waits."""
        delivery = self.deliver()
        delivery.is_hurried = True
        delivery.poke()

    def request_cancel(self, reason: str) -> None:
        """Tell the workflow that somebody asked for its cancellation. The reason is JSON text."""
        if self._cancel is None and not self.is_ending:
            self._was_told_to_cancel = True
            self._cancel = Operation("cancel", "cancellation", _CANCEL, self._be_cancelled)
            self.replay.add(self._cancel)
            delivery = self.deliver()
            if not self.replay.was_cancelled:
                delivery.post(Letter(self._cancel, Kind.CANCEL_REQUESTED, reason))

    def _be_cancelled(self, record: Record) -> None:
        self._cancel_reason = record.payload["reason"]
        for operation in self.replay.in_flight.values():
            if operation.scope is not None and operation.id not in record.payload["running"]:
                operation.scope.cancel()  # it has never begun, so it need not go on to an outcome
        self._cancel_function()

    def _cancel_function(self) -> None:
        if self.is_shielded:
            self._cancel_when_unshielded = True
        else:
            self.workflow_scope.cancel()

    @property
    def shield(self) -> bool:
        """The shield of an activity that is alone in its workflow: see :func:`.operations.call_activity`."""
        return self.is_shielded

    @shield.setter
    def shield(self, up: bool) -> None:
        self.is_shielded = up
        if not up and self._cancel_when_unshielded:
            self.workflow_scope.cancel()

    def cancel(self) -> None:
        """Take the shield down: the actor is dropped."""
        self.workflow_scope.cancel()

    def let_go(self, status: Status) -> None:
        """Give the instance back: its journal is enough to bring it to where it is."""
        wakes = [operation.wake_at for operation in self.replay.in_flight.values() if operation.wake_at is not None]
        self._release = (status, min(wakes, default=None) if status is Status.WAITING else self.clock.now())
        self.drop()

    def give_up(self, cause: Exception) -> None:
        """Unwind the workflow function, whose code does not fit the journal and must not go on."""
        self.cannot_run = cause
        self.workflow_scope.cancel()
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
        row = self._update_row(status, wake_at=wake_at)
        try:
            await self.journal.durable(self.journal.append_update(row | {"owner_": None}))
        except LeaseLostError:
            return
        self.home.released(self, wake_at)

    # -- the workflow function -------------------------------------------------------------------------------------

    async def _run_function(self) -> Record | None:
        """Run it to its end and record that. Returns the entry if a rollback comes next."""
        value, failure = None, None
        if self.cannot_run is None:
            value, failure = await self._call_function()
        self.is_ending = True
        if self.cannot_run is not None:
            if not self._was_told_to_cancel and self.claim.cancel_requested is None:
                await self._park(self.cannot_run)
                return None
            if self._cancel_reason is None:
                self._cancel_reason = loads(self.claim.cancel_requested or "null")
        if self._cancel_reason is None and not self._was_recorded_as_cancelled():
            return await self._close(value, failure)
        return self._cancelled_end()

    async def _call_function(self) -> tuple[Any, Failure | None]:
        arguments = self._arguments
        if arguments is None:
            try:
                arguments = self._workflow.decode_input(self.claim.input)
            except RomancyError as error:
                self.cannot_run = error
                return None, None
        value, failure = None, None
        token = current_execution.set(self)
        branch = self.replay.begin()
        try:
            with self.workflow_scope:
                if self.claim.cancel_requested is not None or self.replay.was_cancelled:
                    self.request_cancel(self.claim.cancel_requested or "null")
                value = await self._workflow.function(WorkflowContext(self), *arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not self.is_dropped and self.cannot_run is None:
                if isinstance(error, trio.Cancelled) or (
                    isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[0]
                ):
                    raise  # the whole app is being cancelled
                failure = describe(error)
        finally:
            current_execution.reset(token)
            self.replay.end(branch)
        if self.is_dropped:
            raise Dropped
        if self.cannot_run is None and self.replay.next_record() is not None:
            self.cannot_run = self.replay.mismatch()
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
            status = Status.FAILED if self.saga.is_empty else Status.COMPENSATING
        entry = self.entry("", kind, payload)
        owner = None if status.is_final else self.journal.lease.worker_id
        row = closing_row(self.instance_id, status, self._time, owner=owner, output=output, error=error)
        refused_for = await self.journal.close(row, entry)
        if refused_for is not None:
            self._seq -= 1
            self._cancel_reason = loads(refused_for)
            self.append("cancel", Kind.CANCEL_REQUESTED, dumps({"reason": self._cancel_reason, "running": []}))
            return self._cancelled_end()
        if status.is_final:
            self.home.ended(self, status, output, error)
            return None
        return Record(entry["seq"], "", kind, loads(payload), entry["recorded_at"])

    def _cancelled_end(self) -> Record:
        record = self.append("", Kind.WORKFLOW_CANCELLED, dumps({"reason": self._cancel_reason}))
        self.set_status(Status.COMPENSATING)
        return record

    async def _finish(self, function_end: Record) -> None:
        """Record the end of the rollback."""
        if function_end.kind is Kind.WORKFLOW_FAILED:
            status, error = Status.FAILED, _info(Failure.from_payload(function_end.payload))
        else:
            reason = function_end.payload["reason"]
            status, error = Status.CANCELLED, ErrorInfo("trio_romancy.WorkflowCancelledError", reason or "")
        error = evolve(error, uncompensated=self.saga.uncompensated)
        batch = self.journal.append_update(self._update_row(status, error=error))
        await self.journal.durable(batch)
        self.home.ended(self, status, None, error)

    async def _park(self, cause: Exception) -> None:
        error = _info(describe(cause))
        batch = self.journal.append_update(self._update_row(Status.STUCK, error=error) | {"owner_": None})
        await self.journal.durable(batch)
        self.home.ended(self, Status.STUCK, None, error)

    # -- writing the journal ---------------------------------------------------------------------------------------

    def append(self, operation_id: str, kind: Kind, payload: str) -> Record:
        """Record an entry. It is durable before the next side effect begins."""
        row = self.append_row(operation_id, kind, payload)
        return Record(row["seq"], operation_id, kind, loads(payload), row["recorded_at"])

    def append_row(self, operation_id: str, kind: Kind, payload: str) -> dict[str, Any]:
        """Record an entry, and return its row."""
        row = self.entry(operation_id, kind, payload)
        try:
            self._written = self.journal.append_entry(row)
        except LeaseLostError:
            self.drop()
            raise Dropped from None
        if self.is_unproven:
            self.prove()
        return row

    def entry(self, operation_id: str, kind: Kind, payload: str) -> dict[str, Any]:
        """The row of the next entry."""
        self._seq += 1
        self._time = max(self._time, self.clock.now())
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
        owner = None if status.is_final else self.journal.lease.worker_id
        return update_row(self.instance_id, status, self.clock.now(), owner=owner, wake_at=wake_at, error=error)

    def set_status(self, status: Status) -> None:
        """Change the status of the instance, in order with its entries."""
        self.status = status
        try:
            self._written = self.journal.append_update(self._update_row(status))
        except LeaseLostError:
            self.drop()
            raise Dropped from None

    def prove(self) -> None:
        """The instance makes progress: it has not taken its process down."""
        self.is_unproven = False
        self.set_status(self.status)
        self.home.progressed(self)

    def check_size(self, text: str, what: str) -> None:
        """Raise :class:`PayloadTooLargeError` if the text is larger than the app allows."""
        if len(text) > self.settings.max_payload:
            raise PayloadTooLargeError(
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
        self.append_row(operation.id, result.kind, result.payload)
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
            letter = Letter(operation, result.kind, result.payload, result.session)
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
                    self.deliver().post(Letter(operation, failed.kind, failed.payload))
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
        if self.status is Status.WAITING:
            self.set_status(Status.RUNNING)
        return self._written

    def refuse_if_lost(self, written: Batch) -> None:
        """Raise :class:`Dropped` if nobody knows whether it is durable."""
        if written.lost is not None:
            self.drop()
            raise Dropped

    async def pause_until(self, when: Microseconds, operation: Operation) -> None:
        """Wait inside an operation. The actor may be dropped meanwhile if the operation only waits."""
        if operation.waits and when - self.clock.now() > self.settings.idle_timeout:
            self.idle_since = None
            self.deliver().poke()
        await self.clock.sleep_until(when)

    def start_soon(self, fn: Callable[[], Awaitable[object]]) -> None:
        """Run a task beside the workflow function, as long as the actor lives."""
        if self._side is None:
            self._side = SideNursery()
            self.home.start_soon(self._side.run)
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
        return is_innermost(self.workflow_scope, task) and self._is_clear()  # and a nursery would be further in

    def _is_clear(self) -> bool:
        return self._delivery is None or self._delivery.is_clear

    def deliver(self) -> Delivery:
        """The delivery of letters, begun if it has not been."""
        if self._delivery is None:
            self._delivery = Delivery(self)
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

    def call_activity(
        self, activity: Activity[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        return operations.call_activity(self, activity, args, kwargs)

    def sleep(self, duration: Microseconds, id: str | None) -> Coroutine[Any, Any, None]:
        return operations.sleep_until(self, self.replay.now + duration, id)

    def sleep_until(self, when: datetime, id: str | None) -> Coroutine[Any, Any, None]:
        return operations.sleep_until(self, from_datetime(when), id)

    def open_timeout(
        self, duration: Microseconds, id: str | None, *, fail: bool
    ) -> AbstractContextManager[trio.CancelScope]:
        return operations.open_timeout(self, duration, id, fail=fail)


def _info(failure: Failure) -> ErrorInfo:
    return ErrorInfo(failure.error_type, failure.message, failure.traceback)
