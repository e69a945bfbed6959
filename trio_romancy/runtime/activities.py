"""One activity or compensation: its attempts, timeout, thread and transaction, up to an outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field
from outcome import Outcome, acapture

from ..context import ActivityContext, current_execution
from ..errors import InvalidDataError, PayloadTooLargeError
from ..model import Kind
from ..retry import RetryPolicy
from ..serialization import Codec, dumps
from ..storage.dialects import is_transient
from ..storage.session import Session
from .failure import Failure, describe

if TYPE_CHECKING:
    from .actor import Actor
    from .replay import Operation

_logger = logging.getLogger("trio_romancy.activity")

_REPEAT_AFTER = 0.1
"""Seconds before an attempt is repeated whose transaction the database lost."""


@define(eq=False)
class Step:
    """What is to be attempted."""

    function: Callable[..., Any]
    is_async: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    retry: RetryPolicy
    timeout: float | None
    codec: Codec[Any]
    """Of the result."""
    completed: Kind
    failed: Kind
    cancellable: bool = False
    suffix: str = "}"
    """What the payload holds after the result, as JSON text."""
    keeps_result: bool = True


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


class Dropped(BaseException):
    """The actor is gone. Unwinds user code where trio's cancellation does not reach, and is no ``Exception``."""


class _UnstorableResult(Exception):
    """The function did its work, and returned what cannot be journaled. Trying again would repeat the work."""


async def attempt(actor: Actor, operation: Operation, step: Step) -> Result:
    """Try until there is an outcome.

    The operation's scope shields it while an attempt runs, unless it is cancellable. While it waits for another
    attempt a cancellation is heard, and then giving up is the outcome.
    """
    failures = actor.replay.failed_attempts.get(operation.id, [])
    thread: _Thread | None = None
    while True:
        if failures:
            last = Failure.from_payload(failures[-1].payload)
            delay = step.retry.delay_after(len(failures))
            if delay is None:
                return Result(step.failed, last.as_final("exhausted"))
            due = failures[-1].recorded_at + round(delay * 1_000_000)
            if await _is_cancelled_before(actor, operation, step, due, thread):
                return Result(step.failed, last.as_final("gave_up"))
        await actor.before_side_effect(operation)
        number = len(failures) + 1
        context = ActivityContext(actor.instance_id, operation.id, number, actor.open_session)
        token = current_execution.set(context)
        try:
            if not step.is_async:
                thread = _Thread(step, actor.thread_limiter)
                actor.start_soon(thread.run)
                value = await thread.result(step.timeout)
            elif step.timeout is None:
                value = await step.function(*step.args, **step.kwargs)
            else:
                with trio.fail_after(step.timeout):
                    value = await step.function(*step.args, **step.kwargs)
            payload, value = _encode(actor, operation, step, value)
            session = context.used_session
            return Result(step.completed, payload, value, session if session and session.is_open else None)
        except (trio.Cancelled, KeyboardInterrupt):
            await _close(context)
            raise
        except BaseException as error:
            is_lost = _lost_its_session(context, error)
            await _close(context)
            if isinstance(error, BaseExceptionGroup) and error.split(trio.Cancelled)[0]:
                await trio.lowlevel.checkpoint_if_cancelled()  # torn down: what else it raised is no outcome
            if is_lost:
                _logger.warning("%s of %s: its transaction is lost, running it again: %s", operation.id, actor.instance_id, error)
                await trio.sleep(_REPEAT_AFTER)
                continue
            failure = _failure(step, error, number)
        finally:
            current_execution.reset(token)
        if failure.verdict:
            return Result(step.failed, failure.as_final(failure.verdict))
        _logger.info("%s of %s: attempt %d failed: %s", operation.id, actor.instance_id, number, failure.message)
        failures.append(actor.append(operation.id, Kind.ATTEMPT_FAILED, failure.as_payload()))
        actor.replay.failed_attempts[operation.id] = failures


def _encode(actor: Actor, operation: Operation, step: Step, value: object) -> tuple[str, Any]:
    if not step.keeps_result:
        return "{}", None
    try:
        text, value = step.codec.encode(value)
        payload = f'{{"result":{text}{step.suffix}'
        actor.check_size(payload, f"the outcome of {operation.id!r}")
    except (InvalidDataError, PayloadTooLargeError) as error:
        raise _UnstorableResult from error
    return payload, value


def _failure(step: Step, error: BaseException, number: int) -> Failure:
    """What a failed attempt means."""
    if isinstance(error, _UnstorableResult) and error.__cause__ is not None:
        return describe(error.__cause__, attempts=number, verdict="terminal")
    if isinstance(error, trio.TooSlowError) and step.timeout is not None and not str(error):
        error = trio.TooSlowError(f"the attempt took longer than {step.timeout:g} s").with_traceback(
            error.__traceback__
        )
    verdict = ""
    if step.retry.is_terminal(error):
        verdict = "terminal"
    elif step.retry.delay_after(number) is None:
        verdict = "exhausted"
    return describe(error, attempts=number, verdict=verdict)


async def _is_cancelled_before(
    actor: Actor, operation: Operation, step: Step, due: int, thread: _Thread | None
) -> bool:
    """Wait until then, and until a thread that overran has ended, with the shield down.

    Returns whether a cancellation came first. Being dropped, or torn down where the activity allows it, goes on.
    """
    assert operation.scope is not None
    operation.is_executing = False
    operation.wake_at = due
    operation.waits = thread is None or thread.finished.is_set()
    operation.scope.shield = False
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
        if thread is not None and not thread.finished.is_set():
            _logger.warning(
                "%s of %s: its thread goes on after its timeout; the next attempt waits for it",
                operation.id,
                actor.instance_id,
            )
            await thread.finished.wait()
        await actor.pause_until(due, operation)
    except trio.Cancelled:
        if actor.is_dropped or step.cancellable:
            raise
        return True
    finally:
        operation.scope.shield = not step.cancellable
        operation.waits = False
        operation.wake_at = None
    return False


@define(eq=False)
class _Thread:
    """One attempt of a plain function, in a worker thread. Nobody can stop it; it can only be waited for."""

    _step: Step
    _limiter: trio.CapacityLimiter
    started: trio.Event = field(factory=trio.Event)
    finished: trio.Event = field(factory=trio.Event)
    _outcome: Outcome[Any] | None = None

    async def run(self) -> None:
        call = partial(trio.to_thread.run_sync, self._call, abandon_on_cancel=True, limiter=self._limiter)
        try:
            self._outcome = await acapture(call)
        finally:
            self.finished.set()

    def _call(self) -> Any:
        if self._step.timeout is not None:
            trio.from_thread.run_sync(self.started.set)
        return self._step.function(*self._step.args, **self._step.kwargs)

    async def result(self, timeout: float | None) -> Any:
        """Its result, if it ends in time. The time that it waits for a free thread does not count."""
        if timeout is None:
            await self.finished.wait()
        else:
            await self.started.wait()
            with trio.fail_after(timeout):
                await self.finished.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()


def _lost_its_session(context: ActivityContext, error: BaseException) -> bool:
    """Whether the attempt failed because the database is away: an outage is a pause, and no failed attempt."""
    if context.used_session is None:
        return False
    if isinstance(error, BaseExceptionGroup):
        return all(_lost_its_session(context, part) for part in error.exceptions)
    return is_transient(error)


async def _close(context: ActivityContext) -> None:
    """Roll back what the attempt did through its session."""
    if context.used_session is not None:
        await context.used_session.aclose()
