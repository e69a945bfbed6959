"""The app for asyncio inside a web application, and its own ASGI application under an ASGI server on asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from trio_romancy import App as TrioApp
from trio_romancy import RetryPolicy, RomancyError, WorkflowContext, WorkflowFailedError, activity, workflow
from trio_romancy._portal import asyncio_portal
from trio_romancy._portal.asyncio_portal import cross
from trio_romancy.aio import App, call_asyncio


@workflow(event_handler=True)
async def greet(ctx: WorkflowContext, name: str) -> str:
    return f"hello {name}"


def application_of(app: App) -> Starlette:
    async def hello(request: Request) -> JSONResponse:
        handle = await app.start(greet, request.path_params["name"])
        return JSONResponse(await handle.result())

    return Starlette(routes=[Route("/hello/{name}", hello), Mount("/events", app.asgi)], lifespan=app.lifespan)


def test_the_app_is_open_for_as_long_as_the_application_and_can_be_opened_again() -> None:
    application = application_of(App(":memory:"))
    for _ in range(2):
        with TestClient(application) as client:
            assert client.get("/hello/Ann").json() == "hello Ann"
            assert client.get("/events/health/ready").status_code == 200
    assert TestClient(application).get("/events/health/live").status_code == 503


@asynccontextmanager
async def served(application: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application with uvicorn, and return a client of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    serving = asyncio.create_task(server.serve([listener]))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=address, timeout=30) as client:
        yield client
    server.should_exit = True
    await serving


EVENT = {"specversion": "1.0", "id": "1", "source": "here", "type": "greet", "data": {"name": "Ann"}}


def test_events_are_taken_under_uvicorn() -> None:
    async def main() -> None:
        app = App(":memory:")
        async with served(application_of(app)) as client:
            media = {"content-type": "application/cloudevents+json"}
            taken = await client.post("/events/", json=EVENT, headers=media)
            assert taken.status_code == 202, taken.text
            assert await app.handle(taken.json()["instance_id"]).result() == "hello Ann"
            large = await client.post("/events/", content=b"x" * 10_000_000, headers=media)
            assert large.status_code == 413

    asyncio.run(main())


async def test_a_lifespan_on_trio_opens_the_app() -> None:
    app = TrioApp(":memory:")
    async with app.lifespan(None) as state:
        assert state is None
        assert await (await app.start(greet, "Ann")).result() == "hello Ann"


# -- asyncio in activities ---------------------------------------------------------------------------------------------


async def in_asyncio(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        cancelled.append(asyncio.get_running_loop())
        raise
    return type(asyncio.current_task()).__name__


cancelled: list[object] = []


@activity(cancellable=True)
async def through_asyncio(seconds: float) -> str:
    return await call_asyncio(in_asyncio, seconds)


@workflow
async def asks(ctx: WorkflowContext, seconds: float) -> str | None:
    with ctx.move_on_after(0.05 if seconds else 20):
        return await through_asyncio(seconds)
    return None


def test_an_activity_calls_asyncio_code_in_the_loop_that_has_opened_the_app() -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            assert await (await app.start(asks, 0.0)).result() == "Task"
            assert await (await app.start(asks, 60.0)).result() is None
        assert cancelled == [asyncio.get_running_loop()]

    cancelled.clear()
    asyncio.run(main())


async def wants_one(argument: int) -> None:
    pass


async def cancels_itself() -> None:
    raise asyncio.CancelledError("of its own")


MISUSES: dict[str, tuple[Any, str]] = {
    "an argument is missing": (wants_one, "missing 1 required positional argument: 'argument'"),
    "not async": (lambda: 1, "can't be used in 'await' expression"),
    "cancelled in asyncio": (cancels_itself, "of its own"),
}


@activity(retry=RetryPolicy.no_retry())
async def misuse(name: str) -> str:
    return await call_asyncio(MISUSES[name][0])


@workflow
async def misusing(ctx: WorkflowContext, name: str) -> str:
    return await misuse(name)


def test_what_goes_wrong_in_asyncio_fails_the_attempt() -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            for name, (_, said) in MISUSES.items():
                with pytest.raises(WorkflowFailedError, match=said):
                    await (await app.start(misusing, name)).result(timeout=20)

    asyncio.run(main())


def test_what_can_be_awaited_in_asyncio_need_not_be_a_coroutine() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def ask() -> str:
            return await cross(loop, lambda: loop.run_in_executor(None, str, 7))

        assert await asyncio.to_thread(trio.run, ask) == "7"

    asyncio.run(main())


def test_an_app_that_is_entered_again_elsewhere_keeps_its_event_loop() -> None:
    async def enter_again(app: App) -> None:
        with pytest.raises(RomancyError, match="open already"):
            await app.__aenter__()

    async def main() -> None:
        async with App(":memory:") as app:
            await asyncio.to_thread(asyncio.run, enter_again(app))
            assert await (await app.start(asks, 0.0)).result(timeout=20) == "Task"

    asyncio.run(main())


@pytest.mark.real_clock
async def test_an_event_loop_that_has_stopped_holds_up_no_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio_portal, "_GRACE", 0.01)
    loop = asyncio.new_event_loop()
    try:
        with trio.move_on_after(0.01) as scope:
            await cross(loop, in_asyncio, 60.0)
        assert scope.cancelled_caught
    finally:
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()


async def test_without_an_event_loop_of_asyncio_such_a_call_is_refused() -> None:
    with pytest.raises(RomancyError, match=r"by activities of a trio_romancy\.aio\.App"):
        await call_asyncio(in_asyncio, 0.0)
