"""``ctx.map`` runs so many items at a time, in order, each in a branch of its own, and ends as its errors say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import pytest
import trio
from attrs import define, field

from trio_romancy import (
    ActivityError,
    App,
    OperationIdError,
    Status,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    workflow,
)
from trio_romancy.testing import How, explore_crashes

from ..support.probe import probe


@define
class Desk:
    """What the activities of a test have done."""

    begun: list[Any] = field(factory=list)
    running: int = 0
    most: int = 0
    undone: list[Any] = field(factory=list)
    items: list[int] = field(factory=list)
    """What the workflow is given to map, whatever its code was given before."""


desk = Desk()


@pytest.fixture(autouse=True)
def cleared() -> None:
    global desk
    desk = Desk()


@compensation(name="map_give_back")
async def give_back(number: int) -> None:
    desk.undone.append(number)


@activity(name="mapped", compensation=give_back)
async def take(number: int, seconds: float = 1.0) -> int:
    """Take a number, for some time. Negative ones fail at once."""
    desk.begun.append(number)
    if number < 0:
        raise TerminalError(f"{number} is negative")
    desk.running += 1
    desk.most = max(desk.most, desk.running)
    await trio.sleep(seconds)
    desk.running -= 1
    return number * 10


async def ids_of(app: App, instance_id: str) -> list[str]:
    return [entry.operation_id for entry in await app.history(instance_id) if entry.kind.is_delivered]


async def result_of(app: App, *args: Any) -> Any:
    return await (await app.start(*args)).result()


# -- order, bound and ids ----------------------------------------------------------------------------------------------


@workflow(name="map_take_all")
async def take_all(ctx: WorkflowContext, numbers: list[int], at_once: int | None) -> list[int]:
    return await ctx.map(take, numbers, at_once=at_once)


@pytest.mark.parametrize(
    ("at_once", "most", "seconds"), [(1, 1, 10), (3, 3, 4), (10, 10, 1), (99, 10, 1), (None, 10, 1)]
)
async def test_results_are_in_the_order_of_the_items_and_no_more_run_at_once(
    at_once: int | None, most: int, seconds: float
) -> None:
    async with App(":memory:") as app:
        begun = trio.current_time()
        assert await result_of(app, take_all, [*range(10)], at_once) == [10 * number for number in range(10)]
        assert trio.current_time() - begun == pytest.approx(seconds, abs=0.5)
    assert desk.most == most
    assert sorted(desk.begun) == [*range(10)]


async def test_the_next_item_begins_when_any_one_ends_and_results_do_not_change_places() -> None:
    @workflow
    async def uneven(ctx: WorkflowContext) -> list[int]:
        return await ctx.map(take, [1, 2, 3, 4], [10.0, 1.0, 1.0, 1.0], at_once=2)

    async with App(":memory:") as app:
        begun = trio.current_time()
        assert await result_of(app, uneven) == [10, 20, 30, 40]
        assert trio.current_time() - begun == pytest.approx(10, abs=0.5)


async def test_ids_are_those_of_the_items_within_the_branch_of_the_call() -> None:
    @workflow
    async def named(ctx: WorkflowContext) -> None:
        async def twice(number: int) -> int:
            return await take(await take(number))

        await ctx.map(take, [1, 2], [1.0, 2.0], at_once=2)
        await ctx.map(twice, [3], at_once=2)
        await ctx.map(take, [4], id="last")
        with ctx.branch("eu"):
            await ctx.map(take, [5])
            await ctx.map(take, [6], id="last")

    async with App(":memory:") as app:
        handle = await app.start(named)
        await handle.result()
        assert await ids_of(app, handle.instance_id) == [
            "map:1/0/mapped:1",
            "map:1/1/mapped:1",
            "map:2/0/mapped:1",
            "map:2/0/mapped:2",
            "last/0/mapped:1",
            "eu/map:1/0/mapped:1",
            "eu/last/0/mapped:1",
        ]


async def test_a_map_within_a_map_and_one_in_a_child_task() -> None:
    @workflow
    async def nested(ctx: WorkflowContext) -> list[list[int]]:
        sides: list[list[int]] = []

        async def row(number: int) -> list[int]:
            return await ctx.map(take, [number, number + 1], at_once=2)

        async def beside() -> None:
            sides.append(await ctx.map(take, [9], id="beside"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside)
            rows = await ctx.map(row, [1, 5], at_once=2)
        return rows + sides

    async with App(":memory:") as app:
        handle = await app.start(nested)
        assert await handle.result() == [[10, 20], [50, 60], [90]]
        assert sorted(await ids_of(app, handle.instance_id)) == [
            "beside/0/mapped:1",
            "map:1/0/map:1/0/mapped:1",
            "map:1/0/map:1/1/mapped:1",
            "map:1/1/map:1/0/mapped:1",
            "map:1/1/map:1/1/mapped:1",
        ]


async def test_every_kind_of_operation_may_be_mapped() -> None:
    @workflow
    async def child(ctx: WorkflowContext, number: int) -> int:
        return number + 1

    @workflow
    async def everything(ctx: WorkflowContext) -> list[Any]:
        async def wait(subject: str) -> str:
            await ctx.sleep(1)
            event = await ctx.wait_event("go", subject)
            await ctx.publish("heard", event.subject)
            return f"{event.subject} {ctx.uuid4()}"

        children = await ctx.map(child, [1, 2])
        return [children, await ctx.map(wait, ("a", "b")), await ctx.map(take.options(timeout=5), (n for n in [7]))]

    async with App(":memory:") as app:
        handle = await app.start(everything)
        for subject in ("b", "a"):
            await app.send_event("go", None, subject=subject)
        children, waits, taken = await handle.result()
    assert (children, taken) == ([2, 3], [70])
    assert [wait.split()[0] for wait in waits] == ["a", "b"]
    assert waits[0].split()[1] != waits[1].split()[1]


async def test_a_map_of_nothing_is_empty_and_records_nothing() -> None:
    @workflow
    async def empty(ctx: WorkflowContext) -> list[int]:
        def none() -> Iterator[int]:
            yield from ()

        return await ctx.map(take, none(), at_once=3)

    async with App(":memory:") as app:
        handle = await app.start(empty)
        assert await handle.result() == []
        assert await ids_of(app, handle.instance_id) == []


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_the_first_error_cancels_the_rest_and_what_runs_goes_on_to_its_outcome() -> None:
    @workflow
    async def fragile(ctx: WorkflowContext) -> str:
        async def one(number: int) -> None:
            if number < 0:
                await ctx.sleep(0.5)
            await take(number, abs(number))
            await ctx.sleep(1000)

        with pytest.raises(ActivityError) as caught:
            await ctx.map(one, [1, -2, 3, 4], at_once=3)
        return f"{caught.value} {caught.value.__notes__}"

    async with App(":memory:") as app:
        handle = await app.start(fragile)
        assert (await handle.result()).endswith("-2 is negative [\"in item 1 of 'map:1'\"]")
        assert await ids_of(app, handle.instance_id) == [
            "map:1/1/sleep:1",
            "map:1/1/mapped:1",
            "map:1/0/mapped:1",
            "map:1/2/mapped:1",
        ]
    assert sorted(desk.begun) == [-2, 1, 3]


@pytest.mark.parametrize("at_once", [1, 2])
async def test_no_item_begins_after_an_error(at_once: int) -> None:
    called = []

    @workflow
    async def fragile(ctx: WorkflowContext) -> None:
        async def one(number: int) -> int:
            called.append(number)  # code that is no operation
            return await take(number)

        await ctx.map(one, [-1, 2, 3, 4], at_once=at_once)

    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError, match="-1 is negative"):
            await result_of(app, fragile)
    assert sorted(called) == [-1, 2][:at_once]


async def test_with_continue_all_items_run_and_all_errors_are_in_one_group() -> None:
    @workflow
    async def patient(ctx: WorkflowContext) -> list[str]:
        with pytest.raises(ExceptionGroup) as caught:
            await ctx.map(take, [-1, 2, -3, 4], at_once=2, on_error="continue")
        return [str(caught.value), *(str(error.__notes__) for error in caught.value.exceptions)]

    async with App(":memory:") as app:
        message, *notes = await result_of(app, patient)
    assert message.startswith("2 of 4 items of 'map:1' failed")
    assert notes == ["[\"in item 0 of 'map:1'\"]", "[\"in item 2 of 'map:1'\"]"]
    assert sorted(desk.begun) == [-3, -1, 2, 4]


async def test_errors_after_the_first_are_named_in_a_note() -> None:
    @workflow
    async def fragile(ctx: WorkflowContext) -> list[str]:
        async def one(number: int) -> None:
            try:
                await ctx.sleep(number)
            finally:
                raise ValueError(number)

        try:
            await ctx.map(one, [3, 1, 2])
        except ValueError as error:
            return [str(error), *error.__notes__]
        return []

    async with App(":memory:") as app:
        assert await result_of(app, fragile) == [
            "1",
            "in item 1 of 'map:1'",
            "before the others were cancelled, so did items 0, 2",
        ]


async def test_a_failed_map_is_compensated_in_reverse_order() -> None:
    async with App(":memory:") as app:
        handle = await app.start(take_all, [1, 2, 3, -4, 5], 2)
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        done = [id for id in await ids_of(app, handle.instance_id) if id != "map:1/3/mapped:1"]
        undone = [e.operation_id for e in await app.history(handle.instance_id) if "compensation" in e.operation_id]
    assert undone == [f"{id}/compensation" for id in reversed(done)]
    assert sorted(desk.undone) == [1, 2, 3]
    assert 5 not in desk.begun


async def test_a_cancelled_map_ends_what_runs_and_begins_nothing() -> None:
    async with App(":memory:") as app:
        handle = await app.start(take_all, [1, 2, 3, 4], 2)
        await trio.sleep(1.5)
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert sorted(desk.begun) == sorted(desk.undone) == [1, 2, 3, 4]
        assert len(await ids_of(app, handle.instance_id)) == 5

    @workflow
    async def hurried(ctx: WorkflowContext) -> str:
        with ctx.move_on_after(1.5) as scope:
            await ctx.map(take, [5, 6, 7], at_once=1)
        return "in time" if not scope.cancelled_caught else "late"

    async with App(":memory:") as app:
        assert await result_of(app, hurried) == "late"
    assert desk.begun[4:] == [5, 6]


async def test_a_workflow_may_recur_from_an_item() -> None:
    @workflow
    async def again(ctx: WorkflowContext, left: int) -> int:
        async def one(number: int) -> None:
            if left:
                ctx.recur(left - 1)

        await ctx.map(one, [1], at_once=1)
        await ctx.map(one, [1, 2], at_once=2)
        return left

    async with App(":memory:") as app:
        assert await result_of(app, again, 2) == 0


# -- what is refused ---------------------------------------------------------------------------------------------------


async def plain(number: int) -> int:
    return number


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda ctx: ctx.map(plain, [1], at_once=0), ValueError, "at_once is a number of items, 1 or more"),
        (lambda ctx: ctx.map(plain, [1], at_once=1.5), ValueError, "at_once is a number of items"),
        (lambda ctx: ctx.map(plain, [1], on_error="ignore"), ValueError, "on_error is 'cancel' or 'continue'"),
        (lambda ctx: ctx.map(plain, [1], [1, 2]), ValueError, "equally long, and have 1, 2 items"),
        (lambda ctx: ctx.map(plain), TypeError, "needs items"),
        (lambda ctx: ctx.map("plain", [1]), TypeError, "an activity, a workflow or an async"),
        (lambda ctx: ctx.map(len, ["a"]), TypeError, "returned int, which cannot be awaited"),
        (lambda ctx: ctx.map(take_all.options(id="x"), [1], [2]), OperationIdError, r"without .options\(id=...\)"),
        (lambda ctx: ctx.map(take.options(id="x"), [1]), OperationIdError, r"without .options\(id=...\)"),
        (lambda ctx: ctx.map(plain, [1], id=""), OperationIdError, "the id of a map is a string of 1 to 255"),
    ],
)
async def test_a_wrong_call_is_refused_and_says_why(
    call: Callable[[Any], Any], error: type[Exception], words: str
) -> None:
    @workflow
    async def wrong(ctx: WorkflowContext) -> None:
        with pytest.raises(error, match=words):
            await call(ctx)

    async with App(":memory:") as app:
        handle = await app.start(wrong)
        await handle.result()
        assert await ids_of(app, handle.instance_id) == []


async def test_an_id_is_needed_in_a_child_task_and_can_be_used_once() -> None:
    @workflow
    async def wrong(ctx: WorkflowContext) -> list[str]:
        messages = []

        async def beside() -> None:
            with pytest.raises(OperationIdError) as caught:
                await ctx.map(plain, [1])
            messages.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside)
        await ctx.map(plain, [1], id="twice")
        with pytest.raises(OperationIdError) as caught:
            await ctx.map(plain, [1], id="twice")
        return [*messages, str(caught.value)]

    async with App(":memory:") as app:
        in_child, twice = await result_of(app, wrong)
    assert "'map' is called in a child task" in in_child and "with id=..." in in_child
    assert "'twice' is used a second time" in twice


# -- replays and crashes -----------------------------------------------------------------------------------------------


async def test_a_map_that_leaves_memory_goes_on_where_it_was() -> None:
    @workflow
    async def slow(ctx: WorkflowContext) -> list[int]:
        async def one(number: int) -> int:
            taken = await take(number)
            await ctx.sleep(60)
            return taken + await take(-taken if number == 99 else number)

        return await ctx.map(one, range(20), at_once=5)

    async with App(":memory:", idle_timeout=1) as app:
        handle = await app.start(slow)
        assert await handle.result() == [20 * number for number in range(20)]
        assert len(desk.begun) == 40
        assert not probe(app).residents


@workflow(name="map_take_what_is_there")
async def take_what_is_there(ctx: WorkflowContext) -> list[int]:
    taken = await ctx.map(take, desk.items, at_once=2)
    taken.append(await take(9))
    await ctx.wait_event("go")
    return taken


@pytest.mark.parametrize("items", [[1, 2], [1, 2, 3, 4], []])
async def test_other_items_on_replay_make_the_instance_stuck_and_harm_nothing(items: list[int]) -> None:
    desk.items = [1, 2, 3]
    async with App(":memory:", idle_timeout=1) as app:
        handle = await app.start(take_what_is_there)
        await trio.sleep(10)
        desk.items = items
        await app.send_event("go", None)
        await trio.sleep(1)
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.STUCK
        assert instance.error is not None and "NonDeterminismError" in instance.error.error_type
        desk.items = [1, 2, 3]
        await app.resume(handle.instance_id)
        assert await handle.result() == [10, 20, 30, 90]
        assert sorted(desk.begun) == [1, 2, 3, 9]


@workflow(name="map_explored")
async def explored(ctx: WorkflowContext, numbers: list[int], on_error: Any) -> list[int]:
    async def one(number: int) -> int:
        taken = await take(number)
        await ctx.sleep(abs(number))
        return taken

    return await ctx.map(one, numbers, at_once=2, on_error=on_error)


@pytest.mark.parametrize(
    ("numbers", "on_error", "outcome", "hows"),
    [
        ([3, 1, 2], "cancel", "[30, 10, 20]", tuple(How)),
        ([3, -1, 2, 5], "cancel", "-1 is negative", (How.ACTOR_BEFORE, How.WORKER_AFTER)),
        ([3, -1, 2], "continue", "-1 is negative", (How.WORKER_BEFORE, How.ACTOR_AFTER)),
    ],
)
def test_a_map_survives_every_crash(numbers: list[int], on_error: str, outcome: str, hows: Sequence[How]) -> None:
    async def scenario(app: App) -> object:
        handle = await app.start(explored.options(id="i"), numbers, on_error)
        try:
            return str(await handle.result())
        except WorkflowFailedError as error:
            return str(error)

    exploration = explore_crashes(scenario, hows=hows)
    assert outcome in exploration.reference.result
    assert exploration.points >= 10


# -- cost --------------------------------------------------------------------------------------------------------------


async def test_there_are_no_more_tasks_than_items_that_run() -> None:
    tasks = []

    @workflow
    async def wide(ctx: WorkflowContext) -> int:
        async def one(number: int) -> None:
            task = trio.lowlevel.current_task()
            assert task.parent_nursery is not None
            tasks.append(len(task.parent_nursery.child_tasks))
            await ctx.sleep(1)

        return len(await ctx.map(one, range(200), at_once=7))

    async with App(":memory:") as app:
        assert await result_of(app, wide) == 200
    assert max(tasks) == 7


async def test_an_error_of_an_item_that_is_cancelled_does_not_hide_the_first() -> None:
    @activity
    async def fail_after(seconds: float, text: str) -> None:
        await trio.sleep(seconds)
        raise TerminalError(text)

    @workflow
    async def two_fail(ctx: WorkflowContext) -> list[str]:
        async def one(number: int) -> None:
            if number == 0:
                await fail_after(1, "the first")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_after.options(id="later"), 5, "the second")
                await ctx.sleep(100)

        try:
            await ctx.map(one, [0, 1])
        except ActivityError as error:
            return [error.message, *error.__notes__]
        return []

    async with App(":memory:") as app:
        said = await (await app.start(two_fail)).result()
    assert said == ["the first", "in item 0 of 'map:1'", "before the others were cancelled, so did items 1"]


@pytest.mark.parametrize("on_error", ["cancel", "continue"])
async def test_an_error_that_takes_no_note_is_raised_without(on_error: Literal["cancel", "continue"]) -> None:
    class Unnoted(Exception):
        def add_note(self, note: str) -> None:
            raise RuntimeError("no notes")

    @workflow
    async def fails_without_note(ctx: WorkflowContext) -> str:
        async def one(number: int) -> None:
            raise Unnoted

        try:
            await ctx.map(one, [1, 2], on_error=on_error)
        except Unnoted:
            return "itself"
        except ExceptionGroup as group:
            return str(len(group.exceptions))
        return "nothing"

    async with App(":memory:") as app:
        assert await (await app.start(fails_without_note)).result() == ("itself" if on_error == "cancel" else "2")


async def test_no_more_of_an_endless_iterable_is_read_than_of_the_others() -> None:
    @activity
    async def join(left: str, right: str) -> str:
        return left + right

    @workflow
    async def joins(ctx: WorkflowContext) -> str:
        try:
            await ctx.map(join, ["a", "b"], itertools.repeat("x"))
        except ValueError as error:
            return str(error)
        return "nothing"

    async with App(":memory:") as app:
        said = await (await app.start(joins)).result()
    assert said == "ctx.map: the iterables must be equally long, and one has 2 items, one more"
