"""Rules for values without parts, such as numbers, datetimes and UUIDs: how JSON data become them, and back."""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from cattrs import Converter

from .annotations import kind_of
from .diagnosis import expected, short

_MICROSECOND = timedelta(microseconds=1)

ISO_DURATION = re.compile(
    r"([+-])?P(?=[0-9T])(?:([0-9]{1,12})W)?(?:([0-9]{1,12})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,12})H)?(?:([0-9]{1,12})M)?(?:([0-9]{1,15})(?:[.,]([0-9]{1,6})0*)?S)?)?",
    re.ASCII,
)
"""Durations in ISO 8601, without years and months, whose length is not fixed."""
_WHOLE = re.compile(r"-?[0-9]{1,30}", re.ASCII)

Hook = Callable[[Any, Any], Any]
"""Makes a value of plain JSON data and an annotation."""


class AlteredError(Exception):
    """A value would be read back as another one. The text says so in words for users."""


def altered(value: object, restored: object, annotation: Any = object) -> str:
    """Return the message for a value that would be read back as another one."""
    kind = kind_of(annotation)
    if isinstance(kind, type) and not isinstance(value, kind):
        return expected(annotation, value)
    return f"{short(value)} would be read back as {short(restored)}; give its exact type"


def of_kind(annotation: Any, kind: type, parsed: Any, value: object) -> Any:
    """Return a parsed value as an instance of its annotated class, such as an ``IntEnum`` made of an int.

    Raises:
      TypeError: if the class does not take the value.
    """
    if annotation is kind or not isinstance(annotation, type):  # such as Annotated[int, ...]
        return parsed
    try:
        made = annotation(parsed)
    except Exception:
        raise TypeError(expected(annotation, value)) from None
    if isinstance(made, enum.Enum) and type(made.value) is not type(parsed):  # Python takes 2.0 and True as ints
        raise TypeError(expected(annotation, value))
    return made


def _to_str(value: object, annotation: Any) -> Any:
    if type(value) is not str:
        raise TypeError(expected(annotation, value))
    return value if annotation is str else of_kind(annotation, str, value, value)


def _to_bool(value: object, _: object) -> bool:
    if type(value) is bool:
        return value
    raise TypeError(expected(bool, value))


def _to_int(value: object, annotation: Any) -> Any:
    if type(value) is not int:
        raise TypeError(expected(annotation, value))
    return value if annotation is int else of_kind(annotation, int, value, value)


def _to_float(value: object, annotation: Any) -> Any:
    if type(value) is not float and type(value) is not int:
        raise TypeError(expected(annotation, value))
    number = float(value)
    return number if annotation is float else of_kind(annotation, float, number, value)


def _to_none(value: object, _: object) -> None:
    if value is not None:
        raise TypeError(expected(type(None), value))


def _parsed(kind: type, parse: Callable[[str], Any]) -> Hook:
    def structure(value: object, annotation: Any) -> Any:
        if type(value) is not str:
            raise TypeError(expected(annotation, value))
        try:
            parsed = parse(value)
        except (ValueError, ArithmeticError):
            raise TypeError(expected(annotation, value)) from None
        return of_kind(annotation, kind, parsed, value)

    return structure


def _to_timedelta(value: object, _: object) -> timedelta:
    found = ISO_DURATION.fullmatch(value) if type(value) is str else None
    if found is None:
        raise TypeError(f"expected timedelta (in ISO 8601, such as 'PT1M30S' or 'P2DT12H'), got {short(value)}")
    sign, *numbers = found.groups("0")
    weeks, days, hours, minutes, seconds, fraction = map(int, (*numbers[:5], numbers[5].ljust(6, "0")))
    try:
        duration = timedelta(days, seconds, fraction, 0, minutes, hours, weeks)
        return -duration if sign == "-" else duration
    except OverflowError:
        if value == from_timedelta(timedelta.min):  # its opposite is longer than the longest
            return timedelta.min
        raise TypeError(f"a timedelta has at most 999999999 days, got {short(value)}") from None


def _to_stored_timedelta(value: object, annotation: object) -> timedelta:
    if type(value) is int:
        return timedelta(microseconds=value)
    if type(value) is str and _WHOLE.fullmatch(value):  # as a key
        return timedelta(microseconds=int(value))
    return _to_timedelta(value, annotation)


def from_timedelta(value: timedelta) -> str:
    """Return a duration in ISO 8601: ``PT1M30S``, ``P2DT12H``, ``-PT0.5S``."""
    whole = value // _MICROSECOND
    days, rest = divmod(abs(whole), 86_400_000_000)
    hours, rest = divmod(rest, 3_600_000_000)
    minutes, rest = divmod(rest, 60_000_000)
    seconds, fraction = divmod(rest, 1_000_000)
    tail = f".{fraction:06}".rstrip("0") if fraction else ""
    time = f"{hours}H" * (hours > 0) + f"{minutes}M" * (minutes > 0) + f"{seconds}{tail}S" * (rest > 0)
    date = f"{days}D" * (days > 0)
    return f"{'-' * (whole < 0)}P{date}{'T' * bool(time)}{time}" if whole else "PT0S"


def _to_decimal(text: str) -> Decimal:
    number = Decimal(text)
    if number.is_nan():
        raise ValueError("NaN is not equal to itself")
    return number


def _from_decimal(value: Decimal) -> str:
    if value.is_nan():
        raise AlteredError(f"{value!r} cannot be stored, it is not equal to itself")
    return str(value)


def _text_of(kind: type) -> Callable[[Any], str]:
    def unstructure(value: object) -> str:
        if isinstance(value, kind):
            return str(value)
        raise TypeError(expected(kind, value))  # without this check, str() would take any value

    return unstructure


def register_scalars(converter: Converter, *, reads_stored: bool) -> None:
    """Register the rules of all scalar types with a converter.

    Args:
      reads_stored: whether to read what earlier versions have stored as well: a timedelta as microseconds. From outside
        such a number is more likely meant as seconds, and is refused.
    """
    for kind, structure in (
        (str, _to_str),
        (bool, _to_bool),
        (int, _to_int),
        (float, _to_float),
        (type(None), _to_none),
        (timedelta, _to_stored_timedelta if reads_stored else _to_timedelta),
        (bytes, _parsed(bytes, lambda text: base64.b64decode(text, validate=True))),
        (datetime, _parsed(datetime, datetime.fromisoformat)),
        (date, _parsed(date, date.fromisoformat)),
        (time, _parsed(time, time.fromisoformat)),
        (Decimal, _parsed(Decimal, _to_decimal)),
        (UUID, _parsed(UUID, UUID)),
        (Path, _parsed(Path, Path)),
    ):
        converter.register_structure_hook(kind, structure)
    converter.register_unstructure_hook(timedelta, from_timedelta)
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode("ascii"))
    for iso in (datetime, date, time):
        converter.register_unstructure_hook(iso, lambda value: value.isoformat())
    for text in (UUID, Path):
        converter.register_unstructure_hook(text, _text_of(text))
    converter.register_unstructure_hook(Decimal, _from_decimal)
    converter.register_unstructure_hook(enum.StrEnum, lambda member: member.value)
