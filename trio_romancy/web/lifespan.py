"""Keeps an app open for as long as a web application runs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from attrs import define


@define(eq=False)
class Lifespan:
    """The lifespan of a web application in which an app is open. It gives the application no state."""

    _app: AbstractAsyncContextManager[Any, bool | None]

    async def __aenter__(self) -> None:
        await self._app.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._app.__aexit__(exc_type, exc, traceback)
