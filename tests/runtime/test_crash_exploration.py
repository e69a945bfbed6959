"""Every scenario survives a crash at every commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
import trio
from attrs import define

from trio_romancy import (
    ActivityError,
    App,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy.testing import How, explore_crashes
from trio_romancy.testing.exploration import Scenario

pytestmark = pytest.mark.long


@define
class Order:
    order_id: str
    amount: float


@compensation
async def release(order_id: str, result: str) -> None:
    assert result == f"RES-{order_id}"


@compensation
async def refund(order_id: str, amount: float) -> None:
    pass


@activity(compensation=release)
async def reserve(order_id: str) -> str:
    return f"RES-{order_id}"


@activity(compensation=refund)
async def pay(order_id: str, amount: float) -> float:
    return amount


@activity
async def ship(order_id: str, works: bool) -> str:
    if not works:
        raise TerminalError("no truck")
    return f"TRACK-{order_id}"


@workflow
async def order_saga(ctx: WorkflowContext, order: Order, works: bool) -> str:
    await reserve(order.order_id)
    await pay(order.order_id, order.amount)
    return await ship(order.order_id, works)


async def sequential_saga(app: App) -> object:
    handle = await app.start(order_saga.options(id="order"), Order("A1", 9.5), True)
    return await handle.result()


async def failing_saga(app: App) -> object:
    handle = await app.start(order_saga.options(id="order"), Order("A1", 9.5), False)
    with pytest.raises(WorkflowFailedError) as caught:
        await handle.result()
    return caught.value.error_type, caught.value.message, caught.value.uncompensated


@activity(compensation=release)
async def slowly_reserve(order_id: str, seconds: float) -> str:
    await trio.sleep(seconds)
    return f"RES-{order_id}"


@workflow
async def three_branches(ctx: WorkflowContext, fails: bool) -> list[str]:
    done: list[str] = []

    async def branch(name: str, seconds: float) -> None:
        with ctx.branch(name):
            await slowly_reserve(name, seconds)
            await ctx.sleep(1)
            done.append(await slowly_reserve(f"{name}-again", seconds))
            if fails and name == "us":
                await ship(name, False)

    async with trio.open_nursery() as nursery:
        # So far apart that a restart in between does not change who is running when "us" fails.
        nursery.start_soon(branch, "eu", 3)
        nursery.start_soon(branch, "us", 50)
        nursery.start_soon(branch, "asia", 1_000)
    return sorted(done)


async def nursery_of_three(app: App) -> object:
    return await (await app.start(three_branches, False)).result()


async def failing_nursery_of_three(app: App) -> object:
    handle = await app.start(three_branches, True)
    with pytest.raises(WorkflowFailedError) as caught:
        await handle.result()
    return caught.value.error_type, caught.value.message


@activity(retry=RetryPolicy(max_attempts=4, initial_interval=10))
async def works_the_third_time() -> int:
    attempt = current_activity().attempt
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


@activity(retry=RetryPolicy.fixed(2, 3))
async def never_works() -> None:
    raise ConnectionError("down")


@workflow
async def retrying(ctx: WorkflowContext) -> str:
    await reserve("R")
    attempts = await works_the_third_time()
    try:
        await never_works()
    except ActivityError as error:
        return f"{attempts} {type(error).__name__} {error.attempts} {error.error_type}"
    return "?"


async def retry_with_backoff(app: App) -> object:
    return await (await app.start(retrying)).result()


@workflow
async def patient(ctx: WorkflowContext) -> str:
    seen = []
    with ctx.move_on_after(10) as scope:
        await reserve("T")
        await ctx.sleep(60)
        seen.append("not here")
    seen.append(f"cancelled {scope.cancelled_caught}")
    try:
        with ctx.fail_after(5):
            await ctx.sleep(60)
    except trio.TooSlowError:
        seen.append("too slow")
    with ctx.move_on_after(100):
        await slowly_reserve("in time", 2)
        seen.append("in time")
    return ", ".join(seen)


async def durable_timeout(app: App) -> object:
    return await (await app.start(patient)).result()


@workflow
async def outlasting(ctx: WorkflowContext) -> bool:
    with ctx.move_on_after(10) as scope:
        await slowly_reserve("slow", 60)
        await ctx.sleep(60)
    return scope.cancelled_caught


async def timeout_during_an_activity(app: App) -> object:
    return await (await app.start(outlasting)).result()


accounts = sa.Table(
    "accounts", sa.MetaData(), sa.Column("id", sa.String(50), primary_key=True), sa.Column("balance", sa.Integer)
)


@activity
async def open_accounts() -> None:
    session = current_activity().session
    await session.execute(sa.schema.CreateTable(accounts, if_not_exists=True))
    await session.execute(sa.insert(accounts), [{"id": "a", "balance": 100}, {"id": "b", "balance": 0}])


@activity
async def transfer(amount: int) -> None:
    session = current_activity().session
    for id, change in (("a", -amount), ("b", amount)):
        await session.execute(
            sa.update(accounts).where(accounts.c.id == id).values(balance=accounts.c.balance + change)
        )


@activity
async def balances() -> dict[str, int]:
    rows = await current_activity().session.execute(sa.select(accounts.c.id, accounts.c.balance))
    return {row.id: row.balance for row in rows}


@workflow
async def transfers(ctx: WorkflowContext) -> dict[str, int]:
    await open_accounts()
    for _ in range(3):
        await transfer(7)
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(transfer.options(id=f"transfer/{number}"), 5)
    return await balances()


async def session_transaction(app: App) -> object:
    return await (await app.start(transfers)).result()


@workflow
async def sleeper(ctx: WorkflowContext) -> str:
    await reserve("S")
    await ctx.sleep(3600)
    before = ctx.now()
    await ctx.sleep(24 * 3600)
    await pay("S", 1.0)
    return str((ctx.now() - before).days)


async def passivation_and_wake(app: App) -> object:
    return await (await app.start(sleeper)).result()


SCENARIOS = [
    sequential_saga,
    failing_saga,
    nursery_of_three,
    failing_nursery_of_three,
    retry_with_backoff,
    durable_timeout,
    timeout_during_an_activity,
    session_transaction,
    passivation_and_wake,
]


HOWS_ON_SERVERS = (How.WORKER_BEFORE, How.ANSWER_LOST)
"""There a point takes 0.1 s and more. Dying after one commit is dying before the next, as far as a database can tell,
and the others happen above it, the same on each."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_every_crash_point_converges(
    scenario: Scenario, kind: str, new_database: Callable[[], str], record_property: Callable[[str, object], None]
) -> None:
    hows = tuple(How) if kind == "sqlite" else HOWS_ON_SERVERS
    if scenario is session_transaction and kind != "sqlite":
        hows = (*hows, How.WORKER_AFTER, How.ACTOR_BEFORE)  # there a commit is the activity's own
    exploration = explore_crashes(scenario, hows=hows, new_database=new_database)
    assert exploration.commits > 2
    # How the scheduler lays commits together differs a little from run to run.
    assert exploration.points >= (exploration.commits - 2) * len(hows)
    record_property("points", exploration.points)
    print(f"{scenario.__name__}: {exploration.points} points, {exploration.commits} commits undisturbed")
