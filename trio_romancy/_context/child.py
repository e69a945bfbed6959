"""What ``ctx.start`` returns."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from attrs import define, field

from .._data.ids import short_id
from .._definitions.values import Workflow

R = TypeVar("R")


class ParentRun(Protocol):
    """What the runtime does for the handle of a child."""

    async def await_child(self, child: ChildHandle[Any], id: str) -> Any: ...


@define(eq=False)
class ChildHandle(Generic[R]):
    """A child workflow, as its parent sees it."""

    child_id: str
    """The instance id of the child. If that recurs it is the first of its chain, and stands for all of it."""
    operation_id: str
    """Of the step that started it."""
    _parent: ParentRun = field(repr=False)
    workflow: Workflow[..., R] = field(repr=False)
    _asked: int = field(default=0, init=False, repr=False)

    async def result(self, *, id: str | None = None) -> R:
        """Wait until the child has ended, however long that takes, and return what it returned.

        It is an operation of the parent. Cancelling the wait does not cancel the child.

        Args:
          id: the operation id, by default that of the start with ``/result`` behind it (then ``/result:2``, should the
            parent ask again).

        Raises:
          ChildWorkflowError: if it failed or was cancelled.
        """
        self._asked += 1
        number = "" if self._asked == 1 else f":{self._asked}"
        result: R = await self._parent.await_child(self, id or short_id(f"{self.operation_id}/result{number}"))
        return result
