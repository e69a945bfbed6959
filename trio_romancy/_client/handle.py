"""What ``app.start`` and ``app.handle`` return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio
from attrs import define, field

from .._data.codec import loads
from ..clock import Duration, seconds
from ..errors import RomancyError, WorkflowCancelledError, WorkflowFailedError, WorkflowStuckError
from ..model import ErrorInfo, Status

if TYPE_CHECKING:
    from .._definitions.values import Workflow
    from .._runtime.worker.supervisor import LocalResult
    from .client import Client

R = TypeVar("R")

# What every workflow asks for: to find a member of an enum takes ten times as long as a global (Python 3.11).
_COMPLETED = Status.COMPLETED


@define(eq=False)
class WorkflowHandle(Generic[R]):
    """One instance, seen from outside. Holding it, or dropping it, changes nothing about the instance."""

    instance_id: str
    _app: Client = field(repr=False)
    _workflow: Workflow[..., R] | None = field(repr=False)
    _ending: LocalResult | None = field(repr=False)

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait until the instance has ended, and return what its workflow returned. Only durable results are returned.

        Cancelling the wait does not cancel the instance.

        Args:
          timeout: the most seconds (or a timedelta) to wait; None: no limit.

        Raises:
          WorkflowFailedError: if it failed.
          WorkflowCancelledError: if it was cancelled.
          WorkflowStuckError: if it is parked. It can still be resumed, and ``result`` be called again.
          InstanceNotFoundError: if there is no such instance.
          trio.TooSlowError: if it has not ended in time.
        """
        if timeout is None:
            status, output, error = await self._app._end_of(self.instance_id, self._ending)
        else:
            with trio.fail_after(seconds(timeout)):
                status, output, error = await self._app._end_of(self.instance_id, self._ending)
        if status is not _COMPLETED:
            raise self._failure(status, error)
        value = loads(output or "null")
        result: R = value if self._workflow is None else self._workflow.codec.decode(value)
        return result

    async def cancel(self, reason: str | None = None) -> bool:
        """Ask for the instance's cancellation: see :meth:`App.cancel`."""
        return await self._app.cancel(self.instance_id, reason)

    def _failure(self, status: Status, error: ErrorInfo | None) -> RomancyError:
        assert error is not None
        if status is Status.STUCK:
            return WorkflowStuckError(self.instance_id, error.error_type, error.message)
        if status is Status.CANCELLED:
            return WorkflowCancelledError(self.instance_id, error.message or None, error.uncompensated)
        return WorkflowFailedError(
            self.instance_id, error.error_type, error.message, error.traceback, error.uncompensated
        )
