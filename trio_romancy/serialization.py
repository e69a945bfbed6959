"""Values to JSON and back, by annotation: the cattrs converter.

What is stored is what comes back: a value that JSON would change (a tuple where the annotation says ``Any``, NaN,
a key that is no string) is refused with its path instead of being stored altered. And what the caller goes on with
is what was read back from the JSON, so that the first run sees the very value that a replay will see.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

from attrs import fields, has, resolve_types
from cattrs import BaseValidationError, ClassValidationError, Converter, IterableValidationError
from cattrs.cols import (
    is_namedtuple,
    list_structure_factory,
    namedtuple_structure_factory,
    namedtuple_unstructure_factory,
)
from cattrs.errors import ForbiddenExtraKeysError, StructureHandlerNotFoundError
from cattrs.strategies import configure_union_passthrough

from .errors import InvalidDataError, Problem

T = TypeVar("T")

_SCALARS = (str, int, float, bool, type(None))
_MICROSECOND = timedelta(microseconds=1)

# ASCII only: no database's character set, collation or treatment of NUL can change what is stored.
_json = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dumps(raw: object) -> str:
    """Plain JSON data as compact ASCII text."""
    return _json.encode(raw)


loads: Callable[[str], Any] = json.JSONDecoder().decode


class Codec(Generic[T]):
    """Stores the values of one annotation as JSON text. Make one with :func:`codec`."""

    __slots__ = ("_scalar", "_structure", "_unstructure", "annotation")

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._structure = _fast.get_structure_hook(annotation)  # first: it resolves forward references
        self._unstructure = _fast.get_unstructure_hook(annotation)
        self._scalar = annotation if annotation in (str, int, bool, type(None)) else None

    def encode(self, value: T) -> tuple[str, T]:
        """The value as JSON text, and as it will be read back from it.

        Raises:
          InvalidDataError: if it does not match the annotation, or would not survive being stored.
        """
        if type(value) is self._scalar:
            return _json.encode(value), value
        try:
            text = _json.encode(self._unstructure(value))
            restored = self._structure(loads(text), self.annotation)
        except RecursionError:
            raise InvalidDataError("this value cannot be stored", [Problem("$", "it contains itself")]) from None
        except Exception as error:
            raise InvalidDataError("this value cannot be stored", self._diagnose(value) or [_whole(error)]) from None
        if restored != value and not _same(restored, value):
            problem = Problem("$", f"{_short(value)} would be read back as {_short(restored)}; give its exact type")
            raise InvalidDataError("this value would not survive being stored", self._diagnose(value) or [problem])
        return text, restored

    def decode(self, raw: object) -> T:
        """The value that this plain JSON data stands for.

        Raises:
          InvalidDataError: naming every bad place, if the data does not match the annotation.
        """
        try:
            value: T = self._structure(raw, self.annotation)
            return value
        except Exception as error:
            problems = _problems_of(raw, self.annotation) or [_whole(error)]
            raise InvalidDataError("this data does not match its type", problems) from None

    def _diagnose(self, value: object) -> list[Problem]:
        """Why encoding failed. Slow: only called once it has."""
        try:
            raw = _detailed.unstructure(value, unstructure_as=self.annotation)
        except Exception:
            return [Problem("$", f"expected {_name(self.annotation)}, got {_short(value)}")]
        return _not_json(raw, "$") or _problems_of(raw, self.annotation)


@lru_cache(maxsize=4096)
def _cached_codec(annotation: Any) -> Codec[Any]:
    return Codec(annotation)


def codec(annotation: Any) -> Codec[Any]:
    """The codec of an annotation.

    Raises:
      TypeError: if the annotation contains a type that cannot be stored as JSON.
    """
    try:
        try:
            return _cached_codec(annotation)
        except TypeError:  # unhashable, such as Annotated[int, []]
            return Codec(annotation)
    except StructureHandlerNotFoundError as error:
        unsupported = getattr(error, "type_", annotation)
        raise TypeError(f"{_name(unsupported)} cannot be stored as JSON") from None


def is_structured(annotation: Any) -> bool:
    """Whether values of the annotation are JSON objects: attrs classes, dataclasses, TypedDicts, mappings."""
    origin = typing.get_origin(annotation) or annotation
    if typing.is_typeddict(origin):
        return True
    return isinstance(origin, type) and (_is_class(origin) or issubclass(origin, Mapping))


# -- the rules ---------------------------------------------------------------------------------------------------------


def _expect(kind: type, value: object) -> TypeError:
    return TypeError(f"expected {kind.__name__}, got {_short(value)}")


def _to_str(value: object, _: object) -> str:
    if type(value) is str:
        return value
    raise _expect(str, value)


def _to_bool(value: object, _: object) -> bool:
    if type(value) is bool:
        return value
    raise _expect(bool, value)


def _to_int(value: object, _: object) -> int:
    if type(value) is int:
        return value
    raise _expect(int, value)


def _to_float(value: object, _: object) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise _expect(float, value)


def _to_none(value: object, _: object) -> None:
    if value is not None:
        raise TypeError(f"expected nothing, got {_short(value)}")


def _plain(value: Any) -> Any:
    """Let a value without a declared type through, if JSON keeps it as it is."""
    if type(value) in _SCALARS and type(value) is not float:
        return value
    if problems := _not_json(value, "$"):
        raise InvalidDataError("this value cannot be stored", problems)
    return value


def _not_json(value: object, path: str) -> list[Problem]:
    """Every place in a value that JSON would change or refuse."""
    if isinstance(value, float) and not math.isfinite(value):
        return [Problem(path, f"JSON has no {value!r}")]
    if type(value) is dict:
        found = [
            Problem(path, f"expected str as a key, got {_short(key)}") for key in value if not isinstance(key, str)
        ]
        return found + [p for key, item in value.items() for p in _not_json(item, _key(path, key))]
    if type(value) is list:
        return [p for index, item in enumerate(value) for p in _not_json(item, f"{path}[{index}]")]
    if type(value) in _SCALARS:
        return []
    return [Problem(path, f"JSON has no {type(value).__name__}; annotate its type, got {_short(value)}")]


def _exactly(kind: type[T], parse: Callable[[str], T]) -> Callable[[Any, Any], T]:
    def structure(value: object, _: object) -> T:
        if type(value) is not str:
            raise _expect(kind, value)
        try:
            return parse(value)
        except (ValueError, ArithmeticError):
            raise _expect(kind, value) from None

    return structure


def _to_timedelta(value: object, _: object) -> timedelta:
    if type(value) is int:
        return timedelta(microseconds=value)
    raise TypeError(f"expected timedelta (as microseconds), got {_short(value)}")


Hook = Callable[[Any, Any], Any]


def _shape(kind: type | tuple[type, ...], structure: Hook) -> Hook:
    """Only a JSON array makes a sequence, only a JSON object a structured value: cattrs takes what it can iterate."""

    def structure_shape(value: object, annotation: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"expected {_name(annotation)}, got {_short(value)}")
        return structure(value, annotation)

    return structure_shape


def _class(cls: Any, converter: Converter) -> Hook:
    origin = typing.get_origin(cls) or cls
    if has(origin):
        with contextlib.suppress(NameError):  # a field's type is not defined yet: cattrs resolves it at first use
            resolve_types(origin)
    return _shape(dict, converter.gen_structure_attrs_fromdict(cls))


def _list(annotation: Any, converter: Converter) -> Hook:
    array: Any = types.GenericAlias(list, (_element(annotation),))
    return _shape((list, tuple), list_structure_factory(array, converter))


def _made_of_list(make: Callable[[list[Any]], Any]) -> Callable[[Any, Converter], Hook]:
    def factory(annotation: Any, converter: Converter) -> Hook:
        array: Any = types.GenericAlias(list, (_element(annotation),))
        structure = converter.get_structure_hook(array)
        return _shape((list, tuple), lambda value, _: make(structure(value, array)))

    return factory


def _element(annotation: Any) -> Any:
    return (typing.get_args(annotation) or (Any,))[0]


def _origin_in(*origins: Any) -> Callable[[Any], bool]:
    return lambda annotation: (typing.get_origin(annotation) or annotation) in origins


def _is_plain_tuple(annotation: Any) -> bool:
    arguments = typing.get_args(annotation)
    return _origin_in(tuple)(annotation) and (not arguments or arguments[-1] is Ellipsis)


def _is_class(annotation: Any) -> bool:
    return has(typing.get_origin(annotation) or annotation) or dataclasses.is_dataclass(annotation)


def _converter(*, detailed: bool) -> Converter:
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
        (bytes, _exactly(bytes, lambda text: base64.b64decode(text, validate=True))),
        (datetime, _exactly(datetime, datetime.fromisoformat)),
        (date, _exactly(date, date.fromisoformat)),
        (time, _exactly(time, time.fromisoformat)),
        (Decimal, _exactly(Decimal, Decimal)),
        (UUID, _exactly(UUID, UUID)),
        (Path, _exactly(Path, Path)),
    ):
        converter.register_structure_hook(kind, structure)
    converter.register_unstructure_hook(timedelta, lambda value: value // _MICROSECOND)
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode("ascii"))
    for iso in (datetime, date, time):
        converter.register_unstructure_hook(iso, lambda value: value.isoformat())
    for text in (Decimal, UUID, Path):
        converter.register_unstructure_hook(text, str)
    if not detailed:  # the detailed one lets all through, for _not_json to say where what is wrong
        converter.register_unstructure_hook_func(lambda annotation: annotation is Any, _plain)
    factories: list[tuple[Callable[[Any], bool], Callable[[Any, Converter], Hook]]] = [
        (_is_class, _class),
        (typing.is_typeddict, lambda cls, converter: _shape(dict, converter.gen_structure_typeddict(cls))),
        (
            _origin_in(dict, abc.Mapping, abc.MutableMapping),
            lambda cls, converter: _shape(dict, converter.gen_structure_mapping(cls)),
        ),
        (_origin_in(list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), _list),
        (_origin_in(set, abc.Set, abc.MutableSet), _made_of_list(set)),
        (_origin_in(frozenset), _made_of_list(frozenset)),
        (_origin_in(tuple), lambda cls, converter: _shape((list, tuple), converter.gen_structure_hetero_tuple(cls))),
        (_is_plain_tuple, _made_of_list(tuple)),
        (
            is_namedtuple,
            lambda cls, converter: _shape((list, tuple), namedtuple_structure_factory(cls, converter)),
        ),
    ]
    for predicate, factory in factories:
        converter.register_structure_hook_factory(predicate, factory)
    converter.register_unstructure_hook_factory(is_namedtuple, namedtuple_unstructure_factory)
    configure_union_passthrough(str | bool | int | float | None, converter, accept_ints_as_floats=False)
    return converter


_fast = _converter(detailed=False)
_detailed = _converter(detailed=True)


def _same(one: object, other: object) -> bool:
    """Equality that also sees through classes without ``__eq__``."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(item, other[key]) for key, item in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if _is_class(type(one)):
        return all(_same(getattr(one, name), getattr(other, name)) for name in _field_names(type(one)))
    return one == other


def _field_names(cls: Any) -> list[str]:
    return [a.name for a in fields(cls)] if has(cls) else [f.name for f in dataclasses.fields(cls)]


# -- what is wrong, and where ------------------------------------------------------------------------------------------


def _problems_of(raw: object, annotation: Any) -> list[Problem]:
    try:
        _detailed.structure(raw, annotation)
    except Exception as error:
        return _problems(error, "$", raw)
    return []


def _problems(error: BaseException, path: str, raw: object) -> list[Problem]:
    """Flatten the tree of errors that cattrs raises, each with its path."""
    if isinstance(error, ClassValidationError):
        with_notes, without = error.group_exceptions()
        found = []
        for inner, note in with_notes:
            if isinstance(inner, KeyError) and isinstance(raw, dict) and note.name not in raw:
                found.append(Problem(_key(path, note.name), "missing"))
            else:
                found += _problems(inner, _key(path, note.name), _item(raw, note.name))
        return found + [p for inner in without for p in _problems(inner, path, raw)]
    if isinstance(error, IterableValidationError):
        with_index, without = error.group_exceptions()
        found = []
        for inner, place in with_index:
            inside = f"{path}[{place.index}]" if isinstance(place.index, int) else _key(path, place.index)
            found += _problems(inner, inside, _item(raw, place.index))
        return found + [p for inner in without for p in _problems(inner, path, raw)]
    if isinstance(error, BaseValidationError):
        return [p for inner in error.exceptions for p in _problems(inner, path, raw)]
    if isinstance(error, ForbiddenExtraKeysError):
        return [Problem(_key(path, name), "unknown field") for name in sorted(error.extra_fields)]
    return [Problem(path, str(error) or type(error).__name__)]


def _item(raw: object, key: Any) -> object:
    try:
        return raw[key]  # type: ignore[index]
    except (LookupError, TypeError):
        return raw


def _whole(error: Exception) -> Problem:
    return Problem("$", str(error) or type(error).__name__)


def _key(path: str, key: object) -> str:
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _name(annotation: Any) -> str:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation.__name__
    return str(annotation).removeprefix("typing.")
