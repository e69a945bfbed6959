"""Blocks of an app that are entered from asyncio: transactions, and their savepoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from attrs import define, field

from .._client.engine import open_block
from .asyncio_portal import AsyncioPortal
from .block import Block

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


@define(eq=False)
class AsyncioBlockPortal:
    """The way from asyncio into a block."""

    app_portal: AsyncioPortal
    _block: Block[Any]

    async def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an async function inside of the block: see :meth:`AsyncioPortal.call`."""
        return await self.app_portal.call(self._block.call, fn, *args, **kwargs)

    def nested(self, make: Callable[[], AbstractAsyncContextManager[None]]) -> AbstractAsyncContextManager[None]:
        """Return a block inside of this one."""
        return _Nested(self, make())


@define(eq=False)
class _Nested(AbstractAsyncContextManager[None]):
    _portal: AsyncioBlockPortal
    _inner: AbstractAsyncContextManager[None]

    async def __aenter__(self) -> None:
        await self._portal.call(self._inner.__aenter__)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._portal.call(self._inner.__aexit__, exc_type, exc, traceback)


@define(eq=False)
class AsyncioBlock(AbstractAsyncContextManager[S]):
    """A transaction that is entered from asyncio."""

    _portal: AsyncioPortal
    _make: Callable[[], AbstractAsyncContextManager[Any]]
    _wrap: Callable[[AsyncioBlockPortal, Any], S]
    _block: Block[Any] = field(init=False)
    _outer: Any = None

    async def __aenter__(self) -> S:
        self._block = Block(self._make)
        session = await self._portal.call(self._block.open)
        self._outer = open_block.get()
        open_block.set(session)  # calls of the app inherit it, and refuse to wait for the transaction
        return self._wrap(AsyncioBlockPortal(self._portal, self._block), session)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        open_block.set(self._outer)
        await self._portal.call(self._block.close, has_failed=exc is not None)
