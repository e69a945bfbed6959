"""The database goes on working when everything else in the process has taken all of trio's threads."""

from __future__ import annotations

import threading
from functools import partial

import trio

from trio_romancy import App, WorkflowContext, workflow


@workflow
async def threads_workflow(ctx: WorkflowContext) -> str:
    await ctx.sleep(0.01)
    return "done"


def test_the_journal_writes_while_all_of_trios_threads_are_taken(database: str) -> None:
    release = threading.Event()

    async def main() -> None:
        async with App(database) as app, trio.open_nursery() as nursery:
            for _ in range(int(trio.to_thread.current_default_thread_limiter().total_tokens)):
                nursery.start_soon(partial(trio.to_thread.run_sync, release.wait))
            try:
                handle = await app.start(threads_workflow)
                assert await handle.result(timeout=20) == "done"
                instance = await app.get_instance(handle.instance_id)
                assert instance is not None
            finally:
                release.set()

    trio.run(main)
