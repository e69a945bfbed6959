"""Messages survive a crash at every commit: none is lost, and none comes twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    ChannelModeConflictError,
    EventTimeoutError,
    MessageTimeoutError,
    RetryPolicy,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)
from trio_romancy.testing import How, explore_crashes
from trio_romancy.testing.exploration import Scenario

pytestmark = pytest.mark.long


@activity(name="explored_step")
async def step(value: Any) -> Any:
    return value


@workflow(name="explored_waits")
async def waits(ctx: WorkflowContext, first_sleep: float, count: int) -> list[Any]:
    await step("begin")
    if first_sleep:
        await ctx.sleep(first_sleep)
    seen = [(await ctx.wait_event("t")).data for _ in range(count)]
    return [*seen, await step("end")]


async def event_before_the_wait(app: App) -> object:
    handle = await app.start(waits.options(id="i"), 100.0, 2)
    await app.send_event("t", 1, id="1")
    await trio.sleep(50)
    await app.send_event("t", 2, id="2")
    return await handle.result()


async def event_during_the_wait(app: App) -> object:
    """No time passes between the start and the events."""
    handle = await app.start(waits.options(id="i"), 0.0, 2)
    await app.send_event("t", 1, id="1")
    await app.send_event("t", 2, id="2")
    return await handle.result()


async def event_after_the_wait(app: App) -> object:
    handle = await app.start(waits.options(id="i"), 0.0, 2)
    for number in (1, 2):
        await trio.sleep(50)
        sent = await app.send_event("t", number, id=str(number))
        assert (await app.send_event("t", "again", id=str(number))).is_duplicate
        assert sent.id == str(number)
    return await handle.result()


@workflow(name="explored_two_waits")
async def two_waits(ctx: WorkflowContext) -> list[Any]:
    seen: list[Any] = []

    async def branch(name: str) -> None:
        with ctx.branch(name):
            seen.append(await step((await ctx.wait_event("t")).data))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(branch, "a")
        nursery.start_soon(branch, "b")
    await ctx.sleep(1000)
    return sorted(seen)


async def two_waits_for_one_type(app: App) -> object:
    handle = await app.start(two_waits.options(id="i"))
    await trio.sleep(50)
    await app.send_event("t", 1)
    await app.send_event("t", 2)
    return await handle.result()


@workflow(name="explored_consumer")
async def consumer(ctx: WorkflowContext) -> list[int]:
    await ctx.subscribe("jobs", "competing")
    seen = []
    try:
        while True:
            seen.append((await ctx.receive("jobs", timeout=500)).data)
    except MessageTimeoutError:
        return seen


async def competing_consumers(app: App) -> object:
    await app.publish("jobs", 0)
    handles = [await app.start(consumer.options(id=f"c{number}")) for number in range(2)]
    for number in range(1, 5):
        await app.publish("jobs", number)
        await trio.sleep(20 * (number % 2))
    results = [await handle.result() for handle in handles]
    return sorted(number for result in results for number in result)


@workflow(name="explored_two_tries")
async def two_tries(ctx: WorkflowContext) -> list[Any]:
    seen: list[Any] = []
    for _ in range(2):
        try:
            seen.append((await ctx.wait_event("t", timeout=100)).data)
        except EventTimeoutError:
            pass
    return seen


async def timeout_against_an_event_at_the_same_instant(app: App) -> object:
    begun = trio.current_time()
    handle = await app.start(two_tries.options(id="i"))
    await trio.sleep_until(begun + 100)
    await app.send_event("t", "once")
    return await handle.result()


async def event_just_before_the_timeout(app: App) -> object:
    return await event_before_the_timeout(app, 1e-6)


async def event_before_the_timeout_though_its_commit_is_tried_again(app: App) -> object:
    return await event_before_the_timeout(app, 0.1)  # the second try is 20 ms later


async def event_before_the_timeout(app: App, seconds: float) -> object:
    begun = trio.current_time()
    handle = await app.start(two_tries.options(id="i"))
    await trio.sleep_until(begun + 100 - seconds)
    await app.send_event("t", "once")
    return await handle.result()


@workflow(name="explored_gives_up")
async def gives_up(ctx: WorkflowContext) -> list[Any]:
    seen: list[Any] = []
    with ctx.move_on_after(100):
        seen.append((await ctx.wait_event("t")).data)
        await ctx.sleep(1000)
    try:
        while True:
            seen.append((await ctx.wait_event("t", timeout=100)).data)
    except EventTimeoutError:
        return seen


async def event_given_up_by_a_cancelled_wait(app: App) -> object:
    begun = trio.current_time()
    handle = await app.start(gives_up.options(id="i"))
    await trio.sleep_until(begun + 100)
    await app.send_event("t", 1)
    await app.send_event("t", 2)
    return await handle.result()


@workflow(name="explored_listener")
async def listener(ctx: WorkflowContext) -> list[Any]:
    await ctx.subscribe("news")
    seen = []
    try:
        while True:
            seen.append((await ctx.receive("news", timeout=1000)).data)
    except MessageTimeoutError:
        return seen


@activity(name="explored_publisher", retry=RetryPolicy.fixed(3, 1))
async def publisher(value: str, *, in_session: bool) -> None:
    context = current_activity()
    context.publish("news", f"{value} 1")
    if in_session:
        await context.session.run_sync(lambda session: session.connection())
    context.publish("news", f"{value} 2")
    if context.attempt == 1:
        raise ConnectionError("not yet")


@workflow(name="explored_publishes")
async def publishes(ctx: WorkflowContext) -> None:
    await ctx.publish("news", "first", metadata={"a": 1})
    await publisher("plain", in_session=False)
    await ctx.send_to("listener", "news", "direct")
    await publisher("session", in_session=True)
    await ctx.publish("news", "last")


async def publish_from_workflow_and_activity(app: App) -> object:
    handle = await app.start(listener.options(id="listener"))
    await trio.sleep(20)
    await (await app.start(publishes.options(id="publisher"))).result()
    return await handle.result()


@workflow(name="explored_subscriber")
async def subscriber(ctx: WorkflowContext) -> list[Any]:
    seen: list[Any] = []
    try:
        await ctx.subscribe("news", "direct")
    except ChannelModeConflictError as error:
        seen.append([error.mode, error.held])
    await ctx.subscribe("mine", "direct")
    seen.append((await ctx.receive("mine")).data)
    await ctx.unsubscribe("mine")
    await ctx.subscribe("mine", "direct")
    seen.append((await ctx.receive("mine")).data)
    return seen


async def subscriptions(app: App) -> object:
    other = await app.start(listener.options(id="listener"))
    await trio.sleep(20)
    handle = await app.start(subscriber.options(id="i"))
    await trio.sleep(20)
    await app.publish("mine", 1, to="i")
    await trio.sleep(20)
    await app.publish("mine", 2, to="i")
    await app.publish("news", 3)
    return [await handle.result(), await other.result()]


async def passive_waiters(app: App) -> object:
    handles = [await app.start(waits.options(id=f"i{number}"), 0.0, 1) for number in range(3)]
    await trio.sleep(100)
    await app.send_event("t", "for all")
    return [await handle.result() for handle in handles]


SCENARIOS = [
    event_before_the_wait,
    event_during_the_wait,
    event_after_the_wait,
    two_waits_for_one_type,
    competing_consumers,
    timeout_against_an_event_at_the_same_instant,
    event_just_before_the_timeout,
    event_before_the_timeout_though_its_commit_is_tried_again,
    event_given_up_by_a_cancelled_wait,
    publish_from_workflow_and_activity,
    subscriptions,
    passive_waiters,
]

ON_SERVERS = [
    event_during_the_wait,
    competing_consumers,
    event_just_before_the_timeout,
    publish_from_workflow_and_activity,
    passive_waiters,
]

HOWS_ON_SERVERS = (How.WORKER_BEFORE, How.ANSWER_LOST)


@pytest.mark.parametrize(
    ("scenario", "kind"),
    [(scenario, "sqlite") for scenario in SCENARIOS]
    + [(scenario, kind) for scenario in ON_SERVERS for kind in ("mariadb", "postgresql")],
    indirect=["kind"],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_crash_point_loses_and_doubles_nothing(
    scenario: Scenario, kind: str, new_database: Callable[[], str], record_property: Callable[[str, object], None]
) -> None:
    hows = tuple(How) if kind == "sqlite" else HOWS_ON_SERVERS
    if scenario is event_just_before_the_timeout:
        # What is tried again is accepted after the deadline, and rightly too late.
        hows = tuple(how for how in hows if how is not How.DATABASE_AWAY)
    races = scenario in (
        timeout_against_an_event_at_the_same_instant,
        event_given_up_by_a_cancelled_wait,
        competing_consumers,
    )
    outcomes: list[Any] = []

    async def played(app: App) -> object:
        outcomes.append(result := await scenario(app))
        return result

    try:
        exploration = explore_crashes(played, hows=hows, new_database=new_database, idle_timeout=5)
    except AssertionError as error:
        # Who wins a race may differ, and so the journal; what was received may not.
        if not races or any("recorded" not in line for line in str(error).splitlines()[1:]):
            raise
        points = len(outcomes) - 1
    else:
        points = exploration.points
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert points > 2 * len(hows)
    record_property("points", points)
    print(f"{scenario.__name__}: {points} points")
