"""Calls the hooks of an app, and keeps their exceptions from the rest of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeVar

from .._data.codec import dumps
from .._data.failure import describe
from .._data.log_fields import about, log_with_traceback
from .._exceptions import is_a, traceback_of
from ..hooks import ActivityInfo, Hooks

T = TypeVar("T")

_logger = logging.getLogger("trio_romancy.hooks")

_METHODS = [name for name in vars(Hooks) if not name.startswith("_")]

_LONGEST_TRACE = 8_192
"""Largest trace context that is stored, in bytes of JSON."""


class HookDispatcher:
    """Calls the hooks of one app."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self._overriding = {
            name: found for name in _METHODS if (found := [one for one in hooks if _overrides(one, name)])
        }
        """The hooks that override a method, by its name. For other methods no values are made."""
        self._logged: set[tuple[int, str]] = set()
        """Hooks by ``id``, and methods, that have raised before."""

    def wants(self, method: Callable[[Hooks, T], object]) -> bool:
        """Tell whether a hook overrides this method of :class:`Hooks`."""
        return method.__name__ in self._overriding

    def call(self, method: Callable[[Hooks, T], None], what: T) -> None:
        """Call this method of all hooks that override it. Exceptions are logged."""
        name = method.__name__
        for hooks in self._overriding.get(name, ()):
            try:
                getattr(hooks, name)(what)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._log(hooks, name, error, _about(what))

    def trace_context(self, workflow: str, instance_id: str) -> str | None:
        """Return the trace context to store with a new instance, as JSON text; None: no hook has one."""
        found: dict[str, str] = {}
        for hooks in self._overriding.get("trace_context", ()):
            try:
                found |= _checked(hooks.trace_context(workflow, instance_id) or {})
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._log(hooks, "trace_context", error, about(instance_id, workflow))
        return dumps(found) if found else None

    def around(self, activity: ActivityInfo) -> Around:
        """Enter the context managers that hooks want around an attempt."""
        around = Around(self, _about(activity))
        for hooks in self._overriding.get("around_activity", ()):
            try:
                manager = hooks.around_activity(activity)
                if manager is not None:
                    manager.__enter__()
                    around.entered.append((hooks, manager))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._log(hooks, "around_activity", error, around.about)
        return around

    def _log(self, hooks: Hooks, name: str, error: BaseException, extra: dict[str, str | None]) -> None:
        method = (id(hooks), name)
        is_known = method in self._logged
        self._logged.add(method)
        level = logging.DEBUG if is_known else logging.ERROR
        if _logger.isEnabledFor(level):
            log_with_traceback(
                _logger,
                level,
                "%s.%s raised an exception, which has no other effect%s",
                type(hooks).__name__,
                name,
                "" if is_known else "; the next ones are logged at level DEBUG",
                traceback=describe(error).traceback,
                extra=extra,
                exc_info=(type(error), error, traceback_of(error)),
            )


class Around:
    """The context managers around one attempt."""

    def __init__(self, dispatcher: HookDispatcher, about: dict[str, str | None]) -> None:
        self.entered: list[tuple[Hooks, AbstractContextManager[object]]] = []
        self.about = about
        """The ``extra`` of log records about the attempt."""
        self._dispatcher = dispatcher

    def leave(self, error: BaseException | None) -> None:
        """Leave the context managers once, the last one first, with the exception that ended the attempt."""
        while self.entered:
            hooks, manager = self.entered.pop()
            try:
                if error is None:
                    manager.__exit__(None, None, None)
                else:
                    manager.__exit__(type(error), error, traceback_of(error))
            except BaseException as problem:
                if problem is error:
                    continue  # it raised the same exception again
                if is_a(problem, KeyboardInterrupt):
                    raise
                self._dispatcher._log(hooks, "around_activity", problem, self.about)


def checked_hooks(hooks: Sequence[Hooks]) -> HookDispatcher | None:
    """Return the dispatcher of an app's hooks; None without hooks.

    Raises:
      TypeError: if a member is no hook, or a method of one is asynchronous.
    """
    for one in hooks:
        if not isinstance(one, Hooks):
            raise TypeError(f"hooks are instances of subclasses of trio_romancy.Hooks, not {one!r}")
        for name in _METHODS:
            if _is_asynchronous(getattr(one, name)):
                raise TypeError(
                    f"{type(one).__name__}.{name} is asynchronous; the methods of hooks are plain functions"
                )
    return HookDispatcher(hooks) if hooks else None


def _about(what: object) -> dict[str, str | None]:
    return about(*(getattr(what, name, None) for name in about(None)))


def _overrides(hooks: Hooks, name: str) -> bool:
    return getattr(getattr(hooks, name), "__func__", None) is not vars(Hooks)[name]


def _is_asynchronous(method: Any) -> bool:
    return iscoroutinefunction(method) or isasyncgenfunction(method)


def _checked(context: Mapping[str, str]) -> dict[str, str]:
    for key, value in context.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"a trace context holds strings only, not {key!r}: {value!r}")
    if (size := len(dumps(dict(context)))) > _LONGEST_TRACE:
        raise ValueError(f"the trace context is {size} bytes of JSON, more than the {_LONGEST_TRACE} that are stored")
    return dict(context)
