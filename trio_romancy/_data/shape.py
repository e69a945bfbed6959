"""Shapes of data: the form in which values of an annotation are stored, as text.

Two annotations have the same shape if what is stored by the one is read by the other. A new name for a class changes no
shape, and neither does the value of a default.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from typing import Any, Literal

from attrs import NOTHING, fields, has

from .annotations import SCALARS, bare, field_types, is_class, is_namedtuple, is_union, required_keys, without_required


def shape(annotation: Any) -> str:
    """Return the shape of an annotation. It is the same in every process."""
    return _shape(annotation, {})


def _shape(annotation: Any, seen: dict[Any, int]) -> str:
    annotation = bare(annotation)
    origin: Any = typing.get_origin(annotation) or annotation
    arguments = typing.get_args(annotation)
    if is_union(annotation):
        return " | ".join(_shape(member, seen) for member in arguments)
    if origin is Literal:
        return f"Literal[{', '.join(map(_raw, arguments))}]"
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return f"Enum[{', '.join(map(_raw, origin))}]"
    if is_class(annotation) or typing.is_typeddict(origin) or is_namedtuple(origin):
        if annotation in seen:
            return f"#{seen[annotation]}"
        seen[annotation] = len(seen)
        return f"{{{', '.join(_fields(annotation, origin, seen))}}}"
    if arguments:
        return f"{_name(origin)}[{', '.join(_shape(argument, seen) for argument in arguments)}]"
    return _name(annotation)


def _fields(annotation: Any, origin: Any, seen: dict[Any, int]) -> list[str]:
    try:
        hints = field_types(annotation)
    except (NameError, TypeError):  # a type of a field is not defined yet
        hints = {}
    if typing.is_typeddict(origin):
        needed = required_keys(origin) if hints else frozenset()
        return [
            f"{name}{'' if name in needed else '?'}: {_shape(without_required(hint), seen)}"
            for name, hint in hints.items()
        ]
    if is_namedtuple(origin):
        return [_shape(hints.get(name, Any), seen) for name in origin._fields]
    if has(origin):
        stored = [(field.name, field.default is not NOTHING) for field in fields(origin) if field.init]
    else:
        stored = [
            (field.name, not field.default is field.default_factory is dataclasses.MISSING)
            for field in dataclasses.fields(origin)
            if field.init
        ]
    return [f"{name}{'?' if optional else ''}: {_shape(hints.get(name, Any), seen)}" for name, optional in stored]


def _raw(value: object) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    return repr(value) if type(value) in SCALARS else type(value).__name__


def _name(annotation: Any) -> str:
    if annotation is Ellipsis:
        return "..."
    return getattr(annotation, "__qualname__", None) or str(annotation)
