"""A failure is logged once, by the worker that recorded it, with its error and traceback, and without arguments."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import trio

from trio_romancy import (
    App,
    RetryPolicy,
    Status,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    workflow,
)

FORGED = "2026-11-30 03:00:00 ERROR trio_romancy.worker the database is lost"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What an operator reads."""
    stream, logger = io.StringIO(), logging.getLogger("trio_romancy")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def lines(log: io.StringIO, *parts: str) -> list[str]:
    return [line for line in log.getvalue().splitlines() if all(part in line for part in parts)]


@compensation(name="logged_undo", retry=RetryPolicy.fixed(2, 1))
async def undo(card: str) -> None:
    raise ConnectionError("the bank is closed")


@activity(name="logged_charge", compensation=undo)
async def charge(card: str) -> None: ...


@activity(name="logged_ship", retry=RetryPolicy.fixed(3, 1))
async def ship(address: str) -> None:
    raise ConnectionError("no carrier")


@workflow(name="logged_order")
async def order(ctx: WorkflowContext, card: str, pause: float = 3600) -> None:
    await charge(card)
    await ctx.sleep(pause)  # it leaves memory, and is replayed
    await ship("Secret Street 1")


@workflow(name="logged_simple")
async def simple(ctx: WorkflowContext, text: str) -> None:
    await ctx.sleep(3600)
    raise TerminalError(text)


@workflow(name="logged_waiting")
async def waiting(ctx: WorkflowContext) -> None:
    await ctx.wait_event("never")


@workflow(name="logged_caught")
async def caught_error(ctx: WorkflowContext) -> str:
    try:
        await ship("Secret Street 1")
    except Exception as error:
        await ctx.sleep(3600)
        return type(error).__name__
    return ""


async def test_a_failure_is_logged_once_with_error_and_traceback_and_without_arguments(log: io.StringIO) -> None:
    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError):
            await (await app.start(order.options(id="x"), "4111-1111")).result()
    activity_line = "WARNING trio_romancy.activity logged_ship:1 of x: attempt 3 failed, and no other follows: "
    assert lines(log, "WARNING", "ship:1 of x") == [activity_line + "ConnectionError: no carrier"]
    assert len(lines(log, "INFO trio_romancy.activity", "logged_ship:1 of x: attempt")) == 2
    (failed,) = lines(log, "WARNING trio_romancy.workflow")
    assert failed.startswith("WARNING trio_romancy.workflow instance x: workflow logged_order failed: ")
    assert "RetryExhaustedError: activity 'logged_ship:1' failed 3 times" in failed
    assert failed.endswith("; what it completed is compensated now")
    (undone,) = lines(log, "ERROR trio_romancy.saga")
    assert "logged_charge:1/compensation of x failed for good: ConnectionError: the bank is closed" in undone
    text = log.getvalue()
    for place in ("in ship", "in order", "in undo"):
        assert f", {place}\n" in text
    assert "4111" not in text
    assert "Secret" not in text.replace('await ship("Secret Street 1")', "")  # a line of the code


async def test_a_replay_does_not_log_a_failure_again(log: io.StringIO) -> None:
    async with App(":memory:") as app:
        assert await (await app.start(caught_error.options(id="x"))).result() == "RetryExhaustedError"
    assert len(lines(log, "WARNING", "ship:1 of x")) == 1
    assert not lines(log, "trio_romancy.workflow")


async def test_a_rollback_on_the_next_worker_does_not_log_the_failure_again(log: io.StringIO, tmp_path: object) -> None:
    database = f"{tmp_path}/romancy.db"

    async def until_rolled_back(app: App) -> None:
        while True:
            instance = await app.get_instance("x")
            if instance is not None and instance.status is Status.COMPENSATING:
                return
            await trio.sleep(0.1)

    async with App(database) as app:
        await app.start(order.options(id="x"), "4111", 0)
        await until_rolled_back(app)
    async with App(database) as app:
        with pytest.raises(WorkflowFailedError):
            await app.handle("x").result()
    assert len(lines(log, "WARNING trio_romancy.workflow")) == 1
    assert len(lines(log, "ERROR trio_romancy.saga")) == 1


async def test_a_cancelled_workflow_is_logged_at_info(log: io.StringIO) -> None:
    async with App(":memory:") as app:
        for id, reason in (("x", "the customer\ncalled"), ("y", None)):
            handle = await app.start(waiting.options(id=id))
            await trio.sleep(60)
            await handle.cancel(reason)
            with pytest.raises(WorkflowCancelledError):
                await handle.result()
    assert lines(log, "cancelled") == [
        "INFO trio_romancy.workflow instance x: workflow logged_waiting was cancelled: the customer\\ncalled",
        "INFO trio_romancy.workflow instance y: workflow logged_waiting was cancelled",
    ]
    assert not lines(log, "WARNING")


async def test_the_text_of_an_exception_cannot_look_like_another_record(log: io.StringIO) -> None:
    evil = f"x\n{FORGED}\x1b[31m\r\n{FORGED}\x00\x85{FORGED}\u2028{FORGED}" + "y" * 5000
    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError):
            await (await app.start(simple.options(id=f"x\n{FORGED}\x1b"), evil)).result()
    text = log.getvalue()
    assert FORGED in text
    for line in text.splitlines():
        assert not line.startswith(FORGED)
        assert line.isprintable()
    assert len(lines(log, "WARNING trio_romancy.workflow")[0]) < 1500
