"""Parsing of command line arguments: JSON, conditions, paths, durations and times."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from .._data.codec import codec
from ..errors import InvalidDataError
from ..web import strict_json
from .failures import StopError

Path = str | tuple[str, ...]
"""A path in an input: keys joined by dots, or a tuple of keys."""

_LONGEST = 100
"""Most characters of an argument in a message."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)


def read_json(text: str, what: str) -> Any:
    """Parse JSON. A dash reads standard input.

    Raises:
      StopError: if it is not JSON.
    """
    try:
        return strict_json.loads((sys.stdin.read() if text == "-" else text).encode())
    except ValueError as error:
        why = str(error).removeprefix("it is not JSON: ")
        raise StopError(f"{what} is not JSON ({why}): a string needs its quotes, as in '\"text\"'") from None
    except OSError as error:
        raise StopError(f"standard input cannot be read: {error.strerror}") from None


def read_conditions(texts: Sequence[str]) -> dict[Path, Any]:
    """Parse ``PATH=VALUE`` arguments. A value that is not JSON is a string.

    Raises:
      StopError: if one has another form, or if a path is given twice.
    """
    conditions: dict[Path, Any] = {}
    for text in texts:
        path, value = _split(text)
        if path in conditions:
            raise StopError(f"the path of {_short(text)} is given twice")
        conditions[path] = _read_value(value, text)
    return conditions


def _read_value(value: str, condition: str) -> Any:
    try:
        _decoder.decode(value)
    except ValueError:
        if "\0" in value or not _is_unicode(value):
            raise StopError(f"the value of {_short(condition)} is not text") from None
        return value
    except RecursionError:
        pass  # the strict reader says how deep it may be
    return read_json(value, f"the value of {_short(condition)}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _is_unicode(text: str) -> bool:
    """Tell whether an argument was text in the encoding of the terminal."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _short(argument: str) -> str:
    """Return an argument for a message."""
    return repr(argument if len(argument) <= _LONGEST else f"{argument[:_LONGEST]}...")


def _split(text: str) -> tuple[Path, str]:
    path: Path
    if text.startswith("["):
        path, rest = _read_keys(text)
        equals, value = rest[:1], rest[1:]
    else:
        path, equals, value = text.partition("=")
    if not path or equals != "=":
        raise StopError(f"a condition looks like PATH=VALUE, such as customer.id=42, not like {_short(text)}")
    return path, value


def read_path(text: str) -> Path:
    """Parse a path: keys joined by dots, or a JSON list of keys, which may contain any character.

    Raises:
      StopError: if it is not a path.
    """
    if not text.startswith("["):
        return text
    keys, rest = _read_keys(text)
    if rest:
        raise StopError(f"{rest!r} is too much after the list of {text!r}")
    return keys


def _read_keys(text: str) -> tuple[tuple[str, ...], str]:
    try:
        keys, end = _decoder.raw_decode(text)
    except (ValueError, RecursionError):
        keys, end = None, 0
    if not isinstance(keys, list) or not all(type(key) in (str, int) for key in keys):
        raise StopError(f"""a path as a list looks like '["customer","the.id",0]', not like {_short(text)}""")
    return tuple(map(str, keys)), text[end:]


def read_duration(text: str) -> timedelta:
    """Parse a duration: a number with the unit s, m, h, d or w, or ISO 8601 as in JSON.

    Raises:
      StopError: if it has another form, or is too long.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        with suppress(InvalidDataError):
            duration: timedelta = codec(timedelta).decode(text.strip())
            if duration >= timedelta(0):
                return duration
        raise StopError(f"a duration is a number with a unit, such as 90s, 15m, 12h, 30d or 2w, not {text!r}")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise StopError(f"{text} is too long") from None


def read_limit(text: str) -> float:
    """Parse a duration in which a number without a unit means seconds, as in Python. Return it in seconds.

    Raises:
      StopError: if it is not a duration, or negative.
    """
    with suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    return read_duration(text).total_seconds()


def read_time(text: str, now: datetime) -> datetime:
    """Parse a time: ISO 8601, in UTC unless it has an offset; or a duration before ``now``.

    Raises:
      StopError: if it is neither.
    """
    if _DURATION.fullmatch(text.strip()) or text.strip().startswith("P"):
        try:
            return now - read_duration(text)
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise StopError(f"a time looks like 2026-01-31T12:00, or like 2h (two hours ago), not like {text!r}") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
