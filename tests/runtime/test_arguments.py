"""Two attempts of one call never have different arguments; with ``check_arguments`` a replay never passes others."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio

from trio_romancy import (
    App,
    RetryPolicy,
    RomancyError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    workflow,
)
from trio_romancy.testing import explore_crashes

calls: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    calls.clear()
    yield


@activity(name="charge_once", retry=RetryPolicy.fixed(3, 60))
async def charge(order: Any, amount: float = 1.0, payment_id: str = "") -> str:
    calls.append((order, amount, payment_id))
    if len(calls) == 1:
        raise ConnectionError("no answer")
    return "done"


@attrs.define
class Order:
    number: str
    lines: list[int] = attrs.field(factory=list)


@attrs.frozen
class FrozenOrder:
    number: str


def fresh() -> str:
    return str(uuid.uuid4())


DIFFERENT: dict[str, tuple[Callable[[], tuple[tuple[Any, ...], dict[str, Any]]], str]] = {
    "text": (lambda: ((fresh(),), {}), "order"),
    "number": (lambda: (("A", time.perf_counter()), {}), "amount"),
    "by name": (lambda: (("A",), {"payment_id": fresh()}), "payment_id"),
    "uuid": (lambda: ((uuid.uuid4(),), {}), "order"),
    "tuple": (lambda: ((("A", fresh()),), {}), "order"),
    "frozen class": (lambda: ((FrozenOrder(fresh()),), {}), "order"),
    "one more": (lambda: (("A", 2.0) if calls else ("A",), {}), "amount"),
    "one less": (lambda: (("A",) if calls else ("A", 2.0), {}), "amount"),
}


@pytest.mark.parametrize("case", DIFFERENT)
async def test_the_next_attempt_is_not_made_with_other_arguments(case: str) -> None:
    arguments, name = DIFFERENT[case]

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        args, kwargs = arguments()
        return await charge(*args, **kwargs)

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError) as caught:
            await handle.result()
    assert f"instance 'x': argument '{name}' of 'charge_once:1' is not the one of the earlier run" in str(caught.value)
    assert "ctx.uuid4()" in str(caught.value)
    assert len(calls) == 1


async def test_resuming_the_parked_instance_accepts_the_present_argument(caplog: pytest.LogCaptureFixture) -> None:
    is_fixed = False

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await charge(ctx.uuid4() if is_fixed else uuid.uuid4())

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError, match="once it is resumed, the instance goes on with the present one"):
            await handle.result()
        is_fixed = True
        await app.resume("x")
        assert await app.handle("x").result() == "done"
    assert "argument 'order' is not the one of the earlier run, and was accepted by the resumption" in caplog.text


@pytest.mark.parametrize("fails_again", [False, True])
async def test_what_was_accepted_counts_from_then_on(fails_again: bool) -> None:
    @activity(retry=RetryPolicy.fixed(5, 60))
    async def stubborn(order: str) -> str:
        calls.append((order,))
        if len(calls) == 1 or (fails_again and len(calls) == 2):
            raise ConnectionError
        return "done"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await stubborn(fresh())

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError):
            await handle.result()
        await app.resume("x")  # without a fix: the operator takes the other argument
        if fails_again:
            with pytest.raises(WorkflowStuckError):
                await app.handle("x").result()
        else:
            assert await app.handle("x").result() == "done"
    assert len(calls) == 2


async def test_a_recorded_call_with_other_arguments_goes_on_with_its_outcome_once_it_is_resumed() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await noted(fresh())
        await ctx.sleep(60)
        return "done"

    async with App(":memory:", check_arguments=True) as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError):
            await handle.result()
        await app.resume("x")
        assert await app.handle("x").result() == "done"


SAME: list[Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]] = [
    lambda: (("A", 2.0), {"payment_id": "P"}),
    lambda: ((Order("A", [1, 2]),), {}),
    lambda: (({"a": [1], "b": {"c"}},), {}),
    lambda: ((object(),), {}),  # cannot be compared
    lambda: ((lambda: 1,), {}),
    lambda: (("A",), {"amount": 2.0}) if calls else (("A", 2.0), {}),  # by name or by position is the same
    lambda: ((OrderA("A") if calls else Order("A"),), {}),
]


@attrs.define
class OrderA:
    """The class of a later version, with one field more."""

    number: str
    lines: list[int] = attrs.field(factory=list)
    note: str = ""


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("arguments", SAME)
async def test_the_next_attempt_is_made_with_the_same_arguments(
    arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]], check: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        args, kwargs = arguments()
        return await charge(*args, **kwargs)

    async with App(":memory:", check_arguments=check) as app:
        assert await (await app.start(flow)).result() == "done"
    assert len(calls) == 2
    assert "is not as it was" not in caplog.text


@pytest.mark.parametrize("check", [False, True])
async def test_an_argument_that_the_activity_changes_parks_nothing(
    check: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @activity(retry=RetryPolicy.fixed(3, 60))
    async def stamp(order: dict[str, Any]) -> str:
        order["stamped"] = True
        calls.append(())
        if len(calls) < 3:
            raise ConnectionError
        return "done"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await stamp({"number": 1})

    async with App(":memory:", check_arguments=check) as app:
        assert await (await app.start(flow)).result() == "done"
    warnings = [r.getMessage() for r in caplog.records if "is not as it was after the last attempt" in r.getMessage()]
    if check:
        assert not warnings  # the digests are taken before the attempt
    else:
        assert warnings and "argument 'order'" in warnings[0] and "the activity has changed it" not in warnings[0]


async def test_a_changing_argument_that_differs_is_told_in_the_log_and_with_the_check_parks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await charge(Order(fresh()))

    async with App(":memory:") as app:
        assert await (await app.start(flow)).result() == "done"
    assert "argument 'order' is not as it was after the last attempt" in caplog.text
    calls.clear()
    async with App(":memory:", check_arguments=True) as app:
        with pytest.raises(WorkflowStuckError, match="argument 'order' of 'charge_once:1'"):
            await (await app.start(flow)).result()
    assert len(calls) == 1


@activity(name="noted_arguments")
async def noted(value: Any) -> str:
    return "noted"


@activity(name="failing_arguments", retry=RetryPolicy.no_retry())
async def failing(value: Any) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("outcome", ["completed", "failed", "in a task"])
async def test_with_the_check_a_recorded_call_is_not_replayed_for_other_arguments(outcome: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        if outcome == "completed":
            await noted(fresh())
        elif outcome == "failed":
            with pytest.raises(RomancyError):
                await failing(fresh())
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(noted.options(id="noted_arguments:1"), fresh())
                nursery.start_soon(noted.options(id="noted:2"), "same")
        await ctx.sleep(60)  # the instance leaves memory, and is replayed
        return "done"

    async with App(":memory:", check_arguments=True) as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(
            WorkflowStuckError, match=r"instance 'x': argument 'value' of '(noted|failing)_arguments:1' is not"
        ):
            await handle.result()
    async with App(":memory:") as app:  # without the check it goes unnoticed
        assert await (await app.start(flow)).result() == "done"


@pytest.mark.parametrize("is_named", [False, True])
async def test_with_the_check_a_child_is_not_replayed_for_other_arguments(is_named: bool) -> None:
    @workflow
    async def child(ctx: WorkflowContext, order: str) -> str:
        return order

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await ctx.start(child.options(id="child:1") if is_named else child, order="A" if is_fixed else fresh())
        await ctx.sleep(60)
        return "done"

    is_fixed = False
    async with App(":memory:", check_arguments=True) as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError, match="instance 'x': argument 'order' of 'child:1' is not"):
            await handle.result()
    is_fixed = True
    async with App(":memory:", check_arguments=True) as app:
        assert await (await app.start(flow)).result() == "done"


async def test_digests_are_recorded_only_if_they_are_asked_for_or_an_attempt_failed() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await noted("secret")
        await charge("secret")

    payloads: dict[bool, list[Any]] = {}
    for check in (False, True):
        calls.clear()
        async with App(":memory:", check_arguments=check) as app:
            handle = await app.start(flow.options(id="x"))
            await handle.result()
            payloads[check] = [entry.payload for entry in await app.history("x") if entry.operation_id]
    without, failed, completed = payloads[False]
    assert without == {"result": "noted"}
    assert completed == {"result": "done"}
    assert set(failed["arguments"]) == {"order"}
    assert "secret" not in failed["arguments"]["order"]
    assert payloads[True][0] == {"result": "noted", "arguments": {"value": payloads[True][0]["arguments"]["value"]}}
    assert set(payloads[True][2]["arguments"]) == {"order"}


async def test_a_journal_without_digests_is_replayed_with_the_check(tmp_path: Any) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await noted(fresh())
        await ctx.sleep(60)
        await noted("later")
        await ctx.sleep(60)
        return "done"

    database = str(tmp_path / "romancy.db")
    async with App(database) as app:
        handle = await app.start(flow.options(id="x"))
        await trio.sleep(30)
    async with App(database, check_arguments=True) as app:
        assert await app.handle(handle.instance_id).result() == "done"


async def test_a_failed_instance_is_retried_with_other_arguments() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await sturdy(fresh())

    @activity(retry=RetryPolicy.fixed(2, 1))
    async def sturdy(payment_id: str) -> str:
        calls.append(())
        if len(calls) < 3:
            raise ConnectionError
        return "done"

    async with App(":memory:", check_arguments=True) as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        assert await app.retry("x")
        assert await app.handle("x").result() == "done"


@pytest.mark.parametrize("draw", [fresh, time.perf_counter_ns, itertools.count().__next__])
def test_crash_exploration_finds_arguments_that_are_drawn_in_workflow_code(draw: Callable[[], object]) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await noted(draw())
        return await noted("b")

    async def scenario(app: App) -> object:
        return await (await app.start(flow.options(id="x"))).result()

    with pytest.raises(
        WorkflowStuckError, match="argument 'value' of 'noted_arguments:1' is not the one of the earlier run"
    ):
        explore_crashes(scenario)


def test_crash_exploration_passes_what_is_the_same_on_each_replay() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await noted(ctx.uuid4())
        await noted(ctx.now())
        await noted([ctx.random.random(), {"a", "b", "c"}])
        return await noted("b")

    async def scenario(app: App) -> object:
        return await (await app.start(flow.options(id="x"))).result()

    assert explore_crashes(scenario).points
