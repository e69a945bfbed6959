"""The user's own tables, written in the transaction that records their activity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from trio_romancy import App, EntryKind, RetryPolicy, WorkflowContext, activity, current_activity, workflow

from ..support.databases import ALL_KINDS

pytestmark = [pytest.mark.real_clock, pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)]


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(sa.String(50))


counters = sa.Table(
    "counters", Base.metadata, sa.Column("name", sa.String(50), primary_key=True), sa.Column("n", sa.Integer)
)


async def run(database: str, flow: Any) -> tuple[Any, list[Any], list[Any]]:
    """Run a workflow after making the tables. Returns its result, its journal, and all notes."""

    @activity
    async def make_tables() -> None:
        session = current_activity().session
        await session.run_sync(lambda session: Base.metadata.create_all(session.connection()))
        await session.execute(sa.insert(counters).values(name="c", n=0))

    @workflow
    async def prepare(ctx: WorkflowContext) -> None:
        await make_tables()

    @activity
    async def read_notes() -> list[str]:
        return list(await current_activity().session.scalars(sa.select(Note.text).order_by(Note.id)))

    @workflow
    async def look(ctx: WorkflowContext) -> list[str]:
        return await read_notes()

    async with App(database, retry=RetryPolicy.fixed(3, 0.01)) as app:
        await (await app.start(prepare)).result(timeout=60)
        handle = await app.start(flow)
        result = await handle.result(timeout=60)
        notes = await (await app.start(look)).result(timeout=60)
        return result, (await app.history(handle.instance_id)).entries, notes


async def test_core_and_orm_statements_commit_with_the_entry(database: str) -> None:
    @activity
    async def write() -> list[Any]:
        session = current_activity().session
        await session.add(Note(id=1, text="orm"))
        await session.execute(sa.insert(Note), [{"id": 2, "text": "bulk"}, {"id": 3, "text": "bulk too"}])
        updated = await session.execute(sa.update(counters).values(n=counters.c.n + 1))
        note = await session.get(Note, 1)
        assert note is not None
        note.text = "changed"
        await session.flush()
        rows = await session.execute(sa.select(counters.c.name, counters.c.n))
        return [updated.rowcount, *[list(row) for row in rows]]  # type: ignore[attr-defined]

    @workflow
    async def flow(ctx: WorkflowContext) -> list[Any]:
        return await write()

    result, history, notes = await run(database, flow)
    assert result == [1, ["c", 1]]
    assert notes == ["changed", "bulk", "bulk too"]
    assert history[0].kind is EntryKind.ACTIVITY_COMPLETED


async def test_a_failed_attempt_leaves_nothing_and_the_next_one_has_a_transaction_of_its_own(database: str) -> None:
    @activity
    async def write() -> int:
        attempt = current_activity().attempt
        await current_activity().session.add(Note(id=1, text=f"attempt {attempt}"))
        await current_activity().session.flush()
        if attempt < 3:
            raise ConnectionError
        return attempt

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await write()

    result, _, notes = await run(database, flow)
    assert (result, notes) == (3, ["attempt 3"])


async def test_a_savepoint_undoes_its_own_block_only(database: str) -> None:
    @activity
    async def write() -> None:
        session = current_activity().session
        await session.add(Note(id=1, text="kept"))
        with pytest.raises(ZeroDivisionError):
            async with session.begin_nested():
                await session.add(Note(id=2, text="undone"))
                await session.flush()
                raise ZeroDivisionError
        with trio.move_on_after(0.01):
            async with session.begin_nested():
                await session.add(Note(id=3, text="undone by a timeout"))
                await session.flush()
                await trio.sleep_forever()
        async with session.begin_nested():
            await session.add(Note(id=4, text="kept too"))

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await write()

    _, _, notes = await run(database, flow)
    assert notes == ["kept", "kept too"]


async def test_sessions_of_siblings_that_lock_the_same_row_take_turns_and_each_commits(database: str) -> None:
    @activity
    async def add_one(number: int) -> None:
        session = current_activity().session
        n = await session.scalar(sa.select(counters.c.n).with_for_update())
        await trio.sleep(0.001)
        await session.execute(sa.update(counters).values(n=n + 1))

    @activity
    async def read() -> int:
        return int(await current_activity().session.scalar(sa.select(counters.c.n)))

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(add_one.options(id=f"add/{number}"), number)
        return await read()

    result, history, _ = await run(database, flow)
    assert result == 10
    assert [entry.seq for entry in history] == sorted(entry.seq for entry in history)


async def test_a_plain_function_uses_the_session_from_its_thread(database: str) -> None:
    @activity
    def write() -> None:
        trio.from_thread.run(current_activity().session.add, Note(id=1, text="from a thread"))

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await write()

    _, _, notes = await run(database, flow)
    assert notes == ["from a thread"]


@pytest.mark.parametrize("ask", [lambda session: session.is_open, lambda session: None], ids=["is_open", "nothing"])
async def test_an_activity_that_runs_no_statement_costs_no_transaction(
    database: str, ask: Callable[[Any], object]
) -> None:
    @activity
    async def looks() -> bool:
        ask(current_activity().session)
        return current_activity().session.is_open

    @workflow
    async def flow(ctx: WorkflowContext) -> bool:
        return await looks()

    result, _, _ = await run(database, flow)
    assert result is False


async def test_a_bug_in_the_users_sql_is_an_ordinary_failure(database: str) -> None:
    @activity
    async def selects_from_nowhere() -> None:
        await current_activity().session.execute(sa.text("SELECT * FROM nowhere"))

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        with pytest.raises(Exception, match=r"nowhere.* (doesn't|does not) exist|no such table: nowhere") as caught:
            await selects_from_nowhere()
        return type(caught.value).__name__

    result, _, _ = await run(database, flow)
    assert result == "RetryExhaustedError"
