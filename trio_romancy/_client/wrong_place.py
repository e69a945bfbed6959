"""Refuses calls of an app from where it does not run, each with the app that is right there."""

from __future__ import annotations

import trio

from ..errors import RomancyError


def current_run(call: str) -> trio.lowlevel.TrioToken:
    """Return what identifies the current ``trio.run``.

    Args:
      call: what is called, for the message: ``"app.start"``.

    Raises:
      RomancyError: outside of trio.
    """
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        import asyncio

        if asyncio._get_running_loop() is not None:
            raise RomancyError(
                f"{call} is called under asyncio, and trio_romancy.App runs under trio; "
                f"use trio_romancy.aio.App, which has the same methods for asyncio"
            ) from None
        raise RomancyError(
            f"{call} is called outside of trio, in a thread without an event loop; use trio_romancy.sync.App, whose "
            f"methods can be called from every thread, or trio.from_thread.run"
        ) from None


def refuse_other_run(call: str, run: trio.lowlevel.TrioToken) -> None:
    """Refuse a call that is not made in the ``trio.run`` that has opened the app.

    Raises:
      RomancyError: if it is not. The app is not affected.
    """
    if current_run(call) is not run:
        raise RomancyError(
            f"{call} is called in another trio.run than the one that has opened the app; open an App of its own there, "
            f"or use trio_romancy.sync.App, whose methods can be called from every thread"
        )
