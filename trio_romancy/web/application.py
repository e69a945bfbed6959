"""The ASGI application: its routes and its middleware."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio
from attrs import asdict, define
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._client.client import Client
from .._data.large import decoded
from ..errors import RomancyError
from .answers import answer, refusal, unavailable
from .authorization import Authorization
from .body import BodyLimits, read_body
from .cancelling import REASON_LIMIT, Cancel
from .delivery import Prepared, deliver, prepare
from .events import Mode, content_mode, read_events
from .handshake import Handshake
from .health import Ready, live
from .in_time import Attempt
from .paths import Paths, WithoutSlash
from .terminating import Terminate


def make_application(
    client: Client,
    *,
    token: bytes | None,
    body_limits: BodyLimits,
    max_payload: int,
    seconds: float,
    webhook_origins: Collection[str],
    may_work: Callable[[], bool],
) -> Starlette:
    """Return the application of a client, which may be opened later.

    Args:
      token: the bearer token for every path but health. If it is None, events need no token, and there is no path to
        cancel or terminate an instance.
      body_limits: limits of the body of a request.
      max_payload: the most bytes of JSON in the data of one event.
      seconds: longest outage of the database before a client is told to try again.
      webhook_origins: senders that the handshake of webhooks allows, in lower case. If there are none, there is no
        handshake.
      may_work: whether the worker holds a lease, if there is a worker. Raises if the client is not open.
    """
    health = [Route("/live", live, methods=["GET"]), Route("/ready", Ready(client, may_work), methods=["GET"])]
    events: dict[str, ASGIApp] = {"POST": Events(client, body_limits, max_payload, seconds)}
    if webhook_origins:
        events["OPTIONS"] = Handshake(webhook_origins, ("POST", "OPTIONS"))
    instances: dict[str, ASGIApp] = {}
    if token is not None:
        smaller = body_limits.at_most(REASON_LIMIT)
        instances = {"cancel": Cancel(client, smaller, seconds), "terminate": Terminate(client, smaller, seconds)}
    application = Starlette(
        routes=[Mount("/health", Router(health, redirect_slashes=False))],
        middleware=[Middleware(OnTrio), Middleware(NoBackPressure), Middleware(WithoutSlash)],
        exception_handlers={HTTPException: _refused, ClientDisconnect: _disconnected, Exception: _failed},
    )
    application.router.redirect_slashes = False
    paths = Paths(events, instances)
    application.router.default = paths if token is None else Authorization(paths, token)
    return application


@define(eq=False)
class Events:
    """``POST /``: CloudEvents. Answers 202 with the result of each, once all are durable."""

    _client: Client
    _body_limits: BodyLimits
    _max_payload: int
    _seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        mode = content_mode(request.headers)
        body = await read_body(request, self._body_limits)
        is_batch = mode is Mode.BATCHED

        def read() -> list[Prepared]:
            return prepare(read_events(mode, request.headers, body), self._max_payload, is_batch=is_batch)

        prepared = await decoded(len(body), read)
        attempt = Attempt(self._seconds)

        async def work() -> Response:
            delivered = await deliver(self._client, prepared, is_batch=is_batch, on_progress=attempt.renew)
            results = [asdict(each) for each in delivered]
            return answer(results if is_batch else results[0], 202)

        too_late = unavailable("the database has not answered in time; send the same events again, with the same ids")
        await attempt.answer(work, too_late, scope, receive, send)


@define(eq=False)
class OnTrio:
    """Raises a clear error if the server runs on asyncio, where each kind of request would fail in another way."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            raise RomancyError(
                "the ASGI server does not run on trio; use one that does, such as hypercorn.trio.serve, or the asgi of "
                "a trio_romancy.aio.App"
            ) from None
        await self.app(scope, receive, send)


@define(eq=False)
class NoBackPressure:
    """Receives and drops the rest of a request while the answer is sent.

    Without it a server that passes a body on in pieces, as Hypercorn does, waits for ever: the rest of a body that was
    refused in the middle is not received, and therefore the end of the answer is not sent.
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
                failure = error  # raised outside of the nursery, which would wrap it in a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _drop(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        await trio.lowlevel.checkpoint()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error)


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client has gone


async def _failed(request: Request, error: Exception) -> Response:
    return refusal(HTTPException(500))  # Starlette raises the exception again, so that the server logs it
