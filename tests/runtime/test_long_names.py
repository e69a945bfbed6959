"""Names as long as they may be work alike on every database, also where an operation id is made of them."""

from __future__ import annotations

from trio_romancy import App, WorkflowContext, activity, workflow

LONGEST = 255

effects: list[str] = []


@activity(name="a" * LONGEST)
async def named_long(what: str) -> str:
    effects.append(what)
    return what


@workflow(name="c" * LONGEST)
async def child_named_long(ctx: WorkflowContext) -> str:
    return await named_long("child")


@workflow(name="w" * LONGEST)
async def flow_named_long(ctx: WorkflowContext) -> list[str]:
    found = [await named_long("one"), await named_long("two"), await ctx.run(child_named_long)]
    with ctx.branch("b" * LONGEST):
        found.append(await named_long("branch"))
    event = await ctx.wait_event("e" * LONGEST, subject="s" * LONGEST, data_type=str)
    return [*found, event.data]


async def test_the_longest_names_are_stored_alike(database: str) -> None:
    effects.clear()
    async with App(database) as app:
        handle = await app.start(flow_named_long.options(id="i" * LONGEST))
        await app.send_event("e" * LONGEST, "event", source="x" * LONGEST, id="y" * LONGEST, subject="s" * LONGEST)
        assert await handle.result() == ["one", "two", "child", "branch", "event"]
        ids = [entry.operation_id for entry in (await app.history(handle.instance_id)).entries]
    assert effects == ["one", "two", "child", "branch"]
    assert max(map(len, ids)) <= LONGEST
