"""Test modules do not share a space of names."""

from __future__ import annotations

from types import ModuleType

import pytest

from trio_romancy import DefinitionError, activity
from trio_romancy._definitions.registry import registry

from .definitions import definitions_of, imported_apart


def module(name: str) -> ModuleType:
    """A module that defines an activity whose name another one has, too."""
    made = ModuleType(name)
    made.__dict__["activity"] = activity
    exec(compile("@activity\nasync def taken_by_two() -> None: ...", f"{name}.py", "exec"), made.__dict__)
    return made


def test_two_modules_define_the_same_name_and_each_sees_its_own() -> None:
    modules = []
    for name in ("tests.one", "tests.another"):
        with imported_apart():
            modules.append(module(name))
    for made in modules:
        with definitions_of(made.__name__):
            assert registry.all_definitions() == [made.taken_by_two]
    with definitions_of("tests.neither"):
        assert registry.all_definitions() == []


def test_one_module_that_defines_a_name_twice_is_refused() -> None:
    with pytest.raises(DefinitionError, match="the name 'taken_by_two' is taken by"), imported_apart():
        module("tests.third")
        module("tests.fourth")
