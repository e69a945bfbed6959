"""Values that are large as JSON: they are encoded and decoded in a thread, so that the event loop goes on meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

import trio

from .._tasks.apart import apart
from .annotations import field_names, is_class

T = TypeVar("T")

LARGE = 100_000
"""Size of a text from which on it counts as large, in characters: a millisecond's work."""
_PART = 50
"""Characters that a part of a value counts for, whatever it is: each takes the time that so many characters take."""
_SMALL = frozenset({type(None), bool, int, float})
_ARRAYS = (list, tuple, set, frozenset, deque)


def is_large(value: object) -> bool:
    """Return whether a value is likely to be large as JSON. Only as many of its parts are looked at as tell that."""
    if type(value) in _SMALL:
        return False
    if type(value) is str:
        return len(value) >= LARGE
    try:
        return _is_large(value)
    except Exception:  # of the user's class, which raises when it is looked at
        return False


def _is_large(value: object) -> bool:
    room, left = LARGE, [value]
    while left:
        one: Any = left.pop()
        room -= _PART
        if type(one) in _SMALL:
            pass
        elif isinstance(one, (str, bytes)):
            room -= len(one)
        elif isinstance(one, dict):
            room -= 2 * _PART * len(one)
            if room > 0:
                left += one
                left += one.values()
        elif isinstance(one, _ARRAYS):
            room -= _PART * len(one)
            if room > 0:
                left += one
        else:
            kind: Any = type(one)
            left += [getattr(one, name, None) for name in _fields(kind)]
        if room <= 0:
            return True
    return False


@lru_cache(maxsize=1024)
def _fields(cls: Any) -> tuple[str, ...]:
    return tuple(field_names(cls)) if is_class(cls) else ()


async def encoded(value: object, encode: Callable[[], T], *, shield: bool = False) -> T:
    """Return ``encode()``, which encodes the value and may take long. It is called in a thread if the value is large.

    Args:
      shield: whether no cancellation is delivered. Otherwise one is, before a large value is encoded.
    """
    if is_large(value):
        # An error may come only from another task that changes the value meanwhile, which cannot happen in the loop.
        with suppress(Exception), trio.CancelScope(shield=shield):
            return await apart(encode)
    return encode()


async def decoded(size: int, decode: Callable[[], T]) -> T:
    """Return ``decode()``, which decodes text of that many characters. It is called in a thread if the text is large.

    Cancellation is delivered before a large text is decoded, or never.
    """
    return decode() if size < LARGE else await apart(decode)
