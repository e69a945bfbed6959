"""Schedules: every night, every five minutes, and what happens if a run takes too long.

    python examples/schedules.py

This program runs under virtual time, which jumps ahead whenever everything waits, so two days take a moment. With
``trio.run(main)`` instead of ``run(main)``, and a file instead of ``":memory:"``, it would take two days.
"""

from datetime import date, timedelta

import trio

from trio_romancy import App, Hooks, Overlap, Schedule, ScheduledRunInfo, WorkflowContext, activity, workflow
from trio_romancy.testing import run

# -- every night, in local time ----------------------------------------------------------------------------------------


@activity
async def print_report(region: str, night: str) -> None:
    print(f"  report for {region}, night of {night}")


@workflow
async def nightly_report(ctx: WorkflowContext, region: str) -> None:
    await print_report(region, f"{ctx.now():%d %B, %H:%M} UTC")


berlin = Schedule(
    "report-berlin",
    nightly_report,
    "Berlin",
    cron="30 2 * * *",
    tz="Europe/Berlin",
    exclude=[date(2023, 12, 25)],
    catch_up=timedelta(hours=12),
    pause_on_failure=True,
)
new_york = Schedule("report-new-york", nightly_report, "New York", cron="30 2 * * *", tz="America/New_York")


# -- a run that takes too long -----------------------------------------------------------------------------------------


@workflow
async def import_prices(ctx: WorkflowContext) -> None:
    await ctx.sleep(12 * 60)


prices = Schedule("prices", import_prices, every=timedelta(minutes=5), overlap=Overlap.SKIP)


class Alerts(Hooks):
    """Prints what a schedule has skipped."""

    def schedule_skipped(self, run: ScheduledRunInfo) -> None:
        print(f"  {run.schedule}: the run of {run.due_at:%H:%M} is skipped, because the last one goes on")


async def main() -> None:
    async with App(":memory:", schedules=[berlin, new_york]) as app:
        print("Two nights:")
        await trio.sleep(2 * 86_400)

        print("What comes next:")
        for when in await app.schedules.next("report-berlin", 2):
            print(f"  {when:%d %B, %H:%M} UTC")

        print("Now, and those of last week:")
        await (await app.schedules.trigger("report-berlin")).result()
        (first, *_) = await app.schedules.next("report-berlin", 1)
        number = await app.schedules.backfill("report-berlin", first - timedelta(days=5), first - timedelta(days=3))
        await trio.sleep(1)
        print(f"  backfilled: {number}")

    print("Imports that take twelve minutes:")
    async with App(":memory:", schedules=[prices], hooks=[Alerts()]) as app:
        await trio.sleep(15 * 60)


if __name__ == "__main__":
    run(main)
