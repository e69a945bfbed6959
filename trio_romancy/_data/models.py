"""Pydantic models and msgspec structs as plain JSON data, and back. Neither package is imported here.

A program that has such a class has imported its package. The package checks and converts all that is in the class.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable
from typing import Any

from cattrs import Converter

from ..errors import DataProblem, InvalidDataError
from .diagnosis import expected, key_in
from .scalars import Hook


def is_model(annotation: Any) -> bool:
    """Tell whether an annotation is a pydantic model or a msgspec struct."""
    return _is_of(annotation, "pydantic", "BaseModel") or _is_of(annotation, "msgspec", "Struct")


def _is_of(annotation: Any, package: str, name: str) -> bool:
    origin = typing.get_origin(annotation) or annotation
    base = getattr(sys.modules.get(package), name, None)
    return base is not None and isinstance(origin, type) and issubclass(origin, base)


def register_models(converter: Converter) -> None:
    """Register the rules of models and structs with a converter."""
    converter.register_structure_hook_factory(is_model, _structure)
    converter.register_unstructure_hook_factory(is_model, _unstructure)


def _structure(cls: Any, _: Converter) -> Hook:
    return _to_pydantic(cls) if _is_of(cls, "pydantic", "BaseModel") else _to_struct(cls)


def _unstructure(cls: Any, _: Converter) -> Callable[[Any], Any]:
    origin = typing.get_origin(cls) or cls

    def checked(value: Any) -> Any:
        if not isinstance(value, origin):
            raise TypeError(expected(cls, value))
        return value

    if _is_of(cls, "pydantic", "BaseModel"):
        return lambda value: checked(value).model_dump(mode="json", by_alias=True, round_trip=True)
    to_builtins = sys.modules["msgspec"].to_builtins
    return lambda value: to_builtins(checked(value), str_keys=True)


def _to_pydantic(cls: Any) -> Hook:
    refusal: Any = sys.modules["pydantic"].ValidationError

    def structure(value: object, _: object) -> Any:
        try:
            return cls.model_validate_json(json.dumps(value))  # by the rules for JSON, as of dates
        except refusal as error:
            raise InvalidDataError("this data does not match its model", list(_problems(error.errors()))) from None

    return structure


_WORDS = {"missing": "missing", "extra_forbidden": "unknown field"}
"""Messages for what other classes have words of their own, by pydantic's name of the mistake."""


def _problems(errors: list[dict[str, Any]]) -> typing.Iterator[DataProblem]:
    for error in errors:
        path = "$"
        for part in error["loc"]:
            path = f"{path}[{part}]" if isinstance(part, int) else key_in(path, part)
        kind = error["type"]
        message = _WORDS[kind] if kind in _WORDS else str(error["msg"])
        yield DataProblem(path, message)


def _to_struct(cls: Any) -> Hook:
    msgspec: Any = sys.modules["msgspec"]

    def structure(value: object, _: object) -> Any:
        try:
            return msgspec.convert(value, cls, str_keys=True)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `")
            problem = DataProblem(path.rstrip("`") or "$", message)
            raise InvalidDataError("this data does not match its struct", [problem]) from None

    return structure
