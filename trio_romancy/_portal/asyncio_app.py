"""What the app for asyncio has besides the methods that are copied from that for trio."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from ..app import App, ASGIApplication
from ..web.lifespan import Lifespan
from .asgi import AsyncioApplication
from .asyncio_portal import AsyncioPortal


class AsyncioApp:
    """Opens and closes the app for asyncio."""

    def __init__(self, make_app: Callable[[], App]) -> None:
        self._portal = AsyncioPortal(make_app)
        self._asgi = AsyncioApplication(self._portal)

    async def __aenter__(self) -> Self:
        await self._portal.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._portal.close()

    def hurry(self) -> None:
        """Stop waiting for running activities if the block is ending, and give all instances back at once.

        Activities without a recorded outcome run again on the worker that claims their instance.
        """
        self._portal.hurry()

    @property
    def asgi(self) -> ASGIApplication:
        """This app over HTTP, for an ASGI server on asyncio, such as uvicorn: CloudEvents, health, and cancelling.

        It is always the same object, and answers 503 outside of the app's block. Needs the extra ``trio_romancy[web]``.

        Raises:
          RomancyError: if the extra is not installed.
        """
        _ = self._portal.app.asgi  # raises now, and not at the first request
        return self._asgi

    def lifespan(self, application: object) -> AbstractAsyncContextManager[None]:
        """Open the app for as long as a web application runs: ``FastAPI(lifespan=app.lifespan)``."""
        return Lifespan(self)
