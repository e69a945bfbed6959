"""What the app for synchronous code has besides the methods that are copied from that for trio."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..app import App
from .blocking_portal import BlockingPortal


class BlockingApp:
    """Opens and closes the app for synchronous code."""

    def __init__(self, make_app: Callable[[], App]) -> None:
        self._portal = BlockingPortal(make_app)

    def __enter__(self) -> Self:
        self._portal.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.close()

    def hurry(self) -> None:
        """Stop waiting for running activities if the block is ending, and give all instances back at once.

        Activities without a recorded outcome run again on the worker that claims their instance.
        """
        self._portal.hurry()
