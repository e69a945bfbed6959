"""Parents and children, chains, and retried instances survive a crash at every commit."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    ChildWorkflowError,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    workflow,
)
from trio_romancy.testing import How, explore_crashes

pytestmark = pytest.mark.long

is_mended = False


@compensation(name="family_undo")
async def undo(what: str) -> None: ...


@activity(name="family_do", compensation=undo)
async def do(what: str) -> str:
    return what


@activity(name="family_step")
async def step(what: str) -> str:
    return what


@activity(name="family_slow_step")
async def slow_step(what: str) -> str:
    await trio.sleep(5)
    return what


@activity(name="family_break")
async def break_down() -> None:
    raise TerminalError("broken")


@activity(name="family_break_at_first")
async def break_at_first() -> None:
    if not is_mended:
        raise TerminalError("broken")


@workflow(name="family_child")
async def child(ctx: WorkflowContext, what: str, seconds: float, end: str) -> str:
    await do(f"{what} 1")
    await ctx.sleep(seconds)
    if end == "badly":
        await break_down()
    return what


@workflow(name="family_parent")
async def parent(ctx: WorkflowContext) -> list[str]:
    """The second child fails when the first has completed."""
    await do("before")
    results = ["", ""]

    async def one(number: int, seconds: float, end: str) -> None:
        with ctx.branch(str(number)):
            results[number] = await ctx.run(child, str(number), seconds, end)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0, 10.0, "well")
        nursery.start_soon(one, 1, 100.0, "badly")
    return results


async def two_children_of_which_one_fails(app: App) -> object:
    handle = await app.start(parent.options(id="p"))
    with pytest.raises(WorkflowFailedError) as caught:
        await handle.result()
    return [caught.value.error_type, caught.value.message]


@workflow(name="family_tolerant_parent")
async def tolerant_parent(ctx: WorkflowContext) -> list[str]:
    results = []
    for number, end in enumerate(("badly", "well")):
        try:
            results.append(await ctx.run(child, str(number), 10.0, end))
        except ChildWorkflowError as error:
            results.append(error.status)
    return results


async def a_child_that_fails_and_one_that_does_not(app: App) -> object:
    return await (await app.start(tolerant_parent.options(id="p"))).result()


@workflow(name="family_impatient_parent")
async def impatient_parent(ctx: WorkflowContext) -> str:
    with ctx.move_on_after(50) as scope:
        await ctx.run(child, "late", 1000.0, "well")
    await ctx.start(child, "left alone", 20.0, "well")
    return "moved on" if scope.cancelled_caught else "waited"


async def a_child_that_is_too_slow_and_one_that_is_left_alone(app: App) -> object:
    result = await (await app.start(impatient_parent.options(id="p"))).result()
    return [result, await app.handle("p/family_child:2").result()]


@workflow(name="family_chain")
async def chain(ctx: WorkflowContext, number: int, seen: list[int]) -> list[int]:
    """Takes two events in each of its lives, while others are waiting."""
    for _ in range(2):
        seen.append((await ctx.wait_event("n", data_type=int)).data)
    await step(f"life {number}")
    if number < 3:
        ctx.recur(number + 1, seen)
    return seen


async def a_chain_in_the_midst_of_its_messages(app: App) -> object:
    handle = await app.start(chain.options(id="c"), 1, [])
    for number in range(3):
        await app.send_event("n", number, id=str(number))
    await trio.sleep(50)
    for number in range(3, 6):
        await app.send_event("n", number, id=str(number), to="c")
    return await handle.result()


@workflow(name="family_listener")
async def listener(ctx: WorkflowContext, lives: int, seen: list[Any]) -> list[Any]:
    await ctx.subscribe("ch")
    seen.append((await ctx.receive("ch")).data)
    if lives > 1:
        ctx.recur(lives - 1, seen)
    return seen


async def a_chain_that_subscribes_again(app: App) -> object:
    handle = await app.start(listener.options(id="l"), 3, [])
    await trio.sleep(50)
    for number in range(3):
        await app.publish("ch", number)
    return await handle.result()


async def a_child_that_recurs(app: App) -> object:
    for number in range(2):
        await app.send_event("n", "before", id=f"before {number}")
    handle = await app.start(chain_parent.options(id="p"))
    await trio.sleep(50)
    for number in range(4):
        await app.send_event("n", number, id=str(number))
    return await handle.result()


@workflow(name="family_chain_parent")
async def chain_parent(ctx: WorkflowContext) -> list[int]:
    return await ctx.run(chain, 2, [])


@workflow(name="family_fragile")
async def fragile(ctx: WorkflowContext) -> list[str]:
    done = [await step("one")]
    results: list[str] = []

    async def beside() -> None:
        results.append(await slow_step.options(id="beside")("beside"))

    async def fail() -> None:
        await break_at_first.options(id="fail")()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside)
        nursery.start_soon(fail)
    await ctx.sleep(10)
    return [*done, *results, await step("two")]


async def an_instance_that_is_retried(app: App) -> object:
    global is_mended
    is_mended = False
    handle = await app.start(fragile.options(id="f"))
    with pytest.raises(WorkflowFailedError):
        await handle.result()
    is_mended = True
    await app.retry("f")
    return await app.handle("f").result()


@pytest.mark.parametrize(
    "scenario",
    [
        two_children_of_which_one_fails,
        a_child_that_fails_and_one_that_does_not,
        a_child_that_is_too_slow_and_one_that_is_left_alone,
        a_chain_in_the_midst_of_its_messages,
        a_chain_that_subscribes_again,
        a_child_that_recurs,
        an_instance_that_is_retried,
    ],
)
def test_families_converge_wherever_something_crashes(scenario: Any) -> None:
    exploration = explore_crashes(scenario)
    print(f"{scenario.__name__}: {exploration.points} points")
    assert exploration.points > 20


@pytest.mark.parametrize("scenario", [two_children_of_which_one_fails, a_child_that_recurs])
def test_families_converge_also_if_nobody_stays_in_memory(scenario: Any) -> None:
    exploration = explore_crashes(scenario, hows=[How.WORKER_BEFORE, How.ACTOR_AFTER], idle_timeout=0)
    assert exploration.points > 20
