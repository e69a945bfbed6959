"""Two years of schedules in four zones, under virtual time, against an oracle that knows only zones."""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import trio

from trio_romancy import App, Schedule, WorkflowContext, workflow
from trio_romancy.clock import VIRTUAL_EPOCH, to_datetime

from ..support.databases import KINDS

DAYS = int(os.environ.get("TRIO_ROMANCY_SCHEDULE_DAYS", "0"))
"""How many days a long run takes, on each database: 731 are two years."""

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
TIMES = {"30 2 * * *": (2, 30), "15 1 * * *": (1, 15)}
"""Times of a day that are left out in one of the zones on one day of the year, and come twice on another one."""

BEGIN = to_datetime(VIRTUAL_EPOCH)

ran: list[tuple[str, datetime]] = []


@workflow(name="two_years_note")
async def note(ctx: WorkflowContext, what: str) -> None:
    ran.append((what, ctx.now()))


def expected(zone: str, hour: int, minute: int, days: int) -> list[datetime]:
    """Return when clocks first show a time on each day, or have passed it, by looking at each minute near it."""
    found = []
    first = BEGIN.astimezone(ZoneInfo(zone)).date()
    for number in range(days + 2):
        day = first + timedelta(days=number)
        # The day begins at most 14 hours before that of UTC, and no gap in these zones is longer than an hour.
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour - 14)
        while True:
            wall = moment.astimezone(ZoneInfo(zone))
            if wall.date() == day and (wall.hour, wall.minute) >= (hour, minute):
                break
            moment += timedelta(minutes=15)
        if BEGIN < moment < BEGIN + timedelta(days=days):
            found.append(moment)
    return found


async def fire_for(database: str, days: int) -> None:
    """Run the schedules for some days, and check that each occurrence came once, at its time."""
    ran.clear()
    made = [Schedule(f"{zone} {cron}", note, f"{zone} {cron}", cron=cron, tz=zone) for zone in ZONES for cron in TIMES]
    async with App(database, schedules=made, idle_timeout=1e6) as app:
        await trio.sleep(days * 86_400)
        skipped = await app.schedules.skipped()
    assert skipped == []
    wanted = [
        (f"{zone} {cron}", when)
        for zone in ZONES
        for cron, (hour, minute) in TIMES.items()
        for when in expected(zone, hour, minute, days)
    ]
    assert Counter(ran) == Counter(wanted)
    assert len(wanted) >= (days - 1) * len(made)
    assert set(Counter(wanted).values()) == {1}


@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_some_days_of_schedules_in_four_zones(database: str) -> None:
    await fire_for(database, 5)


@pytest.mark.long
@pytest.mark.time_limit(3600)
@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_years_of_schedules_in_four_zones(database: str, kind: str) -> None:
    # Until all clocks have been changed twice; on a server, where each occurrence takes some transactions, not so long.
    await fire_for(database, DAYS or (366 if kind == "sqlite" else 50))
