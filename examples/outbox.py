"""Events to the outside world, sent if and only if the activity that sends them has committed: the outbox.

    python examples/outbox.py

``current_activity().send_event(...)`` stores an event in the transaction that records the activity. A worker with a
``broker_url`` posts it from there as a CloudEvent: at least once, always under the same id, and in order for each
instance. So an order that is in the database is announced, and one that was rolled back is not, whatever crashes when.

The broker of this example is a small HTTP server in the same program, and it has a bad day: it is away for the first
two requests, and later it loses an answer, so that an event comes twice. A receiver therefore compares ids. The orders
and the outbox are in ``outbox.db`` in the current directory.
"""

import logging
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trio_romancy import App, OutboxStatus, RetryPolicy, WorkflowContext, activity, current_activity, workflow


@activity(retry=RetryPolicy.fixed(2, 0.1))
async def place_order(order_id: str) -> None:
    this = current_activity()
    this.send_event("order.placed", {"order_id": order_id, "attempt": this.attempt}, source="/shop", subject=order_id)
    if this.attempt == 1:
        raise ConnectionError("the event of this attempt is never sent")


@activity
async def ship_order(order_id: str) -> None:
    this = current_activity()
    this.send_event("order.packed", {"order_id": order_id}, source="/shop", subject=order_id)
    this.send_event("order.shipped", {"order_id": order_id, "weight": 1.5}, source="/shop", subject=order_id)


@activity
async def archive_order(order_id: str) -> None:
    current_activity().send_event("order.archived", None, source="/shop", subject=order_id)


@workflow
async def take_order(ctx: WorkflowContext, order_id: str) -> None:
    await place_order(order_id)
    await ship_order(order_id)
    await archive_order(order_id)


async def run_workflows(broker_url: str) -> None:
    async with App("outbox.db", broker_url=broker_url) as app:
        handle = await app.start(take_order, "ORD-1")
        await handle.result()
        while await app.outbox.list(status=OutboxStatus.PENDING):  # noqa: ASYNC110
            await trio.sleep(0.05)

        print("\nThe outbox:")
        events = await app.outbox.list(instance_id=handle.instance_id)
        for event in events:
            print(f"  {event.type:14}  {event.status:7}  attempts: {event.attempts}")
            if event.status is OutboxStatus.INVALID:
                print(f"    {event.error}")

        print("\nThe broker has learnt to archive, and the event is retried:")
        broker.archives = True
        await app.outbox.retry(events[-1].event_id)
        await broker.has_all.wait()


# -- the broker --------------------------------------------------------------------------------------------------------


class Broker:
    def __init__(self) -> None:
        self.requests = 0
        self.seen: set[str] = set()
        self.archives = False
        self.has_all = trio.Event()

    async def take(self, request: Request) -> Response:
        event = await request.json()  # application/cloudevents+json
        self.requests += 1
        if self.requests <= 2:
            print("  away")
            return Response(status_code=503, headers={"Retry-After": "0"})
        if event["type"] == "order.archived" and not self.archives:
            print(f"  {event['type']} is refused")
            return Response("there is no archive here", status_code=400)
        print(f"  {event['type']}: {event.get('data')}{', again' if event['id'] in self.seen else ''}")
        is_new = event["id"] not in self.seen
        self.seen.add(event["id"])
        if event["type"] == "order.packed" and is_new:
            return Response(status_code=500)  # the event was taken, and the answer says that it was not
        if event["type"] == "order.archived":
            self.has_all.set()
        return Response(status_code=202)


broker = Broker()


async def main() -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    stop = trio.Event()
    web = Starlette(routes=[Route("/events", broker.take, methods=["POST"])])
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(partial(serve, web, config, shutdown_trigger=stop.wait))
        print("The broker:")
        await run_workflows(f"{urls[0]}/events")
        stop.set()


if __name__ == "__main__":
    logging.disable()  # the broker prints what the worker would log about it
    trio.run(main)
