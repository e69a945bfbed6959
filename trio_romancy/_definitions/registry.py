"""The registry: finds definitions by name, so that any process that has the code can resume a journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..errors import DefinitionError
from .values import Activity, Compensation, Definition, Workflow

D = TypeVar("D", bound=Definition)


class Registry:
    """Holds definitions by class and name.

    The decorators add to the module's :data:`registry`, and workers, clients and the command line look there. It
    belongs to the process, as the modules do that define things: all threads and tasks see the same definitions.
    """

    def __init__(self) -> None:
        self._definitions: dict[tuple[type, str], Any] = {}

    def add(self, definition: D) -> D:
        """Add a definition and return it. It replaces an earlier version of itself, as in a reloaded module.

        Raises:
          DefinitionError: if another function has the name.
        """
        key = (type(definition), definition.name)
        other = self._definitions.get(key)
        if other is not None and not _replaces(definition.function, other.function):
            what = type(definition).__name__.lower()
            raise DefinitionError(
                f"{what} {definition.function.__module__}.{definition.function.__qualname__}: the name "
                f"{definition.name!r} is taken by {other.function.__module__}.{other.function.__qualname__}; "
                f"give one of them another, with @{what}(name=...)"
            )
        self._definitions[key] = definition
        return definition

    def find_workflow(self, name: str) -> Workflow[..., Any] | None:
        """Return the workflow of that name, or None."""
        return self._definitions.get((Workflow, name))

    def find_compensation(self, name: str) -> Compensation[..., Any] | None:
        """Return the compensation of that name, or None."""
        return self._definitions.get((Compensation, name))

    def find_activity(self, name: str) -> Activity[..., Any] | None:
        """Return the activity of that name, or None."""
        return self._definitions.get((Activity, name))

    def all_definitions(self) -> list[Definition]:
        """Return all definitions, in their order."""
        return list(self._definitions.values())

    def workflow_names(self) -> list[str]:
        """Return the names of all workflows, in the order of their definition."""
        return [name for cls, name in self._definitions if cls is Workflow]

    @contextmanager
    def scoped(self, keep: Callable[[Definition], bool] | None = None) -> Iterator[None]:
        """Give the block definitions of its own, and restore those from before when it ends.

        The block begins without any definition, or with those that ``keep`` accepts. What it adds is gone afterwards.
        For tests, notebooks and documentation, where the same names are defined several times.

        The scope holds for the whole process, not only for the task or thread that opens it: a worker that runs
        meanwhile sees the definitions of the scope, too. Scopes nest, and must end in the reverse order of their
        beginning.

        Args:
          keep: called with each definition; whether the scope begins with it.

        Raises:
          RuntimeError: at the end of the block, if a scope that was opened inside it has not ended.
        """
        outer = self._definitions
        inner = {key: made for key, made in outer.items() if keep is not None and keep(made)}
        self._definitions = inner
        try:
            yield
        finally:
            if self._definitions is not inner:
                raise RuntimeError("scopes of a registry must end in the reverse order of their beginning")
            self._definitions = outer


registry = Registry()
"""The registry of the process, which the decorators add to."""


def _replaces(new: Callable[..., Any], old: Callable[..., Any]) -> bool:
    """Tell whether a function is another version of the same definition.

    That is so in a reloaded module, in a script that is imported as well, in a cell of a notebook that runs again, and
    in a function that defines another one at each call: the last one counts.
    """
    if "<locals>" in new.__qualname__ and "<locals>" in old.__qualname__:
        return True
    if new.__qualname__ != old.__qualname__:
        return False
    # IPython compiles each cell under a file name of its own, and executes all in one namespace.
    return new.__code__.co_filename == old.__code__.co_filename or new.__globals__ is old.__globals__
