"""Checks of a function that is being defined as a workflow, an activity or a compensation."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from .._context.workflow import WorkflowContext
from .._data.codec import Codec, codec, is_structured
from .._data.ids import MAX_ID, is_id
from ..errors import DefinitionError
from ..limits import Limit
from ..retry import RetryPolicy
from .input import InputCodec
from .values import Compensation


@frozen
class InspectedFunction:
    """A function that is being defined, with its evaluated annotations.

    Raises:
      DefinitionError: if no durable function can have that name, or such annotations, or yields.
    """

    function: Callable[..., Any]
    _name: str | None
    what: str
    """``"workflow"``, ``"activity"`` or ``"compensation"``."""
    _scope: Mapping[str, Any]
    """Local names at the place of the definition, which annotations may use."""
    name: str = field(init=False)
    signature: inspect.Signature = field(init=False)
    is_async: bool = field(init=False)
    _hints: dict[str, Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        set_once = object.__setattr__
        if isinstance(self.function, staticmethod):
            set_once(self, "function", self.function.__func__)
        if not inspect.isroutine(self.function):
            raise DefinitionError(f"@{self.what} is for functions, not for {self.function!r}")
        set_once(self, "name", self.function.__name__ if self._name is None else self._name)
        if not is_id(self.name):
            raise self.error(f"its name must be a string of 1 to {MAX_ID} characters, not {self._name!r}")
        if inspect.isasyncgenfunction(self.function) or inspect.isgeneratorfunction(self.function):
            raise self.error("a generator cannot be run durably; return a list instead")
        if self._is_method():
            raise self.error(
                f"it is a method, and there is no object to bind it to; define it outside of the class, or bind it: "
                f"{self.function.__name__} = {self.what}(an_object.{self.function.__name__})"
            )
        set_once(self, "is_async", inspect.iscoroutinefunction(self.function))
        set_once(self, "signature", inspect.signature(self.function))
        try:
            hints = typing.get_type_hints(self.function, localns=dict(self._scope), include_extras=True)
        except NameError as error:
            raise self.error(f"{error.name!r} in its annotations is not defined here; define it first") from None
        except (TypeError, AttributeError, SyntaxError) as error:
            raise self.error(f"its annotations cannot be evaluated: {error}") from None
        set_once(self, "_hints", hints)

    def _is_method(self) -> bool:
        """Whether the function takes an object or a class as its first argument, and is not bound to one."""
        if isinstance(self.function, classmethod):
            return True
        in_class, _, _ = self.function.__qualname__.rpartition(".")
        if not in_class or in_class.endswith("<locals>"):
            return False
        parameters = inspect.signature(self.function).parameters  # without the one that a bound method has been given
        return next(iter(parameters), "") in ("self", "cls")

    def error(self, problem: str) -> DefinitionError:
        """Return an error that names the function."""
        return DefinitionError(f"{self.what} {self.function.__module__}.{self.function.__qualname__}: {problem}")

    def codec(self, parameter: str) -> Codec[Any]:
        """Return the codec of a parameter, or of ``"return"``. Without an annotation it takes plain JSON data.

        Raises:
          DefinitionError: if values of the annotated type cannot be stored.
        """
        try:
            return codec(self._hints.get(parameter, Any))
        except TypeError as error:
            which = "its result" if parameter == "return" else f"its parameter {parameter!r}"
            raise self.error(f"{which}: {error}") from None

    def codecs(self, parameters: Iterable[inspect.Parameter]) -> dict[str, Codec[Any]]:
        """Return the codecs of parameters by name.

        Raises:
          DefinitionError: if a parameter cannot be given by position and by name, or its values cannot be stored.
        """
        for parameter in parameters:
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                raise self.error(f"its parameter '{parameter}' has no name that could be stored; list the parameters")
            if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                raise self.error(f"its parameter {parameter.name!r} must be accepted by position and by name")
        return {parameter.name: self.codec(parameter.name) for parameter in parameters}

    def input(self) -> InputCodec:
        """Return the codec of a workflow's input: of all parameters but the first, which takes the context.

        Raises:
          DefinitionError: if the first parameter does not take the context, or another cannot be stored.
        """
        parameters = list(self.signature.parameters.values())
        if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
            raise self.error("its first parameter must take the WorkflowContext")
        context = parameters.pop(0).name
        if self._hints.get(context, Any) not in (Any, WorkflowContext):
            raise self.error(f"its first parameter must take the WorkflowContext, {context!r} is annotated otherwise")
        codecs = self.codecs(parameters)
        return InputCodec(
            workflow=self.name,
            codecs=codecs,
            signature=self.signature.replace(parameters=parameters),
            takes_object=len(codecs) == 1 and is_structured(next(iter(codecs.values())).annotation),
        )

    def check_retry(self, retry: RetryPolicy | None) -> None:
        """Refuse anything but a retry policy.

        Raises:
          DefinitionError: if it is not one.
        """
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise self.error(f"its retry must be a RetryPolicy, {retry!r} is not")

    def limits(self, limits: Sequence[Limit]) -> tuple[Limit, ...]:
        """Return the limits of the function.

        Raises:
          DefinitionError: if one is not a :class:`~trio_romancy.Limit`, or two have the same name.
        """
        for limit in limits:
            if not isinstance(limit, Limit):
                raise self.error(f"each of its limits must be a Limit, {limit!r} is not")
        names = [limit.name for limit in limits]
        if len(set(names)) < len(names):
            raise self.error(f"its limits must have different names, not {', '.join(map(repr, names))}")
        return tuple(limits)

    def check_compensation(self, compensation: Compensation[..., Any]) -> None:
        """Refuse a compensation that does not fit this activity.

        Raises:
          DefinitionError: if a parameter of the compensation has no value, or one of another type.
        """
        if not isinstance(compensation, Compensation):
            raise self.error(f"its compensation must be made with @compensation, {compensation!r} is not")
        for name, taken in compensation.codecs.items():
            if name not in self.signature.parameters and name != "result":
                raise self.error(
                    f"its compensation {compensation.name!r} takes {name!r}, which the activity does not; "
                    f"take one of {', '.join([*self.signature.parameters, 'result'])}"
                )
            given = self._hints.get("return" if name == "result" else name, Any)
            if Any not in (given, taken.annotation) and given != taken.annotation:
                raise self.error(
                    f"its compensation {compensation.name!r} takes {name!r} as {taken.annotation}, "
                    f"and the activity gives {given}"
                )
