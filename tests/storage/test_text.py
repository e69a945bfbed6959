"""What users store comes back as it was, and what differs by one bit is something else, on every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
import trio

from trio_romancy import (
    App,
    InstanceExistsError,
    Status,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from trio_romancy._storage.journal.batch import Batch

from ..support.databases import SHARED_KINDS
from ..support.probe import probe
from ..support.texts import ALIKE, PLANES

MIB = 1024 * 1024


@activity(name="text_echo")
async def echo(value: str) -> str:
    return value


@workflow(name="text_through")
async def through(ctx: WorkflowContext, value: str) -> str:
    return await echo(value)


@workflow(name="text_waits")
async def waits(ctx: WorkflowContext, value: str) -> str:
    await ctx.sleep(1000)
    return value


# -- ids ---------------------------------------------------------------------------------------------------------------


async def test_ids_that_look_alike_are_different_instances(database: str) -> None:
    async with App(database) as app:
        handles = [await app.start(through.options(id=id), f"input of {id!r}") for id in ALIKE]
        assert [handle.instance_id for handle in handles] == ALIKE
        assert [await handle.result() for handle in handles] == [f"input of {id!r}" for id in ALIKE]
        for id in ALIKE:
            found = await app.get_instance(id)
            assert found is not None
            assert (found.instance_id, found.output) == (id, f"input of {id!r}")
            assert {entry.instance_id for entry in await app.history(id)} == {id}
            with pytest.raises(InstanceExistsError):
                await app.start(through.options(id=id), "another input")
        assert await app.get_instance("a  ") is None
        assert await app.get_instance("aa") is None


async def test_what_is_done_to_an_id_is_done_to_no_other_that_looks_alike(database: str) -> None:
    async with App(database, idle_timeout=1) as app:
        for id in ALIKE:
            await app.start(waits.options(id=id), id)
        await trio.sleep(10)
        assert await app.cancel("a", "only this one")
        with pytest.raises(WorkflowCancelledError, match="only this one"):
            await app.handle("a").result()
        assert [await app.handle(id).result() for id in ALIKE[1:]] == ALIKE[1:]


async def test_operation_ids_that_look_alike_are_different_operations(database: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        results = [await echo.options(id=id)(id) for id in ALIKE]
        await ctx.sleep(100)
        return results

    async with App(database, idle_timeout=1) as app:
        handle = await app.start(flow)
        assert await handle.result() == ALIKE
        entries = await app.history(handle.instance_id)
    assert [entry.operation_id for entry in entries[: len(ALIKE)]] == ALIKE


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_worker_ids_that_look_alike_are_different_workers(database: str) -> None:
    async with App(database, worker_id="w"), App(database, worker_id="W"), App(database, worker_id="w "):
        pass  # one whose id is taken would wait, and be refused


@pytest.mark.parametrize("text", PLANES, ids=lambda text: f"U+{ord(text):06X}")
async def test_every_plane_of_unicode_survives_everywhere(database: str, text: str) -> None:
    @activity(name=f"activity {text}")
    async def with_name(value: str) -> str:
        return value + text

    @workflow(name=f"workflow {text}")
    async def flow(ctx: WorkflowContext, value: str) -> str:
        return await with_name(value)

    async with App(database, worker_id=f"worker {text}") as app:
        handle = await app.start(flow.options(id=f"id {text}"), text)
        assert await handle.result() == text * 2
        found = await app.get_instance(f"id {text}")
        (entry, _) = await app.history(f"id {text}")
    assert found is not None
    assert (found.instance_id, found.workflow, found.output) == (f"id {text}", f"workflow {text}", text * 2)
    assert found.input == {"value": text}
    assert (entry.operation_id, entry.payload["result"]) == (f"activity {text}:1", text * 2)


# -- payloads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a\0b", "\0", "'; --", '\\"\\u0000', "%s %(a)s :a ?", "\r\n\t\x1f\x7f\x85\u2028"], ids=ascii
)
async def test_any_text_survives_as_input_result_reason_and_message(database: str, text: str) -> None:
    @workflow
    async def fails(ctx: WorkflowContext) -> None:
        raise ValueError(text)

    async with App(database) as app:
        assert await (await app.start(through, text)).result() == text
        handle = await app.start(waits, text)
        assert await handle.cancel(text)
        with pytest.raises(WorkflowCancelledError) as cancelled:
            await handle.result()
        with pytest.raises(WorkflowFailedError) as failed:
            await (await app.start(fails)).result()
    assert (cancelled.value.reason, failed.value.message) == (text, text)


@attrs.define
class Values:
    integers: list[int]
    floats: list[float]
    times: list[datetime]
    anything: Any


VALUES = Values(
    [10**200 - 1, -(10**200), 2**53 + 1, 2**63, -(2**63) - 1, 0],
    [0.1, 5e-324, 1.7976931348623157e308, -2.2250738585072014e-308, 1 / 3, -0.0],
    [
        datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(1, 1, 1, tzinfo=timezone(-timedelta(hours=12))),
        datetime(9999, 12, 31, 23, 59, 59, 999999),
    ],
    {"": [None, True, {"nested": [[]]}], "key": 1.5},
)


@activity(name="text_pass_on")
async def pass_on(values: Values) -> Values:
    assert repr(values) == repr(VALUES)
    return values


@workflow(name="text_values")
async def values_through(ctx: WorkflowContext, values: Values) -> Values:
    assert repr(values) == repr(VALUES)
    values = await pass_on(values)
    await ctx.sleep(100)
    return values


async def test_numbers_and_times_survive_exactly(database: str) -> None:
    async with App(database, idle_timeout=1) as app:  # so that they are read again from the journal
        handle = await app.start(values_through, VALUES)
        assert repr(await handle.result()) == repr(VALUES)
        found = await app.get_instance(handle.instance_id)
    assert found is not None
    assert found.input["integers"] == found.output["integers"] == VALUES.integers


async def test_a_payload_just_within_the_limit_survives_as_input_result_and_output(database: str) -> None:
    text = "x" * (4 * MIB - 1000)
    async with App(database) as app:
        handle = await app.start(through, text)
        assert await handle.result() == text
        found = await app.get_instance(handle.instance_id)
        (entry, _) = await app.history(handle.instance_id)
    assert found is not None
    assert found.status is Status.COMPLETED
    assert found.output == found.input["value"] == entry.payload["result"] == text


@pytest.mark.parametrize(("size", "together"), [(MIB, 1), (MIB // 25, 10)])
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)  # in memory a batch never has to wait for another
async def test_many_large_payloads_at_once_survive(
    database: str, size: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(batch: Batch) -> None:
        await trio.sleep(0.001)  # under virtual time until all others have their outcomes, and wait for the journal

    @activity
    async def large(number: int) -> str:
        await trio.sleep(1)  # under virtual time all of them end at once
        return f"{number:02}" * (size // 2)

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        results: dict[int, str] = {}

        async def run(number: int) -> None:
            results[number] = await large.options(id=f"large {number}")(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(run, number)
        return [results[number][:4] + results[number][-2:] for number in range(20)]

    async with App(database) as app:
        probe(app).before_each_commit(wait, monkeypatch)
        handle = await app.start(flow)
        assert await handle.result() == [f"{number:02}" * 3 for number in range(20)]
        entries = await app.history(handle.instance_id)
        worker = app.statistics().worker
    assert worker is not None
    assert worker.journal.largest_batch >= together
    assert all(entry.payload["result"] == entry.operation_id[6:].zfill(2) * (size // 2) for entry in entries[:20])
