"""Checks that a call fits the signature of what it calls."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, final

_MOST_SHAPES = 64
"""The most shapes of calls that are remembered for one definition."""


@final
class CallCheck:
    """Refuses calls with wrong arguments, as Python does, before anything of them is carried out.

    The shape of a call is the number of its positional arguments and the names of the others. Each shape is bound to
    the signature once, which takes as long as a tenth of an activity.
    """

    __slots__ = ("_name", "_shapes", "_signature", "counts")

    def __init__(self, name: str, signature: inspect.Signature) -> None:
        self._name = name
        self._signature = signature
        self._shapes: set[tuple[object, ...]] = set()
        """Shapes of calls that fit."""
        self.counts: set[int] = set()
        """Numbers of arguments with which calls without names fit: the caller need not check those again."""

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check a call.

        Raises:
          TypeError: if the call lacks an argument, or has one that is not accepted.
        """
        shape = (len(args), *kwargs)
        if shape in self._shapes:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}{self._shown()} is called with wrong arguments: {error}") from None
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes.add(shape)
            if not kwargs:
                self.counts.add(len(args))

    def _shown(self) -> inspect.Signature:
        """Return the signature without its annotations, which are long, and no part of the mistake."""
        empty = inspect.Parameter.empty
        parameters = [parameter.replace(annotation=empty) for parameter in self._signature.parameters.values()]
        return self._signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
