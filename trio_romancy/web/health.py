"""``GET /health/live`` and ``GET /health/ready``."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .._client.client import Client
from .answers import answer, unavailable
from .delivery import refusals
from .in_time import Attempt

READY_WITHIN = 2.0
"""Longest time that the database of a ready app may take to answer, in seconds."""


async def live(request: Request) -> Response:
    """Answer 200, also during an outage of the database: a restart of the process would not end it."""
    return answer({"status": "live"})


@define(eq=False)
class Ready:
    """Answers 200 if the database answers, and the worker, if there is one, holds a lease."""

    _client: Client
    _may_work: Callable[[], bool]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_late = unavailable(f"the database has not answered for {READY_WITHIN:g} s")
        await Attempt(READY_WITHIN).answer(self._check, too_late, scope, receive, send)

    async def _check(self) -> Response:
        with refusals():
            if not self._may_work():
                raise unavailable("the worker holds no lease")
            await self._client.get_instance("health")  # a read; there need not be such an instance
        return answer({"status": "ready"})
