"""A process is killed in the middle of an order; the next one finishes it, without charging the customer again.

    python examples/crash_recovery.py

This process is the parent. It starts a child (this file, with ``--child``) that runs the order, kills it once the
payment is recorded, and starts it again. All files are in a temporary directory: ``orders.db``, the database, and
``payments.log``, to which each payment that really happens adds a line.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import trio

from trio_romancy import App, WorkflowContext, activity, workflow

CARRIER_HANGS = "--carrier-hangs" in sys.argv


# -- the child: an order, as in order_processing.py --------------------------------------------------------------------


@activity  # a plain function, because it blocks on a file: it runs in a thread
def process_payment(order_id: str, amount: float) -> str:
    print(f"charging ${amount:.2f} for {order_id}")
    with Path("payments.log").open("a") as log:
        log.write(f"{order_id} {amount:.2f}\n")
    return f"TXN-{order_id}"


@activity
async def ship_order(order_id: str) -> str:
    # No activity begins before everything that precedes it is on disk. So the payment is recorded by now.
    print(f"asking the carrier to ship {order_id}")
    if CARRIER_HANGS:
        await trio.sleep_forever()
    return f"TRACK-{order_id}"


@workflow
async def order_processing(ctx: WorkflowContext, order_id: str, amount: float) -> str:
    transaction = await process_payment(order_id, amount)
    tracking = await ship_order(order_id)
    return f"paid with {transaction}, shipped with {tracking}"


async def run_order() -> None:
    # The worker id is that of the process that died, so this one takes over its instances at once. Under another id it
    # would notice the death on the same machine too; on another machine it would wait for the lease to run out.
    async with App("orders.db", worker_id="worker-1") as app:
        # Both processes start the order. The second gets a handle of the same instance, because the id is the same.
        handle = await app.start(order_processing.options(id="order-1"), "ORD-12345", 109.97)
        print(await handle.result())


# -- the parent: the crash ---------------------------------------------------------------------------------------------


def run_child(directory: str, *options: str, kill_at: str | None = None) -> None:
    command = [sys.executable, "-u", __file__, "--child", *options]  # -u: its output arrives at once
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(f"    {line}", end="")
            if kill_at is not None and line.startswith(kill_at):
                child.kill()  # SIGKILL: no handler runs, and nothing is cleaned up


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        print("The first process takes the order, and the carrier does not answer:")
        run_child(directory, "--carrier-hangs", kill_at="asking the carrier")
        print("It is killed. The payment is recorded, the shipment is not.\n")

        print("The second process finds the order unfinished, and continues where it stopped:")
        run_child(directory)

        payments = Path(directory, "payments.log").read_text().splitlines()
        print(f"\nPayments that happened, over both processes: {len(payments)}")


if __name__ == "__main__":
    if "--child" in sys.argv:
        trio.run(run_order)
    else:
        main()
