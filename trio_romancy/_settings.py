"""Checks of the options of an app, and of the arguments of its methods."""

from __future__ import annotations

from collections.abc import Collection

from .clock import Duration, microseconds
from .model import Status


def checked_token(token: str) -> bytes:
    """A bearer token as clients send it: what a header carries unchanged, and uncut. The error does not show it."""
    if not isinstance(token, str) or not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("web_token is a string of ASCII characters without spaces, and not empty")
    return token.encode("ascii")


def checked_duration(name: str, value: Duration, *, least: int) -> int:
    """A duration in microseconds."""
    try:
        duration = microseconds(value)
    except (TypeError, ValueError):
        duration = -1
    if duration < least:
        than = "longer than" if least else "at least"
        raise ValueError(f"{name} is a number of seconds (or a timedelta) {than} zero, not {value!r}")
    return duration


def check_numbers(*, least: int = 1, **numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < least:
            raise ValueError(f"{name} is a whole number, at least {least}, not {number!r}")


def as_statuses(status: Status | Collection[Status] | None) -> list[Status]:
    """One status, or several, or none."""
    given = () if status is None else (status,) if isinstance(status, str) else status
    return [Status(each) for each in given]
