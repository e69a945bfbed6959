"""A commit without an answer: the server has made it, or has never heard of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy import Connection

from trio_romancy import App, EntryKind, InstanceExistsError, WorkflowContext, activity, current_activity, workflow
from trio_romancy.testing import broken_guarantees

from ..support.lossy_proxy import LossyProxy, before_commit, open_app
from ..support.probe import wrap_session_fence
from ..support.servers import execute

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

runs: list[str] = []


@activity(name="lost_answers_step")
async def step(number: int) -> int:
    runs.append(f"step {number}")
    return number


@activity(name="lost_answers_spend")
async def spend(number: int) -> int:
    runs.append(f"spend {number}")
    session = current_activity().session
    await session.execute(sa.text("INSERT INTO spent VALUES (:n)"), {"n": number})
    return number


@workflow(name="lost_answers_steps")
async def steps(ctx: WorkflowContext, count: int) -> int:
    return sum([await step(number) for number in range(count)])


@workflow(name="lost_answers_spending")
async def spending(ctx: WorkflowContext, count: int) -> int:
    return sum([await spend(number) for number in range(count)])


@workflow(name="lost_answers_both")
async def both(ctx: WorkflowContext, count: int) -> int:
    async def run(name: str, one: Any) -> None:
        with ctx.branch(name):
            for number in range(count):
                await one(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "steps", step)
        nursery.start_soon(run, "spending", spend)
    return count


class Losses:
    """Loses commits of the engine, as told by a word for each: made, unmade, or fine."""

    def __init__(self, proxy: LossyProxy, *fates: str) -> None:
        self.happened: list[trio.Event] = []
        self._proxy = proxy
        self._fates = list(fates)

    def after(self, fence: Callable[..., Any]) -> Callable[..., Any]:
        def fence_and_lose(connection: Connection, *args: Any) -> Any:
            answer = fence(connection, *args)
            self.lose(connection)
            return answer

        return fence_and_lose

    def lose(self, connection: Connection) -> None:
        fate = self._fates.pop(0) if self._fates else "fine"
        if fate != "fine":
            self.happened.append(self._proxy.lose_commit(connection, is_made=fate == "made"))

    def have_all_happened(self) -> bool:
        return not self._fates and all(event.is_set() for event in self.happened)


async def check(app: App, instance_id: str) -> list[str]:
    """What its journal says, which is in order."""
    instance = await app.get_instance(instance_id)
    assert instance is not None
    history = await app.history(instance_id)
    assert broken_guarantees(instance, history) == []
    assert EntryKind.ATTEMPT_FAILED not in {entry.kind for entry in history}
    return [entry.operation_id for entry in history]


@pytest.fixture(autouse=True)
def forget_runs() -> None:
    runs.clear()


@pytest.mark.parametrize("fate", ["made", "unmade"])
async def test_a_batch_of_the_journal_is_written_once_and_nothing_runs_again(
    database: str, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_app(database) as (proxy, app):
        losses = Losses(proxy, *[fate] * 2, "fine", *[fate] * 4)
        before_commit(losses.lose, monkeypatch)
        handle = await app.start(steps, 4)
        assert await handle.result(timeout=10) == 6
        assert losses.have_all_happened()
        assert await check(app, handle.instance_id) == [
            "lost_answers_step:1",
            "lost_answers_step:2",
            "lost_answers_step:3",
            "lost_answers_step:4",
            "",
        ]
        assert runs == ["step 0", "step 1", "step 2", "step 3"]


@pytest.mark.parametrize(("fate", "times"), [("made", 1), ("unmade", 2)])
async def test_a_session_is_adopted_if_the_server_committed_it_and_else_run_again(
    database: str, fate: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database, "CREATE TABLE spent (n INTEGER)")
    async with open_app(database) as (proxy, app):
        # Every second commit: after one that was lost the fence is passed once more, to ask what became of it.
        losses = Losses(proxy, *[fate, "fine", *(["fine"] if times == 2 else [])] * 3)
        wrap_session_fence(losses.after, monkeypatch)
        handle = await app.start(spending, 3)
        assert await handle.result(timeout=10) == 3
        assert losses.have_all_happened()
        assert await check(app, handle.instance_id) == [
            "lost_answers_spend:1",
            "lost_answers_spend:2",
            "lost_answers_spend:3",
            "",
        ]
    assert execute(database, "SELECT n FROM spent ORDER BY n") == [(0,), (1,), (2,)]
    assert runs == [f"spend {n}" for n in range(3) for _ in range(times)]


@pytest.mark.parametrize("fate", ["made", "unmade"])
async def test_the_question_what_became_of_a_commit_may_get_no_answer_either(
    database: str, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database, "CREATE TABLE spent (n INTEGER)")
    async with open_app(database) as (proxy, app):
        losses = Losses(proxy, fate, "made", "unmade", "made")
        wrap_session_fence(losses.after, monkeypatch)
        handle = await app.start(spending, 1)
        assert await handle.result(timeout=10) == 0
        assert losses.have_all_happened()
        assert await check(app, handle.instance_id) == ["lost_answers_spend:1", ""]
    assert execute(database, "SELECT n FROM spent") == [(0,)]


async def test_every_other_commit_of_siblings_is_lost_and_each_is_recorded_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(database, "CREATE TABLE spent (n INTEGER)")
    async with open_app(database) as (proxy, app):
        losses = Losses(proxy, *["made", "fine", "unmade", "fine"] * 3)
        wrap_session_fence(losses.after, monkeypatch)
        before_commit(losses.lose, monkeypatch)
        handles = [await app.start(both, 3) for _ in range(5)]
        for handle in handles:
            assert await handle.result(timeout=20) == 3
            ids = await check(app, handle.instance_id)
            assert sorted(ids[:-1]) == sorted(
                f"{b}:{n}" for b in ("steps/lost_answers_step", "spending/lost_answers_spend") for n in (1, 2, 3)
            )
        assert losses.have_all_happened()
    assert sorted(execute(database, "SELECT n FROM spent")) == [(n,) for n in range(3) for _ in range(5)]


@pytest.mark.parametrize("fate", ["made", "unmade"])
async def test_a_start_whose_commit_got_no_answer_is_one_start(
    database: str, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_app(database) as (proxy, app):
        losses = Losses(proxy, *[fate] * 6)
        before_commit(losses.lose, monkeypatch)
        named = await app.start(steps.options(id="named"), 2)
        assert await named.result(timeout=10) == 1
        assert (await app.start(steps.options(id="named"), 2)).instance_id == "named"
        with pytest.raises(InstanceExistsError):
            await app.start(steps.options(id="named"), 3)
        assert losses.have_all_happened()
        assert await check(app, "named") == ["lost_answers_step:1", "lost_answers_step:2", ""]
    assert execute(database, "SELECT count(*) FROM romancy_instances") == [(1,)]
    assert runs == ["step 0", "step 1"]
