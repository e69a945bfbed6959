"""``schedules``: what is due when, and what was skipped."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from typer import Argument, Option

from ...model import ScheduleInfo, SkippedOccurrence
from ..call import Call
from ..failures import NOTHING, StopError
from ..terminal.wording import Styled, ago, count

Name = Annotated[str, Argument(metavar="NAME", help="The name of the schedule.")]
When = Annotated[str, Argument(metavar="TIME", help="A time as ISO 8601, such as 2026-11-01T02:30:00Z.")]


async def list_schedules(call: Call) -> None:
    """List the schedules, with what is due next."""
    async with call.open_app() as app:
        found = await app.schedules.list()
    call.answer(found, lambda: _show(call, found))


def _show(call: Call, found: list[ScheduleInfo]) -> None:
    now = datetime.now(UTC)
    rows: list[tuple[Styled, ...]] = [
        (
            one.name,
            one.workflow,
            f"{one.cron} {one.tz}" if one.cron is not None else f"every {one.every or 0:g} s",
            "" if one.next_at is None else one.next_at.isoformat(),
            "" if one.last_at is None else ago(one.last_at, now),
            ("" if one.paused is None else f"paused: {one.paused}", "yellow"),
        )
        for one in found
    ]
    if rows:
        call.screen.table(("schedule", "workflow", "when", "next", "last", ""), rows)
    else:
        call.screen.line("no schedules")


async def show_next(
    call: Call, name: Name, number: Annotated[int, Option(help="How many.", min=1, max=1000, metavar="NUMBER")] = 10
) -> None:
    """Show the next occurrences of a schedule."""
    async with call.open_app() as app:
        times = await app.schedules.next(name, number)
    call.answer(times, lambda: call.screen.line("\n".join(when.isoformat() for when in times)))


async def show_skipped(
    call: Call,
    name: Annotated[str | None, Argument(metavar="[NAME]", help="Only those of this schedule.")] = None,
    limit: Annotated[int, Option(help="The most to show.", min=1, metavar="NUMBER")] = 100,
) -> None:
    """Show the occurrences that were skipped, the last first, and why."""
    async with call.open_app() as app:
        found = await app.schedules.skipped(name, limit=limit)
    call.answer(found, lambda: _show_skipped(call, found))


def _show_skipped(call: Call, found: list[SkippedOccurrence]) -> None:
    rows: list[tuple[Styled, ...]] = [
        (
            one.schedule,
            one.due_at.isoformat(),
            "" if one.until is None else f"until {one.until.isoformat()}",
            one.reason.value.replace("_", " "),
        )
        for one in found
    ]
    if rows:
        call.screen.table(("schedule", "due", "", "reason"), rows)
    else:
        call.screen.line("nothing was skipped")


async def pause(
    call: Call, name: Name, reason: Annotated[str | None, Option(help="The reason.", metavar="TEXT")] = None
) -> int:
    """Pause a schedule. Its occurrences do not count meanwhile."""
    async with call.open_app() as app:
        done = await app.schedules.pause(name, reason)
    return _told(call, "paused", done, "it is paused", "it was paused before")


async def resume(call: Call, name: Name) -> int:
    """Let a paused schedule go on with its next occurrence."""
    async with call.open_app() as app:
        done = await app.schedules.resume(name)
    return _told(call, "resumed", done, "it goes on", "it was not paused")


async def trigger(call: Call, name: Name) -> None:
    """Start an instance of a schedule now."""
    async with call.open_app() as app:
        handle = await app.schedules.trigger(name)
    call.answer({"instance_id": handle.instance_id}, lambda: call.screen.line(handle.instance_id))


async def backfill(call: Call, name: Name, start: When, end: When) -> int:
    """Start the occurrences from one time in the past to another, except those that were started."""
    begin, until = _time(start), _time(end)
    async with call.open_app() as app:
        number = await app.schedules.backfill(name, begin, until)
    said = f"{count(number, 'occurrence')} to be started" if number else "nothing to start"
    call.answer({"started": number}, lambda: call.screen.line(said))
    return 0 if number else NOTHING


async def skip(call: Call, name: Name, time: When) -> int:
    """Skip one occurrence that is still to come."""
    when = _time(time)
    async with call.open_app() as app:
        done = await app.schedules.skip(name, when)
    return _told(call, "skipped", done, "it will be skipped", "there is no occurrence at that time")


async def delete(call: Call, name: Name) -> None:
    """Delete a schedule. Its instances stay."""
    async with call.open_app() as app:
        await app.schedules.delete(name)
    call.answer({"deleted": True}, lambda: call.screen.line("it is deleted"))


def _told(call: Call, what: str, done: bool, yes: str, no: str) -> int:
    call.answer({what: done}, lambda: call.screen.line(yes if done else no))
    return 0 if done else NOTHING


def _time(text: str) -> datetime:
    """Return a time that was given in an argument.

    Raises:
      StopError: if it is not one, or has no zone.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise StopError(f"{text!r} is not a time as ISO 8601, such as 2026-11-01T02:30:00Z") from None
    if when.utcoffset() is None:
        raise StopError(f"{text!r} has no zone; write 2026-11-01T02:30:00Z, or an offset such as +01:00")
    return when
