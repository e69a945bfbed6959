"""What ``app.start`` and ``app.handle`` return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import define, field

from .clock import Duration

if TYPE_CHECKING:
    from .app import App
    from .define import Workflow
    from .runtime.supervisor import Ending

R = TypeVar("R")


@define(eq=False)
class WorkflowHandle(Generic[R]):
    """One instance, seen from outside. Holding it, or dropping it, changes nothing about the instance."""

    instance_id: str
    _app: App = field(repr=False)
    _workflow: Workflow[..., R] | None = field(repr=False)
    _ending: Ending | None = field(repr=False)

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
        result: R = await self._app._result(self.instance_id, self._workflow, self._ending, timeout)
        return result

    async def cancel(self, reason: str | None = None) -> bool:
        """Ask for the instance's cancellation: see :meth:`App.cancel`."""
        return await self._app.cancel(self.instance_id, reason)
