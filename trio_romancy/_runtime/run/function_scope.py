"""The cancel scope around a workflow function, with a shield that costs no scope of its own."""

from __future__ import annotations

import trio


class FunctionScope:
    """Cancels the workflow function, at once or when its shield comes down.

    An activity that is alone in its workflow can only be cancelled through this scope. So it needs no shielded scope
    of its own: it puts up this one's shield, and is a :class:`~.operation.Shield` that way.
    """

    __slots__ = ("_is_postponed", "is_up", "scope")

    def __init__(self) -> None:
        self.scope: trio.CancelScope | None = None
        """The scope, while the workflow function runs."""
        self.is_up = False
        """Whether a running activity keeps cancellation away. Put up here, and taken down by :attr:`shield`."""
        self._is_postponed = False

    def request_cancel(self) -> None:
        """Cancel the workflow function as soon as its shield is down."""
        if self.is_up:
            self._is_postponed = True
        else:
            self.cancel()

    def cancel(self) -> None:
        """Cancel the workflow function at once, whatever it is doing."""
        if self.scope is not None:
            self.scope.cancel()

    @property
    def shield(self) -> bool:
        """Whether a running activity keeps cancellation away from the workflow function."""
        return self.is_up

    @shield.setter
    def shield(self, up: bool) -> None:
        self.is_up = up
        if not up and self._is_postponed:
            self.cancel()
