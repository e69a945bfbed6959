"""Ids of instances, operations and workers: what they may be, and new ones."""

from __future__ import annotations

import os
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


def new_id() -> str:
    """A UUID of version 7: new ones sort behind old ones, which keeps the database's indexes compact (RFC 9562)."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    digits = f"{number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
