"""An order saga under observation: hooks are called for each thing that happens, and the log names the instance.

    python examples/observability.py

The payment succeeds on its second attempt and the carrier never answers, so the order is undone. For OpenTelemetry,
pass ``OpenTelemetryHooks()`` from ``trio_romancy.otel`` to the app, instead of the hooks here or in addition to them.
"""

import logging
import sys

import trio

from trio_romancy import (
    ActivityInfo,
    App,
    Hooks,
    InstanceFilter,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowInfo,
    activity,
    compensation,
    current_activity,
    workflow,
)

logger = logging.getLogger("shop")


# -- the saga ----------------------------------------------------------------------------------------------------------


@compensation
async def cancel_reservation(order_id: str) -> None:
    logger.info("back on the shelf")


@activity(compensation=cancel_reservation)
async def reserve(order_id: str) -> None:
    logger.info("taken from the shelf")


@compensation
async def refund(order_id: str) -> None:
    logger.info("money back")


@activity(compensation=refund, retry=RetryPolicy.fixed(3, 0.05))
async def charge(order_id: str) -> None:
    if current_activity().attempt == 1:
        raise ConnectionError("the bank does not answer")
    logger.info("charged")


@activity
async def ship(order_id: str) -> None:
    raise TerminalError("the carrier is on strike")


@workflow
async def order(ctx: WorkflowContext, order_id: str) -> None:
    logger.info("an order has come")
    await reserve(order_id)
    await charge(order_id)
    await ship(order_id)


# -- the observers -----------------------------------------------------------------------------------------------------


class Timeline(Hooks):
    """Prints what happens to instances, once it is durable."""

    def workflow_started(self, workflow: WorkflowInfo) -> None:
        print(f"{workflow.instance_id} started")

    def workflow_failed(self, workflow: WorkflowInfo) -> None:
        assert workflow.error is not None
        print(f"{workflow.instance_id} failed: {workflow.error.message}")

    def activity_completed(self, activity: ActivityInfo) -> None:
        self.show(activity, "✓")

    def activity_retried(self, activity: ActivityInfo) -> None:
        self.show(activity, "↻")

    def activity_failed(self, activity: ActivityInfo) -> None:
        self.show(activity, "✗")

    def compensation_completed(self, compensation: ActivityInfo) -> None:
        self.show(compensation, "↩")

    def show(self, activity: ActivityInfo, sign: str) -> None:
        why = "" if activity.error is None else f": {activity.error.message}"
        print(f"  {sign} {activity.name}, attempt {activity.attempt}{why}")


class Counter(Hooks):
    """Counts attempts by their outcome."""

    def __init__(self) -> None:
        self.completed = self.failed = 0

    def activity_completed(self, activity: ActivityInfo) -> None:
        self.completed += 1

    def activity_retried(self, activity: ActivityInfo) -> None:
        self.failed += 1

    def activity_failed(self, activity: ActivityInfo) -> None:
        self.failed += 1


def set_up_the_log() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("      log of %(instance_id)s, %(operation_id)s: %(message)s"))
    handler.addFilter(InstanceFilter(drop_replayed=True))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


async def main() -> None:
    set_up_the_log()
    counter = Counter()
    async with App(":memory:", hooks=[Timeline(), counter]) as app:
        handle = await app.start(order.options(id="order-1"), "ORD-1")
        try:
            await handle.result()
        except WorkflowFailedError:
            print(f"attempts that succeeded: {counter.completed}, that failed: {counter.failed}")


if __name__ == "__main__":
    logging.getLogger("trio_romancy").setLevel(logging.ERROR)  # its hooks print failures, which are warnings
    trio.run(main)
