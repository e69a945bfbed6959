"""Attempts of one activity or compensation, with its timeout, thread and transaction, up to an outcome."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol, final

import trio
from attrs import define, evolve
from outcome import Outcome

from ..._context.activity import ActivityContext
from ..._context.current import current_execution
from ..._data.codec import Codec
from ..._data.failure import Failure, describe
from ..._data.journal_format import NOTHING, ActivityCancelled, ActivityCompleted, CompensationCompleted
from ..._data.large import encoded
from ..._data.log_fields import cause_text, visible
from ..._definitions.values import Activity
from ..._exceptions import is_a, leaves
from ..._observe.dispatcher import Around
from ..._storage.dialects.errors import is_transient
from ..._storage.journal.effects import Effects
from ..._storage.session import Session
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.permits import Permits, Want
from ..._tasks.interrupts import interrupt_in
from ..._tasks.torn import is_torn
from ..._tasks.trio_internals import innermost, leave_open_scopes
from ...clock import Microseconds
from ...errors import InvalidDataError, LeaseLostError
from ...limits import Limit
from ...model import EntryKind, Status
from ...retry import RetryPolicy, terminal_part
from ..run.exits import RunGone
from ..run.mailbox import PendingOutcome
from ..run.operation import Operation
from ..run.run import InstanceRun
from ..run.session_commit import commit_with_entry
from ..run.threads import ThreadUse
from .arguments import check_arguments, digests_of
from .thread import ActivityThread

_logger = logging.getLogger("trio_romancy.activity")

_STILL: Microseconds = 1_000_000
"""How late an attempt may begin after it was permitted, unless a rate says less. Then it asks again."""
_REPEAT_AFTER = 0.1
"""Seconds before a repetition of an attempt whose transaction the database lost or could not commit."""


class Attempted(Protocol):
    """The definition that is attempted: an :class:`~trio_romancy.Activity` or a :class:`~trio_romancy.Compensation`."""

    @property
    def name(self) -> str: ...
    @property
    def function(self) -> Callable[..., Any]: ...
    @property
    def is_async(self) -> bool: ...
    @property
    def retry(self) -> RetryPolicy | None: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def codec(self) -> Codec[Any] | None:
        """Codec of the result; None if the result is not kept."""

    @property
    def cancellable(self) -> bool: ...
    @property
    def limits(self) -> Sequence[Limit]: ...

    completed_kind: ClassVar[EntryKind]
    failed_kind: ClassVar[EntryKind]


@define(eq=False)
class Result:
    """The outcome of an activity or compensation."""

    kind: EntryKind
    payload: str
    """JSON text."""
    value: Any = None
    """The result, as a replay will read it."""
    session: Session | None = None
    """The open transaction that the outcome must be recorded in."""
    effects: Effects | None = None
    """Messages and other effects that are stored together with the entry."""


class _UnstorableResult(Exception):
    """The function did its work, and its result cannot be journaled. Another attempt would repeat the work."""


@final
class Attempts:
    """The attempts of one activity or compensation.

    The operation's scope shields the attempts from cancellation. Those of a cancellable activity are not shielded: the
    outcome of a cancellation is that the activity was torn down. During the wait for the next attempt a cancellation
    is delivered, and its outcome is that the activity gave up.

    Args:
      undo: JSON text of the planned compensation; None without one.
      digests: digests of the arguments, which the outcome records; None: only a failed attempt records any.
    """

    __slots__ = (
        "_args",
        "_digests",
        "_has_run",
        "_kwargs",
        "_operation",
        "_permits",
        "_recorded_digests",
        "_run",
        "_undo",
        "_what",
    )

    def __init__(
        self,
        run: InstanceRun,
        operation: Operation,
        what: Attempted,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        undo: str | None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        self._run = run
        self._operation = operation
        self._what = what
        self._args = args
        self._kwargs = kwargs
        self._undo = undo
        self._recorded_digests = self._digests = digests
        self._permits: Permits | None = None
        """Permits that the attempt holds, or waits for."""
        self._has_run = False
        """Whether an attempt has failed in this run, which may have changed the arguments."""

    async def carry_out(self) -> Result:
        """Attempt until there is an outcome, and record the outcome. The workflow may have other tasks meanwhile."""
        self._operation.nurseries = len(trio.lowlevel.current_task().child_nurseries)
        result = await self._out_of_turn(self.until_outcome)
        return result if self.record_at_once(result) else await self.record_in_turn(result)

    async def _out_of_turn(self, fn: Callable[[], Awaitable[Result]]) -> Result:
        """Call ``fn`` without turns among the tasks of the workflow: what it waits for has an order of its own."""
        run, task = self._run, trio.lowlevel.current_task()
        if run.turns is not None:
            run.open_mailbox()  # its receiver will be needed, and sees what the other tasks wait for meanwhile
            run.turns.leave(task, self._operation.nurseries)
        try:
            result = await fn()
        finally:
            if run.turns is not None:
                run.turns.come_back(task)
        if result.kind is not self._what.completed_kind and run.turns is not None:
            # A cancellation ends several activities at once, in trio's order. They are recorded in that of their tasks.
            await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    @property
    def next_due(self) -> Microseconds | None:
        """Time at which the next attempt is due; None if none has failed, or no other follows."""
        failures = self._run.cursor.failures_of(self._operation.id)
        is_last = bool(failures) and isinstance(last := failures[-1].payload, Failure) and bool(last.verdict)
        delay = self._policy.delay_after(len(failures)) if failures and not is_last else None
        return None if delay is None else failures[-1].recorded_at + round(delay * 1_000_000)

    async def record_interruption(self) -> Result:
        """Record that an attempt was interrupted, so that the outcome of the activity is not known."""
        run, operation, what = self._run, self._operation, self._what
        await self._until_thread_has_ended()
        message = "%s of %s was interrupted after the cancellation was requested: its outcome is not known"
        _logger.warning(message, operation.id, run.instance_id, extra=run.about(operation.id))
        if run.events is not None:
            failed = len(run.cursor.failures_of(operation.id))
            run.events.attempts(operation.id, what.name, failed, is_compensation=False)
        undo = None if what.cancellable else self._undo
        return await self.record_in_turn(Result(EntryKind.ACTIVITY_CANCELLED, ActivityCancelled.interrupted_text(undo)))

    async def record_in_turn(self, result: Result) -> Result:
        """Have an outcome recorded in its turn. Attempts again if the database lost or refused its transaction."""
        run, operation = self._run, self._operation
        while True:
            operation.is_executing = False
            if run.is_unwinding and result.session is not None:
                await result.session.aclose()
            run.refuse_if_gone()
            pending = PendingOutcome(operation, result.kind, result.payload, result.session, effects=result.effects)
            if result.session is not None and run.has_ended_function:
                outcome = await commit_with_entry(run, result.session, pending)  # no other task wants a turn
            else:
                run.post(pending)
                outcome = await operation.wait()
            if outcome is not None:
                return result
            # All that this attempt did through the transaction is undone.
            if pending.refusal is not None and (failed := self._record_failure(pending.refusal)) is not None:
                if run.has_ended_function:
                    run.writer.append(operation.id, failed.kind, failed.payload, failed.effects)
                else:
                    run.post(PendingOutcome(operation, failed.kind, failed.payload, effects=failed.effects))
                    await operation.wait()
                return failed
            result = await self._out_of_turn(self.until_outcome if pending.refusal is not None else self._repeat)
            if self.record_at_once(result):
                return result

    async def _repeat(self) -> Result:
        """Attempt again, after a while: the database has lost the transaction of the last attempt."""
        await trio.sleep(_REPEAT_AFTER)
        return await self.until_outcome()

    def record_at_once(self, result: Result) -> bool:
        """Record an outcome at once, if it is the turn of its task. Returns whether it was."""
        run, operation = self._run, self._operation
        if result.session is not None:
            return False
        # A task that was undisturbed still is, unless something was posted meanwhile.
        is_undisturbed = operation.scope is run.function_scope
        has_turn = run.is_clear if is_undisturbed else run.has_turn(trio.lowlevel.current_task())
        if has_turn:
            run.writer.append_row(operation.id, result.kind, result.payload, result.effects)
            run.cursor.now = run.writer.time
            run.cursor.is_repeating = False
        return has_turn

    async def until_outcome(self) -> Result:
        """Attempt until there is an outcome. Its record frees the permits of the last attempt."""
        result = await self._until_outcome()
        if self._permits is not None:
            result.effects = self._freeing(result.effects)
        return result

    def _freeing(self, effects: Effects | None) -> Effects | None:
        """Add to the effects of an entry that the permits of the attempt are free."""
        if self._permits is not None:
            effects = effects or Effects()
            effects.freed.append(self._permits)
            self._permits = None
        return effects

    async def _until_outcome(self) -> Result:
        run, operation, what = self._run, self._operation, self._what
        task = operation.task
        assert task is not None
        assert operation.scope is not None
        mark = innermost(task)
        events = run.events
        around: Around | None = None
        if events is not None:
            failed_before = len(run.cursor.failures_of(operation.id))
            is_compensation = what.failed_kind is EntryKind.COMPENSATION_FAILED
            events.attempts(operation.id, what.name, failed_before, is_compensation=is_compensation)
        operation.about = what.name
        while True:
            failures = run.cursor.failures_of(operation.id)
            number = operation.attempt = len(failures) + 1
            if failures:
                run.env.host.attempt_changed()
                if (given_up := await self._wait_for_retry(failures)) is not None:
                    return given_up
            if run.env.host.is_draining:
                await run.stop_here()
            if what.limits:
                try:
                    given_up = await self._until_permitted(what.limits)
                except (trio.Cancelled, RunGone):
                    raise
                except Exception as error:  # of a function of the user, for a key or a cost
                    if (outcome := self._record_failure(error)) is not None:
                        return outcome
                    continue
                if given_up is not None:
                    return given_up
            operation.attempted_at = run.env.clock.now()
            operation.is_executing = True
            run.env.host.attempt_changed()
            if run.writer.status is Status.WAITING:
                run.writer.set_status(Status.RUNNING)
            if (written := run.writer.batch) is not None:
                await written.durable.wait()  # every earlier entry, before the side effects begin
                if written.lost is not None:
                    run.abandon()
                    raise RunGone
            if run.writer.on_probation:
                if run.suspicion is not None and run.runs_function:
                    run.reject_code(run.suspicion)
                    raise RunGone
                await run.writer.mark_begun()
            context = ActivityContext(run.instance_id, operation.id, number, run.workflow_name, run)
            outside = current_execution.get()
            current_execution.set(context)
            if events is not None:
                around = events.begin_attempt(operation.id, number)
            if what.cancellable:
                operation.scope.shield = False
            value: Any = None
            try:
                if not what.is_async:
                    value = (await self._call_in_thread()).unwrap()
                elif what.timeout is None:
                    value = await what.function(*self._args, **self._kwargs)
                else:
                    # No trio.fail_after: its generator assigns to the exceptions that pass it, and frozen ones refuse.
                    with trio.move_on_after(what.timeout) as limit:
                        value = await what.function(*self._args, **self._kwargs)
                    if limit.cancelled_caught:
                        raise trio.TooSlowError
                if innermost(task) is not mark:
                    raise _left_open(what.name)
                context.has_ended = True
                if context.used_session is not None:
                    await context.used_session.finish()
                result = await self._result(context, value)  # first: what cannot be journaled needs no further attempt
                if context.used_session is not None:
                    await context.used_session.flush_all()
                return result
            except BaseException as error:
                if is_torn(task):
                    raise
                if len(task.child_nurseries) > operation.nurseries or innermost(task) is not mark:
                    run.is_tainted = True
                    await leave_open_scopes(task, mark, operation.nurseries)
                if (interrupt := interrupt_in(error)) is not None:
                    run.interrupt(interrupt)
                    await _close_session(context)
                    raise RunGone from None
                if events is not None:
                    events.end_attempt(operation.id, around, error)
                is_lost = _lost_its_session(context, error, self._policy)
                await _close_session(context)
                if not is_a(error, trio.Cancelled):
                    run.refuse_if_gone()  # the code has turned the cancellation into this error: not an outcome
                if run.is_torn_down_by(error):
                    if run.is_unwinding or not what.cancellable:
                        raise
                    return Result(EntryKind.ACTIVITY_CANCELLED, NOTHING)
                if is_lost:
                    message = "%s of %s: the database lost its transaction, running it again: %s"
                    _logger.warning(message, operation.id, run.instance_id, error, extra=run.about(operation.id))
                    await trio.sleep(_REPEAT_AFTER)
                    continue
                if (outcome := self._record_failure(error)) is not None:
                    return outcome
            finally:
                if events is not None:
                    events.end_attempt(operation.id, around, None)
                current_execution.set(outside)
                if what.cancellable:
                    operation.scope.shield = True

    async def _call_in_thread(self) -> Outcome[Any]:
        """Call a plain function in a worker thread, and return what it did."""
        await self._until_thread_has_ended()  # of the same attempt by an earlier run, which was abandoned
        call = partial(self._what.function, *self._args, **self._kwargs)
        use = ThreadUse(self._run.instance_id, self._operation.id)
        thread = ActivityThread(call, self._what.timeout, self._run.env.threads, use)
        self._run.start_soon(thread.run)
        return await thread.outcome()

    async def _result(self, context: ActivityContext, value: object) -> Result:
        """Return the outcome for the value that the function returned.

        Raises:
          _UnstorableResult: if it cannot be journaled.
        """
        what, session = self._what, context.used_session
        if session is not None and not session.is_open:
            session = None
        if what.codec is None:
            payload = CompensationCompleted().to_text()
        else:
            try:
                # Shielded: the activity has done its work, and a cancellation is too late.
                text, value = await encoded(value, partial(what.codec.encode, value), shield=True)
                payload = ActivityCompleted.text(text, self._undo, self._recorded_digests)
                if len(payload) > self._run.env.settings.max_payload:
                    outcome = f"the outcome of {self._operation.id!r}, which has done its work and is not run again,"
                    raise self._run.too_large(payload, outcome)
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except InvalidDataError as error:
                sentence = (
                    f"instance {self._run.instance_id!r}: activity {self._operation.id!r} has done its work, and is "
                    f"neither run again nor compensated, but its result cannot be stored; correct its annotation or "
                    f"the value"
                )
                raise _UnstorableResult from InvalidDataError(sentence, error.problems)
            except BaseException as error:
                raise _UnstorableResult from error
        return Result(what.completed_kind, payload, value, session, context.effects)

    # -- failed attempts -------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> RetryPolicy:
        return self._what.retry or self._run.env.settings.retry

    def _record_failure(self, error: BaseException) -> Result | None:
        """Record that an attempt has failed. Returns the outcome if no attempt follows."""
        run, operation = self._run, self._operation
        number = len(run.cursor.failures_of(operation.id)) + 1
        failure = self._failure(error, number)
        is_last = bool(failure.verdict)
        goes_on = is_last and self._thread_in_use() is not None
        if is_last and not goes_on and not run.env.settings.check_arguments:
            return Result(self._what.failed_kind, failure.to_text())
        self._has_run = True
        failure = evolve(failure, arguments=self._arguments())
        if is_last and not goes_on:
            return Result(self._what.failed_kind, failure.to_text())
        message, cause = "%s of %s: attempt %d failed: %s", cause_text(failure.error_type, failure.message)
        ids = visible(operation.id), visible(run.instance_id)
        _logger.info(message, *ids, number, cause, extra=run.about(operation.id))
        # The last one, too, if its thread goes on: the outcome waits for the thread, and a restart is no new attempt.
        # A thread that goes on keeps its permits.
        effects = None if self._permits is None or self._thread_in_use() is not None else self._freeing(None)
        text = failure.to_text()
        entry = run.writer.append(operation.id, EntryKind.ATTEMPT_FAILED, text, effects, is_news=not is_last)
        run.cursor.add_failure(entry)
        return None

    def _arguments(self) -> Mapping[str, str] | None:
        """Return the digests of the arguments; None for a compensation, whose arguments are recorded."""
        if self._digests is None and isinstance(self._what, Activity):
            signature = self._what.signature
            self._digests = digests_of(
                self._run, self._operation.id, signature, self._args, self._kwargs, has_run=self._has_run
            )
        return self._digests

    def _failure(self, error: BaseException, number: int) -> Failure:
        """Return the failure of an attempt, with the verdict whether another attempt follows."""
        timeout = self._what.timeout
        if is_a(error, _UnstorableResult) and error.__cause__ is not None:
            return describe(error.__cause__, attempts=number, verdict="terminal")
        if type(error) is trio.TooSlowError and timeout is not None and not error.args:
            text = f"the attempt took longer than {timeout:g} s"
            error = trio.TooSlowError(text).with_traceback(error.__traceback__)
        if (cause := terminal_part(self._policy, error)) is not None:
            return describe(error, attempts=number, verdict="terminal", leaf=next(leaves(cause)))
        verdict = "exhausted" if self._policy.delay_after(number) is None else ""
        return describe(error, attempts=number, verdict=verdict)

    async def _wait_for_retry(self, failures: Sequence[JournalEntry]) -> Result | None:
        """Wait until the next attempt is due, and until a thread that overran has ended, with the shield down.

        Returns the outcome if no attempt follows: a cancellation came first, or the policy allows no other. The outcome
        waits for the thread, too: what comes after it, such as a rollback, must not run beside the thread.
        """
        run, operation, what = self._run, self._operation, self._what
        assert operation.scope is not None
        last = failures[-1].payload
        assert isinstance(last, Failure)
        if not self._has_run and (digests := self._arguments()) is not None:
            check_arguments(run, operation.id, failures[-1], last.arguments, digests)
        overran = self._thread_in_use() is not None
        due = self.next_due
        operation.is_executing = False
        if due is not None:
            run.in_flight.retry_at(operation, due)
            operation.waits = not overran
        if run.has_ended_function:
            operation.waits = True  # nothing passivates a rollback for that, and a worker that stops releases it
        operation.scope.shield = due is None and not what.cancellable
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if overran:
                await self._until_thread_has_ended()
            if due is None:
                return Result(what.failed_kind, last.with_verdict(last.verdict or "exhausted").to_text())
            await self._sleep_until(due)
        except trio.Cancelled:
            if run.is_unwinding:
                raise
            if overran and not what.cancellable:
                await self._until_thread_has_ended_at_last()
            return self._cancelled(failures)
        finally:
            operation.scope.shield = True
            operation.waits = False
            operation.wake_at = None
        return None

    def _cancelled(self, failures: Sequence[JournalEntry]) -> Result:
        """Return the outcome of a cancellation that came while no attempt ran: after these, or before the first."""
        if not failures or self._what.cancellable:
            return Result(EntryKind.ACTIVITY_CANCELLED, NOTHING)
        last = failures[-1].payload
        assert isinstance(last, Failure)
        return Result(self._what.failed_kind, last.with_verdict("gave_up").to_text())

    async def _until_permitted(self, limits: Sequence[Limit]) -> Result | None:
        """Wait until all limits allow the attempt, with the shield down.

        Nothing of it is in the journal: a replay, on whichever worker, asks again, and finds its place.

        Returns the outcome if a cancellation came first.
        """
        run, operation = self._run, self._operation
        limiter, clock = run.env.limiter, run.env.clock
        if self._permits is None:
            kwargs = dict(self._kwargs)
            wants = (
                Want(limit.name, limit.key_of(self._args, kwargs), limit.cost_of(self._args, kwargs))
                for limit in limits
            )
            self._permits = Permits(run.instance_id, operation.id, sorted(wants))
        await self._until_thread_has_ended()  # of the same attempt by an earlier run: it still holds the permits
        lead: Microseconds = 0
        while True:
            try:
                answer = await limiter.ask(self._permits, limits, lead)
            except LeaseLostError:
                run.abandon()
                raise RunGone from None
            if not answer.is_granted:
                operation.limit = answer.name, answer.key
                if (given_up := await self._until_called(answer.at)) is not None:
                    return given_up
                continue
            operation.limit = None
            assert answer.at is not None
            await clock.sleep_until(answer.at)
            # A worker that stood still may have lost its lease, and a rate holds for when attempts begin.
            late = clock.now() - answer.at
            if late <= (_STILL if answer.margin is None else answer.margin):
                return None
            lead = min(max(2 * late, lead), _STILL)

    async def _until_called(self, until: Microseconds | None) -> Result | None:
        """Wait for a limit, until it may allow the attempt. Returns the outcome if a cancellation came first."""
        run, operation = self._run, self._operation
        assert operation.scope is not None
        operation.is_executing = False
        run.env.host.attempt_changed()
        operation.waits = True
        if until is not None:
            run.in_flight.retry_at(operation, until)
        operation.scope.shield = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            run.idle_since = None
            run.notify()
            await run.env.limiter.until_called(run.instance_id, until)
            if run.env.host.is_draining:
                await run.stop_here()
        except trio.Cancelled:
            if run.is_unwinding:
                raise
            return self._cancelled(run.cursor.failures_of(operation.id))
        finally:
            operation.scope.shield = True
            operation.waits = False
            operation.wake_at = None
        return None

    def _thread_in_use(self) -> ThreadUse | None:
        """Return the use of a thread by an earlier attempt of the operation, also of an earlier run."""
        if self._what.is_async:
            return None
        return self._run.env.threads.used_by(self._run.instance_id, self._operation.id)

    async def _until_thread_has_ended(self) -> None:
        """Wait for the thread of an earlier attempt, if it goes on. A worker that stops does not."""
        run, operation = self._run, self._operation
        while (use := self._thread_in_use()) is not None:
            if run.env.host.is_draining:
                await run.stop_here()
            message = "%s of %s: its thread goes on after its timeout, or after its run; what follows waits for it"
            _logger.warning(message, operation.id, run.instance_id, extra=run.about(operation.id))
            await use.has_ended.wait()

    async def _until_thread_has_ended_at_last(self) -> None:
        """Wait for the thread although a cancellation was delivered: a rollback comes next.

        Raises:
          RunGone: if the run is gone first.
        """
        outer = self._operation.scope
        with trio.CancelScope(shield=True) as self._operation.scope:
            await self._until_thread_has_ended()
        self._operation.scope = outer
        self._run.refuse_if_gone()

    async def _sleep_until(self, due: Microseconds) -> None:
        """Wait until the next attempt is due. During a long wait the instance may leave memory."""
        run = self._run
        if self._operation.waits and due - run.env.clock.now() > run.env.settings.idle_timeout:
            run.idle_since = None
            run.notify()
        await run.env.clock.sleep_until(due)


def _left_open(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name!r} has ended inside a nursery or cancel scope that it had entered and not left; leave each in the "
        f"function that enters it, and close generators that hold one, with contextlib.aclosing"
    )


def _lost_its_session(context: ActivityContext, error: BaseException, policy: RetryPolicy) -> bool:
    """Return whether an attempt failed because the database is away: an outage is a pause, not a failed attempt."""
    session = context.used_session
    if session is None or policy.is_terminal(error):
        return False
    return session.lost is not None or all(_is_transient(leaf) for leaf in leaves(error))


def _is_transient(error: BaseException) -> bool:
    """Return whether an error of an attempt is a database's, and passes."""
    try:
        return is_transient(error)
    except Exception:  # one of the user's, which raises when it is looked at
        return False


async def _close_session(context: ActivityContext) -> None:
    """Roll back the session of an attempt that has failed, if it has one. What the attempt has left behind has none."""
    context.has_ended = True
    if context.used_session is not None:
        await context.used_session.aclose()
