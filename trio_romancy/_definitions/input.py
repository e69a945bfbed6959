"""The input of a workflow: checks the arguments of a start, and converts them to the text that is stored and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attrs import frozen

from .._data import patient_json
from .._data.annotations import field_names, is_class, kind_of
from .._data.codec import Codec, dumps, is_structured, loads
from .._data.keys import is_mapping
from .._data.large import LARGE
from ..errors import DataProblem, InvalidDataError, InvalidInputError

T = TypeVar("T")


@frozen(eq=False)
class InputCodec:
    """Converts the arguments that follow the context of one workflow."""

    workflow: str
    """Name of the workflow, for error messages."""
    codecs: Mapping[str, Codec[Any]]
    """Codec of each parameter after the context, by name."""
    signature: inspect.Signature
    """Signature without the context."""
    takes_object: bool
    """Whether the only parameter is structured: the input is then stored as the JSON object of that parameter."""

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, list[Any]]:
        """Return the arguments as the JSON text that is stored, and as the values that are read back from it.

        Raises:
          InvalidInputError: naming every bad field.
        """
        if not kwargs and len(args) == len(self.codecs):
            try:
                return self._as_text(
                    [codec.encode(value) for codec, value in zip(self.codecs.values(), args, strict=True)]
                )
            except InvalidDataError:
                pass  # the slow way below finds every problem
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            cure = ""
            if "id" in kwargs and "id" not in self.codecs:
                cure = "; an instance is given an id by workflow.options(id=...)"
            raise self._invalid([DataProblem("$", f"{error}{cure}")]) from None
        bound.apply_defaults()
        return self._as_text(self._each(bound.arguments, Codec.encode))

    def check(self, raw: Any, *, is_json: bool = False) -> tuple[str, list[Any]]:
        """Return the same as :meth:`encode` for an input that is given as plain JSON data.

        What was an input before optional parameters were added still is one.

        Args:
          is_json: whether it was read from JSON text. The caller must neither keep nor change it then.

        Raises:
          InvalidInputError: naming every bad field.
        """
        try:
            return self._as_text(self._each(self._by_name(raw), Codec.encode_json if is_json else _checked))
        except InvalidInputError:
            # A dict would take any object, also one with a misspelt parameter.
            first = self._first
            values = None
            if first is not None and not is_mapping(first.annotation):
                values = self._from_fewer_parameters(raw, Codec.decode)
            if values is None:
                raise
            return self._as_text(
                [codec.encode(value) for codec, value in zip(self.codecs.values(), values, strict=True)]
            )

    def decode(self, text: str) -> list[Any]:
        """Return the arguments that a stored input stands for. It may be from before optional parameters were added.

        Raises:
          InvalidInputError: if the code that stored the input took other parameters.
        """
        try:
            raw = loads(text) if len(text) < LARGE else patient_json.loads(text)
        except (RecursionError, TypeError, ValueError) as error:
            raise InvalidDataError("its input cannot be read", [DataProblem("$", str(error))]) from None
        # An object with no other field than the first parameter's name may be the value of that parameter.
        may_be_first = isinstance(raw, dict) and raw.keys() <= {next(iter(self.codecs), "")}
        if may_be_first and (values := self._from_fewer_parameters(raw, Codec.decode_stored)) is not None:
            return values
        try:
            return self._each(self._by_name(raw), Codec.decode_stored)
        except InvalidInputError as error:
            if not may_be_first and (values := self._from_fewer_parameters(raw, Codec.decode_stored)) is not None:
                return values
            what = f"workflow {self.workflow!r} cannot read the stored input"
            cure = "extend its types instead of changing them"
            if any(problem.message == "missing" for problem in error.problems):
                cure = "give a default to each new parameter and field"
            raise InvalidInputError(f"{what}; {cure}", error.problems) from None

    def is_same(self, text: str, other: str) -> bool:
        """Return whether two stored inputs stand for the same arguments."""
        try:
            return self.decode(text) == self.decode(other)
        except InvalidDataError:
            return False

    @property
    def _first(self) -> Codec[Any] | None:
        """Codec of the first parameter, if that is structured and there may be no other argument."""
        parameters = [*self.signature.parameters.values()]
        if not parameters or any(each.default is each.empty for each in parameters[1:]):
            return None
        first = self.codecs[parameters[0].name]
        return first if is_structured(first.annotation) else None

    def _from_fewer_parameters(self, raw: Any, decode: Callable[[Codec[Any], Any], Any]) -> list[Any] | None:
        """Return the arguments of an input from before the last parameters were added; None if it cannot be one.

        The input of the one structured parameter was the object itself, and that of no parameter an empty object.
        """
        first = self._first
        if first is None or not isinstance(raw, dict):
            return None
        # All fields of a class are stored, so an empty object is no instance of a class with fields.
        if raw or not (is_class(first.annotation) and field_names(kind_of(first.annotation), stored=True)):
            try:
                return [decode(first, raw), *self._defaults()[1:]]
            except InvalidDataError:
                pass
        parameter = next(iter(self.signature.parameters.values()))
        return None if raw or parameter.default is parameter.empty else self._defaults()

    def _defaults(self) -> list[Any]:
        """Return the default of each parameter, as it would be read back; None for a parameter without one."""
        parameters = self.signature.parameters.values()
        return [
            None if each.default is each.empty else codec.encode(each.default)[1]
            for codec, each in zip(self.codecs.values(), parameters, strict=True)
        ]

    def _by_name(self, raw: Any) -> dict[str, Any]:
        """Return an input that is given as plain JSON data by parameter. Defaults fill what is missing."""
        if self.takes_object:
            return dict.fromkeys(self.codecs, raw)
        if not isinstance(raw, dict):
            raise self._invalid([DataProblem("$", f"expected an object, got {type(raw).__name__}")])
        parameters = self.signature.parameters
        defaults = {name: each.default for name, each in parameters.items() if each.default is not each.empty}
        unknown = [DataProblem(f"$.{name}", "unknown field") for name in raw if name not in self.codecs]
        if unknown or any(name not in raw and name not in defaults for name in self.codecs):
            wrong: list[DataProblem] = []
            for name in self.codecs:
                if name in raw:
                    wrong += self._problems_with(name, raw[name], Codec.decode)
                elif name not in defaults:
                    wrong.append(DataProblem(f"$.{name}", "missing"))
            raise self._invalid(wrong + unknown)
        encoded = {name: loads(self.codecs[name].encode(defaults[name])[0]) for name in self.codecs if name not in raw}
        return {name: raw[name] if name in raw else encoded[name] for name in self.codecs}

    def _as_text(self, encoded: list[tuple[str, Any]]) -> tuple[str, list[Any]]:
        """Join the encoded parameters into the text that is stored. Return it with the values read back."""
        restored = [value for _, value in encoded]
        if self.takes_object:
            return encoded[0][0], restored
        fields = [
            f'"{name}":{text}' if name.isascii() else f"{dumps(name)}:{text}"
            for name, (text, _) in zip(self.codecs, encoded, strict=True)
        ]
        return f"{{{','.join(fields)}}}", restored

    def _each(self, values: dict[str, Any], apply: Callable[[Codec[Any], Any], T]) -> list[T]:
        """Apply a function to each value and its codec. The error names the problems of all values."""
        try:
            return [apply(self.codecs[name], value) for name, value in values.items()]
        except InvalidDataError:
            problems = [p for name, value in values.items() for p in self._problems_with(name, value, apply)]
            raise self._invalid(problems) from None

    def _problems_with(self, name: str, value: Any, apply: Callable[[Codec[Any], Any], object]) -> list[DataProblem]:
        try:
            apply(self.codecs[name], value)
        except InvalidDataError as error:
            at = "$" if self.takes_object else f"$.{name}"
            return [DataProblem(at + problem.path[1:], problem.message) for problem in error.problems]
        return []

    def _invalid(self, problems: list[DataProblem]) -> InvalidInputError:
        return InvalidInputError(f"workflow {self.workflow!r} does not take this input", problems)


def _checked(codec: Codec[Any], raw: Any) -> tuple[str, Any]:
    return codec.encode(codec.decode(raw))
