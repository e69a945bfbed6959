"""Orders in a FastAPI application, whose process is the worker as well.

    uvicorn --app-dir examples fastapi_orders:web     serve on http://127.0.0.1:8000 until Ctrl-C
    python examples/fastapi_orders.py --demo          serve, make the requests below, and stop

Then, from another terminal: an order, its state, its approval, and its state again

    curl http://127.0.0.1:8000/orders -H 'Content-Type: application/json' -d '{"order_id": "ORD-1", "amount": 59.98}'
    curl http://127.0.0.1:8000/orders/ORD-1
    curl -X POST http://127.0.0.1:8000/orders/ORD-1/approval
    curl http://127.0.0.1:8000/orders/ORD-1

The orders are in ``fastapi.db`` in the current directory: kill the server before the approval, start it again, and the
order is still waiting.
"""

import asyncio
import socket
import sys
from typing import Annotated, Any

import httpx
import uvicorn
from attrs import frozen
from fastapi import Body, FastAPI, HTTPException

from trio_romancy import WorkflowContext, activity, workflow
from trio_romancy.aio import App


@frozen
class Order:
    order_id: str
    amount: float


@activity
async def charge(order: Order) -> str:
    return f"TXN-{order.order_id}"


@workflow
async def ordering(ctx: WorkflowContext, order: Order) -> str:
    if order.amount > 50:
        await ctx.wait_event("approved", subject=order.order_id)
    return await charge(order)


app = App("fastapi.db")
web = FastAPI(lifespan=app.lifespan)  # the app is open, and works, while the server runs


@web.post("/orders", status_code=202)
async def place(order_id: Annotated[str, Body()], amount: Annotated[float, Body()]) -> dict[str, str]:
    handle = await app.start(ordering.options(id=order_id), Order(order_id, amount))  # durable from here on
    return {"order": handle.instance_id}


@web.get("/orders/{order_id}")
async def show(order_id: str) -> dict[str, Any]:
    instance = await app.get_instance(order_id)
    if instance is None:
        raise HTTPException(404)
    error = None if instance.error is None else instance.error.message
    return {"status": instance.status, "payment": instance.output, "error": error}


@web.post("/orders/{order_id}/approval", status_code=202)
async def approve(order_id: str) -> None:
    await app.send_event("approved", subject=order_id, to=order_id)


async def demo() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(web, log_level="error"))
    serving = asyncio.create_task(server.serve([listener]))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        print("an order:", (await client.post("/orders", json={"order_id": "ORD-1", "amount": 59.98})).json())
        print("its approval:", (await client.post("/orders/ORD-1/approval")).status_code)
        print("its payment:", await app.handle("ORD-1").result())
        print("its state:", (await client.get("/orders/ORD-1")).json())
        print("another order:", (await client.get("/orders/ORD-2")).status_code)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(demo()) if "--demo" in sys.argv else uvicorn.run(web)
