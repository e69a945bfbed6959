"""Ids of instances, operations and workers: checks them, and makes new ones."""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import Any

MAX_ID = 255
"""Most characters in an id, and in the name of a definition."""


def is_id(id: Any) -> bool:
    """Tell whether every database can store an id: 1 to 255 characters of text, without NUL and lone surrogates."""
    if not isinstance(id, str) or not 0 < len(id) <= MAX_ID or "\0" in id:
        return False
    return id.isascii() or not any("\ud800" <= character <= "\udfff" for character in id)


def checked_id(id: Any, what: str = "an id") -> str:
    """Return an id.

    Args:
      what: what the id is for, for the message.

    Raises:
      ValueError: if it is not a valid id.
    """
    if not is_id(id):
        raise ValueError(f"{what} is a string of 1 to {MAX_ID} characters without NUL and lone surrogates, not {id!r}")
    checked: str = id
    return checked


def short_id(id: str) -> str:
    """Return an id, or a digest of it if it is too long."""
    return id if len(id) <= MAX_ID else hashlib.sha256(id.encode()).hexdigest()


def compensation_id(operation_id: str) -> str:
    """Return the id of the compensation of an operation, as an operation of its own."""
    return short_id(f"{operation_id}/compensation")


_DRAWN_AT_ONCE = 100

_drawn: list[str] = []
"""Random ends of the next ids. One system call for each id would take longer than the rest of it, and let other threads
run first."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drawn.clear)  # a child process must not repeat the ids of its parent


def _draw() -> str:
    digits = os.urandom(10 * _DRAWN_AT_ONCE).hex()
    _drawn.extend(f"-7{a}-{_VARIANTS[variant]}{b}-{c}" for variant, a, b, c in _PARTS.findall(digits))
    return _drawn.pop()


_PARTS = re.compile("(.)(...)(...)(.{12}).")
"""Parts of twenty hexadecimal digits."""
_VARIANTS = {f"{digit:x}": f"{0x8 | digit & 0x3:x}" for digit in range(16)}
"""First digit of the variant, by a random digit: two bits mark a UUID of RFC 9562, the others stay random."""


def new_id() -> str:
    """Return a new UUID of version 7. Later ones sort after earlier ones, which keeps indexes compact (RFC 9562)."""
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    try:
        end = _drawn.pop()
    except IndexError:  # no check beforehand, because another thread may take the last one after it
        end = _draw()
    return f"{milliseconds[:8]}-{milliseconds[8:]}{end}"
