"""Channels: who gets a message in each mode, and that what is sent is sent exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from attrs import define
from sqlalchemy import Connection, func, select

from trio_romancy import (
    ActivityError,
    App,
    ChannelMode,
    ChannelModeConflictError,
    InstanceNotFoundError,
    InvalidDataError,
    InvalidInputError,
    Limits,
    Message,
    MessageTimeoutError,
    PayloadTooLargeError,
    RetryPolicy,
    RomancyError,
    Status,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    current_activity,
    workflow,
)
from trio_romancy._storage.sql import tables
from trio_romancy.clock import VIRTUAL_EPOCH, to_datetime

from ..support.probe import probe

runs: list[str] = []
"""The instance of each run of a workflow function, also of replays."""


@pytest.fixture(autouse=True)
def forget() -> None:
    runs.clear()


@workflow(name="channels_listen")
async def listen(ctx: WorkflowContext, channel: str, mode: str, first_sleep: float, timeout: float) -> list[Any]:
    """The data of all messages until none comes in time."""
    runs.append(ctx.instance_id)
    await ctx.subscribe(channel, mode)
    if first_sleep:
        await ctx.sleep(first_sleep)
    seen = []
    while True:
        try:
            seen.append((await ctx.receive(channel, timeout=timeout)).data)
        except MessageTimeoutError:
            return seen


@workflow(name="channels_work")
async def work(ctx: WorkflowContext, channel: str, mode: str, count: int) -> list[Any]:
    """The data of so many messages."""
    await ctx.subscribe(channel, mode)
    return [(await ctx.receive(channel)).data for _ in range(count)]


async def publish(app: App, channel: str, *data: Any, to: str | None = None) -> list[int]:
    return [(await app.publish(channel, each, to=to)).waiting for each in data]


async def count_rows(app: App, table: sa.Table) -> int:
    def count(connection: Connection) -> int:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()

    return await probe(app).read(count)


IDLE = pytest.mark.parametrize("idle_timeout", [1.0, 1e6], ids=["passive", "resident"])


# -- modes -------------------------------------------------------------------------------------------------------------


@IDLE
async def test_broadcast_reaches_every_subscriber_from_its_subscription_on(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await publish(app, "news", "before all")
        first = await app.start(listen, "news", "broadcast", 0.0, 500.0)
        await trio.sleep(50)
        assert await publish(app, "news", "one") == [1]
        await trio.sleep(50)
        second = await app.start(listen, "news", "broadcast", 100.0, 500.0)
        await trio.sleep(50)
        await publish(app, "news", "two", "three")
        await publish(app, "other", "elsewhere")
        assert await first.result() == ["one", "two", "three"]
        assert await second.result() == ["two", "three"]
        assert await count_rows(app, tables.waits) == 0


@IDLE
async def test_competing_gives_each_message_to_exactly_one_also_what_came_before(
    database: str, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await publish(app, "jobs", 0, 1, 2)
        workers = [await app.start(listen, "jobs", "competing", 0.0, 500.0) for _ in range(3)]
        await trio.sleep(50)
        await publish(app, "jobs", *range(3, 20))
        async with trio.open_nursery() as nursery:
            for number in range(20, 30):
                nursery.start_soon(app.publish, "jobs", number)
        results = [await handle.result() for handle in workers]
        assert sorted(number for result in results for number in result) == list(range(30))
        late = await app.start(listen, "jobs", "competing", 0.0, 10.0)
        assert await late.result() == []


async def test_one_competing_consumer_gets_messages_in_order(database: str) -> None:
    async with App(database) as app:
        await publish(app, "jobs", 0, 1, 2)
        handle = await app.start(work, "jobs", "competing", 6)
        await publish(app, "jobs", 3, 4, 5)
        assert await handle.result() == [0, 1, 2, 3, 4, 5]


@IDLE
@pytest.mark.parametrize("mode", ["direct", "broadcast", "competing"])
async def test_a_message_to_one_instance_is_for_that_one_only_in_every_mode(
    database: str, mode: str, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        first = await app.start(listen, "ch", mode, 0.0, 500.0)
        second = await app.start(listen, "ch", mode, 0.0, 500.0)
        await trio.sleep(50)
        assert await publish(app, "ch", "first's", to=first.instance_id) == [1]
        assert await publish(app, "ch", "second's", to=second.instance_id) == [1]
        assert await first.result() == ["first's"]
        assert await second.result() == ["second's"]


async def test_direct_gets_nothing_that_is_not_addressed(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(listen, "ch", "direct", 0.0, 100.0)
        await trio.sleep(5)
        assert await publish(app, "ch", "to nobody in particular") == [0]
        await publish(app, "ch", "ours", to=handle.instance_id)
        assert await handle.result() == ["ours"]


@pytest.mark.parametrize("leaves", [False, True], ids=["", "after leaving what it was not in"])
async def test_a_direct_message_that_came_before_the_subscription_is_received(database: str, leaves: bool) -> None:
    @workflow(name="channels_late_subscriber")
    async def late_subscriber(ctx: WorkflowContext) -> list[Any]:
        await ctx.sleep(100)
        if leaves:
            with pytest.raises(RomancyError, match="has not subscribed"):
                await ctx.unsubscribe("ch")
        await ctx.subscribe("ch", "direct")
        seen = []
        try:
            while True:
                seen.append((await ctx.receive("ch", timeout=100)).data)
        except MessageTimeoutError:
            return seen

    async with App(database) as app:
        handle = await app.start(late_subscriber)
        await trio.sleep(50)
        await publish(app, "ch", "early", to=handle.instance_id)
        await trio.sleep(100)
        await publish(app, "ch", "late", to=handle.instance_id)
        assert await handle.result() == ["early", "late"]


async def test_an_event_is_a_message_on_the_channel_of_its_type_and_a_message_is_no_event(database: str) -> None:
    received: list[Message[Any]] = []

    @workflow(name="channels_both")
    async def both(ctx: WorkflowContext) -> Any:
        await ctx.subscribe("paid")
        received[:] = [await ctx.receive("paid")]
        return (await ctx.wait_event("refunded")).data

    async with App(database) as app:
        handle = await app.start(both)
        await trio.sleep(5)
        await app.send_event("paid", 1, source="/shop", id="7", subject="s", metadata={"k": "v"})
        await publish(app, "refunded", "a message")
        await app.send_event("refunded", "an event")
        assert await handle.result() == "an event"
    (message,) = received
    assert (message.channel, message.data, message.sender) == ("paid", 1, "/shop")
    assert message.sent_at == to_datetime(VIRTUAL_EPOCH + 5_000_000)
    assert message.metadata["k"] == "v"
    assert {message.metadata[name] for name in message.metadata} >= {"7", "s"}


# -- the mode of a channel ---------------------------------------------------------------------------------------------


@workflow(name="channels_conflicts")
async def conflicts(ctx: WorkflowContext, channel: str, mode: str) -> list[list[str]]:
    runs.append(ctx.instance_id)
    seen = []
    for _ in range(2):
        try:
            await ctx.subscribe(channel, mode)
            seen.append(["subscribed"])
        except ChannelModeConflictError as error:
            seen.append([error.instance_id, error.channel, error.mode, error.held, str(error)])
        await ctx.sleep(100)
    return seen


@pytest.mark.parametrize(
    ("first", "other"), [("broadcast", "competing"), ("competing", "direct"), ("direct", "broadcast")]
)
async def test_the_first_subscriber_fixes_the_mode_and_a_conflict_is_the_same_on_replay(
    database: str, first: str, other: str
) -> None:
    async with App(database, idle_timeout=5) as app:
        fixes = await app.start(listen, "ch", first, 0.0, 50.0)
        await trio.sleep(1)
        handle = await app.start(conflicts, "ch", other)
        await trio.sleep(60)
        assert await fixes.result() == []
        probe(app).crash_actors()
        seen = await handle.result()
        assert len(runs) > 3
        for instance_id, channel, mode, held, sentence in seen:
            assert (instance_id, channel, mode, held) == (handle.instance_id, "ch", other, first)
            assert first in sentence
        assert await count_rows(app, tables.waits) == 0


async def test_of_many_first_subscribers_at_once_all_but_those_of_one_mode_are_refused(database: str) -> None:
    async with App(database) as app:
        handles = [await app.start(conflicts, "ch", mode) for mode in list(ChannelMode) * 4]
        outcomes = [(await handle.result())[0] for handle in handles]
        subscribed = {mode for mode, outcome in zip(list(ChannelMode) * 4, outcomes, strict=True) if len(outcome) == 1}
        assert len(subscribed) == 1
        assert sum(len(outcome) == 1 for outcome in outcomes) == 4


@pytest.mark.parametrize("mode", ["Broadcast", "", "all", None, 5])
async def test_a_mode_that_does_not_exist_fails_the_workflow(mode: Any) -> None:
    @workflow(name="channels_bad_mode")
    async def bad_mode(ctx: WorkflowContext) -> None:
        await ctx.subscribe("ch", mode)

    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError, match="ValueError"):
            await (await app.start(bad_mode)).result()


# -- receiving ---------------------------------------------------------------------------------------------------------


@IDLE
async def test_receive_times_out_at_its_time_and_says_where(database: str, idle_timeout: float) -> None:
    caught: list[MessageTimeoutError] = []

    @workflow(name="channels_times_out")
    async def times_out(ctx: WorkflowContext) -> float:
        await ctx.subscribe("silence")
        begun = ctx.now()
        try:
            await ctx.receive("silence", timeout=60.5)
        except MessageTimeoutError as error:
            caught.append(error)
        await ctx.sleep(10)
        return (ctx.now() - begun).total_seconds()

    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(times_out)
        assert await handle.result() == 70.5
    for error in caught:
        found = (error.instance_id, error.operation_id, error.channel)
        assert found == (handle.instance_id, "receive:1", "silence")
    assert len(caught) == (2 if idle_timeout == 1 else 1)


@pytest.mark.parametrize("mode", ["broadcast", "competing", "direct"])
@pytest.mark.parametrize("offset", [-1e-6, 0.0, 1e-6])
async def test_a_message_about_the_time_of_the_timeout_goes_to_this_receive_or_the_next(
    database: str, mode: str, offset: float
) -> None:
    @workflow(name="channels_two_tries")
    async def two_tries(ctx: WorkflowContext) -> list[Any]:
        await ctx.subscribe("ch", mode)
        seen: list[Any] = []
        for _ in range(2):
            try:
                seen.append((await ctx.receive("ch", timeout=100)).data)
            except MessageTimeoutError:
                seen.append("timeout")
        return seen

    async with App(database, idle_timeout=5) as app:
        handle = await app.start(two_tries)
        await trio.sleep_until(100 + offset)
        await publish(app, "ch", "sent", to=handle.instance_id)
        allowed = [["sent", "timeout"], ["timeout", "sent"]]
        assert await handle.result() in (allowed[:1] if offset < 0 else allowed[1:] if offset > 0 else allowed)


async def test_receiving_without_a_subscription_fails_clearly(database: str) -> None:
    @workflow(name="channels_no_subscription")
    async def no_subscription(ctx: WorkflowContext) -> str:
        try:
            await ctx.receive("ch", timeout=10)
        except RomancyError as error:
            return str(error)
        return "received"

    async with App(database) as app:
        other = await app.start(listen, "ch", "broadcast", 0.0, 10.0)
        handle = await app.start(no_subscription)
        sentence = await handle.result()
        assert repr(handle.instance_id) in sentence
        assert "'ch'" in sentence
        assert "subscribe" in sentence
        await other.result()


@pytest.mark.parametrize("mode", ["broadcast", "competing", "direct"])
async def test_after_unsubscribing_nothing_is_received_until_the_next_subscription(database: str, mode: str) -> None:
    @workflow(name="channels_unsubscribes")
    async def unsubscribes(ctx: WorkflowContext) -> list[Any]:
        runs.append(ctx.instance_id)
        await ctx.subscribe("ch", mode)
        seen = [(await ctx.receive("ch")).data]
        await ctx.sleep(50)
        await ctx.unsubscribe("ch")
        try:
            seen.append((await ctx.receive("ch", timeout=1)).data)
        except MessageTimeoutError:
            raise
        except RomancyError:
            seen.append("not subscribed")
        await ctx.sleep(50)
        await ctx.subscribe("ch", mode)
        try:
            while True:
                seen.append((await ctx.receive("ch", timeout=100)).data)
        except MessageTimeoutError:
            return seen

    async with App(database, idle_timeout=5) as app:
        handle = await app.start(unsubscribes)
        me = handle.instance_id
        await trio.sleep(10)
        await publish(app, "ch", 1, 2, to=me)
        await trio.sleep(70)
        await publish(app, "ch", 3, to=me)
        await trio.sleep(70)
        await publish(app, "ch", 4, to=me)
        result = await handle.result()
    assert result[:2] == [1, "not subscribed"]
    # What nobody has taken is for the next consumer, which may be the same instance.
    later = [2, 3, 4] if mode == "competing" else [4]
    assert result == [1, "not subscribed", *later]
    assert len(runs) > 1


async def test_each_message_goes_to_one_receive_of_an_instance(database: str) -> None:
    @workflow(name="channels_two_receivers")
    async def two_receivers(ctx: WorkflowContext, mode: str) -> list[Any]:
        await ctx.subscribe("ch-" + mode, mode)
        seen: list[Any] = []

        async def receiver(name: str) -> None:
            with ctx.branch(name):
                for _ in range(3):
                    seen.append((await ctx.receive("ch-" + mode)).data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver, "a")
            nursery.start_soon(receiver, "b")
        await ctx.sleep(100)
        return seen

    async with App(database, idle_timeout=5) as app:
        for mode in ChannelMode:
            handle = await app.start(two_receivers, mode)
            await trio.sleep(10)
            for number in range(6):
                await app.publish("ch-" + mode, number, to=handle.instance_id)
                await trio.sleep(number % 2 * 10)
            assert sorted(await handle.result()) == [0, 1, 2, 3, 4, 5]


@define
class Job:
    number: int


async def test_data_are_structured_and_data_that_do_not_fit_count_as_received(database: str) -> None:
    @workflow(name="channels_structured")
    async def structured(ctx: WorkflowContext) -> list[Any]:
        await ctx.subscribe("jobs", "competing")
        first = (await ctx.receive("jobs", data_type=Job)).data
        assert isinstance(first, Job)
        try:
            await ctx.receive("jobs", data_type=Job)
        except InvalidDataError as error:
            return [first.number, str(error), (await ctx.receive("jobs", data_type=int)).data]
        return []

    async with App(database) as app:
        await app.publish("jobs", Job(1))
        await publish(app, "jobs", {"number": "x"}, 3)
        first, problem, last = await (await app.start(structured)).result()
    assert (first, last) == (1, 3)
    assert "number" in problem


async def test_a_message_that_a_cancelled_receive_did_not_take_goes_to_another_consumer(database: str) -> None:
    @workflow(name="channels_gives_up")
    async def gives_up(ctx: WorkflowContext) -> list[Any]:
        await ctx.subscribe("jobs", "competing")
        seen: list[Any] = []
        with ctx.move_on_after(100):
            seen.append((await ctx.receive("jobs")).data)
        return seen

    async with App(database, idle_timeout=5) as app:
        for offset in (-1e-6, 0.0, 1e-6):
            first = await app.start(gives_up)
            begun = trio.current_time()
            await trio.sleep_until(begun + 100 + offset)
            await publish(app, "jobs", "job")
            second = await app.start(listen, "jobs", "competing", 0.0, 50.0)
            assert sorted(await first.result() + await second.result()) == ["job"]


# -- sending -----------------------------------------------------------------------------------------------------------


async def test_what_workflows_publish_is_received_in_order_with_metadata_sender_and_time(database: str) -> None:
    received: list[Message[Any]] = []

    @workflow(name="channels_publishes")
    async def publishes(ctx: WorkflowContext, to: str) -> None:
        await ctx.sleep(7)
        await ctx.publish("ch", Job(1), metadata={"k": [None]})
        await ctx.publish("ch", 2)
        await ctx.send_to(to, "ch", 3, metadata={})
        await ctx.send_to("nobody", "ch", 4)

    @workflow(name="channels_receives")
    async def receives(ctx: WorkflowContext) -> None:
        await ctx.subscribe("ch")
        received[:] = [await ctx.receive("ch", data_type=Job), *[await ctx.receive("ch") for _ in range(3)]]

    async with App(database) as app:
        handle = await app.start(receives)
        await trio.sleep(1)
        sender = await app.start(publishes, handle.instance_id)
        await sender.result()
        await app.publish("ch", 5, metadata={"from": "outside"})
        await handle.result()
        ids = [entry.operation_id for entry in await app.history(sender.instance_id)]
    at = to_datetime(VIRTUAL_EPOCH + 8_000_000)
    assert received == [
        Message("ch", Job(1), {"k": [None]}, sender.instance_id, at),
        Message("ch", 2, {}, sender.instance_id, at),
        Message("ch", 3, {}, sender.instance_id, at),
        Message("ch", 5, {"from": "outside"}, None, at),
    ]
    assert ids == ["sleep:1", "publish:1", "publish:2", "send_to:1", "send_to:2", ""]


@pytest.mark.parametrize("mode", ["broadcast", "competing", "direct"])
async def test_two_instances_talk_back_and_forth(database: str, mode: str) -> None:
    @workflow(name="channels_ping")
    async def ping(ctx: WorkflowContext) -> list[int]:
        await ctx.subscribe("ping", mode)
        seen = []
        for _ in range(10):
            message = await ctx.receive("ping")
            seen.append(message.data)
            assert message.sender is not None
            await ctx.send_to(message.sender, "pong", message.data + 1)
        return seen

    @workflow(name="channels_pong")
    async def pong(ctx: WorkflowContext, other: str) -> list[int]:
        await ctx.subscribe("pong", mode)
        number, seen = 0, []
        for _ in range(10):
            await ctx.send_to(other, "ping", number)
            number = (await ctx.receive("pong")).data
            seen.append(number)
        return seen

    async with App(database, idle_timeout=0.0) as app:
        first = await app.start(ping)
        await trio.sleep(1)
        second = await app.start(pong, first.instance_id)
        assert await first.result() == list(range(10))
        assert await second.result() == list(range(1, 11))


def publish_all(to: str | None) -> None:
    context = current_activity()
    context.publish("ch", f"{context.activity_id} {context.attempt} 1", metadata={"n": 1})
    context.publish("ch", f"{context.activity_id} {context.attempt} 2", to=to)


def fail_until_third_attempt() -> None:
    if current_activity().attempt < 3:
        raise ConnectionError("not yet")


@activity(name="channels_publish_async")
async def publish_async(to: str) -> None:
    publish_all(to)
    await trio.sleep(1)
    fail_until_third_attempt()


@activity(name="channels_publish_thread")
def publish_thread(to: str) -> None:
    publish_all(to)
    fail_until_third_attempt()


@activity(name="channels_publish_session")
async def publish_session(to: str) -> None:
    publish_all(to)
    await current_activity().session.execute(sa.text("SELECT 1"))
    fail_until_third_attempt()


@activity(name="channels_publish_cancelled", cancellable=True)
async def publish_cancelled(to: str) -> None:
    publish_all(to)
    await trio.sleep(1000)


@activity(name="channels_publish_times_out", timeout=1, retry=RetryPolicy.no_retry())
async def publish_times_out(to: str) -> None:
    publish_all(to)
    await trio.sleep(1000)


@activity(name="channels_publish_terminal")
async def publish_terminal(to: str) -> None:
    publish_all(to)
    raise TerminalError("no")


@activity(name="channels_publish_bad_result")
async def publish_bad_result(to: str) -> int:
    publish_all(to)
    return "no int"  # type: ignore[return-value]


COMMITTING: list[Callable[..., Any]] = [publish_async, publish_thread, publish_session]
FAILING: list[Callable[..., Any]] = [publish_times_out, publish_terminal, publish_bad_result]


@workflow(name="channels_runs_activity")
async def runs_activity(ctx: WorkflowContext, number: int, to: str) -> str:
    try:
        if number < 0:
            with ctx.move_on_after(10):
                await publish_cancelled(to)
        else:
            await [*COMMITTING, *FAILING][number](to)
    except ActivityError as error:
        return type(error).__name__
    return "done"


@pytest.mark.parametrize("number", range(len(COMMITTING)))
async def test_an_activity_that_succeeds_at_last_has_published_once_from_that_attempt(
    database: str, number: int
) -> None:
    async with App(database, idle_timeout=1) as app:
        # Without a timeout, because virtual time may run ahead of a thread.
        listener = await app.start(work, "ch", "broadcast", 2)
        await trio.sleep(1)
        handle = await app.start(runs_activity, number, listener.instance_id)
        assert await handle.result() == "done"
        assert await count_rows(app, tables.messages) == 2
        id = COMMITTING[number].name + ":1"  # type: ignore[attr-defined]
        assert await listener.result() == [f"{id} 3 1", f"{id} 3 2"]


@pytest.mark.parametrize("number", [-1, *range(len(COMMITTING), len(COMMITTING) + len(FAILING))])
async def test_an_activity_that_does_not_succeed_has_published_nothing(database: str, number: int) -> None:
    async with App(database, idle_timeout=1) as app:
        listener = await app.start(listen, "ch", "broadcast", 0.0, 500.0)
        await trio.sleep(1)
        handle = await app.start(runs_activity, number, listener.instance_id)
        assert (await handle.result() == "done") is (number < 0)
        assert await listener.result() == []
        assert await count_rows(app, tables.messages) == 0


async def test_what_a_published_message_wakes_is_awake_though_passive(database: str) -> None:
    @workflow(name="channels_wakes_passive")
    async def wakes_passive(ctx: WorkflowContext) -> None:
        await publish_thread("nobody")

    async with App(database, idle_timeout=1) as app:
        listeners = [await app.start(work, "ch", "broadcast", 1) for _ in range(5)]
        await trio.sleep(100)
        assert len(probe(app).residents) == 0
        await (await app.start(wakes_passive)).result()
        assert [await listener.result() for listener in listeners] == [["channels_publish_thread:1 3 1"]] * 5


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD: list[dict[str, Any]] = [
    {"channel": ""},
    {"channel": "x" * 256},
    {"channel": "\0"},
    {"channel": "\ud800"},
    {"channel": None},
    {"data": math.nan},
    {"data": [object()]},
    {"metadata": {"x": math.inf}},
    {"metadata": {1: 2}},
    {"metadata": "text"},
]


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_message_is_refused_by_everybody_and_nothing_is_stored(bad: dict[str, Any]) -> None:
    message: dict[str, Any] = {"channel": "ch", "data": 1, "metadata": None} | bad

    @activity(name="channels_bad_activity", retry=RetryPolicy.no_retry())
    async def bad_activity() -> str:
        try:
            current_activity().publish(message["channel"], message["data"], metadata=message["metadata"])
        except InvalidInputError:
            return "refused"
        return "taken"

    @workflow(name="channels_bad_workflow")
    async def bad_workflow(ctx: WorkflowContext) -> list[str]:
        seen = []
        for send in (ctx.publish, lambda *args, **options: ctx.send_to(ctx.instance_id, *args, **options)):
            try:
                await send(message["channel"], message["data"], metadata=message["metadata"])
            except InvalidInputError:
                seen.append("refused")
        await ctx.sleep(100)
        return [*seen, await bad_activity()]

    async with App(":memory:", idle_timeout=1) as app:
        with pytest.raises(InvalidInputError):
            await app.publish(message["channel"], message["data"], metadata=message["metadata"])
        assert await (await app.start(bad_workflow)).result() == ["refused"] * 3
        assert await count_rows(app, tables.messages) == 0


async def test_a_message_to_nobody_or_too_large_is_refused(database: str) -> None:
    @activity(name="channels_large_activity", retry=RetryPolicy.no_retry())
    async def large_activity() -> None:
        current_activity().publish("ch", "x" * 200)

    @workflow(name="channels_large_workflow")
    async def large_workflow(ctx: WorkflowContext) -> list[str]:
        seen = []
        try:
            await ctx.publish("ch", "x" * 200)
        except PayloadTooLargeError as error:
            seen.append(type(error).__name__)
        try:
            await large_activity()
        except ActivityError as error:
            seen.append(error.error_type.rpartition(".")[2])
        return seen

    async with App(database, limits=Limits(max_payload=100)) as app:
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.publish("ch", 1, to="nobody")
        with pytest.raises(PayloadTooLargeError):
            await app.publish("ch", "x" * 200)
        assert await (await app.start(large_workflow)).result() == ["PayloadTooLargeError"] * 2
        assert await count_rows(app, tables.messages) == 0


@pytest.mark.parametrize("what", ["subscribe", "unsubscribe", "receive"])
@pytest.mark.parametrize("channel", ["", "x" * 256, "\0", "\ud800", None, 5])
async def test_a_channel_that_cannot_be_fails_the_workflow_clearly(what: str, channel: Any) -> None:
    @workflow(name="channels_bad_channel")
    async def bad_channel(ctx: WorkflowContext) -> None:
        await getattr(ctx, what)(channel)

    async with App(":memory:") as app:
        handle = await app.start(bad_channel)
        with trio.move_on_after(1000), pytest.raises(WorkflowFailedError):
            await handle.result()
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.FAILED
        assert await count_rows(app, tables.waits) == 0
