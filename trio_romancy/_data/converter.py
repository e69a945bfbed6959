"""The rules by which plain JSON data become values, and back: a cattrs converter that changes nothing silently."""

from __future__ import annotations

import base64
import contextlib
import enum
import types
import typing
from collections import abc
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union
from uuid import UUID

from attrs import has, resolve_types
from cattrs import Converter
from cattrs.cols import list_structure_factory
from cattrs.gen import make_hetero_tuple_unstructure_fn

from ..errors import InvalidDataError
from .diagnosis import (
    SCALARS,
    element,
    expected,
    field_types,
    is_class,
    is_namedtuple,
    is_union,
    kind_of,
    members,
    name_of,
    not_json,
    required_keys,
    short,
    without_required,
)

_MICROSECOND = timedelta(microseconds=1)

Hook = Callable[[Any, Any], Any]


class AlteredError(Exception):
    """A value would be read back as something else; the text says it to a person."""


def altered(value: object, restored: object, annotation: Any = object) -> str:
    """In words, that a value would be read back as something else."""
    kind = kind_of(annotation)
    if isinstance(kind, type) and not isinstance(value, kind):
        return expected(annotation, value)
    return f"{short(value)} would be read back as {short(restored)}; give its exact type"


def _of_kind(annotation: Any, kind: type, parsed: Any, value: object) -> Any:
    """What was parsed, as the class that is asked for where that is made of ``kind``: an ``IntEnum`` of int."""
    if annotation is kind or not isinstance(annotation, type):  # such as Annotated[int, ...]
        return parsed
    try:
        made = annotation(parsed)
    except Exception:
        raise TypeError(expected(annotation, value)) from None
    if isinstance(made, enum.Enum) and type(made.value) is not type(parsed):  # Python takes 2.0 and True for ints
        raise TypeError(expected(annotation, value))
    return made


def _to_str(value: object, annotation: Any) -> Any:
    if type(value) is not str:
        raise TypeError(expected(annotation, value))
    return value if annotation is str else _of_kind(annotation, str, value, value)


def _to_bool(value: object, _: object) -> bool:
    if type(value) is bool:
        return value
    raise TypeError(expected(bool, value))


def _to_int(value: object, annotation: Any) -> Any:
    if type(value) is not int:
        raise TypeError(expected(annotation, value))
    return value if annotation is int else _of_kind(annotation, int, value, value)


def _to_float(value: object, annotation: Any) -> Any:
    if type(value) is not float and type(value) is not int:
        raise TypeError(expected(annotation, value))
    number = float(value)
    return number if annotation is float else _of_kind(annotation, float, number, value)


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
        return _of_kind(annotation, kind, parsed, value)

    return structure


def _to_timedelta(value: object, _: object) -> timedelta:
    if type(value) is int:
        return timedelta(microseconds=value)
    raise TypeError(f"expected timedelta (as microseconds), got {short(value)}")


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
        raise TypeError(expected(kind, value))  # anything has a str()

    return unstructure


def _plain(value: Any) -> Any:
    """Let a value without a declared type through, if JSON keeps it as it is."""
    if type(value) in SCALARS and type(value) is not float:
        return value
    if problems := not_json(value, "$"):
        raise InvalidDataError("this value cannot be stored", problems)
    return value


def _shape(kind: type | tuple[type, ...], structure: Hook) -> Hook:
    """Only a JSON array makes a sequence, only a JSON object a structured value: cattrs takes what it can iterate."""

    def structure_shape(value: object, annotation: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(expected(annotation, value))
        return structure(value, annotation)

    return structure_shape


def _class(cls: Any, converter: Converter) -> Hook:
    origin = typing.get_origin(cls) or cls
    if has(origin):
        with contextlib.suppress(NameError):  # a field's type is not defined yet: cattrs resolves it at first use
            resolve_types(origin)
    return _shape(dict, converter.gen_structure_attrs_fromdict(cls))


def _list(annotation: Any, converter: Converter) -> Hook:
    array: Any = types.GenericAlias(list, (element(annotation),))
    return _shape((list, tuple), list_structure_factory(array, converter))


def _made_of_list(make: Callable[[list[Any]], Any]) -> Callable[[Any, Converter], Hook]:
    def factory(annotation: Any, converter: Converter) -> Hook:
        array: Any = types.GenericAlias(list, (element(annotation),))
        structure = converter.get_structure_hook(array)
        return _shape((list, tuple), lambda value, _: make(structure(value, array)))

    return factory


def _named_tuple(cls: Any, converter: Converter) -> Hook:
    row: Any = types.GenericAlias(tuple, _types_in(cls))
    structure = _hook_of(row, converter)
    return _shape((list, tuple), lambda value, _: cls(*structure(value, row)))


def _from_named_tuple(cls: Any, converter: Converter) -> Callable[[Any], Any]:
    return make_hetero_tuple_unstructure_fn(cls, converter, unstructure_to=list, type_args=_types_in(cls))


def _types_in(named_tuple: Any) -> tuple[Any, ...]:
    hints = field_types(named_tuple)
    return tuple(hints.get(name, Any) for name in named_tuple._fields)


def _typed_dict(cls: Any, converter: Converter) -> Hook:
    return _shape(dict, converter.gen_structure_typeddict(_told_what_is_required(cls)))


def _from_typed_dict(cls: Any, converter: Converter) -> Callable[[Any], Any]:
    return converter.gen_unstructure_typeddict(_told_what_is_required(cls))


@lru_cache(maxsize=1024)
def _told_what_is_required(cls: Any) -> Any:
    """A TypedDict whose annotations were postponed does not see the ``NotRequired`` in them."""
    origin = typing.get_origin(cls) or cls
    if required_keys(origin) == origin.__required_keys__:
        return cls
    needed = required_keys(origin)
    hints = {
        name: (typing.Required if name in needed else typing.NotRequired)[without_required(hint)]
        for name, hint in field_types(cls).items()
    }
    make: Any = typing.TypedDict
    return make(origin.__name__, hints)


def _hook_of(annotation: Any, converter: Converter) -> Hook:
    try:
        return converter.get_structure_hook(annotation)
    except RecursionError:  # a type that contains itself: looked up at first use
        return converter.structure


def _union(annotation: Any, converter: Converter) -> Hook:
    """Scalars and literals are told by their type (for Python, True is the literal 1), the rest by cattrs."""
    found = members(annotation)
    if Any in found:
        return converter.get_structure_hook(Any)
    rest = [member for member in found if member not in SCALARS and typing.get_origin(member) is not Literal]
    if len(found) == 2 and type(None) in found:
        rest = [member for member in found if member is not type(None)]  # its own hook says best what it expects
        found = [type(None)]
    scalars = {member for member in found if member in SCALARS}
    literals = {}
    for literal in (it for member in found if typing.get_origin(member) is Literal for it in typing.get_args(member)):
        raw = literal.value if isinstance(literal, enum.Enum) else literal
        literals[type(raw), raw] = literal
    other: Any = Union[tuple(rest)] if rest else None  # noqa: UP007
    structure = _hook_of(other, converter) if rest else None

    def structure_union(value: Any, _: object) -> Any:
        kind = type(value)
        if kind in scalars:
            return value
        if kind in SCALARS and (kind, value) in literals:
            return literals[kind, value]
        if structure is None:
            raise TypeError(expected(annotation, value))
        return structure(value, other)

    return structure_union


def _from_union(union: Any, converter: Converter) -> Callable[[Any], Any]:
    found = members(union)
    if Any in found:
        return converter.get_unstructure_hook(Any)
    scalars = tuple(member for member in found if member in SCALARS)
    hooks = {
        kind_of(member): converter.get_unstructure_hook(member)
        for member in found
        if member not in scalars and typing.get_origin(member) is not Literal
    }

    def unstructure_union(value: Any) -> Any:
        kind = type(value)
        if kind in scalars:
            return value
        if kind in hooks and isinstance(value, scalars):  # a StrEnum, in a union with str
            plain = next(scalar for scalar in scalars if isinstance(value, scalar))
            raise AlteredError(f"{short(value)} would be read back as {name_of(plain)}; that is in the union, too")
        of_base = (hook for base, hook in hooks.items() if isinstance(value, base))
        return (hooks.get(kind) or next(of_base, converter.unstructure))(value)

    return unstructure_union


def _is_told_by_type(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Literal:
        return True
    return is_union(annotation) and any(
        member is Any or member in SCALARS or typing.get_origin(member) is Literal for member in members(annotation)
    )


def _is_enum_of_plain(annotation: Any) -> bool:
    """An enum whose values are not declared to need a conversion."""
    return (
        isinstance(annotation, type)
        and issubclass(annotation, enum.Enum)
        and "_value_" not in annotation.__annotations__
    )


def _is_optional(union: Any) -> bool:
    return len(typing.get_args(union)) == 2 and type(None) in typing.get_args(union)


def _origin_in(*origins: Any) -> Callable[[Any], bool]:
    return lambda annotation: (typing.get_origin(annotation) or annotation) in origins


def _is_plain_tuple(annotation: Any) -> bool:
    arguments = typing.get_args(annotation)
    is_bare = annotation in (tuple, typing.Tuple)  # noqa: UP006
    return is_bare or (_origin_in(tuple)(annotation) and arguments[-1:] == (...,))


def make_converter(*, detailed: bool) -> Converter:
    """A cattrs converter that lets nothing through that would come back otherwise, as far as a rule can see it.

    Args:
      detailed: whether its errors say where, which makes it slower.
    """
    converter = Converter(
        detailed_validation=detailed,
        forbid_extra_keys=True,
        unstruct_collection_overrides={abc.Set: list},
    )
    for kind, structure in (
        (str, _to_str),
        (bool, _to_bool),
        (int, _to_int),
        (float, _to_float),
        (type(None), _to_none),
        (timedelta, _to_timedelta),
        (bytes, _parsed(bytes, lambda text: base64.b64decode(text, validate=True))),
        (datetime, _parsed(datetime, datetime.fromisoformat)),
        (date, _parsed(date, date.fromisoformat)),
        (time, _parsed(time, time.fromisoformat)),
        (Decimal, _parsed(Decimal, _to_decimal)),
        (UUID, _parsed(UUID, UUID)),
        (Path, _parsed(Path, Path)),
    ):
        converter.register_structure_hook(kind, structure)
    converter.register_unstructure_hook(timedelta, lambda value: value // _MICROSECOND)
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode("ascii"))
    for iso in (datetime, date, time):
        converter.register_unstructure_hook(iso, lambda value: value.isoformat())
    for text in (UUID, Path):
        converter.register_unstructure_hook(text, _text_of(text))
    converter.register_unstructure_hook(Decimal, _from_decimal)
    converter.register_unstructure_hook(enum.StrEnum, lambda member: member.value)
    converter.register_unstructure_hook_func(lambda annotation: annotation is Any, _plain)
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, Converter], Hook]]] = [
        (is_class, _class),
        (typing.is_typeddict, _typed_dict),
        (
            _origin_in(dict, abc.Mapping, abc.MutableMapping),
            lambda cls, converter: _shape(dict, converter.gen_structure_mapping(cls)),
        ),
        (_origin_in(list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), _list),
        (_origin_in(set, abc.Set, abc.MutableSet), _made_of_list(set)),
        (_origin_in(frozenset), _made_of_list(frozenset)),
        (_origin_in(tuple), lambda cls, converter: _shape((list, tuple), converter.gen_structure_hetero_tuple(cls))),
        (_is_plain_tuple, _made_of_list(tuple)),
        (is_namedtuple, _named_tuple),
        (_is_told_by_type, _union),
        (_is_enum_of_plain, lambda cls, _: lambda value, _: _of_kind(cls, enum.Enum, value, value)),
    ]
    for predicate, factory in factories:
        converter.register_structure_hook_factory(predicate, factory)
    converter.register_unstructure_hook_factory(is_namedtuple, _from_named_tuple)
    converter.register_unstructure_hook_factory(typing.is_typeddict, _from_typed_dict)
    converter.register_unstructure_hook_factory(lambda it: is_union(it) and not _is_optional(it), _from_union)
    return converter
