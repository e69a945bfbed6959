"""Reads annotations: their bare types, the members of unions, the fields of classes."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Generic, Union

from attrs import fields, has

SCALARS = (str, int, float, bool, type(None))
"""Types of the values that JSON has without parts."""


def bare(annotation: Any) -> Any:
    """Return the type under ``Annotated``, ``NewType`` and ``type X = ...``."""
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
    """Return the bare types of a union, including those of unions inside it."""
    found: list[Any] = []
    for member in map(bare, typing.get_args(union) if is_union(union) else [union]):
        found += members(member) if is_union(member) else [member]
    return found


def element(annotation: Any) -> Any:
    return (typing.get_args(annotation) or (Any,))[0]


def kind_of(annotation: Any) -> Any:
    """Return the class that values of a bare annotation are instances of, or the annotation itself."""
    origin = typing.get_origin(annotation) or annotation
    return dict if typing.is_typeddict(origin) else origin


def required_keys(typed_dict: Any) -> frozenset[str]:
    """Return the required keys of a TypedDict, which itself does not see a ``NotRequired`` in postponed annotations."""
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
    """Return the names of the fields of a class. The stored ones are those that its ``__init__`` takes."""
    every = fields(cls) if has(cls) else dataclasses.fields(cls)
    return [field.name for field in every if field.init or not stored]


def field_types(annotation: Any) -> dict[str, Any]:
    """Return the annotations of the fields of a class, TypedDict or named tuple. Type arguments are filled in."""
    cls = typing.get_origin(annotation) or annotation
    hints = typing.get_type_hints(cls, include_extras=True)
    if has(cls):
        hints |= {a.name: a.type for a in fields(cls) if a.type is not None and not isinstance(a.type, str)}
    arguments = _arguments(annotation)
    return {name: _filled_in(hint, arguments) for name, hint in hints.items()}


def _arguments(annotation: Any) -> dict[Any, Any]:
    """Return what the type variables of a generic class and of its bases stand for."""
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
