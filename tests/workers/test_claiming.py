"""A worker that looks for what is due hears what it is told meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from sqlalchemy import Connection

from trio_romancy import App, WorkflowContext, workflow
from trio_romancy._storage.sql import instances, wake_ups

from ..support.probe import probe, replace_next_wake


@workflow(name="looking_quick")
async def quick(ctx: WorkflowContext) -> int:
    return 1


async def test_what_becomes_due_behind_a_look_that_is_under_way_is_looked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if somebody else has said before, at the same time, that something is due."""
    has_looked = trio.Event()

    def next_wake(connection: Connection, me: str, workflows: Sequence[str], *, suspects: bool) -> int | None:
        found = wake_ups.next_wake(connection, me, workflows, suspects=suspects)
        if not has_looked.is_set():
            row = instances.new_row("late", quick.name, "{}", inside.clock.now(), owner=None)
            instances.start_instance(connection, row)
            inside.wake_at(inside.clock.now())
            has_looked.set()
        return found

    async with App(":memory:") as app:
        inside = probe(app)
        await trio.testing.wait_all_tasks_blocked()
        replace_next_wake(next_wake, monkeypatch)
        inside.wake_at(inside.clock.now())
        await has_looked.wait()
        assert await app.handle("late").result(timeout=100) == 1
