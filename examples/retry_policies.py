"""When a failed activity is retried, and when it is not.

    python examples/retry_policies.py

The policy is the one of the call, or else of the activity, or else of the app, or else ``RetryPolicy.default()``: five
attempts, 1, 2, 4 and 8 seconds apart. The pauses here are short, to keep the example short.
"""

import logging
from collections.abc import Awaitable
from datetime import timedelta

import trio

from trio_romancy import (
    ActivityError,
    App,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)


def call_service(works_on_attempt: int) -> str:
    """Stand for a service that is down for the first few attempts."""
    this = current_activity()
    print(f"  {this.activity_id}, attempt {this.attempt}")
    if this.attempt < works_on_attempt:
        raise ConnectionError("the service is down")
    return "the service answered"


# -- how often, and how far apart --------------------------------------------------------------------------------------


@activity(retry=RetryPolicy.fixed(3, 0.05))  # 3 attempts, 0.05 s apart
async def fixed(works_on_attempt: int) -> str:
    return call_service(works_on_attempt)


@activity(retry=RetryPolicy.exponential(10, 0.05, timedelta(seconds=0.2)))  # 0.05 s, 0.1 s, then always 0.2 s
async def exponential(works_on_attempt: int) -> str:
    return call_service(works_on_attempt)


@activity(retry=RetryPolicy.no_retry())
async def only_once(works_on_attempt: int) -> str:
    return call_service(works_on_attempt)


@activity(retry=RetryPolicy.default())  # 1 s after the first attempt
async def by_default(works_on_attempt: int) -> str:
    return call_service(works_on_attempt)


@activity  # no policy of its own: the app's applies
async def as_the_app_says(works_on_attempt: int) -> str:
    return call_service(works_on_attempt)


# -- errors that no further attempt can fix ----------------------------------------------------------------------------


@activity
async def validate_order(order_id: str) -> None:
    print(f"  {current_activity().activity_id}, attempt {current_activity().attempt}")
    raise TerminalError(f"order {order_id} not found")


@activity(retry=RetryPolicy(non_retryable=(PermissionError,)))
async def read_account(account_id: str) -> None:
    print(f"  {current_activity().activity_id}, attempt {current_activity().attempt}")
    raise PermissionError(f"account {account_id} is closed")


# -- a workflow sees only the final outcome ----------------------------------------------------------------------------


@workflow
async def recovering(ctx: WorkflowContext) -> None:
    await fixed(3)
    await exponential(4)
    await by_default(2)
    await as_the_app_says(2)
    await as_the_app_says.options(retry=RetryPolicy.fixed(4, 0))(4)  # a policy for this call


@workflow
async def failing(ctx: WorkflowContext) -> list[str]:
    return [
        await error_of(fixed(99)),
        await error_of(only_once(99)),
        await error_of(as_the_app_says(99)),
        await error_of(validate_order("ORD-1")),
        await error_of(read_account("ACC-1")),
    ]


async def error_of(call: Awaitable[object]) -> str:
    try:
        await call
    except ActivityError as error:  # RetryExhaustedError or ActivityTerminalError; uncaught, it fails the workflow
        return f"{type(error).__name__}: {error}"
    return "none"


async def main() -> None:
    async with App("retries.db", retry=RetryPolicy(max_attempts=2, initial_interval=0.05)) as app:
        print("Activities that recover:")
        await (await app.start(recovering)).result()

        print("Activities that do not:")
        errors = await (await app.start(failing)).result()

        print("What the workflow saw of them:")
        for error in errors:
            print(f"  {error}")


if __name__ == "__main__":
    logging.getLogger("trio_romancy").setLevel(logging.ERROR)  # this program prints failures itself, which are warnings
    trio.run(main)
