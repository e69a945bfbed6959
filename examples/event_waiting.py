"""A request waits for a decision: an event about it, or a timeout, after which the next person is asked.

    python examples/event_waiting.py

``ctx.wait_event`` receives the next event of a type, here only events about the request, that was sent since the
instance was started. The answer may come before the wait, during it, or while no process is running, because it is
stored. A waiting instance is a few rows in ``approvals.db`` in the current directory, so the timeout could be a month.

This program also plays the people who are asked. They answer with ``app.send_event``, as a web page would.
"""

import trio
from attrs import frozen

from trio_romancy import App, EventTimeoutError, WorkflowContext, activity, workflow

PATIENCE = 0.3  # seconds; for real people a day


@frozen
class Request:
    number: str
    item: str
    price: int


@frozen
class Decision:
    by: str
    is_approved: bool


# -- the request -------------------------------------------------------------------------------------------------------


@activity
async def ask(person: str, request: Request) -> None:
    print(f"  {person}, may we buy a {request.item} for ${request.price:,}?")
    await outgoing_letters.send((person, request))


@activity
async def remind(person: str, request: Request) -> None:
    print(f"  {person}, there is still the {request.item}; we ask the next one now")


@activity
async def place_order(request: Request) -> str:
    print(f"  ordering a {request.item}")
    return f"ORDER-{request.number}"


@workflow
async def purchase(ctx: WorkflowContext, request: Request) -> str:
    for person in ("manager", "director"):
        await ask(person, request)
        try:
            event = await ctx.wait_event(
                "purchase.decided", subject=request.number, data_type=Decision, timeout=PATIENCE
            )
        except EventTimeoutError:
            await remind(person, request)
            continue
        decision: Decision = event.data
        if not decision.is_approved:
            return f"rejected by the {decision.by}"
        return f"approved by the {decision.by}: {await place_order(request)}"
    return "expired: no answer came"


# -- the people who are asked ------------------------------------------------------------------------------------------

ANSWERS = {
    ("manager", "laptop"): True,
    ("manager", "golden pen"): False,
    ("director", "milling machine"): True,
}

outgoing_letters, incoming_letters = trio.open_memory_channel[tuple[str, Request]](10)


async def answer_letters(app: App) -> None:
    async for person, request in incoming_letters:
        is_approved = ANSWERS.get((person, request.item))
        if is_approved is not None:
            decision = Decision(person, is_approved)
            await app.send_event("purchase.decided", decision, source="/people", subject=request.number)


async def main() -> None:
    async with App("approvals.db") as app, trio.open_nursery() as nursery:
        nursery.start_soon(answer_letters, app)
        for request in (
            Request("REQ-1", "laptop", 1_500),
            Request("REQ-2", "golden pen", 4_000),
            Request("REQ-3", "milling machine", 25_000),
            Request("REQ-4", "yacht", 2_000_000),
        ):
            print(f"{request.number}:")
            handle = await app.start(purchase, request)
            print(f"  {await handle.result()}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
