"""Events reach who waits for them: before, at, and after the wait, once each, in order."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
from attrs import define
from sqlalchemy import Connection, func, select

from trio_romancy import (
    App,
    EntryKind,
    EventTimeoutError,
    InstanceNotFoundError,
    InvalidDataError,
    InvalidInputError,
    Limits,
    MessageTimeoutError,
    PayloadTooLargeError,
    ReceivedEvent,
    RomancyError,
    SendResult,
    Status,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from trio_romancy._storage.sql import tables as schema
from trio_romancy.clock import VIRTUAL_EPOCH, to_datetime
from trio_romancy.testing import How
from trio_romancy.testing.exploration import _CrashingApp

from ..support.databases import SHARED_KINDS
from ..support.probe import before_each_rest, probe

MICROSECOND = 1e-6

runs: list[str] = []
"""The instance of each run of a workflow function, also of replays."""


@pytest.fixture(autouse=True)
def forget() -> None:
    runs.clear()


@workflow(name="events_take")
async def take(ctx: WorkflowContext, type: str, count: int, first_sleep: float) -> list[Any]:
    """The data of so many events, waited for one after the other."""
    runs.append(ctx.instance_id)
    if first_sleep:
        await ctx.sleep(first_sleep)
    return [(await ctx.wait_event(type)).data for _ in range(count)]


@workflow(name="events_two_tries")
async def two_tries(ctx: WorkflowContext) -> list[list[str]]:
    seen: list[list[str]] = [[], []]
    for number in range(2):
        try:
            seen[number].append((await ctx.wait_event("t", timeout=100)).data)
        except EventTimeoutError:
            pass
    return seen


@workflow(name="events_take_until_timeout")
async def take_until_timeout(ctx: WorkflowContext, type: str, subject: str | None, timeout: float) -> list[Any]:
    """The data of events until none comes in time."""
    runs.append(ctx.instance_id)
    seen = []
    while True:
        try:
            seen.append((await ctx.wait_event(type, subject, timeout=timeout)).data)
        except EventTimeoutError:
            return seen


async def send(app: App, type: str, *data: Any, **attributes: Any) -> list[SendResult]:
    return [await app.send_event(type, each, **attributes) for each in data]


async def count_rows(app: App) -> dict[str, int]:
    """How many messages, channels and waits are stored."""

    def count(connection: Connection) -> dict[str, int]:
        tables = {"messages": schema.messages, "channels": schema.channels, "waits": schema.waits}
        return {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in tables.items()
        }

    return await probe(app).read(count)


def resident(app: App) -> int:
    return len(probe(app).residents)


# -- before, at, after -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])
@pytest.mark.parametrize("first_sleep", [0.0, 100.0], ids=["after the wait", "before the wait"])
async def test_an_event_is_received_whether_it_came_before_or_after_the_wait(
    database: str, first_sleep: float, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(take, "paid", 2, first_sleep)
        await trio.sleep(50)
        sent = await app.send_event("paid", {"amount": 7})
        assert (sent.is_duplicate, sent.waiting) == (False, 0 if first_sleep else 1)
        await trio.sleep(100)
        await app.send_event("paid", None)
        assert await handle.result() == [{"amount": 7}, None]


async def sends_at(app: App, type: str, moment: Callable[[], Awaitable[object]]) -> None:
    handle = await app.start(take, type, 2, 0.0)
    await moment()
    await app.send_event(type, 1)
    await moment()
    await app.send_event(type, 2)
    assert await handle.result(timeout=60) == [1, 2]


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
@pytest.mark.parametrize("moment", range(16))
async def test_an_event_sent_at_any_checkpoint_is_received(moment: int, idle_timeout: float) -> None:
    async def checkpoints() -> None:
        for _ in range(moment):
            await trio.lowlevel.checkpoint()

    async with App(":memory:", idle_timeout=idle_timeout) as app:
        await sends_at(app, "now", checkpoints)


@pytest.mark.real_clock
@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_event_sent_at_any_moment_is_received(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app, trio.open_nursery() as nursery:
        for moment in range(20):
            nursery.start_soon(sends_at, app, f"type-{moment}", partial(trio.sleep, moment * 0.001))


async def test_events_sent_before_the_start_are_not_seen_even_at_the_same_microsecond(database: str) -> None:
    async with App(database) as app:
        begun = trio.current_time()
        await send(app, "tick", "long before")
        await trio.sleep(10)
        before = await app.send_event("tick", "just before")
        first = await app.start(take, "tick", 1, 0.0)
        await send(app, "tick", "between")
        second = await app.start(take, "tick", 1, 0.0)
        after = await app.send_event("tick", "just after")
        assert trio.current_time() == begun + 10
        assert await first.result() == ["between"]
        assert await second.result() == ["just after"]
        assert before.id != after.id


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_client_sends_what_was_before_its_start_and_after(database: str) -> None:
    async with App(database, worker=False) as client:
        await send(client, "tick", "before")
        handle = await client.start(take, "tick", 3, 0.0)
        await send(client, "tick", "after", to=handle.instance_id)
        async with App(database, idle_timeout=0.1) as app:
            await send(client, "tick", "from elsewhere")
            await trio.sleep(0.5)
            await send(app, "tick", "from here")
            assert await handle.result(timeout=60) == ["after", "from elsewhere", "from here"]


async def test_an_event_is_taken_once_and_the_next_wait_gets_the_next_one_in_order_of_acceptance(
    database: str,
) -> None:
    async with App(database) as app:
        early = await app.start(take, "n", 6, 0.0)
        late = await app.start(take, "n", 6, 1000.0)
        await trio.sleep(1)
        await send(app, "n", 0, 1, 2)
        await trio.sleep(1)
        await send(app, "n", 3, 4, 5)
        assert await early.result() == await late.result() == [0, 1, 2, 3, 4, 5]


async def test_events_of_another_type_are_no_concern_of_a_wait(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(take_until_timeout, "Paid", None, 100.0)
        await trio.sleep(1)
        for type in ("paid", "Paid ", "PAID", "P\u00e4id"):
            assert (await app.send_event(type, type)).waiting == 0
        assert (await app.send_event("Paid", "ours")).waiting == 1
        assert await handle.result() == ["ours"]


async def test_an_event_has_the_attributes_that_it_was_sent_with(database: str) -> None:
    received: list[ReceivedEvent[Any]] = []

    @workflow(name="events_attributes")
    async def attributes(ctx: WorkflowContext) -> None:
        received.extend([await ctx.wait_event("t") for _ in range(2)])

    when = datetime(2020, 2, 29, 12, 30, 1, 234567, tzinfo=timezone(timedelta(hours=-3)))
    async with App(database) as app:
        handle = await app.start(attributes)
        await trio.sleep(5)
        sent = await app.send_event("t", [1], source="/shop", id="e-1", subject="S \u2603", time=when)
        assert sent == SendResult("e-1", False, 1)
        await trio.sleep(5)
        anonymous = await app.send_event("t")
        await handle.result()
    accepted = to_datetime(VIRTUAL_EPOCH + 10_000_000)
    assert received == [
        ReceivedEvent(id="e-1", source="/shop", type="t", subject="S \u2603", time=when, data=[1]),
        ReceivedEvent(id=anonymous.id, source="trio_romancy", type="t", subject=None, time=accepted, data=None),
    ]
    assert [event.time.tzinfo for event in received] == [UTC, UTC]


# -- whom it concerns --------------------------------------------------------------------------------------------------


async def test_a_wait_with_a_subject_takes_events_about_it_and_one_without_takes_any(database: str) -> None:
    async with App(database) as app:
        about_a = await app.start(take_until_timeout, "t", "a", 50.0)
        about_b = await app.start(take_until_timeout, "t", "b", 50.0)
        about_any = await app.start(take_until_timeout, "t", None, 50.0)
        await trio.sleep(1)
        for subject, waiting in (("a", 2), (None, 1), ("c", 1)):
            assert (await app.send_event("t", str(subject), subject=subject)).waiting == waiting
            await trio.sleep(1)  # until they wait again
        await app.send_event("t", "b", subject="b")
        await app.send_event("t", "A", subject="A")
        assert await about_a.result() == ["a"]
        assert await about_b.result() == ["b"]
        assert await about_any.result() == ["a", "None", "c", "b", "A"]


async def test_an_event_to_one_instance_is_for_that_one_only(database: str) -> None:
    async with App(database) as app:
        first = await app.start(take_until_timeout, "t", None, 50.0)
        second = await app.start(take_until_timeout, "t", None, 50.0)
        await trio.sleep(1)
        assert (await app.send_event("t", "to first", to=first.instance_id)).waiting == 1
        await trio.sleep(1)  # until it waits again
        assert (await app.send_event("t", "to both")).waiting == 2
        await trio.sleep(1)
        assert (await app.send_event("t", "to second", to=second.instance_id)).waiting == 1
        assert (await app.send_event("other", "not waited for", to=second.instance_id)).waiting == 0
        assert await first.result() == ["to first", "to both"]
        assert await second.result() == ["to both", "to second"]


async def test_an_event_to_an_instance_that_has_ended_is_accepted_and_waits_for_nobody(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(take, "t", 0, 0.0)
        await handle.result()
        assert (await app.send_event("t", 1, to=handle.instance_id)).waiting == 0
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.COMPLETED


async def test_the_same_source_and_id_is_a_duplicate_and_is_dropped(database: str) -> None:
    async with App(database, idle_timeout=5) as app:
        handle = await app.start(take_until_timeout, "t", None, 100.0)
        await trio.sleep(1)
        assert await app.send_event("t", "first", source="s", id="1") == SendResult("1", False, 1)
        assert await app.send_event("t", "again", source="s", id="1") == SendResult("1", True, 0)
        await trio.sleep(50)
        assert (await app.send_event("t", "long after", source="s", id="1")).is_duplicate
        assert (await app.send_event("u", "of another type", source="s", id="1")).is_duplicate
        assert (await app.send_event("t", "to one", source="s", id="1", to=handle.instance_id)).is_duplicate
        assert not (await app.send_event("t", "another source", source="S", id="1")).is_duplicate
        assert not (await app.send_event("t", "another id", source="s", id="1 ")).is_duplicate
        assert await handle.result() == ["first", "another source", "another id"]


async def test_of_many_sent_at_once_under_one_id_one_is_accepted(database: str) -> None:
    answers: list[SendResult] = []

    async def send_it(number: int) -> None:
        answers.append(await app.send_event("t", number, source="s", id="same"))

    async with App(database) as app:
        handle = await app.start(take_until_timeout, "t", None, 100.0)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(send_it, number)
        assert sorted(sent.is_duplicate for sent in answers) == [False] + [True] * 9
        assert len(await handle.result()) == 1


# -- data --------------------------------------------------------------------------------------------------------------


@define
class Payment:
    amount: float
    when: datetime
    note: bytes = b""


async def test_data_are_structured_as_told_and_data_that_do_not_fit_count_as_received(database: str) -> None:
    @workflow(name="events_structured")
    async def structured(ctx: WorkflowContext) -> list[Any]:
        runs.append(ctx.instance_id)
        first = await ctx.wait_event("paid", data_type=Payment)
        assert isinstance(first.data, Payment)
        seen: list[Any] = [first.data.amount, first.data.when.year, first.data.note.decode()]
        try:
            await ctx.wait_event("paid", data_type=Payment)
        except InvalidDataError as error:
            seen.append(str(error))
        await ctx.sleep(100)  # and again, from the journal
        seen.append((await ctx.wait_event("paid", data_type=int | None)).data)
        return seen

    async with App(database, idle_timeout=5) as app:
        handle = await app.start(structured)
        await app.send_event("paid", Payment(1.5, datetime(2024, 1, 1, tzinfo=UTC), b"hi"))
        await app.send_event("paid", {"amount": "much"})
        await app.send_event("paid", 3)
        amount, year, note, problem, last = await handle.result()
    assert (amount, year, note, last) == (1.5, 2024, "hi", 3)
    assert "amount" in problem
    assert "'much'" in problem
    assert len(runs) == 2


async def test_data_that_do_not_fit_fail_the_workflow_that_does_not_catch_that(database: str) -> None:
    @workflow(name="events_of_int")
    async def of_int(ctx: WorkflowContext) -> int:
        number: int = (await ctx.wait_event("t", data_type=int)).data
        return number

    async with App(database) as app:
        handle = await app.start(of_int)
        await app.send_event("t", "x")
        with pytest.raises(WorkflowFailedError, match="expected int, got 'x'"):
            await handle.result()


@pytest.mark.parametrize(
    "data",
    [None, True, 0, -1.5, 2**60, "", "\u2603\U0001f600", "\0", "\ud800", [], {}, {"a": [{"": None}]}, "x" * 100_000],
)
async def test_plain_data_arrive_as_they_were_sent(data: Any) -> None:
    async with App(":memory:") as app:
        handle = await app.start(take, "t", 1, 0.0)
        await app.send_event("t", data)
        assert await handle.result() == [data]


# -- timeouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])
async def test_a_wait_times_out_at_its_time_with_an_error_that_says_what_it_waited_for(
    database: str, idle_timeout: float
) -> None:
    caught: list[EventTimeoutError] = []
    assert issubclass(EventTimeoutError, trio.TooSlowError)
    assert issubclass(MessageTimeoutError, trio.TooSlowError)

    @workflow(name="events_times_out")
    async def times_out(ctx: WorkflowContext) -> list[float]:
        moments = [ctx.now()]
        for subject, timeout in ((None, 60.5), ("s", timedelta(days=400))):
            try:
                await ctx.wait_event("never", subject, timeout=timeout)
            except EventTimeoutError as error:
                caught.append(error)
            moments.append(ctx.now())
        return [(after - before).total_seconds() for before, after in pairwise(moments)]

    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(times_out)
        assert await handle.result() == [60.5, 400 * 24 * 3600.0]
        assert await count_rows(app) | {"channels": 0} == {"messages": 0, "waits": 0, "channels": 0}
        history = await app.history(handle.instance_id)
    first, second = caught[0], caught[-1]
    assert (first.instance_id, first.operation_id) == (handle.instance_id, "wait_event:1")
    assert (first.type, first.subject) == ("never", None)
    assert (second.operation_id, second.type, second.subject) == ("wait_event:2", "never", "s")
    assert "'s'" in str(second)
    assert [entry.kind for entry in history[:2]] == [EntryKind.WAIT_TIMED_OUT] * 2


@pytest.mark.parametrize("timeout", [0, -5.0, timedelta(days=-1)], ids=str)
async def test_a_timeout_that_is_not_positive_takes_what_is_there_and_does_not_wait(
    database: str, timeout: float | timedelta
) -> None:
    @workflow(name="events_peeks")
    async def peeks(ctx: WorkflowContext) -> list[Any]:
        await ctx.sleep(10)
        begun, seen = ctx.now(), []
        try:
            while True:
                seen.append((await ctx.wait_event("t", timeout=timeout)).data)
        except EventTimeoutError:
            return [seen, (ctx.now() - begun).total_seconds()]

    async with App(database) as app:
        handle = await app.start(peeks)
        await send(app, "t", 1, 2)
        seen, took = await handle.result()
    assert took == 0
    # Accepted before the deadline if that is now; long after it if that was a day ago.
    assert seen in ([[1, 2], []] if timeout else [[1, 2]])


@pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])
@pytest.mark.parametrize(
    ("offset", "expected"),
    [(-MICROSECOND, [["sent"], []]), (0.0, None), (MICROSECOND, [[], ["sent"]])],
    ids=["just in time", "at the same instant", "just too late"],
)
async def test_an_event_about_the_time_of_the_timeout_goes_to_this_wait_or_the_next(
    database: str, idle_timeout: float, offset: float, expected: list[list[str]] | None
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        begun = trio.current_time()
        handle = await app.start(two_tries)
        await trio.sleep_until(begun + 100 + offset)
        await app.send_event("t", "sent")
        result = await handle.result()
    assert result == expected if expected else result in ([["sent"], []], [[], ["sent"]])


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
@pytest.mark.parametrize(("sent_after", "expected"), [(50, [["in time"], []]), (150, [[], ["in time"]])])
async def test_while_no_worker_lives_an_event_in_time_wins_over_the_timeout_and_a_late_one_does_not(
    database: str, sent_after: float, expected: list[list[str]]
) -> None:
    async with App(database) as app:
        handle = await app.start(two_tries)
        await trio.sleep(10)
    async with App(database, worker=False) as client:
        await trio.sleep(sent_after - 10)
        await client.send_event("t", "in time")
    await trio.sleep(1000)
    async with App(database) as app:
        assert await app.handle(handle.instance_id).result() == expected


async def test_an_event_that_came_while_the_worker_was_gone_wins_over_the_timeout_that_passed_with_it(
    database: str,
) -> None:
    async with App(database) as app:
        handle = await app.start(take_until_timeout, "t", None, 100.0)
        await trio.sleep(99.5)
        probe(app).abandon()
        await app.send_event("t", "in time")
        assert await handle.result() == ["in time"]


async def test_a_timeout_counts_from_when_the_workflow_came_to_wait_and_not_from_its_recovery(database: str) -> None:
    async with App(database, idle_timeout=1e6) as app:
        handle = await app.start(take_until_timeout, "t", None, 100.0)
        for _ in range(2):
            await trio.sleep(40)
            probe(app).crash_actors()
        await handle.result()
        assert trio.current_time() == pytest.approx(100, abs=1)


# -- many waits in one workflow ----------------------------------------------------------------------------------------


@workflow(name="events_branches")
async def branches(ctx: WorkflowContext, subjects: list[str | None], timeout: float | None) -> list[list[Any]]:
    """Wait in a branch for each subject. Returns what each has got."""
    runs.append(ctx.instance_id)
    got: list[list[Any]] = [[] for _ in subjects]

    async def branch(number: int, subject: str | None) -> None:
        with ctx.branch(f"b{number}"):
            try:
                got[number].append((await ctx.wait_event("t", subject, timeout=timeout)).data)
            except EventTimeoutError:
                got[number].append("timeout")

    async with trio.open_nursery() as nursery:
        for number, subject in enumerate(subjects):
            nursery.start_soon(branch, number, subject)
    return got


@pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])
async def test_of_two_waits_for_one_type_each_gets_one(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(branches, [None, None, None], 1000.0)
        await trio.sleep(50)
        await send(app, "t", 1)
        await trio.sleep(50)
        await send(app, "t", 2)
        assert sorted(str(one) for (one,) in await handle.result()) == ["1", "2", "timeout"]
        both_at_once = await app.start(branches, [None, None], None)
        await trio.sleep(50)
        await send(app, "t", 3, 4)
        assert sorted(await both_at_once.result()) == [[3], [4]]
        before_both = await app.start(branches, [None, None], None)
        await send(app, "t", 5, 6)
        assert sorted(await before_both.result()) == [[5], [6]]


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
@pytest.mark.parametrize("pause", [0.0, 30.0])
async def test_waits_with_subjects_get_theirs_in_whatever_order_they_come(
    database: str, order: str, pause: float
) -> None:
    async with App(database, idle_timeout=5) as app:
        handle = await app.start(branches, ["a", "b", "c"], None)
        await trio.sleep(pause)
        for subject in order:
            await app.send_event("t", subject, subject=subject)
            await trio.sleep(pause)
        assert await handle.result() == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("pause", [0.0, 30.0])
async def test_an_event_with_a_subject_goes_to_one_of_the_waits_that_it_fits_and_the_other_gets_the_next(
    database: str, pause: float
) -> None:
    async with App(database, idle_timeout=5) as app:
        handle = await app.start(branches, ["a", None], 1000.0)
        await trio.sleep(pause)
        await app.send_event("t", 1, subject="a")
        await trio.sleep(pause)
        await app.send_event("t", 2, subject="a")
        assert sorted(await handle.result()) == [[1], [2]]


async def test_a_wait_in_a_child_task_needs_an_id_of_its_own(database: str) -> None:
    @workflow(name="events_child_tasks")
    async def child_tasks(ctx: WorkflowContext, named: bool) -> list[Any]:
        got = []

        async def child(number: int) -> None:
            got.append((await ctx.wait_event("t", id=f"child-{number}" if named else None)).data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, 1)
            nursery.start_soon(child, 2)
        return sorted(got)

    async with App(database) as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await app.start(child_tasks, False)).result()
        assert "OperationIdError" in caught.value.traceback
        assert "branch" in caught.value.traceback
        handle = await app.start(child_tasks, True)
        await send(app, "t", 1, 2)
        assert await handle.result() == [1, 2]
        ids = {entry.operation_id for entry in await app.history(handle.instance_id)}
        assert ids == {"child-1", "child-2", ""}


# -- waits that are cancelled ------------------------------------------------------------------------------------------


@workflow(name="events_gives_up")
async def gives_up(ctx: WorkflowContext, how: str) -> list[Any]:
    """Wait for an event, give up after 100 s, and wait again."""
    runs.append(ctx.instance_id)
    seen: list[Any] = []
    if how == "scope":
        with ctx.move_on_after(100):
            seen.append((await ctx.wait_event("t")).data)
    else:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with ctx.branch("wait"):
                    seen.append((await ctx.wait_event("t")).data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            await ctx.sleep(100)
            nursery.cancel_scope.cancel()
    seen.append("|")
    try:
        while True:
            seen.append((await ctx.wait_event("t", timeout=1000)).data)
    except EventTimeoutError:
        return seen


@pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])
@pytest.mark.parametrize("how", ["scope", "nursery"])
async def test_an_event_that_a_cancelled_wait_did_not_take_goes_to_the_next(
    database: str, how: str, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        early, late = await app.start(gives_up, how), await app.start(gives_up, how)
        await trio.sleep(50)
        await app.send_event("t", 1, to=early.instance_id)
        await trio.sleep(100)
        await app.send_event("t", 2)
        assert await early.result() == [1, "|", 2]
        assert await late.result() == ["|", 2]
        assert (await count_rows(app))["waits"] == 0


@pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])
@pytest.mark.parametrize("how", ["scope", "nursery"])
@pytest.mark.parametrize("offset", [-1, 0, 1])
async def test_an_event_at_the_instant_of_a_cancellation_is_not_lost_and_not_taken_twice(
    database: str, how: str, idle_timeout: float, offset: int
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(gives_up, how)
        await trio.sleep_until(100 + offset * MICROSECOND)
        await send(app, "t", 1, 2)
        result = await handle.result()
        expected = {-1: [[1, "|", 2]], 0: [[1, "|", 2], ["|", 1, 2]], 1: [["|", 1, 2]]}
        assert result in expected[offset]


@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("how", ["scope", "nursery"])
async def test_an_event_some_checkpoints_after_the_cancellation_is_not_lost(how: str, moment: int) -> None:
    async with App(":memory:", idle_timeout=1e6) as app:
        handle = await app.start(gives_up, how)
        await trio.sleep_until(100)
        for _ in range(moment):
            await trio.lowlevel.checkpoint()
        await send(app, "t", 1)
        probe(app).crash_actors()
        await send(app, "t", 2)
        assert await handle.result() in ([1, "|", 2], ["|", 1, 2])


async def test_a_wait_that_is_cancelled_by_workflow_code_is_cancelled_again_on_replay(database: str) -> None:
    @workflow(name="events_first_wins")
    async def first_wins(ctx: WorkflowContext) -> list[Any]:
        runs.append(ctx.instance_id)
        seen: list[Any] = []

        async def wait(subject: str) -> None:
            with ctx.branch(subject):
                seen.append((await ctx.wait_event("t", subject)).data)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "a")
            nursery.start_soon(wait, "b")
        await ctx.sleep(100)
        seen.append((await ctx.wait_event("t", "a")).data)
        seen.append((await ctx.wait_event("t", "b", timeout=10_000)).data)
        return seen

    async with App(database, idle_timeout=5) as app:
        handle = await app.start(first_wins)
        await trio.sleep(50)
        await app.send_event("t", "b1", subject="b")
        await trio.sleep(50)
        await app.send_event("t", "a1", subject="a")
        await app.send_event("t", "b2", subject="b")
        assert await handle.result() == ["b1", "a1", "b2"]
    assert len(runs) >= 3


async def test_a_cancelled_instance_waits_no_more(database: str) -> None:
    async with App(database, idle_timeout=5) as app:
        for pause in (0.0, 1.0, 50.0):
            handle = await app.start(take, "t", 1, 0.0)
            await trio.sleep(pause)
            assert await handle.cancel("enough")
            with pytest.raises(WorkflowCancelledError):
                await handle.result()
            assert (await app.send_event("t", 1)).waiting == 0
            assert (await count_rows(app))["waits"] == 0


# -- the same again ----------------------------------------------------------------------------------------------------


@activity(name="events_effect")
async def effect(what: str) -> str:
    return what


@workflow(name="events_mixed")
async def mixed(ctx: WorkflowContext) -> list[Any]:
    """Which of an event, an activity and a timer came first shows in the result."""
    runs.append(ctx.instance_id)
    seen: list[Any] = []

    async def events(number: int) -> None:
        with ctx.branch(f"events-{number}"):
            for _ in range(3):
                seen.append((await ctx.wait_event("t")).data)
                seen.append(await effect(f"effect {seen[-1]}"))

    async def timers() -> None:
        with ctx.branch("timers"):
            for number in range(6):
                await ctx.sleep(10)
                seen.append(f"timer {number} {(ctx.now() - begun).total_seconds()}")

    begun = ctx.now()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events, 1)
        nursery.start_soon(events, 2)
        nursery.start_soon(timers)
    first = list(seen)
    await ctx.sleep(1000)
    return [first, seen]


async def test_replay_gives_the_same_events_in_the_same_order(database: str) -> None:
    seen: list[list[Any]] = []
    async with App(database, idle_timeout=5) as app:
        handle = await app.start(mixed)
        for number in range(6):
            await trio.sleep(9.9)
            await app.send_event("t", number)
            if number % 2:
                probe(app).crash_actors()
        await trio.sleep(100)
        history = (await app.history(handle.instance_id)).entries
        probe(app).crash_actors()
        probe(app).abandon()
        first, second = await handle.result()
        seen += [first, second]
        assert (await app.history(handle.instance_id))[: len(history)] == history
    assert seen[0] == seen[1]
    assert [one for one in seen[0] if isinstance(one, int)] == list(range(6))
    assert len(runs) > 2


# -- passive instances, bursts and crowds ------------------------------------------------------------------------------


async def test_a_passive_instance_costs_no_memory_and_is_woken_by_its_event_only(database: str) -> None:
    async with App(database, idle_timeout=1) as app:
        first = await app.start(take, "t", 1, 0.0)
        second = await app.start(take, "u", 1, 0.0)
        third = await app.start(branches, ["a"], None)
        await trio.sleep(100)
        assert resident(app) == 0
        instance = await app.get_instance(first.instance_id)
        assert instance is not None
        assert (instance.status, instance.worker_id) == (Status.WAITING, None)
        await app.send_event("nobody's", 1)
        await app.send_event("t", 1, to=first.instance_id)
        assert await first.result() == [1]
        await app.send_event("t", 2, subject="b")
        await trio.sleep(100)
        assert runs.count(second.instance_id) == runs.count(third.instance_id) == 1
        await app.send_event("u", 3)
        await app.send_event("t", 4, subject="a")
        assert await second.result() == [3]
        assert await third.result() == [[4]]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_burst_of_events_wakes_a_passive_instance_once(database: str, at_once: bool) -> None:
    async with App(database, idle_timeout=1) as app:
        handle = await app.start(take, "t", 50, 0.0)
        await trio.sleep(100)
        assert resident(app) == 0
        if at_once:
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(app.send_event, "t", number)
        else:
            await send(app, "t", *range(50))
        result = await handle.result()
        assert sorted(result) == list(range(50))
        assert at_once or result == list(range(50))
    assert len(runs) == 2


async def test_events_that_nobody_waits_for_yet_wake_nobody(database: str) -> None:
    async with App(database, idle_timeout=1) as app:
        handle = await app.start(take, "t", 50, 1000.0)
        await trio.sleep(100)
        for number in range(50):
            await app.send_event("t", number)
            await trio.sleep(2)
        assert len(runs) == 1
        assert await handle.result() == list(range(50))
    assert len(runs) == 2


@pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])
async def test_a_thousand_instances_that_wait_for_one_event_all_get_it(
    kind: str, database: str, idle_timeout: float
) -> None:
    count = 1000 if kind == "sqlite" else 150
    async with App(database, idle_timeout=idle_timeout, max_resident=count // 2) as app:
        handles = []

        async def start() -> None:
            handles.append(await app.start(take, "t", 1, 0.0))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(start)
        await trio.sleep(500)
        assert (await app.send_event("t", "for all")).waiting == count
        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(expect, handle, ["for all"])
        assert (await count_rows(app))["waits"] == 0


async def expect(handle: Any, result: Any) -> None:
    assert await handle.result() == result


# -- bad input ---------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"type": "t", "data": 1}


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ({"type": ""}, r"\$\.type"),
        ({"type": "x" * 256}, r"\$\.type"),
        ({"type": "a\0b"}, r"\$\.type"),
        ({"type": "\ud800"}, r"\$\.type"),
        ({"type": None}, r"\$\.type"),
        ({"type": 5}, r"\$\.type"),
        ({"type": b"t"}, r"\$\.type"),
        ({"source": ""}, r"\$\.source"),
        ({"source": None}, r"\$\.source"),
        ({"source": "x" * 256}, r"\$\.source"),
        ({"id": ""}, r"\$\.id"),
        ({"id": "\udfff"}, r"\$\.id"),
        ({"id": 7}, r"\$\.id"),
        ({"subject": ""}, r"\$\.subject"),
        ({"subject": "x" * 256}, r"\$\.subject"),
        ({"subject": "\0"}, r"\$\.subject"),
        ({"time": datetime(2024, 1, 1)}, r"\$\.time.*no time zone"),
        ({"time": "2024-01-01T00:00:00Z"}, r"\$\.time"),
        ({"data": math.nan}, r"\$\.data"),
        ({"data": [1, {"x": math.inf}]}, r"\$\.data\[1\]\.x"),
        ({"data": {1: "a"}}, r"\$\.data"),
        ({"data": [("a",)]}, r"\$\.data\[0\]"),
        ({"data": object()}, r"\$\.data"),
        ({"data": {"a": {1, 2}}}, r"\$\.data\.a"),
        ({"data": ["\ud83d\udca9"]}, r"\$\.data\[0\].*surrogates"),
        ({"metadata": {"x": math.nan}}, r"\$\.metadata\.x"),
        ({"metadata": [1]}, r"\$\.metadata"),
        ({"type": "", "source": "", "data": math.nan}, r"\$\.type.*\$\.source.*\$\.data"),
    ],
)
async def test_a_bad_event_is_refused_naming_what_is_bad_and_nothing_is_stored(bad: dict[str, Any], path: str) -> None:
    event = GOOD | bad
    async with App(":memory:") as app:
        with pytest.raises(InvalidInputError, match=path):
            await app.send_event(event.pop("type"), event.pop("data"), **event)
        assert set((await count_rows(app)).values()) == {0}


async def test_an_event_to_nobody_or_too_large_is_refused_and_nothing_is_stored(database: str) -> None:
    async with App(database, limits=Limits(max_payload=100)) as app:
        handle = await app.start(take, "t", 1, 0.0)
        await trio.sleep(1)
        before = await count_rows(app)
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.send_event("t", 1, to="nobody")
        for unknown in ("", "x" * 256, "a\0", "\ud800", 5):
            with pytest.raises(RomancyError):
                await app.send_event("t", 1, to=unknown)  # type: ignore[arg-type]
        with pytest.raises(PayloadTooLargeError, match="max_payload is 100"):
            await app.send_event("t", "x" * 99)
        with pytest.raises(PayloadTooLargeError):
            await app.send_event("t", 1, metadata={"x": "\u2603" * 17})
        assert (await count_rows(app))["messages"] == before["messages"] == 0
        assert not (await app.send_event("t", 1, source="s", id="after a refusal")).is_duplicate
        assert await handle.result() == [1]
        await app.send_event("t", "x" * 98)


async def test_a_refused_event_does_not_take_its_id_and_does_not_stop_those_that_are_sent_with_it(
    database: str,
) -> None:
    answers: list[Any] = []

    async def send_to(to: str | None, number: int) -> None:
        try:
            answers.append((await app.send_event("t", number, source="s", id=str(number), to=to)).is_duplicate)
        except InstanceNotFoundError:
            answers.append("nobody")

    async with App(database) as app:
        handle = await app.start(take_until_timeout, "t", None, 100.0)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(send_to, "nobody" if number % 2 else handle.instance_id, number)
        assert sorted(map(str, answers)) == ["False"] * 5 + ["nobody"] * 5
        await send_to(handle.instance_id, 1)
        assert answers[-1] is False
        assert sorted(await handle.result()) == [0, 1, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([""], {}),
        (["x" * 256], {}),
        ([None], {}),
        (["\ud800"], {}),
        (["t", ""], {}),
        (["t", "\0"], {}),
        (["t", 5], {}),
        (["t"], {"timeout": math.nan}),
        (["t"], {"timeout": "soon"}),
        (["t"], {"data_type": object()}),
        (["t"], {"id": ""}),
        (["t"], {"id": "x" * 256}),
    ],
)
async def test_a_wait_for_what_cannot_be_fails_the_workflow_clearly(
    arguments: list[Any], options: dict[str, Any]
) -> None:
    @workflow(name="events_bad_wait")
    async def bad_wait(ctx: WorkflowContext) -> None:
        await ctx.wait_event(*arguments, **options)

    async with App(":memory:") as app:
        handle = await app.start(bad_wait)
        with trio.move_on_after(1000), pytest.raises(WorkflowFailedError):
            await handle.result()
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.FAILED
        assert (await count_rows(app))["waits"] == 0


@pytest.mark.parametrize("commit", range(1, 12))
async def test_a_timeout_that_comes_due_while_the_database_is_away_waits_without_spinning(
    commit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else virtual time would stand still, and real time would cost a whole processor."""
    looks = 0

    def count() -> None:
        nonlocal looks
        looks += 1
        if looks > 1000:
            raise RuntimeError("it spins")

    before_each_rest(count, monkeypatch)
    app = _CrashingApp(":memory:", {commit: How.DATABASE_AWAY}, {})
    async with app:
        assert app.database is not None
        app.database.worker = probe(app).worker
        handle = await app.start(take_until_timeout, "t", None, 100.0)
        await trio.sleep(3000)
        assert looks < 1000
        assert await handle.result() == []
