"""The decorators ``@workflow``, ``@activity`` and ``@compensation``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from .._context.workflow import WorkflowContext
from ..clock import Duration
from ..limits import Limit
from ..retry import RetryPolicy
from .call_check import CallCheck
from .inspection import InspectedFunction
from .registry import registry
from .values import Activity, Compensation, Workflow, checked_timeout

P = ParamSpec("P")
R = TypeVar("R")


@overload
def compensation(function: Callable[P, R], /) -> Compensation[P, R]: ...
@overload
def compensation(
    *, name: str | None = None, retry: RetryPolicy | None = None, timeout: Duration | None = None
) -> Callable[[Callable[P, R]], Compensation[P, R]]: ...
def compensation(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    timeout: Duration | None = None,
) -> Any:
    """Define a function that undoes one completed activity.

    Its parameters are bound by name: to the arguments of the activity, and ``result`` to the activity's result. Like an
    activity it is retried and recorded, and can be a plain ``def``, which runs in a thread.

    Args:
      name: name in the journal, by default that of the function.
      retry: retry policy, by default that of the app.
      timeout: time limit of one attempt: seconds, or a timedelta.

    Raises:
      DefinitionError: naming the function, and the parameter that cannot be used.
    """
    scope = sys._getframe(1).f_locals

    def decorate(function: Callable[..., Any]) -> Compensation[..., Any]:
        named = InspectedFunction(function, name, "compensation", scope)
        named.check_retry(retry)
        return registry.add(
            Compensation(
                name=named.name,
                function=named.function,
                retry=retry,
                timeout=checked_timeout(timeout, named.name),
                is_async=named.is_async,
                codecs=named.codecs(named.signature.parameters.values()),
            )
        )

    return decorate if function is None else decorate(function)


@overload
def activity(function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
@overload
def activity(function: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    compensation: Compensation[..., Any] | None = None,
    retry: RetryPolicy | None = None,
    timeout: Duration | None = None,
    cancellable: bool = False,
    limits: Sequence[Limit] = (),
) -> _ActivityDecorator: ...
def activity(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    compensation: Compensation[..., Any] | None = None,
    retry: RetryPolicy | None = None,
    timeout: Duration | None = None,
    cancellable: bool = False,
    limits: Sequence[Limit] = (),
) -> Any:
    """Define a function with side effects, whose outcome is journaled.

    Args:
      name: name in the journal, by default that of the function.
      compensation: function that undoes it. Its parameters must be among those of the activity, or ``result``.
      retry: retry policy, by default that of the app.
      timeout: time limit of one attempt: seconds, or a timedelta. A plain ``def`` runs in a thread, which cannot be
        stopped: after the time limit its attempt has failed, and the next one begins when the thread has ended.
      cancellable: whether it may be torn down when its workflow is cancelled or a sibling fails. That is recorded, and
        nothing is compensated. By default it runs to its outcome first.
      limits: limits that its attempts share with those of other activities. An attempt begins once all allow it.

    Raises:
      DefinitionError: naming the function, and the parameter that cannot be used.
    """
    scope = sys._getframe(1).f_locals

    def decorate(function: Callable[..., Any]) -> Activity[..., Any]:
        named = InspectedFunction(function, name, "activity", scope)
        named.check_retry(retry)
        if compensation is not None:
            named.check_compensation(compensation)
        return registry.add(
            Activity(
                name=named.name,
                function=named.function,
                retry=retry,
                timeout=checked_timeout(timeout, named.name),
                compensation=compensation,
                cancellable=cancellable,
                is_async=named.is_async,
                codec=named.codec("return"),
                signature=named.signature,
                check_call=CallCheck(named.name, named.signature),
                limits=named.limits(limits),
            )
        )

    return decorate if function is None else decorate(function)


class _ActivityDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Activity[P, R]: ...


@overload
def workflow(function: Callable[Concatenate[WorkflowContext, P], Awaitable[R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, name: str | None = None, event_handler: bool = False
) -> Callable[[Callable[Concatenate[WorkflowContext, P], Awaitable[R]]], Workflow[P, R]]: ...
def workflow(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, event_handler: bool = False
) -> Any:
    """Define an ``async def`` that orchestrates activities, and is replayed from its journal after a crash.

    It takes a :class:`WorkflowContext` first, then its input. Between operations it must be deterministic: time,
    randomness and everything else from outside come from the context or from activities.

    Args:
      name: name in the database, by default that of the function.
      event_handler: whether an event that is posted to :attr:`App.asgi` can start it. The type of the event is then the
        name of the workflow, and the data of the event are its input.

    Raises:
      DefinitionError: naming the function, and the parameter that cannot be used.
    """
    scope = sys._getframe(1).f_locals

    def decorate(function: Callable[..., Any]) -> Workflow[..., Any]:
        named = InspectedFunction(function, name, "workflow", scope)
        if not named.is_async:
            raise named.error("it must be an async def, because it awaits its operations")
        input_codec = named.input()
        return registry.add(
            Workflow(
                name=named.name,
                function=named.function,
                codec=named.codec("return"),
                input=input_codec,
                event_handler=event_handler,
            )
        )

    return decorate if function is None else decorate(function)
