"""``app.schedules``: the schedules in the database, to be listed and steered."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from attrs import define, field

from .._data.codec import codec
from .._data.ids import is_id
from .._data.log_fields import about, visible
from .._data.readable import readable
from .._definitions.registry import registry
from .._definitions.schedule import Schedule
from .._settings import check_numbers
from .._storage.database import Database
from .._storage.outages import retry_while_away_for
from .._storage.outgoing import check_input
from .._storage.sql import occurrences, schedules
from .._storage.sql.occurrences import Trigger
from .._storage.sql.schedules import Found, NewSchedule
from ..clock import Clock, Microseconds, from_datetime, to_datetime
from ..errors import ScheduleNotFoundError
from ..model import Overlap, ScheduleInfo, SkippedOccurrence, SkipReason
from .engine import Engine
from .handle import WorkflowHandle

T = TypeVar("T")

_logger = logging.getLogger("trio_romancy.schedules")

_MOST_BACKFILLED = 10_000
_AT_ONCE = 500
"""Most occurrences to store in one transaction."""


@define(eq=False)
class Schedules:
    """The schedules in the database, whether an app declares them or :meth:`App.schedule` has made them.

    An unknown name raises :exc:`ScheduleNotFoundError`. What is done here is durable when the method returns.
    """

    _require_engine: Callable[[str], Engine] = field(repr=False)

    async def list(self) -> list[ScheduleInfo]:
        """Return all schedules as the database shows them now, in the order of their names."""
        engine = self._require_engine("app.schedules.list")
        return [_to_info(found) for found in await engine.read(schedules.find)]

    async def get(self, name: str) -> ScheduleInfo:
        """Return a schedule as the database shows it now."""
        engine = self._require_engine("app.schedules.get")
        return _to_info(await _find(engine, name))

    async def next(self, name: str, number: int = 10) -> builtins.list[datetime]:
        """Return the next occurrences, in UTC, without those that are excluded or to be skipped.

        Those of a paused schedule are what would come if it were resumed now.

        Args:
          name: name of the schedule.
          number: how many to return, at most 1,000.
        """
        check_numbers(most=1_000, number=number)
        engine = self._require_engine("app.schedules.next")
        found = await _find(engine, name)
        if found.rules is None:
            return []
        after = engine.clock.now()
        if found.row.fires_at is not None and found.row.next_at is not None:
            after = found.row.next_at - 1
        times = (when for when in found.rules.calendar.between(after + 1, 2**62) if when not in found.asked)
        return [to_datetime(when) for when in islice(times, number)]

    async def skipped(self, name: str | None = None, *, limit: int = 100) -> builtins.list[SkippedOccurrence]:
        """Return occurrences that were skipped, the last first. They are kept for 30 days.

        Args:
          name: only those of this schedule, which may have been deleted.
          limit: most occurrences to return.
        """
        check_numbers(limit=limit)
        engine = self._require_engine("app.schedules.skipped")
        if name is not None and not is_id(name):
            return []
        return [
            SkippedOccurrence(
                one.schedule,
                to_datetime(one.due_at),
                None if one.until is None else to_datetime(one.until),
                SkipReason(str(one.reason)),
                to_datetime(one.recorded_at),
            )
            for one in await engine.read(occurrences.skipped, name, limit)
        ]

    async def pause(self, name: str, reason: str | None = None) -> bool:
        """Pause a schedule. Its occurrences do not count meanwhile; instances that run go on.

        Args:
          name: name of the schedule.
          reason: a text that the schedule shows.

        Returns:
          Whether it was not paused before.
        """
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"the reason of a pause is text, not {reason!r}")
        engine = self._require_engine("app.schedules.pause")
        return await self._write(engine, name, schedules.pause, reason or "by hand", engine.clock.now())

    async def resume(self, name: str) -> bool:
        """Let a paused schedule go on with the next occurrence from now on. Returns whether it was paused."""
        engine = self._require_engine("app.schedules.resume")
        return await self._write(engine, name, schedules.resume, engine.clock.now())

    async def trigger(self, name: str) -> WorkflowHandle[Any]:
        """Start an instance of a schedule now, also if it is paused, or an earlier one has not ended.

        The id of the instance names the time of the call. Overlap policies take it for an occurrence.

        Returns:
          The handle of the instance.
        """
        engine = self._require_engine("app.schedules.trigger")
        request = Trigger(name, engine.clock.now())
        fired = await self._write(engine, name, lambda connection, _: occurrences.trigger(connection, request))
        found = await _find(engine, name)
        workflow = registry.find_workflow(found.row.workflow)
        of = codec(Any) if workflow is None else workflow.codec
        declared = f"which workflow {found.row.workflow!r} returns in this process"
        return WorkflowHandle(fired.instance_id, self._require_engine, of, declared, None)

    async def backfill(self, name: str, start: datetime, end: datetime) -> int:
        """Start the occurrences of a time in the past, except those that were started before.

        They start one after the other, or all at once if the overlap policy is ``allow_all``. A regular occurrence that
        is due meanwhile meets them as earlier ones. While the schedule is paused they wait.

        Args:
          name: name of the schedule.
          start, end: aware datetimes. The occurrences from ``start`` on are started, up to the one before ``end``.

        Returns:
          The number of occurrences that will be started.

        Raises:
          ValueError: if the time is not in the past, or has more than 10,000 occurrences.
        """
        engine = self._require_engine("app.schedules.backfill")
        begin, until, now = from_datetime(start), from_datetime(end), engine.clock.now()
        if not begin <= until <= now:
            raise ValueError(f"what is backfilled is in the past, and starts before it ends: {start!r}, {end!r}")
        found = await _find(engine, name)
        if found.rules is None:
            return 0
        times = [*islice(found.rules.calendar.between(begin, until), _MOST_BACKFILLED + 1)]
        if len(times) > _MOST_BACKFILLED:
            raise ValueError(f"schedule {name!r} has more than {_MOST_BACKFILLED:,} occurrences in that time")
        if found.row.fires_at is not None and (next_at := found.row.next_at) is not None:
            times = [when for when in times if when < next_at]  # a later one fires by itself
        count = 0
        for first in range(0, len(times), _AT_ONCE):
            some = times[first : first + _AT_ONCE]
            count += await self._write(engine, name, occurrences.backfill, some, engine.clock.now())
        return count

    async def skip(self, name: str, due_at: datetime) -> bool:
        """Skip one occurrence that is still to come. Returns whether there is one at that time.

        Args:
          name: name of the schedule.
          due_at: time of the occurrence, as an aware datetime; see :meth:`next`.
        """
        engine = self._require_engine("app.schedules.skip")
        return await self._write(engine, name, occurrences.ask_to_skip, from_datetime(due_at), engine.clock.now())

    async def delete(self, name: str) -> None:
        """Delete a schedule. Its instances stay, and those that run go on."""
        engine = self._require_engine("app.schedules.delete")
        _check_name(name)
        with engine.apart_from_session("delete a schedule"):
            if not await engine.write(schedules.remove, name):
                raise ScheduleNotFoundError(name)
        engine.notify_schedules()

    async def _write(self, engine: Engine, name: str, fn: Callable[..., T | None], *args: Any) -> T:
        _check_name(name)
        with engine.apart_from_session("change a schedule"):
            answer = await engine.write(fn, name, *args)
        if answer is None:
            raise ScheduleNotFoundError(name)
        engine.notify_schedules()
        return answer


def new_schedule(schedule: Schedule, max_payload: int) -> NewSchedule:
    """Return a schedule as it is stored.

    Raises:
      PayloadTooLargeError: if its input is too large.
    """
    check_input(schedule.workflow.name, schedule.input_text, max_payload)
    return NewSchedule(schedule.name, schedule.workflow.name, schedule.input_text, schedule.rules)


def checked_schedules(declared: Sequence[Schedule], max_payload: int) -> builtins.list[NewSchedule]:
    """Return the schedules that an app declares, as they are stored.

    Raises:
      TypeError, ValueError: if a member is no schedule, or two have the same name.
      PayloadTooLargeError: if an input is too large.
    """
    names: set[str] = set()
    for one in declared:
        if not isinstance(one, Schedule):
            raise TypeError(f"schedules has members made with Schedule(...), not {one!r}")
        if one.name in names:
            raise ValueError(f"two schedules have the name {one.name!r}")
        names.add(one.name)
    return [new_schedule(one, max_payload) for one in declared]


async def declare(database: Database, clock: Clock, declared: Sequence[NewSchedule], patience: float) -> None:
    """Store the schedules that an app declares, and pause those that were declared before, and are not any more.

    Args:
      patience: seconds that the database may be away.
    """
    names = registry.workflow_names()
    run = database.run
    for name in await retry_while_away_for(patience, database, run, schedules.declare, declared, names, clock.now()):
        _logger.warning("schedule %s is paused: no app declares it any more", visible(name), extra=about(None))


async def put_schedule(engine: Engine, new: NewSchedule) -> None:
    """Store a schedule, or change it."""
    with engine.apart_from_session("store a schedule"):
        await engine.write(schedules.put, new, engine.clock.now(), is_declared=False)
    engine.notify_schedules()


def _check_name(name: str) -> None:
    if not is_id(name):
        raise ScheduleNotFoundError(name)


async def _find(engine: Engine, name: str) -> Found:
    _check_name(name)
    found = await engine.read(schedules.find, name)
    if not found:
        raise ScheduleNotFoundError(name)
    return found[0]


def _to_info(found: Found) -> ScheduleInfo:
    row, rules = found.row, found.rules
    return ScheduleInfo(
        name=row.name,
        workflow=row.workflow,
        input=readable(row.input)[0],
        cron=None if rules is None else rules.cron,
        every=None if rules is None else _seconds(rules.every),
        tz="UTC" if rules is None else rules.tz,
        exclude=[] if rules is None else [*rules.exclude],
        overlap=Overlap.SKIP if rules is None else rules.overlap,
        catch_up=None if rules is None else _seconds(rules.catch_up),
        jitter=0.0 if rules is None else rules.jitter / 1_000_000,
        pause_on_failure=rules is not None and rules.pause_on_failure,
        is_declared=bool(row.is_declared),
        next_at=None if row.fires_at is None or row.next_at is None else to_datetime(row.next_at),
        last_at=None if row.last_at is None else to_datetime(row.last_at),
        running=[*found.running],
        buffered=found.buffered,
        paused=None if row.paused_at is None else str(readable(row.paused)[0]),
        paused_at=None if row.paused_at is None else to_datetime(row.paused_at),
    )


def _seconds(duration: Microseconds | None) -> float | None:
    return None if duration is None else duration / 1_000_000
