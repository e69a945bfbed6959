"""The execution in the current task or thread: a workflow, an activity, or neither."""

from __future__ import annotations

import contextvars
from collections.abc import Coroutine
from typing import Any, Protocol

import trio

from ..errors import RomancyError
from .activity import ActivityContext


class WorkflowExecution(Protocol):
    """A workflow function that runs, as what it calls and a log filter see it."""

    @property
    def instance_id(self) -> str: ...
    @property
    def workflow_name(self) -> str: ...
    @property
    def is_replaying(self) -> bool: ...
    def call_activity(
        self, activity: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /
    ) -> Coroutine[Any, Any, Any]: ...
    def is_run_by(self, task: trio.lowlevel.Task, /) -> bool:
        """Return whether a task is the one of the workflow function, or was started by it."""
        ...

    def forbid(self, what: str, /) -> RomancyError:
        """Park the instance, unharmed, because its code does what no replay can repeat. Returns the error to raise."""
        ...


current_execution: contextvars.ContextVar[WorkflowExecution | ActivityContext | None] = contextvars.ContextVar(
    "trio_romancy_current_execution", default=None
)
"""The current execution; None: no workflow and no activity. The runtime sets it around their functions, and child tasks
and threads inherit it."""


def current_activity() -> ActivityContext:
    """Return the context of the activity that calls this, also from threads and child tasks that it has started.

    Raises:
      RomancyError: outside of an activity that runs for a workflow.
    """
    execution = current_execution.get()
    if isinstance(execution, ActivityContext):
        return execution
    raise RomancyError(
        "current_activity() is for activities that run for a workflow; a unit test of the plain function has none: "
        "pass what the function needs as an argument, or run it by a workflow on an in-memory app"
    )
