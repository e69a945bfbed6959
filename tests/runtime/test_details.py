"""What an instance says of itself while it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from attrs import define

from trio_romancy import App, InvalidDataError, PayloadTooLargeError, WorkflowContext, activity, workflow
from trio_romancy._context.details import MAX_DETAILS

from ..support.probe import probe


@define
class Progress:
    done: int
    since: datetime


@activity(name="details_do")
async def do() -> None: ...


async def details(app: App, id: str = "x") -> Any:
    found = await app.get_instance(id)
    assert found is not None
    (listed,) = (await app.list_instances(instance_id=id, limit=1)).instances
    assert (listed.details, listed.last_details) == (found.details, found.last_details)
    assert (found.details if found.status.is_final else found.last_details) is None
    return found.last_details if found.status.is_final else found.details


@workflow(name="telling")
async def telling(ctx: WorkflowContext) -> None:
    await ctx.sleep(10)
    ctx.set_details({"done": 1})
    await ctx.sleep(10)
    ctx.set_details({"done": 2})
    ctx.set_details({"done": 3})
    await ctx.sleep(10)
    await do()
    ctx.set_details(Progress(4, datetime(2026, 1, 1, tzinfo=UTC)))


@pytest.mark.parametrize("idle_timeout", [0.0, 100.0])
async def test_they_are_seen_at_once_and_the_last_counts(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(telling.options(id="x"))
        seen = []
        for _ in range(3):
            await trio.sleep(5)
            seen.append(await details(app))
            await trio.sleep(5)
        assert seen == [None, {"done": 1}, {"done": 3}]
        await handle.result()
        assert await details(app) == {"done": 4, "since": "2026-01-01T00:00:00+00:00"}
        assert all("details" not in entry.kind for entry in await app.history("x"))


@workflow(name="telling_a_lot")
async def telling_a_lot(ctx: WorkflowContext) -> None:
    for number in range(3):
        ctx.set_details(number)
        await ctx.sleep(10)
    await ctx.wait_event("go on")
    await ctx.wait_event("go on")


async def test_a_replay_does_not_say_again_what_was_said_long_ago(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    async with App(database, idle_timeout=0) as app:
        handle = await app.start(telling_a_lot.options(id="x"))
        await trio.sleep(100)
        assert await details(app) == 2
        journal = probe(app).journal
        append = journal.append_details

        def note(instance_id: str, text: str) -> None:
            written.append(text)
            append(instance_id, text)

        monkeypatch.setattr(journal, "append_details", note)
        await app.send_event("go on")
        await trio.sleep(10)
        assert await details(app) == 2
        await app.send_event("go on")
        await handle.result()
    assert written == []


@workflow(name="telling_before_anything")
async def telling_before_anything(ctx: WorkflowContext, value: Any) -> str:
    try:
        ctx.set_details(value)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "said"


@pytest.mark.parametrize(
    "value", [None, 0, "", [], {}, "ü\U0001f600", {"a": [1, {"b": None}]}, "x" * (MAX_DETAILS - 2)]
)
async def test_any_small_plain_data_can_be_said(database: str, value: Any) -> None:
    async with App(database) as app:
        assert await (await app.start(telling_before_anything.options(id="x"), value)).result() == "said"
        assert await details(app) == value


async def test_what_is_too_large_is_refused_and_the_workflow_goes_on(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(telling_before_anything.options(id="x"), "x" * (MAX_DETAILS - 1))
        assert (await handle.result()).startswith(
            f"PayloadTooLargeError: instance 'x': its details are {MAX_DETAILS + 1} bytes of JSON, and "
        )
        assert await details(app) is None


@workflow(name="telling_nonsense")
async def telling_nonsense(ctx: WorkflowContext) -> list[str]:
    ctx.set_details("sense")
    refused = []
    for value in (object(), {"a": {1, 2j}}, float("nan"), "x" * MAX_DETAILS):
        try:
            ctx.set_details(value)
        except (InvalidDataError, PayloadTooLargeError) as error:
            refused.append(type(error).__name__)
    return refused


async def test_what_cannot_be_stored_is_refused_and_what_was_said_stays(database: str) -> None:
    async with App(database) as app:
        refused = await (await app.start(telling_nonsense.options(id="x"))).result()
        assert refused == [*["InvalidDataError"] * 3, "PayloadTooLargeError"]
        assert await details(app) == "sense"


@workflow(name="telling_in_lives")
async def telling_in_lives(ctx: WorkflowContext, life: int) -> None:
    if life != 2:
        ctx.set_details(f"life {life}")
    if life < 3:
        ctx.recur(life + 1)


async def test_each_life_of_a_chain_has_its_own(database: str) -> None:
    async with App(database) as app:
        await (await app.start(telling_in_lives.options(id="x"), 1)).result()
        found = [await app.get_instance(id) for id in ("x", "x#2", "x#3")]
        assert [one and one.last_details for one in found] == ["life 1", None, "life 3"]


@workflow(name="telling_many")
async def telling_many(ctx: WorkflowContext) -> None:
    for number in range(10):
        ctx.set_details(number)
        await do()


async def test_many_instances_at_once_do_not_mix_theirs_up(database: str) -> None:
    async with App(database) as app:
        handles = [await app.start(telling_many.options(id=f"{number}")) for number in range(30)]
        for handle in handles:
            await handle.result()
        assert [await details(app, handle.instance_id) for handle in handles[11:]] == [9] * 19
