"""Time in workflows: sleeping, sleeping until a date, an event or a timeout, and reminders, for months if need be.

    python examples/timers.py

A timer is a stored moment, and not a task that counts. It survives restarts, and an instance that waits for long leaves
memory until the moment comes.

This program runs under virtual time, which jumps ahead whenever everything waits, so five months take a second. With
``trio.run(main)`` instead of ``run(main)``, and a file instead of ``":memory:"``, it would take five months.
"""

from datetime import timedelta

import trio

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy.testing import run


def today() -> int:
    """Return the number of days since the program began. Workflow code uses ``ctx.now()``."""
    return round(trio.current_time() / 86_400)


@activity
async def send(text: str) -> None:
    print(f"  day {today()}: {text}")


# -- sleeping ----------------------------------------------------------------------------------------------------------


@workflow
async def trial(ctx: WorkflowContext, user: str) -> None:
    ends = ctx.now() + timedelta(days=30)
    await send(f"{user}, your trial has begun")
    await ctx.sleep(timedelta(days=29))
    await send(f"{user}, your trial ends tomorrow")
    await ctx.sleep_until(ends)
    await send(f"{user}, your trial has ended")


# -- an event or a timeout ---------------------------------------------------------------------------------------------


@workflow
async def auction(ctx: WorkflowContext, lot: str) -> str:
    best = 0
    with ctx.move_on_after(timedelta(days=3)):  # one deadline for everything inside
        while True:
            bid = await ctx.wait_event("bid", subject=lot, data_type=int)
            best = max(best, bid.data)
    return f"the {lot} goes for ${best}" if best else f"no bids for the {lot}"


# -- reminders until the customer reacts -------------------------------------------------------------------------------


@workflow
async def invoice(ctx: WorkflowContext, number: str) -> str:
    for reminders in range(3):
        with ctx.move_on_after(timedelta(days=7)):
            await ctx.wait_event("paid", subject=number)
            return f"{number} was paid, reminders: {reminders}"
        await send(f"{number}, reminder {reminders + 1}")
    return f"{number} was given up"


# -- waiting costs no memory -------------------------------------------------------------------------------------------


@workflow
async def hibernation(ctx: WorkflowContext) -> None:
    await ctx.sleep(timedelta(days=100))


def resident(app: App) -> int:
    """Return the number of instances in memory."""
    worker = app.statistics().worker
    assert worker is not None
    return worker.supervisor.resident


async def main() -> None:
    async with App(":memory:", idle_timeout=10) as app:
        print("A trial:")
        await (await app.start(trial, "ada")).result()

        print("Two auctions:")
        auctions = [await app.start(auction, lot) for lot in ("vase", "stamp")]
        for amount in (20, 50, 40):
            await trio.sleep(3600)
            await app.send_event("bid", amount, subject="vase")
        for handle in auctions:
            print(f"  {await handle.result()}")

        print("Two invoices:")
        invoices = []
        for number in ("INV-1", "INV-2"):
            invoices.append(await app.start(invoice, number))
            await trio.sleep(3600)
        await trio.sleep(10 * 86_400)
        await app.send_event("paid", subject="INV-1")
        for handle in invoices:
            print(f"  {await handle.result()}")

        print("Many that wait:")
        sleepers = [await app.start(hibernation) for _ in range(200)]
        print(f"  just started: {resident(app)} in memory")
        await trio.sleep(20)  # longer than idle_timeout
        print(f"  20 seconds later: {resident(app)} in memory")
        for sleeper in sleepers:
            await sleeper.result()
        print(f"  day {today()}: all have ended")


if __name__ == "__main__":
    run(main)
