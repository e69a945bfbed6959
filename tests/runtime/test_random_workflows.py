"""Random workflows, crashed at random commits, end as they do undisturbed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from trio_romancy import (
    ActivityError,
    App,
    Limits,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy.testing import Crash, How, run_with_crashes

pytestmark = pytest.mark.long

Program = list[dict[str, Any]]

UNITS = [1e9, 1e6, 1e3]
"""Seconds by depth. What shall happen after something else happens a unit later: no restart can change the order."""


@compensation
async def take_back(value: int, result: int) -> None:
    assert result == value + 1


@activity(compensation=take_back)
async def add_one(value: int) -> int:
    return value + 1


@activity(retry=RetryPolicy.fixed(4, 2))
async def flaky(failures: int) -> int:
    if current_activity().attempt <= failures:
        raise ConnectionError
    return failures


@activity
async def in_session(value: int) -> int:
    await current_activity().session.run_sync(lambda session: session.connection())
    return value


@activity(name="fail_as_asked")
async def fail() -> None:
    raise TerminalError("as asked")


@workflow
async def interpret(ctx: WorkflowContext, program: list[dict[str, Any]]) -> list[Any]:
    return await run_steps(ctx, "", program, 0)


async def run_steps(ctx: WorkflowContext, path: str, program: Program, depth: int) -> list[Any]:
    return [await run_step(ctx, f"{path}{number}.", step, depth) for number, step in enumerate(program)]


async def run_step(ctx: WorkflowContext, path: str, step: dict[str, Any], depth: int) -> Any:
    match step:
        case {"do": "add", "value": value}:
            return await add_one(value)
        case {"do": "flaky", "failures": failures}:
            return await flaky(failures)
        case {"do": "session", "value": value}:
            return await in_session(value)
        case {"do": "sleep", "seconds": seconds}:
            await ctx.sleep(seconds)
            return "slept"
        case {"do": "draw"}:
            return ctx.random.randrange(10**9)
        case {"do": "fail"}:
            return await fail()
        case {"do": "try", "steps": steps}:
            try:
                return await run_steps(ctx, path, steps, depth)
            except (ActivityError, ExceptionGroup) as error:
                return leaf_types(error)
        case {"do": "timeout", "steps": steps, "in_time": in_time}:
            inner: list[Any] = []
            with ctx.move_on_after(UNITS[depth]) as scope:
                inner = await run_steps(ctx, path, steps, depth + 1)
                if not in_time:
                    await ctx.sleep(10 * UNITS[depth])
            return [inner, scope.cancelled_caught]
        case {"do": "nursery", "branches": branches, "fails": fails}:
            return await run_nursery(ctx, path, branches, fails, depth)
    raise AssertionError(step)


async def run_nursery(ctx: WorkflowContext, path: str, branches: list[Program], fails: bool, depth: int) -> Any:
    results: list[Any] = [None] * len(branches)

    async def run_branch(index: int, program: Program) -> None:
        with ctx.branch(f"{path}{index}"):
            results[index] = await run_steps(ctx, path, program, depth + 1)

    async def fail_later() -> None:
        with ctx.branch(f"{path}fails"):
            await ctx.sleep(UNITS[depth])
            await fail()

    async def wait_for_ever() -> None:
        with ctx.branch(f"{path}waits"):
            await ctx.sleep(1000 * UNITS[depth])

    async with trio.open_nursery() as nursery:
        for index, program in enumerate(branches):
            nursery.start_soon(run_branch, index, program)
        if fails:
            nursery.start_soon(fail_later)
            nursery.start_soon(wait_for_ever)
    return results


def leaf_types(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return sorted(name for part in error.exceptions for name in leaf_types(part))
    return [type(error).__name__]


def steps(depth: int = 0, may_fail: bool = True) -> st.SearchStrategy[Program]:
    """Programs. Of the branches of a nursery only its own can fail, so that it is known which does first."""
    simple = [
        st.builds(lambda value: {"do": "add", "value": value}, st.integers(0, 9)),
        st.builds(lambda failures: {"do": "flaky", "failures": failures}, st.integers(0, 3)),
        st.builds(lambda value: {"do": "session", "value": value}, st.integers(0, 9)),
        st.builds(lambda seconds: {"do": "sleep", "seconds": seconds}, st.integers(0, 30)),
        st.just({"do": "draw"}),
    ]
    if depth == len(UNITS):
        return st.lists(st.one_of(simple), max_size=3)
    inner = steps(depth + 1, may_fail)
    nested = [
        st.builds(lambda steps: {"do": "try", "steps": steps}, steps(depth + 1, True)),
        st.builds(lambda steps, in_time: {"do": "timeout", "steps": steps, "in_time": in_time}, inner, st.booleans()),
        st.builds(
            lambda branches, fails: {"do": "nursery", "branches": branches, "fails": fails},
            st.lists(steps(depth + 1, False), min_size=1, max_size=3),
            st.booleans() if may_fail else st.just(False),
        ),
    ]
    if may_fail:
        nested.append(st.just({"do": "fail"}))
    return st.lists(st.one_of(*simple, *nested), max_size=4)


crashes = st.lists(
    st.builds(Crash, st.integers(1, 25), st.sampled_from(How)), max_size=4, unique_by=lambda crash: crash.commit
)


def check(program: Program, crashes: list[Crash], new_database: Callable[[], str]) -> None:
    async def scenario(app: App) -> Any:
        try:
            return await (await app.start(interpret.options(id="random"), program)).result()
        except WorkflowFailedError as error:
            return [error.error_type, error.uncompensated]

    options: dict[str, Any] = {"idle_timeout": 20.0, "limits": Limits(max_recoveries=100), "new_database": new_database}
    undisturbed = run_with_crashes(scenario, **options)
    crashed = run_with_crashes(scenario, crashes, **options)
    event(f"{len(crashed.reached)} crashes")
    assert not undisturbed.broken_guarantees
    assert not crashed.broken_guarantees
    assert crashed.difference_from(undisturbed) is None


def test_a_random_workflow_crashed_at_random_commits_ends_as_undisturbed(
    kind: str, new_database: Callable[[], str]
) -> None:
    @settings(
        max_examples=100 if kind == "sqlite" else 15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(steps(), crashes)
    def ends_as_undisturbed(program: Program, crashes: list[Crash]) -> None:
        check(program, crashes, new_database)

    ends_as_undisturbed()
