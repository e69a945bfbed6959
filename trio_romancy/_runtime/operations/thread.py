"""One attempt of a plain ``def`` activity, in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from attrs import define, field
from outcome import Error, Outcome, Value, acapture

from ..run.threads import Threads, ThreadUse


@define(eq=False)
class ActivityThread:
    """Runs a plain function in a thread. A thread cannot be stopped, only waited for.

    For trio it is the limiter of its thread, so that the thread is given back when it has ended, and not before.
    """

    _call: Callable[[], Any]
    _timeout: float | None
    """Seconds; None: no limit."""
    _threads: Threads
    use: ThreadUse
    _finished: trio.Event = field(factory=trio.Event)
    """Event set when the outcome is known, or never will be."""
    _started: trio.Event = field(factory=trio.Event)
    _outcome: Outcome[Any] | None = None

    async def run(self) -> None:
        """Run the function to its end, also after its timeout."""
        to_thread: Any = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=self)  # type: ignore[arg-type]
        try:
            ran = await acapture(to_thread, self._run)
            self._outcome = ran.value if isinstance(ran, Value) else ran
        finally:
            self.use.is_left = True  # if the thread still runs
            self._finished.set()

    def _run(self) -> Outcome[Any]:
        """Return what the function did. An exception of it that cannot be looked at would end trio's thread."""
        try:
            return Value(self._call())
        except BaseException as error:
            return Error(error)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a free thread. Called by trio before it starts one."""
        await self._threads.take(self.use)
        self._started.set()

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give the thread back. Called by trio when it has ended."""
        self._threads.give_back(self.use)

    async def outcome(self) -> Outcome[Any]:
        """Return what the function did, if it ends in time. Waiting for a free thread does not count.

        The caller unwraps it: a StopIteration cannot leave a coroutine as itself.

        Raises:
          trio.TooSlowError: if it took longer than its timeout.
        """
        if self._timeout is None:
            await self._finished.wait()
        else:
            await self._started.wait()
            try:
                with trio.fail_after(self._timeout):
                    await self._finished.wait()
            except trio.TooSlowError:
                self.use.is_left = True
                raise
        assert self._outcome is not None
        return self._outcome
