"""Keeps the definitions of test modules apart, so that each module names its own as it likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trio_romancy._definitions.registry import registry
from trio_romancy._definitions.values import Definition

_imported: list[Definition] = []
"""What test modules have defined while they were imported."""


@contextmanager
def imported_apart() -> Iterator[None]:
    """Import a test module in the block. Its definitions do not meet those of the modules before it."""
    with registry.scoped():
        yield
        _imported.extend(registry.all_definitions())


@contextmanager
def definitions_of(*modules: str) -> Iterator[None]:
    """Let the block see the definitions of these modules only, as if no other had been imported."""
    with registry.scoped(keep=lambda made: made.function.__module__ in modules):
        for made in _imported:
            if made.function.__module__ in modules:
                registry.add(made)
        yield
