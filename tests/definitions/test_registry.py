"""A scope of the registry has definitions of its own, for the whole process, and leaves no trace."""

from __future__ import annotations

import threading

import pytest

from trio_romancy import DefinitionError, WorkflowContext, workflow
from trio_romancy._definitions.registry import Registry, registry


@workflow(name="registry.kept")
async def kept(ctx: WorkflowContext) -> int:
    return 1


def define(number: int) -> None:
    """Define ``registry.own`` by a function of another name each time, which outside of a scope is an error."""
    exec(
        f"@workflow(name='registry.own')\nasync def own_{number}(ctx) -> int:\n    return {number}",
        {"workflow": workflow, "__name__": __name__},
    )


def test_a_scope_begins_empty_and_what_it_defines_is_gone_when_it_ends() -> None:
    for number in range(2):
        with registry.scoped():
            assert registry.all_definitions() == []
            define(number)
            assert registry.workflow_names() == ["registry.own"]
        assert registry.workflow_names() == ["registry.kept"]


def test_without_a_scope_a_name_is_taken() -> None:
    with registry.scoped():
        define(1)
        with pytest.raises(DefinitionError, match="is taken by"):
            define(2)


def test_a_scope_can_begin_with_some_definitions_of_the_one_around_it() -> None:
    define(1)
    with registry.scoped(keep=lambda definition: definition is kept):
        assert registry.all_definitions() == [kept]
    assert registry.workflow_names() == ["registry.kept", "registry.own"]


def test_scopes_nest_and_end_also_with_an_error() -> None:
    with registry.scoped(), pytest.raises(ZeroDivisionError):
        define(1)
        with registry.scoped():
            define(2)
            raise ZeroDivisionError
        raise AssertionError("not reached")
    assert registry.workflow_names() == ["registry.kept"]


def test_scopes_that_overlap_are_refused() -> None:
    own = Registry()
    outer, inner = own.scoped(), own.scoped()
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="reverse order"):
        outer.__exit__(None, None, None)


def test_every_thread_sees_the_scope() -> None:
    seen: list[list[str]] = []
    with registry.scoped():
        define(1)
        thread = threading.Thread(target=lambda: seen.append(registry.workflow_names()))
        thread.start()
        thread.join()
    assert seen == [["registry.own"]]
