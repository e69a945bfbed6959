"""Exceptions that raise when they are looked at, lie, or are too much."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class Unlucky(RuntimeError):
    """What looking at a strange exception raises."""


def _fails(*args: Any, **kwargs: Any) -> Any:
    raise Unlucky("working outside of a context")


def _fails_hard(*args: Any, **kwargs: Any) -> Any:
    sys.exit(3)


def _class(**attributes: Any) -> type[Exception]:
    return type("Strange", (Exception,), {"__module__": "shop", **attributes})


class _FailingMeta(type):
    __mro__ = property(_fails)
    __name__ = property(_fails)
    __eq__ = __hash__ = _fails


class _StrangeText(str):
    __slots__ = ()
    __getitem__ = __len__ = encode = __add__ = __format__ = _fails


def _with_cause_loop() -> Exception:
    first, second = _class()("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def _with_deep_causes() -> Exception:
    error = _class()("the last of many")
    last: BaseException = error
    for number in range(3000):
        last.__cause__ = ValueError(number)
        last = last.__cause__
    return error


def _nested(error: Exception) -> Exception:
    for _ in range(5000):
        error = ExceptionGroup("group", [error])
    return error


def _with_strange_cause() -> Exception:
    error = _class()("the effect")
    error.__cause__ = _class(__class__=property(_fails))("the cause")
    return error


def _noted() -> Exception:
    error = _class()("noted")
    notes: Any = [object(), "\ud800", 3]
    error.__notes__ = notes
    return error


STRANGE: dict[str, Callable[[], Exception]] = {
    "isinstance": lambda: _class(__class__=property(_fails))("x"),
    "lying class": lambda: _class(__class__=KeyboardInterrupt)("x"),
    "claims to be terminal": lambda: _class(__class__=property(lambda self: __import__("trio_romancy").TerminalError))(
        "x"
    ),
    "str": lambda: _class(__str__=_fails)("x"),
    "str exits": lambda: _class(__str__=_fails_hard)("x"),
    "str is no text": lambda: _class(__str__=lambda self: 3)("x"),
    "strange text": lambda: _class(__str__=lambda self: _StrangeText("x"))("x"),
    "repr": lambda: _class(__repr__=_fails)("x"),
    "traceback": lambda: _class(__traceback__=property(_fails))("x"),
    "args": lambda: _class(args=property(_fails))("x"),
    "notes": lambda: _class(__notes__=property(_fails))("x"),
    "notes exit": lambda: _class(__notes__=property(_fails_hard))("x"),
    "notes of any kind": _noted,
    "cause": lambda: _class(__cause__=property(_fails), __context__=property(_fails))("x"),
    "cause loop": _with_cause_loop,
    "deep causes": _with_deep_causes,
    "strange cause": _with_strange_cause,
    "deep groups": lambda: _nested(_class()("x")),
    "attributes": lambda: _class(__getattribute__=_fails)("x"),
    "equality and hash": lambda: _class(__eq__=_fails, __hash__=_fails, __bool__=_fails)("x"),
    "metaclass": lambda: _FailingMeta("Strange", (Exception,), {})("x"),
    "no module": lambda: _class(__module__=None)("x"),
    "a module that is no name": lambda: _class(__module__=property(_fails))("x"),
    "huge name": lambda: type("Strange" * 10_000, (Exception,), {"__module__": "shop"})("x"),
    "huge message": lambda: _class()("x" * 3_000_000),
    "control characters": lambda: _class()("x\x00\x1b[31m\r\n\x85"),
    "lone surrogates": lambda: _class()("x\ud800\udfff"),
    "strange group": lambda: type("Strange", (ExceptionGroup,), {"exceptions": property(_fails), "split": _fails})(
        "group", [ValueError("x"), _class(__str__=_fails)("y")]
    ),
}
"""Each makes one."""
