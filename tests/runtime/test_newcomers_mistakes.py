"""Mistakes that newcomers make, each in a small program: which are caught, and by what sentence.

Each program runs on an app in memory. Its instance leaves memory in each wait of an hour, and is replayed. What catches
the mistake is an error of the import or the instance, or a record of the log. ``pytest -s`` prints the table. Mistakes
that are not caught are named on the page of common mistakes, too.
"""

from __future__ import annotations

import gc
import itertools
import tempfile
import time
import uuid
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, frozen

from trio_romancy import (
    App,
    DefinitionError,
    RetryPolicy,
    RomancyError,
    Workflow,
    WorkflowContext,
    activity,
    compensation,
    current_activity,
    workflow,
)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "common-mistakes.md"

HOUR = 3600


@activity(name="newcomer_fetch")
async def fetch(url: str) -> str:
    effects.append(url)
    return f"<page of {url}>"


@activity(name="newcomer_wait", retry=RetryPolicy.fixed(3, HOUR))
async def second_time_lucky(order: object) -> str:
    effects.append(str(order))
    if current_activity().attempt == 1:
        raise ConnectionError("no answer")
    return "done"


effects: list[str] = []
"""What activities did."""

Program = Callable[[App], Awaitable[object]]


@frozen
class Mistake:
    program: Program
    caught_by: str | None
    """A part of the sentence that catches it; None: nothing does."""
    ends: str
    """How the instance ends: its result, or the class of the error."""
    options: dict[str, Any]


MISTAKES: dict[str, Mistake] = {}


def mistake(name: str, *, caught_by: str | None, ends: str, **options: Any) -> Callable[[Program], Program]:
    def note(program: Program) -> Program:
        MISTAKES[name] = Mistake(program, caught_by, ends, options)
        return program

    return note


async def result_of(app: App, flow: Workflow[[], Any]) -> object:
    return await (await app.start(flow.options(id="x"))).result()


# -- what differs on replay --------------------------------------------------------------------------------------------


@mistake("random decides", caught_by="the journal goes on with activity_completed of 'n", ends="WorkflowStuckError")
async def chance(app: App) -> object:
    draw = iter([0.9, 0.1])  # what random.random() may well return

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        if next(draw) > 0.5:
            await fetch("a.org")
        await ctx.sleep(HOUR)

    return await result_of(app, flow)


@mistake("datetime.now() decides", caught_by="the journal goes on with activity_completed", ends="WorkflowStuckError")
async def clock(app: App) -> object:
    began = datetime.now()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        nonlocal began
        if datetime.now() >= began:
            await fetch("a.org")
        began = datetime(9999, 1, 1)  # by the replay it has become later than some limit
        await ctx.sleep(HOUR)

    return await result_of(app, flow)


@mistake(
    "uuid4() is an argument that is attempted again",
    caught_by="argument 'order' of 'newcomer_wait:1' is not the one of the earlier run",
    ends="WorkflowStuckError",
)
async def drawn_argument(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await second_time_lucky(str(uuid.uuid4()))

    return await result_of(app, flow)


@mistake("uuid4() is an argument of a recorded call", caught_by=None, ends="done")
async def drawn_argument_recorded(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await fetch(str(uuid.uuid4()))
        await ctx.sleep(HOUR)
        return "done"

    return await result_of(app, flow)


@mistake(
    "uuid4() is an argument of a recorded call, with the check",
    caught_by="argument 'url' of 'newcomer_fetch:1' is not the one of the earlier run",
    ends="WorkflowStuckError",
    check_arguments=True,
)
async def drawn_argument_checked(app: App) -> object:
    return await drawn_argument_recorded(app)


@mistake("a global that changes decides", caught_by="the journal goes on with activity", ends="WorkflowStuckError")
async def global_state(app: App) -> object:
    flags = ["on"]

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        if flags:
            await fetch("a.org")
            flags.clear()
        await ctx.sleep(HOUR)

    return await result_of(app, flow)


@mistake(
    "a set is iterated over, with the check",
    caught_by="argument 'url' of 'newcomer_fetch:1' is not the one of the earlier run",
    ends="WorkflowStuckError",
    check_arguments=True,
)
async def set_order(app: App) -> object:
    order = itertools.cycle([["a.org", "b.org"], ["b.org", "a.org"]])  # of a set of strings, in two processes

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        for url in next(order):
            await fetch(url)
        await ctx.sleep(HOUR)

    return await result_of(app, flow)


@mistake("a file is read in workflow code", caught_by=None, ends="read")
async def reads_file(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        with tempfile.TemporaryFile("w+") as file:
            text = file.read() or "read"
        await ctx.sleep(HOUR)
        return text

    return await result_of(app, flow)


# -- time --------------------------------------------------------------------------------------------------------------


@mistake("trio.sleep in workflow code", caught_by="use ctx.sleep, ctx.wait_event or an activity", ends="done")
async def trio_sleep(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await trio.sleep(HOUR)
        return "done"

    return await result_of(app, flow)


@mistake("time.sleep in workflow code, for less than a second", caught_by=None, ends="done")
async def time_sleep(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        time.sleep(0.01)  # noqa: ASYNC251
        return "done"

    return await result_of(app, flow)


@mistake("a blocking request of less than a second in an async activity", caught_by=None, ends="done")
async def blocking_activity(app: App) -> object:
    @activity
    async def request() -> str:
        time.sleep(0.01)  # noqa: ASYNC251  # as requests.get does
        return "done"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await request()

    return await result_of(app, flow)


@mistake("trio.move_on_after around an operation", caught_by="use ctx.move_on_after", ends="WorkflowStuckError")
async def trio_timeout(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        with trio.move_on_after(5):
            await ctx.wait_event("paid")

    return await result_of(app, flow)


@mistake("a time without a time zone", caught_by="has no time zone", ends="WorkflowFailedError")
async def naive_time(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.sleep_until(datetime(2030, 1, 1))

    return await result_of(app, flow)


# -- calls of the wrong thing ------------------------------------------------------------------------------------------


@mistake("app.start in workflow code", caught_by="call `ctx.start` or `ctx.run`", ends="WorkflowStuckError")
async def client_starts(app: App) -> object:
    @workflow
    async def child(ctx: WorkflowContext) -> None: ...

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await app.start(child)

    return await result_of(app, flow)


@mistake("app.publish in workflow code", caught_by="call `ctx.publish` or `ctx.send_to`", ends="WorkflowStuckError")
async def client_publishes(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await app.publish("news", "hello")

    return await result_of(app, flow)


@mistake("ctx in an activity", caught_by="ctx is for workflow code; call `trio.sleep`", ends="WorkflowFailedError")
async def context_in_activity(app: App) -> object:
    @activity
    async def poll(ctx: WorkflowContext) -> None:
        await ctx.sleep(5)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await poll(ctx)

    return await result_of(app, flow)


@mistake("current_activity() in workflow code", caught_by="is for activities", ends="WorkflowFailedError")
async def activity_of_workflow(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return current_activity().idempotency_key

    return await result_of(app, flow)


@mistake("wrong arguments", caught_by="too many positional arguments", ends="WorkflowFailedError")
async def wrong_arguments(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await fetch("a.org", 3)  # type: ignore[call-arg]

    return await result_of(app, flow)


@mistake("an activity that is a method", caught_by="it is a method", ends="DefinitionError")
async def method(app: App) -> object:
    class Shop:
        @activity
        async def charge(self, order: str) -> str:
            return order

    return Shop


@mistake("a compensation is called like an activity", caught_by=None, ends="done")
async def calls_compensation(app: App) -> object:
    @compensation
    async def refund() -> None:
        effects.append("refunded")

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await refund()  # the plain function, again on each replay
        await ctx.sleep(HOUR)
        return "done"

    return await result_of(app, flow)


@mistake("a missing await", caught_by="coroutine 'call_activity' was never awaited", ends="done")
async def missing_await(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        fetch("a.org")  # type: ignore[unused-coroutine]
        return "done"

    return await result_of(app, flow)


# -- tasks, ids and clean-up -------------------------------------------------------------------------------------------


@mistake("no ids in a nursery", caught_by="with .options(id=...)", ends="WorkflowFailedError")
async def no_ids(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, "a.org")
            nursery.start_soon(fetch, "b.org")

    return await result_of(app, flow)


@mistake("one id in a loop", caught_by="'page' is used a second time", ends="WorkflowFailedError")
async def same_id(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        for url in ("a.org", "b.org"):
            await fetch.options(id="page")(url)

    return await result_of(app, flow)


@mistake("an activity in the finally of a generator that is left", caught_by="contextlib.aclosing", ends="0")
async def left_generator(app: App) -> object:
    async def pages() -> AsyncGenerator[int, None]:
        try:
            yield 0
            yield 1
        finally:
            await fetch("closed")

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        async for page in pages():  # noqa: B007
            break
        gc.collect()
        await ctx.sleep(HOUR)
        return page

    return await result_of(app, flow)


@mistake("BaseException is caught around a wait", caught_by=None, ends="woken")
async def catches_everything(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        try:
            await ctx.sleep(HOUR)
        except BaseException:
            return "gave up"  # no outcome: the instance has left memory, and is replayed
        return "woken"

    return await result_of(app, flow)


@mistake("Cancelled is swallowed, and the code goes on", caught_by=None, ends="woken")
async def swallows_cancelled(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        with suppress(trio.Cancelled):
            await ctx.sleep(HOUR)
        await fetch("a.org")
        return "woken"

    return await result_of(app, flow)


@mistake("Cancelled is swallowed in a loop", caught_by="its code was left where it is", ends="None")
async def swallows_cancelled_for_ever(app: App) -> object:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        while True:
            with suppress(BaseException):
                await ctx.sleep(1)

    await app.start(flow.options(id="x"))
    await trio.sleep(10)
    return None  # and the app closes


# -- data --------------------------------------------------------------------------------------------------------------


@mistake("a result that does not fit its annotation", caught_by="expected int, got 'three'", ends="WorkflowFailedError")
async def wrong_result(app: App) -> object:
    @activity
    async def count() -> int:
        return "three"  # type: ignore[return-value]

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await count()

    return await result_of(app, flow)


@define
class Order:
    number: str
    is_sent: bool = False


@mistake("an activity changes its argument", caught_by="the activity has changed what it was passed", ends="done")
async def changes_argument(app: App) -> object:
    @activity(retry=RetryPolicy.fixed(3, HOUR))
    async def send(order: Order) -> str:
        order.is_sent = True
        if current_activity().attempt == 1:
            raise ConnectionError
        return "done"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await send(Order("A"))

    return await result_of(app, flow)


# -- the table ---------------------------------------------------------------------------------------------------------


async def ending(made: Mistake) -> tuple[str, str]:
    """Run a program. Returns how its instance ended, and the text of the error."""
    try:
        with trio.fail_after(24 * HOUR):
            async with App(":memory:", **made.options) as app:
                return str(await made.program(app)), ""
    except (RomancyError, DefinitionError) as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_mistake_is_caught_by_its_sentence_or_known_not_to_be(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = MISTAKES[name]
    effects.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", RuntimeWarning)
        ended, error = await ending(made)
        gc.collect()
    logged = [f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}" for record in caplog.records]
    said = [error, *logged, *(str(warning.message) for warning in warned if warning.category is RuntimeWarning)]
    found = [text for text in said if made.caught_by is not None and made.caught_by in text]
    print(f"\n{'caught' if found else 'NOT caught'}: {name}: {found[0][:200] if found else ''}")
    assert ended == made.ends
    assert bool(found) == (made.caught_by is not None), said


def test_there_are_more_than_twenty_and_the_page_names_those_that_are_not_caught() -> None:
    missed = [name for name, made in MISTAKES.items() if made.caught_by is None]
    assert len(MISTAKES) > 20
    page = PAGE.read_text()
    listed = page[page.index("## What is not noticed") :]
    assert [name for name in missed if f"| {name} |" not in listed] == []
