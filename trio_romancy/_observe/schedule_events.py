"""Tells the log and the hooks what became of the occurrences of a schedule."""

from __future__ import annotations

import logging

from attrs import evolve

from .._data.log_fields import about, visible
from .._storage.sql.occurrences import Advance
from ..clock import Microseconds, to_datetime
from ..hooks import Hooks, ScheduledRunInfo
from ..model import SkipReason
from .dispatcher import HookDispatcher

_logger = logging.getLogger("trio_romancy.schedules")

_LATE: Microseconds = 10_000_000
"""Time after which an occurrence counts as late, beside its jitter."""


def tell_schedule(dispatcher: HookDispatcher | None, worker_id: str, done: Advance) -> None:
    """Tell what one transaction has done for a schedule."""
    for failure in done.failed:
        if failure.pauses:
            message = "schedule %s is paused: instance %s has failed"
            _logger.error(message, visible(done.name), visible(failure.instance_id), extra=about(failure.instance_id))
    for skip in done.skipped:
        level = logging.WARNING if skip.reason in (SkipReason.TOO_LATE, SkipReason.TAKEN) else logging.INFO
        message, when = "schedule %s: the occurrence of %s is skipped: %s", to_datetime(skip.due).isoformat()
        _logger.log(level, message, visible(done.name), when, skip.reason, extra=about(None))
    if dispatcher is None:
        return

    def info(due: Microseconds, instance_id: str | None = None) -> ScheduledRunInfo:
        times = to_datetime(due), to_datetime(done.now)
        return ScheduledRunInfo(done.name, done.workflow, worker_id, *times, instance_id)

    for failure in done.failed:
        dispatcher.call(Hooks.schedule_failed, info(failure.due, failure.instance_id))
    for fired in done.fired:
        dispatcher.call(Hooks.schedule_fired, info(fired.due, fired.instance_id))
        if done.now - fired.due - fired.jitter > _LATE:
            dispatcher.call(Hooks.schedule_late, info(fired.due, fired.instance_id))
    for skip in done.skipped:
        told = info(skip.due)
        until = None if skip.until is None else to_datetime(skip.until)
        dispatcher.call(Hooks.schedule_skipped, evolve(told, reason=skip.reason, until=until))
