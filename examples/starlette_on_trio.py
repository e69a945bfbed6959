"""Greetings in a Starlette application, on a server that runs on trio: Hypercorn.

    python examples/starlette_on_trio.py            serve on http://127.0.0.1:8000 until Ctrl-C
    python examples/starlette_on_trio.py --demo     serve, make a request, and stop

The handlers, the workflows and the activities are tasks of one trio program, without any thread between them.
"""

import sys
from functools import partial

import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from trio_romancy import App, WorkflowContext, activity, workflow

DEMO = "--demo" in sys.argv


@activity
async def look_up(name: str) -> str:
    return name.title()


@workflow
async def greeting(ctx: WorkflowContext, name: str) -> str:
    return f"Hello, {await look_up(name)}!"


async def greet(request: Request) -> PlainTextResponse:
    handle = await app.start(greeting, request.path_params["name"])
    return PlainTextResponse(await handle.result())


app = App(":memory:")
web = Starlette(routes=[Route("/greet/{name}", greet), Mount("/romancy", app.asgi)], lifespan=app.lifespan)


async def main() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0" if DEMO else "127.0.0.1:8000"]
    config.errorlog = None if DEMO else "-"
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(partial(serve, web, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
        if DEMO:
            async with httpx.AsyncClient(base_url=urls[0]) as client:
                print((await client.get("/greet/ann")).text)
                print((await client.get("/romancy/health/ready")).status_code)
            stop.set()


trio.run(main)
