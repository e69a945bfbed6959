"""A call of an activity with wrong arguments is a TypeError in the workflow, and nothing of it is carried out."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from trio_romancy import App, WorkflowContext, WorkflowFailedError, activity, workflow

ran: list[object] = []


@activity(name="take_arguments")
async def take(order: str, amount: float = 1.0, *, currency: str = "EUR") -> str:
    ran.append((order, amount, currency))
    return f"{order} {amount:g} {currency}"


@activity(name="take_arguments_in_thread")
def take_in_thread(order: str) -> str:
    ran.append(order)
    return order


WRONG: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (take, (), {}, "missing a required argument: 'order'"),
    (take, ("A", 1, "EUR"), {}, "too many positional arguments"),
    (take, ("A",), {"colour": "red"}, "got an unexpected keyword argument 'colour'"),
    (take, ("A",), {"order": "B"}, "multiple values for argument 'order'"),
    (take.options(id="mine"), (), {}, "missing a required argument: 'order'"),
    (take_in_thread, ("A", "B"), {}, "too many positional arguments"),
]


@pytest.mark.parametrize(("called", "args", "kwargs", "problem"), WRONG)
async def test_wrong_arguments_are_a_type_error_at_the_call(
    called: Any, args: tuple[Any, ...], kwargs: dict[str, Any], problem: str
) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        try:
            called(*args, **kwargs)  # raised by the call itself, as Python does
        except TypeError as error:
            return str(error)
        return "no error"

    ran.clear()
    async with App(":memory:") as app:
        began = trio.current_time()
        handle = await app.start(flow)
        text = await handle.result()
        shown = (
            "take_arguments(order, amount=1.0, *, currency='EUR')"
            if called.is_async
            else "take_arguments_in_thread(order)"
        )
        assert text == f"{shown} is called with wrong arguments: {problem}"
        assert trio.current_time() - began < 0.5  # nothing is tried again
        assert [entry.operation_id for entry in await app.history(handle.instance_id)] == [""]
    assert not ran


async def test_in_a_nursery_the_error_is_raised_where_the_task_is_started() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(take.options(id="a"))  # type: ignore[arg-type]
            except TypeError as error:
                return str(error)
        return "no error"

    async with App(":memory:") as app:
        assert "missing a required argument" in await (await app.start(flow)).result()


async def test_an_error_that_the_workflow_does_not_catch_names_the_call() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await take()  # type: ignore[call-arg]

    async with App(":memory:") as app:
        with pytest.raises(
            WorkflowFailedError, match=r"TypeError: take_arguments\(order, amount.*missing a required argument"
        ):
            await (await app.start(flow)).result()


async def test_every_way_to_pass_the_right_arguments_is_taken_again_and_again() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        results = []
        for _ in range(2):
            results += [
                await take("A"),
                await take("A", 2),
                await take(order="A", amount=3),
                await take("A", currency="USD"),
                await take("A", currency="USD", amount=4),
            ]
        return results

    expected = ["A 1 EUR", "A 2 EUR", "A 3 EUR", "A 1 USD", "A 4 USD"]
    async with App(":memory:") as app:
        assert await (await app.start(flow)).result() == expected * 2


async def test_as_a_plain_function_it_raises_what_python_raises() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        await take()  # type: ignore[call-arg]
