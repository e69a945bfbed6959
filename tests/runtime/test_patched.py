"""``ctx.patched``: an instance goes the way of the code that it has begun with, if it has come past the change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    EntryKind,
    OperationIdError,
    Status,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)
from trio_romancy.testing import How, explore_crashes, run

pytestmark = pytest.mark.long

Flow = Callable[[WorkflowContext], Awaitable[None]]

done: list[str] = []
"""What activities did, in order."""

answers: list[bool] = []
"""What ``patched`` said, in each replay anew."""


@pytest.fixture(autouse=True)
def forget() -> None:
    done.clear()
    answers.clear()


@compensation(name="patched_undo")
async def undo(what: str) -> None:
    done.append(f"undo {what}")


@activity(name="patched_do", compensation=undo)
async def do(what: str) -> None:
    done.append(what)


@activity(name="patched_refuse")
async def refuse() -> None:
    raise TerminalError("as asked")


@workflow
async def patched_flow(ctx: WorkflowContext) -> Any:
    return await code(ctx)


async def nothing(ctx: WorkflowContext) -> None:
    pass


code: Flow = nothing
"""What the workflow does now: as if the process had been started again with other code."""


def deploy(new: Flow) -> None:
    global code
    code = new
    answers.clear()


def ask(ctx: WorkflowContext, change_id: str = "change") -> bool:
    answer = ctx.patched(change_id)
    answers.append(answer)
    return answer


async def run_through(
    versions: Sequence[tuple[float, Flow]], *, idle_timeout: float = 0.05, database: str = ":memory:"
) -> list[str]:
    """Run one instance, with other code from these times on; return what it did.

    On a shared database the app is another one, too.
    """
    done.clear()
    for number, (begins, version) in enumerate(versions):
        if database == ":memory:" and number:
            continue
        is_last = number == len(versions) - 1
        deploy(version)
        async with App(database, idle_timeout=idle_timeout, worker_id="w") as app:
            handle = await app.start(patched_flow.options(id="patched"))
            if database == ":memory:":
                now = begins
                for begins, version in versions[1:]:
                    await trio.sleep(begins - now)
                    now = begins
                    deploy(version)
            elif not is_last:
                await trio.sleep(versions[number + 1][0] - begins)
                continue
            await handle.result(timeout=1_000)
    return list(done)


# -- one after the other -----------------------------------------------------------------------------------------------

STEPS = 4


async def steps_before(ctx: WorkflowContext) -> None:
    for step in range(STEPS):
        await do(str(step))
        await ctx.sleep(1)


def steps_changed_at(change: int) -> Flow:
    """There is one more step before this one."""

    async def steps(ctx: WorkflowContext) -> None:
        for step in range(STEPS):
            if step == change and ask(ctx):
                await do("new")
                await ctx.sleep(1)
            await do(str(step))
            await ctx.sleep(1)
        if change == STEPS and ask(ctx):
            await do("new")

    return steps


def steps_added_at(change: int) -> Flow:
    """The same when all instances go the new way: the question is still asked, for those that were told True."""

    async def steps(ctx: WorkflowContext) -> None:
        for step in range(STEPS):
            if step == change:
                ctx.patched("change")
                await do("new")
                await ctx.sleep(1)
            await do(str(step))
            await ctx.sleep(1)
        if change == STEPS:
            ctx.patched("change")
            await do("new")

    return steps


def all_steps(*, new_at: int | None) -> list[str]:
    steps = [str(step) for step in range(STEPS)]
    if new_at is not None:
        steps.insert(new_at, "new")
    return steps


@pytest.mark.parametrize("in_a_file", [False, True], ids=["memory", "restarts"])
@pytest.mark.parametrize("change", range(STEPS + 1))
@pytest.mark.parametrize("deployed", range(STEPS))
def test_deployed_after_each_step_before_each_other(
    deployed: int, change: int, in_a_file: bool, tmp_path: Path
) -> None:
    """The step ``deployed`` is the last that the journal knows when the new code comes."""

    async def main() -> None:
        database = str(tmp_path / "romancy.db") if in_a_file else ":memory:"
        versions = [(0.0, steps_before), (deployed + 0.5, steps_changed_at(change))]
        has_passed = change <= deployed
        assert await run_through(versions, database=database) == all_steps(new_at=None if has_passed else change)
        assert set(answers) == {not has_passed}
        # One answer for each time that the instance was dropped after the change, and came back.
        assert len(answers) >= (1 if has_passed else STEPS - change)

    run(main)


@pytest.mark.parametrize("idle_timeout", [0.05, 1e6])
@pytest.mark.parametrize("change", range(STEPS + 1))
def test_a_new_instance_goes_the_new_way(change: int, idle_timeout: float) -> None:
    async def main() -> None:
        versions = [(0.0, steps_changed_at(change))]
        assert await run_through(versions, idle_timeout=idle_timeout) == all_steps(new_at=change)
        assert set(answers) == {True}

    run(main)


@pytest.mark.parametrize("change", range(STEPS))
@pytest.mark.parametrize("removed", [step + 0.5 for step in range(STEPS)])
def test_the_condition_can_go_when_all_were_told_true(change: int, removed: float) -> None:
    async def main() -> None:
        versions = [(0.0, steps_changed_at(change)), (removed, steps_added_at(change))]
        assert await run_through(versions) == all_steps(new_at=change)

    run(main)


def test_the_condition_may_go_and_another_come() -> None:
    async def first(ctx: WorkflowContext) -> None:
        if ask(ctx, "first"):
            await do("first")
        await ctx.sleep(1)
        await do("end")

    async def second(ctx: WorkflowContext) -> None:
        ctx.patched("first")
        await do("first")
        await ctx.sleep(1)
        if ask(ctx, "second"):
            await do("second")
        await do("end")

    async def both(ctx: WorkflowContext) -> None:
        assert ask(ctx, "first")
        await do("first")
        await ctx.sleep(1)
        if ask(ctx, "second"):
            await do("second")
        await do("end")

    async def main() -> None:
        assert await run_through([(0.0, first), (0.5, second)]) == ["first", "second", "end"]
        assert await run_through([(0.0, first), (0.5, both)]) == ["first", "second", "end"]

    run(main)


def test_several_changes_have_answers_of_their_own() -> None:
    async def before(ctx: WorkflowContext) -> None:
        await do("a")
        await ctx.sleep(1)
        await do("b")
        await ctx.sleep(1)

    async def after(ctx: WorkflowContext) -> None:
        passed = ask(ctx, "one")
        await do("a")
        await ctx.sleep(1)
        if ask(ctx, "two"):
            await do("two")
        await do("b")
        await ctx.sleep(1)
        if ask(ctx, "three") and not passed:
            await do("three")

    async def main() -> None:
        assert await run_through([(0.0, before), (0.5, after)]) == ["a", "two", "b", "three"]
        assert answers[-3:] == [False, True, True]

    run(main)


def test_a_step_may_be_replaced_or_taken_away() -> None:
    async def before(ctx: WorkflowContext) -> None:
        await do("begin")
        await ctx.sleep(1)
        await do("old")
        await ctx.sleep(1)
        await do("end")

    async def after(ctx: WorkflowContext) -> None:
        await do("begin")
        await ctx.sleep(1)
        if not ask(ctx):
            await do("old")
        await ctx.sleep(1)
        await do("end")

    async def main() -> None:
        assert await run_through([(0.0, before), (1.5, after)]) == ["begin", "old", "end"]
        assert await run_through([(0.0, before), (0.5, after)]) == ["begin", "end"]

    run(main)


def test_what_it_waits_for_shows_no_more_than_the_place_before() -> None:
    """An instance that waits for an event can go the new way first, and still gets the event."""

    async def before(ctx: WorkflowContext) -> None:
        await do("begin")
        await ctx.wait_event("patched.go")
        await do("end")

    async def after(ctx: WorkflowContext) -> None:
        await do("begin")
        if ask(ctx):
            await do("new")
        await ctx.wait_event("patched.go")
        await do("end")

    async def main() -> None:
        deploy(before)
        async with App(":memory:", idle_timeout=0.05) as app:
            handle = await app.start(patched_flow)
            await trio.sleep(1)
            deploy(after)
            await app.send_event("patched.go", None)
            await handle.result(timeout=100)
        assert done == ["begin", "new", "end"]
        assert set(answers) == {True}

    run(main)


def test_a_step_that_has_failed_attempts_is_one_it_has_come_to(tmp_path: Path) -> None:
    works = False

    @activity(name="patched_flaky")
    async def flaky() -> None:
        if not works:
            raise ConnectionError

    async def before(ctx: WorkflowContext) -> None:
        await flaky()

    async def after(ctx: WorkflowContext) -> None:
        if ask(ctx):
            await do("new")
        await flaky()

    async def main() -> None:
        nonlocal works
        database = str(tmp_path / "romancy.db")
        deploy(before)
        async with App(database, shutdown_timeout=0.1) as app:
            handle = await app.start(patched_flow.options(id="flaky"))
            await trio.sleep(2)
        deploy(after)
        works = True
        async with App(database) as app:
            handle = await app.start(patched_flow.options(id="flaky"))
            await handle.result(timeout=100)
            assert (await app.history("flaky"))[0].kind is EntryKind.ATTEMPT_FAILED
        assert len(set(answers)) == 1
        assert done == (["new"] if answers[0] else [])

    run(main)


# -- beside each other -------------------------------------------------------------------------------------------------


def branches(change: int | None) -> Flow:
    """Three child tasks that take their steps at different times; ``eu`` has one more before this one."""

    async def flow(ctx: WorkflowContext) -> None:
        async def branch(name: str, offset: float) -> None:
            with ctx.branch(name):
                await ctx.sleep(offset)
                for step in range(3):
                    if name == "eu" and step == change and ask(ctx):
                        await do("new")
                        await ctx.sleep(10)
                    await do(f"{name}{step}")
                    await ctx.sleep(10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(branch, "asia", 2)
            nursery.start_soon(branch, "eu", 4)
            nursery.start_soon(branch, "us", 6)

    return flow


@pytest.mark.parametrize("in_a_file", [False, True], ids=["memory", "restarts"])
@pytest.mark.parametrize("change", range(2))
@pytest.mark.parametrize("deployed", [1, 3, 5, 7, 13, 15, 17, 25, 27])
def test_what_other_branches_have_done_does_not_count(
    deployed: float, change: int, in_a_file: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        database = str(tmp_path / "romancy.db") if in_a_file else ":memory:"
        has_passed = deployed > 4 + 10 * change
        did = await run_through([(0.0, branches(None)), (deployed, branches(change))], database=database)
        eu = ["eu0", "eu1", "eu2"]
        if not has_passed:
            eu.insert(change, "new")
        assert [step for step in did if step.startswith(("eu", "new"))] == eu
        assert sorted(did) == sorted([*eu, "asia0", "asia1", "asia2", "us0", "us1", "us2"])
        assert set(answers) == {not has_passed}

    run(main)


def with_ids(change: int | None) -> Flow:
    """The same with operation ids instead of branches."""

    async def flow(ctx: WorkflowContext) -> None:
        async def child(name: str, offset: float) -> None:
            await ctx.sleep(offset, id=f"{name}-offset")
            for step in range(3):
                if name == "eu" and step == change and ask(ctx):
                    await do.options(id="new")("new")
                    await ctx.sleep(10, id="new-sleep")
                await do.options(id=f"{name}{step}")(f"{name}{step}")
                await ctx.sleep(10, id=f"{name}-sleep{step}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "asia", 2)
            nursery.start_soon(child, "eu", 4)
            nursery.start_soon(child, "us", 6)

    return flow


@pytest.mark.parametrize("change", range(3))
@pytest.mark.parametrize("deployed", [1, 3, 5, 7, 13, 15, 17, 25, 27])
def test_child_tasks_with_ids_of_their_own_go_the_same_way_on_each_replay(deployed: float, change: int) -> None:
    async def main() -> None:
        has_passed = deployed > 4 + 10 * change
        did = await run_through([(0.0, with_ids(None)), (deployed, with_ids(change))])
        assert sorted(set(did)) == sorted(did)
        assert set(did) - {"new"} == {f"{name}{step}" for name in ("asia", "eu", "us") for step in range(3)}
        assert len(set(answers)) == 1
        assert set(answers) == {not has_passed}
        assert ("new" in did) is answers[0]

    run(main)


@pytest.mark.parametrize("idle_timeout", [0.05, 1e6])
def test_two_tasks_may_ask_about_changes_at_once(idle_timeout: float) -> None:
    async def flow(ctx: WorkflowContext) -> None:
        async def child(name: str) -> None:
            with ctx.branch(name):
                for step in range(3):
                    assert ctx.patched(f"{name}-{step}")
                    await do(f"{name}{step}")
                    await ctx.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "eu")
            nursery.start_soon(child, "us")

    async def main() -> None:
        did = await run_through([(0.0, flow)], idle_timeout=idle_timeout)
        assert sorted(did) == ["eu0", "eu1", "eu2", "us0", "us1", "us2"]

    run(main)


# -- what else a replay must give again --------------------------------------------------------------------------------


def test_asked_again_it_says_the_same() -> None:
    """In a loop, say: whatever it means, an instance that is in the middle of it must not change its mind."""

    async def before(ctx: WorkflowContext) -> None:
        for step in range(STEPS):
            await do(str(step))
            await ctx.sleep(1)

    runs: list[list[bool]] = []

    async def after(ctx: WorkflowContext) -> None:
        runs.append([])
        for step in range(STEPS):
            runs[-1].append(ctx.patched("loop"))
            if runs[-1][-1]:
                await do(f"new{step}")
            await do(str(step))
            await ctx.sleep(1)

    async def main() -> None:
        assert await run_through([(0.0, after)]) == [f"{new}{step}" for step in range(STEPS) for new in ("new", "")]
        for deployed in range(STEPS):
            runs.clear()
            did = await run_through([(0.0, before), (deployed + 0.5, after)])
            assert [step for step in did if not step.startswith("new")] == all_steps(new_at=None)
            for replay in runs:
                assert replay == runs[-1][: len(replay)]

    run(main)


@pytest.mark.parametrize("is_old", [False, True])
def test_time_chance_and_replaying_behind_it_are_the_same_on_each_replay(is_old: bool) -> None:
    seen: list[list[str]] = []

    async def before(ctx: WorkflowContext) -> None:
        await ctx.sleep(1)
        await ctx.sleep(1)

    async def after(ctx: WorkflowContext) -> None:
        seen.append([])
        await ctx.sleep(1)
        ask(ctx)
        seen[-1] += [ctx.now().isoformat(), str(ctx.uuid4()), str(ctx.random.random())]
        await ctx.sleep(1)
        seen[-1] += [ctx.now().isoformat(), str(ctx.uuid4()), str(ctx.random.random())]
        await ctx.sleep(1)
        await ctx.sleep(1)

    async def old_after(ctx: WorkflowContext) -> None:
        await after(ctx)

    async def main() -> None:
        await run_through([(0.0, before), (1.5, old_after)] if is_old else [(0.0, after)])
        assert len(seen) >= 3
        for replay in seen:
            assert replay == seen[-1][: len(replay)]

    run(main)


def test_it_is_in_the_journal_once() -> None:
    async def main() -> None:
        deploy(steps_changed_at(1))
        async with App(":memory:", idle_timeout=0.05) as app:
            handle = await app.start(patched_flow)
            await handle.result()
            history = await app.history(handle.instance_id)
        assert [entry.kind for entry in history].count(EntryKind.PATCHED) == 1

    run(main)


@pytest.mark.parametrize("deployed", [0.5, 1.5])
def test_a_rollback_undoes_the_way_that_it_went(deployed: float) -> None:
    async def before(ctx: WorkflowContext) -> None:
        await do("a")
        await ctx.sleep(1)
        await do("b")
        await ctx.sleep(1)
        await refuse()

    async def after(ctx: WorkflowContext) -> None:
        await do("a")
        await ctx.sleep(1)
        if ask(ctx):
            await do("new")
        await do("b")
        await ctx.sleep(1)
        await refuse()

    async def main() -> None:
        with pytest.raises(WorkflowFailedError):
            await run_through([(0.0, before), (deployed, after)])
        new = ["new"] if deployed < 1 else []
        assert done == ["a", *new, "b", "undo b", *[f"undo {what}" for what in new], "undo a"]

    run(main)


def test_cancelled_behind_it_all_is_undone() -> None:
    async def main() -> None:
        deploy(steps_changed_at(1))
        async with App(":memory:", idle_timeout=0.05) as app:
            handle = await app.start(patched_flow)
            await trio.sleep(1.5)
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result()
        assert done == ["0", "new", "undo new", "undo 0"]

    run(main)


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change_id", ["", "x" * 10_000])
def test_a_wrong_id_is_refused(change_id: str) -> None:
    caught: list[OperationIdError] = []

    async def flow(ctx: WorkflowContext) -> None:
        try:
            ctx.patched(change_id)
        except OperationIdError as error:
            caught.append(error)
            raise

    async def main() -> None:
        deploy(flow)
        async with App(":memory:") as app:
            handle = await app.start(patched_flow)
            with pytest.raises(WorkflowFailedError) as failed:
                await handle.result()
            assert failed.value.error_type == "trio_romancy.OperationIdError"
            instance = await app.get_instance(handle.instance_id)
            assert instance is not None and instance.status is Status.FAILED
        assert len(caught) == 1 and str(caught[0])

    run(main)


@pytest.mark.parametrize("change_id", ["patched_do:1", "sleep:1", "eu/do:1", "ä/ö ü:2", "patched:1", "x" * 200])
def test_an_id_that_looks_like_another_operation_does_not_clash_with_it(change_id: str) -> None:
    async def flow(ctx: WorkflowContext) -> None:
        assert ask(ctx, change_id)
        await do("a")
        await ctx.sleep(1)
        with ctx.branch("eu"):
            await do("b")
        await ctx.sleep(1)

    async def main() -> None:
        assert await run_through([(0.0, flow)]) == ["a", "b"]
        assert set(answers) == {True}

    run(main)


# -- crashes -----------------------------------------------------------------------------------------------------------


async def fresh(app: App) -> object:
    deploy(steps_changed_at(1))
    done.clear()
    handle = await app.start(patched_flow.options(id="fresh"))
    await handle.result()
    return sorted(set(done))


async def in_branches(app: App) -> object:
    deploy(branches(1))
    done.clear()
    handle = await app.start(patched_flow.options(id="branches"))
    await handle.result()
    return sorted(set(done))


async def failing(app: App) -> object:
    async def flow(ctx: WorkflowContext) -> None:
        if ask(ctx):
            await do("new")
        await do("a")
        await ctx.sleep(1)
        if ask(ctx, "another"):
            await refuse()

    deploy(flow)
    done.clear()
    handle = await app.start(patched_flow.options(id="failing"))
    with pytest.raises(WorkflowFailedError) as caught:
        await handle.result()
    return caught.value.error_type, sorted(set(done))


@pytest.mark.parametrize("scenario", [fresh, in_branches, failing])
def test_it_survives_a_crash_at_every_commit(scenario: Callable[[App], Awaitable[object]]) -> None:
    exploration = explore_crashes(scenario, hows=[How.ACTOR_BEFORE, How.WORKER_BEFORE, How.WORKER_AFTER])
    assert exploration.points > 10


async def deployed_meanwhile(app: App) -> object:
    deploy(steps_before)
    done.clear()
    handle = await app.start(patched_flow.options(id="meanwhile"))
    await trio.sleep(1.5)
    deploy(steps_changed_at(3))
    await handle.result()
    return sorted(set(done))


def test_deployed_before_or_after_a_crash_at_every_commit_it_takes_the_new_way() -> None:
    exploration = explore_crashes(deployed_meanwhile, idle_timeout=0.4, hows=[How.WORKER_BEFORE, How.WORKER_AFTER])
    assert exploration.reference.result == ["0", "1", "2", "3", "new"]


# -- code that does not ask --------------------------------------------------------------------------------------------


async def ends_the_old_way(ctx: WorkflowContext) -> None:
    await do("before")


async def goes_on_the_old_way(ctx: WorkflowContext) -> None:
    await do("before")
    await ctx.sleep(1)
    await do("old")


@pytest.mark.parametrize("old", [ends_the_old_way, goes_on_the_old_way])
@pytest.mark.parametrize("is_alone", [True, False], ids=["", "in a child task"])
async def test_code_that_does_not_ask_does_not_fit_who_was_told_true(old: Flow, is_alone: bool) -> None:
    """It would go on the old way, past a step that must come first."""

    async def new(ctx: WorkflowContext) -> None:
        await do("before")
        if ask(ctx):
            await ctx.wait_event("approval")
        await ctx.sleep(1)

    async def in_a_child_task(ctx: WorkflowContext) -> None:
        async def child() -> None:
            with ctx.branch("child"):
                await (new if is_new else old)(ctx)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    is_new = True
    deploy(new if is_alone else in_a_child_task)
    async with App(":memory:", idle_timeout=0.05) as app:
        handle = await app.start(patched_flow)
        await trio.sleep(1)
        is_new = False
        if is_alone:
            deploy(old)
        await app.send_event("approval", None)
        with pytest.raises(WorkflowStuckError, match="does not ask for that change"):
            await handle.result()
        assert done == ["before"]
        is_new = True
        deploy(new if is_alone else in_a_child_task)
        await app.resume(handle.instance_id)
        await handle.result()
        assert done == ["before"] and set(answers) == {True}
