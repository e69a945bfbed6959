"""Facts about exceptions of user code. They hold for every exception, also for one whose attributes raise.

Nothing here asks the exception: ``isinstance`` looks up ``__class__``, which may raise or lie. Its type cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

_LONGEST_NAME = 500
"""The most characters of a qualified name."""
_MOST_CLASSES = 30
"""The most classes that are recorded of one exception."""

_type: Any = vars(type)
_mro_of: Callable[[type], tuple[type, ...]] = _type["__mro__"].__get__
_name_of: Callable[[type], str] = _type["__qualname__"].__get__
_module_of: Callable[[type], object] = _type["__module__"].__get__
_members_of: Callable[[BaseException], tuple[BaseException, ...]] = vars(BaseExceptionGroup)["exceptions"].__get__
_traceback_of: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__
_cause_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
_context_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__context__"].__get__
_suppresses_context: Callable[[BaseException], bool] = vars(BaseException)["__suppress_context__"].__get__


def is_a(error: BaseException, *classes: type[BaseException]) -> bool:
    """Return whether an ``except`` clause of these classes would catch the exception."""
    return any(base is cls for base in _mro_of(type(error)) for cls in classes)


def parts(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception itself; of a group also its members and theirs, in order."""
    remaining = [error]
    while remaining:
        part = remaining.pop()
        yield part
        if is_a(part, BaseExceptionGroup):
            remaining.extend(reversed(_members_of(part)))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group and in the groups within it, in order; or the exception itself."""
    return (part for part in parts(error) if not is_a(part, BaseExceptionGroup))


def contains(error: BaseException, *classes: type[BaseException]) -> bool:
    """Return whether the exception, or one in the group that it is, is of one of these classes."""
    return any(is_a(part, *classes) for part in parts(error))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the traceback that the interpreter has attached to the exception."""
    return _traceback_of(error)


def cause_of(error: BaseException) -> BaseException | None:
    """Return the exception that a traceback shows as the one before this one; None without one."""
    cause = _cause_of(error)
    return _context_of(error) if cause is None and not _suppresses_context(error) else cause


def origins_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions that this one was raised from, or while they were handled, also those not shown."""
    return [origin for origin in (_context_of(error), _cause_of(error)) if origin is not None]


def qualified_name(cls: type) -> str:
    """Return the name of a class with its module, without one for builtins; for the package's own, the public name."""
    try:
        module = _module_of(cls)
    except AttributeError:
        module = None
    name = _name_of(cls)
    if type(module) is str and module != "builtins":
        package = __name__.partition(".")[0]
        name = f"{package if module == f'{package}.errors' else module}.{name}"
    return storable(name, _LONGEST_NAME)


def class_names(cls: type) -> list[str]:
    """Return the qualified names of a class and its bases, up to those that every exception has."""
    named = [each for each in _mro_of(cls) if each is not BaseException and each is not object]
    return [qualified_name(each) for each in named[:_MOST_CLASSES]]


def text_of(error: BaseException, longest: int) -> str:
    """Return the text of the exception, or a remark that it has none. Only Ctrl-C is raised."""
    try:
        return storable(str(error), longest)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        return f"<its text cannot be had: str() of it raises {qualified_name(type(problem))}>"


def storable(text: str, longest: int) -> str:
    """Return the beginning of a text, with an escape for each code point that UTF-8 cannot encode."""
    beginning = str.__getitem__(text, slice(longest + 1))
    if len(beginning) > longest:
        beginning = beginning[: max(longest - 3, 0)] + "..."
    return beginning.encode("utf-8", "backslashreplace").decode()
