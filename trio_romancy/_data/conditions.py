"""Conditions on the input of an instance: that a value is at a path.

A path is a sequence of keys. A key that is a whole number, such as ``"0"``, addresses an element of an array, and a key
of an object. Values are compared as Python compares them, except that ``True`` is not 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from ..errors import DataProblem, InvalidInputError
from .codec import dumps

Path = tuple[str, ...]
"""Keys, from the outside to the inside."""

Scalar = str | int | float | bool | None
"""Values that a JSON document holds, without arrays and objects."""

GivenPath = str | Iterable[str | int]
"""A path as users write it: ``"items.0.sku"``, or its keys one by one."""

Where = Mapping[Any, Any] | Iterable[tuple[GivenPath, Any]]
"""Conditions as users write them: values by path, or pairs of both."""

_ABSENT = object()
_INDEX = re.compile("0|[1-9][0-9]{0,8}", re.ASCII)


def is_index(key: str) -> bool:
    """Tell whether a key addresses an element of an array."""
    return _INDEX.fullmatch(key) is not None


@frozen
class Condition:
    """The condition that a scalar is at a path."""

    path: Path
    value: Scalar

    def holds(self, input: Any) -> bool:
        """Tell whether an input fulfills the condition."""
        found = _at(self.path, input)
        if self.value is None or isinstance(self.value, bool):
            return found is self.value
        if isinstance(self.value, str):
            return isinstance(found, str) and found == self.value
        return isinstance(found, int | float) and not isinstance(found, bool) and found == self.value

    @property
    def texts(self) -> list[str]:
        """Texts that can stand for the value in a stored input: an int and a float may be the same number."""
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
        """Texts of which a stored input contains at least one if the condition holds."""
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
        return math.nan  # equal to nothing


# -- as users write them -----------------------------------------------------------------------------------------------


def checked_where(where: Where) -> list[Condition]:
    """Return conditions as users write them as :class:`Condition` values.

    Raises:
      InvalidInputError: naming every path that is not valid, and every value that no input can hold.
    """
    if isinstance(where, str | bytes) or not isinstance(where, Iterable):
        raise _invalid([DataProblem("$.where", f"expected a mapping of paths to values, got {type(where).__name__}")])
    conditions: list[Condition] = []
    problems: list[DataProblem] = []
    for pair in where.items() if isinstance(where, Mapping) else where:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            problems.append(DataProblem("$.where", f"expected a pair of a path and a value, got {pair!r}"))
            continue
        given, value = pair
        path = _path(given)
        wrong = path if isinstance(path, str) else _fault(value)
        if isinstance(path, str) or wrong is not None:
            problems.append(DataProblem(f"$.where[{given!r}]", wrong or ""))
        else:
            conditions.append(Condition(path, _plain(value)))
    if problems:
        raise _invalid(problems)
    return conditions


def checked_path(given: GivenPath) -> Path:
    """Return a path as users write it as its keys.

    Raises:
      InvalidInputError: if the path is not valid.
    """
    path = _path(given)
    if isinstance(path, str):
        raise InvalidInputError("the input cannot be indexed", [DataProblem("$.path", path)])
    return path


def _path(given: Any) -> Path | str:
    """Return the keys of a path, or the message why it is not valid."""
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
    """Return a value of a subclass, such as an enum, as its plain base type."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool) or value is None:
        return value
    return int(value) if isinstance(value, int) else float(value)


def _fault(value: Any) -> str | None:
    """Return why no input can hold the value; None: one can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value!r} is no number that JSON has"
    if value is not None and not isinstance(value, str | int | float):
        return f"expected text, a number, true, false or null, as they are stored; got {type(value).__name__}"
    try:
        dumps(value)
    except ValueError:  # Python writes at most some thousand digits
        return "the number is too large to be stored"
    return None


def _invalid(problems: list[DataProblem]) -> InvalidInputError:
    return InvalidInputError("instances cannot be found by this", problems)
