"""One attempt of a plain ``def`` activity, in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from attrs import define, field
from outcome import Error, Outcome, Value, acapture


@define(eq=False)
class ActivityThread:
    """Runs a plain function in a thread. A thread cannot be stopped, only waited for."""

    _call: Callable[[], Any]
    _timeout: float | None
    """Seconds; None: no limit."""
    _limiter: trio.CapacityLimiter
    finished: trio.Event = field(factory=trio.Event)
    """Event set when the function has ended, in time or not."""
    _started: trio.Event = field(factory=trio.Event)
    _outcome: Outcome[Any] | None = None

    async def run(self) -> None:
        """Run the function to its end, also after its timeout."""
        to_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=self._limiter)
        try:
            ran = await acapture(to_thread, self._run)
            self._outcome = ran.value if isinstance(ran, Value) else ran
        finally:
            self.finished.set()

    def _run(self) -> Outcome[Any]:
        """Return what the function did. An exception of it that cannot be looked at would end trio's thread."""
        if self._timeout is not None:
            trio.from_thread.run_sync(self._started.set)
        try:
            return Value(self._call())
        except BaseException as error:
            return Error(error)

    async def outcome(self) -> Outcome[Any]:
        """Return what the function did, if it ends in time. Waiting for a free thread does not count.

        The caller unwraps it: a StopIteration cannot leave a coroutine as itself.

        Raises:
          trio.TooSlowError: if it took longer than its timeout.
        """
        if self._timeout is None:
            await self.finished.wait()
        else:
            await self._started.wait()
            with trio.fail_after(self._timeout):
                await self.finished.wait()
        assert self._outcome is not None
        return self._outcome
