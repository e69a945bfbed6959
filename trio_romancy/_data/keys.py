"""Keys of mappings. A key of a JSON object is text, so a key that is not stored as text becomes its JSON text.

``{1: "a"}`` is stored as ``{"1":"a"}``, and read back by its annotation, ``dict[int, str]``. Without an annotation of
the keys only ``str`` is accepted: any other key would be read back as text.
"""

from __future__ import annotations

import enum
import json
import typing
from collections import ChainMap, Counter, OrderedDict, UserDict, abc, defaultdict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from attrs import frozen
from cattrs import Converter
from cattrs.gen import mapping_structure_factory, mapping_unstructure_factory

from .annotations import bare, is_union, kind_of, members
from .diagnosis import expected, name_of
from .readable import why_unreadable
from .scalars import AlteredError, Hook

_TEXT = (str, bytes, datetime, date, time, timedelta, Decimal, UUID, Path)
"""Types whose values are stored as text."""

_MADE_OF_DICT = (OrderedDict, Counter, ChainMap, UserDict)

_dumps = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_loads: Callable[[str], Any] = json.JSONDecoder().decode


@frozen
class _Key:
    """The annotation of keys that are stored as JSON text."""

    annotation: Any


def is_mapping(annotation: Any) -> bool:
    """Tell whether an annotation is a mapping whose keys and values each have one type: no TypedDict, no class."""
    origin = typing.get_origin(annotation) or annotation
    return origin in (dict, abc.Mapping, abc.MutableMapping, defaultdict, *_MADE_OF_DICT)


def structure_mapping(annotation: Any, converter: Converter) -> Hook:
    """Return the hook that makes a mapping of a JSON object.

    Raises:
      TypeError: if the keys cannot be told apart as text, or have no hash.
    """
    arguments = typing.get_args(annotation)
    origin: Any = typing.get_origin(annotation) or annotation
    make: Any = origin if origin in _MADE_OF_DICT else dict
    if origin is defaultdict:
        # The default itself cannot be stored: it is made of the type of the values, as far as that can be called.
        of_values = bare(arguments[1]) if arguments else None
        make = partial(defaultdict, of_values if callable(of_values) and of_values is not Any else None)
    if not arguments:
        return _checked(mapping_structure_factory(annotation, converter, make), annotation)
    key = bare(arguments[0])
    of_key: Any = key if _is_text(key, converter) else _Key(key)
    hook = mapping_structure_factory(annotation, converter, make, key_type=of_key)
    return _checked(hook, annotation)


def _checked(structure: Any, annotation: Any) -> Hook:
    def structure_mapping(value: object, _: object) -> Any:
        if not isinstance(value, dict):
            raise TypeError(expected(annotation, value))
        made = structure(value, annotation)
        if len(made) != len(value):
            raise TypeError("two of its keys mean the same")
        return made

    return structure_mapping


def unstructure_mapping(annotation: Any, converter: Converter) -> Callable[[Any], Any]:
    """Return the hook that makes a JSON object of a mapping."""
    arguments = typing.get_args(annotation)
    if not arguments or _is_text(key := bare(arguments[0]), converter):
        return mapping_unstructure_factory(annotation, converter, unstructure_to=dict)
    return mapping_unstructure_factory(annotation, converter, unstructure_to=dict, key_handler=_to_text(key, converter))


def register_keys(converter: Converter) -> None:
    """Register the rules of mappings and of their keys with a converter."""
    converter.register_structure_hook_factory(is_mapping, structure_mapping)
    converter.register_unstructure_hook_factory(is_mapping, unstructure_mapping)
    converter.register_structure_hook_factory(lambda it: isinstance(it, _Key), _structure_key)


def _structure_key(key: _Key, converter: Converter) -> Hook:
    annotation = key.annotation
    if values := _values(annotation):
        by_text: dict[Any, Any] = {_text_of_raw(raw): value for value, raw in _raw(values, annotation, converter)}

        def structure_value(text: object, _: object) -> Any:
            if text not in by_text:
                raise TypeError(expected(annotation, text))
            return by_text[text]

        return structure_value
    structure = converter.get_structure_hook(annotation)

    def structure_key(text: object, _: object) -> Any:
        try:
            raw = _loads(text)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise TypeError(expected(annotation, text)) from None
        return structure(raw, annotation)

    return structure_key


def _to_text(annotation: Any, converter: Converter) -> Callable[..., str]:
    unstructure = converter.get_unstructure_hook(annotation)
    if _values(annotation):
        return lambda key: _text_of_raw(unstructure(key))

    def to_text(key: object) -> str:
        text = _dumps(unstructure(key))
        if (why := why_unreadable(text)) is not None:
            raise AlteredError(why)
        return text

    return to_text


def _text_of_raw(raw: object) -> str:
    return raw if isinstance(raw, str) else _dumps(raw)


def _is_text(annotation: Any, converter: Converter) -> bool:
    """Tell whether keys are stored as they are. That includes keys of any type, which must be ``str``.

    Raises:
      TypeError: if some keys of the annotation are text and others are not, or they have no hash.
    """
    if is_union(annotation):
        found = members(annotation)
        if Any in found:
            return True
        of_text = [member for member in found if _is_text(member, converter)]
        others = [member for member in found if member not in of_text]
        if str in of_text:  # any text is a str
            others += [it for it in of_text if it is not str and typing.get_origin(it) is not Literal]
        if of_text and others:
            names = f"{name_of(str if str in of_text else of_text[0])} and {_name(others[0])}"
            raise TypeError(f"keys of JSON objects are text, in which {names} cannot be told apart; use one of them")
        return bool(of_text)
    kind = kind_of(annotation)
    if isinstance(kind, type) and kind.__hash__ is None:
        raise TypeError(f"{name_of(annotation)} cannot be a key, because it has no hash")
    if values := _values(annotation):
        raw = [raw for _, raw in _raw(values, annotation, converter)]
        if all(isinstance(one, str) for one in raw):
            return True
        if len(set(map(_text_of_raw, raw))) < len(raw):
            raise TypeError(f"keys of JSON objects are text, in which members of {name_of(annotation)} are the same")
        return False
    return annotation is Any or (isinstance(kind, type) and issubclass(kind, _TEXT))


def _name(annotation: Any) -> str:
    return "None" if annotation is type(None) else name_of(annotation)


def _values(annotation: Any) -> list[Any]:
    """Return all values of an annotation that lists them; none for any other annotation."""
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum) and not issubclass(annotation, enum.Flag):
        return list(annotation)
    return []


def _raw(values: list[Any], annotation: Any, converter: Converter) -> list[tuple[Any, Any]]:
    """Return each value with the plain JSON data that it is stored as."""
    unstructure = converter.get_unstructure_hook(annotation)
    return [(value, unstructure(value)) for value in values]
