"""One instance in memory: from its journal to a final status, a release, or a crash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import trio

from ..._context.current import current_execution
from ..._context.workflow import WorkflowContext
from ..._data.failure import Failure, describe
from ..._data.journal_format import CarryOver
from ..._definitions.values import Workflow
from ..._exceptions import is_a
from ..._storage.sql.claims import Claim
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.waits import MatchResult
from ..._tasks.interrupts import interrupt_in
from ..._tasks.leavable import Leavable, LeftBehindError
from ..._tasks.pool import PooledTask
from ...clock import at_once
from ...errors import InvalidDataError, LeaseLostError, NonDeterminismError, RomancyError
from ...model import EntryKind, Status
from ..operations.compensation import compensate
from ..run.cancellation import request_cancel
from ..run.environment import Environment
from ..run.exits import Abandoned, Exit, Released, RunGone
from ..run.phase import COMPENSATING, GONE
from ..run.run import InstanceRun
from ..run.sequencer import Sequencer
from .facade import RunFacade
from .finish import end_function, end_rollback, leave_rollback, refuse_rollback
from .recur import recur_in

_FINAL_ENDS = frozenset({EntryKind.WORKFLOW_COMPLETED, EntryKind.WORKFLOW_RECURRED})
"""Ends of a workflow function after which there is nothing more to do."""


@final
class Actor:
    """Runs one instance. A new actor is made each time that the instance enters memory.

    The workflow function runs in the actor's own task. Outcomes reach it through the mailbox of the run, one at a time,
    each recorded first. Only a workflow that is a single task records its outcomes itself, without the mailbox.

    Args:
      arguments: arguments of the workflow; None: decode the input.
      is_new: whether the instance is new, and its journal empty.
      rejection: error because of which the workflow function must not run. The instance is parked, or rolled back if
        its cancellation was requested.
    """

    __slots__ = ("_arguments", "_facade", "_task", "_workflow", "instance_run", "is_released", "wake_requested")

    def __init__(
        self,
        env: Environment,
        task: PooledTask[Any],
        claim: Claim,
        workflow: Workflow[..., Any],
        entries: Sequence[JournalEntry],
        arguments: list[Any] | None = None,
        stored: Sequence[MatchResult] = (),
        *,
        is_new: bool,
        rejection: Exception | None = None,
    ) -> None:
        self.instance_run = run = InstanceRun(env, claim, entries, stored, Sequencer, is_new=is_new)
        if rejection is not None:
            run.reject(rejection)
        self._workflow = workflow
        self._facade = RunFacade(run, workflow)
        self._task = task
        self._arguments = arguments
        self.wake_requested = False
        """Whether the instance must be due at once after its release."""
        self.is_released = False
        """Whether the instance is being released, so that ``wake_requested`` comes too late."""
        if entries and isinstance(carried := entries[0].payload, CarryOver):
            run.intake.table.unpack(carried)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> Exit:
        """Run until the instance has ended, is released, or the run is abandoned.

        Raises:
          Exception: if the runtime (not the workflow) failed. The instance is unharmed.
        """
        run = self.instance_run
        exit: Exit | None = None
        try:
            function_end = run.saga.rollback or run.saga.function_end
            end: JournalEntry | Exit
            if function_end is None:
                value, failure = await self._call_function()
                end = await end_function(run, self._workflow, value, failure)
            elif function_end.kind in _FINAL_ENDS:
                end = Abandoned()  # the last actor crashed after it had written this
            elif run.rejection is not None:
                end = await refuse_rollback(run)
            else:
                end = function_end
            exit = await self._roll_back(end) if isinstance(end, JournalEntry) else end
        except (RunGone, LeaseLostError):
            run.abandon()
        except BaseException as error:
            if self._task.is_torn:
                raise
            if not is_a(error, Exception):
                run.abandon()  # the worker ends, or Ctrl-C has struck here
                raise
            run.crash(error)
        finally:
            if run.is_tainted:
                self._task.is_tainted = True
            if not self._task.is_torn:
                await run.aclose()
        if exit is not None:  # the end is durable, so a crash of something else does not matter
            if not run.is_gone:
                run.enter(GONE)
            return exit
        if run.crash_cause is not None:
            raise run.crash_cause
        if run.release_as is not None:
            return await self._release(*run.release_as)
        return Abandoned()

    async def _roll_back(self, function_end: JournalEntry) -> Exit | None:
        """Undo what the workflow function did, and record the end. Returns None if the run is gone.

        Args:
          function_end: the entry that the rollback follows from.
        """
        run = self.instance_run
        if run.is_gone:
            return None  # abandoned while the end of the function was written
        run.enter(COMPENSATING)
        if run.writer.status is not Status.COMPENSATING:  # a restart, or a cancel request for a stuck instance
            run.writer.set_status(Status.COMPENSATING)
        with trio.CancelScope() as run.rollback_scope:
            try:
                await compensate(run)
            except (InvalidDataError, NonDeterminismError) as error:
                return await leave_rollback(run, error)
            return await end_rollback(run, function_end)
        return None

    async def _call_function(self) -> tuple[Any, Failure | None]:
        """Run the workflow function to its end, if it may run. Returns its result, or its failure.

        Raises:
          RunGone: if the run is gone.
        """
        run = self.instance_run
        if run.rejection is not None:
            return None, None
        arguments = self._arguments
        if arguments is None:
            try:
                arguments = self._workflow.input.decode(run.claim.input)
            except RomancyError as error:
                run.reject(error)
                return None, None
        value, failure = None, None
        current_execution.set(self._facade)
        run.in_flight.main = main = trio.lowlevel.current_task()
        run.ids.begin(main)
        run.env.scheduler.begin(main, run)
        try:
            with self._task as run.function_scope.scope:
                if run.claim.cancel_requested is not None or run.cursor.was_cancelled:
                    request_cancel(run, run.claim.cancel_requested or "null")
                elif run.is_new:
                    run.go_live()  # no journal has to be replayed first
                called: Any = self._workflow.function(WorkflowContext(self._facade), *arguments)
                value = await Leavable(called, main, run.left_behind)
        except BaseException as error:
            if self._task.is_torn:
                raise  # a GeneratorExit that the code itself raises is a failure like any other
            if is_a(error, LeftBehindError):
                run.end_all()
            if (interrupt := interrupt_in(error)) is not None:
                run.interrupt(interrupt)
            if not run.is_gone and run.rejection is None:
                if run.is_torn_down_by(error):
                    raise
                if (recur := recur_in(error)) is not None:
                    return recur, None
                failure = describe(error)
        finally:
            run.function_scope.scope = None
            current_execution.set(None)
            run.in_flight.main = None
            run.env.scheduler.end(main)
        if run.is_gone:
            raise RunGone
        if run.rejection is None:
            is_used_up = run.cursor.next_entry() is None
            in_flight = [*run.in_flight.by_id.values()]
            rejection = run.cursor.unasked_change() if is_used_up else run.cursor.mismatch(in_flight)
            if rejection is not None:
                run.reject(rejection)
        return value, failure

    async def _release(self, status: Status, released: Released) -> Exit:
        """Release the instance, durably."""
        self.is_released = True
        env = self.instance_run.env
        wake_at = at_once(env.clock.now()) if self.wake_requested else released.wake_at
        row = self.instance_run.writer.status_row(status, wake_at=wake_at)
        row["owner_"] = None
        row["no_progress"] = self.instance_run.writer.on_probation
        try:
            await env.journal.durable(env.journal.append_update(row))
        except LeaseLostError:
            return Abandoned()
        return Released(wake_at)

    # -- calls of the supervisor -----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Release the instance as soon as no activity runs: the worker stops."""
        run = self.instance_run
        if run.is_gone:
            return
        if not run.has_ended_function:
            run.notify()
        elif run.in_flight.only_waits():
            run.release(Status.COMPENSATING)

    def passivate(self) -> None:
        """Release the instance now, if it only waits."""
        run = self.instance_run
        if run.has_ended_function:
            if run.idle_since is not None:
                run.release_as = Status.COMPENSATING, Released(None)  # the end of a child wakes it
                run.abandon()
        elif not run.is_gone:
            run.is_passivated = True
            run.notify()

    def request_cancel(self, request: str) -> None:
        """Tell the workflow that its cancellation was requested.

        Args:
          request: the request as it is stored: JSON text.
        """
        request_cancel(self.instance_run, request)

    def refresh(self) -> None:
        """Fetch messages again. The run must not be gone."""
        self.instance_run.set_changed()
        self.instance_run.intake.refresh()

    def offer(self, result: MatchResult) -> None:
        """Offer the messages found for one of the instance's waits. The run must not be gone."""
        self.instance_run.set_changed()
        self.instance_run.intake.offer(result)
