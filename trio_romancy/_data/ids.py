"""Ids of instances, operations and workers: what they may be, and new ones."""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import Any

MAX_ID = 255
"""The most characters in an id, and in the name of a definition."""


def is_id(id: Any) -> bool:
    """Whether every database can hold it: 1 to 255 characters of text, without NUL or lone surrogates."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID or "\0" in id:
        return False
    return id.isascii() or not any("\ud800" <= character <= "\udfff" for character in id)


def checked_id(id: Any, what: str = "an id") -> str:
    """The id, if it is one.

    Raises:
      ValueError: otherwise.
    """
    if not is_id(id):
        raise ValueError(f"{what} is a string of 1 to {MAX_ID} characters without NUL and lone surrogates, not {id!r}")
    checked: str = id
    return checked


def short_id(id: str) -> str:
    """The id; or, if it is too long for one, a digest of it."""
    return id if len(id) <= MAX_ID else hashlib.sha256(id.encode()).hexdigest()


_DRAWN_AT_ONCE = 100

_drawn: list[str] = []
"""The random ends of the next ids. To ask the system for each would take longer than all the rest of an id, and let
other threads go first."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drawn.clear)  # the ids of a child are its own


def _draw() -> str:
    digits = os.urandom(10 * _DRAWN_AT_ONCE).hex()
    _drawn.extend(f"-7{a}-{_VARIANTS[variant]}{b}-{c}" for variant, a, b, c in _PARTS.findall(digits))
    return _drawn.pop()


_PARTS = re.compile("(.)(...)(...)(.{12}).")
"""Of twenty hexadecimal digits."""
_VARIANTS = {f"{digit:x}": f"{0x8 | digit & 0x3:x}" for digit in range(16)}
"""Two bits of the first digit say that it is a UUID of RFC 9562, the others are random."""


def new_id() -> str:
    """A UUID of version 7: new ones sort behind old ones, which keeps the database's indexes compact (RFC 9562)."""
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    try:
        end = _drawn.pop()
    except IndexError:  # and not looked at before: another thread may take the last one
        end = _draw()
    return f"{milliseconds[:8]}-{milliseconds[8:]}{end}"
