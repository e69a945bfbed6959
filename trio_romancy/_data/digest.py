"""Digests of values, to compare values without storing them. Equal values have the same digest in every process."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

import attrs

_DEEPEST = 40
"""The most levels of containers in a value that is digested."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""Types whose ``repr`` tells equal values from others. A subclass counts as the first of them that it is made of."""
_TEXT = (Decimal, UUID, datetime, date, time, timedelta, PurePath)
"""Types whose text does."""
_EMPTY = (list, dict, set)
"""Factories of default values that are known to be empty."""


class Digest(NamedTuple):
    """The digest of a value."""

    text: str
    """Twelve hexadecimal digits."""
    is_fixed: bool
    """Whether the value cannot change: it has no list, no dict, and no object with attributes that can be set."""


class _CannotCompareError(Exception):
    """The value has a part that is no data, such as a connection."""


def digest(value: object, salt: str) -> Digest | None:
    """Return the digest of a value; None if it is not made of data alone.

    The order of a dict and of a set does not count. Of the fields of a class those do not count that have their
    default, so that a field can be added.

    Args:
      value: the value.
      salt: equal values with different salts have different digests, so that a stored digest tells little.
    """
    try:
        canonical, is_fixed = _of(value, 0)
    except Exception:  # of the value's own methods, too
        return None
    key = blake2b(salt.encode("utf-8", "surrogatepass")).digest()
    return Digest(blake2b(canonical, key=key, digest_size=6).hexdigest(), is_fixed)


def _of(value: Any, depth: int) -> tuple[bytes, bool]:
    """Return a digest without salt, and whether the value cannot change."""
    if depth > _DEEPEST:
        raise _CannotCompareError
    if isinstance(value, Enum):
        return _made_of("enum", value.name), True
    for kind in _PLAIN:
        if isinstance(value, kind):
            represent: Any = kind.__repr__  # not that of a subclass
            return _made_of(kind.__name__, represent(value)), True
    if isinstance(value, _TEXT):
        return _made_of(_kind_of(value), str(value)), True
    if isinstance(value, list | deque):
        return _of_parts("list", value, depth)[0], False
    if isinstance(value, tuple):
        return _of_parts("list", value, depth)
    if isinstance(value, AbstractSet):
        parts = [_of(part, depth + 1)[0] for part in value]
        return _joined("set", sorted(parts)), isinstance(value, frozenset)
    if isinstance(value, Mapping):
        items = [_of(key, depth + 1)[0] + _of(part, depth + 1)[0] for key, part in value.items()]
        return _joined("dict", sorted(items)), False
    return _of_object(value, depth)


def _of_object(value: Any, depth: int) -> tuple[bytes, bool]:
    cls = type(value)
    fields: list[tuple[str, Any]]
    if attrs.has(cls):
        fields = [(field.name, getattr(field.default, "factory", field.default)) for field in attrs.fields(cls)]
        is_frozen = getattr(cls.__setattr__, "__name__", "") == "_frozen_setattrs"
    elif dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        fields = [
            (field.name, field.default if field.default_factory is missing else field.default_factory)
            for field in dataclasses.fields(cls)
        ]
        is_frozen = getattr(cls, "__dataclass_params__").frozen  # noqa: B009
    else:
        raise _CannotCompareError
    parts, is_fixed = [], is_frozen
    for name, default in fields:
        part = getattr(value, name)
        if type(part) is type(default) and isinstance(part, _PLAIN) and part == default:
            continue
        if type(part) is default and default in _EMPTY and not part:
            continue
        canonical, is_part_fixed = _of(part, depth + 1)
        parts.append(_made_of("field", name) + canonical)
        is_fixed = is_fixed and is_part_fixed
    return _joined("object", sorted(parts)), is_fixed


def _of_parts(kind: str, parts: Iterable[object], depth: int) -> tuple[bytes, bool]:
    digested = [_of(part, depth + 1) for part in parts]
    return _joined(kind, [canonical for canonical, _ in digested]), all(is_fixed for _, is_fixed in digested)


def _kind_of(value: object) -> str:
    return next(kind.__name__ for kind in _TEXT if isinstance(value, kind))


def _made_of(kind: str, text: str) -> bytes:
    return _joined(kind, [text.encode("utf-8", "surrogatepass")])


def _joined(kind: str, parts: list[bytes]) -> bytes:
    """Return the digest of parts, each with its length, so that no two lists of parts look alike."""
    whole = blake2b(kind.encode(), digest_size=16)
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.digest()
