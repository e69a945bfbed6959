"""What a workflow may call: :class:`WorkflowContext`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from random import Random
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar
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

MAX_DETAILS = 16 * 1024
"""Bytes of JSON that an instance may say of itself."""


class WorkflowRun(WorkflowExecution, Protocol):
    """What the runtime does for a context. Implemented by :class:`trio_romancy._runtime.actor.actor.Actor`."""

    def now(self) -> datetime: ...
    def random(self) -> Random: ...
    def patched(self, change_id: str) -> bool: ...
    def open_branch(self, name: str) -> AbstractContextManager[None]: ...
    async def sleep(self, duration: int, id: str | None) -> None: ...
    async def sleep_until(self, when: datetime, id: str | None) -> None: ...
    async def wait_event(
        self, type: str, subject: str | None, codec: Codec[Any], timeout: int | None, id: str | None
    ) -> ReceivedEvent: ...
    async def receive(self, channel: str, codec: Codec[Any], timeout: int | None, id: str | None) -> Message: ...
    async def subscribe(self, channel: str, mode: ChannelMode, id: str | None) -> None: ...
    async def unsubscribe(self, channel: str, id: str | None) -> None: ...
    async def publish(
        self, name: str, channel: str, data: object, metadata: Any, addressee: str | None, id: str | None
    ) -> None: ...
    async def start_child(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ChildHandle[Any]: ...
    async def run_child(self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def recur(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn: ...
    def set_details(self, value: object) -> None: ...
    def open_timeout(
        self, duration: int, id: str | None, *, fail: bool
    ) -> AbstractContextManager[trio.CancelScope]: ...


@define(eq=False)
class WorkflowContext:
    """The first argument of every workflow: durable waiting, and the determinism helpers.

    Every operation is a cancellation point before it begins. One that has begun is recorded, so that a replay sees
    the same. In a child task an operation needs an ``id``, or an enclosing :meth:`branch`.
    """

    _run: WorkflowRun

    @property
    def instance_id(self) -> str:
        """The id of this instance."""
        return self._run.instance_id

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return self._run.workflow_name

    @property
    def is_replaying(self) -> bool:
        """Whether what runs now has run before, in this process or another. For logging, and for nothing else."""
        return self._run.is_replaying

    def now(self) -> datetime:
        """The time, in UTC, of the journal entry last seen by the workflow, and so the same on every replay."""
        return self._run.now()

    @property
    def random(self) -> Random:
        """A random generator that draws the same numbers on every replay. Not for secrets.

        Each :meth:`branch` has its own. In a child task it must be used inside a branch.
        """
        return self._run.random()

    def uuid4(self) -> UUID:
        """A random UUID, the same on every replay."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def patched(self, change_id: str) -> bool:
        """Whether this instance goes the way of a change to the workflow's code, which has a name of its own.

        True for an instance that comes here for the first time, whatever code it was started with; it is recorded,
        and so the same on every replay. False for one whose journal shows that it went past here with the code from
        before the change. Each :meth:`branch` has answers of its own::

            if ctx.patched("check-fraud"):
                await check_fraud(order)

        The code of the old way can go once no instance is left that was told False: then only ask, without a
        condition. The question itself can go once none is left that was told True, for code that does not ask does not
        fit those: while two versions of the code run, it is left to workers with the new one.

        Raises:
          OperationIdError: if the id is empty or too long.
        """
        return self._run.patched(change_id)

    def branch(self, name: str) -> AbstractContextManager[None]:
        """Give the operations inside the block ids of their own: ``fetch:1`` becomes ``name/fetch:1``.

        That makes automatic ids safe in a child task, whose turn among its siblings is not known beforehand::

            async def ship_to(region: str) -> None:
                with ctx.branch(region):
                    await pack(region)

        Args:
          name: not empty, and used for one branch only.

        Raises:
          OperationIdError: if there has been a branch of that name.
        """
        return self._run.open_branch(name)

    async def sleep(self, duration: Duration, *, id: str | None = None) -> None:
        """Sleep durably, counted from :meth:`now`. An instance that sleeps long costs rows, not memory.

        Args:
          duration: seconds, or a timedelta. Not positive means at once.
          id: the operation id, by default the next ``sleep:n``.
        """
        await self._run.sleep(microseconds(duration), id)

    async def sleep_until(self, when: datetime, *, id: str | None = None) -> None:
        """Sleep durably until a moment, given as an aware datetime. One in the past means at once.

        Raises:
          ValueError: if ``when`` has no time zone.
        """
        await self._run.sleep_until(when, id)

    async def wait_event(
        self,
        type: str,
        subject: str | None = None,
        *,
        data_type: Any = Any,
        timeout: Duration | None = None,
        id: str | None = None,
    ) -> ReceivedEvent:
        """Wait for the next event of a type, however long that takes: an instance that waits costs rows, not memory.

        The next one is the first that was sent since the instance was started and that it has not got yet, whether it
        came before the wait, comes after it, or while the worker is dead. Each event goes to one wait of the instance,
        and to every instance that waits for it. If the wait is cancelled the event is left to the next one.

        Args:
          type: of the event.
          subject: of the event; None: any, or none.
          data_type: what its data are structured as, by default plain JSON data.
          timeout: the most seconds (or a timedelta) from :meth:`now`. An event that was accepted in time is received,
            even if the worker is away when the time is over. Zero takes only what is there.
          id: the operation id, by default the next ``wait_event:n``.

        Raises:
          EventTimeoutError: if none came in time.
          InvalidDataError: if the data are not of the ``data_type``. The event counts as received.
        """
        of = codec(data_type)
        return await self._run.wait_event(type, subject, of, _microseconds(timeout), id)

    async def subscribe(
        self, channel: str, mode: ChannelMode | str = ChannelMode.BROADCAST, *, id: str | None = None
    ) -> None:
        """Subscribe to a channel, to :meth:`receive` from it. The subscription ends with the instance.

        A broadcast subscription gets what is sent from now on; a competing one also what nobody has got yet; a direct
        one also what was sent to the instance since it was started, unless it had subscribed before. To subscribe to
        what one is subscribed to already does nothing, and is no operation.

        Args:
          mode: who gets a message: ``"broadcast"``, ``"competing"`` or ``"direct"``, see :class:`ChannelMode`.
          id: the operation id, by default the next ``subscribe:n``.

        Raises:
          ChannelModeConflictError: if the first subscriber of the channel has fixed another mode.
        """
        await self._run.subscribe(channel, ChannelMode(mode), id)

    async def unsubscribe(self, channel: str, *, id: str | None = None) -> None:
        """End a subscription. What was not received is not received any more."""
        await self._run.unsubscribe(channel, id)

    async def receive(
        self, channel: str, *, data_type: Any = Any, timeout: Duration | None = None, id: str | None = None
    ) -> Message:
        """Receive the next message from a channel, however long that takes.

        Args:
          data_type: what its data are structured as, by default plain JSON data.
          timeout: the most seconds (or a timedelta) from :meth:`now`.
          id: the operation id, by default the next ``receive:n``.

        Raises:
          MessageTimeoutError: if none came in time.
          InvalidDataError: if the data are not of the ``data_type``. The message counts as received.
          RomancyError: if the instance has not subscribed to the channel.
        """
        return await self._run.receive(channel, codec(data_type), _microseconds(timeout), id)

    async def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, id: str | None = None
    ) -> None:
        """Publish a message to a channel, exactly once.

        Args:
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that go with it.
          id: the operation id, by default the next ``publish:n``.

        Raises:
          InvalidInputError: naming everything that is wrong with it.
          PayloadTooLargeError: if it is larger than the app's ``max_payload``.
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
        """Send a message on a channel to one instance, exactly once. It is left lying if there is no such instance.

        Args: as of :meth:`publish`.
        """
        await self._run.publish("send_to", channel, data, metadata, instance_id, id)

    async def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run another workflow as a child, and return what it returns. The child has a journal of its own.

        Any worker that has the child's workflow may run it. Parent and child end together: if this is cancelled, so is
        the child, which is waited for; if the parent fails or is cancelled later, the child, too, is rolled back, in
        its place among the parent's completed activities.

        The operation id is ``name:n``, and the child's instance id is made of the parent's and that. In a child task it
        needs an enclosing :meth:`branch`, or an id of its own: ``workflow.options(id=...)`` gives one to the operation
        and the child.

        Args:
          args, kwargs: what the workflow takes after its context.

        Raises:
          ChildWorkflowError: if the child failed or was cancelled.
          InvalidInputError: naming every bad field.
          PayloadTooLargeError: if the input is larger than the app's ``max_payload``.
          InstanceExistsError: if the id is taken by another instance.
        """
        result: R = await self._run.run_child(workflow, args, kwargs)
        return result

    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ChildHandle[R]:
        """Start another workflow as a child, and do not wait for it. It is stored once this returns.

        It goes on when its parent has completed. If the parent fails or is cancelled, it is rolled back with it, as one
        that is :meth:`run`.

        Raises: as of :meth:`run`, except for what the child itself comes to.
        """
        handle: ChildHandle[R] = await self._run.start_child(workflow, args, kwargs)
        return handle

    def recur(self, *args: Any, **kwargs: Any) -> NoReturn:
        """End this instance, and go on as a new one of the same workflow with this input and an empty journal.

        For workflows that would run for ever. It never returns: the workflow function unwinds. The new instance has an
        id of its own, is ``continued_from`` this one, and gets the events and messages that this one has not received;
        it must :meth:`subscribe` again. Whoever awaits the result of this one awaits that of the last one. What this
        one has completed is not compensated any more. Its journal goes to the archive, where ``app.history`` finds it.

        If a cancel request was accepted before, the instance is cancelled instead.

        Args:
          args, kwargs: what the workflow takes after its context.

        Raises:
          InvalidInputError: naming every bad field.
          PayloadTooLargeError: if the input is larger than the app's ``max_payload``.
        """
        self._run.recur(args, kwargs)

    def set_details(self, value: Any) -> None:
        """Say something about this instance that operators see at once, as :attr:`Instance.details`: how far it is.

        The last one counts. It is no operation, and not for the workflow itself: it can be lost with the worker.

        Args:
          value: plain JSON data, or a value of a type that can be stored; at most 16 KiB as JSON.

        Raises:
          InvalidDataError: naming every place that cannot be stored.
          PayloadTooLargeError: if it is larger.
        """
        self._run.set_details(value)

    def move_on_after(self, duration: Duration, *, id: str | None = None) -> AbstractContextManager[trio.CancelScope]:
        """A durable :func:`trio.move_on_after`: its deadline holds across restarts and is the same on every replay.

        What waits inside is cancelled at the deadline. An activity that runs then goes on to its outcome first,
        unless it is ``cancellable``.

        Args:
          duration: seconds (or a timedelta) from :meth:`now`.
          id: the operation id, by default the next ``timeout:n``.
        """
        return self._run.open_timeout(microseconds(duration), id, fail=False)

    def fail_after(self, duration: Duration, *, id: str | None = None) -> AbstractContextManager[trio.CancelScope]:
        """Like :meth:`move_on_after`, and raises :exc:`trio.TooSlowError` if the deadline cancelled the block."""
        return self._run.open_timeout(microseconds(duration), id, fail=True)


def _microseconds(timeout: Duration | None) -> int | None:
    return None if timeout is None else microseconds(timeout)
