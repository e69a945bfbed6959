"""Carries out the calls of a workflow context, as operations on its run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from random import Random
from typing import Any, NoReturn, TypeVar, final

import trio

from ..._context.child import ChildHandle
from ..._context.current import current_execution
from ..._context.details import details_text
from ..._context.misuse import refuse
from ..._context.workflow import OnError
from ..._data.codec import Codec
from ..._definitions.values import Activity, Workflow
from ...clock import Microseconds, from_datetime, to_datetime
from ...errors import LeaseLostError, NonDeterminismError
from ...model import ChannelMode, Message, ReceivedEvent
from ..operations import activity, channels, children, events, map, patch, step, timers
from ..run.exits import RunGone
from ..run.run import InstanceRun
from .recur import Recur

T = TypeVar("T")


@final
class RunFacade:
    """The run of an instance, as its :class:`~trio_romancy.WorkflowContext` sees it."""

    __slots__ = ("_run", "_workflow")

    def __init__(self, run: InstanceRun, workflow: Workflow[..., Any]) -> None:
        self._run = run
        self._workflow = workflow

    @property
    def instance_id(self) -> str:
        return self._run.instance_id

    @property
    def workflow_name(self) -> str:
        return self._run.workflow_name

    def is_run_by(self, task: trio.lowlevel.Task) -> bool:
        return self._run.in_flight.has_task(task)

    def forbid(self, what: str) -> NonDeterminismError:
        return self._run.forbid(what)

    def _check_caller(self, call: str) -> None:
        if current_execution.get() is not self:
            refuse(call, self._run.instance_id)

    # -- what is the same on each replay ---------------------------------------------------------------------------

    @property
    def is_replaying(self) -> bool:
        run = self._run
        # What the code does while it unwinds is no progress: the same code runs again in the next run.
        return run.is_unwinding or run.cursor.is_replaying

    def now(self) -> datetime:
        self._check_caller("ctx.now")
        return to_datetime(self._run.cursor.now)

    def random(self) -> Random:
        self._check_caller("ctx.random")
        return self._run.ids.random()

    def open_branch(self, name: str) -> AbstractContextManager[None]:
        self._check_caller("ctx.branch")
        return self._run.ids.branch(name)

    def patched(self, change_id: str) -> bool:
        self._check_caller("ctx.patched")
        return patch.patched(self._run, change_id)

    def _unless_gone(self, operation: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Begin an operation. Code that goes on although its run is gone is refused, and lets other tasks run."""
        if self._run.is_unwinding:
            operation.close()
            return step.refused()
        return operation

    # -- operations ------------------------------------------------------------------------------------------------

    def call_activity(
        self, called: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        return activity.call_activity(self._run, called, args, kwargs)

    def sleep(self, duration: Microseconds | None, id: str | None) -> Coroutine[Any, Any, None]:
        self._check_caller("ctx.sleep")
        when = None if duration is None else self._run.cursor.now + duration
        return self._unless_gone(timers.sleep_until(self._run, when, id))

    def sleep_until(self, when: datetime, id: str | None) -> Coroutine[Any, Any, None]:
        self._check_caller("ctx.sleep_until")
        return self._unless_gone(timers.sleep_until(self._run, from_datetime(when), id))

    def open_timeout(
        self, duration: Microseconds | None, id: str | None, *, fail: bool
    ) -> AbstractContextManager[trio.CancelScope]:
        self._check_caller("ctx.fail_after" if fail else "ctx.move_on_after")
        return timers.Timeout(self._run, duration, id, fail=fail)

    def wait_event(
        self,
        type: str,
        subject: str | None,
        codec: Codec[Any],
        timeout: Microseconds | None,
        id: str | None,
        skip_invalid: bool,
    ) -> Coroutine[Any, Any, ReceivedEvent[Any]]:
        self._check_caller("ctx.wait_event")
        return self._unless_gone(events.wait_event(self._run, type, subject, codec, timeout, id, skip_invalid))

    def receive(
        self, channel: str, codec: Codec[Any], timeout: Microseconds | None, id: str | None, skip_invalid: bool
    ) -> Coroutine[Any, Any, Message[Any]]:
        self._check_caller("ctx.receive")
        return self._unless_gone(channels.receive(self._run, channel, codec, timeout, id, skip_invalid))

    def subscribe(self, channel: str, mode: ChannelMode, id: str | None) -> Coroutine[Any, Any, None]:
        self._check_caller("ctx.subscribe")
        return self._unless_gone(channels.subscribe(self._run, channel, mode, id))

    def unsubscribe(self, channel: str, id: str | None) -> Coroutine[Any, Any, None]:
        self._check_caller("ctx.unsubscribe")
        return self._unless_gone(channels.unsubscribe(self._run, channel, id))

    def publish(
        self, name: str, channel: str, data: object, metadata: Any, addressee: str | None, id: str | None
    ) -> Coroutine[Any, Any, None]:
        self._check_caller(f"ctx.{name}")
        return self._unless_gone(channels.publish(self._run, name, channel, data, metadata, addressee, id))

    def start_child(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, ChildHandle[Any]]:
        self._check_caller("ctx.start")
        return self._unless_gone(children.start(self._run, self, workflow, args, kwargs))

    def run_child(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        self._check_caller("ctx.run")
        return self._unless_gone(children.start_and_await(self._run, self, workflow, args, kwargs))

    def await_child(self, child: ChildHandle[Any], id: str) -> Coroutine[Any, Any, Any]:
        self._check_caller("the result of a child")
        return self._unless_gone(children.result(self._run, child, id, owns=False))

    def map(
        self,
        fn: Callable[..., Awaitable[Any]] | Workflow[..., Any],
        iterables: tuple[Iterable[Any], ...],
        at_once: int | None,
        on_error: OnError,
        id: str | None,
    ) -> Coroutine[Any, Any, list[Any]]:
        def run_child(workflow: Workflow[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
            return self.run_child(workflow, args, {})

        self._check_caller("ctx.map")
        return self._unless_gone(map.map_items(self._run, fn, iterables, at_once, on_error, id, run_child))

    # -- the instance itself ---------------------------------------------------------------------------------------

    def recur(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        self._check_caller("ctx.recur")
        self._run.refuse_if_gone()
        text, _ = self._workflow.input.encode(args, kwargs)
        if len(text) > self._run.env.settings.max_payload:
            raise self._run.too_large(text, "the input to recur with")
        raise Recur(text)

    def set_details(self, value: object) -> None:
        self._check_caller("ctx.set_details")
        run = self._run
        run.refuse_if_gone()
        text = details_text(run.instance_id, value, "ctx.set_details")
        if run.cursor.next_entry() is None:
            try:
                run.journal.append_details(run.instance_id, text)
            except LeaseLostError:
                run.abandon()
                raise RunGone from None
