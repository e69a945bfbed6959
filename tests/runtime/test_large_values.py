"""Large values are encoded and decoded in a thread, so that the event loop goes on, and nothing else changes by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from attrs import define

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._data.journal_format import read
from trio_romancy._data.large import LARGE, is_large
from trio_romancy._storage.sql import entries as entries_module
from trio_romancy.testing import explore_crashes

from ..support.databases import SHARED_KINDS

MANY = 7_000
made_in_loop: set[bool] = set()
"""Whether the parts that were made lately were made in the thread of the event loop."""
on_made: list[Callable[[], object]] = []
"""Functions, each of which is called when a part is made."""


@define
class Part:
    number: int

    def __attrs_post_init__(self) -> None:
        made_in_loop.add(trio.lowlevel.in_trio_task())
        if on_made:
            on_made.pop()()


@define
class Parts:
    parts: list[Part]


def make(many: int) -> Parts:
    parts = Parts([Part(number) for number in range(many)])
    made_in_loop.clear()
    return parts


@pytest.fixture(autouse=True)
def begin_again() -> None:
    made_in_loop.clear()
    on_made.clear()


@activity(name="large_parts")
async def get_parts(many: int) -> Parts:
    return make(many)


@workflow(name="large_result_of_activity")
async def asks(ctx: WorkflowContext, many: int) -> int:
    return len((await get_parts(many)).parts)


@workflow(name="large_result_of_workflow")
async def gives(ctx: WorkflowContext, many: int) -> Parts:
    return make(many)


@workflow(name="large_input")
async def takes(ctx: WorkflowContext, parts: Parts) -> int:
    await ctx.sleep(100)
    return len(parts.parts)


@workflow(name="large_event")
async def receives(ctx: WorkflowContext) -> int:
    event = await ctx.wait_event("large_parts", data_type=Parts)
    return len(event.data.parts)


SIZES = pytest.mark.parametrize(("many", "in_loop"), [(3, True), (MANY, False)], ids=["small", "large"])


@SIZES
async def test_the_result_of_an_activity(many: int, in_loop: bool) -> None:
    async with App(":memory:") as app:
        assert await (await app.start(asks, many)).result() == many
    assert made_in_loop == {in_loop}


@SIZES
async def test_the_result_of_a_workflow(many: int, in_loop: bool) -> None:
    async with App(":memory:") as app:
        assert len((await (await app.start(gives, many)).result()).parts) == many
    assert made_in_loop == {in_loop}


@SIZES
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_input_when_it_is_stored_and_when_its_instance_comes_into_memory(
    database: str, many: int, in_loop: bool
) -> None:
    parts = make(many)
    async with App(database) as app:
        handle = await app.start(takes, parts)
        await trio.sleep(1)
    async with App(database) as app:
        assert await app.handle(handle.instance_id).result() == many
    assert made_in_loop == {in_loop}


@SIZES
async def test_an_event_when_it_is_sent_and_when_it_is_received(many: int, in_loop: bool) -> None:
    parts = make(many)
    async with App(":memory:") as app:
        handle = await app.start(receives)
        await app.send_event("large_parts", parts)
        assert await handle.result() == many
        await app.publish("large_parts", parts)
    assert made_in_loop == {in_loop}


@SIZES
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_journal(database: str, many: int, in_loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in_loop: set[bool] = set()

    def watched(name: str, text: str | None) -> object:
        read_in_loop.add(trio.lowlevel.in_trio_task())
        return read(name, text)

    async with App(database) as app:
        handle = await app.start(asks_and_waits, many)
        await trio.sleep(1)
    monkeypatch.setattr(entries_module, "read", watched)
    async with App(database) as app:
        assert await app.handle(handle.instance_id).result() == many
    assert read_in_loop == {in_loop}


@workflow(name="large_result_and_wait")
async def asks_and_waits(ctx: WorkflowContext, many: int) -> int:
    parts = await get_parts(many)
    await ctx.sleep(100)
    return len(parts.parts)


# -- nothing else changes ----------------------------------------------------------------------------------------------


@workflow(name="large_in_order")
async def in_order(ctx: WorkflowContext) -> list[int]:
    order: list[int] = []

    async def get(many: int) -> None:
        with ctx.branch(str(many)):
            order.append(len((await get_parts(many)).parts))
            order.append(len((await get_parts(many + 1)).parts))

    async with trio.open_nursery() as nursery:
        for many in (MANY, 1, MANY + 10, 10):
            nursery.start_soon(get, many)
    return order


@workflow(name="large_and_small")
async def large_and_small(ctx: WorkflowContext) -> list[int]:
    order: list[int] = []

    async def get(many: int) -> None:
        with ctx.branch(str(many)):
            order.append(len((await get_parts(many)).parts))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, MANY)
        nursery.start_soon(get, 1)
    return order


def test_outcomes_of_all_sizes_survive_every_crash() -> None:
    async def scenario(app: App) -> object:
        handle = await app.start(large_and_small.options(id="one"))
        return sorted(await handle.result())

    explore_crashes(scenario)


async def test_the_order_of_outcomes_is_that_of_the_journal(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(in_order)
        order = await handle.result()
        ids = [entry.operation_id for entry in await app.history(handle.instance_id) if entry.operation_id]
    assert order == [int(id.partition("/")[0]) + int(id[-1]) - 1 for id in ids]


@activity(name="large_cancellable", cancellable=True)
async def get_in_spite() -> Parts:
    parts = make(MANY)
    on_made.append(lambda: trio.from_thread.run_sync(scopes[0].cancel))
    return parts


scopes: list[trio.CancelScope] = []


@workflow(name="large_cancelled_late")
async def cancelled_late(ctx: WorkflowContext) -> int:
    with trio.CancelScope() as scope:
        scopes[:] = [scope]
        return len((await get_in_spite()).parts)
    return 0


async def test_a_cancellation_while_a_result_is_encoded_is_too_late() -> None:
    async with App(":memory:") as app:
        handle = await app.start(cancelled_late)
        await handle.result()
        kinds = [entry.kind for entry in await app.history(handle.instance_id)]
    assert kinds == ["activity_completed", "workflow_completed"]


async def test_a_value_that_changes_while_it_is_encoded_is_encoded_again() -> None:
    @activity(name="large_changing")
    async def get_changing() -> list[Part]:
        parts = make(MANY).parts
        on_made.append(lambda: parts.append(Part(-1)))  # as another task might
        return parts

    @workflow(name="large_changes")
    async def changes(ctx: WorkflowContext) -> int:
        return len(await get_changing())

    async with App(":memory:") as app:
        assert await (await app.start(changes)).result() == MANY + 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, False),
        (None, False),
        ("x" * (LARGE - 1), False),
        ("x" * LARGE, True),
        (["x" * (LARGE // 2)] * 2, True),
        ({"a": {"b": b"x" * LARGE}}, True),
        ([[]] * MANY, True),
        ([[1, 2, {"a": 3}]] * 10, False),
        (Parts([Part(1)]), False),
        (Parts([Part(1)] * MANY), True),
        (object(), False),
    ],
)
def test_what_is_large(value: object, expected: bool) -> None:
    assert is_large(value) is expected


def test_what_contains_itself_is_large() -> None:
    value: list[object] = []
    value.append(value)
    assert is_large(value)
