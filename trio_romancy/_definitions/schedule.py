"""A schedule as code gives it: a workflow, its input, and when to start it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, final

from .._data.ids import checked_id
from .._schedules.calendar import open_zone
from .._schedules.cron import Cron
from .._schedules.rules import Rules
from ..clock import Duration, Microseconds, microseconds
from ..model import Overlap
from .values import Workflow

MAX_NAME = 200
"""Most characters in the name of a schedule: the ids of its instances are longer."""

_SECOND: Microseconds = 1_000_000
_LEAST_CATCH_UP = 10 * _SECOND


@final
class Schedule:
    """A workflow that is started again and again. For ``App(schedules=[...])``; see also :meth:`App.schedule`.

    Each occurrence is an instance of its own, with the id ``name@time``, such as ``nightly@2026-11-01T01:30:00Z``. It
    is started exactly once, by any worker. Schedules have no leader, and lose nothing if all workers are restarted.

    Args:
      name: name of the schedule, at most 200 characters.
      workflow: the workflow to start.
      args: its arguments after the context, the same for each occurrence.
      cron: a cron expression of five fields, or of six with seconds in front. Of a day on which clocks are changed see
        ``tz``.
      every: seconds (or a timedelta) between two occurrences, at least one; instead of ``cron``. They are counted from
        1970 on, and not from the start of the schedule: each hour means on the hour.
      tz: name of the time zone of ``cron``. If the expression gives minutes and hours, each wall time comes once a day:
        one that is left out as clocks are put forward comes right after the gap, and of one that comes twice the
        first counts. If one of the two fields starts with ``*``, the expression is followed in real time.
      exclude: dates in ``tz``, and cron expressions, on which no occurrence is.
      overlap: what happens if an earlier occurrence has not ended, see :class:`Overlap`.
      catch_up: how late an occurrence may be, if no worker ran at its time: seconds, or a timedelta, at least ten
        seconds; ``math.inf``: any time. After that it is skipped.
      jitter: seconds (or a timedelta) by which each occurrence may be late on purpose, each by another part of it, so
        that not everything begins on the hour. The id keeps the time without it.
      pause_on_failure: whether to pause the schedule when one of its instances has failed.

    Raises:
      InvalidInputError: if the workflow does not take the arguments.
      ValueError, TypeError: if an option is not valid.
    """

    def __init__(
        self,
        name: str,
        workflow: Workflow[..., Any],
        /,
        *args: Any,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        exclude: Sequence[date | str] = (),
        overlap: Overlap | str = Overlap.SKIP,
        catch_up: Duration = 86_400.0,
        jitter: Duration = 0.0,
        pause_on_failure: bool = False,
    ) -> None:
        self.name = checked_id(name, "the name of a schedule")
        if len(name) > MAX_NAME:
            raise ValueError(f"the name of a schedule has at most {MAX_NAME} characters, not {len(name)}")
        if not isinstance(workflow, Workflow):
            raise TypeError(f"schedule {name!r} takes a workflow made with @workflow, not {workflow!r}")
        if workflow.has_options:
            raise TypeError(f"schedule {name!r} gives its instances their ids and times; pass {workflow.name} as it is")
        self.workflow = workflow
        self.input_text, _ = workflow.input.encode(args, {})
        limit = _checked("catch_up", name, catch_up, least=_LEAST_CATCH_UP)
        late = _checked("jitter", name, jitter, least=0)
        if late is None:
            raise ValueError(f"schedule {name!r}: jitter is a duration with an end")
        self.rules = Rules(
            cron=cron,
            every=_checked_every(name, cron, every),
            tz=tz,
            exclude=tuple(_excluded(name, one, tz) for one in exclude),
            jitter=late,
            overlap=Overlap(overlap),
            catch_up=limit,
            pause_on_failure=bool(pause_on_failure),
        )
        try:
            never = self.rules.calendar.next_after(0) is None
        except ValueError as error:
            raise ValueError(f"schedule {name!r}: {error}") from None
        if never:
            raise ValueError(f"schedule {name!r} would never be due")

    def __repr__(self) -> str:
        return f"<schedule {self.name!r} of {self.workflow.name!r}>"


def _checked(option: str, name: str, value: Duration, *, least: Microseconds) -> Microseconds | None:
    try:
        duration = microseconds(value)
    except ValueError as error:
        raise ValueError(f"schedule {name!r}: {option}: {error}") from None
    if duration is not None and duration < least:
        raise ValueError(f"schedule {name!r}: {option} is at least {least // _SECOND} s, not {value!r}")
    return duration


def _checked_every(name: str, cron: str | None, every: Duration | None) -> Microseconds | None:
    if (cron is None) == (every is None):
        raise ValueError(f"schedule {name!r} has either cron=... or every=...")
    if every is None:
        return None
    interval = _checked("every", name, every, least=_SECOND)
    if interval is None:
        raise ValueError(f"schedule {name!r}: every is a duration with an end")
    return interval


def _excluded(name: str, one: date | str, tz: str) -> str:
    """Return an exclusion as it is stored: a date as ISO 8601, or a cron expression."""
    if isinstance(one, date) and not isinstance(one, datetime):
        return one.isoformat()
    if not isinstance(one, str):
        raise TypeError(f"schedule {name!r}: exclude has dates and cron expressions, not {one!r}")
    try:
        Cron(one, open_zone(tz))
    except ValueError as error:
        raise ValueError(f"schedule {name!r}: exclude: {error}") from None
    return one
