"""A process of its own for test_durability.py: serves the database of the first argument until it is killed.

It writes its URL to standard output, and what its workflows were given to the file of the second argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from trio_romancy import App, WorkflowContext, activity, workflow

database, log = sys.argv[1:]


@activity
def note(what: str, number: int) -> None:
    with Path(log).open("a") as file:
        file.write(f"{what} {number}\n")


@workflow(event_handler=True)
async def started(ctx: WorkflowContext, number: int) -> None:
    await note("started", number)


@workflow
async def collector(ctx: WorkflowContext) -> None:
    while True:
        event = await ctx.wait_event("collected", data_type=dict[str, int])
        await note("collected", event.data["number"])


async def main() -> None:
    async with App(database, worker_id="worker-1") as app, trio.open_nursery() as nursery:
        await app.start(collector.options(id="collector"))
        config = Config()
        config.bind = ["127.0.0.1:0"]
        urls = await nursery.start(serve, app.asgi, config)
        print(urls[0], flush=True)


if __name__ == "__main__":
    trio.run(main)
