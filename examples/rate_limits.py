"""Calls to a payment service that allows few at once, and to a mail service that allows few in a second.

    python examples/rate_limits.py

The limits hold for all workers of ``limits.db`` together, however many processes there are. Each customer has the
payment limit for itself.
"""

import time
from itertools import pairwise

import trio

from trio_romancy import App, Limit, Rate, WorkflowContext, activity, workflow

payments = Limit("payments", concurrent=1, key=lambda customer, amount: customer)
mails = Limit("mails", rate=Rate(5, per=1))

paying: list[str] = []
at_once: dict[str, int] = {}
sent: list[float] = []


@activity(limits=[payments])
async def pay(customer: str, amount: int) -> int:
    paying.append(customer)
    at_once[customer] = max(at_once.get(customer, 0), paying.count(customer))
    await trio.sleep(0.05)
    paying.remove(customer)
    return amount


@activity(limits=[mails])
async def send_receipt(customer: str, amount: int) -> None:
    sent.append(time.monotonic())


@workflow
async def purchase(ctx: WorkflowContext, customer: str, amount: int) -> int:
    paid = await pay(customer, amount)
    await send_receipt(customer, paid)
    return paid


async def main() -> None:
    async with App("limits.db") as app:
        handles = [await app.start(purchase, customer, 10) for customer in ("ada", "grace") for _ in range(3)]
        print(f"paid: {sum([await handle.result() for handle in handles])}")
        for customer, most in sorted(at_once.items()):
            print(f"payments of {customer} at once: {most}")
        closest = min(after - before for before, after in pairwise(sent))
        print(f"receipts keep their distance: {closest > 0.15}")


if __name__ == "__main__":
    trio.run(main)
