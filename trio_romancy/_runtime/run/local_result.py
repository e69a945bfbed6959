"""The result of an instance, for callers that wait for it in the process that runs it."""

from __future__ import annotations

from attrs import define

from ..._tasks.light_event import LightEvent
from ...model import ErrorInfo, Status


@define(eq=False)
class LocalResult:
    """The end of an instance, set if it ends in this process."""

    status: Status | None = None
    """Status with which the instance has ended; None if it has not ended in this process."""
    output: str | None = None
    """JSON text."""
    error: ErrorInfo | None = None
    _changed: LightEvent | None = None

    def set(self, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        """Tell the waiting callers how the instance has ended."""
        self.status, self.output, self.error = status, output, error
        self.notify()

    def notify(self) -> None:
        """Wake the waiting callers: the instance has ended, has left the memory of this process, or has changed."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def changed(self) -> LightEvent:
        """Return the event set by the next call of :meth:`notify`."""
        if self._changed is None:
            self._changed = LightEvent()
        return self._changed
