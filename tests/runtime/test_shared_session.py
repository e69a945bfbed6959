"""The session of an activity, used by several of its tasks and threads at once: one transaction that loses nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio.testing
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from trio_romancy import (
    ActivityError,
    App,
    RetryPolicy,
    RomancyError,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy.testing import How, explore_crashes

from ..support.databases import ALL_KINDS

every_kind = pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(sa.String(50))


async def insert(id: int, text: str = "") -> None:
    await current_activity().session.execute(sa.insert(Thing).values(id=id, text=text))


@activity(name="shared_make_tables")
async def make_tables() -> None:
    await current_activity().session.run_sync(lambda session: Base.metadata.create_all(session.connection()))


@activity(name="shared_ids")
async def ids() -> list[int]:
    return list(await current_activity().session.scalars(sa.select(Thing.id).order_by(Thing.id)))


async def stored(database: str, write: Callable[[], Awaitable[None]]) -> tuple[str, list[int]]:
    """Run the activity once. Returns the message of its failure, and the ids of all things afterwards."""

    @workflow
    async def flow(ctx: WorkflowContext) -> tuple[str, list[int]]:
        await make_tables()
        failure = ""
        try:
            await write()
        except ActivityError as error:
            failure = error.message or error.error_type
        return failure, await ids()

    async with App(database, retry=RetryPolicy.no_retry()) as app:
        return await (await app.start(flow)).result(timeout=90)


@every_kind
@pytest.mark.real_clock
@pytest.mark.parametrize("after_a_statement", [False, True], ids=["first use", "later"])
async def test_what_several_tasks_write_is_committed_together(database: str, after_a_statement: bool) -> None:
    @activity
    async def write() -> None:
        if after_a_statement:
            await insert(0)
        async with trio.open_nursery() as nursery:
            for id in range(1, 11):
                nursery.start_soon(insert, id)

    assert await stored(database, write) == ("", list(range(0 if after_a_statement else 1, 11)))


@every_kind
@pytest.mark.real_clock
async def test_orm_objects_of_several_tasks_are_committed_together(database: str) -> None:
    async def add(id: int) -> None:
        session = current_activity().session
        await session.add(Thing(id=id, text="new"))
        thing = await session.get(Thing, id)
        assert thing is not None
        thing.text = "changed"

    @activity
    async def write() -> None:
        async with trio.open_nursery() as nursery:
            for id in range(5):
                nursery.start_soon(add, id)

    assert await stored(database, write) == ("", list(range(5)))


@every_kind
@pytest.mark.real_clock
async def test_several_threads_share_the_session_of_their_activity(database: str) -> None:
    def insert_from_thread(id: int) -> None:
        trio.from_thread.run(current_activity().session.execute, sa.insert(Thing).values(id=id, text=""))

    @activity
    async def write() -> None:
        async with trio.open_nursery() as nursery:
            for id in range(5):
                nursery.start_soon(trio.to_thread.run_sync, insert_from_thread, id)

    assert await stored(database, write) == ("", list(range(5)))


@every_kind
@pytest.mark.real_clock
async def test_nothing_of_any_task_is_kept_if_one_fails(database: str) -> None:
    async def fail() -> None:
        await insert(3)
        raise TerminalError("no")

    @activity
    async def write() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(insert, 1)
            nursery.start_soon(insert, 2)
            nursery.start_soon(fail)

    failure, found = await stored(database, write)
    assert "no" in failure or "Group" in failure
    assert found == []


@every_kind
@pytest.mark.real_clock
async def test_a_task_that_is_cancelled_before_its_turn_takes_nothing_from_the_others(database: str) -> None:
    @activity
    async def write() -> None:
        async with trio.open_nursery() as nursery:
            for id in range(1, 6):
                nursery.start_soon(insert, id)
            with trio.CancelScope() as scope:
                scope.cancel()
                await insert(99)

    assert await stored(database, write) == ("", [1, 2, 3, 4, 5])


@every_kind
@pytest.mark.real_clock
async def test_a_savepoint_that_is_undone_takes_nothing_of_other_tasks_with_it(database: str) -> None:
    @activity
    async def write() -> None:
        is_open, inserted = trio.Event(), trio.Event()

        async def in_a_savepoint() -> None:
            with pytest.raises(ZeroDivisionError):
                async with current_activity().session.begin_nested():
                    await insert(1)
                    is_open.set()
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    assert not inserted.is_set()
                    raise ZeroDivisionError

        async def beside_it() -> None:
            await is_open.wait()
            await insert(2)
            inserted.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_a_savepoint)
            nursery.start_soon(beside_it)

    assert await stored(database, write) == ("", [2])


@every_kind
@pytest.mark.real_clock
async def test_savepoints_of_several_tasks_do_not_mix(database: str) -> None:
    async def in_a_savepoint(id: int) -> None:
        try:
            async with current_activity().session.begin_nested():
                await insert(id)
                await trio.lowlevel.checkpoint()
                async with current_activity().session.begin_nested():
                    await insert(id + 100)
                if id % 2:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    @activity
    async def write() -> None:
        async with trio.open_nursery() as nursery:
            for id in range(6):
                nursery.start_soon(in_a_savepoint, id)

    assert await stored(database, write) == ("", [0, 2, 4, 100, 102, 104])


@every_kind
@pytest.mark.real_clock
async def test_tasks_that_are_started_in_a_savepoint_take_part_in_it(database: str) -> None:
    @activity
    async def write() -> None:
        with pytest.raises(ExceptionGroup):
            async with current_activity().session.begin_nested(), trio.open_nursery() as nursery:
                nursery.start_soon(insert, 1)
                await insert(2)
                async with current_activity().session.begin_nested():
                    await insert(3)
                raise ZeroDivisionError
        await insert(4)

    assert await stored(database, write) == ("", [4])


@every_kind
@pytest.mark.real_clock
@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["at once", "and goes on"])
async def test_code_that_ends_the_transaction_itself_has_failed(database: str, end: str, goes_on: bool) -> None:
    def end_it(session: Any) -> None:
        getattr(session.connection().get_transaction(), end)()

    @activity
    async def write() -> None:
        await insert(1)
        try:
            await current_activity().session.run_sync(end_it)
        except Exception:
            if not goes_on:
                raise
        if goes_on:
            await insert(2)

    failure, found = await stored(database, write)
    assert "begin_nested" in failure
    assert found == ([1] if end == "commit" else [])


@pytest.mark.parametrize("kind", ["sqlite", "file", "postgresql"], indirect=True)
@pytest.mark.real_clock
async def test_so_has_code_that_ends_it_by_a_statement(database: str) -> None:
    @activity
    async def write() -> None:
        await insert(1)
        await current_activity().session.execute(sa.text("ROLLBACK"))

    failure, found = await stored(database, write)
    assert "begin_nested" in failure
    assert found == []


async def test_a_block_that_waits_for_a_task_that_waits_for_the_block_is_named(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    @activity(timeout=60)
    async def write() -> None:
        inserted, is_open = trio.Event(), trio.Event()

        async def beside_it() -> None:
            await is_open.wait()
            await insert(1)
            inserted.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside_it)
            async with current_activity().session.begin_nested():
                is_open.set()
                await inserted.wait()

    failure, found = await stored(database, write)
    assert "longer than 60 s" in failure
    assert found == []
    messages = [record.getMessage() for record in caplog.records]
    named = [text for text in messages if "another task has left a block of begin_nested()" in text]
    assert len(named) == 1
    assert "a task of activity write:1 waits" in named[0]


class FrozenError(Exception):
    """Lets no attribute be set, not even a traceback."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


async def test_an_exception_of_the_users_own_leaves_the_session_as_it_is(database: str) -> None:
    error, caught = FrozenError(), []

    def fail(session: Any) -> None:
        raise error

    @activity
    async def write() -> None:
        try:
            await current_activity().session.run_sync(fail)
        except BaseException as raised:
            caught.append(raised)
        await insert(1)

    assert await stored(database, write) == ("", [1])
    assert caught == [error]


# -- crashes -----------------------------------------------------------------------------------------------------------


async def count(name: str, change: int) -> None:
    id = {"stock": 1, "money": 2}[name]
    text = sa.cast(sa.cast(Thing.text, sa.Integer) + change, sa.String(20))
    await current_activity().session.execute(sa.update(Thing).where(Thing.id == id).values(text=text))


@compensation(name="shared_undo")
async def undo() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count, "stock", 1)
        nursery.start_soon(count, "money", -10)


@activity(name="shared_sell", compensation=undo)
async def sell() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count, "stock", -1)
        nursery.start_soon(count, "money", 10)


books: list[str] = []
"""What is in the shop when all else is undone."""


@compensation(name="shared_look")
async def look() -> None:
    books[:] = await current_activity().session.scalars(sa.select(Thing.text).order_by(Thing.id))


@activity(name="shared_open_shop", compensation=look)
async def open_shop() -> None:
    session = current_activity().session
    await session.run_sync(lambda session: Base.metadata.create_all(session.connection()))
    await session.run_sync(lambda session: session.query(Thing).delete())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(insert, 1, "7")
        nursery.start_soon(insert, 2, "0")


@activity(name="shared_ship")
async def ship() -> None:
    raise TerminalError("no truck")


@workflow(name="shared_order")
async def order(ctx: WorkflowContext) -> None:
    await open_shop()
    await sell()
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(sell.options(id=f"sell/{number}"))
    await ship()


async def rollback(app: App) -> object:
    books.clear()
    with pytest.raises(WorkflowFailedError) as caught:
        await (await app.start(order)).result()
    return caught.value.uncompensated, list(books)


@pytest.mark.long
def test_a_rollback_by_sessions_of_two_tasks_survives_every_crash(
    kind: str, new_database: Callable[[], str], record_property: Callable[[str, object], None]
) -> None:
    hows = tuple(How) if kind == "sqlite" else (How.WORKER_BEFORE, How.WORKER_AFTER, How.ANSWER_LOST, How.ACTOR_BEFORE)
    exploration = explore_crashes(rollback, hows=hows, new_database=new_database)
    assert exploration.reference.result == ([], ["7", "0"])
    record_property("points", exploration.points)
    print(f"{exploration.points} points, {exploration.commits} commits undisturbed")


# -- beside calls of the app -------------------------------------------------------------------------------------------


@workflow(name="shared_small")
async def small(ctx: WorkflowContext) -> str:
    return "done"


async def starts(app: App) -> str:
    return (await app.start(small)).instance_id


async def starts_and_awaits(app: App) -> str:
    return await (await app.start(small)).result()


async def sends(app: App) -> str:
    return (await app.send_event("type", None)).id


@pytest.mark.parametrize("kind", ["sqlite", "file"], indirect=True)
@pytest.mark.real_clock
@pytest.mark.parametrize("call", [starts, starts_and_awaits, sends], ids=lambda call: str(call.__name__))
@pytest.mark.parametrize("delay", [0, 1, 2, 5, 20])
async def test_on_a_database_with_one_writer_a_session_and_the_app_do_not_wait_for_each_other(
    database: str, call: Callable[[App], Awaitable[str]], delay: int
) -> None:
    async def use_session() -> None:
        for _ in range(delay):
            await trio.lowlevel.checkpoint()
        await insert(1)

    async def use_app() -> None:
        try:
            ended.append(await call(app))
        except RomancyError as error:  # it is refused, once the session is open
            ended.append(str(error))

    @activity
    async def write() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use_session)
            nursery.start_soon(use_app)

    @workflow
    async def flow(ctx: WorkflowContext) -> list[int]:
        await make_tables()
        await write()
        return await ids()

    ended: list[str] = []
    with trio.fail_after(20):
        async with App(database, retry=RetryPolicy.no_retry(), shutdown_timeout=1) as app:
            assert await (await app.start(flow)).result() == [1]
    assert len(ended) == 1


@pytest.mark.parametrize("kind", ["sqlite", "file"], indirect=True)
@pytest.mark.real_clock
async def test_there_a_session_begins_when_the_calls_of_the_app_have_ended(database: str) -> None:
    may_end, awaits = trio.Event(), trio.Event()

    @activity
    async def wait() -> None:
        awaits.set()
        await may_end.wait()

    @workflow
    async def waiting(ctx: WorkflowContext) -> str:
        await wait()
        return "done"

    async def use_app() -> None:
        results.append(await (await app.start(waiting)).result())

    @activity
    async def write() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use_app)
            await awaits.wait()
            nursery.start_soon(insert, 1)
            await trio.sleep(0.2)
            assert not current_activity().session.is_open
            may_end.set()

    results: list[str] = []
    with trio.fail_after(20):
        async with App(database, retry=RetryPolicy.no_retry(), shutdown_timeout=1) as app:

            @workflow
            async def flow(ctx: WorkflowContext) -> list[int]:
                await make_tables()
                await write()
                return await ids()

            assert await (await app.start(flow)).result() == [1]
    assert results == ["done"]
