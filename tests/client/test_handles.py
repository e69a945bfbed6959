"""Handles of instances that were started elsewhere: their results have the type that the caller names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import frozen

from trio_romancy import App, InvalidDataError, InvalidInputError, WorkflowContext, workflow


@frozen
class Receipt:
    number: str
    paid_at: datetime


@frozen
class Ticket:
    seat: int


PAID = Receipt("R-1", datetime(2026, 1, 2, tzinfo=UTC))
PLAIN = {"number": "R-1", "paid_at": "2026-01-02T00:00:00+00:00"}


@workflow(name="handles_order")
async def order(ctx: WorkflowContext) -> Receipt:
    return PAID


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        pytest.param((order,), PAID, id="workflow"),
        pytest.param((order.options(id="another"),), PAID, id="workflow with options"),
        pytest.param((Receipt,), PAID, id="type"),
        pytest.param((Receipt | Ticket,), PAID, id="union"),
        pytest.param((dict[str, str],), PLAIN, id="dict"),
        pytest.param((), PLAIN, id="nothing"),
    ],
)
async def test_a_handle_returns_the_result_as_the_type_that_it_was_given(named: tuple[Any, ...], expected: Any) -> None:
    async with App(":memory:") as app:
        await app.start(order.options(id="order-1"))
        assert await app.handle("order-1", *named).result() == expected


async def test_a_result_that_does_not_fit_the_given_type_is_refused_and_can_be_read_by_another_handle() -> None:
    async with App(":memory:") as app:
        await app.start(order.options(id="order-1"))
        with pytest.raises(InvalidDataError, match="'order-1' has completed, but its result does not fit Ticket"):
            await app.handle("order-1", Ticket).result()
        assert await app.handle("order-1").result() == PLAIN


@workflow(name="handles_with_id")
async def with_id(ctx: WorkflowContext, id: str) -> str:
    return f"{ctx.instance_id} {id}"


async def test_an_id_is_given_by_options_and_a_parameter_may_be_called_so() -> None:
    async with App(":memory:") as app:
        assert await (await app.start(with_id.options(id="x"), id="y")).result() == "x y"
        start: Any = app.start
        with pytest.raises(
            InvalidInputError, match=r"unexpected keyword argument 'id'; .* workflow\.options\(id=\.\.\.\)"
        ):
            await start(order, id="order-1")
        assert not await app.list_instances(workflow="handles_order")


def test_a_type_that_cannot_be_stored_is_refused_when_the_handle_is_made() -> None:
    with pytest.raises(TypeError, match="App cannot be stored"):
        App(":memory:").handle("order-1", App)
