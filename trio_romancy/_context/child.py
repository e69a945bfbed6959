"""Child handles: what ``ctx.start`` returns."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, Protocol, TypeVar

from attrs import define, field

from .._data.ids import short_id
from .._definitions.values import Workflow

R = TypeVar("R")


class ParentRun(Protocol):
    """The run of the parent, as the handle of a child sees it."""

    def await_child(self, child: ChildHandle[Any], id: str) -> Coroutine[Any, Any, Any]: ...


@define(eq=False)
class ChildHandle(Generic[R]):
    """A child workflow, as its parent sees it."""

    child_id: str
    """Instance id of the child. If the child recurs, it is the first id of the chain, and stands for all of it."""
    operation_id: str
    """Operation id of the start."""
    _parent: ParentRun = field(repr=False)
    workflow: Workflow[..., R] = field(repr=False)
    _calls: int = field(default=0, init=False, repr=False)

    async def result(self, *, id: str | None = None) -> R:
        """Wait until the child has ended, and return its result.

        The wait is an operation of the parent. Cancelling it does not cancel the child.

        Args:
          id: operation id, by default that of the start followed by ``/result`` (``/result:2`` at the second call, and
            so on).

        Raises:
          ChildWorkflowError: if the child failed or was cancelled.
        """
        self._calls += 1
        number = "" if self._calls == 1 else f":{self._calls}"
        result: R = await self._parent.await_child(self, id or short_id(f"{self.operation_id}/result{number}"))
        return result
