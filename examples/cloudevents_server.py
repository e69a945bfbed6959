"""Orders that come in over HTTP, as CloudEvents: one event starts a workflow, which waits for another one.

    python examples/cloudevents_server.py            serve on http://127.0.0.1:8000 until Ctrl-C
    python examples/cloudevents_server.py --demo     serve, post the events below, and stop

Then, from another terminal: an order, which starts a workflow

    curl -i http://127.0.0.1:8000/ -H 'Authorization: Bearer secret' \\
      -H 'Content-Type: application/cloudevents+json' \\
      -d '{"specversion": "1.0", "id": "1", "source": "/shop", "type": "order_received",
           "data": {"order_id": "ORD-1", "amount": 59.98}}'

its payment, in the binary mode, for which the workflow waits (sent twice, it counts once)

    curl -i http://127.0.0.1:8000/ -H 'Authorization: Bearer secret' \\
      -H 'ce-specversion: 1.0' -H 'ce-id: 2' -H 'ce-source: /bank' -H 'ce-type: payment_received' \\
      -H 'ce-subject: ORD-1' -H 'Content-Type: application/json' -d '{"amount": 59.98}'

and a look at the health, which needs no token

    curl -i http://127.0.0.1:8000/health/ready

Each answer says what became of the event. The orders are in ``cloudevents.db`` in the current directory: kill the
server between the order and the payment, start it again, and the order is still waiting.
"""

import sys
import uuid
from functools import partial

import httpx
import trio
from attrs import frozen
from hypercorn.config import Config
from hypercorn.trio import serve

from trio_romancy import App, WebSettings, WorkflowContext, activity, workflow

DEMO = "--demo" in sys.argv
TOKEN = "secret"  # in production: from the environment


@frozen
class Order:
    order_id: str
    amount: float


@frozen
class Payment:
    amount: float


@activity
async def ship(order_id: str) -> str:
    print(f"  shipping {order_id}")
    return f"TRACK-{order_id}"


@workflow(event_handler=True)  # off by default, because every client that can post events can start this
async def order_received(ctx: WorkflowContext, order: Order) -> str:
    print(f"  {order.order_id} waits for ${order.amount:.2f}")
    paid = await ctx.wait_event("payment_received", subject=order.order_id, data_type=Payment)
    print(f"  {order.order_id} is paid: ${paid.data.amount:.2f} from {paid.source}")
    return await ship(order.order_id)


async def main() -> None:
    async with (
        App("cloudevents.db", worker_id="worker-1", web=WebSettings(token=TOKEN)) as app,
        trio.open_nursery() as nursery,
    ):
        config = Config()
        config.bind = ["127.0.0.1:0" if DEMO else "127.0.0.1:8000"]
        config.errorlog = None if DEMO else "-"
        stop = trio.Event()
        urls = await nursery.start(partial(serve, app.asgi, config, shutdown_trigger=stop.wait))
        if DEMO:
            await post_events(app, urls[0])
            stop.set()
        else:
            print(__doc__)


# -- what the curl lines do --------------------------------------------------------------------------------------------


async def post_events(app: App, url: str) -> None:
    run = uuid.uuid4().hex[:8]  # an id is accepted once, so each run of this example needs ids of its own
    order_id = f"ORD-{run}"
    order = {
        "specversion": "1.0",
        "id": f"{run}-1",
        "source": "/shop",
        "type": "order_received",
        "data": {"order_id": order_id, "amount": 59.98},
    }
    payment = {
        "ce-specversion": "1.0",
        "ce-id": f"{run}-2",
        "ce-source": "/bank",
        "ce-type": "payment_received",
        "ce-subject": order_id,
    }
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}) as http:
        structured = {"content-type": "application/cloudevents+json"}
        show("an order", answer := await http.post("/", json=order, headers=structured))
        show("its payment", await http.post("/", json={"amount": 59.98}, headers=payment))
        result = await app.handle(answer.json()["instance_id"]).result()
        print(f"  the workflow has ended: {result}")
        show("the payment again", await http.post("/", json={"amount": 59.98}, headers=payment))
        bad = order | {"id": f"{run}-3", "data": {"order_id": order_id, "amount": "a lot"}}
        show("an invalid order", await http.post("/", json=bad, headers=structured))
        show("its health", await http.get("/health/ready"))
        del http.headers["authorization"]
        show("an order without the token", await http.post("/", json=order, headers=structured))


def show(what: str, answer: httpx.Response) -> None:
    print(f"{what}: {answer.status_code}")
    for name, value in answer.json().items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        pass
