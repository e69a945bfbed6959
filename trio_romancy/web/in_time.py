"""Answering in time, although the database may be away for longer."""

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
    """One attempt to do what a request asks for, before its client would give up.

    A transaction that has begun cannot be stopped, even if its server has vanished. So the client gets its answer
    first, and then the request waits for the transaction.
    """

    _seconds: float
    _waiting: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    def renew(self) -> None:
        """Something was achieved: the time begins anew."""
        self._waiting.deadline = trio.current_time() + self._seconds

    async def answer(
        self,
        work: Callable[[], Awaitable[Response]],
        too_late: HTTPException,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Send what ``work`` returns, or ``too_late`` when the time is over. Then ``work`` is cancelled."""
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
