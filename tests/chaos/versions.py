"""Workflows that differ between the two versions of the code that run beside each other."""

from __future__ import annotations

from typing import Any

from trio_romancy import WorkflowContext, workflow
from trio_romancy._definitions.values import Workflow

from .workflows import work

OLD, NEW = 1, 2


def define_old() -> None:
    """Define what workers of the old version know."""

    @workflow(name="chaos_changed")
    async def changed(ctx: WorkflowContext, number: int) -> int:
        total = await work(number)
        await ctx.sleep(0.3)
        return total + await work(number)


def define_new() -> tuple[Workflow[..., Any], Workflow[..., Any]]:
    """Define what workers of the new version know: a workflow that has one step more, and one that is new."""

    @workflow(name="chaos_changed")
    async def changed(ctx: WorkflowContext, number: int) -> int:
        total = await work(number)
        await ctx.sleep(0.3)
        if ctx.patched("one step more"):
            await work(0)
        return total + await work(number)

    @workflow(name="chaos_only_new")
    async def only_new(ctx: WorkflowContext, number: int) -> int:
        await ctx.sleep(0.1)
        return await work(number)

    return changed, only_new
