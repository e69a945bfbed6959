"""Calls hooks, so that what they do harms nobody else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeVar

from .._data.codec import dumps
from .._data.log_fields import about
from ..hooks import ActivityInfo, Hooks

T = TypeVar("T")

_logger = logging.getLogger("trio_romancy.hooks")

_METHODS = [name for name in vars(Hooks) if not name.startswith("_")]

_LONGEST_TRACE = 8_192
"""Bytes of JSON text that are stored of a trace context."""


class HookDispatcher:
    """The hooks of an app."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self._heard = {name: heard for name in _METHODS if (heard := [one for one in hooks if _overrides(one, name)])}
        """By method, those that override it: for the others nothing is made that nobody would look at."""
        self._logged: set[tuple[int, str]] = set()
        """Which method of which of them has raised before."""

    def hear(self, method: Callable[[Hooks, T], object]) -> bool:
        """Whether one of them overrides that method of :class:`Hooks`."""
        return method.__name__ in self._heard

    def tell(self, method: Callable[[Hooks, T], None], what: T) -> None:
        """Tell all of them: call that method of :class:`Hooks`."""
        name = method.__name__
        for hooks in self._heard.get(name, ()):
            try:
                getattr(hooks, name)(what)
            except Exception as error:
                self._log(hooks, name, error, _about(what))

    def trace_context(self, workflow: str, instance_id: str) -> str | None:
        """What they want to be stored with a new instance, as JSON text."""
        found: dict[str, str] = {}
        for hooks in self._heard.get("trace_context", ()):
            try:
                found |= _checked(hooks.trace_context(workflow, instance_id) or {})
            except Exception as error:
                self._log(hooks, "trace_context", error, about(instance_id, workflow))
        return dumps(found) if found else None

    def around(self, activity: ActivityInfo) -> Around:
        """Enter what they want an attempt to run in."""
        around = Around(self, _about(activity))
        for hooks in self._heard.get("around_activity", ()):
            try:
                manager = hooks.around_activity(activity)
                if manager is not None:
                    manager.__enter__()
                    around.entered.append((hooks, manager))
            except Exception as error:
                self._log(hooks, "around_activity", error, around.about)
        return around

    def _log(self, hooks: Hooks, name: str, error: Exception, extra: dict[str, str | None]) -> None:
        method = (id(hooks), name)
        is_known = method in self._logged
        self._logged.add(method)
        _logger.log(
            logging.DEBUG if is_known else logging.ERROR,
            "%s.%s raised an exception, which does no harm%s",
            type(hooks).__name__,
            name,
            "" if is_known else "; the next ones are logged at level DEBUG",
            exc_info=error,
            extra=extra,
        )


class Around:
    """What one attempt runs in."""

    def __init__(self, dispatcher: HookDispatcher, about: dict[str, str | None]) -> None:
        self.entered: list[tuple[Hooks, AbstractContextManager[object]]] = []
        self.about = about
        """The ``extra`` of what is logged of it."""
        self._dispatcher = dispatcher

    def leave(self, error: BaseException | None) -> None:
        """The attempt has ended, with this exception. What it ran in is left once, the last entered first."""
        while self.entered:
            hooks, manager = self.entered.pop()
            try:
                if error is None:
                    manager.__exit__(None, None, None)
                else:
                    manager.__exit__(type(error), error, error.__traceback__)
            except BaseException as problem:
                if problem is error:
                    continue  # it lets it through
                if not isinstance(problem, Exception):
                    raise
                self._dispatcher._log(hooks, "around_activity", problem, self.about)


def checked_hooks(hooks: Sequence[Hooks]) -> HookDispatcher | None:
    """Those who call the hooks of an app; None if it has none.

    Raises:
      TypeError: if something is no hook, or a method of one is asynchronous.
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
