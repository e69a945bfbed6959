"""An optional parameter can be added to any workflow: what was stored before is read, with the default."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NotRequired, TypedDict

import attrs
import pytest
import trio

from trio_romancy import (
    App,
    InstanceExistsError,
    InvalidInputError,
    Workflow,
    WorkflowContext,
    WorkflowStuckError,
    workflow,
)
from trio_romancy._definitions.registry import registry


@attrs.frozen
class Order:
    id: str
    amount: float = 0.0


@attrs.frozen
class Named:
    """Its field has the name of the parameter."""

    order: str
    more: int = 0


@attrs.frozen
class Options:
    fast: bool = False


class Row(TypedDict):
    key: str
    value: NotRequired[int]


Function = Callable[..., Awaitable[Any]]


def defined(function: Function) -> Workflow[..., Any]:
    with registry.scoped():
        return workflow(name="order")(function)


async def nothing(ctx: WorkflowContext) -> None: ...
async def an_order(ctx: WorkflowContext, order: Order) -> None: ...
async def an_order_and_more(ctx: WorkflowContext, order: Order, express: bool = False, to: str = "?") -> None: ...
async def an_order_and_options(ctx: WorkflowContext, order: Order, options: Options = Options(True)) -> None: ...
async def an_order_or_a_default(ctx: WorkflowContext, order: Order = Order("default")) -> None: ...
async def a_named(ctx: WorkflowContext, order: Named) -> None: ...
async def a_named_and_more(ctx: WorkflowContext, order: Named, express: bool = False) -> None: ...
async def a_row(ctx: WorkflowContext, row: Row) -> None: ...
async def a_row_and_more(ctx: WorkflowContext, row: Row, express: bool = False) -> None: ...
async def a_row_or_a_default(ctx: WorkflowContext, row: Row = {"key": "default"}) -> None: ...  # noqa: B006
async def a_dict(ctx: WorkflowContext, data: Mapping[str, Any]) -> None: ...
async def a_dict_and_more(ctx: WorkflowContext, data: Mapping[str, Any], express: bool = False) -> None: ...
async def a_text(ctx: WorkflowContext, text: str) -> None: ...
async def a_text_and_options(ctx: WorkflowContext, text: str, options: Options = Options(True)) -> None: ...
async def options(ctx: WorkflowContext, options: Options = Options(True)) -> None: ...


@pytest.mark.parametrize(
    ("before", "given", "after", "read"),
    [
        (an_order, [Order("A", 1.5)], an_order_and_more, [Order("A", 1.5), False, "?"]),
        (an_order, [Order("A")], an_order_and_options, [Order("A"), Options(True)]),
        (an_order, [Order("A")], an_order_or_a_default, [Order("A")]),
        (an_order_and_more, [Order("A"), True], an_order_and_more, [Order("A"), True, "?"]),
        (a_named, [Named("A")], a_named_and_more, [Named("A"), False]),
        (a_row, [{"key": "a"}], a_row_and_more, [{"key": "a"}, False]),
        (a_row, [{"key": "a", "value": 1}], a_row_and_more, [{"key": "a", "value": 1}, False]),
        (a_dict, [{"a": 1}], a_dict_and_more, [{"a": 1}, False]),
        (a_dict, [{}], a_dict_and_more, [{}, False]),
        (a_dict, [{"data": {"a": 1}}], a_dict_and_more, [{"data": {"a": 1}}, False]),
        (a_dict_and_more, [{"data": {"a": 1}}], a_dict_and_more, [{"data": {"a": 1}}, False]),
        (a_text, ["a"], a_text_and_options, ["a", Options(True)]),
        (nothing, [], options, [Options(True)]),
        (nothing, [], an_order_or_a_default, [Order("default")]),
        (nothing, [], a_row_or_a_default, [{"key": "default"}]),
        (options, [Options()], options, [Options()]),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_was_stored_before_is_read_with_the_default(
    before: Function, given: list[Any], after: Function, read: list[Any]
) -> None:
    text, _ = defined(before).input.encode(tuple(given), {})
    assert defined(after).input.decode(text) == read


@pytest.mark.parametrize("function", [an_order, a_named, a_row, a_dict], ids=lambda function: function.__name__)
def test_the_input_of_one_structured_parameter_is_still_that_object(function: Function) -> None:
    """Input filters and the data of CloudEvents refer to it."""
    given = {"an_order": Order("A"), "a_named": Named("A"), "a_row": {"key": "a"}, "a_dict": {"a": 1}}
    text, _ = defined(function).input.encode((given[function.__name__],), {})
    assert json.loads(text).keys() <= {"id", "amount", "order", "more", "key", "a"}
    assert json.loads(text) != {"order": json.loads(text)}


def test_plain_json_from_before_is_accepted_and_stored_by_name() -> None:
    text, values = defined(an_order_and_more).input.check({"id": "A"})
    assert json.loads(text) == {"order": {"id": "A", "amount": 0.0}, "express": False, "to": "?"}
    assert values == [Order("A"), False, "?"]


@pytest.mark.parametrize(
    ("function", "raw", "problem"),
    [
        (an_order_and_more, {"order": {"id": "A"}, "expres": True}, "$.expres: unknown field"),
        (a_dict_and_more, {"data": {"a": 1}, "expres": True}, "$.expres: unknown field"),
        (an_order_and_more, {"id": "A", "colour": "red"}, "$.order: missing"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_misspelt_parameter_is_refused_as_before(function: Function, raw: object, problem: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        defined(function).input.check(raw)
    assert problem in [str(one) for one in caught.value.problems]


async def test_a_running_instance_goes_on_with_the_default_and_can_be_started_again_by_its_id() -> None:
    @workflow(name="order")
    async def before(ctx: WorkflowContext, order: Order) -> str:
        await ctx.sleep(60)
        return order.id

    async with App(":memory:") as app:
        await app.start(before.options(id="order-1"), Order("A"))
        await trio.sleep(30)  # it leaves memory

        @workflow(name="order")
        async def after(ctx: WorkflowContext, order: Order, tags: set[str] = set(), express: bool = False) -> str:  # noqa: B006
            await ctx.sleep(60)
            return f"{order.id} {express}"

        again = await app.start(after.options(id="order-1"), Order("A"))
        with pytest.raises(InstanceExistsError, match="another input"):
            await app.start(after.options(id="order-1"), Order("A"), express=True)
        assert await again.result() == "A False"


async def test_a_parameter_without_a_default_parks_running_instances_and_says_what_to_do() -> None:
    @workflow(name="order")
    async def before(ctx: WorkflowContext, order: Order) -> None:
        await ctx.sleep(60)

    async with App(":memory:") as app:
        handle = await app.start(before, Order("A"))
        await trio.sleep(30)

        @workflow(name="order")
        async def after(ctx: WorkflowContext, order: Order, express: bool) -> None:
            await ctx.sleep(60)

        with pytest.raises(WorkflowStuckError, match=r"give a default to each new parameter and field: .*\$.express"):
            await handle.result()
