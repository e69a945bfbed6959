"""Timely answers during an outage of the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from attrs import define, field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .answers import refusal


@define(eq=False)
class Attempt:
    """The work of one request, with a time limit for the answer.

    A transaction that has begun cannot be stopped, even if its server has vanished. So the client is answered first,
    and the request then waits for the transaction.
    """

    _seconds: float
    _waiting: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    def renew(self) -> None:
        """Restart the time limit, after progress."""
        self._waiting.deadline = trio.current_time() + self._seconds

    async def answer(
        self,
        work: Callable[[], Awaitable[Response]],
        too_late: HTTPException,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Send the answer that ``work`` returns, or ``too_late`` at the time limit, and then cancel ``work``."""
        answers: list[Response] = []
        ended = trio.Event()

        async def attempt() -> None:
            try:
                answers.append(await work())
            except HTTPException as error:
                answers.append(refusal(error))
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt)
            self.renew()
            with self._waiting:
                await ended.wait()
            response = answers[0] if answers else refusal(too_late)
            await response(scope, receive, send)
            nursery.cancel_scope.cancel()
