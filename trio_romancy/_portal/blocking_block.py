"""Blocks of an app that are entered from synchronous code: transactions, and their savepoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from attrs import define, field

from .._client.engine import open_block
from .block import Block
from .blocking_portal import BlockingPortal

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


@define(eq=False)
class BlockingBlockPortal:
    """The way from synchronous code into a block."""

    app_portal: BlockingPortal
    _block: Block[Any]

    def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an async function inside of the block: see :meth:`BlockingPortal.call`."""
        return self.app_portal.call(self._block.call, fn, *args, **kwargs)

    def nested(self, make: Callable[[], AbstractAsyncContextManager[None]]) -> AbstractContextManager[None]:
        """Return a block inside of this one."""
        return _Nested(self, make())


@define(eq=False)
class _Nested(AbstractContextManager[None]):
    _portal: BlockingBlockPortal
    _inner: AbstractAsyncContextManager[None]

    def __enter__(self) -> None:
        self._portal.call(self._inner.__aenter__)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._portal.call(self._inner.__aexit__, exc_type, exc, traceback)


@define(eq=False)
class BlockingBlock(AbstractContextManager[S]):
    """A transaction that is entered from synchronous code."""

    _portal: BlockingPortal
    _make: Callable[[], AbstractAsyncContextManager[Any]]
    _wrap: Callable[[BlockingBlockPortal, Any], S]
    _block: Block[Any] = field(init=False)
    _outer: Any = None

    def __enter__(self) -> S:
        self._block = Block(self._make)
        session = self._portal.call(self._block.open)
        self._outer = open_block.get()
        open_block.set(session)  # calls of the app inherit it, and refuse to wait for the transaction
        return self._wrap(BlockingBlockPortal(self._portal, self._block), session)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        open_block.set(self._outer)
        self._portal.call(self._block.close, has_failed=exc is not None)
