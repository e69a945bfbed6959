"""Rules by which plain JSON data become values, and back: a cattrs converter that changes nothing silently."""

from __future__ import annotations

import contextlib
import enum
import types
import typing
from collections import abc
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Union

from attrs import has, resolve_types
from cattrs import Converter
from cattrs.cols import list_structure_factory
from cattrs.gen import make_hetero_tuple_unstructure_fn

from ..errors import InvalidDataError
from .annotations import (
    SCALARS,
    element,
    field_types,
    is_class,
    is_namedtuple,
    is_union,
    kind_of,
    members,
    required_keys,
    without_required,
)
from .diagnosis import expected, name_of, not_json, short
from .keys import register_keys
from .models import register_models
from .scalars import AlteredError, Hook, of_kind, register_scalars


def _plain(value: Any) -> Any:
    """Return a value without a declared type unchanged, if JSON preserves it."""
    if type(value) in SCALARS and type(value) is not float:
        return value
    if problems := not_json(value, "$"):
        raise InvalidDataError("this value cannot be stored", problems)
    return value


def _shape(kind: type | tuple[type, ...], structure: Hook) -> Hook:
    """Take only values of this kind: a JSON array for a sequence, an object for a class. cattrs takes any iterable."""

    def structure_shape(value: object, annotation: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(expected(annotation, value))
        return structure(value, annotation)

    return structure_shape


def _class(cls: Any, converter: Converter) -> Hook:
    origin = typing.get_origin(cls) or cls
    if has(origin):
        with contextlib.suppress(NameError):  # the type of a field is not defined yet: cattrs resolves it at first use
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
    return _shape(dict, converter.gen_structure_typeddict(_with_required_keys(cls)))


def _from_typed_dict(cls: Any, converter: Converter) -> Callable[[Any], Any]:
    return converter.gen_unstructure_typeddict(_with_required_keys(cls))


@lru_cache(maxsize=1024)
def _with_required_keys(cls: Any) -> Any:
    """Return a TypedDict with its required keys marked: it does not see ``NotRequired`` in postponed annotations."""
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
    except RecursionError:  # a type that contains itself: its hook is found at first use
        return converter.structure


def _union(annotation: Any, converter: Converter) -> Hook:
    """Distinguish scalars and literals by their exact type, as True equals the literal 1; cattrs does all others."""
    found = members(annotation)
    if Any in found:
        return converter.get_structure_hook(Any)
    rest = [member for member in found if member not in SCALARS and typing.get_origin(member) is not Literal]
    if len(found) == 2 and type(None) in found:
        rest = [member for member in found if member is not type(None)]  # its own hook has the best message
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


def _is_distinguished_by_type(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Literal:
        return True
    return is_union(annotation) and any(
        member is Any or member in SCALARS or typing.get_origin(member) is Literal for member in members(annotation)
    )


def _is_enum_of_plain(annotation: Any) -> bool:
    """Tell whether an annotation is an enum whose values need no conversion."""
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


def make_converter(*, detailed: bool, reads_stored: bool = False) -> Converter:
    """Make a cattrs converter that refuses values that would be read back as others, as far as a rule can tell.

    Args:
      detailed: whether errors name the place in the data, which makes the converter slower.
      reads_stored: whether to read what earlier versions have stored as well.
    """
    converter = Converter(
        detailed_validation=detailed,
        forbid_extra_keys=True,
        unstruct_collection_overrides={abc.Set: list},
    )
    register_scalars(converter, reads_stored=reads_stored)
    converter.register_unstructure_hook_func(lambda annotation: annotation is Any, _plain)
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, Converter], Hook]]] = [
        (is_class, _class),
        (typing.is_typeddict, _typed_dict),
        (_origin_in(list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), _list),
        (_origin_in(set, abc.Set, abc.MutableSet), _made_of_list(set)),
        (_origin_in(frozenset), _made_of_list(frozenset)),
        (_origin_in(tuple), lambda cls, converter: _shape((list, tuple), converter.gen_structure_hetero_tuple(cls))),
        (_is_plain_tuple, _made_of_list(tuple)),
        (is_namedtuple, _named_tuple),
        (_is_distinguished_by_type, _union),
        (_is_enum_of_plain, lambda cls, _: lambda value, _: of_kind(cls, enum.Enum, value, value)),
    ]
    for predicate, factory in factories:
        converter.register_structure_hook_factory(predicate, factory)
    register_keys(converter)
    register_models(converter)
    converter.register_unstructure_hook_factory(is_namedtuple, _from_named_tuple)
    converter.register_unstructure_hook_factory(typing.is_typeddict, _from_typed_dict)
    converter.register_unstructure_hook_factory(lambda it: is_union(it) and not _is_optional(it), _from_union)
    return converter
