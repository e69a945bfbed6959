"""Log records say which instance they concern."""

from __future__ import annotations

import ast
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import trio_romancy
from trio_romancy import (
    App,
    Hooks,
    InstanceFilter,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowError,
    WorkflowInfo,
    activity,
    compensation,
    workflow,
)

from ..support.probe import before_each_insert, probe

logger = logging.getLogger("orders")


class Kept(logging.Handler):
    """Keeps the records that it lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def said(self, name: str = "orders") -> list[tuple[object, ...]]:
        return [(record.getMessage(), *attributes(record)) for record in self.records if record.name == name]


@pytest.fixture
def kept() -> Iterator[Kept]:
    yield from handling(InstanceFilter())


@pytest.fixture
def kept_once() -> Iterator[Kept]:
    yield from handling(InstanceFilter(drop_replayed=True))


def handling(filter: logging.Filter) -> Iterator[Kept]:
    handler, root = Kept(), logging.getLogger()
    handler.addFilter(filter)
    root.addHandler(handler)
    levels = {one: one.level for one in (logger, logging.getLogger("trio_romancy"))}
    for one in levels:
        one.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    for one, level in levels.items():
        one.setLevel(level)


def attributes(record: logging.LogRecord) -> tuple[object, object, object]:
    """The three, which must be there."""
    return (
        record.__dict__["instance_id"],
        record.__dict__["workflow"],
        record.__dict__["operation_id"],
    )


# -- what trio_romancy logs --------------------------------------------------------------------------------------------


def test_every_call_that_logs_about_an_instance_says_so_in_attributes() -> None:
    found = 0
    for path in Path(trio_romancy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            logs = "_logger.", "log_with_traceback"
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith(logs):
                continue
            if "instance_id" in ast.unparse(node) or any(word.arg == "extra" for word in node.keywords):
                found += 1
                assert [word.arg for word in node.keywords if word.arg == "extra"], (path.name, ast.unparse(node))
    assert found >= 10


@compensation(name="logging_undo")
async def undo() -> None:
    raise TerminalError("it cannot be undone")


@activity(name="logging_step", compensation=undo)
async def step() -> None:
    pass


@activity(name="logging_slow", timeout=1, retry=RetryPolicy.fixed(2, 0.1))
def slow() -> None:
    time.sleep(0.3)


@activity(name="logging_fail", retry=RetryPolicy.fixed(2, 1.0))
async def fail() -> None:
    raise ValueError("no")


@workflow(name="logging_failing")
async def failing(ctx: WorkflowContext) -> None:
    await step()
    await fail()


@workflow(name="logging_waiting")
async def waiting(ctx: WorkflowContext) -> None:
    await ctx.wait_event("never")


def logged(caplog: pytest.LogCaptureFixture, part: str) -> tuple[object, object, object]:
    """The attributes of the first record whose message has that part."""
    return attributes(next(record for record in caplog.records if part in record.getMessage()))


async def test_failed_attempts_and_compensations_are_logged_with_their_operation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "trio_romancy"):
        async with App(":memory:") as app:
            with pytest.raises(WorkflowError):
                await (await app.start(failing.options(id="i"))).result()
    assert logged(caplog, "attempt 1 failed") == ("i", "logging_failing", "logging_fail:1")
    assert logged(caplog, "failed for good") == ("i", "logging_failing", "logging_step:1/compensation")


@pytest.mark.real_clock
async def test_a_thread_that_overruns_is_logged_with_its_operation(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await slow.options(timeout=0.1)()

    with caplog.at_level(logging.INFO, "trio_romancy"):
        async with App(":memory:") as app:
            with pytest.raises(WorkflowError):
                await (await app.start(flow.options(id="i"))).result()
    assert logged(caplog, "its thread goes on after its timeout") == ("i", "flow", "logging_slow:1")


async def test_crashes_and_stuck_instances_are_logged_with_their_workflow(caplog: pytest.LogCaptureFixture) -> None:
    async with App(":memory:") as app:
        await app.start(waiting.options(id="i"))
        await trio.sleep(1)
        for _ in range(5):
            probe(app).crash_actors()
            await trio.sleep(2)
    for part in ("restarting it through replay", "crashed too often", "is stuck"):
        assert logged(caplog, part) == ("i", "logging_waiting", None)


async def test_what_the_database_refuses_is_logged_with_its_instance(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0

    def refuse(_: object) -> None:
        nonlocal refused
        refused += 1
        if refused < 3:
            raise ValueError("refused")

    before_each_insert(refuse, monkeypatch)
    async with App(":memory:") as app:
        with pytest.raises(WorkflowError):
            await (await app.start(failing.options(id="i"))).result()
    assert logged(caplog, "the database refuses") == ("i", None, None)


async def test_a_hook_that_raises_is_logged_with_what_it_was_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Hooks):
        def workflow_failed(self, workflow: WorkflowInfo) -> None:
            raise RuntimeError("no")

    async with App(":memory:", hooks=[Raising()]) as app:
        with pytest.raises(WorkflowError):
            await (await app.start(failing.options(id="i"))).result()
    assert logged(caplog, "Raising.workflow_failed") == ("i", "logging_failing", None)


# -- what user code logs -----------------------------------------------------------------------------------------------


@activity(name="logging_note")
async def note() -> None:
    logger.info("in the activity")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)


async def child() -> None:
    logger.info("in its child task")


@activity(name="logging_plain_note")
def plain_note() -> None:
    logger.info("in its thread")


@workflow(name="logging_noting")
async def noting(ctx: WorkflowContext) -> None:
    logger.info("in the workflow")
    await note()
    await plain_note()
    await ctx.sleep(3600)
    logger.info("in the workflow, later")


async def test_what_user_code_logs_gets_the_attributes_of_what_runs(kept: Kept) -> None:
    async with App(":memory:", idle_timeout=10**6) as app:
        logger.info("outside")
        await (await app.start(noting.options(id="i"))).result()
        logger.info("outside again", extra={"instance_id": "mine"})
    assert kept.said() == [
        ("outside", None, None, None),
        ("in the workflow", "i", "logging_noting", None),
        ("in the activity", "i", "logging_noting", "logging_note:1"),
        ("in its child task", "i", "logging_noting", "logging_note:1"),
        ("in its thread", "i", "logging_noting", "logging_plain_note:1"),
        ("in the workflow, later", "i", "logging_noting", None),
        ("outside again", "mine", None, None),
    ]


async def test_a_replay_logs_again_unless_that_is_dropped(kept: Kept, kept_once: Kept) -> None:
    async with App(":memory:", idle_timeout=10) as app:
        await (await app.start(noting.options(id="i"))).result()
    messages = [message for message, *_ in kept.said()]
    assert messages.count("in the workflow") == 2
    once = [message for message, *_ in kept_once.said()]
    assert once == [
        "in the workflow",
        "in the activity",
        "in its child task",
        "in its thread",
        "in the workflow, later",
    ]


async def test_what_trio_romancy_logs_itself_keeps_its_attributes_and_is_never_dropped(kept_once: Kept) -> None:
    async with App(":memory:") as app:
        with pytest.raises(WorkflowError):
            await (await app.start(failing.options(id="i"))).result()
    about = ("i", "logging_failing", "logging_fail:1")
    assert kept_once.said("trio_romancy.activity") == [
        ("logging_fail:1 of i: attempt 1 failed: ValueError: no", *about),
        ("logging_fail:1 of i: attempt 2 failed, and no other follows: ValueError: no", *about),
    ]
    assert (
        "logging_step:1/compensation of i failed for good: trio_romancy.TerminalError: it cannot be undone; fix the "
        "cause, then resume the instance",
        "i",
        "logging_failing",
        "logging_step:1/compensation",
    ) in (kept_once.said("trio_romancy.saga"))


async def test_a_formatter_can_show_the_attributes_of_any_record(kept: Kept) -> None:
    async with App(":memory:", idle_timeout=10**6) as app:
        await (await app.start(noting.options(id="i"))).result()
    formatter = logging.Formatter("%(instance_id)s %(workflow)s %(operation_id)s %(message)s")
    lines = [formatter.format(record) for record in kept.records]
    assert "i logging_noting logging_note:1 in the activity" in lines
