"""Times, durations, counts and untrusted text for a terminal."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from ..._data.log_fields import visible

_LONGEST_LINE = 60
"""Most characters of JSON on one line."""

Styled = str | tuple[str, str]
"""Text, or text with the name of a rich style."""

MINUTE, HOUR, DAY = 60, 3600, 86400
"""Seconds."""


def short_json(data: Any) -> str:
    """Return JSON on one line."""
    return visible(json.dumps(data, ensure_ascii=False))


def long_json(data: Any) -> str:
    """Return JSON, on several lines if it is long."""
    text = short_json(data)
    if len(text) > _LONGEST_LINE:
        text = "\n".join(map(visible, json.dumps(data, ensure_ascii=False, indent=2).splitlines()))
    return text


def at(when: datetime) -> str:
    """Return a time in UTC, to the second."""
    return f"{when:%Y-%m-%d %H:%M:%S}Z"


def lasting(seconds: float) -> str:
    """Return a duration, in seconds, in its two largest units."""
    if seconds < MINUTE:
        return f"{max(seconds, 0):.3f}s"
    whole = int(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE}m{whole % MINUTE:02}s"
    if whole < DAY:
        return f"{whole // HOUR}h{whole % HOUR // MINUTE:02}m"
    return f"{whole // DAY}d{whole % DAY // HOUR:02}h"


def ago(when: datetime, now: datetime) -> str:
    """Return how long ago a time was, in its largest unit."""
    seconds = int((now - when).total_seconds())
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{max(seconds, 0)}s ago"


def ahead(when: datetime, now: datetime) -> str:
    """Return in how long a time comes, in its two largest units."""
    seconds = (when - now).total_seconds()
    return "now" if seconds < 1 else f"in {lasting(int(seconds)).replace('.000', '')}"


def count(number: int, what: str) -> str:
    """Return a number with a noun: ``1 entry``, ``2 entries``."""
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what[:-1]}ies" if what.endswith("y") else f"{number:,} {what}s"
