"""The result of an instance, for those who wait for it in this process."""

from __future__ import annotations

from attrs import define

from ..._tasks.light_event import LightEvent
from ...model import ErrorInfo, Status


@define(eq=False)
class LocalResult:
    """The end of an instance, set if it ends in this process."""

    status: Status | None = None
    """Status with which it has ended; None: not in this process, so far."""
    output: str | None = None
    """JSON text."""
    error: ErrorInfo | None = None
    _changed: LightEvent | None = None

    def set(self, status: Status, output: str | None, error: ErrorInfo | None) -> None:
        """Tell those who wait how the instance has ended."""
        self.status, self.output, self.error = status, output, error
        self.notify()

    def notify(self) -> None:
        """Wake those who wait: the instance has ended, or has left the memory of this process."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def changed(self) -> LightEvent:
        """Return the event set by the next call of :meth:`notify`."""
        if self._changed is None:
            self._changed = LightEvent()
        return self._changed
