"""Whether the process is alive, and whether it can do its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .answers import answer, unavailable
from .delivery import refusals
from .in_time import Attempt

if TYPE_CHECKING:
    from ..app import App

READY_WITHIN = 2.0
"""Seconds in which the database of an app that is ready answers."""


async def live(request: Request) -> Response:
    """The process answers, whatever the database does. Restarting it would not help against an outage."""
    return answer({"status": "live"})


@define(eq=False)
class Ready:
    """The database answers, and the worker may write to it."""

    _app: App
    _runs_workflows: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_late = unavailable(f"the database has not answered for {READY_WITHIN:g} s")
        await Attempt(READY_WITHIN).answer(self._look, too_late, scope, receive, send)

    async def _look(self) -> Response:
        with refusals():
            if self._runs_workflows and self._app.statistics().worker is None:
                raise unavailable("the worker holds no lease")
            await self._app.get_instance("health")  # whether there is one does not matter
        return answer({"status": "ready"})
