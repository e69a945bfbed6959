"""Names the code of all definitions of this process, as far as journals have to fit it."""

from __future__ import annotations

import hashlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any

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
    digest = hashlib.sha256()
    for definition in sorted(registry.all_definitions(), key=_identity):
        for part in _parts(definition):
            digest.update(part.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def _identity(definition: Definition) -> str:
    return f"{type(definition).__name__} {definition.name}"


def _parts(definition: Definition) -> Iterator[str]:
    yield _identity(definition)
    if isinstance(definition, Compensation):
        yield from _shapes(definition.codecs, inspect.signature(definition.function))
        return
    yield shape(definition.codec.annotation)
    if isinstance(definition, Activity):
        yield "" if definition.compensation is None else definition.compensation.name
    else:
        yield from _shapes(definition.input.codecs, definition.signature)
        if isinstance(code := getattr(definition.function, "__code__", None), CodeType):
            yield from _code(code)
            yield from _named(definition.function, code)


def _shapes(codecs: Mapping[str, Codec[Any]], signature: inspect.Signature) -> Iterator[str]:
    for name, one in codecs.items():
        optional = "" if signature.parameters[name].default is inspect.Parameter.empty else "?"
        yield f"{name}{optional}: {shape(one.annotation)}"


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


def _named(function: Callable[..., Any], code: CodeType) -> Iterator[str]:
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
                yield from _meaning(f"{name}.{attribute}", vars(value).get(attribute))
        else:
            yield from _meaning(name, value)


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _names(inner)
    return names


def _meaning(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Activity | Compensation | Workflow):
        yield f"{name} = {_identity(value)}"
    elif isinstance(value, type) or typing.get_origin(value) is not None or is_union(value):
        try:
            codec(value)
        except Exception:  # not a type of data, whatever it makes of being asked
            return
        yield f"{name} = {shape(value)}"
