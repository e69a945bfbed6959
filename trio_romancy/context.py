"""What running code may call: :class:`WorkflowContext` in a workflow, :func:`current_activity` in an activity."""

from __future__ import annotations

import contextvars
from contextlib import AbstractContextManager
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from attrs import define, field

from .clock import Duration, microseconds
from .errors import RomancyError
from .storage.session import Session

if TYPE_CHECKING:
    import trio

    from .define import Activity
    from .storage.database import Database


class WorkflowRun(Protocol):
    """What the runtime does for a context. Implemented by :class:`trio_romancy.runtime.actor.Actor`."""

    @property
    def instance_id(self) -> str: ...
    @property
    def workflow_name(self) -> str: ...
    @property
    def is_replaying(self) -> bool: ...
    def now(self) -> datetime: ...
    def random(self) -> Random: ...
    def open_branch(self, name: str) -> AbstractContextManager[None]: ...
    async def call_activity(self, activity: Activity[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any: ...
    async def sleep(self, duration: int, id: str | None) -> None: ...
    async def sleep_until(self, when: datetime, id: str | None) -> None: ...
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


@define(eq=False)
class ActivityContext:
    """What an activity (or a compensation) that runs for a workflow knows of itself."""

    instance_id: str
    """The instance that it runs for."""
    activity_id: str
    """Its operation id, such as ``"process_payment:1"``."""
    attempt: int
    """The number of this attempt, from 1."""
    _database: Database = field(repr=False)
    _session: Session | None = field(default=None, init=False, repr=False)

    @property
    def idempotency_key(self) -> str:
        """The same over all attempts and restarts, and different for every other operation of any instance.

        Give it to outside services, so that an attempt repeated after a crash is recognised.
        """
        return f"{self.instance_id}:{self.activity_id}"

    @property
    def session(self) -> Session:
        """A transaction in trio_romancy's own database, begun with the first statement.

        What is done through it commits together with the activity's journal entry: exactly once. It is rolled back
        if the attempt fails.
        """
        if self._session is None:
            self._session = Session(self._database)
        return self._session

    @property
    def used_session(self) -> Session | None:
        """The session, if this attempt has asked for it."""
        return self._session


current_execution: contextvars.ContextVar[WorkflowRun | ActivityContext | None] = contextvars.ContextVar(
    "trio_romancy_current_execution", default=None
)
"""What runs now: set by the runtime around workflow and activity functions."""


def current_activity() -> ActivityContext:
    """The activity that calls this, also from threads and child tasks that it started.

    Raises:
      RomancyError: outside of an activity that runs for a workflow.
    """
    execution = current_execution.get()
    if isinstance(execution, ActivityContext):
        return execution
    raise RomancyError(
        "current_activity() is for activities that run for a workflow; in a unit test of the plain function there is "
        "none: pass what it needs as an argument, or run it by a workflow on an in-memory app"
    )
