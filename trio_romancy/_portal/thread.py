"""The thread in which an app runs under trio, and the calls that other threads make into it."""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, ParamSpec, TypeVar

import trio
from attrs import define, field, frozen

from ..app import App
from ..errors import RomancyError

P = ParamSpec("P")
R = TypeVar("R")


@frozen
class Answer:
    """What has come of a call: a value, an error, or neither if the call was cancelled."""

    value: Any = None
    error: BaseException | None = None


@define(eq=False)
class Call:
    """A call of an async function in the app's thread, made in another thread."""

    _fn: Callable[..., Awaitable[Any]]
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _answer: Callable[[Answer], object]
    """Called once, in the app's thread."""
    _context: contextvars.Context
    """Context variables of the caller, such as the current trace."""
    _scope: trio.CancelScope = field(factory=trio.CancelScope)

    def begin(self, nursery: trio.Nursery | None) -> None:
        """Begin the call in the app's thread; without a nursery answer that the app is closed."""
        if nursery is None:
            self._answer(Answer(error=closed()))
        else:
            self._context.run(nursery.start_soon, self._run)

    def cancel(self) -> None:
        """Cancel the call, in the app's thread. It is answered all the same, once it has ended."""
        self._scope.cancel()

    async def _run(self) -> None:
        answer = Answer(error=closed())  # unless the call ends before the app does
        try:
            with self._scope:
                try:
                    answer = Answer(await self._fn(*self._args, **self._kwargs))
                except trio.Cancelled:
                    raise
                except BaseException as error:
                    answer = Answer(error=error)
            if self._scope.cancelled_caught:
                answer = Answer()
        finally:
            self._answer(answer)


@define(eq=False)
class AppThread:
    """A thread in which an app is open. It ends with the app."""

    app: App
    _context: contextvars.Context
    """Context variables of the code that opens the app."""
    opened: Future[None] = field(factory=Future)
    """Done once the app is open, or could not be opened."""
    ended: Future[None] = field(factory=Future)
    """Done once the app has ended, with the error that has ended it."""
    _pid: int = field(factory=os.getpid)
    _token: trio.lowlevel.TrioToken | None = None
    _has_begun: threading.Event = field(factory=threading.Event)
    _nursery: trio.Nursery | None = None
    """Nursery of the calls, while the app is open."""
    _stopped: trio.Event = field(factory=trio.Event)
    _block: trio.CancelScope = field(factory=trio.CancelScope)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        # Python does not wait for a daemon before the functions of atexit, which close an app that was left open.
        self._thread = threading.Thread(target=self._run, name="trio_romancy", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)
        self.ended.add_done_callback(lambda _: atexit.unregister(self._close_at_exit))

    @property
    def is_of_this_process(self) -> bool:
        """Whether the thread was made in this process, and not in one that this process was forked from."""
        return self._pid == os.getpid()

    def submit(self, call: Call) -> None:
        """Make a call, from any other thread. Unless this raises, it is answered in any case.

        Raises:
          RomancyError: from the app's own thread, after a fork, or if the app has ended.
        """
        if not self.is_of_this_process:
            raise RomancyError(
                "this app was entered before the process was forked; enter it in each process, after that"
            )
        if threading.get_ident() == self._thread.ident:
            raise RomancyError(
                "this call comes from the app's own thread, which must not wait for itself; a workflow calls its ctx, "
                "and an activity that calls the app is a plain `def`"
            )
        if not self._soon(lambda: call.begin(self._nursery)):
            raise closed()

    def cancel(self, call: Call) -> None:
        """Cancel a call, from any thread."""
        self._soon(call.cancel)

    def stop(self) -> None:
        """Begin to close the app, from any thread. :attr:`ended` is done when it is closed."""
        self._soon(self._stopped.set)

    def wait_until_ended(self) -> KeyboardInterrupt | None:
        """Wait until the app is closed, and return what Ctrl-C has raised meanwhile, which ends running activities."""
        interrupt: KeyboardInterrupt | None = None
        while not self.ended.done():
            try:
                wait([self.ended])
            except KeyboardInterrupt as error:
                interrupt = error
                self.hurry()
        return interrupt

    def join(self) -> None:
        """Wait for the last moments of the thread, after :attr:`ended` is done."""
        self._thread.join()

    def cancel_block(self) -> None:
        """Cancel the app's block, from any thread, also while the app is being opened."""
        self._soon(self._block.cancel)

    def hurry(self) -> None:
        """Stop waiting for running activities, as :meth:`App.hurry`, from any thread."""
        self._soon(self.app.hurry)

    def _soon(self, fn: Callable[[], object]) -> bool:
        """Have the thread call a function. Return whether it will: it is in this process, and has not ended."""
        self._has_begun.wait()
        if self._token is None or not self.is_of_this_process:
            return False
        try:
            self._token.run_sync_soon(fn)
        except trio.RunFinishedError:
            return False
        return True

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._context.run(trio.run, self._main)
        except BaseException as raised:
            error = raised
        self._has_begun.set()
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
        if not self.opened.done():
            self.opened.set_exception(error or closed())

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._has_begun.set()
        with self._block:
            async with self.app, trio.open_nursery() as nursery:
                self._nursery = nursery
                self.opened.set_result(None)
                try:
                    await self._stopped.wait()
                finally:
                    self._nursery = None
                    nursery.cancel_scope.cancel()

    def _close_at_exit(self) -> None:
        if self.is_of_this_process:
            self.stop()
            self.wait_until_ended()


@define(eq=False)
class Portal:
    """The way into an app that runs in a thread of its own. Each block has a new app, made like the first."""

    _make_app: Callable[[], App]
    app: App = field(init=False)
    """The app of the block; outside of one, that of the block before, or of the next one."""
    _thread: AppThread | None = None
    _opening: threading.Lock = field(factory=threading.Lock)
    """Held while a thread is started, so that of several callers at once one opens the app."""

    def __attrs_post_init__(self) -> None:
        self.app = self._make_app()

    def hurry(self) -> None:
        """Stop waiting for running activities, as :meth:`App.hurry`."""
        if self._thread is not None:
            self._thread.hurry()

    @property
    def thread(self) -> AppThread:
        """The thread of the app.

        Raises:
          RomancyError: if the app has not been entered.
        """
        if self._thread is None:
            raise closed()
        return self._thread

    @property
    def is_open(self) -> bool:
        """Whether the app can be called."""
        thread = self._thread
        return thread is not None and thread.opened.done() and not thread.ended.done()

    def start_thread(self, context: contextvars.Context) -> AppThread:
        """Start a thread in which the app is opened, with these context variables.

        Raises:
          RomancyError: if the app is open.
        """
        with self._opening:
            if self._thread is not None:
                if self._thread.is_of_this_process and not self._thread.ended.done():
                    raise RomancyError("this app is open already; use it as it is, or make a new App for another block")
                self.app = self._make_app()
            self._thread = AppThread(self.app, context)
            return self._thread


async def call_at_once(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that does not wait, where an async one is needed."""
    return fn(*args, **kwargs)


def closed() -> RomancyError:
    """Return the error of a call outside of the app's block."""
    return RomancyError("the app is not running: use it inside its block, which a `with` statement opens")
