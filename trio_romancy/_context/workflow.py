"""The context of a workflow, with all that it may call: :class:`WorkflowContext`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from random import Random
from typing import Any, Literal, NoReturn, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

import trio
from attrs import define

from .._data.codec import Codec, codec
from .._definitions.values import Workflow
from ..clock import Duration, microseconds
from ..model import ChannelMode, Message, ReceivedEvent
from .child import ChildHandle
from .current import WorkflowExecution

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")

OnError = Literal["cancel", "continue"]
"""What :meth:`WorkflowContext.map` does with the other items if one fails."""


class WorkflowRun(WorkflowExecution, Protocol):
    """The runtime, as a context sees it. Implemented by :class:`trio_romancy._runtime.actor.facade.RunFacade`."""

    def now(self) -> datetime: ...
    def random(self) -> Random: ...
    def patched(self, change_id: str) -> bool: ...
    def open_branch(self, name: str) -> AbstractContextManager[None]: ...
    def sleep(self, duration: int | None, id: str | None) -> Coroutine[Any, Any, None]: ...
    def sleep_until(self, when: datetime, id: str | None) -> Coroutine[Any, Any, None]: ...
    def wait_event(
        self,
        type: str,
        subject: str | None,
        codec: Codec[Any],
        timeout: int | None,
        id: str | None,
        skip_invalid: bool,
    ) -> Coroutine[Any, Any, ReceivedEvent[Any]]: ...
    def receive(
        self, channel: str, codec: Codec[Any], timeout: int | None, id: str | None, skip_invalid: bool
    ) -> Coroutine[Any, Any, Message[Any]]: ...
    def subscribe(self, channel: str, mode: ChannelMode, id: str | None) -> Coroutine[Any, Any, None]: ...
    def unsubscribe(self, channel: str, id: str | None) -> Coroutine[Any, Any, None]: ...
    def publish(
        self, name: str, channel: str, data: object, metadata: Any, addressee: str | None, id: str | None
    ) -> Coroutine[Any, Any, None]: ...
    def start_child(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, ChildHandle[Any]]: ...
    def run_child(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]: ...
    def map(
        self,
        fn: Callable[..., Awaitable[Any]] | Workflow[..., Any],
        iterables: tuple[Iterable[Any], ...],
        at_once: int | None,
        on_error: OnError,
        id: str | None,
    ) -> Coroutine[Any, Any, list[Any]]: ...
    def recur(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn: ...
    def set_details(self, value: object) -> None: ...
    def open_timeout(
        self, duration: int | None, id: str | None, *, fail: bool
    ) -> AbstractContextManager[trio.CancelScope]: ...


@define(eq=False)
class WorkflowContext:
    """The first argument of every workflow: durable operations, and helpers that keep its code deterministic.

    Every operation is a cancellation point before it begins. Its outcome is recorded, so that a replay gets the same
    one. In a child task an operation needs an ``id``, or an enclosing :meth:`branch`.
    """

    _run: WorkflowRun

    @property
    def instance_id(self) -> str:
        """Id of this instance."""
        return self._run.instance_id

    @property
    def workflow(self) -> str:
        """Name of the workflow."""
        return self._run.workflow_name

    @property
    def is_replaying(self) -> bool:
        """Whether the code that runs now has run before, in this process or another. Only for logging.

        It is true until the workflow gets an outcome that is new, and again while the instance leaves memory, in
        ``finally`` blocks too. So a line that is logged behind ``if not ctx.is_replaying:`` is logged once, also if the
        instance is restarted, released or taken over in between. Only if the process dies before an outcome is on disk
        is a line after that outcome logged again. If it dies between the outcome and the line, the line is missing.
        """
        return self._run.is_replaying

    def now(self) -> datetime:
        """Return the time of the last journal entry that the workflow has seen, in UTC: the same on every replay."""
        return self._run.now()

    @property
    def random(self) -> Random:
        """A random generator that draws the same numbers on every replay. Not for secrets.

        Each :meth:`branch` has a generator of its own. In a child task it must be used inside a branch.
        """
        return self._run.random()

    def uuid4(self) -> UUID:
        """Return a random UUID, the same on every replay."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def patched(self, change_id: str) -> bool:
        """Tell whether this instance takes the new path of a change to the workflow's code.

        An instance that reaches this call for the first time gets True, no matter which code it was started with. The
        answer is recorded, and so the same on every replay. An instance gets False if its journal shows that it passed
        this point with the code from before the change. Each :meth:`branch` has answers of its own::

            if ctx.patched("check-fraud"):
                await check_fraud(order)

        The old path can be deleted when no instance is left that got False: keep the call, without the condition. The
        call can be deleted when no instance is left that got True, because code without the call does not fit their
        journals. While two versions of the code run, such instances are left to workers with the new one.

        Args:
          change_id: name of the change.

        Raises:
          OperationIdError: if the id is empty or too long.
        """
        return self._run.patched(change_id)

    def branch(self, name: str) -> AbstractContextManager[None]:
        """Give the operations inside the block ids of their own: ``fetch:1`` becomes ``name/fetch:1``.

        That makes automatic ids safe in child tasks, which run in no fixed order::

            async def ship_to(region: str) -> None:
                with ctx.branch(region):
                    await pack(region)

        Args:
          name: not empty, and used for one branch only.

        Raises:
          OperationIdError: if the name is not valid, or was used before.
        """
        return self._run.open_branch(name)

    async def sleep(self, duration: Duration, *, id: str | None = None) -> None:
        """Sleep durably, counted from :meth:`now`. An instance that sleeps for long takes rows, but no memory.

        Args:
          duration: seconds, or a timedelta. Zero and negative durations end at once, ``math.inf`` and
            ``timedelta.max`` only by a cancellation.
          id: operation id, by default the next ``sleep:n``.

        Raises:
          ValueError: if it is not a duration, or has an end after more than a million days.
        """
        await self._run.sleep(microseconds(duration), id)

    async def sleep_until(self, when: datetime, *, id: str | None = None) -> None:
        """Sleep durably until a point in time. One in the past ends at once.

        Args:
          when: an aware datetime.
          id: operation id, by default the next ``sleep:n``.

        Raises:
          ValueError: if ``when`` has no time zone.
        """
        await self._run.sleep_until(when, id)

    @overload
    async def wait_event(
        self,
        type: str,
        subject: str | None = None,
        *,
        data_type: type[T],
        timeout: Duration | None = None,
        id: str | None = None,
        skip_invalid: bool = False,
    ) -> ReceivedEvent[T]: ...
    @overload
    async def wait_event(
        self,
        type: str,
        subject: str | None = None,
        *,
        data_type: Any = Any,
        timeout: Duration | None = None,
        id: str | None = None,
        skip_invalid: bool = False,
    ) -> ReceivedEvent[Any]: ...
    async def wait_event(
        self,
        type: str,
        subject: str | None = None,
        *,
        data_type: Any = Any,
        timeout: Duration | None = None,
        id: str | None = None,
        skip_invalid: bool = False,
    ) -> ReceivedEvent[Any]:
        """Wait for the next event of a type. An instance that waits for long takes rows, but no memory.

        The next event is the first one that was sent since the instance was started and that the instance has not
        received: it may have arrived before the wait, arrive after it, or while no worker runs. Each event goes to one
        wait of an instance, and to every instance that waits for it. If the wait is cancelled, the event stays for the
        next wait.

        Args:
          type: type of the event.
          subject: subject of the event; None: any event, also one without a subject.
          data_type: type that the data are converted to, by default plain JSON data.
          timeout: time limit from :meth:`now` on: seconds, or a timedelta. An event that was accepted in time is
            received, even if no worker runs when the time is over. Zero takes only an event that is there.
          id: operation id, by default the next ``wait_event:n``.
          skip_invalid: whether to wait on for the next event if the data do not match ``data_type``. The wait for each
            further event is an operation of its own: the next ``wait_event:n``, or ``id:2``, ``id:3`` ...

        Raises:
          EventTimeoutError: if no event arrived in time.
          InvalidDataError: if the data do not match ``data_type``. The event counts as received.
        """
        of = codec(data_type)
        return await self._run.wait_event(type, subject, of, _microseconds(timeout), id, skip_invalid)

    async def subscribe(
        self, channel: str, mode: ChannelMode | str = ChannelMode.BROADCAST, *, id: str | None = None
    ) -> None:
        """Subscribe to a channel, to :meth:`receive` from it. The subscription ends with the instance.

        A broadcast subscription gets messages that are sent from now on; a competing one also messages that no
        subscriber has received; a direct one also messages that were sent to the instance since it was started, unless
        it had subscribed before. A second subscription to the same channel does nothing, and is no operation.

        Args:
          channel: name of the channel.
          mode: which subscribers get a message: ``"broadcast"``, ``"competing"`` or ``"direct"``, see
            :class:`ChannelMode`.
          id: operation id, by default the next ``subscribe:n``.

        Raises:
          ChannelModeConflictError: if the first subscriber of the channel has fixed another mode.
        """
        await self._run.subscribe(channel, ChannelMode(mode), id)

    async def unsubscribe(self, channel: str, *, id: str | None = None) -> None:
        """End a subscription. Messages that were not received are not received any more.

        Args:
          channel: name of the channel.
          id: operation id, by default the next ``unsubscribe:n``.
        """
        await self._run.unsubscribe(channel, id)

    @overload
    async def receive(
        self,
        channel: str,
        *,
        data_type: type[T],
        timeout: Duration | None = None,
        id: str | None = None,
        skip_invalid: bool = False,
    ) -> Message[T]: ...
    @overload
    async def receive(
        self,
        channel: str,
        *,
        data_type: Any = Any,
        timeout: Duration | None = None,
        id: str | None = None,
        skip_invalid: bool = False,
    ) -> Message[Any]: ...
    async def receive(
        self,
        channel: str,
        *,
        data_type: Any = Any,
        timeout: Duration | None = None,
        id: str | None = None,
        skip_invalid: bool = False,
    ) -> Message[Any]:
        """Receive the next message from a channel. An instance that waits for long takes rows, but no memory.

        If the wait is cancelled, the message stays for the next one.

        Args:
          channel: name of the channel.
          data_type: type that the data are converted to, by default plain JSON data.
          timeout: time limit from :meth:`now` on: seconds, or a timedelta. Zero takes only a message that is there.
          id: operation id, by default the next ``receive:n``.
          skip_invalid: whether to wait on for the next message if the data do not match ``data_type``. The wait for
            each further message is an operation of its own: the next ``receive:n``, or ``id:2``, ``id:3`` ...

        Raises:
          MessageTimeoutError: if no message arrived in time.
          InvalidDataError: if the data do not match ``data_type``. The message counts as received.
          RomancyError: if the instance has not subscribed to the channel.
        """
        return await self._run.receive(channel, codec(data_type), _microseconds(timeout), id, skip_invalid)

    async def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, id: str | None = None
    ) -> None:
        """Publish a message to a channel, exactly once.

        Args:
          channel: name of the channel.
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that accompany it.
          id: operation id, by default the next ``publish:n``.

        Raises:
          InvalidInputError: naming everything that is wrong with the message.
          PayloadTooLargeError: if the message is larger than the app's ``max_payload``.
        """
        await self._run.publish("publish", channel, data, metadata, None, id)

    async def send_to(
        self,
        instance_id: str,
        channel: str,
        data: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> None:
        """Send a message on a channel to one instance, exactly once. Without such an instance nothing receives it.

        Args:
          instance_id: id of the instance that receives it.
          channel: name of the channel, which the receiver subscribes to in mode ``"direct"``.
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that accompany it.
          id: operation id, by default the next ``send_to:n``.

        Raises: the same errors as :meth:`publish`.
        """
        await self._run.publish("send_to", channel, data, metadata, instance_id, id)

    async def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run another workflow as a child, and return its result. The child has a journal of its own.

        Any worker that has the child's workflow may run it. Parent and child end together: if this call is cancelled,
        the child is cancelled, and the call waits for its end. If the parent fails or is cancelled later, the child is
        rolled back, in its place among the parent's completed activities.

        The operation id is ``name:n``, and the child's instance id is made of the parent's and the operation id. In a
        child task the call needs an enclosing :meth:`branch`, or an id of its own: ``workflow.options(id=...)`` gives
        one to the operation and the child.

        Args:
          workflow: the child's workflow.
          args, kwargs: arguments of the workflow after its context.

        Raises:
          ChildWorkflowError: if the child failed or was cancelled.
          InvalidInputError: naming every bad field.
          PayloadTooLargeError: if the input is larger than the app's ``max_payload``.
          InstanceExistsError: if another instance has the id.
        """
        result: R = await self._run.run_child(workflow, args, kwargs)
        return result

    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ChildHandle[R]:
        """Start another workflow as a child, without waiting for it. It is durable once this returns.

        It goes on when its parent has completed. If the parent fails or is cancelled, the child is rolled back with it,
        as one of :meth:`run` is.

        Args:
          workflow: the child's workflow.
          args, kwargs: arguments of the workflow after its context.

        Raises: the same errors as :meth:`run` except :class:`ChildWorkflowError`.
        """
        handle: ChildHandle[R] = await self._run.start_child(workflow, args, kwargs)
        return handle

    @overload
    async def map(
        self,
        fn: Callable[[T1], Awaitable[R]] | Workflow[[T1], R],
        items: Iterable[T1],
        /,
        *,
        at_once: int | None = None,
        on_error: OnError = "cancel",
        id: str | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        fn: Callable[[T1, T2], Awaitable[R]] | Workflow[[T1, T2], R],
        items: Iterable[T1],
        items_2: Iterable[T2],
        /,
        *,
        at_once: int | None = None,
        on_error: OnError = "cancel",
        id: str | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        fn: Callable[[T1, T2, T3], Awaitable[R]] | Workflow[[T1, T2, T3], R],
        items: Iterable[T1],
        items_2: Iterable[T2],
        items_3: Iterable[T3],
        /,
        *,
        at_once: int | None = None,
        on_error: OnError = "cancel",
        id: str | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        fn: Callable[..., Awaitable[R]] | Workflow[..., R],
        items: Iterable[Any],
        items_2: Iterable[Any],
        items_3: Iterable[Any],
        items_4: Iterable[Any],
        /,
        *more: Iterable[Any],
        at_once: int | None = None,
        on_error: OnError = "cancel",
        id: str | None = None,
    ) -> list[R]: ...
    async def map(
        self,
        fn: Callable[..., Awaitable[Any]] | Workflow[..., Any],
        /,
        *iterables: Iterable[Any],
        at_once: int | None = None,
        on_error: OnError = "cancel",
        id: str | None = None,
    ) -> list[Any]:
        """Call a function for each item, some at a time, and return the results in the order of the items.

        The items begin in their order, each when one before it has ended. Each item is a :meth:`branch` of its own,
        named after the map and the index of the item: in ``map:1`` the first item calls ``map:1/0/fetch:1``. So the
        function needs no ids, and may call any operations. The map itself records nothing::

            pages = await ctx.map(fetch, urls, at_once=10)

        If an item fails, the others are cancelled, as by a nursery: those that run an activity go on to its outcome,
        and no other begins. Then the error is raised, with a note that names the item. With ``on_error="continue"`` all
        items run to their ends first, and all errors are raised in one group. A cancellation of the call cancels the
        items, and is raised when all have ended.

        Args:
          fn: an activity, an async function of the workflow, or a workflow, which :meth:`run` runs as a child. It is
            called in tasks beside each other.
          iterables: the items; or, for a function of several arguments, an iterable for each of them, as for the
            built-in ``map``. They are read completely before the first call.
          at_once: the most items that run at a time; None: all of them.
          on_error: ``"cancel"`` to cancel the other items after the first error, ``"continue"`` to let them run.
          id: name of the map in its branch, by default the next ``map:n``. In a child task outside of a branch it is
            needed.

        Raises:
          Exception: of the first item that failed.
          ExceptionGroup: of all items that failed, in their order, with ``on_error="continue"``.
          ValueError: if ``at_once`` is less than 1, or the iterables are not equally long.
          OperationIdError: if the id has been used, or is needed; or if ``fn`` has an id of its own.
        """
        return await self._run.map(fn, iterables, at_once, on_error, id)

    def recur(self, *args: Any, **kwargs: Any) -> NoReturn:
        """End this instance, and go on as a new one of the same workflow with this input and an empty journal.

        For workflows that would run for ever. The call never returns: the workflow function unwinds. The new instance
        has an id of its own, is ``continued_from`` this one, and gets the events and messages that this one has not
        received; it must :meth:`subscribe` again. The result of this instance is that of the last one of the chain.
        Activities that this instance has completed are not compensated any more. Its journal goes to the archive, where
        ``app.history`` finds it.

        If a cancel request was accepted before, the instance is cancelled instead.

        Args:
          args, kwargs: arguments of the workflow after its context.

        Raises:
          InvalidInputError: naming every bad field.
          PayloadTooLargeError: if the input is larger than the app's ``max_payload``.
        """
        self._run.recur(args, kwargs)

    def set_details(self, value: Any) -> None:
        """Show operators something about this instance, such as its progress, as :attr:`Instance.details`.

        The last value counts. This is no operation, and the workflow cannot read it: a value can be lost if the worker
        dies.

        Args:
          value: plain JSON data, or a value of a type that can be stored; at most 16 KiB as JSON.

        Raises:
          InvalidDataError: naming every place that cannot be stored.
          PayloadTooLargeError: if the value is larger.
        """
        self._run.set_details(value)

    def move_on_after(self, duration: Duration, *, id: str | None = None) -> AbstractContextManager[trio.CancelScope]:
        """Open a durable :func:`trio.move_on_after`. Its deadline survives restarts, and is the same on every replay.

        Waits inside the block are cancelled at the deadline. An activity that runs at that moment goes on to its
        outcome first, unless it is ``cancellable``.

        Args:
          duration: seconds (or a timedelta) from :meth:`now` on; ``math.inf``: no limit.
          id: operation id, by default the next ``timeout:n``.

        Raises:
          ValueError: if it is not a duration, or has an end after more than a million days.
        """
        return self._run.open_timeout(microseconds(duration), id, fail=False)

    def fail_after(self, duration: Duration, *, id: str | None = None) -> AbstractContextManager[trio.CancelScope]:
        """Open a :meth:`move_on_after` that raises :exc:`trio.TooSlowError` if the deadline cancelled the block."""
        return self._run.open_timeout(microseconds(duration), id, fail=True)


def _microseconds(timeout: Duration | None) -> int | None:
    return None if timeout is None else microseconds(timeout)
