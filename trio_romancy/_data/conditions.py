"""Conditions on the input of an instance: what is at a path in it, and whether that is what is sought.

A path is a sequence of keys. One that is written as a whole number, as ``"0"``, addresses an element where there is an
array, and a key where there is an object. Values are compared as Python compares them, except that ``True`` is not 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from ..errors import InvalidInputError, Problem
from .codec import dumps

Path = tuple[str, ...]
"""Keys, from the outside to the inside."""

Scalar = str | int | float | bool | None
"""What a JSON document holds that has no parts."""

GivenPath = str | Iterable[str | int]
"""A path as users write it: ``"items.0.sku"``, or its keys one by one."""

Where = Mapping[Any, Any] | Iterable[tuple[GivenPath, Any]]
"""Conditions as users write them: values by path, or pairs of both."""

_ABSENT = object()
_INDEX = re.compile("0|[1-9][0-9]{0,8}", re.ASCII)


def is_index(key: str) -> bool:
    """Whether the key addresses an element, where there is an array."""
    return _INDEX.fullmatch(key) is not None


@frozen
class Condition:
    """That a scalar is at a path."""

    path: Path
    value: Scalar

    def holds(self, input: Any) -> bool:
        """Whether it is in this input."""
        found = _at(self.path, input)
        if self.value is None or isinstance(self.value, bool):
            return found is self.value
        if isinstance(self.value, str):
            return isinstance(found, str) and found == self.value
        return isinstance(found, int | float) and not isinstance(found, bool) and found == self.value

    @property
    def texts(self) -> list[str]:
        """All that can be written in a stored input for this value: an int and a float may be the same number."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            return [dumps(self.value)]
        numbers: list[int | float] = []
        if self.value == 0:
            numbers = [0, 0.0, -0.0]
        else:
            if self.value == (whole := int(self.value)):
                numbers.append(whole)
            if (real := _as_float(self.value)) == self.value:
                numbers.append(real)
        return [dumps(number) for number in numbers]

    @property
    def parts(self) -> list[str]:
        """Texts of which a stored input contains at least one, if the condition holds."""
        key = self.path[-1]
        return self.texts if is_index(key) else [f"{dumps(key)}:{text}" for text in self.texts]


def _at(path: Path, value: Any) -> Any:
    for key in path:
        if isinstance(value, dict):
            value = value.get(key, _ABSENT)
        elif isinstance(value, list) and is_index(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return _ABSENT
    return value


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.nan  # which equals nothing


# -- as users write them -----------------------------------------------------------------------------------------------


def checked_where(where: Where) -> list[Condition]:
    """The conditions that are meant.

    Raises:
      InvalidInputError: naming every path that is none, and every value that cannot be looked for.
    """
    if isinstance(where, str | bytes) or not isinstance(where, Iterable):
        raise _invalid([Problem("$.where", f"expected a mapping of paths to values, got {type(where).__name__}")])
    conditions: list[Condition] = []
    problems: list[Problem] = []
    for pair in where.items() if isinstance(where, Mapping) else where:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            problems.append(Problem("$.where", f"expected a pair of a path and a value, got {pair!r}"))
            continue
        given, value = pair
        path = _path(given)
        wrong = path if isinstance(path, str) else _fault(value)
        if isinstance(path, str) or wrong is not None:
            problems.append(Problem(f"$.where[{given!r}]", wrong or ""))
        else:
            conditions.append(Condition(path, _plain(value)))
    if problems:
        raise _invalid(problems)
    return conditions


def checked_path(given: GivenPath) -> Path:
    """The path that is meant.

    Raises:
      InvalidInputError: if it is none.
    """
    path = _path(given)
    if isinstance(path, str):
        raise InvalidInputError("the input cannot be indexed", [Problem("$.path", path)])
    return path


def _path(given: Any) -> Path | str:
    """The path that is meant; or what is wrong with it."""
    if isinstance(given, str):
        keys = given.split(".")
        if "" in keys:
            return f"{given!r} has an empty part; give a path to such a key as a tuple of keys"
    elif isinstance(given, Iterable) and not isinstance(given, bytes | Mapping):
        keys = []
        for key in given:
            if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
                key = str(key)
            if not isinstance(key, str):
                return f"a path is made of keys and whole numbers, not {key!r}"
            keys.append(key)
    else:
        return f"a path is text, or a tuple of keys, not {given!r}"
    if not keys:
        return "a path has at least one key"
    for key in keys:
        if "\0" in key or any("\ud800" <= character <= "\udfff" for character in key):
            return f"{key!r} is no key: it contains NUL or a lone surrogate"
    return tuple(keys)


def _plain(value: Any) -> Scalar:
    """The value without what a subclass makes of it, such as an enum."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool) or value is None:
        return value
    return int(value) if isinstance(value, int) else float(value)


def _fault(value: Any) -> str | None:
    """Why nothing can be equal to the value; None if something can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value!r} is no number that JSON has"
    if value is not None and not isinstance(value, str | int | float):
        return f"expected text, a number, true, false or null, as they are stored; got {type(value).__name__}"
    try:
        dumps(value)
    except ValueError:  # Python writes no more than some thousand digits
        return "the number is too large to be stored"
    return None


def _invalid(problems: list[Problem]) -> InvalidInputError:
    return InvalidInputError("instances cannot be found by this", problems)
