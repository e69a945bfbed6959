"""Finds the mistakes in a value or in data: every one with its path, in words for users.

The codec calls this module only after an encoding or decoding has failed.
"""

from __future__ import annotations

import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from cattrs import BaseValidationError, ClassValidationError, IterableValidationError
from cattrs.errors import ForbiddenExtraKeysError

from .._exceptions import text_of
from ..errors import DataProblem, InvalidDataError
from .annotations import (
    SCALARS,
    bare,
    element,
    field_names,
    field_types,
    is_class,
    is_namedtuple,
    is_union,
    kind_of,
    members,
    required_keys,
    without_required,
)

Fault = Callable[[Any, Any], str | None]
"""Returns why a value as a whole cannot be stored as an annotation says; None: it can."""

Part = tuple[str, Any, Any]
"""A path, the value there, and its annotation."""

LONGEST_CAUSE = 1_000
"""The most characters of an exception of the user's class that are shown."""
_LONG = 2**13
"""Bits of an int below which it has fewer digits than the limit of Python, which is at least 640 digits."""


# -- words -------------------------------------------------------------------------------------------------------------


def expected(annotation: Any, value: object) -> str:
    return f"expected {name_of(annotation)}, got {short(value)}"


def short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def name_of(annotation: Any) -> str:
    if annotation is type(None):
        return "nothing"
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation.__name__
    return str(annotation).removeprefix("typing.")


def key_in(path: str, key: object) -> str:
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"


# -- values that cannot be stored --------------------------------------------------------------------------------------


def problems_of_value(value: object, annotation: Any, fault: Fault, path: str = "$") -> list[DataProblem]:
    """Return every place of a value that cannot be stored: its smallest parts, or the whole if all parts are good."""
    annotation = bare(annotation)
    if Any in members(annotation):
        return not_json(value, path)
    message = fault(value, annotation)
    if message is None:
        return []
    found = [
        problem
        for part_path, part, part_annotation in _parts(value, annotation, path)
        for problem in problems_of_value(part, part_annotation, fault, part_path)
    ]
    kind = typing.get_origin(annotation) or annotation
    if typing.is_typeddict(kind) and isinstance(value, dict):
        found += _problems_of_names(value, kind, path)
    elif isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, Mapping):
        found = [*_problems_of_keys(value, annotation, fault, path), *found]
    return found or [DataProblem(path, message)]


def _parts(value: Any, annotation: Any, path: str) -> Iterator[Part]:
    """Yield the parts of a value, as far as it matches its annotation."""
    origin: Any = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if is_union(annotation):
        if (member := _member_for(value, annotation)) is not None:
            yield path, value, member
    elif is_class(annotation):
        if isinstance(value, origin):
            hints = field_types(annotation)
            for name in field_names(origin, stored=True):
                yield key_in(path, name), getattr(value, name), hints.get(name, Any)
    elif typing.is_typeddict(origin):
        if isinstance(value, dict):
            for name, hint in field_types(annotation).items():
                if name in value:
                    yield key_in(path, name), value[name], without_required(hint)
    elif not _is_of_kind(value, origin) or isinstance(value, (str, bytes)):
        return
    elif is_namedtuple(origin):
        hints = field_types(origin)
        for index, name in enumerate(origin._fields):
            yield f"{path}[{index}]", value[index], hints.get(name, Any)
    elif isinstance(value, Mapping):
        of_items = arguments[1] if len(arguments) == 2 else Any
        for key, item in value.items():
            yield key_in(path, key if isinstance(key, str) else short(key)), item, of_items
    elif origin is tuple and arguments and arguments[-1] is not Ellipsis:
        for index, (item, hint) in enumerate(zip(value, arguments, strict=False)):
            yield f"{path}[{index}]", item, hint
    elif isinstance(value, Iterable):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item, element(annotation)


def _is_of_kind(value: object, kind: Any) -> bool:
    return isinstance(kind, type) and isinstance(value, kind)


def _member_for(value: object, union: Any) -> Any:
    """Return the type of a union that a value is meant as; None: it cannot be told."""
    others = [member for member in members(union) if member is not type(None)]
    fitting = [member for member in others if type(value) is kind_of(member)]
    fitting = fitting or [member for member in others if _is_of_kind(value, kind_of(member))]
    fitting = fitting or (others if value is not None else [])
    return fitting[0] if len(fitting) == 1 else None


def _problems_of_keys(value: Mapping[Any, Any], annotation: Any, fault: Fault, path: str) -> list[DataProblem]:
    of_keys = element(annotation)
    mapping: Any = types.GenericAlias(dict, (of_keys, type(None)))
    found = []
    for key in value:
        if message := fault_of_scalar(key if isinstance(key, str) else None):
            found.append(DataProblem(path, message))
        elif fault({key: None}, mapping) is not None:  # the value itself may be good, but keys of JSON objects are text
            message = f"expected {name_of(of_keys)} as a key, got {short(key)}"
            found.append(DataProblem(path, _not_text(key) if of_keys is Any else message))
    return found


def _problems_of_names(value: Mapping[Any, Any], typed_dict: Any, path: str) -> list[DataProblem]:
    known = field_types(typed_dict)
    missing = [
        DataProblem(key_in(path, name), "missing") for name in known if name in required_keys(typed_dict) - set(value)
    ]
    return missing + [DataProblem(key_in(path, name), "unknown field") for name in value if name not in known]


def not_json(value: object, path: str) -> list[DataProblem]:
    """Return every place in plain JSON data that JSON would change or refuse."""
    if type(value) is dict:
        found = []
        for key, item in value.items():
            if type(key) is not str:
                found.append(DataProblem(path, _not_text(key)))
            elif message := _not_scalar(key):
                found.append(DataProblem(path, message))
            found += not_json(item, key_in(path, key))
        return found
    if type(value) is list:
        return [p for index, item in enumerate(value) for p in not_json(item, f"{path}[{index}]")]
    if type(value) in SCALARS:
        return [DataProblem(path, message)] if (message := _not_scalar(value)) else []
    return [DataProblem(path, f"JSON has no {type(value).__name__}; annotate its type, got {short(value)}")]


def _not_text(key: object) -> str:
    """Return the message for a key of a type that was not declared, so that it would be read back as text."""
    kind = "None" if key is None else name_of(type(key))
    return f"expected str as a key, got {short(key)}; use str, or annotate the keys, as in dict[{kind}, ...]"


def _not_scalar(value: object) -> str | None:
    if type(value) is float and not math.isfinite(value):
        return f"JSON has no {value!r}"
    if type(value) is int and value.bit_length() > _LONG:
        try:
            str(value)
        except ValueError:
            return f"an int of more than {sys.get_int_max_str_digits()} digits cannot be stored"
    if type(value) is str and not value.isascii() and json.loads(json.dumps(value)) != value:
        return f"JSON would join the surrogates of {short(value)}"
    return None


def fault_of_scalar(raw: object) -> str | None:
    """Return why JSON has no such string, number, bool or None; None: it has, or the value is of another type."""
    return _not_scalar(raw) if type(raw) in SCALARS else None


# -- data that do not match --------------------------------------------------------------------------------------------


def problems_of_error(error: BaseException, raw: object, path: str = "$") -> list[DataProblem]:
    """Return the errors in the tree that cattrs raises, each with its path."""
    if isinstance(error, ClassValidationError):
        with_notes, without = error.group_exceptions()
        found = []
        for inner, note in with_notes:
            if isinstance(inner, KeyError) and isinstance(raw, dict) and note.name not in raw:
                found.append(DataProblem(key_in(path, note.name), "missing"))
            else:
                found += problems_of_error(inner, _item(raw, note.name), key_in(path, note.name))
        return found + [p for inner in without for p in problems_of_error(inner, raw, path)]
    if isinstance(error, IterableValidationError):
        with_index, without = error.group_exceptions()
        found = []
        for inner, place in with_index:
            inside = f"{path}[{place.index}]" if isinstance(place.index, int) else key_in(path, place.index)
            found += problems_of_error(inner, _item(raw, place.index), inside)
        return found + [p for inner in without for p in problems_of_error(inner, raw, path)]
    if isinstance(error, InvalidDataError):  # of a model, which has its own rules
        return [DataProblem(path + problem.path[1:], problem.message) for problem in error.problems]
    if isinstance(error, BaseValidationError):
        return [p for inner in error.exceptions for p in problems_of_error(inner, raw, path)]
    if isinstance(error, ForbiddenExtraKeysError):
        return [DataProblem(key_in(path, name), "unknown field") for name in sorted(error.extra_fields)]
    return [DataProblem(path, text_of(error, LONGEST_CAUSE) or type(error).__name__)]


def _item(raw: object, key: Any) -> object:
    try:
        return raw[key]  # type: ignore[index]
    except (LookupError, TypeError):
        return raw
