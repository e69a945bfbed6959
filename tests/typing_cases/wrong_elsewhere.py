"""Calls of the apps for asyncio and for synchronous code that a type checker must refuse, each for its reason."""

from __future__ import annotations

from trio_romancy import WorkflowContext, aio, sync, workflow


@workflow
async def ordering(ctx: WorkflowContext, order_id: str) -> int:
    return 1


async def ask(number: int) -> str:
    return str(number)


async def on_asyncio(app: aio.App) -> None:
    await app.start(ordering, 1)  # E: No overload variant of "start" of "App" matches argument types "Workflow
    await app.start(ordering)  # E: No overload variant of "start" of "App" matches argument type "Workflow
    await app.send_event("paid", idd="1")  # E: Unexpected keyword argument "idd" for "send_event" of "App"
    _ = (await (await app.start(ordering, "1")).result()) + "x"  # E: Unsupported operand types for + ("int" and "str")
    app.start(ordering, "1").result()  # E: "Coroutine[Any, Any, WorkflowHandle[int]]" has no attribute "result"
    await aio.call_asyncio(ask, "1")  # E: Argument 2 to "call_asyncio" has incompatible type "str"; expected "int"


def on_none(app: sync.App) -> None:
    app.start(ordering, 1)  # E: No overload variant of "start" of "App" matches argument types "Workflow
    _ = app.start(ordering, "1").result() + "x"  # E: Unsupported operand types for + ("int" and "str")
    aio.App().__enter__()  # E: "App" has no attribute "__enter__"
