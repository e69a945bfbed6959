"""What every process can read: how damaged JSON text is shown, and what must not be stored."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from ..clock import Microseconds, due_since, to_datetime
from . import patient_json
from .large import LARGE

MOST_DIGITS = 4300
"""The most digits of a number: others are refused by a Python with its default ``sys.set_int_max_str_digits``."""
MOST_DEPTH = 200
"""The most arrays and objects in each other. Python reads as many from any place in a program."""
_TOO_MANY = 2**62
_HARMLESS = 2 * MOST_DEPTH
"""Length of a text that cannot be nested too deeply, nor have too many digits."""

_decode = json.JSONDecoder().decode
_NUMBER = re.compile(rf"[0-9]{{{MOST_DIGITS + 1}}}")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKETS = re.compile(r"[\[\]{}]")


def readable(text: str | None) -> tuple[Any, str | None]:
    """Return the data of stored JSON text, or what can be shown of them, and why they cannot be read if they cannot."""
    if text is None:
        return None, None
    try:
        return _decode(text) if len(text) < LARGE else patient_json.loads(text), None
    except (RecursionError, TypeError, ValueError) as error:
        shown = text if isinstance(text, str) and len(text) <= _HARMLESS else f"{text!s:.{_HARMLESS}}..."
        return {"unreadable": shown}, str(error)


def readable_time(when: Microseconds) -> tuple[datetime, str | None]:
    """Return a stored time, or the epoch, and why the time cannot be read if it cannot."""
    try:
        return to_datetime(when), None
    except (OverflowError, TypeError, ValueError):
        return to_datetime(0), f"{when!r} is no time"


def readable_due(when: Microseconds) -> tuple[datetime, str | None]:
    """Return the time from which something is due like :func:`readable_time`."""
    return readable_time(due_since(when) if isinstance(when, int) else when)


def why_no_number(value: object) -> str | None:
    """Return why a stored value is no whole number that counts something; None: it is one."""
    return None if type(value) is int and 0 <= value < _TOO_MANY else f"{value!r} is no number of anything"


def why_unreadable(text: str) -> str | None:
    """Return why another process could not read this JSON text, although this one has written it; None: it can."""
    if len(text) <= _HARMLESS:
        return None
    is_long = _NUMBER.search(text) is not None
    if not is_long and text.count("[") + text.count("{") <= MOST_DEPTH:
        return None
    bare = _STRING.sub("", text)
    if is_long and _NUMBER.search(bare):
        return f"it contains a number of more than {MOST_DIGITS:,} digits"
    depth = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MOST_DEPTH:
            return f"it is nested too deeply: more than {MOST_DEPTH} lists and objects in each other"
    return None
