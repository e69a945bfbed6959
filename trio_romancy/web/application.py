"""The ASGI application: which path leads where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from attrs import asdict, define
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import RomancyError
from .answers import answer, refusal, unavailable
from .authorization import Authorization
from .body import read_body
from .cancelling import Cancel
from .delivery import deliver
from .events import Mode, content_mode, read_events
from .health import Ready, live
from .in_time import Attempt

if TYPE_CHECKING:
    from ..app import App


def make_application(
    app: App, *, token: bytes | None, body_limit: int, max_payload: int, seconds: float, runs_workflows: bool
) -> Starlette:
    """The application of an app, which need not be running yet.

    Args:
      token: what clients must present for everything but health; None: nothing.
      body_limit: the most bytes in the body of a request.
      max_payload: the most bytes of JSON in the data of one event.
      seconds: how long the database may be away before a client is told.
      runs_workflows: whether the app is ready only while its worker holds a lease.
    """
    health = [Route("/live", live, methods=["GET"]), Route("/ready", Ready(app, runs_workflows), methods=["GET"])]
    others = [Route("/", Events(app, body_limit, max_payload, seconds), methods=["POST"])]
    if token is not None:
        others.append(Route("/cancel/{instance_id:path}", Cancel(app, seconds), methods=["POST"]))
    rest: ASGIApp = Router(others, redirect_slashes=False)
    if token is not None:
        rest = Authorization(rest, token)
    application = Starlette(
        routes=[Mount("/health", Router(health, redirect_slashes=False)), Mount("", rest)],
        middleware=[Middleware(OnTrio), Middleware(NoBackPressure)],
        exception_handlers={HTTPException: _refused, ClientDisconnect: _nobody_is_there, Exception: _failed},
    )
    application.router.redirect_slashes = False
    return application


@define(eq=False)
class Events:
    """Takes CloudEvents. Answers 202 once they are durable, with what became of them."""

    _app: App
    _body_limit: int
    _max_payload: int
    _seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        mode = content_mode(request.headers)
        events = read_events(mode, request.headers, await read_body(request, self._body_limit))
        is_batch = mode is Mode.BATCHED
        attempt = Attempt(self._seconds)

        async def work() -> Response:
            delivered = await deliver(
                self._app, self._max_payload, events, is_batch=is_batch, on_progress=attempt.renew
            )
            results = [asdict(each) for each in delivered]
            return answer(results if is_batch else results[0], 202)

        too_late = unavailable("the database has not answered in time; send the same events again, with the same ids")
        await attempt.answer(work, too_late, scope, receive, send)


@define(eq=False)
class OnTrio:
    """Says what is wrong when the server runs on asyncio, where every request would fail in some way of its own."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            raise RomancyError(
                "the ASGI server does not run on trio; use one that does, such as hypercorn.trio.serve"
            ) from None
        await self.app(scope, receive, send)


@define(eq=False)
class NoBackPressure:
    """Goes on receiving while it answers, and drops what comes.

    Otherwise a server that hands over the body piece by piece, as Hypercorn does, would wait for ever: to hand over the
    rest of a body that was refused in the middle, and so to send the end of the answer.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:

            async def send_and_drop(message: Message) -> None:
                if message["type"] == "http.response.start":
                    nursery.start_soon(_drop, receive)
                await send(message)

            try:
                await self.app(scope, receive, send_and_drop)
            except Exception as error:
                failure = error  # out of the nursery, which would make a group of it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _drop(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        await trio.lowlevel.checkpoint()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error)


async def _nobody_is_there(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # which no one reads


async def _failed(request: Request, error: Exception) -> Response:
    return refusal(HTTPException(500))  # Starlette raises it again, so that the server logs it
