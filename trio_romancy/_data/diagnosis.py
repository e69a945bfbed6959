"""What is wrong with a value or with data, and where: every bad place with its path, in words to a person.

Nothing here stores or reads: that is ``serialization``, which comes here only once it has failed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Union

from attrs import fields, has
from cattrs import BaseValidationError, ClassValidationError, IterableValidationError
from cattrs.errors import ForbiddenExtraKeysError

from ..errors import Problem

Fault = Callable[[Any, Any], str | None]
"""Why a value cannot be stored as an annotation says, in words for the whole of it; None if it can."""

Part = tuple[str, Any, Any]
"""A path, what is there, and its annotation."""

SCALARS = (str, int, float, bool, type(None))

_LONG = 2**13  # bits: no int of so few comes near the limit of digits that Python prints, which is 640 or more


# -- annotations -------------------------------------------------------------------------------------------------------


def bare(annotation: Any) -> Any:
    """The type under ``Annotated``, ``NewType`` and ``type X = ...``."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = annotation.__origin__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # Python 3.12
            annotation = annotation.__value__
        else:
            return annotation


def is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def is_class(annotation: Any) -> bool:
    return has(typing.get_origin(annotation) or annotation) or dataclasses.is_dataclass(annotation)


def is_namedtuple(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields")


def members(union: Any) -> list[Any]:
    """The bare types of a union, those of unions within it among them."""
    found: list[Any] = []
    for member in map(bare, typing.get_args(union) if is_union(union) else [union]):
        found += members(member) if is_union(member) else [member]
    return found


def element(annotation: Any) -> Any:
    return (typing.get_args(annotation) or (Any,))[0]


def kind_of(annotation: Any) -> Any:
    """What values of a bare annotation are instances of, if that is a class."""
    origin = typing.get_origin(annotation) or annotation
    return dict if typing.is_typeddict(origin) else origin


def required_keys(typed_dict: Any) -> frozenset[str]:
    """Also of a TypedDict whose annotations were postponed: it does not see the ``NotRequired`` in them."""
    marks = {name: _mark(hint) for name, hint in typing.get_type_hints(typed_dict, include_extras=True).items()}
    return frozenset(
        name
        for name, mark in marks.items()
        if mark is typing.Required or (mark is None and name in typed_dict.__required_keys__)
    )


def _mark(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    return origin if origin in (typing.Required, typing.NotRequired) else None


def without_required(hint: Any) -> Any:
    return typing.get_args(hint)[0] if _mark(hint) else hint


def field_names(cls: Any, *, stored: bool = False) -> list[str]:
    """The fields of a class; the stored ones are those that its ``__init__`` takes."""
    every = fields(cls) if has(cls) else dataclasses.fields(cls)
    return [field.name for field in every if field.init or not stored]


def field_types(annotation: Any) -> dict[str, Any]:
    """The annotations of the fields of a class, TypedDict or named tuple, of a generic one with its arguments."""
    cls = typing.get_origin(annotation) or annotation
    hints = typing.get_type_hints(cls, include_extras=True)
    if has(cls):
        hints |= {a.name: a.type for a in fields(cls) if a.type is not None and not isinstance(a.type, str)}
    arguments = _arguments(annotation)
    return {name: _filled_in(hint, arguments) for name, hint in hints.items()}


def _arguments(annotation: Any) -> dict[Any, Any]:
    """What the type variables of a generic class stand for, those of its bases as well."""
    cls = typing.get_origin(annotation) or annotation
    found = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(annotation), strict=False))
    for base in getattr(cls, "__orig_bases__", ()):
        if typing.get_origin(base) is not Generic:
            found = {variable: _filled_in(it, found) for variable, it in _arguments(base).items()} | found
    return found


def _filled_in(hint: Any, arguments: Mapping[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return arguments.get(hint, hint)
    if parameters := getattr(hint, "__parameters__", ()):
        return hint[tuple(arguments.get(parameter, parameter) for parameter in parameters)]
    return hint


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


def problems_of_value(value: object, annotation: Any, fault: Fault, path: str = "$") -> list[Problem]:
    """Every place of a value that cannot be stored: the smallest ones, or the whole if its parts are good."""
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
    return found or [Problem(path, message)]


def _parts(value: Any, annotation: Any, path: str) -> Iterator[Part]:
    """What a value consists of, as far as it is what the annotation says."""
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
        _, of_items = arguments or (Any, Any)
        for key, item in value.items():
            yield key_in(path, key if isinstance(key, str) else str(key)), item, of_items
    elif origin is tuple and arguments and arguments[-1] is not Ellipsis:
        for index, (item, hint) in enumerate(zip(value, arguments, strict=False)):
            yield f"{path}[{index}]", item, hint
    elif isinstance(value, Iterable):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item, element(annotation)


def _is_of_kind(value: object, kind: Any) -> bool:
    return isinstance(kind, type) and isinstance(value, kind)


def _member_for(value: object, union: Any) -> Any:
    """The type of a union that the value is meant as, or None if there is no telling."""
    others = [member for member in members(union) if member is not type(None)]
    fitting = [member for member in others if type(value) is kind_of(member)]
    fitting = fitting or [member for member in others if _is_of_kind(value, kind_of(member))]
    fitting = fitting or (others if value is not None else [])
    return fitting[0] if len(fitting) == 1 else None


def _problems_of_keys(value: Mapping[Any, Any], annotation: Any, fault: Fault, path: str) -> list[Problem]:
    of_keys = element(annotation)
    mapping: Any = types.GenericAlias(dict, (of_keys, type(None)))
    found = []
    for key in value:
        if message := fault_of_scalar(key if isinstance(key, str) else None):
            found.append(Problem(path, message))
        elif fault({key: None}, mapping) is not None:  # as a value it may be good, but JSON keys are text
            kind = str if fault(key, of_keys) is None else of_keys
            found.append(Problem(path, f"expected {name_of(kind)} as a key, got {short(key)}"))
    return found


def _problems_of_names(value: Mapping[Any, Any], typed_dict: Any, path: str) -> list[Problem]:
    known = field_types(typed_dict)
    missing = [
        Problem(key_in(path, name), "missing") for name in known if name in required_keys(typed_dict) - set(value)
    ]
    return missing + [Problem(key_in(path, name), "unknown field") for name in value if name not in known]


def not_json(value: object, path: str) -> list[Problem]:
    """Every place in plain JSON data that JSON would change or refuse."""
    if type(value) is dict:
        found = []
        for key, item in value.items():
            if type(key) is not str:
                found.append(Problem(path, f"expected str as a key, got {short(key)}"))
            elif message := _not_scalar(key):
                found.append(Problem(path, message))
            found += not_json(item, key_in(path, key))
        return found
    if type(value) is list:
        return [p for index, item in enumerate(value) for p in not_json(item, f"{path}[{index}]")]
    if type(value) in SCALARS:
        return [Problem(path, message)] if (message := _not_scalar(value)) else []
    return [Problem(path, f"JSON has no {type(value).__name__}; annotate its type, got {short(value)}")]


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
    """Why JSON has no such string, number, bool or None; None if it has, or if it is none of them."""
    return _not_scalar(raw) if type(raw) in SCALARS else None


# -- data that do not match --------------------------------------------------------------------------------------------


def problems_of_error(error: BaseException, raw: object, path: str = "$") -> list[Problem]:
    """Flatten the tree of errors that cattrs raises, each with its path."""
    if isinstance(error, ClassValidationError):
        with_notes, without = error.group_exceptions()
        found = []
        for inner, note in with_notes:
            if isinstance(inner, KeyError) and isinstance(raw, dict) and note.name not in raw:
                found.append(Problem(key_in(path, note.name), "missing"))
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
    if isinstance(error, BaseValidationError):
        return [p for inner in error.exceptions for p in problems_of_error(inner, raw, path)]
    if isinstance(error, ForbiddenExtraKeysError):
        return [Problem(key_in(path, name), "unknown field") for name in sorted(error.extra_fields)]
    return [Problem(path, str(error) or type(error).__name__)]


def _item(raw: object, key: Any) -> object:
    try:
        return raw[key]  # type: ignore[index]
    except (LookupError, TypeError):
        return raw
