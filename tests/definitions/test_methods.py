"""A method is refused when its class is defined; a bound method and a static one are functions like any other."""

from __future__ import annotations

from typing import Any

import pytest

from trio_romancy import App, DefinitionError, WorkflowContext, activity, compensation, workflow


@pytest.mark.parametrize(("decorator", "what"), [(activity, "activity"), (compensation, "compensation")])
def test_a_method_is_refused_with_two_ways_out(decorator: Any, what: str) -> None:
    with pytest.raises(DefinitionError) as caught:

        class Shop:
            @decorator  # type: ignore[untyped-decorator]
            async def charge(self, order: str) -> str:
                return order

    text = str(caught.value)
    assert text.startswith(f"{what} {__name__}.test_a_method_is_refused_with_two_ways_out.<locals>.Shop.charge: ")
    assert "it is a method, and there is no object to bind it to; define it outside of the class" in text
    assert f"charge = {what}(an_object.charge)" in text


def test_a_class_method_is_refused_in_either_order_of_the_decorators() -> None:
    with pytest.raises(DefinitionError, match="it is a method"):

        class Shop:
            @activity
            @classmethod
            async def charge(cls, order: str) -> str:
                return order

    with pytest.raises(DefinitionError, match="it is a method"):

        class Other:
            @classmethod
            @activity
            async def charge(cls, order: str) -> str:
                return order


def test_a_workflow_that_is_a_method_is_refused() -> None:
    with pytest.raises(DefinitionError, match="it is a method"):

        class Shop:
            @workflow  # type: ignore[arg-type]
            async def order(self, ctx: WorkflowContext) -> None: ...


class Prices:
    def __init__(self, price: int) -> None:
        self.price = price

    async def of(self, count: int) -> int:
        return count * self.price

    @staticmethod
    @activity(name="prices_static_inside")
    async def twice(number: int) -> int:
        return number * 2

    @activity(name="prices_static_outside")
    @staticmethod
    async def thrice(number: int) -> int:
        return number * 3

    @activity(name="prices_without_self")
    async def four_times(number: int) -> int:
        return number * 4


price_of = activity(name="price_of")(Prices(5).of)


async def test_bound_and_static_methods_run_as_activities() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> list[int]:
        four_times: Any = Prices.four_times
        return [await price_of(3), await Prices.twice(3), await Prices.thrice(3), await four_times(3)]

    async with App(":memory:") as app:
        handle = await app.start(flow)
        assert await handle.result() == [15, 6, 9, 12]
        ids = [entry.operation_id for entry in await app.history(handle.instance_id)]
    assert ids == ["price_of:1", "prices_static_inside:1", "prices_static_outside:1", "prices_without_self:1", ""]


def test_a_function_of_a_function_with_an_argument_named_self_is_no_method() -> None:
    @activity
    async def act(self: str) -> str:
        return self

    assert act.name == "act"
