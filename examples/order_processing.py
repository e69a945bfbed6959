"""An order that undoes itself when it cannot be shipped: activities, compensations, and a workflow over them.

    python examples/order_processing.py                     reserve, charge, ship
    python examples/order_processing.py --fail-shipping     reserve, charge, fail to ship, refund, cancel

Every step is recorded in ``orders.db`` in the current directory.
"""

import logging
import sys

import trio
from attrs import frozen

from trio_romancy import App, TerminalError, WorkflowContext, WorkflowFailedError, activity, compensation, workflow

SHIPPING_FAILS = "--fail-shipping" in sys.argv


# -- data: plain attrs classes, stored as JSON -------------------------------------------------------------------------


@frozen
class OrderItem:
    product_id: str
    quantity: int
    unit_price: float


@frozen
class ShippingAddress:
    street: str
    city: str
    postal_code: str
    country: str


@frozen
class OrderInput:
    order_id: str
    customer_email: str
    items: list[OrderItem]
    shipping_address: ShippingAddress


@frozen
class OrderResult:
    order_id: str
    status: str
    total_amount: float
    confirmation_number: str


@frozen
class ReservationResult:
    reservation_id: str
    total_amount: float


@frozen
class PaymentResult:
    transaction_id: str
    amount: float
    status: str


@frozen
class ShipmentResult:
    tracking_number: str
    status: str


# -- activities: everything with a side effect, and what undoes it -----------------------------------------------------


@compensation
async def cancel_inventory_reservation(order_id: str) -> None:
    print(f"❌ Cancelling inventory reservation for {order_id}")


@activity(compensation=cancel_inventory_reservation)
async def reserve_inventory(order_id: str, items: list[OrderItem]) -> ReservationResult:
    total = sum(item.quantity * item.unit_price for item in items)
    print(f"📦 Reserving inventory for {order_id}: ${total:.2f}")
    return ReservationResult(reservation_id=f"RES-{order_id}", total_amount=total)


@compensation
async def refund_payment(order_id: str, amount: float) -> None:
    print(f"❌ Refunding payment for {order_id}: ${amount:.2f}")


@activity(compensation=refund_payment)
async def process_payment(order_id: str, amount: float, customer_email: str) -> PaymentResult:
    print(f"💳 Processing payment for {order_id}: ${amount:.2f}")
    return PaymentResult(transaction_id=f"TXN-{order_id}", amount=amount, status="completed")


@activity  # no compensation: it is the last step
async def ship_order(order_id: str, address: ShippingAddress) -> ShipmentResult:
    print(f"🚚 Shipping {order_id} to {address.city}, {address.country}")
    if SHIPPING_FAILS:
        print("💥 Error: shipping service unavailable\n")
        # Terminal, to show the rollback at once: any other error would be retried first, for 15 seconds.
        raise TerminalError("shipping service unavailable")
    return ShipmentResult(tracking_number=f"TRACK-{order_id}", status="shipped")


# -- the workflow: an ordinary async function that calls them ----------------------------------------------------------


@workflow
async def order_processing(ctx: WorkflowContext, order: OrderInput) -> OrderResult:
    reservation = await reserve_inventory(order.order_id, order.items)
    payment = await process_payment(order.order_id, reservation.total_amount, order.customer_email)
    shipment = await ship_order(order.order_id, order.shipping_address)
    return OrderResult(
        order_id=order.order_id,
        status="completed",
        total_amount=payment.amount,
        confirmation_number=shipment.tracking_number,
    )


async def main() -> int:
    order = OrderInput(
        order_id="ORD-12345",
        customer_email="customer@example.com",
        items=[
            OrderItem(product_id="PROD-1", quantity=2, unit_price=29.99),
            OrderItem(product_id="PROD-2", quantity=1, unit_price=49.99),
        ],
        shipping_address=ShippingAddress(
            street="1-2-3 Dogenzaka", city="Shibuya", postal_code="150-0001", country="Japan"
        ),
    )
    async with App("orders.db", worker_id="worker-1") as app:
        print("Starting order processing workflow...\n")
        handle = await app.start(order_processing, order)
        try:
            result = await handle.result()
        except WorkflowFailedError as error:
            print(f"\nError: {error}")
            return 1

    print(f"\n✅ Workflow completed: {handle.instance_id}")
    print("📊 The order:")
    print(f"   - Order ID: {result.order_id}")
    print(f"   - Total: ${result.total_amount:.2f}")
    print(f"   - Tracking: {result.confirmation_number}")
    return 0


if __name__ == "__main__":
    logging.getLogger("trio_romancy").setLevel(logging.ERROR)  # this program prints failures itself, which are warnings
    sys.exit(trio.run(main))
