"""A worker process of test_kills.py, on the database of the first argument."""

from __future__ import annotations

import sys

import trio

from trio_romancy import App, WorkflowContext, workflow


@workflow(name="kills_tick")
async def tick(ctx: WorkflowContext) -> None: ...


async def main() -> None:
    async with App(sys.argv[1], lease=2.0):
        print("works", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
