"""A block of trio, such as a transaction, that is entered and left by code outside of trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, ParamSpec, TypeVar

import outcome
import trio
from attrs import define, field

from ..errors import RomancyError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Undo(Exception):
    """Leaves a block whose code outside of trio has raised."""


@define(eq=False)
class _Job:
    """A call inside of the block."""

    fn: Callable[[], Awaitable[Any]]
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)
    result: outcome.Outcome[Any] | None = None
    """What has come of it; None: it was cancelled."""

    async def run(self) -> None:
        try:
            with self.scope:
                try:
                    self.result = outcome.Value(await self.fn())
                except trio.Cancelled:
                    raise
                except BaseException as error:
                    self.result = outcome.Error(error)
        finally:
            self.ended.set()


@define(eq=False)
class Block(Generic[T]):
    """A block in a task of its own, which makes calls inside of it, one at a time.

    So all of the block has one task and one set of context variables, as it would have in a program on trio.
    """

    _make: Callable[[], AbstractAsyncContextManager[T]]
    _value: T | None = None
    _jobs: list[_Job] = field(factory=list)
    _changed: trio.Event = field(factory=trio.Event)
    _opened: trio.Event = field(factory=trio.Event)
    _ended: trio.Event = field(factory=trio.Event)
    _is_closing: bool = False
    _has_failed: bool = False
    _error: BaseException | None = None

    async def open(self) -> T:
        """Enter the block, and return what it gives."""
        scope = trio.CancelScope()
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None  # that of the calls, which ends with the app
        nursery.start_soon(self._run, scope)
        try:
            await self._opened.wait()
        except trio.Cancelled:
            scope.cancel()
            raise
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value

    async def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an async function inside of the block."""
        if self._is_closing or self._ended.is_set():
            raise RomancyError("the block has ended; call this inside of it")
        job = _Job(lambda: fn(*args, **kwargs))
        self._jobs.append(job)
        self._changed.set()
        try:
            await job.ended.wait()
        except trio.Cancelled:
            job.scope.cancel()
            with trio.CancelScope(shield=True):
                await job.ended.wait()
            raise
        if job.result is None:
            raise RomancyError("the app is not running: its block has ended, and with it this one")
        result: R = job.result.unwrap()
        return result

    async def close(self, *, has_failed: bool) -> None:
        """Leave the block, and raise what it raises. Cancellation is delivered when it has ended."""
        self._is_closing, self._has_failed = True, has_failed
        self._changed.set()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        if self._error is not None:
            raise self._error

    async def _run(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with self._make() as self._value:
                    self._opened.set()
                    await self._make_calls()
                    if self._has_failed:
                        raise _Undo
        except _Undo:
            pass
        except trio.Cancelled:
            self._error = RomancyError("the app is not running: its block has ended, and with it this one")
            raise
        except BaseException as error:
            self._error = error
        finally:
            for job in self._jobs:
                job.ended.set()
            self._opened.set()
            self._ended.set()

    async def _make_calls(self) -> None:
        while self._jobs or not self._is_closing:
            if self._jobs:
                await self._jobs[0].run()
                del self._jobs[0]
            else:
                self._changed = trio.Event()
                await self._changed.wait()
