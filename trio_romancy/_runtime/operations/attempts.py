"""One activity or compensation: its attempts, timeout, thread and transaction, up to an outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio
from attrs import define, field
from outcome import Outcome, acapture

from ..._context.activity import ActivityContext
from ..._context.current import current_execution
from ..._data.codec import Codec
from ..._data.failure import Failure, describe
from ..._observe.dispatcher import Around
from ..._storage.dialects.errors import is_transient
from ..._storage.journal.effects import Effects
from ..._storage.session import Session
from ..._storage.sql.instances import JournalEntry
from ...errors import InvalidDataError, PayloadTooLargeError
from ...model import Kind
from ...retry import RetryPolicy

if TYPE_CHECKING:
    from ..actor.actor import Actor
    from ..run.journal_cursor import Operation

_logger = logging.getLogger("trio_romancy.activity")

_REPEAT_AFTER = 0.1
"""Seconds before an attempt is repeated whose transaction the database lost."""


class Attempted(Protocol):
    """What is attempted: an :class:`~trio_romancy.Activity` or a :class:`~trio_romancy.Compensation`."""

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
        """Of the result; None if that is not kept."""

    @property
    def cancellable(self) -> bool: ...
    @property
    def completed_kind(self) -> Kind: ...
    @property
    def failed_kind(self) -> Kind: ...


@define(eq=False)
class Result:
    """How it ended."""

    kind: Kind
    payload: str
    """JSON text."""
    value: Any = None
    """The result, as a replay will read it."""
    session: Session | None = None
    """The open transaction that it must be recorded in."""
    effects: Effects | None = None
    """What is sent together with it."""


class Dropped(BaseException):
    """The actor is gone. Unwinds user code where trio's cancellation does not reach, and is no ``Exception``."""


class _UnstorableResult(Exception):
    """The function did its work, and returned what cannot be journaled. Trying again would repeat the work."""


async def attempt(
    actor: Actor, operation: Operation, what: Attempted, args: tuple[Any, ...], kwargs: Mapping[str, Any], suffix: str
) -> Result:
    """Try until there is an outcome.

    The operation's scope shields it, except from the attempts of one that is cancellable: being torn down is its
    outcome then. While it waits for another attempt a cancellation is heard, and then giving up is the outcome.

    Args:
      suffix: what the payload holds after the result, as JSON text.
    """
    assert operation.scope is not None
    thread: _Thread | None = None
    watch = actor.watch
    around: Around | None = None
    if watch is not None:
        watch.attempts(operation.id, what.name, is_compensation=what.failed_kind is Kind.COMPENSATION_FAILED)
    while True:
        failures = actor.replay.failures_of(operation.id)
        if failures and (given_up := await _wait_for_retry(actor, operation, what, failures, thread)) is not None:
            return given_up
        if actor.is_draining:
            await actor.stop_here()
        if (written := actor.begin_attempt(operation)) is not None:
            await written.durable.wait()
            if written.lost is not None:
                actor.drop()
                raise Dropped
        number = len(failures) + 1
        context = ActivityContext(
            actor.instance_id,
            operation.id,
            number,
            actor.workflow_name,
            actor.home.database,
            actor.clock,
            actor.settings.max_payload,
        )
        outside = current_execution.get()
        current_execution.set(context)
        if watch is not None:
            around = watch.begin_attempt(operation.id, number)
        if what.cancellable:
            operation.scope.shield = False
        try:
            if not what.is_async:
                thread = _Thread(partial(what.function, *args, **kwargs), what.timeout, actor.thread_limiter)
                actor.start_soon(thread.run)
                value = await thread.result()
            elif what.timeout is None:
                value = await what.function(*args, **kwargs)
            else:
                with trio.fail_after(what.timeout):
                    value = await what.function(*args, **kwargs)
            payload = "{}"
            if what.codec is not None:
                payload, value = _encode(actor, operation, what.codec, value, suffix)
            session = context.used_session
            if session is not None:
                await session.flush_all()
                if not session.is_open:
                    session = None
            return Result(what.completed_kind, payload, value, session, context.effects)
        except KeyboardInterrupt:
            await _close(context)
            raise
        except BaseException as error:
            if watch is not None:
                watch.end_attempt(operation.id, around, error)
            is_lost = _lost_its_session(actor, what, context, error)
            await _close(context)
            if _is_cancellation(error):
                if actor.is_dropped or not what.cancellable:
                    raise
                return Result(Kind.ACTIVITY_CANCELLED, "null")
            if is_lost:
                message = "%s of %s: the database lost its transaction, running it again: %s"
                _logger.warning(message, operation.id, actor.instance_id, error, extra=actor.about(operation.id))
                await trio.sleep(_REPEAT_AFTER)
                continue
            outcome = record_failure(actor, operation, what, error)
            if outcome is not None:
                return outcome
        finally:
            if watch is not None:
                watch.end_attempt(operation.id, around, None)
            current_execution.set(outside)
            if what.cancellable:
                operation.scope.shield = True


def record_failure(actor: Actor, operation: Operation, what: Attempted, error: BaseException) -> Result | None:
    """Record that an attempt has failed. Returns the outcome if there is to be no other attempt."""
    number = len(actor.replay.failures_of(operation.id)) + 1
    failure = _failure(actor, what, error, number)
    if failure.verdict:
        return Result(what.failed_kind, failure.as_payload())
    message = "%s of %s: attempt %d failed: %s"
    about = actor.about(operation.id)
    _logger.info(message, operation.id, actor.instance_id, number, failure.message, extra=about)
    actor.replay.add_failure(actor.append(operation.id, Kind.ATTEMPT_FAILED, failure.as_payload()))
    return None


def _encode(actor: Actor, operation: Operation, codec: Codec[Any], value: object, suffix: str) -> tuple[str, Any]:
    try:
        text, value = codec.encode(value)
        payload = f'{{"result":{text}{suffix}'
        if len(payload) > actor.settings.max_payload:
            raise actor.too_large(payload, f"the outcome of {operation.id!r}")
    except (InvalidDataError, PayloadTooLargeError) as error:
        raise _UnstorableResult from error
    return payload, value


def _failure(actor: Actor, what: Attempted, error: BaseException, number: int) -> Failure:
    """What a failed attempt means."""
    if isinstance(error, _UnstorableResult) and error.__cause__ is not None:
        return describe(error.__cause__, attempts=number, verdict="terminal")
    if isinstance(error, trio.TooSlowError) and what.timeout is not None and not str(error):
        error = trio.TooSlowError(f"the attempt took longer than {what.timeout:g} s").with_traceback(
            error.__traceback__
        )
    retry = what.retry or actor.settings.retry
    verdict = ""
    if retry.is_terminal(error):
        verdict = "terminal"
    elif retry.delay_after(number) is None:
        verdict = "exhausted"
    return describe(error, attempts=number, verdict=verdict)


async def _wait_for_retry(
    actor: Actor, operation: Operation, what: Attempted, failures: Sequence[JournalEntry], thread: _Thread | None
) -> Result | None:
    """Wait until the next attempt is due, and until a thread that overran has ended, with the shield down.

    Returns the outcome if there is to be no other attempt: a cancellation came first.
    """
    assert operation.scope is not None
    last = Failure.from_payload(failures[-1].payload)
    delay = (what.retry or actor.settings.retry).delay_after(len(failures))
    if delay is None:
        return Result(what.failed_kind, last.as_final("exhausted"))
    due = failures[-1].recorded_at + round(delay * 1_000_000)
    overran = thread is not None and not thread.finished.is_set()
    operation.is_executing = False
    operation.wake_at = due
    operation.waits = not overran
    operation.scope.shield = False
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
        if thread is not None and overran:
            message = "%s of %s: its thread goes on after its timeout; the next attempt waits for it"
            _logger.warning(message, operation.id, actor.instance_id, extra=actor.about(operation.id))
            await thread.finished.wait()
        await actor.pause_until(due, operation)
    except trio.Cancelled:
        if actor.is_dropped:
            raise
        if what.cancellable:
            return Result(Kind.ACTIVITY_CANCELLED, "null")
        return Result(what.failed_kind, last.as_final("gave_up"))
    finally:
        operation.scope.shield = True
        operation.waits = False
        operation.wake_at = None
    return None


@define(eq=False)
class _Thread:
    """One attempt of a plain function, in a worker thread. Nobody can stop it; it can only be waited for."""

    _call: Callable[[], Any]
    _timeout: float | None
    _limiter: trio.CapacityLimiter
    finished: trio.Event = field(factory=trio.Event)
    _started: trio.Event = field(factory=trio.Event)
    _outcome: Outcome[Any] | None = None

    async def run(self) -> None:
        to_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=self._limiter)
        try:
            self._outcome = await acapture(to_thread, self._run)
        finally:
            self.finished.set()

    def _run(self) -> Any:
        if self._timeout is not None:
            trio.from_thread.run_sync(self._started.set)
        return self._call()

    async def result(self) -> Any:
        """Its result, if it ends in time. The time that it waits for a free thread does not count."""
        if self._timeout is None:
            await self.finished.wait()
        else:
            await self._started.wait()
            with trio.fail_after(self._timeout):
                await self.finished.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()


def _is_cancellation(error: BaseException) -> bool:
    """Whether it was torn down. What else it raised meanwhile is no outcome."""
    return isinstance(error, trio.Cancelled) or (
        isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[0] is not None
    )


def _lost_its_session(actor: Actor, what: Attempted, context: ActivityContext, error: BaseException) -> bool:
    """Whether the attempt failed because the database is away: an outage is a pause, and no failed attempt."""
    session = context.used_session
    if session is None or (what.retry or actor.settings.retry).is_terminal(error):
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(_lost_its_session(actor, what, context, part) for part in error.exceptions)
    return session.lost is not None or is_transient(error)


async def _close(context: ActivityContext) -> None:
    """Roll back what the attempt did through its session."""
    if context.used_session is not None:
        await context.used_session.aclose()
