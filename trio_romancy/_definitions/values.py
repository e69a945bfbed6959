"""The definitions that the decorators make: :class:`Workflow`, :class:`Activity`, :class:`Compensation`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

import trio
from attrs import evolve, field, frozen

from .._context.activity import ActivityContext
from .._context.current import current_execution
from .._data.codec import Codec
from .._data.ids import checked_id
from .._data.start_times import StartTimes, checked_times
from .._tasks.trio_internals import closes_generator
from ..clock import Duration, seconds
from ..errors import DefinitionError, RomancyError
from ..limits import Limit
from ..model import EntryKind
from ..retry import RetryPolicy
from .call_check import CallCheck
from .input import InputCodec

P = ParamSpec("P")
R = TypeVar("R")


class _Definition:
    """Looks like the decorated function: to ``help()``, to Sphinx, and in the names of trio's tasks."""

    name: str
    function: Callable[..., Any]

    def __attrs_post_init__(self) -> None:
        for attribute in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(self.function, attribute):
                self.__dict__[attribute] = getattr(self.function, attribute)

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} {self.name!r}>"


@frozen(eq=False, repr=False, slots=False)
class Compensation(_Definition, Generic[P, R]):
    """A function that undoes one completed activity. Made by :func:`compensation`.

    Calling it runs the plain function.
    """

    name: str
    function: Callable[P, Any]
    """The plain function."""
    retry: RetryPolicy | None
    timeout: float | None
    """Time limit of one attempt, in seconds; None: no limit."""
    is_async: bool
    codecs: Mapping[str, Codec[Any]]
    """Codec of each parameter, by name."""

    codec: Codec[Any] | None = field(default=None, init=False)
    """None: the result is not kept."""
    cancellable: bool = field(default=False, init=False)
    """A compensation always runs to its outcome."""
    limits: tuple[Limit, ...] = field(default=(), init=False)
    """A compensation has none: a rollback waits for nothing."""

    completed_kind: ClassVar[EntryKind] = EntryKind.COMPENSATION_COMPLETED
    failed_kind: ClassVar[EntryKind] = EntryKind.COMPENSATION_FAILED

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self.function(*args, **kwargs)


@frozen(eq=False, repr=False, slots=False)
class Activity(_Definition, Generic[P, R]):
    """A function with side effects, whose outcome is journaled. Made by :func:`activity`.

    Called by a running workflow, it runs durably: once its outcome is recorded, it never runs again. A call with wrong
    arguments raises :exc:`TypeError` in the workflow. Called anywhere else, such as by a unit test or by another
    activity, it is the plain function.
    """

    name: str
    function: Callable[P, Any]
    """The plain function."""
    retry: RetryPolicy | None
    timeout: float | None
    """Time limit of one attempt, in seconds; None: no limit."""
    compensation: Compensation[..., Any] | None
    cancellable: bool
    is_async: bool
    codec: Codec[Any]
    """Codec of the result."""
    signature: inspect.Signature
    check_call: CallCheck = field(repr=False)
    """Check of the arguments of a call."""
    limits: tuple[Limit, ...] = ()
    """Limits that its attempts share with those of other activities."""
    id: str | None = None
    """Explicit operation id of the next call; None: the automatic one."""

    completed_kind: ClassVar[EntryKind] = EntryKind.ACTIVITY_COMPLETED
    failed_kind: ClassVar[EntryKind] = EntryKind.ACTIVITY_FAILED

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        execution = current_execution.get()
        if execution is None:
            self._refuse_in_finalizer()
            return self.function(*args, **kwargs)  # type: ignore[no-any-return]
        if isinstance(execution, ActivityContext):
            return self.function(*args, **kwargs)  # type: ignore[no-any-return]
        if kwargs or len(args) not in self.check_call.counts:
            self.check_call(args, kwargs)
        return execution.call_activity(self, args, kwargs)

    def _refuse_in_finalizer(self) -> None:
        """Refuse a call by an async generator that was left before its end.

        Python closes such a generator later, outside of the workflow that has left it, and trio in a cancelled scope.

        Raises:
          RomancyError: naming what leaves a generator in order. Trio logs it, with the name of the generator.
        """
        if trio.lowlevel.in_trio_task() and closes_generator(trio.lowlevel.current_task()):
            raise RomancyError(
                f"activity {self.name!r} is called by an async generator that was left before its end, and is closed "
                f"outside of any workflow; use it in `async with contextlib.aclosing(...) as pages:`, or call the "
                f"activity in the workflow"
            )

    def options(
        self,
        *,
        id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
    ) -> Activity[P, R]:
        """Return a copy with these options. An option that is not given stays as it was.

        Args:
          id: operation id of the call. Needed in a child task that is not in a ``ctx.branch(...)``.
          retry: the retry policy.
          timeout: time limit of one attempt: seconds, or a timedelta.

        Raises:
          DefinitionError: if the timeout is not longer than zero.
          ValueError: if the id is not a string of 1 to 255 characters.
        """
        return evolve(
            self,
            id=self.id if id is None else checked_id(id),
            retry=self.retry if retry is None else retry,
            timeout=self.timeout if timeout is None else checked_timeout(timeout, self.name),
        )


@frozen(eq=False, repr=False, slots=False)
class Workflow(_Definition, Generic[P, R]):
    """A function that orchestrates activities. Made by :func:`workflow`; run with :meth:`App.start`.

    Calling it runs the plain function with the given context, which can be a stand-in in a unit test.
    """

    name: str
    function: Callable[Concatenate[Any, P], Awaitable[R]]
    """The plain function. Its first argument is a :class:`WorkflowContext`."""
    codec: Codec[Any]
    """Codec of the result."""
    input: InputCodec
    """Codec of the arguments that follow the context."""
    event_handler: bool = False
    """Whether an event of the workflow's name that arrives over HTTP starts an instance."""
    id: str | None = None
    """Instance id of the next start; None: a new one."""
    times: StartTimes | None = None
    """When the next instance begins, and by when it has to end; None: at once, and at any time."""

    @property
    def signature(self) -> inspect.Signature:
        """Signature of the function without the context."""
        return self.input.signature

    @property
    def has_options(self) -> bool:
        """Whether this is a copy that :meth:`options` has made."""
        return self.id is not None or self.times is not None

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        return self.function(ctx, *args, **kwargs)

    def options(
        self,
        *,
        id: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        deadline: Duration | datetime | None = None,
    ) -> Workflow[P, R]:
        """Return a copy that starts an instance with these options. One that is not given stays as it was.

        Args:
          id: id of the instance. The same id with the same input is the same instance, no matter how often it is
            started; the times of the first start count.
          delay: seconds (or a timedelta) from the start after which the instance begins to run.
          at: time at which it begins to run, as an aware datetime, instead of ``delay``; one in the past means now.
          deadline: seconds (or a timedelta) from the start, or an aware datetime, after which the instance is
            cancelled, as by :meth:`App.cancel`: what it has completed is compensated. If its function has ended by
            then, nothing happens. If it has recurred, that applies to the last one of its chain.

        Raises:
          ValueError: if the id is not a string of 1 to 255 characters, or a time is not valid.
        """
        times = checked_times(self.name, delay, at, deadline)
        if times is not None and self.times is not None:
            begins = times if delay is not None or at is not None else self.times
            ends = times if deadline is not None else self.times
            times = StartTimes(begins.delay, begins.at, ends.limit, ends.deadline)
        return evolve(self, id=self.id if id is None else checked_id(id), times=times or self.times)


Definition = Compensation[..., Any] | Activity[..., Any] | Workflow[..., Any]


def checked_timeout(timeout: Duration | None, name: str) -> float | None:
    """Return the time limit of one attempt in seconds; None: no limit.

    Raises:
      DefinitionError: if the timeout is not a duration longer than zero, or too long to be stored.
    """
    if timeout is None:
        return None
    try:
        allowed = seconds(timeout)
    except ValueError as error:
        raise DefinitionError(f"{name!r}: the timeout: {error}") from None
    if allowed <= 0:
        raise DefinitionError(f"{name!r}: a timeout is longer than zero seconds, not {timeout!r}")
    return None if allowed == math.inf else allowed
