"""An order that delegates the work to a payment and a shipping, each a workflow of its own.

    python examples/child_workflows.py                     pay, ship
    python examples/child_workflows.py --fail-shipping     pay, fail to ship, undo all of it in order

When the order fails, what the children have done is undone together with what the order itself has done, the last step
first, although each has a journal of its own. All of them are in ``family.db`` in the current directory.
"""

import logging
import sys

import trio

from trio_romancy import App, TerminalError, WorkflowContext, WorkflowFailedError, activity, compensation, workflow

SHIPPING_FAILS = "--fail-shipping" in sys.argv


# -- the payment -------------------------------------------------------------------------------------------------------


@compensation
async def release_amount(order_id: str, amount: float) -> None:
    print(f"    payment: releasing ${amount:.2f} of {order_id}")


@activity(compensation=release_amount)
async def hold_amount(order_id: str, amount: float) -> None:
    print(f"    payment: holding ${amount:.2f} of {order_id}")


@compensation
async def refund(order_id: str, result: str) -> None:
    print(f"    payment: refunding {result}")


@activity(compensation=refund)
async def capture(order_id: str) -> str:
    print(f"    payment: capturing it for {order_id}")
    return f"TXN-{order_id}"


@workflow
async def payment(ctx: WorkflowContext, order_id: str, amount: float) -> str:
    await hold_amount(order_id, amount)
    return await capture(order_id)


# -- the shipping ------------------------------------------------------------------------------------------------------


@compensation
async def unpack(order_id: str) -> None:
    print(f"    shipping: unpacking {order_id}")


@activity(compensation=unpack)
async def pack(order_id: str) -> None:
    print(f"    shipping: packing {order_id}")


@activity
async def call_carrier(order_id: str) -> str:
    print(f"    shipping: calling the carrier for {order_id}")
    if SHIPPING_FAILS:
        raise TerminalError("the carrier is on strike")
    return f"TRACK-{order_id}"


@workflow
async def shipping(ctx: WorkflowContext, order_id: str) -> str:
    await pack(order_id)
    return await call_carrier(order_id)


# -- the order, which runs both ----------------------------------------------------------------------------------------


@compensation
async def cancel_reservation(order_id: str) -> None:
    print(f"  order: cancelling the reservation of {order_id}")


@activity(compensation=cancel_reservation)
async def reserve(order_id: str) -> None:
    print(f"  order: reserving {order_id}")


@workflow
async def order(ctx: WorkflowContext, order_id: str, amount: float) -> str:
    await reserve(order_id)
    ctx.set_details("waiting for the payment")
    transaction = await ctx.run(payment, order_id, amount)
    ctx.set_details("waiting for the carrier")
    tracking = await ctx.run(shipping, order_id)
    ctx.set_details("done")
    return f"{transaction}, {tracking}"


async def show_family(app: App, instance_id: str) -> None:
    """The order and its children, as an operator sees them."""
    ids = [instance_id, f"{instance_id}/payment:1", f"{instance_id}/shipping:1"]
    for number, id in enumerate(ids):
        instance = await app.get_instance(id)
        assert instance is not None
        shown = instance.last_details if instance.status.is_final else instance.details
        details = f" ({shown})" if shown else ""
        print(f"  {'' if number == 0 else '  '}{instance.workflow}: {instance.status}{details}")


async def main() -> int:
    async with App("family.db", worker_id="worker-1") as app:
        print("What is done:")
        handle = await app.start(order, "ORD-1", 109.97)
        try:
            print(f"The result: {await handle.result()}")
        except WorkflowFailedError as error:
            print(f"The error: {error.error_type}: {error.message}")
        print("The family:")
        await show_family(app, handle.instance_id)
    return int(SHIPPING_FAILS)


if __name__ == "__main__":
    logging.getLogger("trio_romancy").setLevel(logging.ERROR)  # this program prints failures itself, which are warnings
    sys.exit(trio.run(main))
