"""Log records about tasks of a workflow that wait for something that is not in the journal."""

from __future__ import annotations

import logging

from ..._tasks.trio_internals import is_runnable
from ..._tasks.waiting_place import place_outside
from .run import InstanceRun

_logger = logging.getLogger("trio_romancy.workflow")

_CONSEQUENCE = (
    "it is not in the journal, begins again on each replay, and keeps the instance in memory; use ctx.sleep, "
    "ctx.wait_event or an activity"
)


def name_outside_waits(run: InstanceRun) -> None:
    """Name each place at which a task of a live run waits for neither an operation nor another task, once.

    Costs nothing for tasks that have been looked at since they began to wait.
    """
    turns, in_flight = run.turns, run.in_flight
    if not run.is_live or in_flight.main is None:
        return
    is_last = not in_flight.by_id  # no operation will wake a task, nor the end of a timeout
    if turns is not None:
        tasks = turns.resting(all_of_them=is_last)
    else:
        tasks = [] if in_flight.awaited or is_runnable(in_flight.main) else [in_flight.main]
    for task in tasks:
        place = place_outside(task, is_last=is_last)
        if place is not None and run.is_first_at(place):
            message = "instance %s waits at %s for something that is no operation: %s"
            _logger.warning(message, run.instance_id, place, _CONSEQUENCE, extra=run.about())
