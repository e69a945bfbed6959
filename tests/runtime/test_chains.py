"""Workflows that recur: one chain of instances, which neither loses nor repeats what is sent to it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    ChannelMode,
    EntryKind,
    EventTimeoutError,
    Hooks,
    InstanceExistsError,
    InvalidInputError,
    Limits,
    MessageTimeoutError,
    Status,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowInfo,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)

log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


@compensation(name="chains_undo")
async def undo(what: str) -> None:
    log.append(f"undo {what}")


@activity(name="chains_do", compensation=undo)
async def do(what: str) -> str:
    log.append(what)
    return what


@activity(name="chains_slow")
async def slow(what: str, seconds: float) -> str:
    await trio.sleep(seconds)
    log.append(what)
    return what


@activity(name="chains_break")
async def break_down() -> None:
    raise TerminalError("broken")


@workflow(name="counting")
async def counting(ctx: WorkflowContext, number: int, until: int, seconds: float = 0.0) -> str:
    await do(str(number))
    if seconds:
        await ctx.sleep(seconds)
    if number < until:
        ctx.recur(number + 1, until, seconds)
    return f"counted to {number}"


# -- the chain ---------------------------------------------------------------------------------------------------------


async def test_each_goes_on_as_the_next_and_the_result_is_that_of_the_last(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(counting.options(id="x"), 1, 3)
        assert await handle.result() == "counted to 3"
        assert await app.handle("x").result() == "counted to 3"
        assert await app.handle("x#2").result() == "counted to 3"
        chain = [await app.get_instance(id) for id in ("x", "x#2", "x#3")]
        assert [one and (one.continued_from, one.status, one.input["number"]) for one in chain] == [
            (None, Status.RECURRED, 1),
            ("x", Status.RECURRED, 2),
            ("x#2", Status.COMPLETED, 3),
        ]
        assert await app.get_instance("x#4") is None
        first, second, third = [[entry.kind for entry in await app.history(id)] for id in ("x", "x#2", "x#3")]
    assert first == [EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_RECURRED]
    assert second == [EntryKind.CONTINUED, EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_RECURRED]
    assert third == [EntryKind.CONTINUED, EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_COMPLETED]
    assert log == ["1", "2", "3"]  # and what those before did is not undone


async def test_to_start_the_first_again_is_to_have_the_chain(database: str) -> None:
    async with App(database) as app:
        await app.start(counting.options(id="x"), 1, 3)
        await trio.sleep(1)
        assert await (await app.start(counting.options(id="x"), 1, 3)).result() == "counted to 3"
        with pytest.raises(InstanceExistsError):
            await app.start(counting.options(id="x"), 1, 4)
    assert log == ["1", "2", "3"]


async def test_to_cancel_the_first_is_to_cancel_the_last(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(counting.options(id="x"), 1, 3, 100.0)
        await trio.sleep(250)
        assert await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError, match="enough"):
            await handle.result()
        statuses = {one.instance_id: one.status for one in (await app.list_instances()).instances}
        assert statuses == {"x": Status.RECURRED, "x#2": Status.RECURRED, "x#3": Status.CANCELLED}
        assert await app.cancel("x")  # and again
    assert log == ["1", "2", "3", "undo 3"]


async def test_whoever_waits_for_the_first_in_time_or_not_in_memory_gets_the_result(database: str) -> None:
    async with App(database, idle_timeout=0) as app:
        handle = await app.start(counting.options(id="x"), 1, 4, 1000.0)
        results: list[str] = []

        async def wait(id: str, seconds: float) -> None:
            await trio.sleep(seconds)
            results.append(await app.handle(id).result())

        async with trio.open_nursery() as nursery:
            for seconds in (0.0, 1500.0, 2500.0, 9000.0):
                nursery.start_soon(wait, "x", seconds)
            nursery.start_soon(wait, "x#2", 2500.0)
        assert results == ["counted to 4"] * 5
        with pytest.raises(trio.TooSlowError):
            await (await app.start(counting.options(id="y"), 1, 9, 1000.0)).result(timeout=10)
        assert await handle.result() == "counted to 4"


@pytest.mark.parametrize("length", [243, 244, 255])
async def test_a_long_id_goes_on_under_one_that_fits(database: str, length: int) -> None:
    async with App(database) as app:
        id = "x" * length
        assert await (await app.start(counting.options(id=id), 1, 12)).result() == "counted to 12"
        ids = [one.instance_id for one in (await app.list_instances()).instances]
        assert len(ids) == 12
        assert sorted(int(one.rpartition("#")[2]) for one in ids if one != id) == list(range(2, 13))


async def test_an_id_that_looks_like_one_of_a_chain_begins_one_of_its_own(database: str) -> None:
    async with App(database) as app:
        assert await (await app.start(counting.options(id="x#7"), 1, 3)).result() == "counted to 3"
        ids = {one.instance_id for one in (await app.list_instances()).instances}
    assert ids == {"x#7", "x#7#2", "x#7#3"}


# -- how the function ends ---------------------------------------------------------------------------------------------


@workflow(name="recurring_wrongly")
async def recurring_wrongly(ctx: WorkflowContext, number: int, how: str) -> str:
    if number > 1:
        return f"life {number}"
    try:
        if how == "type":
            ctx.recur("two", how)
        if how == "missing":
            ctx.recur(2)
        ctx.recur(2, "x" * 2000)
    except InvalidInputError as error:
        return f"invalid: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "not reached"


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ("type", r"invalid: workflow 'recurring_wrongly' does not take this input: $.number"),
        ("missing", "invalid: workflow 'recurring_wrongly' does not take this input: "),
        ("size", "PayloadTooLargeError: instance 'x': the input to recur with is 20"),
    ],
)
async def test_a_bad_input_is_refused_in_the_workflow_which_goes_on(how: str, answer: str) -> None:
    async with App(":memory:", limits=Limits(max_payload=1000)) as app:
        found = await (await app.start(recurring_wrongly.options(id="x"), 1, how)).result()
        assert found.startswith(answer)
        assert [one.instance_id for one in (await app.list_instances()).instances] == ["x"]


@workflow(name="careful")
async def careful(ctx: WorkflowContext, life: int) -> str:
    try:
        try:
            await do(f"life {life}")
            if life < 3:
                ctx.recur(life + 1)
        except Exception:
            return "caught"
        finally:
            await do(f"finally {life}")
            await ctx.sleep(5)
    finally:
        await ctx.publish("lives", life)
    return "done"


async def test_except_exception_does_not_hold_it_and_finally_blocks_are_run(database: str) -> None:
    async with App(database, idle_timeout=0) as app:
        assert await (await app.start(careful.options(id="x"), 1)).result() == "done"
        kinds = [entry.kind for entry in await app.history("x#2")]
    assert log == [f"{what} {life}" for life in (1, 2, 3) for what in ("life", "finally")]
    assert kinds == [
        EntryKind.CONTINUED,
        EntryKind.ACTIVITY_COMPLETED,
        EntryKind.ACTIVITY_COMPLETED,
        EntryKind.TIMER_FIRED,
        EntryKind.PUBLISHED,
        EntryKind.WORKFLOW_RECURRED,
    ]


@workflow(name="in_nursery")
async def in_nursery(ctx: WorkflowContext, life: int, how: str) -> str:
    async def recur() -> None:
        await ctx.sleep(1, id="a moment")
        ctx.recur(life + 1, how)

    async def work() -> None:
        await slow.options(id="work")(f"work {life}", 10.0)

    async def fail() -> None:
        await break_down.options(id="fail")()

    async def wait() -> None:
        await ctx.wait_event("never", id="wait")

    if life > 1:
        return f"life {life}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        if how == "task":
            nursery.start_soon(recur)
        if how == "nested":
            async with trio.open_nursery() as inner:
                inner.start_soon(recur)
        if how == "beside":
            nursery.start_soon(work)
            await ctx.sleep(1, id="a moment")
            ctx.recur(life + 1, how)
        if how == "beside a child":
            nursery.start_soon(ctx.run, counting.options(id="child"), 1, 1, 1000.0)
            await ctx.sleep(1, id="a moment")
            ctx.recur(life + 1, how)
    return "not reached"


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
@pytest.mark.parametrize("how", ["task", "nested", "beside", "beside a child"])
async def test_it_unwinds_nurseries_and_an_activity_that_runs_goes_on_to_its_outcome(
    database: str, how: str, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        assert await (await app.start(in_nursery.options(id="x"), 1, how)).result(timeout=500) == "life 2"
        kinds = [entry.kind for entry in await app.history("x")]
        if how == "beside a child":
            child = await app.get_instance("child")
            assert child is not None and child.status is Status.CANCELLED
    assert kinds[-1] is EntryKind.WORKFLOW_RECURRED
    assert log == {"beside": ["work 1"], "beside a child": ["1", "undo 1"]}.get(how, [])
    assert (EntryKind.ACTIVITY_COMPLETED in kinds) == (how == "beside")


@workflow(name="failing_beside")
async def failing_beside(ctx: WorkflowContext, life: int) -> None:
    await do("first")

    async def fail() -> None:
        await break_down.options(id="fail")()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await ctx.sleep(0)
        ctx.recur(life + 1)


async def test_if_something_fails_beside_it_the_instance_fails(database: str) -> None:
    async with App(database) as app:
        with pytest.raises(WorkflowFailedError, match=r"must not be retried: trio_romancy\.TerminalError: broken"):
            await (await app.start(failing_beside.options(id="x"), 1)).result()
        assert await app.get_instance("x#2") is None
    assert log == ["first", "undo first"]


async def test_a_cancel_request_that_comes_first_counts_and_one_that_comes_later_reaches_the_next(
    database: str,
) -> None:
    """All of them in the very moment in which instances recur."""
    async with App(database) as app:
        handles = [await app.start(counting.options(id=f"{n}"), 1, 50) for n in range(12)]
        accepted: dict[str, bool] = {}

        async def cancel(id: str, turns: int) -> None:
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            accepted[id] = await app.cancel(id, "enough")

        async with trio.open_nursery() as nursery:
            for n, handle in enumerate(handles):
                nursery.start_soon(cancel, handle.instance_id, n * 7)
        for handle in handles:
            if accepted[handle.instance_id]:
                with pytest.raises(WorkflowCancelledError):
                    await handle.result()
            else:
                assert await handle.result() == "counted to 50"
        assert any(accepted.values())
        for status in (Status.RUNNING, Status.PENDING, Status.WAITING, Status.COMPENSATING, Status.FAILED):
            assert (await app.list_instances(status=status)).instances == []


async def test_if_the_id_of_the_next_is_taken_the_instance_is_stuck_and_says_so(database: str) -> None:
    async with App(database) as app:
        await (await app.start(counting.options(id="x#2"), 7, 7)).result()
        with pytest.raises(WorkflowStuckError, match="instance 'x#2' exists already with no place in the chain of 'x'"):
            await (await app.start(counting.options(id="x"), 1, 2)).result()
        found = await app.get_instance("x#2")
        assert found is not None and found.output == "counted to 7"


# -- events ------------------------------------------------------------------------------------------------------------


@workflow(name="collecting")
async def collecting(ctx: WorkflowContext, lives: int, each: int, subjects: list[str | None], seen: list[Any]) -> Any:
    """Takes some events in each life, those of a life all with one subject."""
    subject = subjects[0]
    for _ in range(each):
        seen.append((await ctx.wait_event("n", subject)).data)
    if lives > 1:
        ctx.recur(lives - 1, each, [*subjects[1:], subject], seen)
    try:
        seen.append((await ctx.wait_event("n", timeout=10)).data)
    except EventTimeoutError:
        seen.append("end")
    return seen


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
@pytest.mark.parametrize("to", [None, "x", "later"])
async def test_each_event_is_got_once_and_in_order_whenever_it_comes(
    database: str, to: str | None, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(collecting.options(id="x"), 4, 2, [None], [])
        addressees = [to] * 8 if to != "later" else ["x", "x", "x#2", "x", "x#2", "x", "x#3", "x"]
        for number in range(3):
            await app.send_event("n", number, to=addressees[0])
        await trio.sleep(50)
        for number in range(3, 8):
            await app.send_event("n", number, to=addressees[number])
            if number % 2:
                await trio.sleep(20)
        assert await handle.result() == [*range(8), "end"]


async def test_events_with_and_without_subject_are_got_once(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(collecting.options(id="x"), 6, 1, ["a", None, "b"], [])
        for number, subject in enumerate(["b", "a", "c", "a", "b", "a", None, "b"]):
            await app.send_event("n", f"{number}{subject or ''}", subject=subject)
        # life by life: about a, any, about b, about a, any, about b; and then any of what is left
        assert await handle.result() == ["1a", "0b", "4b", "3a", "2c", "7b", "5a"]


@workflow(name="any_then_about")
async def any_then_about(ctx: WorkflowContext, life: int) -> list[Any]:
    if life == 1:
        await ctx.wait_event("n")
        await ctx.wait_event("n")
        ctx.recur(2)
    try:
        return [(await ctx.wait_event("n", "a", timeout=10)).data]
    except EventTimeoutError:
        return []


async def test_what_a_wait_without_a_subject_got_is_not_got_again_by_one_with_a_subject(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(any_then_about, 1)
        await app.send_event("n", 1, subject="a")
        await app.send_event("n", 2, subject="b")
        assert await handle.result() == []


@workflow(name="about_then_any")
async def about_then_any(ctx: WorkflowContext, life: int, seen: list[Any]) -> list[Any]:
    seen.append((await ctx.wait_event("n", "a" if life < 3 else None)).data)
    if life < 5:
        ctx.recur(life + 1, seen)
    return seen


async def test_what_a_wait_with_a_subject_got_is_not_got_again_by_one_without(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(about_then_any, 1, [])
        for number, subject in enumerate("bacab"):
            await app.send_event("n", number, subject=subject)
        assert await handle.result() == [1, 3, 0, 2, 4]


# -- channels ----------------------------------------------------------------------------------------------------------


@workflow(name="listening")
async def listening(ctx: WorkflowContext, mode: ChannelMode, lives: int, seen: list[Any]) -> list[Any]:
    await ctx.subscribe("ch", mode)
    for _ in range(2):
        try:
            seen.append((await ctx.receive("ch", timeout=1000)).data)
        except MessageTimeoutError:
            return [*seen, "end"]
    if lives > 1:
        ctx.recur(mode, lives - 1, seen)
    return seen


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
@pytest.mark.parametrize("mode", list(ChannelMode))
async def test_each_message_is_received_once_and_in_order_whenever_it_comes(
    database: str, mode: ChannelMode, idle_timeout: float
) -> None:
    to = "x" if mode is ChannelMode.DIRECT else None
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(listening.options(id="x"), mode, 4, [])
        await trio.sleep(10)
        for number in range(3):
            await app.publish("ch", number, to=to)
        await trio.sleep(50)
        for number in range(3, 7):
            await app.publish("ch", number, to=to)
        assert await handle.result() == [*range(7), "end"]


async def test_two_chains_that_compete_share_the_messages(database: str) -> None:
    async with App(database) as app:
        handles = [await app.start(listening.options(id=id), ChannelMode.COMPETING, 9, []) for id in "xy"]
        await trio.sleep(10)
        for number in range(12):
            await app.publish("ch", number)
        first, second = [await handle.result() for handle in handles]
    assert sorted([*first[:-1], *second[:-1]]) == list(range(12))
    assert first[:-1] == sorted(first[:-1]) and second[:-1] == sorted(second[:-1])


@workflow(name="leaving")
async def leaving(ctx: WorkflowContext, mode: ChannelMode, life: int) -> list[Any]:
    await ctx.subscribe("ch", mode)
    if life == 1:
        await ctx.receive("ch")
        await ctx.unsubscribe("ch")
        ctx.recur(mode, 2)
    try:
        return [(await ctx.receive("ch", timeout=10)).data]
    except MessageTimeoutError:
        return []


@pytest.mark.parametrize("mode", [ChannelMode.DIRECT, ChannelMode.BROADCAST])
async def test_what_was_received_before_a_subscription_ended_is_not_received_by_the_next(
    database: str, mode: ChannelMode
) -> None:
    async with App(database) as app:
        handle = await app.start(leaving.options(id="x"), mode, 1)
        await trio.sleep(1)
        await app.publish("ch", 1, to="x" if mode is ChannelMode.DIRECT else None)
        assert await handle.result() == []


# -- short journals ----------------------------------------------------------------------------------------------------


@workflow(name="long_runner")
async def long_runner(ctx: WorkflowContext, number: int, until: int) -> int:
    await ctx.subscribe("ch")
    await ctx.publish("ch", number)
    await ctx.receive("ch")
    await ctx.wait_event("n")
    if number < until:
        ctx.recur(number + 1, until)
    return number


async def test_after_many_lives_there_is_not_more_in_the_journal_nor_in_what_goes_along() -> None:
    async with App(":memory:") as app:
        handle = await app.start(long_runner.options(id="x"), 1, 300)
        for number in range(300):
            await app.send_event("n", number, subject=str(number))
        assert await handle.result() == 300
        sizes = []
        for number in (2, 150, 300):
            history = await app.history(f"x#{number}")
            assert len(history) == 6
            sizes.append(len(str(history[0].payload)))
    assert max(sizes) < 200


@workflow(name="many_subjects")
async def many_subjects(ctx: WorkflowContext, number: int, until: int) -> int:
    await ctx.wait_event("n", str(number))
    await ctx.sleep(60)
    if number < until:
        ctx.recur(number + 1, until)
    return number


async def test_what_is_about_messages_that_are_kept_no_more_does_not_go_along() -> None:
    async with App(":memory:", message_retention=1800) as app:
        handle = await app.start(many_subjects.options(id="x"), 1, 200)
        for number in range(1, 201):
            await app.send_event("n", number, subject=str(number))
            await trio.sleep(60)
        assert await handle.result() == 200
        going_along = [(await app.history(f"x#{number}"))[0].payload for number in (20, 100, 200)]
    for luggage in going_along:
        assert len(luggage["received"]) < 45
        assert len(luggage["consumed"].get("n", ())) < 45


# -- in a family -------------------------------------------------------------------------------------------------------


@workflow(name="chain_parent")
async def chain_parent(ctx: WorkflowContext, until: int, then: str) -> str:
    await do("before")
    result = await ctx.run(counting, 1, until, 10.0)
    if then == "fail":
        await break_down()
    return result


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
async def test_a_parent_gets_the_result_of_the_last(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(chain_parent.options(id="p"), 3, "end")
        assert await handle.result() == "counted to 3"
        last = await app.get_instance("p/counting:1#3")
        assert last is not None and (last.parent_id, last.status) == ("p", Status.COMPLETED)


async def test_if_the_parent_fails_the_last_is_rolled_back(database: str) -> None:
    async with App(database) as app:
        with pytest.raises(WorkflowFailedError, match="broken"):
            await (await app.start(chain_parent.options(id="p"), 3, "fail")).result()
        last = await app.get_instance("p/counting:1#3")
        assert last is not None and last.status is Status.CANCELLED
    assert log == ["before", "1", "2", "3", "undo 3", "undo before"]


async def test_if_the_parent_is_cancelled_the_last_is_cancelled(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(chain_parent.options(id="p"), 9, "end")
        await trio.sleep(25)
        assert await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        statuses = [one.status for one in (await app.list_instances(workflow="counting")).instances]
        assert sorted(statuses) == ["cancelled", "recurred", "recurred"]
    assert log == ["before", "1", "2", "3", "undo 3", "undo before"]


@workflow(name="recurring_parent")
async def recurring_parent(ctx: WorkflowContext, life: int) -> str:
    """Each life starts a child of the same operation id, and does not wait for it."""
    handle = await ctx.start(counting, life, life, 100.0)
    if life < 3:
        ctx.recur(life + 1)
    return await handle.result()


async def test_each_life_has_children_of_its_own(database: str) -> None:
    async with App(database) as app:
        assert await (await app.start(recurring_parent.options(id="p"), 1)).result() == "counted to 3"
        for id, result in (("p/counting:1", 1), ("p#2/counting:1", 2), ("p#3/counting:1", 3)):
            assert await app.handle(id).result() == f"counted to {result}"


class Told(Hooks):
    def __init__(self) -> None:
        self.told: list[str] = []

    def workflow_started(self, workflow: WorkflowInfo) -> None:
        self.told.append(f"{workflow.instance_id} started in {workflow.trace}")

    def workflow_replayed(self, workflow: WorkflowInfo) -> None:
        self.told.append(f"{workflow.instance_id} replayed")

    def workflow_recurred(self, workflow: WorkflowInfo) -> None:
        self.told.append(f"{workflow.instance_id} recurred")

    def workflow_completed(self, workflow: WorkflowInfo) -> None:
        self.told.append(f"{workflow.instance_id} completed")

    def trace_context(self, workflow: str, instance_id: str) -> dict[str, str]:
        return {"of": instance_id}


async def test_hooks_are_told_that_each_is_started(database: str) -> None:
    hooks = Told()
    async with App(database, hooks=[hooks]) as app:
        await (await app.start(counting.options(id="x"), 1, 2)).result()
    assert sorted(hooks.told) == [
        "x recurred",
        "x started in {'of': 'x'}",
        "x#2 completed",
        "x#2 started in {'of': 'x'}",
    ]
