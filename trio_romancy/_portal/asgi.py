"""The ASGI application of an app for servers on asyncio."""

from __future__ import annotations

from functools import partial
from typing import Any

from attrs import define

from .asyncio_portal import AsyncioPortal, cross, running_loop


@define(eq=False)
class AsyncioApplication:
    """The ASGI application of an app, called from asyncio. It answers 503 while the app is not open."""

    _portal: AsyncioPortal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        loop = running_loop()
        if self._portal.is_open:
            across = partial(cross, loop, receive), partial(cross, loop, send)
            await self._portal.call(self._portal.app.asgi, scope, *across)
        elif scope["type"] == "http":
            from ..web.answers import refusal, unavailable  # only now: it needs the extra

            await refusal(unavailable("the app is not running"))(scope, receive, send)
        else:
            raise NotImplementedError(f"{scope['type']} of ASGI")  # the server goes on without a lifespan
