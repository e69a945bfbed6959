"""Errors of calls of a workflow's context that other code makes: an activity, a thread, another workflow."""

from __future__ import annotations

import logging
from typing import NoReturn

from .._data.log_fields import about
from ..errors import RomancyError
from .activity import ActivityContext
from .current import current_execution

_logger = logging.getLogger("trio_romancy.activity")

_IN_ACTIVITY = {
    "ctx.sleep": "call `trio.sleep`",
    "ctx.sleep_until": "call `trio.sleep_until`",
    "ctx.move_on_after": "call `trio.move_on_after`",
    "ctx.fail_after": "call `trio.fail_after`",
    "ctx.now": "call `datetime.now(timezone.utc)`",
    "ctx.random": "use the modules `random` and `uuid`",
    "ctx.publish": "call `current_activity().publish`",
    "ctx.send_to": "call `current_activity().publish` with `to=`",
    "ctx.start": "call `app.start`",
}


def refuse(call: str, instance_id: str) -> NoReturn:
    """Refuse a call that code other than the instance's own workflow function makes. Nothing is recorded.

    An activity that makes the call gets an error like any other: its attempt has failed, and is repeated as its retry
    policy says. A fix that is deployed before the policy is exhausted heals the instance.

    Args:
      call: name of the call, such as ``"ctx.sleep"``.
      instance_id: id of the instance that the context belongs to.

    Raises:
      RomancyError: with what to do instead.
    """
    execution = current_execution.get()
    if isinstance(execution, ActivityContext):
        instead = _IN_ACTIVITY.get(call, "move the call into the workflow, and pass the activity what it needs")
        error = RomancyError(
            f"instance {execution.instance_id!r}: {call} is called in activity {execution.activity_id!r}, and ctx is "
            f"for workflow code; {instead}"
        )
        _logger.warning("%s", error, extra=about(execution.instance_id, execution.workflow, execution.activity_id))
        raise error
    if execution is None:
        raise RomancyError(
            f"instance {instance_id!r}: {call} is called outside of its workflow function, such as in a thread of its "
            f"own, or in an async generator that was left before its end; call ctx in the tasks of the workflow, and "
            f"leave a generator with `async with contextlib.aclosing(...)`"
        )
    raise execution.forbid(
        f"{call} is called with the ctx of another instance, {instance_id!r}; use the ctx that the workflow function "
        f"is given"
    )
