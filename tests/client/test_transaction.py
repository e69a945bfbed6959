"""``app.transaction()``: the caller's tables and what the caller starts commit together, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
import trio
from attrs import frozen
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from trio_romancy import App, NonDeterminismError, Status, WorkflowContext, activity, workflow
from trio_romancy.errors import RomancyError

from ..support.databases import ALL_KINDS

on_all = pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)


@frozen
class OutOfStockError(Exception):
    id: int


@workflow(name="transaction_doubling")
async def doubling(ctx: WorkflowContext, number: int) -> int:
    return 2 * number


@workflow(name="transaction_waiting")
async def waiting(ctx: WorkflowContext) -> Any:
    return (await ctx.wait_event("paid")).data


async def make_table(app: App) -> None:
    async with app.transaction() as tx:
        await tx.run_sync(lambda session: Base.metadata.create_all(session.connection()))


async def orders(app: App) -> list[int]:
    async with app.transaction() as tx:
        return list((await tx.scalars(sa.select(Order.id).order_by(Order.id))).all())


@on_all
async def test_rows_and_starts_commit_together(database: str) -> None:
    async with App(database) as app:
        await make_table(app)
        waits, ends = await app.start(waiting), await app.start(waiting)
        async with app.transaction() as tx:
            await tx.add(Order(id=1))
            handle = await tx.start(doubling, 21)
            by_name = await tx.start("transaction_doubling", {"number": 4}, id="four")
            assert not (await tx.send_event("paid", 7, to=waits.instance_id)).is_duplicate
            assert await tx.cancel(ends.instance_id, "enough")
        assert await handle.result() == 42
        assert await by_name.result() == 8
        assert await waits.result() == 7
        with pytest.raises(RomancyError, match="enough"):
            await ends.result()
        assert await orders(app) == [1]


@on_all
async def test_an_exception_rolls_back_and_leaves_the_block_as_it_is(database: str) -> None:
    async with App(database) as app:
        await make_table(app)
        error = OutOfStockError(1)
        with pytest.raises(OutOfStockError) as caught:
            async with app.transaction() as tx:
                await tx.add(Order(id=1))
                handle = await tx.start(doubling, 21)
                raise error
        assert caught.value is error
        with trio.move_on_after(1) as scope:
            async with app.transaction() as tx:
                await tx.add(Order(id=2))
                await tx.flush()
                await trio.sleep(2)
        assert scope.cancelled_caught
        assert await app.get_instance(handle.instance_id) is None
        assert await orders(app) == []


@on_all
async def test_a_savepoint_undoes_its_starts(database: str) -> None:
    async with App(database) as app:
        await make_table(app)
        async with app.transaction() as tx:
            await tx.add(Order(id=1))
            with pytest.raises(OutOfStockError):
                async with tx.begin_nested():
                    await tx.add(Order(id=2))
                    undone = await tx.start(doubling, 1)
                    raise OutOfStockError(2)
            kept = await tx.start(doubling, 2)
        assert await kept.result() == 4
        assert await app.get_instance(undone.instance_id) is None
        assert await orders(app) == [1]


@on_all
async def test_an_unused_block_and_a_late_use(database: str) -> None:
    async with App(database) as app:
        async with app.transaction() as tx:
            pass
        with pytest.raises(RomancyError, match="used after the end of its block"):
            await tx.execute(sa.text("SELECT 1"))
        with pytest.raises(RomancyError, match="used after the end of its block"):
            await tx.start(doubling, 1)


@on_all
async def test_code_that_ends_the_transaction_is_refused(database: str) -> None:
    async with App(database) as app:
        with pytest.raises(RomancyError, match="committed or rolled back by code in its block"):
            async with app.transaction() as tx:
                await tx.execute(sa.text("SELECT 1"))
                await tx.run_sync(lambda session: session.connection().rollback())


@pytest.mark.parametrize("kind", ["sqlite", "file"], indirect=True)
async def test_where_there_is_one_writer_a_write_apart_is_refused_instead_of_waiting_for_ever(database: str) -> None:
    async with App(database) as app:
        await make_table(app)
        async with app.transaction() as tx:
            await app.start(doubling.options(id="before the first statement"), 1)
            await tx.add(Order(id=1))
            await tx.flush()
            with pytest.raises(RomancyError, match=r"cannot start an instance apart from it, .* one writer"):
                await app.start(doubling, 1)
            with pytest.raises(RomancyError, match="cannot open a transaction apart from it"):
                async with app.transaction():
                    raise AssertionError
        assert await (await app.start(doubling, 2)).result() == 4
        assert await orders(app) == [1]


@activity(name="transaction_in_activity")
async def in_activity() -> str:
    app = apps[-1]
    async with app.transaction() as tx:
        return (await tx.start(doubling.options(id="from an activity"), 5)).instance_id


@workflow(name="transaction_by_activity")
async def by_activity(ctx: WorkflowContext) -> str:
    return await in_activity()


@workflow(name="transaction_in_workflow")
async def in_workflow(ctx: WorkflowContext) -> None:
    async with apps[-1].transaction():
        pass


apps: list[App] = []


@on_all
async def test_activities_may_open_one_and_workflows_may_not(database: str) -> None:
    async with App(database) as app:
        apps.append(app)
        started = await (await app.start(by_activity)).result()
        assert await app.handle(started).result() == 10
        handle = await app.start(in_workflow)
        with pytest.raises(RomancyError, match=r"app\.transaction is called in workflow code"):
            await handle.result()
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.STUCK
        assert instance.error is not None
        assert NonDeterminismError.__name__ in instance.error.error_type
        with pytest.raises(RomancyError, match="not running"):
            async with App(database).transaction():
                pass
