"""The input of a workflow: checks the arguments of a start, and converts them to the text that is stored and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attrs import frozen

from .._data.codec import Codec, dumps, loads
from ..errors import InvalidDataError, InvalidInputError, Problem

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
            raise self._invalid([Problem("$", str(error))]) from None
        bound.apply_defaults()
        return self._as_text(self._each(bound.arguments, Codec.encode))

    def check(self, raw: Any) -> tuple[str, list[Any]]:
        """Return the same as :meth:`encode` for an input that is given as plain JSON data.

        Raises:
          InvalidInputError: naming every bad field.
        """
        return self._as_text(self._each(self._by_name(raw), lambda codec, value: codec.encode(codec.decode(value))))

    def decode(self, text: str) -> list[Any]:
        """Return the arguments that a stored input stands for.

        Raises:
          InvalidInputError: if the code that stored the input took other parameters.
        """
        values = self._by_name(loads(text))
        return self._each(values, Codec.decode)

    def _by_name(self, raw: Any) -> dict[str, Any]:
        """Return an input that is given as plain JSON data by parameter. Defaults fill what is missing."""
        if self.takes_object:
            return dict.fromkeys(self.codecs, raw)
        if not isinstance(raw, dict):
            raise self._invalid([Problem("$", f"expected an object, got {type(raw).__name__}")])
        parameters = self.signature.parameters
        defaults = {name: each.default for name, each in parameters.items() if each.default is not each.empty}
        unknown = [Problem(f"$.{name}", "unknown field") for name in raw if name not in self.codecs]
        if unknown or any(name not in raw and name not in defaults for name in self.codecs):
            wrong: list[Problem] = []
            for name in self.codecs:
                if name in raw:
                    wrong += self._problems_with(name, raw[name], Codec.decode)
                elif name not in defaults:
                    wrong.append(Problem(f"$.{name}", "missing"))
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

    def _problems_with(self, name: str, value: Any, apply: Callable[[Codec[Any], Any], object]) -> list[Problem]:
        try:
            apply(self.codecs[name], value)
        except InvalidDataError as error:
            at = "$" if self.takes_object else f"$.{name}"
            return [Problem(at + problem.path[1:], problem.message) for problem in error.problems]
        return []

    def _invalid(self, problems: list[Problem]) -> InvalidInputError:
        return InvalidInputError(f"workflow {self.workflow!r} does not take this input", problems)
