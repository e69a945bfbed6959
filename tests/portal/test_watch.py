"""Changes of an instance, watched by programs on asyncio and by synchronous code."""

from __future__ import annotations

import asyncio
from typing import Any

from trio_romancy import Status, WorkflowContext, aio, sync, workflow


@workflow(name="portal_telling")
async def telling(ctx: WorkflowContext) -> int:
    for number in range(3):
        ctx.set_details(number)
        await ctx.sleep(0.2)
    return 3


def check(seen: list[tuple[Status, Any]]) -> None:
    assert seen[-1] == (Status.COMPLETED, None)
    assert [*dict.fromkeys(details for _, details in seen if details is not None)] == [0, 1, 2]


def test_synchronous_code_iterates_over_the_changes() -> None:
    with sync.App(":memory:") as app:
        handle = app.start(telling)
        check([(instance.status, instance.details) for instance in handle.watch()])
        assert handle.status() is Status.COMPLETED
        assert app.handle(handle.instance_id, telling).result() == 3


def test_a_program_on_asyncio_iterates_over_the_changes() -> None:
    async def main() -> None:
        async with aio.App(":memory:") as app:
            handle = await app.start(telling)
            check([(instance.status, instance.details) async for instance in handle.watch()])
            assert await handle.details() is None

    asyncio.run(main())
