"""What activities send to the broker: if and only if they commit, whatever crashes when."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import App, RetryPolicy, WorkflowContext, activity, current_activity, workflow
from trio_romancy.model import OutboxStatus
from trio_romancy.testing import How, explore_crashes

from ..support.broker import LOSE, TAKE, Answer, Broker, Post, free_port, no, open_broker
from ..support.databases import KINDS

pytestmark = pytest.mark.long

PLACED, PACKED, SHIPPED, ARCHIVED = "placed", "packed", "shipped", "archived"


@activity(name="outbox_place", retry=RetryPolicy.fixed(3, 0.1))
async def place(order_id: str) -> str:
    this = current_activity()
    id = this.send_event(PLACED, {"order_id": order_id}, source="/shop", subject=order_id)
    if this.attempt == 1:
        this.send_event("never seen", None)
        raise ConnectionError
    return id


@activity(name="outbox_ship")
async def ship(order_id: str) -> None:
    this = current_activity()
    this.send_event(PACKED, order_id)
    await this.session.execute(sa.text("SELECT 1"))  # in a transaction of its own
    this.send_event(SHIPPED, [1.5], id=f"{order_id}/shipped")


@activity(name="outbox_archive")
def archive(order_id: str) -> None:
    current_activity().send_event(ARCHIVED, None)


@workflow(name="outbox_take_order")
async def take_order(ctx: WorkflowContext, order_id: str) -> str:
    id = await place(order_id)
    await ship(order_id)
    await archive(order_id)
    return id


async def drained(app: App) -> None:
    """Wait until nothing is pending."""
    step = 0.05
    while await app.outbox.list(status=OutboxStatus.PENDING, limit=1):
        await trio.sleep(step)
        step = min(2 * step, 1.0)


def types(posts: list[Post]) -> list[str]:
    return [post.event["type"] for post in posts]


async def test_what_committed_activities_have_sent_reaches_the_broker_at_once_and_in_order(database: str) -> None:
    async with open_broker() as broker, App(database, broker_url=broker.url) as app:
        await trio.sleep(60)  # whoever looks from time to time has looked
        begun = trio.current_time()
        handle = await app.start(take_order, "ORD-1")
        first_id = await handle.result()
        await broker.until(lambda: len(broker.posts) == 4)
        assert trio.current_time() - begun < 0.2
        await drained(app)
        stored = await app.outbox.list(instance_id=handle.instance_id)
    assert types(broker.posts) == [event.type for event in stored] == [PLACED, PACKED, SHIPPED, ARCHIVED]
    assert broker.ids == [event.event_id for event in stored]
    assert (broker.ids[0], broker.ids[2]) == (first_id, "ORD-1/shipped")
    assert [post.event.get("data") for post in broker.posts] == [{"order_id": "ORD-1"}, "ORD-1", [1.5], None]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sqlite"], indirect=True)
async def test_events_wait_for_a_broker_that_a_later_worker_has(kind: str, new_database: Callable[[], str]) -> None:
    url = new_database()
    async with App(url) as app:
        await (await app.start(take_order, "ORD-1")).result()
        assert {event.status for event in await app.outbox.list()} == {OutboxStatus.PENDING}
    async with open_broker() as broker, App(url, broker_url=broker.url) as app:
        await drained(app)
    assert types(broker.posts) == [PLACED, PACKED, SHIPPED, ARCHIVED]


# -- crashes -----------------------------------------------------------------------------------------------------------


def failing_at_first(broker: Broker) -> Callable[[Post], Answer]:
    """The first event is refused at first, of the second the answer is lost, so that it comes twice."""
    at_first = {PLACED: no(503, retry_after="1"), PACKED: LOSE}

    def decide(post: Post) -> Answer:
        return TAKE if post.id in broker.ids else at_first.get(post.event["type"], TAKE)

    return decide


# In memory, and with all that can go wrong: see test_outbox_exploration.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sqlite"], indirect=True)
def test_every_crash_point_converges(kind: str, new_database: Callable[[], str]) -> None:
    port = free_port()

    async def scenario(app: App) -> object:
        async with open_broker(port) as broker:
            broker.decide = failing_at_first(broker)
            handle = await app.start(take_order.options(id="order"), "ORD-1")
            await handle.result()
            await drained(app)
            stored = await app.outbox.list()
            assert list(dict.fromkeys(broker.ids)) == [event.event_id for event in stored]
            return types(broker.posts)[:1], [(event.type, event.event_id, event.status) for event in stored]

    found = explore_crashes(
        scenario, hows=[How.WORKER_AFTER], new_database=new_database, broker_url=f"http://127.0.0.1:{port}/"
    )
    assert found.commits >= 12
