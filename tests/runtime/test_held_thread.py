"""Code that holds the thread of trio is named while it does, with the place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from trio_romancy import App, WorkflowContext, activity, workflow

released = threading.Event()
records: list[logging.LogRecord] = []


class Release(logging.Handler):
    """Lets the code end that holds the thread, once it was named."""

    def emit(self, record: logging.LogRecord) -> None:
        records.append(record)
        released.set()


@pytest.fixture(autouse=True)
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("trio_romancy._tasks.held_thread._PERIOD", 0.01)
    monkeypatch.setattr("trio_romancy._tasks.scheduler.HELD_TOO_LONG", 0.05)
    released.clear()
    records.clear()
    handler = Release()
    logger = logging.getLogger("trio_romancy.workflow")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


def hold() -> None:
    assert released.wait(60)


@activity
async def holds_in_a_task_of_its_own() -> None:
    async def part() -> None:
        hold()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(part)


@workflow
async def holds(ctx: WorkflowContext) -> None:
    hold()


@workflow
async def holds_in_a_child_task(ctx: WorkflowContext) -> None:
    async def child() -> None:
        await ctx.sleep(1, id="s")
        hold()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)


@workflow
async def calls_what_holds(ctx: WorkflowContext) -> None:
    await holds_in_a_task_of_its_own()


@pytest.mark.parametrize(
    ("which", "what"),
    [
        (holds, "the workflow function"),
        (holds_in_a_child_task, "the workflow function"),
        (calls_what_holds, "holds_in_a_task_of_its_own:1"),
    ],
)
async def test_what_holds_the_thread_is_named(which: Any, what: str) -> None:
    async with App(":memory:") as app:
        await (await app.start(which.options(id="x"))).result()
    text = records[0].getMessage()
    assert text.startswith(f"{what} of instance x has held the thread for 0.")
    assert f"{__file__}:{hold.__code__.co_firstlineno + 1}" in text
    assert records[0].__dict__["instance_id"] == "x"


def test_the_watch_ends_with_the_last_app() -> None:
    async def main() -> None:
        async with App(":memory:"), App(":memory:"):
            assert sum("held threads" in thread.name for thread in threading.enumerate()) == 1

    trio.run(main)
    for thread in threading.enumerate():
        if "held threads" in thread.name:
            thread.join(60)
            assert not thread.is_alive()
