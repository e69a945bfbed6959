"""Names the code of all definitions of this process, as far as journals have to fit it."""

from __future__ import annotations

import hashlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any

from attrs import define, field

from .._data.annotations import is_union
from .._data.codec import Codec, codec
from .._data.shape import shape
from .registry import registry
from .values import Activity, Compensation, Definition, Workflow


def code_version() -> str:
    """Return a digest of all workflow functions, and of what journals hold of other definitions: 16 hexadecimal digits.

    In it count the code of workflow functions; the names of all definitions; the shapes of inputs, results and
    arguments of compensations; and the definitions and data types that a workflow function names, such as the
    ``data_type`` of an event.

    It is the same in every process with the same code on the same version of Python. The bodies of activities and
    compensations do not count in it, and neither do functions that a workflow calls, comments and places of functions.
    """
    digest, shapes = hashlib.sha256(), _Shapes()
    for definition in sorted(registry.all_definitions(), key=_identity):
        for part in _parts(definition, shapes):
            digest.update(part.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


@define(eq=False)
class _Shapes:
    """Shapes that were found before: most definitions name the same types, and an exception is slow to refuse."""

    _known: dict[int, tuple[object, str | None]] = field(factory=dict)
    """By id of the annotation, because equal unions may have shapes that differ."""

    def of(self, annotation: Any) -> str:
        """Return the shape of an annotation, whose values can be stored."""
        return self._once(annotation, shape) or ""

    def of_any(self, value: Any) -> str | None:
        """Return the shape of a type; None if its values cannot be stored."""
        return self._once(value, _shape_of_data)

    def _once(self, annotation: Any, find: Callable[[Any], str | None]) -> str | None:
        known = self._known.get(id(annotation))
        if known is None:
            known = self._known[id(annotation)] = annotation, find(annotation)
        return known[1]


def _shape_of_data(value: Any) -> str | None:
    try:
        codec(value)
    except Exception:  # not a type of data, whatever it makes of being asked
        return None
    return shape(value)


def _identity(definition: Definition) -> str:
    return f"{type(definition).__name__} {definition.name}"


def _parts(definition: Definition, shapes: _Shapes) -> Iterator[str]:
    yield _identity(definition)
    if isinstance(definition, Compensation):
        yield from _parameters(definition.codecs, inspect.signature(definition.function), shapes)
        return
    yield shapes.of(definition.codec.annotation)
    if isinstance(definition, Activity):
        yield "" if definition.compensation is None else definition.compensation.name
    else:
        yield from _parameters(definition.input.codecs, definition.signature, shapes)
        if isinstance(code := getattr(definition.function, "__code__", None), CodeType):
            yield from _code(code)
            yield from _named(definition.function, code, shapes)


def _parameters(codecs: Mapping[str, Codec[Any]], signature: inspect.Signature, shapes: _Shapes) -> Iterator[str]:
    for name, one in codecs.items():
        optional = "" if signature.parameters[name].default is inspect.Parameter.empty else "?"
        yield f"{name}{optional}: {shapes.of(one.annotation)}"


def _code(constant: object) -> Iterator[str]:
    if isinstance(constant, CodeType):
        yield constant.co_code.hex()
        yield " ".join((*constant.co_names, *constant.co_varnames, *constant.co_freevars))
        for inner in constant.co_consts:
            yield from _code(inner)
    elif isinstance(constant, frozenset):
        yield from sorted(map(repr, constant))  # the order of a frozenset differs from process to process
    else:
        yield repr(constant)


def _named(function: Callable[..., Any], code: CodeType, shapes: _Shapes) -> Iterator[str]:
    """Yield what the definitions and data types are that a function names, also as attributes of modules."""
    names = sorted(_names(code))
    found: dict[str, Any] = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name, value in sorted(found.items()):
        if isinstance(value, types.ModuleType):
            for attribute in names:
                yield from _meaning(f"{name}.{attribute}", vars(value).get(attribute), shapes)
        else:
            yield from _meaning(name, value, shapes)


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _names(inner)
    return names


def _meaning(name: str, value: object, shapes: _Shapes) -> Iterator[str]:
    if isinstance(value, Activity | Compensation | Workflow):
        yield f"{name} = {_identity(value)}"
        return
    is_type = isinstance(value, type) or typing.get_origin(value) is not None or is_union(value)
    if is_type and (found := shapes.of_any(value)) is not None:
        yield f"{name} = {found}"
