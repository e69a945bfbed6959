"""Finding instances: all that match, the newest first, page by page."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from typing import Any

import pytest
import trio

from trio_romancy import App, InvalidInputError, Status, WorkflowContext, workflow
from trio_romancy._definitions.registry import registry
from trio_romancy._storage.sql.instances import insert_instances, new_row

from ..support.databases import SHARED_KINDS
from ..support.probe import probe


@workflow(name="list_quick")
async def quick(ctx: WorkflowContext, number: int) -> int:
    return number


@workflow(name="list_waiting%_")
async def waiting(ctx: WorkflowContext) -> None:
    await ctx.wait_event("never")


@workflow(name="LIST_waiting")
async def loud(ctx: WorkflowContext) -> None:
    await ctx.wait_event("never")


async def listed(app: App, **filters: object) -> list[str]:
    page = await app.list_instances(**filters)  # type: ignore[arg-type]
    assert page.next_page_token is None
    return [instance.instance_id for instance in page.instances]


async def test_what_is_listed_matches_all_that_is_given(database: str) -> None:
    async with App(database) as app:
        await (await app.start(quick.options(id="done-1"), 1)).result()
        await trio.sleep(10)
        await app.start(waiting.options(id="wait-1"))
        await app.start(loud.options(id="WAIT-2"))
        await app.start(quick.options(id="done-é%"), 2)
        await trio.sleep(1)
        everything = await listed(app)
        assert everything[-1] == "done-1" and set(everything) == {"done-1", "wait-1", "WAIT-2", "done-é%"}
        assert await listed(app, workflow="list_quick") == ["done-é%", "done-1"]
        assert await listed(app, workflow="quick", instance_id="-1") == ["done-1"]
        assert await listed(app, workflow="waiting%_") == ["wait-1"]
        assert await listed(app, workflow="LIST_w") == ["WAIT-2"]
        assert await listed(app, instance_id="%") == ["done-é%"]
        assert await listed(app, instance_id="é") == ["done-é%"]
        assert await listed(app, instance_id="wait") == ["wait-1"]
        assert await listed(app, instance_id="_") == []
        assert await listed(app, status=Status.COMPLETED) == ["done-é%", "done-1"]
        assert set(await listed(app, status=[Status.WAITING, Status.RUNNING])) == {"wait-1", "WAIT-2"}
        assert await listed(app, status="failed") == []
        first = await app.get_instance("done-1")
        assert first is not None
        later = first.created_at + timedelta(seconds=5)
        assert await listed(app, created_before=later) == ["done-1"]
        assert "done-1" not in await listed(app, created_from=later)
        assert await listed(app, created_from=first.created_at, created_before=first.created_at) == []
        assert (await app.list_instances(instance_id="done-1")).instances == [first]


async def test_the_children_of_an_instance_are_listed(database: str) -> None:
    async with App(database, worker=False) as app:
        rows: list[Any] = [new_row(f"child-{n}", "list_quick", "{}", n, owner=None) for n in range(7)]
        parents = ["p", "P", "p ", None, "p", "p", "other"]
        family = [row | {"parent_id": parent, "wake_at": None} for row, parent in zip(rows, parents, strict=True)]
        await probe(app).write(insert_instances, family)
        assert await listed(app, parent="p") == ["child-5", "child-4", "child-0"]
        assert await listed(app, parent="p", instance_id="4", status=Status.PENDING) == ["child-4"]
        assert await listed(app, parent="none") == []
        assert await listed(app, parent="no\0id") == []
        page = await app.list_instances(parent="p", limit=2)
        assert [one.instance_id for one in page.instances] == ["child-5", "child-4"]
        assert await listed(app, parent="p", page_token=page.next_page_token) == ["child-0"]


async def test_pages_neither_skip_nor_repeat_while_instances_are_started(database: str) -> None:
    async with App(database) as app:
        before = {(await app.start(quick, number)).instance_id for number in range(20)}
        found: list[str] = []
        token = None
        while True:
            page = await app.list_instances(limit=3, page_token=token)
            found += [instance.instance_id for instance in page.instances]
            await app.start(quick, 0)
            token = page.next_page_token
            if token is None:
                break
        assert sorted(found) == sorted(before)


async def test_what_cannot_be_looked_for_is_refused(database: str) -> None:
    async with App(database, worker=False) as app:
        for token in ("", "nonsense", base64.urlsafe_b64encode(b'["1", "a"]').decode(), "é", "W10="):
            with pytest.raises(InvalidInputError, match="page_token"):
                await app.list_instances(page_token=token)
        with pytest.raises(ValueError, match="limit is a whole number"):
            await app.list_instances(limit=0)
        with pytest.raises(ValueError, match="time zone"):
            await app.list_instances(created_from=datetime(2026, 1, 1))
        with pytest.raises(ValueError, match="not a valid Status"):
            await app.list_instances(status="sleeping")  # type: ignore[arg-type]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_what_no_worker_knows_is_left_alone_and_seen_to_be_pending(database: str) -> None:
    async with App(database) as app:
        with registry.scoped(keep=lambda definition: definition is not quick):
            async with App(database, worker=False) as client:
                handle = await client.start(quick, 7)
            await trio.sleep(0.5)
            assert await listed(app, status=Status.PENDING, workflow="list_quick") == [handle.instance_id]
        assert await app.handle(handle.instance_id).result(timeout=60) == 7  # now one does
