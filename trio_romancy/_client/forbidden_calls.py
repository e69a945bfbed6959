"""Calls of the client that workflow code must not make, each with what workflow code calls instead."""

from __future__ import annotations

import trio

from .._context.activity import ActivityContext
from .._context.current import current_execution

_INSTEAD = {
    "app.start": "call `ctx.start` or `ctx.run`, which start a child once",
    "app.start_in": "call `ctx.start` or `ctx.run`, which start a child once",
    "app.send_event_in": "call it in an activity",
    "handle.result": "call `ctx.run`, or await the result of what `ctx.start` returns",
    "app.publish": "call `ctx.publish` or `ctx.send_to`",
    "app.send_event": "call it in an activity, with `id=current_activity().idempotency_key`",
}
_IN_ACTIVITY = "call it in an activity, whose outcome is recorded"


def refuse_in_workflow(call: str) -> None:
    """Refuse a call of the client in workflow code: a replay would repeat it, and could get another answer.

    Activities may call the client. So may tasks that a hook starts elsewhere, though they inherit the context variables
    of a workflow.

    Raises:
      NonDeterminismError: if the current task runs workflow code. Its instance is parked, unharmed.
    """
    execution = current_execution.get()
    if execution is None or isinstance(execution, ActivityContext) or not trio.lowlevel.in_trio_task():
        return
    if execution.is_run_by(trio.lowlevel.current_task()):
        instead = _INSTEAD.get(call, _IN_ACTIVITY)
        raise execution.forbid(f"{call} is called in workflow code, where each replay calls it again; {instead}")
