"""Calls that a type checker must refuse: each line that says so, for the reason it gives, and no other line."""

from __future__ import annotations

from attrs import define

from trio_romancy import (
    App,
    Limits,
    OutboxSettings,
    RetryPolicy,
    WorkflowContext,
    activity,
    compensation,
    current_activity,
    workflow,
)


@define
class Order:
    order_id: str
    amount: float


@compensation
async def refund(order_id: str) -> None: ...


@compensation(name="restock_wrongly")
def restock(order_id: str) -> None: ...


@activity
async def charge(order_id: str, amount: float) -> str:
    return "paid"


@activity(compensation=refund, retry=RetryPolicy.default())
async def charge_with_options(order_id: str, amount: float) -> str:
    return "paid"


@activity
def count(order_id: str) -> int:
    return 1


@activity(timeout=1.0)
def count_with_options(order_id: str) -> int:
    return 1


@workflow
async def ordering(ctx: WorkflowContext, order: Order) -> str:
    await charge("1")  # E: Missing positional argument "amount"
    await charge("1", "2")  # E: Argument 2 to "__call__" of "Activity" has incompatible type "str"
    await charge("1", 2.0, 3)  # E: Too many arguments for "__call__"
    await charge("1", price=2.0)  # E: Unexpected keyword argument "price"
    await charge_with_options(1, 2.0)  # E: Argument 1 to "__call__" of "Activity" has incompatible type "int"
    await count(1)  # E: Argument 1 to "__call__" of "Activity" has incompatible type "int"
    await count_with_options()  # E: Missing positional argument "order_id"
    await count.options(id="count:a")(1)  # E: Argument 1 to "__call__" of "Activity" has incompatible type "int"
    amount: float = await charge("1", 2.0)  # E: expression has type "str", variable has type "float"
    number: int = count("1")  # E: expression has type "Coroutine[Any, Any, int]"
    await charge.options(id=1)("1", amount)  # E: Argument "id" to "options" of "Activity" has incompatible type "int"
    await charge.options(retry=3)("1", amount)  # E: Argument "retry" to "options" of "Activity"
    await charge.options(timeout="1")("1", amount)  # E: Argument "timeout" to "options" of "Activity"
    await charge.options(compensation=refund)("1", amount)  # E: Unexpected keyword argument "compensation"
    number = (await ctx.wait_event("paid", data_type=Order)).data.price  # E: "Order" has no attribute "price"
    number = (await ctx.receive("news", data_type=Order)).data.price  # E: "Order" has no attribute "price"
    await ctx.sleep("1")  # E: Argument 1 to "sleep" of "WorkflowContext" has incompatible type "str"
    await ctx.sleep_until(number)  # E: Argument 1 to "sleep_until" of "WorkflowContext"
    refund(1)  # E: Argument 1 to "__call__" of "Compensation" has incompatible type "int"
    restock(1)  # E: Argument 1 to "__call__" of "Compensation" has incompatible type "int"
    return 1  # E: Incompatible return value type (got "int", expected "str")


@workflow(name="takes_nothing")
async def takes_nothing(ctx: WorkflowContext) -> None: ...


@workflow  # E: incompatible type "Callable[[str], Coroutine[Any, Any, None]]"
async def without_context(order_id: str) -> None: ...


@workflow(name="not_async")  # E: incompatible type "Callable[[WorkflowContext], None]"
def not_async(ctx: WorkflowContext) -> None: ...


@workflow(name="with_children")
async def with_children(ctx: WorkflowContext, order: Order) -> str:
    await ctx.run(ordering, "1")  # E: Argument 2 to "run" of "WorkflowContext" has incompatible type "str"
    await ctx.run(charge, "1", 2.0)  # E: Argument 1 to "run" of "WorkflowContext" has incompatible type "Activity
    await ctx.start(ordering)  # E: Missing positional argument "order"
    await ordering(ctx, "1")  # E: Argument 2 to "__call__" of "Workflow" has incompatible type "str"
    result = await ctx.run(ordering, order)
    await ctx.map(charge, ["1"])  # E: Argument 1 to "map" of "WorkflowContext" has incompatible type
    await ctx.map(charge, [1], [2.0])  # E: Argument 1 to "map" of "WorkflowContext" has incompatible type
    await ctx.map(charge, ["1"], [2.0], on_error="ignore")  # E: No overload variant of "map" of "WorkflowContext"
    result + 1  # E: Unsupported operand types for + ("str" and "int")
    return result


activity(compensation=charge)  # E: No overload variant of "activity" matches argument type
activity(retries=3)  # E: Unexpected keyword argument "retries"
compensation(timeout="1")  # E: No overload variant of "compensation" matches argument type


@activity
async def with_session() -> None:
    session = current_activity().session
    await session.execute("SELECT 1")  # E: Argument 1 to "execute" of "Session" has incompatible type "str"
    await session.commit()  # E: "Session" has no attribute "commit"
    current_activity().idempotency_key + 1  # E: Unsupported operand types for + ("str" and "int")


async def main() -> None:
    async with App() as app:
        await app.start(ordering)  # E: No overload variant of "start" of "Client" matches
        await app.start(ordering, "1")  # E: No overload variant of "start" of "Client" matches
        await app.start(ordering, Order("1", 2.0), 3)  # E: No overload variant of "start" of "Client" matches
        await app.start(ordering.options(id="1"), 1)  # E: No overload variant of "start" of "Client" matches
        ordering.options(name="1")  # E: Unexpected keyword argument "name"
        await app.start(charge, "1", 2.0)  # E: No overload variant of "start" of "Client" matches
        await app.start(takes_nothing, None)  # E: No overload variant of "start" of "Client" matches
        number: int = await (await app.start(ordering, Order("1", 2.0))).result()  # E: expression has type "str"
        number = (await app.start(ordering, Order("1", 2.0))).instance_id  # E: expression has type "str"
        number = await app.handle("1", ordering).result()  # E: expression has type "str"
        number = (await app.list_instances())[0]  # E: expression has type "Instance"
        OutboxSettings(content_mode="text")  # E: Argument "content_mode" to "OutboxSettings"
        Limits(3)  # E: Too many positional arguments for "Limits"
    App(lease="10")  # E: Argument "lease" to "App" has incompatible type "str"
    App(leese=number)  # E: Unexpected keyword argument "leese"
