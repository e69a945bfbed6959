"""What the text of an argument means."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from .failures import StopError

Path = str | tuple[str, ...]
"""Where in an input: with dots, or key by key."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)


def read_json(text: str, what: str) -> Any:
    """JSON data; of a dash, what is on standard input."""
    if text == "-":
        text = sys.stdin.read()
    try:
        return _decoder.decode(text)
    except ValueError as error:
        raise StopError(f"{what} is no JSON ({error}): a string needs its quotes, as in '\"text\"'") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def read_conditions(texts: Sequence[str]) -> dict[Path, Any]:
    """What ``PATH=VALUE`` arguments ask for. A value that is no JSON is a string."""
    conditions: dict[Path, Any] = {}
    for text in texts:
        path, value = _split(text)
        if path in conditions:
            raise StopError(f"the path of {text!r} is given twice")
        try:
            conditions[path] = _decoder.decode(value)
        except ValueError:
            conditions[path] = value
    return conditions


def _split(text: str) -> tuple[Path, str]:
    path: Path
    if text.startswith("["):
        path, rest = _read_keys(text)
        equals, value = rest[:1], rest[1:]
    else:
        path, equals, value = text.partition("=")
    if not path or equals != "=":
        raise StopError(f"a condition looks like PATH=VALUE, such as customer.id=42, not like {text!r}")
    return path, value


def read_path(text: str) -> Path:
    """A path: with dots, or as a JSON list of keys, which may hold anything."""
    if not text.startswith("["):
        return text
    keys, rest = _read_keys(text)
    if rest:
        raise StopError(f"{rest!r} is too much behind the list of {text!r}")
    return keys


def _read_keys(text: str) -> tuple[tuple[str, ...], str]:
    try:
        keys, end = _decoder.raw_decode(text)
    except ValueError:
        keys, end = None, 0
    if not isinstance(keys, list) or not all(type(key) in (str, int) for key in keys):
        raise StopError(f"""a path as a list looks like '["customer","the.id",0]', not like {text!r}""")
    return tuple(map(str, keys)), text[end:]


def read_duration(text: str) -> timedelta:
    """A length of time: a number, and s, m, h, d or w."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise StopError(f"a duration is a number with a unit, such as 90s, 15m, 12h, 30d or 2w, not {text!r}")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise StopError(f"{text} is too long") from None


def read_time(text: str, now: datetime) -> datetime:
    """A point in time: in ISO 8601, in UTC if it says nothing else, or so long ago."""
    if _DURATION.fullmatch(text.strip()):
        try:
            return now - read_duration(text)
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise StopError(f"a time looks like 2026-01-31T12:00, or like 2h (two hours ago), not like {text!r}") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
