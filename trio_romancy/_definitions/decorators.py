"""``@workflow``, ``@activity``, ``@compensation``, and the registry of what they define."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, overload

from attrs import evolve, field, frozen

from .._context.workflow import ActivityContext, WorkflowContext, current_execution
from .._data.codec import Codec, codec, dumps, is_structured, loads
from .._data.ids import MAX_ID, checked_id, is_id
from ..clock import Duration, seconds
from ..errors import DefinitionError, InvalidDataError, InvalidInputError, Problem
from ..model import Kind
from ..retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D", bound="Compensation[..., Any] | Activity[..., Any] | Workflow[..., Any]")

_registry: dict[tuple[type, str], Any] = {}
"""Every definition of the process by its class and name, so that a journal can be resumed by name."""


class _Definition:
    """Looks like the function that it was made of: to ``help()``, to Sphinx, and in the names of trio's tasks."""

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
    """The most seconds that one attempt may take; None: no limit."""
    is_async: bool
    codecs: Mapping[str, Codec[Any]]
    """Of each parameter."""

    codec: ClassVar[Codec[Any] | None] = None
    cancellable: ClassVar[bool] = False
    completed_kind: ClassVar[Kind] = Kind.COMPENSATION_COMPLETED
    failed_kind: ClassVar[Kind] = Kind.COMPENSATION_FAILED

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self.function(*args, **kwargs)


@frozen(eq=False, repr=False, slots=False)
class Activity(_Definition, Generic[P, R]):
    """A function with side effects, whose outcome is journaled. Made by :func:`activity`.

    Called by a running workflow, it is run durably: once its outcome is recorded, it is never run again. Called
    anywhere else, by a unit test or by another activity, it is the plain function.
    """

    name: str
    function: Callable[P, Any]
    """The plain function."""
    retry: RetryPolicy | None
    timeout: float | None
    """The most seconds that one attempt may take; None: no limit."""
    compensation: Compensation[..., Any] | None
    cancellable: bool
    is_async: bool
    codec: Codec[Any]
    """Of the result."""
    signature: inspect.Signature
    id: str | None = None
    """The explicit operation id of the next call; None: the automatic one."""

    completed_kind: ClassVar[Kind] = Kind.ACTIVITY_COMPLETED
    failed_kind: ClassVar[Kind] = Kind.ACTIVITY_FAILED

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        execution = current_execution.get()
        if execution is None or isinstance(execution, ActivityContext):
            return self.function(*args, **kwargs)  # type: ignore[no-any-return]
        return execution.call_activity(self, args, kwargs)

    def options(
        self,
        *,
        id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
    ) -> Activity[P, R]:
        """A copy bound to these options; what is not given stays as it was.

        Args:
          id: the operation id of the call. Needed in a child task that is in no ``ctx.branch(...)``.
          retry: the retry policy.
          timeout: the most seconds (or a timedelta) that one attempt may take.
        """
        return evolve(
            self,
            id=self.id if id is None else checked_id(id),
            retry=self.retry if retry is None else retry,
            timeout=self.timeout if timeout is None else _checked_timeout(timeout, self.name),
        )


@frozen(eq=False, repr=False, slots=False)
class Workflow(_Definition, Generic[P, R]):
    """A function that orchestrates activities. Made by :func:`workflow`; run with :meth:`App.start`.

    Calling it runs the plain function with the context that is given.
    """

    name: str
    function: Callable[Concatenate[WorkflowContext, P], Awaitable[R]]
    """The plain function."""
    codec: Codec[Any]
    """Of the result."""
    codecs: Mapping[str, Codec[Any]]
    """Of each parameter after the context."""
    signature: inspect.Signature
    """Without the context."""
    takes_object: bool
    """Whether its one parameter is structured, so that the input is stored as that JSON object itself."""
    event_handler: bool = False
    """Whether an event of its name that comes over HTTP starts it."""
    id: str | None = None
    """The instance id of the next start; None: a new one."""

    def __call__(self, ctx: WorkflowContext, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        return self.function(ctx, *args, **kwargs)

    def options(self, *, id: str) -> Workflow[P, R]:
        """A copy that starts an instance under this id.

        The same id with the same input is the same instance, however often it is started.
        """
        return evolve(self, id=checked_id(id))

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, list[Any]]:
        """The arguments as the JSON text that is stored, and as they are read back from it.

        Raises:
          InvalidInputError: naming every bad field.
        """
        if not kwargs and len(args) == len(self.codecs):
            try:
                return self._as_text(
                    [codec.encode(value) for codec, value in zip(self.codecs.values(), args, strict=True)]
                )
            except InvalidDataError:
                pass  # all that is wrong is found below
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise self._invalid([Problem("$", str(error))]) from None
        bound.apply_defaults()
        return self._as_text(self._each(bound.arguments, Codec.encode))

    def check_input(self, raw: Any) -> tuple[str, list[Any]]:
        """The same for an input that is given as plain JSON data."""
        return self._as_text(self._each(self._by_name(raw), lambda codec, value: codec.encode(codec.decode(value))))

    def decode_input(self, text: str) -> list[Any]:
        """The arguments that a stored input stands for.

        Raises:
          InvalidInputError: if the input was stored by code that took something else.
        """
        values = self._by_name(loads(text))
        return self._each(values, Codec.decode)

    def _by_name(self, raw: Any) -> dict[str, Any]:
        """An input as plain JSON data, by parameter; what is not given has its default."""
        if self.takes_object:
            return dict.fromkeys(self.codecs, raw)
        if not isinstance(raw, dict):
            raise self._invalid([Problem("$", f"expected an object, got {type(raw).__name__}")])
        parameters = self.signature.parameters
        defaults = {name: each.default for name, each in parameters.items() if each.default is not each.empty}
        unknown = [Problem(f"$.{name}", "unknown field") for name in raw if name not in self.codecs]
        if unknown or any(name not in raw and name not in defaults for name in self.codecs):
            wrong: list[Problem] = []
            for name in self.codecs:
                if name in raw:
                    wrong += self._problems_with(name, raw[name], Codec.decode)
                elif name not in defaults:
                    wrong.append(Problem(f"$.{name}", "missing"))
            raise self._invalid(wrong + unknown)
        encoded = {name: loads(self.codecs[name].encode(defaults[name])[0]) for name in self.codecs if name not in raw}
        return {name: raw[name] if name in raw else encoded[name] for name in self.codecs}

    def _as_text(self, encoded: list[tuple[str, Any]]) -> tuple[str, list[Any]]:
        """An input as it is stored, and as it is read back, of what each parameter is."""
        restored = [value for _, value in encoded]
        if self.takes_object:
            return encoded[0][0], restored
        fields = [
            f'"{name}":{text}' if name.isascii() else f"{dumps(name)}:{text}"
            for name, (text, _) in zip(self.codecs, encoded, strict=True)
        ]
        return f"{{{','.join(fields)}}}", restored

    def _each(self, values: dict[str, Any], apply: Callable[[Codec[Any], Any], T]) -> list[T]:
        """Apply something to each value and its codec, collecting what is wrong with any of them."""
        try:
            return [apply(self.codecs[name], value) for name, value in values.items()]
        except InvalidDataError:
            problems = [p for name, value in values.items() for p in self._problems_with(name, value, apply)]
            raise self._invalid(problems) from None

    def _problems_with(self, name: str, value: Any, apply: Callable[[Codec[Any], Any], object]) -> list[Problem]:
        try:
            apply(self.codecs[name], value)
        except InvalidDataError as error:
            at = "$" if self.takes_object else f"$.{name}"
            return [Problem(at + problem.path[1:], problem.message) for problem in error.problems]
        return []

    def _invalid(self, problems: list[Problem]) -> InvalidInputError:
        return InvalidInputError(f"workflow {self.name!r} does not take this input", problems)


# -- the decorators ----------------------------------------------------------------------------------------------------


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
    """Define the function that undoes one completed activity.

    Its parameters are bound by name: to the activity's arguments, and ``result`` to what the activity returned.
    Like an activity it is retried and recorded, and can be a plain ``def``, which is run in a thread.

    Args:
      name: the name in the journal, by default the function's.
      retry: when it is tried again, by default as the app says.
      timeout: the most seconds (or a timedelta) that one attempt may take.

    Raises:
      DefinitionError: if it cannot be used so.
    """
    scope = sys._getframe(1).f_locals

    def decorate(function: Callable[..., Any]) -> Compensation[..., Any]:
        named = _Function(function, name, "compensation", scope)
        named.check_retry(retry)
        return _registered(
            Compensation(
                name=named.name,
                function=function,
                retry=retry,
                timeout=_checked_timeout(timeout, named.name),
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
) -> Any:
    """Define a function with side effects whose outcome is journaled.

    Args:
      name: the name in the journal, by default the function's.
      compensation: what undoes it. Its parameters must be among the activity's, or ``result``.
      retry: when it is tried again after a failure, by default as the app says.
      timeout: the most seconds (or a timedelta) that one attempt may take. A plain ``def`` runs in a thread, which
        nobody can stop: its attempt counts as failed then, and the next one begins when the thread has ended.
      cancellable: whether it may be torn down when its workflow is cancelled or a sibling fails; that is recorded, and
        nothing is compensated. By default it runs to its outcome first.

    Raises:
      DefinitionError: if it cannot be used so, naming function and parameter.
    """
    scope = sys._getframe(1).f_locals

    def decorate(function: Callable[..., Any]) -> Activity[..., Any]:
        named = _Function(function, name, "activity", scope)
        named.check_retry(retry)
        if compensation is not None:
            named.check_compensation(compensation)
        return _registered(
            Activity(
                name=named.name,
                function=function,
                retry=retry,
                timeout=_checked_timeout(timeout, named.name),
                compensation=compensation,
                cancellable=cancellable,
                is_async=named.is_async,
                codec=named.codec("return"),
                signature=named.signature,
            )
        )

    return decorate if function is None else decorate(function)


class _ActivityDecorator(typing.Protocol):
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
      name: the name in the database, by default the function's.
      event_handler: whether whoever can post events to :attr:`App.asgi` may start it: an event of the type that is the
        workflow's name does, and the event's data are the input.

    Raises:
      DefinitionError: if it cannot be used so, naming function and parameter.
    """
    scope = sys._getframe(1).f_locals

    def decorate(function: Callable[..., Any]) -> Workflow[..., Any]:
        named = _Function(function, name, "workflow", scope)
        if not named.is_async:
            raise named.error("it must be an async def")
        parameters = list(named.signature.parameters.values())
        if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
            raise named.error("its first parameter must take the WorkflowContext")
        named.check_context(parameters.pop(0).name)
        codecs = named.codecs(parameters)
        return _registered(
            Workflow(
                name=named.name,
                function=function,
                codec=named.codec("return"),
                codecs=codecs,
                signature=named.signature.replace(parameters=parameters),
                event_handler=event_handler,
                takes_object=len(codecs) == 1 and is_structured(next(iter(codecs.values())).annotation),
            )
        )

    return decorate if function is None else decorate(function)


def find_workflow(name: str) -> Workflow[..., Any] | None:
    """The workflow of that name that this process has defined."""
    return _registry.get((Workflow, name))


def find_compensation(name: str) -> Compensation[..., Any] | None:
    """The compensation of that name that this process has defined."""
    return _registry.get((Compensation, name))


def all_workflows() -> list[Workflow[..., Any]]:
    """All workflows that this process has defined."""
    return [definition for (cls, _), definition in _registry.items() if cls is Workflow]


def workflow_names() -> list[str]:
    """The names of all workflows that this process has defined."""
    return [name for cls, name in _registry if cls is Workflow]


# -- checking a definition ---------------------------------------------------------------------------------------------


@frozen
class _Function:
    """A function that is being defined as something."""

    function: Callable[..., Any]
    _name: str | None
    what: str
    _scope: Mapping[str, Any]
    """Local names where it is defined, which its annotations may use."""
    name: str = field(init=False)
    signature: inspect.Signature = field(init=False)
    is_async: bool = field(init=False)
    _hints: dict[str, Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        if not inspect.isroutine(self.function):
            raise DefinitionError(f"@{self.what} is for functions, not for {self.function!r}")
        set_once = object.__setattr__
        set_once(self, "name", self.function.__name__ if self._name is None else self._name)
        if not is_id(self.name):
            raise self.error(f"its name must be a string of 1 to {MAX_ID} characters, not {self._name!r}")
        if inspect.isasyncgenfunction(self.function) or inspect.isgeneratorfunction(self.function):
            raise self.error("a generator cannot be run durably; return a list instead")
        set_once(self, "is_async", inspect.iscoroutinefunction(self.function))
        set_once(self, "signature", inspect.signature(self.function))
        try:
            hints = typing.get_type_hints(self.function, localns=dict(self._scope), include_extras=True)
        except NameError as error:
            raise self.error(f"{error.name!r} in its annotations is not defined here; define it first") from None
        except TypeError as error:
            raise self.error(f"its annotations cannot be evaluated: {error}") from None
        set_once(self, "_hints", hints)

    def error(self, problem: str) -> DefinitionError:
        return DefinitionError(f"{self.what} {self.function.__module__}.{self.function.__qualname__}: {problem}")

    def codec(self, parameter: str) -> Codec[Any]:
        """Of a parameter, or of ``return``. What has no annotation must be plain JSON data."""
        try:
            return codec(self._hints.get(parameter, Any))
        except TypeError as error:
            which = "its result" if parameter == "return" else f"its parameter {parameter!r}"
            raise self.error(f"{which}: {error}") from None

    def codecs(self, parameters: typing.Iterable[inspect.Parameter]) -> dict[str, Codec[Any]]:
        """Of parameters that must all be named."""
        for parameter in parameters:
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                raise self.error(f"its parameter '{parameter}' has no name that could be stored; list the parameters")
            if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                raise self.error(f"its parameter {parameter.name!r} must be accepted by position and by name")
        return {parameter.name: self.codec(parameter.name) for parameter in parameters}

    def check_context(self, parameter: str) -> None:
        if self._hints.get(parameter, Any) not in (Any, WorkflowContext):
            raise self.error(f"its first parameter must take the WorkflowContext, {parameter!r} is annotated otherwise")

    def check_retry(self, retry: RetryPolicy | None) -> None:
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise self.error(f"its retry must be a RetryPolicy, {retry!r} is not")

    def check_compensation(self, compensation: Compensation[..., Any]) -> None:
        if not isinstance(compensation, Compensation):
            raise self.error(f"its compensation must be made with @compensation, {compensation!r} is not")
        for name, taken in compensation.codecs.items():
            if name not in self.signature.parameters and name != "result":
                raise self.error(
                    f"its compensation {compensation.name!r} takes {name!r}, which the activity does not; "
                    f"take one of {', '.join([*self.signature.parameters, 'result'])}"
                )
            given = self._hints.get("return" if name == "result" else name, Any)
            if Any not in (given, taken.annotation) and given != taken.annotation:
                raise self.error(
                    f"its compensation {compensation.name!r} takes {name!r} as {taken.annotation}, "
                    f"and the activity gives {given}"
                )


def _registered(definition: D) -> D:
    key = (type(definition), definition.name)
    other = _registry.get(key)
    if other is not None and not _replaces(definition.function, other.function):
        what = type(definition).__name__.lower()
        raise DefinitionError(
            f"{what} {definition.function.__module__}.{definition.function.__qualname__}: the name "
            f"{definition.name!r} is taken by {other.function.__module__}.{other.function.__qualname__}; "
            f"give one of them another, with @{what}(name=...)"
        )
    _registry[key] = definition
    return definition


def _replaces(new: Callable[..., Any], old: Callable[..., Any]) -> bool:
    """Whether it is the same definition made again (a reloaded module, a script that is imported as well), or local.

    A function defined inside another is defined anew on each call: the last one counts.
    """
    if "<locals>" in new.__qualname__ and "<locals>" in old.__qualname__:
        return True
    return new.__code__.co_filename == old.__code__.co_filename and new.__qualname__ == old.__qualname__


def _checked_timeout(timeout: Duration | None, name: str) -> float | None:
    if timeout is None:
        return None
    try:
        allowed = seconds(timeout)
    except (TypeError, ValueError):
        allowed = 0.0
    if allowed <= 0:
        raise DefinitionError(f"{name!r}: a timeout is longer than zero seconds, not {timeout!r}")
    return allowed
